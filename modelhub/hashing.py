"""The digests of the catalog's files, computed when somebody asks for them: each file read once, and only once.

A disk that spins is read by one reader from the first file to the last; other disks, and several disks, at the same
time. What is found is written down here, by one writer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from queue import SimpleQueue
from typing import NamedTuple

from modelhub import termination
from modelhub.container import Container, open_path
from modelhub.convert import casts
from modelhub.convert.components import bare_name, component_of
from modelhub.db import Catalog, ToHash
from modelhub.errors import ChangedDuringRead, ConversionError, ModelHubError, SourceError
from modelhub.intake import digest_of_container, stat_of
from modelhub.source import LocalSource, digest_of, open_local
from modelhub.source.digests import Cast, Digested, Run, read_digests
from modelhub.source.disks import disk_of
from modelhub.tensors import DType, TensorInfo

Progress = Callable[[int], None]
Answer = tuple[ToHash, Digested | BaseException]


class Hashed(NamedTuple):
    """One file's digests by name, or why they cannot be had."""

    path: str
    digests: dict[str, str]
    error: ModelHubError | None = None


def hash_files(
    catalog: Catalog,
    selectors: Sequence[str] = (),
    *,
    components: bool = False,
    progress: Progress | None = None,
    on_start: Callable[[int, int], None] | None = None,
) -> Iterator[Hashed]:
    """Compute what digests *catalog* lacks, of the records that *selectors* fit or of all; of each disk the smallest
    file first.

    A file's digests are written down as soon as it has been read, so that a run that is interrupted goes on where it
    was. A file that has changed since the last sync is left to the next one, with an error. *on_start* is told how many
    files and bytes there are to read, *progress* bytes as they are read, from any thread. With *components* those of
    its tensors are told apart, too, and of files of float32 also as they would be in float16, where numpy is installed.
    """
    ids = [catalog.show(selector).entry.id for selector in selectors] if selectors else None
    places = catalog.digests.to_compute(ids, components=components)
    if on_start is not None:
        on_start(len(places), sum(place.stat.size for place in places))
    readers = _Readers(places, progress, components)
    try:
        for place, found in readers.answers():
            try:
                if isinstance(found, BaseException):
                    raise found
                catalog.digests.put(place, found.digests, found.parts)
            except ModelHubError as error:
                yield Hashed(place.stat.path, {}, error)
            else:
                yield Hashed(place.stat.path, found.digests)
    finally:
        readers.stop()


class _Stopped(Exception):
    """Nobody waits for the digests any more."""


class _Readers:
    """Threads that read: of each disk as many as it bears."""

    def __init__(self, places: Sequence[ToHash], progress: Progress | None, components: bool) -> None:
        self._components = components
        self._progress = progress
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._expected = len(places)
        self._stopping = threading.Event()
        waiting: dict[str, deque[ToHash]] = {}
        readers: dict[str, int] = {}
        for place in places:
            disk = disk_of(place.stat.dev)
            waiting.setdefault(disk.name, deque()).append(place)
            readers[disk.name] = disk.readers
        self._threads = [
            threading.Thread(target=self._read, args=(queue,), daemon=True)
            for name, queue in waiting.items()
            for _ in range(min(readers[name], len(queue)))
        ]

    def answers(self) -> Iterator[Answer]:
        """Each place with its digests or why they cannot be had, as they come."""
        for thread in self._threads:
            thread.start()
        for _ in range(self._expected):
            yield termination.get(self._answers)

    def stop(self) -> None:
        """End the threads; what they are at is not finished."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _read(self, waiting: deque[ToHash]) -> None:
        while not self._stopping.is_set():
            try:
                place = waiting.popleft()
            except IndexError:
                return
            found: Digested | BaseException
            try:
                found = _read(place, self._advance, self._components)
            except BaseException as error:  # whoever waits for it is told
                found = error
            self._answers.put((place, found))

    def _advance(self, nbytes: int) -> None:
        if self._stopping.is_set():
            raise _Stopped
        if self._progress is not None:
            self._progress(nbytes)


def hash_images(catalog: Catalog, selectors: Sequence[str] = ()) -> None:
    """Compute the SHA-256 of the pictures beside the records that *selectors* fit, or beside all, that have none yet.

    One that cannot be read, or is no file any more, is left to the next time.
    """
    ids = [catalog.show(selector).entry.id for selector in selectors] if selectors else None
    found = {}
    for image in catalog.side_files.images_to_hash(ids):
        with suppress(SourceError), open_local(image.path) as source:
            found[image.id] = digest_of(source).sha256
    if found:
        catalog.side_files.put_image_digests(found)


def _read(place: ToHash, progress: Progress | None, components: bool) -> Digested:
    path = place.stat.path
    if stat_of(path)[1:3] != place.stat[1:3]:
        raise ChangedDuringRead(f"{path}: it has changed since the last sync", hint="run 'modelhub library sync'")
    with open_path(path) as container:
        if container.source is None:
            return Digested({"sha256": digest_of_container(container, progress).sha256}, ())
        read = read_digests(container.source, tensor_runs(container, components=components), progress)
        if isinstance(container.source, LocalSource):
            container.source.check_unchanged()
        return read if components else Digested(read.digests, ())


def tensor_runs(container: Container, *, components: bool = False) -> list[Run] | None:
    """Where the tensors of *container* lie; ``None`` where their bytes do not all lie plainly in the file, in order.

    With *components* each is of its component, and those of float32 have a cast to float16.
    """
    state_dict, source = container.state_dict, container.source
    if not state_dict or source is None or container.skipped:
        return None
    runs = []
    for tensor in state_dict.values():
        storage = tensor.storage
        as_they_are = storage.plain and storage.byteorder == "little" and not (tensor.conj or tensor.neg)
        if not tensor.contiguous or not as_they_are:
            return None
        runs.append(Run(tensor.start, tensor.nbytes, _label(tensor.dtype, tensor, tensor.name)))
    return (
        [_of_part(run, tensor) for run, tensor in zip(runs, state_dict.values(), strict=True)] if components else runs
    )


def _of_part(run: Run, tensor: TensorInfo) -> Run:
    name = bare_name(tensor.name)
    cast = None
    if tensor.dtype is DType.F32 and find_spec("numpy") is not None:
        cast = Cast(_half(tensor.name), tensor.dtype.itemsize, _label(DType.F16, tensor, name))
    label = _label(tensor.dtype, tensor, name)
    return run._replace(part=component_of(tensor.name) or "", part_label=label, cast=cast)


def _label(dtype: DType, tensor: TensorInfo, name: str) -> str:
    return f"{dtype.label} {list(tensor.shape)} {name}"


def _half(name: str) -> Callable[[memoryview], memoryview]:
    """From elements of float32 to float16, rounded once; ``ValueError`` for one beyond its range."""
    cast = casts.Cast(DType.F32, DType.F16, name)

    def apply(data: memoryview) -> memoryview:
        try:
            return cast(data) if data else data
        except ConversionError as error:
            raise ValueError(name) from error

    return apply
