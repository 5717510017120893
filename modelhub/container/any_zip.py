"""Zip archives of every sort: with their directory, or cut off before it."""

from __future__ import annotations

from modelhub.container.base import Container
from modelhub.container.nesting import Nesting
from modelhub.container.torch_zip import read_zip
from modelhub.container.zip_walk import walk_zip
from modelhub.source import Source


def read_any_zip(source: Source, nesting: Nesting) -> Container:
    """Open a file that begins like a zip archive."""
    archive = walk_zip(source)
    if archive is not None:
        return read_zip(source, archive, nesting)
    from modelhub.container.cut_zip import read_cut_zip

    return read_cut_zip(source, nesting)
