"""The door for paths and addresses: a file, or a diffusers folder, opened and closed again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from modelhub.container.base import Container
from modelhub.container.open import open_container
from modelhub.errors import SourceError
from modelhub.source import is_remote, open_local, shown_address


@contextmanager
def open_path(path: str | os.PathLike[str]) -> Iterator[Container]:
    """Open the file, or the diffusers folder, at *path*, and close everything that was opened at the end.

    Raises :class:`~modelhub.errors.SourceError` when it cannot be had.
    """
    name = os.fspath(path)
    with ExitStack() as stack:
        if os.path.isdir(name):
            from modelhub.container.folder import read_folder

            yield read_folder(name, stack)
        elif is_remote(name):
            shown, hint = shown_address(name), "'modelhub fetch' downloads it"
            raise SourceError(f"{shown}: an address; what lies there has to be here for this", path=shown, hint=hint)
        else:
            yield open_container(stack.enter_context(open_local(name)))


@contextmanager
def open_anywhere(path: str | os.PathLike[str], *, whole: bool = False) -> Iterator[Container]:
    """:func:`open_path` of a path or an address (``hf://...``, ``https://...``): read over the network as far as
    it is needed; *whole* is the consent to read all of it."""
    name = os.fspath(path)
    if not is_remote(name):
        with open_path(name) as container:
            yield container
        return
    from modelhub.source.network import RemoteFolder, open_address

    with ExitStack() as stack:
        lying = open_address(name, stack, whole=whole)
        if isinstance(lying, RemoteFolder):
            from modelhub.container.folder import read_remote_folder

            yield read_remote_folder(lying)
        else:
            yield open_container(lying)
