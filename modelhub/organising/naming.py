"""From a template and a model's facts to a path that every file system takes.

A name is made fit for Linux, macOS and Windows alike, whichever of them it is made on: libraries are on disks that are
carried from one to another. The rules of Windows are those of learn.microsoft.com, "Naming Files, Paths, and
Namespaces".
"""

from __future__ import annotations

import os
import re
import string
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from modelhub.errors import SettingsError

DEFAULT = "{kind}/{architecture}/{name}"

FIELDS = (
    "kind",
    "architecture",
    "variant",
    "prediction_type",
    "precision",
    "container",
    "digest",
    "name",
    "title",
    "parent",
)
"""What may stand in a template: facts of the record; the first ten digits of its SHA-256; the file's name without its
extension; the record's name; the name of the folder that the file lies in."""

_TELLING = frozenset({"name", "title", "digest"})
_ALWAYS = frozenset({"kind", "architecture"})
"""Facts that have a folder of their own, ``unknown``, where they are not known; others are left out."""

LONGEST_NAME = 255
"""Bytes of one name that every common file system takes."""
LONGEST_PATH = 4095
"""Bytes of a path that Linux takes (``PATH_MAX`` with its end)."""

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Template:
    """Where a model belongs, by its facts: names and ``{fields}`` (:data:`FIELDS`), folders separated by ``/``."""

    text: str

    def __post_init__(self) -> None:
        names = self._names()
        for name in names:
            if name not in FIELDS:
                raise SettingsError(f"{self.text}: there is no {{{name}}}: a template has {', '.join(FIELDS)}")
        parts = self.text.split("/")
        if self.text.startswith(("/", "~")) or "\\" in self.text or {"", ".", ".."} & set(parts):
            raise SettingsError(f"{self.text}: a template is a path inside the library, its folders separated by /")
        if not any(f"{{{name}}}" in parts[-1] for name in _TELLING):
            raise SettingsError(f"{self.text}: without {{name}}, {{title}} or {{digest}} in its last part all are one")

    def _names(self) -> list[str]:
        try:
            parsed = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise SettingsError(f"{self.text}: not a template: {error}") from error
        if any(spec or conversion for _, _, spec, conversion in parsed):
            raise SettingsError(f"{self.text}: a field of a template is a name in braces, and nothing else")
        return [name for _, name, _, _ in parsed if name is not None]

    def render(self, facts: Mapping[str, str | None], room: int = LONGEST_NAME) -> tuple[str, ...]:
        """The folders and, last, the file's name without its extension, for which there are *room* bytes.

        Raises :class:`KeyError` for a field of the last part that has no value.
        """
        *folders, last = self.text.split("/")
        names = [safe_name(self._filled(folder, facts)) for folder in folders if self._filled(folder, facts)]
        for name in _TELLING:
            if f"{{{name}}}" in last and not facts.get(name):
                raise KeyError(name)
        return (*names, safe_name(self._filled(last, facts), room))

    def _filled(self, part: str, facts: Mapping[str, str | None]) -> str:
        known = {name: facts.get(name) or ("unknown" if name in _ALWAYS else "") for name in FIELDS}
        return part.format_map(known).strip(" -_.") if "{" in part else part


def safe_name(name: str, room: int = LONGEST_NAME) -> str:
    """*name* as a name that is no path, no device and no hidden file, and takes at most *room* bytes."""
    name = _FORBIDDEN.sub("-", unicodedata.normalize("NFC", name))
    name = "".join(char if char.isprintable() or "\udc80" <= char <= "\udcff" else "-" for char in name)
    name = name.lstrip(". ")
    if _DEVICES.fullmatch(name.split(".")[0].rstrip()):
        name = f"_{name}"
    while len(os.fsencode(name)) > room:
        name = name[:-1]
    return name.rstrip(". ") or "_"


def folded(path: str) -> str:
    """*path* as it is on file systems that tell neither case nor the spellings of one character apart."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
