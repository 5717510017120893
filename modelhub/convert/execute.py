"""Carrying a planned conversion out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from modelhub.convert.base import Conversion, ConversionPlan, OutputFile, PlainFile
from modelhub.convert.part_folder import PartFolder
from modelhub.convert.stream import BLOCK, runs, stream
from modelhub.convert.target import PartFile, write_error
from modelhub.convert.verify import verify
from modelhub.errors import ChangedDuringRead, ConversionError, NotFound, WouldOverwrite
from modelhub.source import LocalSource, Source

Progress = Callable[[int], None]


def execute(
    plan: ConversionPlan,
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    in_place: bool = False,
    make_parents: bool = False,
    progress: Progress | None = None,
    on_verify: Progress | None = None,
) -> Conversion:
    """Write what *plan* says to *target*, verify it against the sources, and only then give it the target's name.

    *progress* is told bytes as they are written, ``plan.size`` altogether; *on_verify* bytes of tensors as they are
    compared. With *force* an existing file is replaced (a symbolic link itself, not the file it points to), with
    *in_place* even one that is read from; a folder never is. With *make_parents* missing folders are made. Whatever
    happens, the sources are only read, and until the very end *target* is what it was before; an interrupted
    conversion removes its part file, a killed one leaves it to the next.

    Raises :class:`WouldOverwrite`, :class:`NoSpace`, :class:`AccessDenied`, :class:`NotFound`,
    :class:`ChangedDuringRead`, :class:`VerificationFailed`, or :class:`ConversionError`.
    """
    started = time.monotonic()
    path = os.fspath(target)
    check_target(plan, path, force=force, in_place=in_place, make_parents=make_parents)
    told = progress if progress is not None else _ignore
    if plan.is_folder:
        with PartFolder(path, plan.size) as folder:
            for output in plan.outputs:
                with PartFile(folder.file(output.path), output.size) as part:
                    _write(output, part, told)
                    part.sync()
                    part.commit(force=False)
            for plain in plan.plain:
                with PartFile(folder.file(plain.path), plain.source.size) as part:
                    _write_plain(plain, part, told)
                    part.sync()
                    part.commit(force=False)
            verify(plan, folder.path, progress=on_verify)
            _check_unchanged(plan)
            folder.commit()
        return Conversion(plan, path, plan.size, time.monotonic() - started)
    (output,) = plan.outputs
    with PartFile(path, plan.size) as part:
        _write(output, part, told)
        _check_unchanged(plan)
        flush = _InBackground(part.sync)
        try:
            verify(plan, part.path, progress=on_verify)
        finally:
            flush.join()
            _check_unchanged(plan)
        if flush.error is not None:
            raise write_error(flush.error, path, plan.size)
        part.commit(force=force or in_place)
    return Conversion(plan, path, plan.size, time.monotonic() - started)


def check_target(
    plan: ConversionPlan, path: str, *, force: bool = False, in_place: bool = False, make_parents: bool = False
) -> None:
    """Refuse a *path* that must not or cannot be written; with *make_parents*, make its missing folders."""
    try:
        if _exists(path):
            read = any(isinstance(source, LocalSource) and _is_same_file(path, source) for source in plan.sources())
            if read and not in_place:
                raise WouldOverwrite(f"{path}: it is the source itself", hint="name another target, or say --in-place")
            if plan.is_folder:
                if not os.path.isdir(path) or os.listdir(path):
                    raise WouldOverwrite(f"{path}: exists already", hint="name a new folder: none is ever replaced")
            elif os.path.isdir(path) and not os.path.islink(path):
                raise ConversionError(f"{path}: cannot be written: it is a folder")
            elif not (force or read):
                raise WouldOverwrite(f"{path}: exists already")
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            if not make_parents:
                raise NotFound(f"{path}: cannot be written: there is no folder {folder}")
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


def _write(output: OutputFile, part: PartFile, told: Progress) -> None:
    """Write header and tensors, in the order in which they lie in the sources."""
    start = len(output.header)
    buffer = memoryview(bytearray(BLOCK))
    order = {id(piece.source): n for n, piece in enumerate(p for t in output.tensors for p in t.pieces)}
    try:
        part.write_at(0, output.header)
        told(start)
        first = [(order[id(t.pieces[0].source)], t.pieces[0].tensor.start, n) for n, t in enumerate(output.tensors)]
        for _, _, index in sorted(first):
            planned = output.tensors[index]
            begin = start + planned.begin
            as_they_lie = runs(planned)
            if as_they_lie is None:
                for offset, data in stream(planned):
                    part.write_at(begin + offset, data)
                    told(len(data))
                continue
            for run in as_they_lie:
                for offset in range(0, run.nbytes, BLOCK):
                    block = buffer[: min(BLOCK, run.nbytes - offset)]
                    _read(run.source, run.start + offset, block)
                    part.write_at(begin + run.offset + offset, block)
                    told(len(block))
    except OSError as error:
        raise write_error(error, part.target, output.size) from error


def _write_plain(plain: PlainFile, part: PartFile, told: Progress) -> None:
    buffer = memoryview(bytearray(BLOCK))
    try:
        for offset in range(0, plain.source.size, BLOCK):
            block = buffer[: min(BLOCK, plain.source.size - offset)]
            _read(plain.source, offset, block)
            part.write_at(offset, block)
            told(len(block))
    except OSError as error:
        raise write_error(error, part.target, plain.source.size) from error


def _read(source: Source, offset: int, block: memoryview) -> None:
    if source.readinto_at(offset, block) != len(block):
        raise ChangedDuringRead(f"{source.name}: it became shorter while it was read")


def _ignore(_count: int) -> None:
    pass


def _check_unchanged(plan: ConversionPlan) -> None:
    for source in plan.sources():
        if isinstance(source, LocalSource):
            source.check_unchanged()


class _InBackground:
    """A system call that waits for the disk, while this thread goes on; its error, if any, is kept in ``error``."""

    def __init__(self, call: Callable[[], None]) -> None:
        import threading

        self.error: OSError | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except OSError as error:
            self.error = error

    def join(self) -> None:
        self._thread.join()
