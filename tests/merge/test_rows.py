"""Every algorithm on rows of a fused matrix, and on a fused module whose rows lie in several tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from modelhub.merge import merge
from tests.merge import reference
from tests.merge.build import Weights, as_stored, assert_merged, assert_same, leaf, load, random, write_adapter
from tests.merge.test_adapters import REFERENCE

HIDDEN, ALPHA = 32, 1.5
NATIVE = "double_blocks.0.img_attn.qkv"
PARTS = tuple(f"transformer_blocks.0.attn.to_{each}" for each in "qkv")
BESIDE = {"single_transformer_blocks.0.attn.to_q.weight": (HIDDEN, HIDDEN), "x_embedder.weight": (HIDDEN, 16)}


def arrays(algorithm: str, out: int) -> dict[str, np.ndarray]:
    """The tensors of a module of *out* outputs, by role."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "lora": {"up": (out, 4), "down": (4, HIDDEN)},
        "loha": {"w1_a": (out, 4), "w1_b": (4, HIDDEN), "w2_a": (out, 4), "w2_b": (4, HIDDEN)},
        "lokr": {"w1": (4, 4), "w2_a": (out // 4, 3), "w2_b": (3, HIDDEN // 4)},
        "full": {"diff": (out, HIDDEN)},
        "set": {"set": (out, HIDDEN)},
        "ia3": {"weight": (out,)},
        "oft": {"blocks": (out // 4, 4, 4)},
        "boft": {"blocks": (2, out // 4, 4, 4)},
        "glora": {"a1": (HIDDEN, 4), "a2": (4, HIDDEN), "b1": (out, 4), "b2": (4, HIDDEN)},
    }
    made = {role: random(*shape, seed=seed) for seed, (role, shape) in enumerate(shapes[algorithm].items())}
    return {**made, "on_input": np.array(0.0)} if algorithm == "ia3" else made


def module(
    name: str, algorithm: str, out: int, axis: int | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float | None]:
    """A module's tensors by name, as the reference takes them by role, and its alpha."""
    kind, roles = {"boft": "oft"}.get(algorithm, algorithm), arrays(algorithm, out)
    alpha = None if algorithm in ("full", "set", "ia3") else ALPHA
    tensors = {f"{name}.{leaf(kind, role)}": array for role, array in roles.items()}
    if alpha is not None:
        tensors[f"{name}.alpha"] = np.array(alpha)
    if axis is not None:
        tensors[f"{name}.dora_scale"] = np.abs(random(*((out, 1), (1, HIDDEN))[axis], seed=9)) + 5
    return tensors, {role: as_stored(array) for role, array in roles.items()}, alpha


def expected(algorithm: str, before: np.ndarray, axis: int | None, s: float) -> np.ndarray:
    tensors, roles, alpha = module("x", algorithm, len(before), axis)
    formula = REFERENCE[{"boft": "oft"}.get(algorithm, algorithm)]
    if axis is None:
        return formula(before, roles, alpha, s)
    return reference.dora(before, formula(before, roles, alpha, 1.0), as_stored(tensors["x.dora_scale"]), axis, s)


ALGORITHMS = [
    *((each, None) for each in ("lora", "loha", "lokr", "full", "set", "ia3", "oft", "boft", "glora")),
    *((each, axis) for each in ("lora", "loha", "lokr") for axis in (0, 1)),
]


@pytest.fixture
def weights() -> Weights:
    generator = torch.Generator().manual_seed(0)
    return {
        f"{NATIVE}.weight": torch.randn(3 * HIDDEN, HIDDEN, generator=generator),
        "img_in.weight": torch.ones(32, 16),
    }


@pytest.mark.parametrize(("algorithm", "axis"), ALGORITHMS)
def test_rows_of_a_fused_matrix(weights: Weights, tmp_path: Path, algorithm: str, axis: int | None) -> None:
    """diffusers' key and value of FLUX change their rows of the checkpoint's matrix, and no others."""
    save_file(weights, tmp_path / "base.safetensors")
    made = [module(f"transformer.{part}", algorithm, HIDDEN, axis)[0] for part in PARTS[1:]]
    adapter = write_adapter(tmp_path / "a.safetensors", {**made[0], **made[1]})
    before = weights[f"{NATIVE}.weight"].double().numpy()
    for s in (-1.0, 0.0, 0.5, 1.0):
        merge(tmp_path / "base.safetensors", [f"{adapter}:{s}"], target=tmp_path / f"{s}.safetensors")
        found = load(tmp_path / f"{s}.safetensors")
        assert_same(found, weights, {f"{NATIVE}.weight"} if s else set())
        rows = [before[:HIDDEN], *(expected(algorithm, before[n : n + HIDDEN], axis, s) for n in (HIDDEN, 2 * HIDDEN))]
        assert_merged(found[f"{NATIVE}.weight"], np.concatenate(rows), weights[f"{NATIVE}.weight"])
        assert torch.equal(found[f"{NATIVE}.weight"][:HIDDEN], weights[f"{NATIVE}.weight"][:HIDDEN])


@pytest.mark.parametrize(("algorithm", "axis"), [(a, n) for a, n in ALGORITHMS if "oft" not in a and n != 1])
def test_a_fused_module_in_a_folder(weights: Weights, tmp_path: Path, algorithm: str, axis: int | None) -> None:
    """FLUX's own ``qkv`` changes the three matrices of a diffusers folder, each by its rows."""
    folder = tmp_path / "folder"
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    fused = weights[f"{NATIVE}.weight"]
    apart: Weights = {f"{part}.weight": rows.clone() for part, rows in zip(PARTS, fused.chunk(3), strict=True)}
    apart |= {name: torch.ones(shape) for name, shape in BESIDE.items()}
    save_file(apart, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    tensors, *_ = module(f"lora_unet_{NATIVE.replace('.', '_')}", algorithm, 3 * HIDDEN, axis)
    adapter = write_adapter(tmp_path / "a.safetensors", tensors)
    for s in (-1.0, 0.0, 0.5, 1.0):
        merge(folder, [f"{adapter}:{s}"], target=tmp_path / f"{s}")
        found = load(tmp_path / f"{s}" / "transformer" / "diffusion_pytorch_model.safetensors")
        assert_same(found, apart, {f"{part}.weight" for part in PARTS} if s else set())
        exact = expected(algorithm, fused.double().numpy(), axis, s)
        assert_merged(torch.cat([found[f"{part}.weight"] for part in PARTS]), exact, fused)
