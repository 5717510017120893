"""The arguments of protocol 0's text opcodes, accepted only in the one form that CPython's pickler writes.

Python's three unpicklers and ``pickletools`` disagree about everything else (``I0x10``, ``F1.0\\0``, ``S"\\xff"``), and
what they disagree about is how a program hides from its reader. So: ``None`` means "not in canonical form".
"""

from __future__ import annotations

import codecs
import re

_INT = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(rb"-?(?:[0-9]+\.[0-9]+|[0-9]+(?:\.[0-9]+)?e[-+][0-9]+|inf|nan)")
_INDEX = re.compile(rb"0|[1-9][0-9]{0,9}")
_MAX_DIGITS = 4000


def parse_int(line: bytes) -> int | bool | None:
    """``I`` argument: a decimal integer, or ``00``/``01`` for a truth value."""
    if line == b"00":
        return False
    if line == b"01":
        return True
    if len(line) > _MAX_DIGITS or not _INT.fullmatch(line) or line == b"-0":
        return None
    return int(line)


def parse_long(line: bytes) -> int | None:
    """``L`` argument: a decimal integer followed by ``L``."""
    if not line.endswith(b"L") or len(line) > _MAX_DIGITS or not _INT.fullmatch(line[:-1]):
        return None
    return int(line[:-1])


def parse_float(line: bytes) -> float | None:
    """``F`` argument: what ``repr`` writes of a float."""
    if len(line) > 40 or not _FLOAT.fullmatch(line):
        return None
    return float(line)


def parse_index(line: bytes) -> int | None:
    """``g`` and ``p`` argument: a memo index."""
    return int(line) if _INDEX.fullmatch(line) else None


def parse_string(line: bytes) -> str | bytes | None:
    """``S`` argument: what ``repr`` writes of a Python 2 string; ``bytes`` when it is not ASCII."""
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
        return None
    try:
        raw = codecs.escape_decode(line[1:-1])[0]
    except ValueError:
        return None
    if repr(raw).encode()[1:] != line:
        return None
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        return raw


def parse_unicode(line: bytes) -> str | None:
    """``V`` argument: raw-unicode-escape, escaped exactly as CPython's picklers escape."""
    try:
        text = line.decode("raw-unicode-escape")
    except UnicodeDecodeError:
        return None
    escaped = text
    for char in "\\\0\n\r\x1a":
        escaped = escaped.replace(char, f"\\u{ord(char):04x}")
    try:
        return text if escaped.encode("raw-unicode-escape") == line else None
    except UnicodeEncodeError:
        return None
