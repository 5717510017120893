"""From an address to what lies there: a file of any server's, or a file, folder or repository on the Hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from modelhub.errors import NotFound
from modelhub.source.address import HUB, shown_address
from modelhub.source.remote import RemoteSource
from modelhub.source.web import Web

if TYPE_CHECKING:
    from modelhub.source.hub import Reference


class RemoteFolder(NamedTuple):
    """A folder on the Hub: its pinned *name*, its files by relative path, and how one of them is opened."""

    name: str
    files: tuple[str, ...]
    open: Callable[[str], RemoteSource]


class Lying(NamedTuple):
    """One thing that an address leads to: a file, or a folder that is one pipeline."""

    address: str
    is_folder: bool = False


def open_address(address: str, stack: ExitStack, *, whole: bool = False) -> RemoteSource | RemoteFolder:
    """Open the file that *address* names, or the repository, or the folder in it where it ends with ``/``.

    *stack* closes it. *whole* is the consent to read all of a file. Raises :class:`~modelhub.errors.SourceError` when
    it cannot be had.
    """
    reference = reference_of(address)
    if reference is None:
        web = Web()
        stack.callback(web.close)
        return stack.enter_context(RemoteSource(address, shown_address(address), web, whole=whole))
    from modelhub.source import hub

    web = hub.open_web()
    stack.callback(web.close)
    pinned = hub.pin(reference)

    def open_file(path: str) -> RemoteSource:
        file = pinned._replace(path=path)
        return stack.enter_context(RemoteSource(hub.address_of(file), str(file), web, whole=whole))

    if not pinned.is_folder:
        return open_file(pinned.path)
    files = sorted(file.path.removeprefix(pinned.path) for file in hub.files_of(pinned))
    return RemoteFolder(str(pinned), tuple(files), lambda relative: open_file(pinned.path + relative))


def what_lies_at(
    address: str, takes_up: Callable[[str], bool], is_one: Callable[[Collection[str], bool], bool]
) -> Iterator[Lying]:
    """What there is to examine at *address*, pinned: itself, where it is a file; of a repository, or a folder in it,
    each folder that is one model and each file beside them whose name *takes_up* says is a model's.

    *is_one* says whether a folder is one model, by the names in it and whether it has no folders. Raises
    :class:`~modelhub.errors.SourceError` when it cannot be listed.
    """
    reference = reference_of(address)
    if reference is None:
        yield Lying(address)
        return
    from modelhub.source import hub

    pinned = hub.pin(reference)
    if not pinned.is_folder and takes_up(pinned.path):
        yield Lying(str(pinned))
        return
    try:
        paths = [file.path for file in hub.files_of(pinned)]
    except NotFound:
        if pinned.is_folder:
            raise
        yield Lying(str(pinned))
        return
    models: tuple[str, ...] = ()
    for folder, names in sorted(_folders(paths).items()):
        is_leaf = not any(name.endswith("/") and not name.startswith(".") for name in names)
        if not folder.startswith(models) and is_one(names, is_leaf):
            models += (folder,)
            yield Lying(str(pinned._replace(path=folder)), is_folder=True)
    for path in paths:
        if takes_up(path) and not path.startswith(models):
            yield Lying(str(pinned._replace(path=path)))


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


def reference_of(address: str) -> Reference | None:
    """What *address* names on the Hub, ``None`` elsewhere, where huggingface_hub is not needed.

    Raises :class:`NotFound` for what is no address.
    """
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
