"""Every digest that people know model files by, in one reading.

========  ===========================================================================================================
name      of which bytes
========  ===========================================================================================================
sha256    all; its first 10 digits are AutoV2, which A1111 calls the short hash, its first 12 are Forge's
autov1    SHA-256 of the 64 KiB from 1 MiB on; people use the first 8 digits. Shorter files have none
autov3    SHA-256 of what follows the safetensors header; people use the first 12 digits. A file whose first eight bytes
          give a header of 16 MiB or more, as those of every pickle do, is taken from its eighth byte on
crc32     all
blake3    all, where the package ``blake3`` is installed
tensors   our own: BLAKE2b of the sorted names, element types, shapes and bytes of the tensors, so that one model has
          one digest, whatever its header and container
========  ===========================================================================================================

AutoV1 to AutoV3 are Civitai's names; its ``HashTask.cs`` and kohya's ``addnet`` hash define them.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from modelhub.source.base import Source

ALGORITHMS = ("sha256", "autov1", "autov3", "crc32", "blake3", "tensors")

CHUNK = 4 << 20
_WINDOW = range(0x100000, 0x110000)
_LONGEST_HEADER = 1 << 24


class Cast(NamedTuple):
    """A tensor as it would be in another element type: *apply* makes the bytes of elements of *width* bytes into those
    of the other type, or raises ``ValueError``; *label* is what is hashed with them."""

    apply: Callable[[memoryview], memoryview]
    width: int
    label: str


class Run(NamedTuple):
    """A tensor's bytes in the file: ``[start, start + nbytes)``; ``label`` is what is hashed with them.

    ``part`` is the component that it is of, and ``part_label`` what is hashed with its bytes there; ``cast`` is the
    tensor in another type, where the component is to be known in that as well.
    """

    start: int
    nbytes: int
    label: str
    part: str = ""
    part_label: str = ""
    cast: Cast | None = None


class Part(NamedTuple):
    """A component of a file: *fingerprint* is BLAKE2b of the sorted names, element types, shapes and bytes of its
    tensors, so that one component has one fingerprint in whatever file; *is_cast* where it is of the tensors' casts.
    *nbytes* is what its tensors take in the file."""

    name: str
    is_cast: bool
    fingerprint: str
    nbytes: int


class Digested(NamedTuple):
    """What one reading comes to: digests by name, and the components of the tensors that were asked for."""

    digests: dict[str, str]
    parts: tuple[Part, ...]


class _Part(Protocol):
    def update(self, offset: int, data: memoryview) -> None: ...

    def answers(self) -> dict[str, str]: ...


def digests_of(
    source: Source, tensors: Iterable[Run] | None = None, progress: Callable[[int], None] | None = None
) -> dict[str, str]:
    """The digests of *source* by name, lower-case hex, read once from beginning to end.

    *tensors* are where the tensors lie (``None``: no digest of them). The digests are computed beside one another in
    threads. *progress* is told bytes as they are read. Raises :class:`~modelhub.errors.SourceError`.
    """
    return read_digests(source, tensors, progress).digests


def read_digests(
    source: Source, tensors: Iterable[Run] | None = None, progress: Callable[[int], None] | None = None
) -> Digested:
    """:func:`digests_of`, and the components of *tensors*."""
    read = _Tensors(tensors or ())
    parts: list[_Part] = [_Whole(), _Window(), _Data(source), *([read] if tensors is not None else [])]
    blake3 = _blake3()
    if blake3 is not None:
        parts.append(blake3)
    buffers = (bytearray(CHUNK), bytearray(CHUNK))
    offset = turn = 0
    with ThreadPoolExecutor(len(parts)) as pool:
        got = source.readinto_at(0, memoryview(buffers[0]))
        while got:
            data = memoryview(buffers[turn])[:got]
            work = [pool.submit(part.update, offset, data) for part in parts]
            offset, turn = offset + got, 1 - turn
            got = source.readinto_at(offset, memoryview(buffers[turn]))
            for each in work:
                each.result()
            if progress is not None:
                progress(len(data))
    return Digested({name: value for part in parts for name, value in part.answers().items()}, tuple(read.parts()))


class _Whole:
    def __init__(self) -> None:
        self._sha256, self._crc32 = hashlib.sha256(), 0

    def update(self, offset: int, data: memoryview) -> None:
        self._sha256.update(data)
        self._crc32 = zlib.crc32(data, self._crc32)

    def answers(self) -> dict[str, str]:
        return {"sha256": self._sha256.hexdigest(), "crc32": f"{self._crc32:08x}"}


class _Window:
    def __init__(self) -> None:
        self._sha256, self._seen = hashlib.sha256(), 0

    def update(self, offset: int, data: memoryview) -> None:
        part = data[max(0, _WINDOW.start - offset) : max(0, _WINDOW.stop - offset)]
        self._sha256.update(part)
        self._seen += len(part)

    def answers(self) -> dict[str, str]:
        return {"autov1": self._sha256.hexdigest()} if self._seen == len(_WINDOW) else {}


class _Data:
    def __init__(self, source: Source) -> None:
        length = int.from_bytes(source.read_at(0, 8), "little")
        self._start = 8 + length if length < _LONGEST_HEADER else 8
        self._sha256 = hashlib.sha256()

    def update(self, offset: int, data: memoryview) -> None:
        self._sha256.update(data[max(0, self._start - offset) :])

    def answers(self) -> dict[str, str]:
        return {"autov3": self._sha256.hexdigest()}


class _Tensor:
    """One tensor's digest, and that of its cast."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._digest = hashlib.blake2b(digest_size=32)
        self._cast = hashlib.blake2b(digest_size=32) if run.cast is not None else None
        self._rest = b""

    def update(self, data: memoryview) -> None:
        self._digest.update(data)
        if self._cast is None or self.run.cast is None:
            return
        if self._rest:  # elements that lie across two chunks
            data = memoryview(self._rest + bytes(data))
        whole = len(data) - len(data) % self.run.cast.width
        self._rest = bytes(data[whole:])
        try:
            self._cast.update(self.run.cast.apply(data[:whole]))
        except ValueError:
            self._cast = None

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    @property
    def cast_line(self) -> str | None:
        """The line of the cast; the tensor's own where it is in the same type in both, ``None`` where there is none."""
        if self.run.cast is None:
            return f"{self.digest} {self.run.part_label}\n"
        return None if self._cast is None else f"{self._cast.hexdigest()} {self.run.cast.label}\n"


class _Tensors:
    """Hashes each tensor's bytes as they come by; tensors may share bytes."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._ahead = sorted(runs, key=lambda run: run.start, reverse=True)
        self._open: list[_Tensor] = []
        self._done: list[_Tensor] = []

    def update(self, offset: int, data: memoryview) -> None:
        end = offset + len(data)
        while self._ahead and self._ahead[-1].start < end:
            self._open.append(_Tensor(self._ahead.pop()))
        still: list[_Tensor] = []
        for tensor in self._open:
            start, stop = tensor.run.start, tensor.run.start + tensor.run.nbytes
            tensor.update(data[max(0, start - offset) : max(0, stop - offset)])
            (still if stop > end else self._done).append(tensor)
        self._open = still

    def _whole(self) -> list[_Tensor] | None:
        """Every tensor; ``None`` where the file ends before they do."""
        if self._open or any(run.nbytes for run in self._ahead):
            return None
        return [*self._done, *(_Tensor(run) for run in self._ahead)]

    def answers(self) -> dict[str, str]:
        tensors = self._whole()
        if tensors is None:
            return {}
        lines = sorted((each.run.label, each.digest) for each in tensors)
        return {"tensors": _combined(f"{digest} {label}\n" for label, digest in lines)}

    def parts(self) -> Iterator[Part]:
        of_part: dict[str, list[_Tensor]] = {}
        for each in self._whole() or ():
            of_part.setdefault(each.run.part, []).append(each)
        for name, tensors in sorted(of_part.items()):
            nbytes = sum(each.run.nbytes for each in tensors)
            lines = [f"{each.digest} {each.run.part_label}\n" for each in tensors]
            yield Part(name, False, _combined(sorted(lines)), nbytes)
            casts = [line for each in tensors if (line := each.cast_line) is not None]
            if len(casts) == len(tensors) and any(each.run.cast is not None for each in tensors):
                yield Part(name, True, _combined(sorted(casts)), nbytes)


def _combined(lines: Iterable[str]) -> str:
    return hashlib.blake2b("".join(lines).encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


class _Blake3:
    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def update(self, offset: int, data: memoryview) -> None:
        self._digest.update(data)

    def answers(self) -> dict[str, str]:
        return {"blake3": self._digest.hexdigest()}


def _blake3() -> _Blake3 | None:
    try:
        from blake3 import blake3
    except ImportError:
        return None
    return _Blake3(blake3())
