"""The words conversion answers in.

A planned tensor is a row of *pieces*, each a view of a tensor that lies in some file; its own bytes are theirs, one
after the other, and in another element type where a cast was asked for. Renaming, cutting out of rows, turning, putting
together, taking one model's part from another file: all of it is a choice of pieces, so that one way of writing them
writes everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from modelhub.source import Digest, Source
from modelhub.tensors import DType, Leftover, StorageRef, TensorInfo


def inside(target: str, relative: str) -> str:
    """The path of *relative*, with ``/``, below the folder *target*; *target* itself where it is empty."""
    return os.path.join(target, *relative.split("/")) if relative else target


@dataclass(frozen=True, slots=True)
class Piece:
    """A view of a tensor, and the open file whose bytes it looks at."""

    source: Source
    tensor: TensorInfo


def file_of(source: Source) -> Source:
    """The open file that *source* is, or is unpacked or computed from."""
    file: Source = getattr(source, "file", source)
    return file


def stored(piece: Piece) -> tuple[StorageRef, ...]:
    """The storages of :func:`file_of` its source that *piece* is read from, or is unpacked or computed from."""
    storages: tuple[StorageRef, ...] | None = getattr(piece.source, "stored", None)
    return (piece.tensor.storage,) if storages is None else storages


@dataclass(frozen=True, slots=True)
class Assembly:
    """How a tensor of the output is put together: *pieces* follow each other in it, along its first axis.

    ``dtype`` is the output's element type, that of the pieces unless they are cast; ``shape`` is in elements.
    """

    dtype: DType
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the output."""
        return sum(self.dtype.bits * piece.tensor.numel for piece in self.pieces) // 8


@dataclass(frozen=True, slots=True)
class Draft:
    """The tensors of an output by name before they have their places, and what was said and left out on the way."""

    tensors: Mapping[str, Assembly]
    leftovers: tuple[Leftover, ...] = ()
    notes: tuple[str, ...] = ()

    def changed(self, tensors: Mapping[str, Assembly], *notes: str, left: Iterable[Leftover] = ()) -> Draft:
        """A draft of *tensors* instead, with further *notes* and leftovers."""
        return Draft(tensors, (*self.leftovers, *left), (*self.notes, *notes))


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of an output file: its name there, what it is put together from, and where its bytes will lie.

    ``begin`` and ``end`` are offsets into the file's data section; the other fields are those of :class:`Assembly`.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One safetensors file to write.

    ``path`` is relative to the target, with ``/``; empty where the target is this file. ``header`` is its first bytes
    (length and JSON), ``tensors`` are in the order in which they will lie.
    """

    path: str
    header: bytes
    tensors: tuple[PlannedTensor, ...]
    metadata: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.header) + (self.tensors[-1].end if self.tensors else 0)


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A file to write as it is, a configuration or a vocabulary: all bytes of *source* at *path* below the target."""

    path: str
    source: Source


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """Everything that a conversion will do, decided before a byte is written.

    ``source`` is the source's name. ``outputs`` is one file, the target, or several files of a new folder; ``plain``
    are files beside them. ``duplicated`` are the groups of names that share bytes in the source and get their own in
    the output, and ``duplicated_bytes`` what that costs; ``leftovers`` is what is not kept; ``notes`` say, one sentence
    each, what was done beyond copying. The plan holds its sources open: it can be executed until they are closed.
    """

    source: str
    outputs: tuple[OutputFile, ...]
    plain: tuple[PlainFile, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    duplicated: tuple[tuple[str, ...], ...] = ()
    duplicated_bytes: int = 0
    notes: tuple[str, ...] = field(default=())

    @property
    def is_folder(self) -> bool:
        """Whether the target is a folder."""
        return bool(self.plain) or any(output.path for output in self.outputs)

    @property
    def tensors(self) -> tuple[PlannedTensor, ...]:
        """The tensors of all outputs."""
        return tuple(tensor for output in self.outputs for tensor in output.tensors)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(output.size for output in self.outputs) + sum(plain.source.size for plain in self.plain)

    def sources(self) -> Iterator[Source]:
        """Every file that is read, once."""
        seen: set[int] = set()
        pieces = (piece.source for tensor in self.tensors for piece in tensor.pieces)
        for source in (*pieces, *(plain.source for plain in self.plain)):
            file = file_of(source)
            if id(file) not in seen:
                seen.add(id(file))
                yield file


@dataclass(frozen=True, slots=True)
class Integrity:
    """What reading a source said of its bytes.

    ``matched`` counts the storages whose bytes match the checksum that the file has of them, ``unverifiable`` those of
    which it has none. ``digest`` is that of the whole file, where it was asked for. Then storages that nothing of the
    output lies in, unless they are packed, are read as well, and those that do not match are named in ``damaged``;
    else ``unread`` counts them.
    """

    source: Source
    matched: int
    unverifiable: int
    digest: Digest | None = None
    unread: int = 0
    damaged: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """The three counts by name."""
        return {"matched": self.matched, "unverifiable": self.unverifiable, "unread": self.unread}


@dataclass(frozen=True, slots=True)
class OutputDigests:
    """Which bytes a written file holds.

    ``path`` is relative to the target, as in the plan; ``whole`` the file's digest. Where they were asked for,
    ``tensors`` are the SHA-256 of each tensor's bytes in hex, by name, and ``content`` the digest that is made of them
    (:mod:`modelhub.convert.content`).
    """

    path: str
    whole: Digest
    content: Digest | None = None
    tensors: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Conversion:
    """A conversion that was carried out and verified: every tensor's bytes were compared with the source.

    ``sources`` says of each source what its checksums did; ``digests`` are those of the written safetensors files,
    empty unless they were asked for.
    """

    plan: ConversionPlan
    target: str
    size: int
    seconds: float
    sources: tuple[Integrity, ...] = ()
    digests: tuple[OutputDigests, ...] = ()
