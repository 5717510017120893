"""LoRA Manager for ComfyUI: ``NAME.metadata.json``.

The fields are those of its ``BaseModelMetadata`` (``py/utils/models.py``); what it has from Civitai stands whole under
``civitai``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from modelhub.sidefiles import civitai
from modelhub.sidefiles.base import Claims, ModelFile
from modelhub.sidefiles.fields import (
    JSON,
    NOTHING,
    digests,
    flag,
    long_text,
    number,
    part,
    phrases,
    tags,
    text,
    without_markup,
)

SUFFIX = ".metadata.json"


def is_it(data: JSON) -> bool:
    """Whether *data* has fields that no other dialect has."""
    return "file_name" in data and ("model_name" in data or "from_civitai" in data)


def read(data: JSON, file: ModelFile) -> Claims:
    """What *data* claims of the model *file*."""
    source = part(data, "civitai")
    theirs = civitai.read(source, file) if source else Claims()
    stated = digests({"sha256": data.get("sha256")}) if file.alone or _is_named(data, file) else ()
    return replace(
        theirs,
        name=text(data, "model_name") or theirs.name,
        base_model=_base_model(text(data, "base_model")) or theirs.base_model,
        favourite=flag(data, "favorite"),
        triggers=theirs.triggers or phrases(data.get("trigger_words")),
        weight=number(_tips(data), "strength"),
        tags=tags(data.get("tags")) or theirs.tags,
        description=without_markup(long_text(data, "modelDescription")) or theirs.description,
        notes=long_text(data, "notes"),
        digests=tuple({**dict(theirs.digests), **dict(stated)}.items()),
    )


def _base_model(said: str | None) -> str | None:
    return None if said in ("Unknown", "Other") else said


def _is_named(data: JSON, file: ModelFile) -> bool:
    path = text(data, "file_path", longest=4096)
    return path is not None and path.replace("\\", "/").rpartition("/")[2] == file.name


def _tips(data: JSON) -> JSON:
    """``usage_tips``: a JSON object in a text."""
    said = data.get("usage_tips")
    try:
        tips = json.loads(said) if isinstance(said, str) and len(said) <= 10_000 else None
    except (ValueError, RecursionError):
        return NOTHING
    return tips if isinstance(tips, dict) else NOTHING


def write(claims: Claims, file: ModelFile, path: str, modified: float) -> dict[str, Any]:
    """The same for LoRA Manager; *path* and *modified* (seconds since 1970) are the model file's."""
    from_civitai = claims.model_id is not None or claims.version_id is not None
    stem = file.name.rpartition(".")[0] or file.name
    return {
        "file_name": stem,
        "model_name": claims.name or stem,
        "file_path": path.replace("\\", "/"),
        "size": file.size,
        "modified": modified,
        "sha256": dict(claims.digests).get("sha256", ""),
        "base_model": claims.base_model or "Unknown",
        "preview_url": "",
        "preview_nsfw_level": 0,
        "notes": claims.notes or "",
        "from_civitai": from_civitai,
        "civitai": civitai.write(claims, file),
        "tags": list(claims.tags),
        "modelDescription": claims.description or "",
        "favorite": bool(claims.favourite),
        "usage_tips": json.dumps({"strength": claims.weight} if claims.weight is not None else {}),
    }
