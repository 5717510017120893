"""Carrying a planned conversion out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from modelhub.convert.base import Conversion, ConversionPlan
from modelhub.convert.gather import gather, needs_gathering
from modelhub.convert.target import PartFile, write_error
from modelhub.convert.verify import BLOCK, verify
from modelhub.errors import ChangedDuringRead, ConversionError, NotFound, WouldOverwrite
from modelhub.source import LocalSource, Source

Progress = Callable[[int], None]


def execute(
    plan: ConversionPlan,
    source: Source,
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    make_parents: bool = False,
    progress: Progress | None = None,
    on_verify: Progress | None = None,
) -> Conversion:
    """Write what *plan* says to *target*, verify it against *source*, and only then give it the target's name.

    *progress* is told bytes as they are written, ``plan.size`` altogether; *on_verify* bytes of tensors as they are
    compared. With *force* an existing file is replaced (a symbolic link itself, not the file it points to); with
    *make_parents* missing folders are made. Whatever happens, *source* is only read, and until the very end *target*
    is what it was before; an interrupted conversion removes its part file, a killed one leaves it to the next.

    Raises :class:`WouldOverwrite`, :class:`NoSpace`, :class:`AccessDenied`, :class:`NotFound`,
    :class:`ChangedDuringRead`, :class:`VerificationFailed`, or :class:`ConversionError`.
    """
    started = time.monotonic()
    path = os.fspath(target)
    check_target(path, source, force=force, make_parents=make_parents)
    with PartFile(path, plan.size) as part:
        _copy(plan, source, part, progress)
        _check_unchanged(source)
        flush = _InBackground(part.sync)
        try:
            verify(plan, source, part.path, progress=on_verify)
        finally:
            flush.join()
            _check_unchanged(source)
        if flush.error is not None:
            raise write_error(flush.error, path, plan.size)
        part.commit(force=force)
    return Conversion(plan, path, plan.size, time.monotonic() - started)


def check_target(path: str, source: Source, *, force: bool = False, make_parents: bool = False) -> None:
    """Refuse a *path* that must not or cannot be written; with *make_parents*, make its missing folders."""
    try:
        if _exists(path):
            if isinstance(source, LocalSource) and _is_same_file(path, source):
                raise WouldOverwrite(f"{path}: it is the source itself", hint="name another target")
            if os.path.isdir(path) and not os.path.islink(path):
                raise ConversionError(f"{path}: cannot be written: it is a folder")
            if not force:
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


def _copy(plan: ConversionPlan, source: Source, part: PartFile, progress: Progress | None) -> None:
    """Write header and tensors, in the order in which they lie in the source."""
    told = progress if progress is not None else _ignore
    start = len(plan.header)
    buffer = memoryview(bytearray(BLOCK))
    try:
        part.write_at(0, plan.header)
        told(start)
        for planned in sorted(plan.tensors, key=lambda p: p.source.start):
            tensor, begin = planned.source, start + planned.begin
            if needs_gathering(tensor):
                for offset, piece in gather(tensor, source):
                    part.write_at(begin + offset, piece)
                    told(len(piece))
                continue
            for offset in range(0, tensor.nbytes, BLOCK):
                block = buffer[: min(BLOCK, tensor.nbytes - offset)]
                if source.readinto_at(tensor.start + offset, block) != len(block):
                    raise ChangedDuringRead(f"{source.name}: it became shorter while it was read")
                part.write_at(begin + offset, block)
                told(len(block))
    except OSError as error:
        raise write_error(error, part.target, plan.size) from error


def _ignore(_count: int) -> None:
    pass


def _check_unchanged(source: Source) -> None:
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
