"""Names that a server gives files, as paths below a folder of ours: what could lead elsewhere, or deceive, is
refused."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from modelhub.errors import SourceError

_DEVICES = re.compile(r"(?:CON|PRN|AUX|NUL|COM[0-9¹²³]|LPT[0-9¹²³]|CONIN\$|CONOUT\$)\s*(?:\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
"""What Windows takes in no name, and separators in disguise ("Naming Files, Paths, and Namespaces", Win32)."""

_LONGEST_PART = 200
_LONGEST = 1000
"""Bytes of one part, and of the whole: below what common file systems take, since parts get longer here."""

_INVISIBLE = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})


def check_name(path: str) -> None:
    """Raise :class:`SourceError` unless *path*, of parts joined by ``/``, names a file below whatever folder it is put
    into, the same for every system and for the eye."""
    shown = ascii(path)[:120]
    normal = unicodedata.normalize("NFKC", path)
    if len(path.encode("utf-8", "surrogatepass")) > _LONGEST:
        raise SourceError(f"{shown}: the name of the file is too long")
    if normal.count("/") != path.count("/") or "\\" in normal or ":" in normal:
        raise SourceError(f"{shown}: the name of the file has characters that look like separators")
    for part, plain in zip(path.split("/"), normal.split("/"), strict=True):
        if plain.strip(" .") == "" or part != part.strip() or part.endswith("."):
            raise SourceError(f"{shown}: the name of the file leads out of its folder, or has an empty part")
        if _FORBIDDEN.search(part) or any(unicodedata.category(char) in _INVISIBLE for char in part):
            raise SourceError(f"{shown}: the name of the file has characters that no file's name should have")
        if _DEVICES.fullmatch(plain):
            raise SourceError(f"{shown}: the name of the file is a device's on Windows")
        if len(part.encode("utf-8", "surrogatepass")) > _LONGEST_PART:
            raise SourceError(f"{shown}: the name of the file is too long")


def check_names(paths: Iterable[str]) -> None:
    """:func:`check_name` of each, and that no two of them are one file where letters' case or form do not count."""
    seen: dict[str, str] = {}
    for path in paths:
        check_name(path)
        other = seen.setdefault(unicodedata.normalize("NFKC", path).casefold(), path)
        if other != path:
            raise SourceError(f"{path!a}: the same name as {other!a} to some file systems")
