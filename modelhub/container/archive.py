"""Archives that are not PyTorch checkpoints, and members that do not belong in one: every member is opened as a file.

Some are known by their members: NumPy's ``.npz``, programs that torch exported (``.pt2``), Keras 3's ``.keras``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, Skipped
from modelhub.container.nesting import MAX_PREFIX, Nesting, Part, not_opened, open_inside
from modelhub.container.zip_walk import Archive, Member, packing_of, peek_member, read_member
from modelhub.source import BytesSource, Source
from modelhub.tensors import Leftover, Packing, StateDict, StorageRef, TensorInfo

MAX_PROGRAMS = 1000
"""Pickles in all members of an archive that are looked at."""

TOO_MANY = "the archive has more pickles than are looked at"

_INERT = frozenset({"empty", "html", "image", "json", "text", "unknown"})
_SAY_NOTHING = frozenset(
    f"container.{word}"
    for word in ("empty", "html-page", "not-examined", "unknown", "wrong-extension", "partial-download")
)

_TOLD = 20
_LIBRARIES = (".so", ".dll", ".dylib", ".pyd", ".cubin", ".o")
_EXPORTED = frozenset({"archive_format", "serialized_exported_program.json", "models/model.json"})
"""Members, below the top folder or without one, of programs by ``torch.export.save`` (torch 2.1 to 2.13)."""


@dataclass(frozen=True, slots=True)
class OpenedMember:
    """A member as a file: where its bytes begin in the archive, and how they are packed there.

    ``crc`` is the checksum of one that is not packed, ``size`` its bytes; ``None`` and 0 where nothing is said of them.
    """

    name: str
    start: int
    container: Container
    packing: Packing | None = None
    crc: int | None = None
    size: int = 0


def read_other_zip(source: Source, archive: Archive, nesting: Nesting) -> Container:
    """The container that a zip without ``data.pkl`` is: kind ``zip``, examined as far as its members are."""
    found: list[OpenedMember] = []
    programs = 0
    for member in archive.members:
        if member.size or member.packed:
            if programs < MAX_PROGRAMS:
                inner = open_member(source, member, nesting)
            else:
                inner = not_opened(source, member.name, "zip.limit", TOO_MANY)
            programs += len(inner.pickles)
            found.append(_opened(member, inner))
    found += (OpenedMember(each.name, each.start, open_foreign(source, each, nesting)) for each in archive.foreign)
    skipped = [Skipped("the member cannot be read", name) for name in archive.unreadable]
    if not archive.whole:
        skipped.append(Skipped("the archive's directory could not be read to its end"))
    if not found:
        skipped.append(Skipped("there is nothing in the archive that a loader could take up"))
    anomalies = [*archive.anomalies, *_programs_in({each.name for each in found})]
    if {"config.json", "metadata.json"} <= {member.name for member in archive.members}:
        anomalies += _keras(source, archive)
    return gathered("zip", source, found, anomalies, skipped)


def _opened(member: Member, inner: Container) -> OpenedMember:
    crc, size = (member.crc or None, member.size) if member.stored and member.packed == member.size else (None, 0)
    return OpenedMember(member.name, member.start, inner, packing_of(member), crc, size)


def _keras(source: Source, archive: Archive) -> Iterator[Anomaly]:
    """What is odd about a Keras 3 model."""
    from modelhub.container.keras import MAX_CONFIG, code_in_config

    message = "a Keras model, whose configuration can name code to run; it is not examined"
    yield Anomaly("container.not-examined", message, "config.json")
    for member in archive.members:
        if member.name == "config.json":
            yield from code_in_config(peek_member(source, member, MAX_CONFIG), member.name)


def open_member(source: Source, member: Member, nesting: Nesting) -> Container:
    """The member of a zip archive as a file, with everything in it located in the archive."""
    if member.stored:
        return open_inside(Part(source, member.name, member.start, member.packed), member.name, nesting)
    odd: list[Anomaly] = []
    whole = nesting.unpacks(member.size)
    if whole:
        data = read_member(source, member, member.size, odd)
    elif nesting.unpacks(MAX_PREFIX):
        data = peek_member(source, member, MAX_PREFIX)
    else:
        message = "a file in this file was not opened: they unpack to more bytes than are looked at"
        return not_opened(source, member.name, "container.nested-limit", message)
    inner = open_inside(BytesSource(member.name, data or b""), member.name, nesting, whole=whole)
    return replace(inner, anomalies=(*odd, *inner.anomalies)) if odd else inner


def open_foreign(source: Source, member: Member, nesting: Nesting) -> Container:
    """The same of a member that torch cannot read, of which the first bytes are looked at, unpacked or as they are."""
    from modelhub.container.unpackers import zip_unpacker

    data = b""
    if nesting.unpacks(MAX_PREFIX):
        with suppress(Exception):  # KeyError of the method, MissingExtra, zlib.error, OSError, EOFError, lzma.LZMAError
            data = packed = source.read_at(member.start, min(member.packed, MAX_PREFIX))
            unpacker, packed = zip_unpacker(member.method, packed)
            data = unpacker.decompress(packed, MAX_PREFIX)
    return open_inside(BytesSource(member.name, data), member.name, nesting)


def gathered(
    kind: str, source: Source, found: Iterable[OpenedMember], anomalies: Iterable[Anomaly], skipped: Iterable[Skipped]
) -> Container:
    """The archive of *kind* that the members *found* make up; with tensors when all of them are NumPy arrays."""
    found = list(found)
    inert = [each for each in found if is_inert(each.container)]
    if inert:
        message = f"{len(inert)} of its members are not of a kind that is examined"
        anomalies = [*anomalies, Anomaly("container.not-examined", message, evidence=_names(inert))]
        skipped = [*skipped, *(skip for each in inert for skip in each.container.skipped)]
        found = [each for each in found if not is_inert(each.container)]
    arrays = kind == "zip" and bool(found) and not inert and all(each.container.kind == "numpy" for each in found)
    anomalies = list(anomalies)
    state_dict = _arrays(found, anomalies) if arrays else None
    return Container(
        kind,
        source.name,
        source,
        state_dict,
        tuple(program for each in found for program in each.container.pickles),
        (*anomalies, *(odd for each in found for odd in each.container.anomalies)),
        (*skipped, *(skip for each in found for skip in each.container.skipped)),
    )


def _arrays(found: Iterable[OpenedMember], anomalies: list[Anomaly]) -> StateDict:
    """The arrays of an ``.npz`` by their names in it, which have no ``.npy`` at the end."""
    tensors: dict[str, TensorInfo] = {}
    leftovers: list[Leftover] = []
    for each in found:
        name = each.name.removesuffix(".npy")
        state_dict = each.container.state_dict
        if state_dict is None:
            continue
        leftovers += (left._replace(path=name) for left in state_dict.leftovers)
        for tensor in state_dict.values():
            if name in tensors:
                message = f"two arrays have the name {name!r:.100}"
                anomalies.append(Anomaly("tensor.name-collision", message, each.name))
                continue
            storage = tensor.storage
            if each.packing is None and each.crc is None:
                placed = storage._replace(key=name, start=each.start + storage.start)
                tensors[name] = tensor._replace(name=name, storage=placed)
            else:  # the storage is the whole member, its header included, so that its checksum can be compared
                size = storage.start + storage.nbytes if each.packing is not None else each.size
                placed = StorageRef(name, each.start, size, storage.byteorder, each.packing, crc=each.crc)
                tensors[name] = tensor._replace(name=name, storage=placed, offset=storage.start + tensor.offset)
    return StateDict(tensors, leftovers=tuple(leftovers))


def is_inert(inner: Container) -> bool:
    """Whether nothing runs *inner*, so that there is no more to say of it than that it was not examined."""
    return inner.kind in _INERT and not inner.pickles and all(odd.rule in _SAY_NOTHING for odd in inner.anomalies)


def _names(members: list[OpenedMember]) -> str:
    """The first few names of *members*, in one line."""
    return ", ".join(each.name for each in members[:6])[:300] + (", ..." if len(members) > 6 else "")


def _programs_in(names: set[str]) -> Iterable[Anomaly]:
    """What the members' *names* say of code that the archive brings along."""
    below = names | {name.partition("/")[2] for name in names}
    if below & _EXPORTED:
        message = "an executable model (torch.export): loading it runs a program that the file brings along"
        yield Anomaly("torch.exported", message)
    for name in sorted(name for name in names if name.lower().endswith(_LIBRARIES))[:_TOLD]:
        yield Anomaly("archive.native-code", "a compiled library, which a loader of the archive may run", name)
