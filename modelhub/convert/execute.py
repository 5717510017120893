"""Carrying a planned conversion out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Protocol

from modelhub.convert.background import Background, flushing
from modelhub.convert.base import (
    Conversion,
    ConversionPlan,
    Integrity,
    OutputDigests,
    OutputFile,
    PlainFile,
    PlannedTensor,
)
from modelhub.convert.copying import copy
from modelhub.convert.integrity import check_sources
from modelhub.convert.part_folder import PartFolder
from modelhub.convert.stream import BLOCK, lies_in_files, runs, stream
from modelhub.convert.target import PartFile, check_file, write_error
from modelhub.convert.verify import verify
from modelhub.errors import ConversionError, NotFound, WouldOverwrite
from modelhub.source import LocalSource

Progress = Callable[[int], None]


class Writer(Protocol):
    """Writes the tensors and the header of an output, and says how a written one is verified."""

    def write(self, output: OutputFile, part: PartFile, told: Progress) -> None:
        """Write *output* into *part*; *told* bytes as they are written."""
        ...

    def verify(self, plan: ConversionPlan, path: str, progress: Progress | None) -> None:
        """Raise :class:`~modelhub.errors.VerificationFailed` where the file or folder *path* is not as it should be."""
        ...


class Copying:
    """The writer of conversions: every tensor is what :func:`~modelhub.convert.stream.stream` gives of it."""

    def write(self, output: OutputFile, part: PartFile, told: Progress) -> None:
        """Write header and tensors, in the order in which they lie in the sources."""
        buffer = memoryview(bytearray(BLOCK))
        try:
            part.write_at(0, output.header)
            told(len(output.header))
            for planned in in_source_order(output):
                write_copied(output, planned, part, told, buffer)
        except OSError as error:
            raise write_error(error, part.target, output.size) from error

    def verify(self, plan: ConversionPlan, path: str, progress: Progress | None) -> None:
        """Every byte is compared with the sources."""
        verify(plan, path, progress=progress)


def execute(
    plan: ConversionPlan,
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    in_place: bool = False,
    make_parents: bool = False,
    digests: bool = False,
    tensor_digests: bool = False,
    progress: Progress | None = None,
    on_verify: Progress | None = None,
    writer: Writer | None = None,
) -> Conversion:
    """Write what *plan* says to *target*, verify it against the sources, and only then give it the target's name.

    *progress* is told bytes as they are written, ``plan.size`` altogether; *on_verify* bytes of tensors as they are
    compared. With *force* an existing file is replaced (a symbolic link itself, not the file it points to), with
    *in_place* even one that is read from; a folder never is. With *make_parents* missing folders are made. In the same
    pass, by other threads, the checksums that the sources have of what is read are compared, and with *digests* the
    SHA-256 of the sources and the outputs computed, with *tensor_digests* also that of each tensor and the content
    digest. *writer* writes what is more than copied. Whatever happens, the sources are only read, and until the very
    end *target* is what it was before; an interrupted conversion removes its part file, a killed one leaves it to the
    next.

    Raises :class:`WouldOverwrite`, :class:`NoSpace`, :class:`AccessDenied`, :class:`NotFound`,
    :class:`ChangedDuringRead`, :class:`Malformed` for bytes that do not match their checksum,
    :class:`VerificationFailed`, or :class:`ConversionError`.
    """
    started = time.monotonic()
    path = os.fspath(target)
    check_target(plan, path, force=force, in_place=in_place, make_parents=make_parents)
    told = progress if progress is not None else _ignore
    digests = digests or tensor_digests
    writer = writer or Copying()
    with Background(lambda stopped: check_sources(plan, stopped, digest=digests)) as checking:
        if plan.is_folder:
            with PartFolder(path, plan.size) as folder:
                for output in plan.outputs:
                    with PartFile(folder.file(output.path), output.size) as part:
                        writer.write(output, part, told)
                        part.sync()
                        part.commit(force=False)
                for plain in plan.plain:
                    with PartFile(folder.file(plain.path), plain.source.size) as part:
                        _write_plain(plain, part, told)
                        part.sync()
                        part.commit(force=False)
                with _digested(plan, folder.path, tensor_digests) if digests else nullcontext() as reading:
                    writer.verify(plan, folder.path, on_verify)
                sources = _checked(plan, checking)
                folder.commit()
        else:
            with PartFile(path, plan.size) as part:
                (output,) = plan.outputs
                written = threading.Event()
                with flushing(part.sync, written) as flush:
                    writer.write(output, part, told)
                    written.set()
                    with _digested(plan, part.path, tensor_digests) if digests else nullcontext() as reading:
                        writer.verify(plan, part.path, on_verify)
                    sources = _checked(plan, checking)
                    try:
                        flush.result()
                    except OSError as error:
                        raise write_error(error, path, plan.size) from error
                part.commit(force=force or in_place)
    made = reading.result() if reading is not None else ()
    return Conversion(plan, path, plan.size, time.monotonic() - started, sources, made)


def _digested(plan: ConversionPlan, path: str, tensors: bool) -> Background[tuple[OutputDigests, ...]]:
    from modelhub.convert.content import digest_outputs

    return Background(lambda stopped: digest_outputs(plan, path, stopped, tensors=tensors))


def _checked(plan: ConversionPlan, checking: Background[tuple[Integrity, ...]]) -> tuple[Integrity, ...]:
    """What the sources' checksums said, of sources that are still what they were."""
    try:
        return checking.result()
    finally:
        check_unchanged(plan)  # a file that is being written is not a damaged one


def check_target(
    plan: ConversionPlan,
    path: str,
    *,
    force: bool = False,
    in_place: bool = False,
    make_parents: bool = False,
    merging: bool = False,
) -> None:
    """Refuse a *path* that must not or cannot be written; with *make_parents*, make its missing folders.

    *merging*: the target is made of several files, which are not rewritten in place, and no folder is made for it.
    """
    try:
        if _exists(path):
            check_file(path)
            read = any(isinstance(source, LocalSource) and _is_same_file(path, source) for source in plan.sources())
            if read and not in_place:
                hint = "name another target"
                if plan.source.endswith(".safetensors") and not merging:
                    hint += ", or say --in-place"
                which = "one of the sources" if merging else "the source"
                raise WouldOverwrite(f"{path}: it is {which} itself", hint=hint)
            if plan.is_folder:
                if not os.path.isdir(path) or os.listdir(path):
                    raise WouldOverwrite(f"{path}: exists already", hint="name a new folder: none is ever replaced")
            elif os.path.isdir(path) and not os.path.islink(path):
                raise ConversionError(f"{path}: cannot be written: it is a folder", hint="name a file in it")
            elif not (force or read):
                raise WouldOverwrite(f"{path}: exists already")
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            if not make_parents:
                hint = "make it" if merging else "make it, or name a folder with / at its end, which is made"
                raise NotFound(f"{path}: cannot be written: there is no folder {folder}", hint=hint)
            os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise write_error(error, path) from error
    except ValueError as error:  # a name that no file system takes: a null character, a lone surrogate
        raise ConversionError(f"{path!r}: cannot be a file's name: {error}") from error


def _exists(path: str) -> bool:
    """Whether the name *path* is taken, be it by a link to nowhere; raises for a name that nothing can have."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_same_file(path: str, source: LocalSource) -> bool:
    """Whether *path* leads to *source*: the same path, a symbolic or a hard link."""
    try:
        named = os.stat(path)
    except OSError:
        return False
    return (named.st_dev, named.st_ino) == (source.stat.dev, source.stat.ino)


def in_source_order(output: OutputFile) -> list[PlannedTensor]:
    """The tensors of *output* in the order in which they lie in the sources."""
    order = {id(piece.source): n for n, piece in enumerate(p for t in output.tensors for p in t.pieces)}
    first = [(order[id(t.pieces[0].source)], t.pieces[0].tensor.start, n) for n, t in enumerate(output.tensors)]
    return [output.tensors[index] for _, _, index in sorted(first)]


def write_copied(
    output: OutputFile, planned: PlannedTensor, part: PartFile, told: Progress, buffer: memoryview
) -> None:
    """Write *planned*, a tensor of *output*, as its sources have it, through *buffer*, :data:`BLOCK` bytes."""
    start = len(output.header) + planned.begin
    as_they_lie = runs(planned) if lies_in_files(planned) else None
    if as_they_lie is not None:
        for run in as_they_lie:
            copy(run.source, run.start, run.nbytes, part, start + run.offset, told=told, buffer=buffer)
        return
    for offset, data in stream(planned, buffer):
        part.write_at(start + offset, data)
        told(len(data))


def _write_plain(plain: PlainFile, part: PartFile, told: Progress) -> None:
    buffer = memoryview(bytearray(BLOCK))
    try:
        copy(plain.source, 0, plain.source.size, part, 0, told=told, buffer=buffer)
    except OSError as error:
        raise write_error(error, part.target, plain.source.size) from error


def _ignore(_count: int) -> None:
    pass


def check_unchanged(plan: ConversionPlan) -> None:
    """Raise :class:`ChangedDuringRead` where a file that *plan* reads is not what it was when it was opened."""
    for source in plan.sources():
        if isinstance(source, LocalSource):
            source.check_unchanged()
