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
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from modelhub.source.base import Source

ALGORITHMS = ("sha256", "autov1", "autov3", "crc32", "blake3", "tensors")

CHUNK = 4 << 20
_WINDOW = range(0x100000, 0x110000)
_LONGEST_HEADER = 1 << 24


class Run(NamedTuple):
    """A tensor's bytes in the file: ``[start, start + nbytes)``; ``label`` is what is hashed with them."""

    start: int
    nbytes: int
    label: str


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
    parts: list[_Part] = [_Whole(), _Window(), _Data(source), *([_Tensors(tensors)] if tensors is not None else [])]
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
    return {name: value for part in parts for name, value in part.answers().items()}


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


class _Tensors:
    """Hashes each tensor's bytes as they come by; tensors may share bytes."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._ahead = sorted(runs, key=lambda run: run.start, reverse=True)
        self._open: list[tuple[Run, Any]] = []
        self._done: list[tuple[str, str]] = []

    def update(self, offset: int, data: memoryview) -> None:
        end = offset + len(data)
        while self._ahead and self._ahead[-1].start < end:
            self._open.append((self._ahead.pop(), hashlib.blake2b(digest_size=32)))
        still = []
        for run, digest in self._open:
            digest.update(data[max(0, run.start - offset) : max(0, run.start + run.nbytes - offset)])
            if run.start + run.nbytes > end:
                still.append((run, digest))
            else:
                self._done.append((run.label, digest.hexdigest()))
        self._open = still

    def answers(self) -> dict[str, str]:
        if self._open or any(run.nbytes for run in self._ahead):  # the file ends before its tensors do
            return {}
        empty = hashlib.blake2b(digest_size=32).hexdigest()
        lines = sorted([*self._done, *((run.label, empty) for run in self._ahead)])
        text = "".join(f"{digest} {label}\n" for label, digest in lines)
        return {"tensors": hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()}


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
