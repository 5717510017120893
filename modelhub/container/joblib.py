"""joblib's files: a pickle that is interrupted, after each array's wrapper, by the array's bytes.

joblib reads an array when BUILD gives a ``NumpyArrayWrapper`` its state: one byte of padding's length, the padding, and
the elements, whose number and size the state tells; or, for an array of objects, another pickle (joblib 1.6,
``numpy_pickle.py``). Here the arrays' bytes are passed over in place, so that every offset remains that of the file.
"""

from __future__ import annotations

import re
import struct

from modelhub.anomalies import Anomaly
from modelhub.container.base import PickleProgram, Skipped
from modelhub.container.nesting import Nesting
from modelhub.container.programs import Programs, read_programs
from modelhub.pickles import Build, Call, Dict, Global, Value, trace_pickle
from modelhub.source import Source

_MAX_ARRAYS = 1000
_MAX_FOLLOWED = 4 << 20
_MAX_PADDING = 0x27  # no opcode is that small, so no unpickler but joblib's goes on into the array's bytes
_ELEMENT = re.compile(r"(?P<kind>[biufcSUmM])(?P<size>[0-9]{1,9})")


def read_joblib(source: Source, nesting: Nesting) -> Programs:
    """The programs of a joblib file: the pickle with its arrays passed over, and the pickles of its object arrays.

    Where a plain unpickler would go on into an array's bytes, the program that it would see comes last. An array whose
    bytes cannot be told apart from what follows them is the anomaly ``joblib.array``.
    """
    passed = _Passing(source)
    inner: list[Programs] = []
    seen: set[int] = set()
    followed = 0
    ambiguous = False
    while True:
        trace = trace_pickle(passed, 0)
        followed += trace.end - sum(length for _, length in passed.spans)
        build = next((each for each in trace.builds if each.offset not in seen and _is_wrapper(each.target)), None)
        if build is None or len(seen) >= _MAX_ARRAYS or followed > _MAX_FOLLOWED:
            break
        seen.add(build.offset)
        start = build.offset + 1
        length = _array_length(source, start, build)
        if length is None and _is_of_objects(build):
            found = read_programs(source, start, source.size, f"array@{start}", "other", nesting=nesting)
            length = found.first.end - start if found.first.stopped else None
            # what follows the array's pickle belongs to the one around it
            inner.append(Programs(found.programs[:1]))
            ambiguous = True
        elif _alignment(build) is None:
            ambiguous = True
        if length is None or length < 2 or start + length > source.size:
            break
        passed.over(start, length)
    outer = read_programs(passed, 0, source.size, nesting=nesting)
    plain = (PickleProgram(trace_pickle(source, 0), None, "other"),) if ambiguous else ()
    nested = tuple(program for found in inner for program in found.programs)
    programs = (*outer.programs, *nested, *plain)
    if build is None and not any(map(_is_given_wrapper, trace.calls)):
        return Programs(programs, outer.anomalies, outer.skipped)
    message = "it cannot be told where an array's bytes end and the pickle goes on"
    odd = Anomaly("joblib.array", message, offset=None if build is None else build.offset)
    return Programs(programs, (*outer.anomalies, odd), (*outer.skipped, Skipped(message)))


class _Passing:
    """A file in which runs of bytes read as a literal that is dropped, which no pickle takes notice of."""

    def __init__(self, around: Source) -> None:
        self.name = around.name
        self.size = around.size
        self.spans: list[tuple[int, int]] = []
        self._around = around
        self._patches: list[tuple[int, bytes]] = []

    def over(self, start: int, length: int) -> None:
        """Pass over the *length* bytes at *start*, at least two."""
        self.spans.append((start, length))
        if length == 2:
            self._patches.append((start, b"N0"))
            return
        if length < 259:
            head = b"C" + struct.pack("<B", length - 3)
        elif length < 1 << 32:
            head = b"B" + struct.pack("<I", length - 6)
        else:
            head = b"\x8e" + struct.pack("<Q", length - 10)
        self._patches += [(start, head), (start + length - 1, b"0")]

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes ``[offset, offset + length)``, fewer only at the end."""
        data = bytearray(self._around.read_at(offset, length))
        for at, patch in self._patches:
            if at < offset + len(data) and offset < at + len(patch):
                for index, byte in enumerate(patch, at - offset):
                    if 0 <= index < len(data):
                        data[index] = byte
        return bytes(data)

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Fill *buffer* from *offset* on; returns the bytes filled."""
        data = self.read_at(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _is_wrapper(value: Value) -> bool:
    return type(value) is Call and _is_wrapper_class(value.callee)


def _is_wrapper_class(value: Value) -> bool:
    return type(value) is Global and value.qualified == "joblib.numpy_pickle.NumpyArrayWrapper"


def _is_given_wrapper(call: Call) -> bool:
    """Whether *call* could make a wrapper in another way than joblib does: ``copyreg._reconstructor(wrapper, ...)``."""
    return type(call.args) is tuple and any(map(_is_wrapper_class, call.args))


def _state(build: Build) -> dict[str, Value]:
    pairs = build.state.pairs if type(build.state) is Dict else []
    return {key: value for key, value in pairs if type(key) is str}


def _element(build: Build) -> str:
    """The element type of the wrapped array, as ``numpy.dtype`` is given it."""
    dtype = _state(build).get("dtype")
    if type(dtype) is Call and type(dtype.callee) is Global and dtype.callee.qualified == "numpy.dtype":
        name = dtype.args[0] if type(dtype.args) is tuple and dtype.args else None
        return name if type(name) is str else ""
    return ""


def _is_of_objects(build: Build) -> bool:
    return re.fullmatch(r"\|?O[0-9]*", _element(build)) is not None


def _alignment(build: Build) -> int | None:
    """The alignment of the array's bytes in the file, ``None`` when they follow the wrapper at once (joblib < 1.2)."""
    alignment = _state(build).get("numpy_array_alignment_bytes")
    return alignment if type(alignment) is int else None


def _array_length(source: Source, start: int, build: Build) -> int | None:
    """How many bytes at *start* joblib reads for the array, padding included; ``None`` when that cannot be told."""
    element = _ELEMENT.fullmatch(_element(build))
    shape = _state(build).get("shape")
    if element is None or type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        return None
    length = int(element["size"]) * (4 if element["kind"] == "U" else 1)
    for n in shape:
        length *= n
    if _alignment(build) is None:
        return length
    padding = (source.read_at(start, 1) or b"\0")[0]
    return 1 + padding + length if 0 < padding <= _MAX_PADDING else None
