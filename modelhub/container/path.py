"""The door for paths: a file, or a diffusers folder, opened and closed again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from modelhub.container.base import Container
from modelhub.container.open import open_container
from modelhub.source import open_local


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
        else:
            yield open_container(stack.enter_context(open_local(name)))
