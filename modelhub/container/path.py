"""The door for paths and addresses: a file, or a diffusers folder, opened and closed again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from modelhub.container.base import Container
from modelhub.container.open import open_container
from modelhub.source import is_remote, open_local


@contextmanager
def open_path(path: str | os.PathLike[str], *, whole: bool = False) -> Iterator[Container]:
    """Open the file, or the diffusers folder, at *path*, and close everything that was opened at the end.

    *path* may be an address (``hf://...``, ``https://...``), which is read over the network as far as it is needed;
    *whole* is the consent to read all of it. Raises :class:`~modelhub.errors.SourceError` when it cannot be had.
    """
    name = os.fspath(path)
    with ExitStack() as stack:
        if is_remote(name):
            from modelhub.source.network import RemoteFolder, open_address

            lying = open_address(name, stack, whole=whole)
            if isinstance(lying, RemoteFolder):
                from modelhub.container.folder import read_remote_folder

                yield read_remote_folder(lying)
            else:
                yield open_container(lying)
        elif os.path.isdir(name):
            from modelhub.container.folder import read_folder

            yield read_folder(name, stack)
        else:
            yield open_container(stack.enter_context(open_local(name)))
