"""A conversion that is killed at any moment leaves a whole target or none, and a source that is as it was.

``make kill`` runs two hundred rounds; a handful are run every time. The moments are random, and a failing round says
which it was.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhub.convert import ConversionOptions, convert, dtype_rule
from modelhub.convert.recheck import recheck

ROOT = Path(__file__).parents[2]

CHILD = """
import json, os, sys
from modelhub import scan, cli
from modelhub.convert import ConversionOptions, convert, dtype_rule, execute, receipt, content, part_folder, casts
import modelhub.container.torch_zip, modelhub.scan, modelhub.container.safetensors, modelhub.identify, subprocess
how = json.loads(sys.argv[1])
changes = {key: how.pop(key) for key in ("dtypes", "max_shard_size") if key in how}
if "dtypes" in changes:
    changes["dtypes"] = tuple(map(dtype_rule, changes["dtypes"]))
os.write(1, b"!")
convert(*sys.argv[2:], options=ConversionOptions(**changes), **how)
"""

UNFINISHED = ".modelhub-"
"""What stands in the names of part files."""

Bytes = dict[str, bytes]


class Killing:
    """One way of converting, and how long it takes from the moment at which everything is loaded."""

    def __init__(self, folder: Path, files: Bytes, how: dict[str, object], paths: tuple[str, ...]) -> None:
        self.folder = folder
        self.files = files
        self.command = [sys.executable, "-c", CHILD, json.dumps(how), *paths]
        self.lay_out()
        started = self.start()
        begin = time.monotonic()
        assert started.wait() == 0
        self.seconds = time.monotonic() - begin
        self.made = self.listing()

    def lay_out(self, *, keep: str | None = None) -> None:
        """The folder as it is before a conversion, but for what there is with *keep* in its path."""
        self.folder.mkdir(exist_ok=True)
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if keep is None or keep not in str(path):
                path.rmdir() if path.is_dir() else path.unlink()
        for name, data in self.files.items():
            (self.folder / name).write_bytes(data)

    def start(self) -> subprocess.Popen[bytes]:
        """A child that has loaded everything and is about to begin."""
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        child = subprocess.Popen(self.command, cwd=self.folder, stdout=subprocess.PIPE, env=env)
        assert child.stdout is not None
        assert child.stdout.read(1) == b"!"
        child.stdout.close()
        return child

    def listing(self) -> Bytes:
        """Every file below the folder that is not somebody's unfinished work, with its bytes."""
        found = {str(path.relative_to(self.folder)): path for path in self.folder.rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in found.items() if UNFINISHED not in name}

    def round(self, seed: int, is_sound: Callable[[Bytes, Bytes, Bytes], bool]) -> bool:
        """Kill a conversion at a moment that *seed* gives; whether it came before the end."""
        self.lay_out()
        moment = random.Random(seed).uniform(0, 1.2 * self.seconds)
        child = self.start()
        time.sleep(moment)
        child.kill()
        code = child.wait()
        assert code in (0, -9), (seed, code)
        left = self.listing()
        assert is_sound(self.files, left, self.made), (seed, moment, sorted(left))
        return code != 0

    def finish(self) -> None:
        """Run once more, over the part files that the last kill left: the result is whole, and nothing else is left."""
        self.lay_out(keep=UNFINISHED)
        assert self.start().wait() == 0
        assert self.listing() == self.made
        assert not [name for name in os.listdir(self.folder) if UNFINISHED in name]


def new_target(before: Bytes, left: Bytes, made: Bytes) -> bool:
    """Sources are there as they were; of the target there is all or nothing."""
    return all(left.get(name) == data for name, data in before.items()) and left.items() <= made.items()


def whole_folder(before: Bytes, left: Bytes, made: Bytes) -> bool:
    """The same, of several files: all of them or none."""
    return new_target(before, left, made) and left in (before, made)


def old_or_new(before: Bytes, left: Bytes, made: Bytes) -> bool:
    """Every file is as it was or as it is made, and none is missing."""
    return left.keys() >= before.keys() and all(left[name] in (before.get(name), made[name]) for name in left)


def source_until_target(before: Bytes, left: Bytes, made: Bytes) -> bool:
    """The source is there, or the target is, whole."""
    source, target = left.get("m.ckpt"), left.get("m.safetensors")
    return source in (None, before["m.ckpt"]) and target in (None, made["m.safetensors"]) and bool(source or target)


WAYS: dict[str, tuple[dict[str, object], Callable[[Bytes, Bytes, Bytes], bool]]] = {
    "new": ({}, new_target),
    "receipt": ({"receipt": True}, new_target),
    "replaced": ({"force": True}, old_or_new),
    "in place": ({"in_place": True, "dtypes": ["fp32"]}, old_or_new),
    "source deleted": ({"delete_source": True}, source_until_target),
    "folder": ({"max_shard_size": 2_000_000}, whole_folder),
}


def killing(way: str, checkpoint: Path, tmp_path: Path) -> Killing:
    how, _ = WAYS[way]
    folder = tmp_path / "work"
    files = {"m.ckpt": checkpoint.read_bytes()}
    paths = ["m.ckpt", "out" if way == "folder" else "m.safetensors"]
    if way == "replaced":
        files["m.safetensors"] = b"old"
    if way == "in place":
        convert(checkpoint, tmp_path / "m.safetensors")
        files, paths = {"m.safetensors": (tmp_path / "m.safetensors").read_bytes()}, ["m.safetensors"]
    return Killing(folder, files, how, tuple(paths))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL is POSIX's")
@pytest.mark.parametrize("way", WAYS)
def test_killed(way, checkpoint, tmp_path):
    """Killed at some moment, the target is whole or absent and the source as it was; the next run cleans up."""
    work = killing(way, checkpoint, tmp_path)
    work.round(random.randrange(1 << 32), WAYS[way][1])
    work.finish()


@pytest.mark.kill
@pytest.mark.parametrize("way", WAYS)
def test_killed_again_and_again(way, checkpoint, tmp_path):
    """Two hundred kills over all ways of converting, at moments of every part of the work."""
    work = killing(way, checkpoint, tmp_path)
    begin = random.randrange(1 << 32)
    early = sum(work.round(begin + number, WAYS[way][1]) for number in range(34))
    assert early > 10
    work.finish()


def test_a_receipt_that_is_there_is_of_the_target_beside_it(checkpoint, tmp_path):
    """The receipt is written after the target: what a kill leaves between the two is a target without one."""
    target = tmp_path / "m.safetensors"
    convert(checkpoint, target, receipt=True)
    assert recheck(target, checkpoint).differences == ()
    changed = ConversionOptions((dtype_rule("fp32"),))
    convert(checkpoint, target, options=changed, receipt=True, force=True)
    assert recheck(target, checkpoint).differences == ()
