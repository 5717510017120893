"""From an address to what lies there: a file of any server's, or a file or a folder on the Hub or in a bucket."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from modelhub.errors import NotFound
from modelhub.source.address import BUCKETS, HUB, shown_address
from modelhub.source.buckets import BucketReference, bucket_reference_of
from modelhub.source.remote import RemoteSource
from modelhub.source.web import Web

if TYPE_CHECKING:
    from modelhub.source.hub import Reference


class RemoteFolder(NamedTuple):
    """A folder on the Hub or in a bucket: its pinned *name*, its files by relative path, and how one is opened."""

    name: str
    files: tuple[str, ...]
    open: Callable[[str], RemoteSource]


class File(Protocol):
    """A file as a listing tells it: its path, bytes, the SHA-256 that is claimed of it, and what tells its bytes from
    others."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str | None: ...
    @property
    def etag(self) -> str | None: ...


class Place(Protocol):
    """How what a reference names is reached: the Hub's module, and one for each sort of bucket."""

    def open_web(self, reference: Any, /) -> Web:
        """A client for it, which its opener closes."""

    def pin(self, reference: Any, /) -> Any:
        """The reference with the version that it is now."""

    def address_of(self, reference: Any, /) -> str:
        """The address that a file is read from; not to be shown."""

    def files_of(self, reference: Any, /) -> Sequence[File]:
        """The files in a folder and below; of a file itself."""


class Lying(NamedTuple):
    """One thing that an address leads to: a file, or a folder that is one pipeline."""

    address: str
    is_folder: bool = False


def open_address(address: str, stack: ExitStack, *, whole: bool = False) -> RemoteSource | RemoteFolder:
    """Open the file that *address* names, or the repository, the bucket, or the folder in it where it ends with ``/``.

    *stack* closes it. *whole* is the consent to read all of a file. Raises :class:`~modelhub.errors.SourceError` when
    it cannot be had.
    """
    reference = place_of(address)
    if reference is None or not reference.is_folder:
        way = reach(address, stack)
        return stack.enter_context(RemoteSource(way.url, way.name, way.web, whole=whole))
    place = place_at(reference)
    pinned = place.pin(reference)
    web = place.open_web(pinned)
    stack.callback(web.close)

    def open_file(relative: str) -> RemoteSource:
        file = place.pin(pinned._replace(path=pinned.path + relative))
        return stack.enter_context(RemoteSource(place.address_of(file), str(file), web, whole=whole))

    files = sorted(file.path.removeprefix(pinned.path) for file in place.files_of(pinned))
    return RemoteFolder(str(pinned), tuple(files), open_file)


class Way(NamedTuple):
    """How one file is read: through *web*, at *url*, which is not to be shown; *name* is its pinned address."""

    web: Web
    url: str
    name: str


def reach(address: str, stack: ExitStack) -> Way:
    """The way to the one file that *address* names; *stack* closes it.

    Raises :class:`~modelhub.errors.SourceError` when there is none.
    """
    reference = place_of(address)
    if reference is None:
        web = Web()
        stack.callback(web.close)
        return Way(web, address, shown_address(address))
    place = place_at(reference)
    web = place.open_web(reference)
    stack.callback(web.close)
    pinned = place.pin(reference)
    return Way(web, place.address_of(pinned), str(pinned))


def what_lies_at(
    address: str, takes_up: Callable[[str], bool], is_one: Callable[[Collection[str], bool], bool]
) -> Iterator[Lying]:
    """What there is to examine at *address*, pinned: itself, where it is a file; of a repository, or a folder in it,
    each folder that is one model and each file beside them whose name *takes_up* says is a model's.

    *is_one* says whether a folder is one model, by the names in it and whether it has no folders. Raises
    :class:`~modelhub.errors.SourceError` when it cannot be listed.
    """
    reference = place_of(address)
    if reference is None:
        yield Lying(address)
        return
    place = place_at(reference)
    pinned = place.pin(reference)
    if not pinned.is_folder and takes_up(pinned.path):
        yield Lying(str(pinned))
        return
    try:
        paths = [file.path for file in place.files_of(pinned)]
    except NotFound:
        if pinned.is_folder:
            raise
        yield Lying(str(pinned))
        return
    models = model_folders(paths, is_one)
    for folder in models:
        yield Lying(str(pinned._replace(path=folder)), is_folder=True)
    for path in paths:
        if takes_up(path) and folder_around(path, models) is None:
            yield Lying(str(pinned._replace(path=path)))


def model_folders(paths: Iterable[str], is_one: Callable[[Collection[str], bool], bool]) -> list[str]:
    """The folders among *paths* that are one model, sorted, none in another; each ends with ``/`` or is empty.

    *is_one* as for :func:`what_lies_at`.
    """
    models: list[str] = []
    for folder, names in sorted(_folders(paths).items()):
        is_leaf = not any(name.endswith("/") and not name.startswith(".") for name in names)
        if not (models and folder.startswith(models[-1])) and is_one(names, is_leaf):
            models.append(folder)
    return models


def folder_around(path: str, folders: Sequence[str]) -> str | None:
    """That of *folders*, sorted and none in another, which the file *path* lies in, if one does."""
    at = bisect_right(folders, path)  # whatever sorts between a folder and a path in it lies in that folder, too
    return folders[at - 1] if at and path.startswith(folders[at - 1]) else None


def _folders(paths: Iterable[str]) -> dict[str, set[str]]:
    """The names in each folder that has files, by its path, which is empty or ends with ``/``, as the names of folders
    in it do."""
    folders: dict[str, set[str]] = {}
    for path in paths:
        folder, slash, name = path.rpartition("/")
        folders.setdefault(folder + slash, set()).add(name)
    for folder in list(folders):
        below = folder
        while below:
            above, slash, name = below[:-1].rpartition("/")
            below = above + slash
            if below in folders:
                folders[below].add(f"{name}/")
    return folders


def place_of(address: str) -> Reference | BucketReference | None:
    """What *address* names on the Hub or in a bucket, ``None`` elsewhere.

    Raises :class:`NotFound` for what is no address.
    """
    return bucket_reference_of(address) if address.startswith(BUCKETS) else reference_of(address)


def place_at(reference: Reference | BucketReference) -> Place:
    """How what *reference* names is reached. Raises :class:`~modelhub.errors.MissingExtra`."""
    if isinstance(reference, BucketReference):
        if reference.store == "s3":
            from modelhub.source import s3

            return s3
        from modelhub.source import gcs

        return gcs
    from modelhub.source import hub

    return hub


def reference_of(address: str) -> Reference | None:
    """What *address* names on the Hub, ``None`` elsewhere, where huggingface_hub is not needed.

    Raises :class:`NotFound` for what is no address.
    """
    if address.startswith(BUCKETS):
        return None
    if not address.startswith(HUB):
        host = _host(address)
        if host is None:
            shown = shown_address(address)
            raise NotFound(f"{shown}: not an address", path=shown)
        if host not in ("huggingface.co", _host(os.environ.get("HF_ENDPOINT", ""))):
            return None
    from modelhub.source import hub

    return hub.reference_of(address)


def _host(address: str) -> str | None:
    """The host that *address* names, with its port; ``None`` for what is no address."""
    try:
        return urlsplit(address).netloc
    except ValueError:
        return None
