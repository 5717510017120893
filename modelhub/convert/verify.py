"""Proving that a written file holds what its source holds, by other means than those that wrote it.

The file is opened twice: by the ``safetensors`` library, in a process of its own, for names, element types, shapes and
metadata; and by modelhub's own reader, whose offsets then say which bytes of the file are compared, all of them, with
which bytes of the source.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping

from modelhub.container.safetensors import read_safetensors
from modelhub.convert.base import ConversionPlan
from modelhub.convert.gather import element_offsets, gather, needs_gathering
from modelhub.errors import VerificationFailed
from modelhub.source import Source, open_local
from modelhub.tensors import TensorInfo

BLOCK = 1 << 20
"""Bytes read at a time: from 256 KiB to 1 MiB is the plateau, 4 MiB and more are slower."""

_SPOT_CHECKS = 256

_LIBRARY = """
import json, sys, types
sys.path[:] = json.loads(sys.argv[2])
# The library imports numpy to open a file, though only reading tensors would use it; numpy need not be installed.
sys.modules["numpy"] = types.ModuleType("numpy")
import safetensors
with safetensors.safe_open(sys.argv[1], framework="np") as file:
    slices = {name: file.get_slice(name) for name in file.keys()}
    tensors = {name: [s.get_dtype(), list(s.get_shape())] for name, s in slices.items()}
    print(json.dumps([tensors, file.metadata()]))
"""


def verify(plan: ConversionPlan, source: Source, path: str, *, progress: Callable[[int], None] | None = None) -> None:
    """Compare the file *path* with *plan* and, byte for byte, with *source*.

    *progress* is told bytes of the file as they are compared. Raises :class:`VerificationFailed` naming what differs.
    """
    _open_with_library(plan, path)
    with open_local(path) as written:
        container = read_safetensors(written)
        if container.anomalies or container.state_dict is None:
            reason = container.anomalies[0].message if container.anomalies else "it has no tensors"
            raise VerificationFailed(f"{plan.source}: the written file cannot be read back: {reason}")
        found = container.state_dict
        _compare_headers(plan, {k: (t.dtype.label, t.shape) for k, t in found.items()}, found.metadata, "modelhub")
        compare = _Comparison(source, written, progress)
        for planned in plan.tensors:
            if not compare.equal(planned.source, found[planned.name]):
                raise VerificationFailed(f"{plan.source}: the bytes of tensor {planned.name!r:.100} differ in the copy")


def _open_with_library(plan: ConversionPlan, path: str) -> None:
    import subprocess

    command = [sys.executable, "-I", "-c", _LIBRARY, path, json.dumps([p for p in sys.path if p])]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise VerificationFailed(f"{plan.source}: the safetensors library does not open the copy: {lines[-1]:.300}")
    tensors, metadata = json.loads(done.stdout)
    _compare_headers(plan, {k: (label, tuple(shape)) for k, (label, shape) in tensors.items()}, metadata, "safetensors")


def _compare_headers(
    plan: ConversionPlan,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    metadata: Mapping[str, str] | None,
    reader: str,
) -> None:
    expected = {p.name: (p.source.dtype.label, p.source.shape) for p in plan.tensors}
    if tensors != expected or (metadata or {}) != plan.metadata:
        odd = [name for name in expected.keys() | tensors.keys() if expected.get(name) != tensors.get(name)]
        what = f"tensor {min(odd)!r:.100}" if odd else "the metadata"
        raise VerificationFailed(f"{plan.source}: {reader} reads {what} of the copy differently from the source")


class _Comparison:
    """Byte-wise comparison of tensors in *source* with tensors in *written*, with two blocks of memory."""

    def __init__(self, source: Source, written: Source, progress: Callable[[int], None] | None) -> None:
        self._source = source
        self._written = written
        self._progress = progress
        self._ours = bytearray(BLOCK)
        self._theirs = bytearray(BLOCK)

    def equal(self, original: TensorInfo, copy: TensorInfo) -> bool:
        """Whether *copy*, contiguous in the written file, has the values of *original*."""
        if not needs_gathering(original):
            return self._equal_runs(original.start, copy.start, original.nbytes)
        return self._equal_elements(original, copy) and self._equal_pieces(original, copy)

    def _equal_runs(self, theirs: int, ours: int, length: int) -> bool:
        for offset in range(0, length, BLOCK):
            size = min(BLOCK, length - offset)
            left, right = memoryview(self._theirs)[:size], memoryview(self._ours)[:size]
            if self._source.readinto_at(theirs + offset, left) != size:
                return False
            if self._written.readinto_at(ours + offset, right) != size:
                return False
            # whole buffers compare without a copy; memoryviews would compare byte by byte
            same = self._theirs == self._ours if size == BLOCK else bytes(left) == bytes(right)
            if not same:
                return False
            if self._progress is not None:
                self._progress(size)
        return True

    def _equal_pieces(self, original: TensorInfo, copy: TensorInfo) -> bool:
        for offset, piece in gather(original, self._source):
            if self._written.read_at(copy.start + offset, len(piece)) != piece:
                return False
            if self._progress is not None:
                self._progress(len(piece))
        return True

    def _equal_elements(self, original: TensorInfo, copy: TensorInfo) -> bool:
        """Some elements one by one: should the gathering be wrong, it would be wrong alike in copy and comparison."""
        width = original.dtype.itemsize
        unit = width // 2 if original.dtype.is_complex else width
        for index, start in element_offsets(original, _SPOT_CHECKS):
            element = self._source.read_at(start, width)
            if original.storage.byteorder == "big":
                element = b"".join(element[i : i + unit][::-1] for i in range(0, width, unit))
            if element != self._written.read_at(copy.start + index * width, width):
                return False
        return True
