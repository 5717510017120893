"""The bytes of storages that do not lie in their file as they are: deflated, written as text, or kept in memory.

:class:`Storages` puts a source under each tensor in which its storage's bytes lie plainly. Reading such a source
forward unpacks the storage in bounded memory; reading it backward keeps what was unpacked, of a large storage in a
temporary file that has no name.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Callable, Iterator

from modelhub.errors import LimitExceeded, Malformed, SourceError
from modelhub.source import Source
from modelhub.tensors import Packing, StorageRef, TensorInfo

_WHOLE = 16 << 20
"""Bytes of a storage that is unpacked into memory at once."""

_CHUNK = 1 << 16
_CONTINUATION = bytes(range(0x80, 0xC0))  # bytes of UTF-8 that begin no character
_MOST_WORK = (16 << 30, 64)
"""Bytes that are unpacked of one file, and how many times its size: storages that are read in turns cost them again."""


class Storages:
    """The storages of the file *source*. At most one is unpacked at a time; not for several threads."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._made: dict[StorageRef, StorageSource] = {}
        self._open: tuple[StorageRef, _Whole | _Forward | _Kept] | None = None
        constant, factor = _MOST_WORK
        self._work = max(constant, factor * source.size)

    def locate(self, tensor: TensorInfo) -> tuple[Source, TensorInfo]:
        """A source, and *tensor* as it lies in that: those given where the storage lies plainly in the file.

        Tensors of one storage have one :class:`StorageSource`, which costs nothing until it is read. Reading raises
        :class:`Malformed` where a storage does not unpack to the bytes that are announced, or does not match its
        checksum, and :class:`LimitExceeded` where it costs many times what the file's size accounts for.
        """
        storage = tensor.storage
        if storage.plain:
            return self._source, tensor
        made = self._made.get(storage)
        if made is None:
            made = self._made[storage] = StorageSource(self, self._source, storage)
        return made, tensor._replace(storage=StorageRef(storage.key, 0, storage.nbytes, storage.byteorder))

    def characters(self, storage: StorageRef) -> int:
        """Characters, and so unpacked bytes, of a storage that is packed as text; its bytes are all read for that."""
        assert storage.packing is not None and storage.packing.form == "text"
        blocks = _blocks(self._source, storage.start, storage.packing.nbytes)
        return sum(len(block.translate(None, _CONTINUATION)) for block in blocks)

    def check(self, storage: StorageRef, goes_on: Callable[[], bool]) -> None:
        """Unpack all of *storage* while it *goes_on*, so that its checksum is compared; raises as reading it does."""
        for _ in self._unpack(storage):
            if not goes_on():
                return

    def _fill(self, storage: StorageRef, offset: int, buffer: memoryview) -> None:
        """Fill *buffer* with the bytes of *storage* from *offset* on."""
        if storage.data is not None:
            buffer[:] = storage.data[offset : offset + len(buffer)]
            return
        opened, self._open = self._open, None
        if opened is None or opened[0] != storage:
            opened = None
            kind: type[_Whole | _Forward | _Kept] = _Whole if storage.nbytes <= _WHOLE else _Forward
        elif offset < opened[1].position:
            opened = None
            kind = _Forward if offset == 0 else _Kept
        if opened is None:
            opened = (storage, kind(self._unpack(storage)))
        opened[1].fill(offset, buffer)
        self._open = opened  # a stream that failed has nothing more to give

    def _unpack(self, storage: StorageRef) -> Iterator[bytes]:
        """All bytes of *storage*, in order and in small pieces; checked at the end."""
        assert storage.packing is not None
        made = crc = 0
        which = f"{self._source.name}: storage {storage.key!r:.80}"
        pieces = _inflated if storage.packing.form == "deflate" else _encoded
        try:
            for piece in pieces(self._source, storage.start, storage.packing):
                made += len(piece)
                if made > storage.nbytes:
                    raise Malformed(f"{which} unpacks to more than the {storage.nbytes} bytes announced")
                self._work -= len(piece)
                if self._work < 0:
                    raise LimitExceeded(f"{which} would be unpacked again and again")
                crc = zlib.crc32(piece, crc)
                yield piece
        except (zlib.error, UnicodeError) as error:
            raise Malformed(f"{which} cannot be unpacked: {error}"[:300]) from error
        if made < storage.nbytes:
            raise Malformed(f"{which} unpacks to {made} instead of {storage.nbytes} bytes")
        if storage.packing.crc not in (None, crc):
            raise Malformed(f"{which} does not match its checksum: its bytes are not those that were saved")


class StorageSource:
    """The bytes of one storage of *file* as a source; ``storage``, the only one ``stored``, is how it lies there."""

    def __init__(self, storages: Storages, file: Source, storage: StorageRef) -> None:
        self.file = file
        self.name = file.name
        self.size = storage.nbytes
        self._storages = storages
        self.storage = storage
        self.stored = (storage,)

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes ``[offset, offset + length)``, fewer only at the end."""
        data = bytearray(max(0, min(length, self.size - offset)))
        self.readinto_at(offset, memoryview(data))
        return bytes(data)

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Fill *buffer* from *offset* on; returns the bytes filled."""
        buffer = buffer[: max(0, self.size - offset)]
        if buffer:
            self._storages._fill(self.storage, offset, buffer.cast("B"))
        return len(buffer)


class _Forward:
    """Pieces that can only be read forward: nothing before ``position`` can be had again."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.position = 0
        self._pieces = pieces
        self._piece = b""

    def fill(self, offset: int, buffer: memoryview) -> None:
        skip = offset - self.position
        filled = 0
        while filled < len(buffer):
            if not self._piece:
                self._piece = next(self._pieces)
            if skip >= len(self._piece):
                taken, self._piece = len(self._piece), b""
                skip -= taken
            else:
                part = self._piece[skip : skip + len(buffer) - filled]
                taken = skip + len(part)
                buffer[filled : filled + len(part)] = part
                filled += len(part)
                skip, self._piece = 0, self._piece[taken:]
            self.position += taken
        if not self._piece:  # past the last piece, the checks
            self._piece = next(self._pieces, b"")


class _Whole:
    """All pieces in memory."""

    position = 0

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._data = memoryview(b"".join(pieces))

    def fill(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._data[offset : offset + len(buffer)]


class _Kept:
    """All pieces in a temporary file."""

    position = 0

    def __init__(self, pieces: Iterator[bytes]) -> None:
        import tempfile

        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lasts as long as this does
        try:
            self._file.writelines(pieces)
        except OSError as error:
            raise SourceError(f"what was unpacked cannot be kept in a temporary file: {error.strerror}") from error

    def fill(self, offset: int, buffer: memoryview) -> None:
        self._file.seek(offset)
        filled = 0
        while filled < len(buffer):
            filled += self._file.readinto(buffer[filled:])

    def __del__(self) -> None:
        self._file.close()


def _inflated(source: Source, start: int, packing: Packing) -> Iterator[bytes]:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    for block in _blocks(source, start, packing.nbytes):
        if stream.eof:
            return
        yield stream.decompress(stream.unconsumed_tail + block, _CHUNK)
        while len(stream.unconsumed_tail) > _CHUNK:
            yield stream.decompress(stream.unconsumed_tail, _CHUNK)
    while not stream.eof and (piece := stream.decompress(stream.unconsumed_tail, _CHUNK)):
        yield piece


def _encoded(source: Source, start: int, packing: Packing) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for block in _blocks(source, start, packing.nbytes):
        yield decoder.decode(block).encode("latin-1")
    decoder.decode(b"", final=True)


def _blocks(source: Source, start: int, nbytes: int) -> Iterator[bytes]:
    for offset in range(0, nbytes, _CHUNK):
        yield source.read_at(start + offset, min(_CHUNK, nbytes - offset))
