"""Zip archives that are PyTorch checkpoints or TorchScript programs (all others: :mod:`modelhub.container.archive`).

A checkpoint has one top folder with ``data.pkl`` (the pickle), ``data/<n>`` (the storages), ``version``, and in newer
versions ``byteorder``, ``.format_version``, ``.storage_alignment`` and ``.data/serialization_id`` (torch 2.13,
``serialization.py`` and ``caffe2/serialize/inline_container.cc``). torch takes the first entry's folder for the top.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, PickleProgram, Skipped
from modelhub.container.nesting import Nesting, not_opened
from modelhub.container.programs import read_programs
from modelhub.container.zip_walk import Archive, Member, packing_of, read_member
from modelhub.pickles import StorageDeclaration, Surroundings, read_state_dict, storage_declarations
from modelhub.source import BytesSource, Source
from modelhub.tensors import StateDict, StorageRef, TensorInfo

MAX_MEMBER = 64 << 20
"""Bytes of one member, unpacked, that are read into memory."""

SMALL = frozenset({"version", ".data/version", "byteorder", ".format_version", ".storage_alignment"}) | {
    ".data/serialization_id"
}
"""Members beside the pickle and the storages, relative to the top folder; each has a few bytes."""

_MAX_SMALL = 4096
_SMALL_FORM = re.compile(rb"[0-9]{1,40}\n?|little|big")
_STORAGE = re.compile(r"data/([0-9]+)")
_VERSION = re.compile(rb"[1-9][0-9]?\n?")
_CONSTANT = re.compile(r"constants/([0-9]+)")
_MAX_OTHERS = 256
_MAX_OTHER_BYTES = 16 << 20  # of all pickles but the first; overlapping members could repeat one without end


def read_zip(source: Source, archive: Archive, nesting: Nesting) -> Container:
    """The container that the zip *source*, walked as *archive*, is: ``torch-zip``, ``torchscript`` or ``zip``."""
    if any(below_top(member.name).casefold() == "data.pkl" for member in archive.members):
        return _Reading(source, archive, nesting).checkpoint()
    from modelhub.container.archive import read_other_zip

    return read_other_zip(source, archive, nesting)


def below_top(name: str) -> str:
    """*name* without its top folder; empty when it has none."""
    return name.partition("/")[2]


class _Reading:
    """What has been gathered so far of one archive."""

    def __init__(self, source: Source, archive: Archive, nesting: Nesting) -> None:
        self.source = source
        self.nesting = nesting
        self.archive = archive
        self.anomalies = list(archive.anomalies)
        self.skipped = [Skipped("the member cannot be read", name) for name in archive.unreadable]
        if not archive.whole:
            self.skipped.append(Skipped("the archive's directory could not be read to its end"))
        self.pickles: list[PickleProgram] = []
        self.others = 0
        self.other_bytes = 0
        self.top = archive.members[0].name.partition("/")[0] + "/" if archive.members else ""
        self.script = any(
            part == "constants.pkl" or part.startswith("code/") for part in (below_top(m.name) for m in archive.members)
        )

    def checkpoint(self) -> Container:
        """The archive as ``torch.load`` sees it."""
        members = self.archive.members
        candidates = [m for m in members if below_top(m.name).casefold() == "data.pkl"]
        objects = [(m, program) for m in candidates if (program := self._trace(m, "object")) is not None]
        storages: dict[str, Member] = {}
        smalls: dict[str, bytes] = {}
        for member in members:
            part = member.name.removeprefix(self.top) if member.name.startswith(self.top) else ""
            storage = _STORAGE.fullmatch(part)
            if storage:
                storages.setdefault(storage[1], member)
            elif part in SMALL:
                smalls[part] = self._small(member, part)
            elif below_top(member.name).casefold() != "data.pkl":
                self._beside(member, part)
        if len(candidates) > 1 or candidates[0].name != self.top + "data.pkl":
            self._note("torch.several-objects", "there is more than one data.pkl, or it is not where torch expects it")
        version = smalls.get("version", smalls.get(".data/version"))
        if version is None:
            self._note("torch.missing-member", "there is no member 'version', without which torch refuses the file")
        elif not _VERSION.fullmatch(version):
            self._note("torch.version", f"the version is {version!r:.40}, with which torch refuses the file")
        byteorder = self._byteorder(smalls)
        if self.script:
            code = [m.name for m in members if below_top(m.name).startswith("code/")]
            message = "an executable model (TorchScript): loading it can run code that the file brings along"
            self.anomalies.append(Anomaly("torch.script", message, evidence=", ".join(code)[:400] or None))
        self._look_at_foreign()
        state_dict = self._state_dict(*objects[0], storages, byteorder) if objects else None
        constants = [m for m in members if self.script and m.name == self.top + "constants.pkl"]
        if state_dict is not None and constants:
            state_dict = replace(state_dict, tensors={**state_dict.tensors, **self._constants(constants[0], byteorder)})
        return self._done("torchscript" if self.script else "torch-zip", state_dict)

    def _note(self, rule: str, message: str, member: str | None = None) -> None:
        self.anomalies.append(Anomaly(rule, message, member))

    def _done(self, kind: str, state_dict: StateDict | None) -> Container:
        return Container(
            kind,
            self.source.name,
            self.source,
            state_dict,
            tuple(self.pickles),
            tuple(self.anomalies),
            tuple(self.skipped),
        )

    def _trace(self, member: Member, role: str) -> PickleProgram | None:
        """The first pickle in *member*; ``None`` when its bytes cannot be had."""
        if self.pickles:
            self.others += 1
            self.other_bytes += member.packed if member.stored else member.size
        if self.others > _MAX_OTHERS or self.other_bytes > _MAX_OTHER_BYTES:
            self._note("zip.limit", "the archive has more, or larger, pickles than are looked at", member.name)
            self.skipped.append(Skipped("too many or too large pickles in one archive", member.name))
            return None
        data: bytes | None = b""
        if not member.stored or member.packed <= MAX_MEMBER:
            data = read_member(self.source, member, MAX_MEMBER, self.anomalies)
        if data is None:
            self.skipped.append(Skipped("the pickle is too large to be unpacked", member.name))
            return None
        if member.stored:  # traced where it lies, however large it is
            found = read_programs(self.source, member.start, member.end, member.name, role, nesting=self.nesting)
        else:
            unpacked = BytesSource(member.name, data)
            found = read_programs(unpacked, 0, len(data), member.name, role, nesting=self.nesting)
        self.pickles += found.programs
        self.anomalies += found.anomalies
        self.skipped += found.skipped
        return found.programs[0]

    def _open(self, member: Member) -> bool:
        """Open *member* as a file of its own; whether it is one, and was examined to its end."""
        from modelhub.container.archive import MAX_PROGRAMS, TOO_MANY, is_inert, open_member

        if len(self.pickles) < MAX_PROGRAMS:
            inner = open_member(self.source, member, self.nesting)
        else:
            inner = not_opened(self.source, member.name, "zip.limit", TOO_MANY)
        self.pickles += inner.pickles
        if is_inert(inner):
            return False
        self.anomalies += inner.anomalies
        self.skipped += inner.skipped
        return not inner.skipped

    def _small(self, member: Member, part: str) -> bytes:
        """The bytes of one of :data:`SMALL`; what torch does not write there is opened as a file."""
        data = read_member(self.source, member, _MAX_SMALL, self.anomalies) or b""
        if not _SMALL_FORM.fullmatch(data):
            if part not in ("version", "byteorder"):  # what these say is judged by itself
                self._note("torch.unexpected-member", "the member does not hold what torch writes there", member.name)
            self._open(member)
        return data

    def _look_at_foreign(self) -> None:
        """Members that torch cannot read, but others could."""
        if self.archive.foreign:
            from modelhub.container.archive import open_foreign

            for member in self.archive.foreign:
                self.pickles += open_foreign(self.source, member, self.nesting).pickles

    def _beside(self, member: Member, part: str) -> None:
        """A member that no checkpoint written by torch has."""
        if member.name.endswith("/") and not member.size:
            return
        if self.script and (part == "constants.pkl" or _CONSTANT.fullmatch(part)):
            return
        if member.name.casefold().endswith((".pkl", "_pkl", ".pickle")):
            examined = self._trace(member, "other") is not None
        else:
            examined = self._open(member)
        if self.script and part.startswith("code/"):
            if not examined:
                self.skipped.append(Skipped("the code of a TorchScript program is not examined", member.name))
            return
        self._note("torch.unexpected-member", "a PyTorch checkpoint has no such member", member.name)
        if not examined:
            self.skipped.append(Skipped("not a part of a PyTorch checkpoint, so it was not examined", member.name))

    def _constants(self, member: Member, byteorder: Literal["little", "big"]) -> dict[str, TensorInfo]:
        """TorchScript's tensors that are not parameters, by their names in its code: a pickle over other storages."""
        program = self._trace(member, "nested")
        if program is None:
            return {}
        storages = {m[1]: each for each in self.archive.members if (m := _CONSTANT.fullmatch(below_top(each.name)))}
        state_dict = self._read(member, program, _refs("constants", storages, byteorder))
        tensors = state_dict.tensors if state_dict is not None else {}
        return {f"CONSTANTS.c{name}": tensor._replace(name=f"CONSTANTS.c{name}") for name, tensor in tensors.items()}

    def _byteorder(self, smalls: dict[str, bytes]) -> Literal["little", "big"]:
        """The byte order of the storages; files without the member are little-endian (torch before 2.1)."""
        order = smalls.get("byteorder", b"little")
        if order == b"big":
            return "big"
        if order != b"little":
            self._note("torch.byteorder", f"the byte order is {order!r:.40}, not little or big", self.top + "byteorder")
        return "little"

    def _state_dict(
        self, member: Member, program: PickleProgram, storages: dict[str, Member], byteorder: Literal["little", "big"]
    ) -> StateDict | None:
        """The tensors that *program* describes, over the archive's storages."""
        declared = storage_declarations(program.trace)
        for declaration in declared:
            self._check_storage(declaration, storages)
        refs = _refs("", storages, byteorder)
        if not all(ref.plain for ref in refs.values()):
            message = "tensor data is compressed: torch.load(mmap=True) would read garbage from it"
            self._note("torch.compressed-storage", message)
        if program.trace.stopped:
            for key in storages.keys() - {d.key for d in declared}:
                message = "no tensor uses this storage"
                self._note("torch.unreferenced-storage", message, storages[key].name)
                self._open(storages[key])
        return self._read(member, program, refs)

    def _read(self, member: Member, program: PickleProgram, refs: dict[str, StorageRef]) -> StateDict | None:
        unpacked = None if member.stored else _refs("", {"data.pkl": member}, "little")["data.pkl"]
        reading = read_state_dict(program.trace, Surroundings(refs, unpacked=unpacked))
        base = member.start if member.stored else 0
        for odd in reading.anomalies:
            offset = None if odd.offset is None else odd.offset - base
            self.anomalies.append(odd._replace(member=member.name, offset=offset))
        return reading.state_dict

    def _check_storage(self, declared: StorageDeclaration, storages: dict[str, Member]) -> None:
        """Whether the pickle and the archive agree on one storage."""
        found = storages.get(declared.key)
        name = f"{self.top}data/{declared.key}"[:200]
        if not (declared.key.isascii() and declared.key.isdecimal()):
            self._note("torch.storage-key", f"a storage is called {declared.key!r:.80} instead of by a number")
        elif found is None:
            self._note("torch.missing-storage", "the pickle asks for a storage that the archive does not have", name)
        elif found.size != declared.nbytes:
            message = f"the storage has {found.size} bytes, the pickle asks for {declared.nbytes}"
            self._note("torch.storage-size", message, name)


def _refs(folder: str, members: dict[str, Member], byteorder: Literal["little", "big"]) -> dict[str, StorageRef]:
    """Where the storages *members* lie, by key; those of a *folder* other than torch's own are called by it, too."""
    found: dict[str, StorageRef] = {}
    for key, member in members.items():
        size = min(member.packed, member.size) if member.stored else member.size
        name = f"{folder}/{key}" if folder else key
        crc = member.crc or None if member.stored and member.packed == member.size else None  # 0: torch computed none
        found[key] = StorageRef(name, member.start, size, byteorder, packing_of(member), crc=crc)
    return found
