"""The digests of the catalog's files, computed when somebody asks for them: each file read once, and only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from modelhub.container import Container, open_path
from modelhub.db import Catalog, ToHash
from modelhub.errors import ChangedDuringRead, ModelHubError, SourceError
from modelhub.intake import digest_of_container, stat_of
from modelhub.source import LocalSource, digest_of, open_local
from modelhub.source.digests import Run, digests_of

Progress = Callable[[int], None]


class Hashed(NamedTuple):
    """One file's digests by name, or why they cannot be had."""

    path: str
    digests: dict[str, str]
    error: ModelHubError | None = None


def hash_files(
    catalog: Catalog,
    selectors: Sequence[str] = (),
    *,
    progress: Progress | None = None,
    on_file: Callable[[str, int], None] | None = None,
) -> Iterator[Hashed]:
    """Compute what digests *catalog* lacks, of the records that *selectors* fit or of all; the smallest file first.

    A file's digests are written down as soon as it has been read, so that a run that is interrupted goes on where it
    was. A file that has changed since the last sync is left to the next one, with an error.
    """
    ids = [catalog.show(selector).entry.id for selector in selectors] if selectors else None
    for place in catalog.digests.to_compute(ids):
        if on_file is not None:
            on_file(place.stat.path, place.stat.size)
        try:
            digests = _digests(place, progress)
            catalog.digests.put(place, digests)
        except ModelHubError as error:
            yield Hashed(place.stat.path, {}, error)
        else:
            yield Hashed(place.stat.path, digests)


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


def _digests(place: ToHash, progress: Progress | None) -> dict[str, str]:
    path = place.stat.path
    if stat_of(path)[1:3] != place.stat[1:3]:
        raise ChangedDuringRead(f"{path}: it has changed since the last sync", hint="run 'modelhub library sync'")
    with open_path(path) as container:
        if container.source is None:
            return {"sha256": digest_of_container(container, progress).sha256}
        digests = digests_of(container.source, tensor_runs(container), progress)
        if isinstance(container.source, LocalSource):
            container.source.check_unchanged()
        return digests


def tensor_runs(container: Container) -> list[Run] | None:
    """Where the tensors of *container* lie; ``None`` where their bytes do not all lie plainly in the file, in order."""
    state_dict, source = container.state_dict, container.source
    if not state_dict or source is None or container.skipped:
        return None
    runs = []
    for tensor in state_dict.values():
        storage = tensor.storage
        as_they_are = storage.plain and storage.byteorder == "little" and not (tensor.conj or tensor.neg)
        if not tensor.contiguous or not as_they_are:
            return None
        runs.append(Run(tensor.start, tensor.nbytes, f"{tensor.dtype.label} {list(tensor.shape)} {tensor.name}"))
    return runs
