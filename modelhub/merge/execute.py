"""Carrying a planned merge out: the converter writes, and asks here for the tensors that change."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace

import torch

from modelhub.convert import ConversionPlan, OutputFile, PlannedTensor
from modelhub.convert.background import Background
from modelhub.convert.execute import check_target, in_source_order, write_copied
from modelhub.convert.execute import execute as write_conversion
from modelhub.convert.stream import BLOCK
from modelhub.convert.target import PartFile, write_error
from modelhub.convert.verify import Mark, verify
from modelhub.errors import MergeError, WouldOverwrite
from modelhub.merge.base import Address, Merge, MergePlan, Recipe, Told
from modelhub.merge.compute import Buffers, Computation
from modelhub.merge.reading import bytes_of
from modelhub.merge.recheck import recheck
from modelhub.merge.recipe import recipe_path, written_recipe
from modelhub.source import LocalSource, Source

Progress = Callable[[int], None]

_MOST_THREADS = 8


def execute(
    plan: MergePlan,
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    verify_tensors: int = 0,
    expected: Mapping[str, str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Merge:
    """Write what *plan* says to *target*, and the recipe beside it.

    All that :func:`modelhub.convert.execute` promises of its target holds here. Tensors that nothing changes are
    copied and compared byte for byte. *verify_tensors* of those that change are computed once more, as a whole and in
    F64, and compared with what was written. *expected* are SHA-256 that the base's files must have, by name. *progress*
    is told bytes as they are written, ``plan.size`` altogether. *threads* is how many tensors are computed at a time.

    Raises :class:`MergeError` for a module that does not fit or values that are out of range, and what
    :func:`modelhub.convert.execute` raises.
    """
    path = os.fspath(target)
    beside = recipe_path(path)
    if os.path.lexists(beside) and not force:
        raise WouldOverwrite(f"{beside}: exists already")
    check_target(plan.conversion, path, force=force)
    workers = threads or min(os.cpu_count() or 1, _MOST_THREADS)
    writer = _Merging(plan, workers, verify_tensors, expected or {})
    with _torch_threads(max(1, (os.cpu_count() or 1) // workers)):
        done = write_conversion(plan.conversion, path, force=force, progress=progress, writer=writer)
    recipe = replace(plan.recipe, digests=writer.digests)
    _write_recipe(recipe, path, beside, force=force)
    return Merge(plan, done, writer.told, writer.digests, beside, writer.checked)


class _Merging:
    """The writer of a merge; what it told and digested is there when all outputs are written."""

    def __init__(self, plan: MergePlan, workers: int, again: int, expected: Mapping[str, str]) -> None:
        self.told: dict[Address, Told] = {}
        self.checked: Mapping[Address, float] = {}
        self.digests: dict[str, str] = {}
        self._plan = plan
        self._workers = workers
        self._again = again
        self._expected = expected
        self._marks: dict[tuple[str, str], tuple[Mark, ...]] = {}
        self._final: dict[str, OutputFile] = {}
        self._here = threading.local()
        self._lock = threading.Lock()

    def write(self, output: OutputFile, part: PartFile, told: Progress) -> None:
        """Compute and copy the tensors of *output*; its header comes last, since the base's digests are in it."""
        stopped = threading.Event()
        with Background(self._digest) if not self.digests else _Nothing() as digesting:
            pool = ThreadPoolExecutor(self._workers, thread_name_prefix="merge")
            try:
                tasks = [
                    pool.submit(self._write_tensor, output, planned, part, told, stopped)
                    for planned in in_source_order(output)
                ]
                _finish(tasks)
            except OSError as error:
                raise write_error(error, part.target, output.size) from error
            finally:
                stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)
            if digesting is not None:
                self.digests = digesting.result()
                self._check_expected()
        final = self._final[output.path] = self._with_digests(output)
        try:
            part.write_at(0, final.header)
        except OSError as error:
            raise write_error(error, part.target, output.size) from error
        told(len(final.header))

    def verify(self, plan: ConversionPlan, path: str, progress: Progress | None) -> None:
        """Compare copies byte for byte, computed tensors at their marks, and some of them with another computation."""
        outputs = tuple(self._final[output.path] for output in plan.outputs)
        verify(replace(plan, outputs=outputs), path, progress=progress, marks=self._marks)
        if self._again:
            self.checked = recheck(self._plan, path, self._again)
        for adapter in self._plan.adapters:
            if isinstance(adapter.source, LocalSource):
                adapter.source.check_unchanged()

    def _write_tensor(
        self, output: OutputFile, planned: PlannedTensor, part: PartFile, told: Progress, stopped: threading.Event
    ) -> None:
        def tell(count: int) -> None:
            if stopped.is_set():
                raise _Stopped
            with self._lock:
                told(count)

        address = Address(output.path, planned.name)
        changes = self._plan.changes.get(address)
        if not hasattr(self._here, "buffers"):
            self._here.buffers = Buffers()
            self._here.block = memoryview(bytearray(BLOCK))
        if changes is None:
            write_copied(output, planned, part, tell, self._here.block)
            return
        computation = Computation(planned, changes, self._plan.adapters, self._plan.precision, self._here.buffers)
        start = len(output.header) + planned.begin
        marks: list[Mark] = []
        for offset, block in computation.blocks():
            data = bytes_of(block)
            if offset == 0 or offset + len(data) == planned.nbytes:
                marks.append(Mark(offset, len(data), zlib.crc32(data)))
            part.write_at(start + offset, data)
            tell(len(data))
        with self._lock:
            self.told[address] = computation.told
            self._marks[address] = tuple(marks)

    def _digest(self, stopped: threading.Event) -> dict[str, str]:
        names = {mark: name for name, mark in self._plan.recipe.digests.items()}
        return {names[mark]: _sha256(source, stopped) for source, mark in self._plan.pending}

    def _check_expected(self) -> None:
        for name, sha256 in self._expected.items():
            if self.digests.get(name) != sha256:
                raise MergeError(f"{self._plan.base}: {name} is not the base of the recipe, whose SHA-256 is {sha256}")

    def _with_digests(self, output: OutputFile) -> OutputFile:
        header, metadata = output.header, dict(output.metadata)
        for name, mark in self._plan.recipe.digests.items():
            header = header.replace(mark.encode(), self.digests[name].encode())
            metadata = {key: value.replace(mark, self.digests[name]) for key, value in metadata.items()}
        return replace(output, header=header, metadata=metadata)


class _Stopped(Exception):
    """Raised in a thread whose work is not wanted any more."""


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def _finish(tasks: list[Future[None]]) -> None:
    """Wait for all *tasks*, or raise what the first one that failed did."""
    done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
    for task in tasks:
        if task in done and not isinstance(task.exception(), _Stopped):
            task.result()


def _sha256(source: Source, stopped: threading.Event) -> str:
    import hashlib

    sha256 = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    offset = 0
    while not stopped.is_set() and (got := source.readinto_at(offset, buffer)):
        sha256.update(buffer[:got])
        offset += got
    return sha256.hexdigest()


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_recipe(recipe: Recipe, target: str, path: str, *, force: bool) -> None:
    data = written_recipe(recipe, os.path.dirname(os.path.abspath(target))).encode(errors="surrogateescape")
    with PartFile(path, len(data)) as part:
        try:
            part.write_at(0, data)
            part.sync()
        except OSError as error:
            raise write_error(error, path, len(data)) from error
        part.commit(force=force)
