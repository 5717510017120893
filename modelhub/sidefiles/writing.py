"""The same facts in a dialect that other programs read, and known again as our own file."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

from modelhub.sidefiles import a1111, civitai, lora_manager
from modelhub.sidefiles.base import Claims, ModelFile

SUFFIXES = {"civitai": civitai.SUFFIX, "a1111": a1111.SUFFIX, "lora-manager": lora_manager.SUFFIX}
"""The dialects that can be written, and what their files are called after the model's name."""

_MARK = "modelhub"


class Subject(NamedTuple):
    """The model file that is written of: where it lies, its size in bytes (``None``: it is not known), when it was last
    changed in seconds since 1970, and its architecture."""

    path: str
    name: str
    size: int | None
    modified: float
    architecture: str | None


def written(dialect: str, claims: Claims, subject: Subject) -> bytes:
    """*claims* of *subject* as a side file of *dialect*: JSON in UTF-8, with a mark by which it is known as ours."""
    file = ModelFile(subject.name, subject.size)
    if dialect == "civitai":
        data = civitai.write(claims, file)
    elif dialect == "a1111":
        data = a1111.write(claims, file, subject.architecture)
    else:
        data = lora_manager.write(claims, file, subject.path, subject.modified)
    data[_MARK] = {"written": _seal(data)}
    return (json.dumps(data, indent=2, ensure_ascii=True) + "\n").encode()


def is_ours(data: bytes) -> bool:
    """Whether *data* is a side file as :func:`written` made it, and nobody has changed it since."""
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        return False
    if not isinstance(parsed, dict) or not isinstance(mark := parsed.pop(_MARK, None), dict):
        return False
    return mark.get("written") == _seal(parsed)


def _seal(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
