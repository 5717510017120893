"""Merges that do not come to their end: interrupted, or without room."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

import modelhub
from modelhub.blend import blend
from modelhub.errors import ChangedDuringRead, NoSpace
from modelhub.merge import merge
from tests.merge.build import base_weights, random, write_adapter

resource = pytest.importorskip("resource")

Work = Callable[[Path, Callable[[int], None] | None], object]
NAME = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


READ = {"merge": ("base", "lora"), "blend": ("base", "tuned"), "extract": ("base", "tuned"), "resize": ("lora",)}
"""What makes a model of others, and which."""


@pytest.fixture(params=list(READ))
def work(request: pytest.FixtureRequest, tmp_path: Path) -> Work:
    """Each of what makes a model of others, by its target and what is told its progress."""
    weights = base_weights("sd-1")
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    save_file(weights, base)
    save_file({name: tensor * 1.5 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}, tuned)
    rows, columns = weights[NAME].shape
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{stem}.lora_up.weight": random(rows, 4), f"{stem}.lora_down.weight": random(4, columns, seed=1)}
    lora = write_adapter(tmp_path / "lora.safetensors", tensors)
    works: dict[str, Work] = {
        "merge": lambda target, told: merge(base, [str(lora)], target=target, progress=told),
        "blend": lambda target, told: blend([base, tuned], target=target, progress=told),
        "extract": lambda target, told: modelhub.extract(tuned, base, target=target, progress=told),
        "resize": lambda target, told: modelhub.resize(lora, modelhub.RankRule(1), target=target, progress=told),
    }
    return works[request.param]


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_interrupted_work_leaves_nothing(work: Work, tmp_path: Path) -> None:
    """Ctrl-C in the middle ends the work, and neither the target nor anything hidden is there."""
    before = left(tmp_path)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work(tmp_path / "out.safetensors", lambda _: os.kill(os.getpid(), signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert left(tmp_path) == before


@pytest.mark.parametrize(
    ("work", "name"),
    [(work, name) for work, names in READ.items() for name in names],
    indirect=["work"],
)
def test_files_that_change_meanwhile_are_noticed(work: Work, tmp_path: Path, name: str) -> None:
    """Where a file that something is made of is written to while it is read, nothing is made of it."""
    before = left(tmp_path)
    path = tmp_path / f"{name}.safetensors"

    def touch(_: int) -> None:
        with path.open("r+b") as file:
            file.seek(-4, os.SEEK_END)  # the last places of a number, which make no difference that is seen
            file.write(b"x")

    with pytest.raises(ChangedDuringRead, match=rf"{name}\.safetensors"):
        work(tmp_path / "out.safetensors", touch)
    assert left(tmp_path) == before


def test_a_full_disk_is_a_sentence(work: Work, tmp_path: Path) -> None:
    """Where the target does not fit, the error says so, and neither it nor anything hidden is there."""
    before = left(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(NoSpace, match=r"out\.safetensors"):
            work(tmp_path / "out.safetensors", None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert left(tmp_path) == before
