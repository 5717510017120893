"""Proving that a written file holds what its source holds, by other means than those that wrote it.

The file is opened twice: by the ``safetensors`` library, in a process of its own, for names, element types, shapes and
metadata; and by modelhub's own reader, whose offsets then say which bytes of the file are compared, all of them, with
which bytes of the source.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from modelhub import termination
from modelhub.container.safetensors import read_safetensors
from modelhub.convert.background import Background, Stopped
from modelhub.convert.base import ConversionPlan, OutputFile, Piece, PlainFile, PlannedTensor, inside
from modelhub.convert.element import element_offsets, is_element
from modelhub.convert.stream import BLOCK, lies_in_files, lies_ready, runs, stream
from modelhub.errors import ModelHubError, VerificationFailed
from modelhub.source import Source, open_local
from modelhub.tensors import TensorInfo

Progress = Callable[[int], None]

_SPOT_CHECKS = 16
"""Elements of each tensor that is no copy; more take longer than reading the tensor does."""

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


class Mark(NamedTuple):
    """Some bytes of a tensor that were computed: where they lie in it, how many they are, and their CRC-32."""

    offset: int
    nbytes: int
    crc: int


Marks = Mapping[tuple[str, str], tuple[Mark, ...]]
"""The marks of tensors that are no copies, by output file and name."""


def verify(plan: ConversionPlan, path: str, *, progress: Progress | None = None, marks: Marks | None = None) -> None:
    """Compare the file or folder *path* with *plan* and, byte for byte, with its sources.

    Tensors that have *marks* are compared with those. *progress* is told bytes of tensors as they are compared. Raises
    :class:`VerificationFailed` naming what differs.
    """
    for output in plan.outputs:
        _verify_output(plan.source, output, inside(path, output.path), progress, marks or {})
    for plain in plan.plain:
        _verify_plain(plan.source, plain, inside(path, plain.path))


def _verify_output(name: str, output: OutputFile, path: str, progress: Progress | None, marks: Marks) -> None:
    with Background(lambda stopped: _compare_bytes(name, output, path, progress, marks, stopped=stopped)) as comparing:
        _open_with_library(name, output, path)  # by a process that has to start
        comparing.result()


def _compare_bytes(
    name: str, output: OutputFile, path: str, progress: Progress | None, marks: Marks, *, stopped: Stopped
) -> None:
    with open_local(path) as written:
        container = read_safetensors(written)
        if container.anomalies or container.state_dict is None:
            reason = container.anomalies[0].message if container.anomalies else "it has no tensors"
            raise VerificationFailed(f"{name}: the written file cannot be read back: {reason}")
        found = container.state_dict
        headers = {key: (tensor.dtype.label, tensor.shape) for key, tensor in found.items()}
        _compare_headers(name, output, headers, found.metadata, "modelhub")

        def different(following: Iterator[PlannedTensor], ended: Stopped) -> PlannedTensor | None:
            """The first of *following*, from which another thread takes too, that is not in the file as it should."""
            compare = _Comparison(written, tell)
            for planned in following:
                if stopped.is_set() or ended.is_set():
                    break
                marked = marks.get((output.path, planned.name))
                copy = found[planned.name]
                if not (compare.equal(planned, copy) if marked is None else compare.as_marked(copy, marked)):
                    return planned
            return None

        tell = _one_at_a_time(progress) if progress is not None else None
        both = iter([each for each in output.tensors if lies_in_files(each)])
        alone = [each for each in output.tensors if not lies_in_files(each)]
        with Background(lambda ended: different(both, ended)) as other:
            first = different(chain(alone, both), stopped)
            found_different = first or other.result()
        if found_different is not None:
            raise VerificationFailed(f"{name}: the bytes of tensor {found_different.name!r:.100} differ in the copy")


def _one_at_a_time(progress: Progress) -> Progress:
    lock = threading.Lock()

    def tell(count: int) -> None:
        with lock:
            progress(count)

    return tell


def holds(path: str, plan: ConversionPlan) -> bool:
    """Whether the file or folder *path* is, byte for byte, what *plan* would write; first by what is quickly said."""
    try:
        for output in plan.outputs:
            with open(inside(path, output.path), "rb") as file:
                if os.fstat(file.fileno()).st_size != output.size or file.read(len(output.header)) != output.header:
                    return False
        verify(plan, path)
    except (OSError, ModelHubError):
        return False
    return True


def differences(plan: ConversionPlan, path: str, *, progress: Progress | None = None) -> Iterator[str]:
    """Each way in which the tensors in the file or folder *path* are not those of *plan*, as a sentence.

    Their order, and the metadata, may be others. Every byte of every tensor that both have is compared. A name that the
    metadata maps to a tensor's is one more of that tensor, as ``safetensors.torch.save_model`` and ``--dedupe-shared``
    write it.
    """
    for output in plan.outputs:
        where = inside(path, output.path)
        if not os.path.lexists(where):
            yield f"{where}: it is not there"
            continue
        with open_local(where) as written:
            found = read_safetensors(written)
            if found.state_dict is None or found.anomalies:
                yield f"{where}: {found.anomalies[0].message}"
                continue
            compare = _Comparison(written, progress)
            for planned in output.tensors:
                tensors = found.state_dict
                copy = tensors.get(planned.name) or tensors.get(tensors.metadata.get(planned.name, ""))
                if copy is None:
                    yield f"{where}: tensor {planned.name!r:.100} is not there"
                elif (copy.dtype, copy.shape) != (planned.dtype, planned.shape):
                    ours, theirs = (f"{t.dtype.label} {list(t.shape)}" for t in (copy, planned))
                    yield f"{where}: tensor {planned.name!r:.100} is {ours}, in the source {theirs}"
                elif not compare.equal(planned, copy):
                    yield f"{where}: the bytes of tensor {planned.name!r:.100} are not those in the source"
            for name in found.state_dict.keys() - {planned.name for planned in output.tensors}:
                yield f"{where}: tensor {name!r:.100} is not in the source"


def _verify_plain(name: str, plain: PlainFile, path: str) -> None:
    with open_local(path) as written:
        same = written.size == plain.source.size
        for offset in range(0, written.size if same else 0, BLOCK):
            same = same and written.read_at(offset, BLOCK) == plain.source.read_at(offset, BLOCK)
    if not same:
        raise VerificationFailed(f"{name}: the file {plain.path} differs in the copy")


def _open_with_library(name: str, output: OutputFile, path: str) -> None:
    import subprocess

    command = [sys.executable, "-I", "-c", _LIBRARY, path, json.dumps([p for p in sys.path if p])]
    done = termination.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise VerificationFailed(f"{name}: the safetensors library does not open the copy: {lines[-1]:.300}")
    tensors, metadata = json.loads(done.stdout)
    headers = {key: (label, tuple(shape)) for key, (label, shape) in tensors.items()}
    _compare_headers(name, output, headers, metadata, "safetensors")


def _compare_headers(
    name: str,
    output: OutputFile,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    metadata: Mapping[str, str] | None,
    reader: str,
) -> None:
    expected = {planned.name: (planned.dtype.label, planned.shape) for planned in output.tensors}
    if tensors != expected or (metadata or {}) != output.metadata:
        odd = [key for key in expected.keys() | tensors.keys() if expected.get(key) != tensors.get(key)]
        what = f"tensor {min(odd)!r:.100}" if odd else "the metadata"
        raise VerificationFailed(f"{name}: {reader} reads {what} of the copy differently from the source")


class _Comparison:
    """Byte-wise comparison of planned tensors with the tensors in *written*, with two blocks of memory."""

    def __init__(self, written: Source, progress: Progress | None) -> None:
        self._written = written
        self._progress = progress
        self._ours = bytearray(BLOCK)
        self._theirs = bytearray(BLOCK)

    def equal(self, planned: PlannedTensor, copy: TensorInfo) -> bool:
        """Whether *copy*, contiguous in the written file, has the values of *planned*."""
        as_they_lie = runs(planned)
        if as_they_lie is not None:
            return all(
                self._equal_run(run.source, run.start, copy.start + run.offset, run.nbytes) for run in as_they_lie
            )
        return self._equal_elements(planned, copy) and self._equal_stream(planned, copy)

    def as_marked(self, copy: TensorInfo, marks: tuple[Mark, ...]) -> bool:
        """Whether the bytes of *copy* are those that *marks* were made of, where they were made."""
        for mark in marks:
            data = self._written.read_at(copy.start + mark.offset, mark.nbytes)
            if len(data) != mark.nbytes or zlib.crc32(data) != mark.crc:
                return False
        self._tell(copy.nbytes)
        return True

    def _equal_run(self, source: Source, theirs: int, ours: int, length: int) -> bool:
        for offset in range(0, length, BLOCK):
            size = min(BLOCK, length - offset)
            left, right = memoryview(self._theirs)[:size], memoryview(self._ours)[:size]
            if source.readinto_at(theirs + offset, left) != size:
                return False
            if self._written.readinto_at(ours + offset, right) != size:
                return False
            # whole buffers compare without a copy; memoryviews would compare byte by byte
            same = self._theirs == self._ours if size == BLOCK else bytes(left) == bytes(right)
            if not same:
                return False
            self._tell(size)
        return True

    def _equal_stream(self, planned: PlannedTensor, copy: TensorInfo) -> bool:
        for offset, data in stream(planned):
            if self._written.read_at(copy.start + offset, len(data)) != bytes(data):  # a memoryview compares slowly
                return False
            self._tell(len(data))
        return True

    def _equal_elements(self, planned: PlannedTensor, copy: TensorInfo) -> bool:
        """Some elements one by one: should the stream be wrong, it would be wrong alike in copy and comparison."""
        begin = copy.start
        for piece in planned.pieces:
            if not lies_ready(piece.tensor, planned.dtype) and not self._equal_piece(piece, planned, begin):
                return False
            begin += piece.tensor.numel * planned.dtype.bits // 8
        return True

    def _equal_piece(self, piece: Piece, planned: PlannedTensor, begin: int) -> bool:
        width = planned.dtype.itemsize
        for index, start in element_offsets(piece.tensor, _SPOT_CHECKS):
            stored = piece.source.read_at(start, piece.tensor.dtype.itemsize)
            written = self._written.read_at(begin + index * width, width)
            if not is_element(written, stored, piece.tensor, planned.dtype):
                return False
        return True

    def _tell(self, count: int) -> None:
        if self._progress is not None:
            self._progress(count)
