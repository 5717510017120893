"""Looking after what a catalog holds: checked, copied, all of it written to a file, taken in from one, made anew where
it is derived."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from modelhub.db import backup, soundness
from modelhub.db.engine import Store
from modelhub.db.exporting import export
from modelhub.db.importing import take_in
from modelhub.db.rebuilding import rebuild
from modelhub.errors import CatalogError

_LONGEST_LINE = 256 << 20
"""Bytes of one row; the largest are headers, of which safetensors allows 100 MB."""


class Upkeep:
    """The catalog's upkeep. Every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def back_up(self, target: str) -> None:
        """Copy the catalog to the file *target*, which appears whole or not at all; others may go on using the catalog.

        Raises :class:`CatalogError` for a target that exists, and for a catalog that is no SQLite file.
        """
        if not self._store.is_sqlite:
            raise CatalogError(
                f"{self._store.label}: only the file of an SQLite catalog is copied here",
                hint="the server's own pg_dump copies the database; 'modelhub db export FILE' writes what it holds",
            )
        if os.path.lexists(target):
            raise CatalogError(f"{target}: exists already", hint="name another file")
        self._store.read(lambda connection: backup.back_up(connection, target, self._store.label))

    def faults(self) -> list[str]:
        """What is wrong with the catalog, in words: damaged pages, rows that refer to nothing, indexes that do not fit.

        What a server guarantees by itself is not checked again, but every row is read.
        """
        return self._store.write(soundness.faults)

    def export(self, target: str, program: str) -> int:
        """Write everything to the file *target*, which appears whole or not at all; returns the number of rows.

        *program* is the version of modelhub that writes. Raises :class:`CatalogError` for a target that exists.
        """
        if os.path.lexists(target):
            raise CatalogError(f"{target}: exists already", hint="name another file")
        partial = f"{target}.{os.urandom(4).hex()}.partial"
        try:
            with open(partial, "x", encoding="ascii", newline="\n") as file:
                number = self._store.read(lambda connection: export(connection, file.write, program))
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except OSError as error:
            raise CatalogError(f"{target}: cannot be written: {error.strerror or error}") from error
        finally:
            with suppress(OSError):
                os.unlink(partial)
        return number

    def take_in(self, source: str) -> int:
        """Take in the export in the file *source*, all of it or nothing; returns the number of its rows.

        See :mod:`modelhub.db.importing`. Raises :class:`CatalogError` for what is no whole export.
        """
        try:
            with open(source, "rb") as file:
                return self._store.write(lambda connection: take_in(connection, _lines(file)))
        except OSError as error:
            raise CatalogError(f"{source}: cannot be read: {error.strerror or error}") from error
        except CatalogError as error:
            if str(error).startswith(self._store.label):
                raise
            raise type(error)(f"{source}: {error}", hint=error.hint) from None

    def rebuild(self) -> int:
        """Make everything anew that is derived: what lists show, what is searched, and its indexes; returns the number
        of contents. What users wrote and programs found is left as it is."""
        return self._store.write(rebuild)


def _lines(file: BinaryIO) -> Iterator[str]:
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise CatalogError(f"line {number}: longer than a row can be")
        try:
            yield line.decode("ascii")
        except UnicodeDecodeError:
            raise CatalogError(f"line {number}: not a line of an export") from None
