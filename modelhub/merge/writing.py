"""The writer of files whose tensors are partly computed: the converter writes, and asks here for those that change."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from modelhub import termination
from modelhub.convert import Conversion, ConversionPlan, OutputFile, Piece, PlannedTensor
from modelhub.convert.background import Background
from modelhub.convert.execute import check_target, check_unchanged, write_copied
from modelhub.convert.execute import execute as write_conversion
from modelhub.convert.integrity import check_sources
from modelhub.convert.stream import BLOCK
from modelhub.convert.target import PartFile, write_error, write_file
from modelhub.convert.verify import Mark, verify
from modelhub.errors import MergeError, ModelHubError, RecipeNotWritten, WouldOverwrite
from modelhub.merge.base import Address, Told
from modelhub.merge.digesting import Digesting
from modelhub.merge.recipe import lies_beside, recipe_path
from modelhub.source import Source

if TYPE_CHECKING:
    from modelhub.merge.compute import Buffers, Computed
    from modelhub.merge.worker import Worker

Progress = Callable[[int], None]


class Compute(Protocol):
    """What is computed of an output; what is not is copied."""

    def parted(self, output: OutputFile) -> tuple[Sequence[PlannedTensor], Sequence[Sequence[PlannedTensor]]]:
        """The tensors of *output* that are copied, and those that are computed, some after others are done."""

    def __call__(self, address: Address, planned: PlannedTensor, buffers: Buffers) -> Computed:
        """What computes *planned*, which lies at *address*."""


_MOST_THREADS = 8


class Computing:
    """Writes what *compute* computes and copies the rest; ``told`` and ``digests`` are there when all is written.

    *digesting* computes digests that are not known yet and for which something else stands in the outputs' headers:
    each header comes last. *pending* are their files, *expected* those that are known beforehand, by what stands for
    them. *others* are what is read beside the plan's own: the checksums that their files have are compared too.
    *recheck* computes something of the written file or folder once more. *recipe* is the file of the recipe that is
    carried out, which may lie where the output's would.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        digesting: Digesting,
        pending: Sequence[tuple[Source, str]] = (),
        expected: Mapping[str, str] | None = None,
        others: Iterable[Piece] = (),
        recheck: Callable[[str], Mapping[Address, float]] | None = None,
        workers: int | None = None,
        recipe: str | None = None,
    ) -> None:
        self.told: dict[Address, Told] = {}
        self.checked: Mapping[Address, float] = {}
        self.digests: Mapping[str, str] = {}
        self._compute = compute
        self._digesting = digesting
        self._pending = pending
        self._expected = expected or {}
        read = (PlannedTensor(p.tensor.name, p.tensor.dtype, p.tensor.shape, (p,), 0, 0) for p in others)
        self._others = ConversionPlan("", (OutputFile("", b"", tuple(read), {}),))
        self._recheck = recheck
        self._recipe = recipe
        self._workers = workers or min((os.cpu_count() or 1) + 2, _MOST_THREADS)  # some wait for the disk
        self._marks: dict[tuple[str, str], tuple[Mark, ...]] = {}
        self._final: dict[str, OutputFile] = {}
        self._lock = threading.Lock()

    def execute(self, plan: ConversionPlan, path: str, *, force: bool, progress: Progress | None) -> Conversion:
        """Write *plan* to *path*; as :func:`modelhub.convert.execute`, and the recipe's place must be free too."""
        if os.path.lexists(recipe_path(path)) and not (force or lies_beside(self._recipe, path)):
            raise WouldOverwrite(f"{recipe_path(path)}: exists already")
        read = replace(self._others, outputs=(*plan.outputs, *self._others.outputs))
        check_target(read, path, force=force, merging=True)
        return write_conversion(plan, path, force=force, progress=progress, writer=self)

    def write(self, output: OutputFile, part: PartFile, told: Progress) -> None:
        """Compute and copy the tensors of *output*; its header comes last, since digests are in it."""
        stopped = threading.Event()

        def tell(count: int) -> None:
            if stopped.is_set():
                raise _Stopped
            with self._lock:
                told(count)

        with Background(self._check_others) if not self.digests else nullcontext() as checking:
            pool = ThreadPoolExecutor(self._workers, thread_name_prefix="merge")
            try:
                # What is copied comes first, by this thread: a write into the page cache waits for all others.
                copied, computed = self._compute.parted(output)
                with Background(load) if any(computed) else nullcontext():
                    self._write_copied(output, copied, part, tell)
                for tensors in filter(None, computed):
                    self._write_in(pool, output, tensors, part, tell)
                part.settle()
            except OSError as error:
                raise write_error(error, part.target, output.size) from error
            finally:
                stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)
            if checking is not None:
                checking.result()
                self._take_digests()
        final = self._final[output.path] = self._with_digests(output)
        try:
            part.write_at(0, final.header)
        except OSError as error:
            raise write_error(error, part.target, output.size) from error
        told(len(final.header))

    def verify(self, plan: ConversionPlan, path: str, progress: Progress | None) -> None:
        """Compare copies byte for byte, computed tensors at their marks, and some of them with another computation."""
        if not self.digests:  # nothing was computed: all of a folder is copied
            self._take_digests()
        outputs = tuple(self._final[output.path] for output in plan.outputs)
        verify(replace(plan, outputs=outputs), path, progress=progress, marks=self._marks)
        if self._recheck is not None:
            self.checked = self._recheck(path)
        check_unchanged(self._others)

    def _write_in(
        self,
        pool: ThreadPoolExecutor,
        output: OutputFile,
        tensors: Sequence[PlannedTensor],
        part: PartFile,
        tell: Progress,
    ) -> None:
        """Compute and write *tensors* by the threads of *pool*."""
        from modelhub.merge.worker import torch_threads

        with torch_threads(max(1, (os.cpu_count() or 1) // self._workers)):
            following = iter(tensors)  # a tuple's or list's, which gives each tensor to one of the threads
            with termination.held():  # a signal while a task is handed over would leave its locks taken
                work = [pool.submit(self._write_computed, output, following, part, tell) for _ in range(self._workers)]
            _finish(work)

    def _write_computed(
        self, output: OutputFile, following: Iterator[PlannedTensor], part: PartFile, tell: Progress
    ) -> None:
        from modelhub.merge.worker import Worker

        worker = Worker(self._compute, output, part, tell)
        for planned in following:
            address = Address(output.path, planned.name)
            told, marks = worker.write(address, planned)
            with self._lock:
                self._marks[address] = marks
                if told is not None:
                    self.told[address] = told

    def _write_copied(
        self, output: OutputFile, copied: Sequence[PlannedTensor], part: PartFile, tell: Progress
    ) -> None:
        block = memoryview(bytearray(BLOCK))
        for planned in copied:
            write_copied(output, planned, part, tell, block)

    def _check_others(self, stopped: threading.Event) -> None:
        check_sources(self._others, stopped)

    def _take_digests(self) -> None:
        self.digests = {mark: self._digesting.of(source) for source, mark in self._pending}
        for source, mark in self._pending:
            sha256 = self._expected.get(mark)
            if sha256 is not None and self.digests[mark] != sha256:
                raise MergeError(f"{source.name}: it is not the file of the recipe, whose SHA-256 is {sha256}")

    def _with_digests(self, output: OutputFile) -> OutputFile:
        header, metadata = output.header, dict(output.metadata)
        for mark, sha256 in self.digests.items():
            header = header.replace(mark.encode(), sha256.encode())
            metadata = {key: value.replace(mark, sha256) for key, value in metadata.items()}
        return replace(output, header=header, metadata=metadata)


def load(_stopped: threading.Event) -> type[Worker]:
    """What works, and torch with it, which takes a second to load: reading and writing can go on meanwhile."""
    from modelhub.merge.worker import Worker

    return Worker


class _Stopped(Exception):
    """Raised in a thread whose work is not wanted any more."""


def write_recipe(text: str, target: str, *, of: object, force: bool, carried_out: str | None = None) -> None:
    """Write the recipe *text* beside *target*, which is written: *of* is the merge or blend that did it.

    The recipe that was *carried_out* is left as it is where it lies there. Raises :class:`RecipeNotWritten`: the target
    stays, since what it was made of is in its metadata too.
    """
    if lies_beside(carried_out, target):
        return
    data = text.encode(errors="surrogateescape")
    try:
        write_file(recipe_path(target), data, force=force)
    except ModelHubError as error:
        message = f"{error}; {target} is whole, and has the recipe in its metadata"
        raise RecipeNotWritten(message, of, hint=error.hint) from error


def _finish(tasks: list[Future[None]]) -> None:
    """Wait for all *tasks*; raise what the first one that failed did."""
    left = set(tasks)
    while left:
        done, left = wait(left, timeout=termination.DEAF, return_when=FIRST_EXCEPTION)
        for task in done:
            if not isinstance(task.exception(), _Stopped):
                task.result()
