"""A folder that a conversion writes appears whole, or not at all."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from modelhub.convert.arrange import output_file
from modelhub.convert.base import Assembly, ConversionPlan, Piece, PlainFile
from modelhub.convert.execute import execute
from modelhub.convert.part_folder import PartFolder
from modelhub.errors import NoSpace, VerificationFailed, WouldOverwrite
from modelhub.source import BytesSource
from modelhub.tensors import DType, StorageRef, TensorInfo

DATA = bytes(range(64))


@pytest.fixture
def plan() -> ConversionPlan:
    """Two model files and a configuration."""
    source = BytesSource("m.ckpt", DATA)
    made = {
        name: Assembly(DType.U8, (32,), (Piece(source, TensorInfo(name, DType.U8, (32,), StorageRef("0", at, 32))),))
        for name, at in (("a", 0), ("b", 32))
    }
    outputs = tuple(output_file(f"{n}/model.safetensors", {n: made[n]}, {"format": "pt"}) for n in made)
    return ConversionPlan("m.ckpt", outputs, (PlainFile("a/config.json", BytesSource("config.json", b"{}")),))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_everything_planned_is_there_and_nothing_else(plan, tmp_path):
    """Model files and plain files lie where the plan says, and no part folder is left."""
    written = []
    done = execute(plan, tmp_path / "out", progress=written.append)
    assert files(tmp_path) == {"out/a/model.safetensors", "out/b/model.safetensors", "out/a/config.json"}
    assert (tmp_path / "out/b/model.safetensors").read_bytes() == plan.outputs[1].header + DATA[32:]
    assert (tmp_path / "out/a/config.json").read_bytes() == b"{}"
    assert sum(written) == done.size == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_with_something_in_it_is_never_replaced(plan, tmp_path, force):
    """Not even with force: it may hold anything. An empty one will do."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(WouldOverwrite, match="exists already") as caught:
        execute(plan, out, force=force)
    assert "new folder" in caught.value.hint
    (out / "mine").unlink()
    execute(plan, out, force=force)
    assert len(files(out)) == 3


def test_a_folder_that_appears_meanwhile_is_kept(plan, tmp_path):
    """What another process puts under the target's name during the conversion stays."""
    out = tmp_path / "out"

    def appear(_count: int) -> None:
        out.mkdir(exist_ok=True)
        (out / "theirs").touch()

    with pytest.raises(WouldOverwrite):
        execute(plan, out, on_verify=appear)
    assert files(tmp_path) == {"out/theirs"}


def test_a_wrong_copy_leaves_nothing(plan, tmp_path):
    """A file that differs from its source, a plain one too, and the whole folder is gone."""

    def spoil(_count: int) -> None:
        for config in tmp_path.rglob("config.json"):
            config.write_bytes(b"[]")

    with pytest.raises(VerificationFailed, match=r"a/config\.json differs"):
        execute(plan, tmp_path / "out", on_verify=spoil)
    assert os.listdir(tmp_path) == []


def test_an_interruption_leaves_nothing(plan, tmp_path):
    """Ctrl-C removes everything that was written."""

    def interrupt(_count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(plan, tmp_path / "out", on_verify=interrupt)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_writer_left_is_removed_by_the_next(plan, tmp_path):
    """A part folder that nobody locks is removed; one that is being written, and other names, are left alone."""
    pid = os.fork()
    if pid == 0:
        PartFolder(str(tmp_path / "out"), 1).__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".out.modelhub-")
    (tmp_path / ".other.modelhub-1-00000000.parts").mkdir()
    with PartFolder(str(tmp_path / "out"), 1) as running:
        execute(plan, tmp_path / "out")
        assert {p.name for p in tmp_path.iterdir()} == {
            "out",
            ".other.modelhub-1-00000000.parts",
            os.path.basename(running.path),
        }


def test_a_full_disk_is_noticed_before_the_copy(tmp_path):
    """Nothing is written where all of it would not fit."""
    with pytest.raises(NoSpace), PartFolder(str(tmp_path / "out"), 1 << 60):
        pass
    assert os.listdir(tmp_path) == []
