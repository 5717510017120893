"""What the tables' columns hold: text that every database takes, and that comes back as it was given."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Dialect, String, Text, TypeDecorator

from modelhub.db.text import path_of, plain, storable, stored_path

NAME_LENGTH = 255
"""Longest name and tag, in characters."""


class SafeText(TypeDecorator[str]):
    """Text from a file, of any length; see :func:`modelhub.db.text.storable`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


class SafeName(TypeDecorator[str]):
    """Short text, a name or a tag; cut at :data:`NAME_LENGTH`."""

    impl = String(NAME_LENGTH)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)[:NAME_LENGTH]


class PathText(TypeDecorator[str]):
    """A path; comes back exactly as it was given."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else stored_path(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else path_of(value)


class Json(TypeDecorator[Any]):
    """A value as JSON text; see :func:`modelhub.db.text.plain`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        return json.dumps(plain(value), separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)
