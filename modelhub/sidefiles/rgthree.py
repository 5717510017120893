"""rgthree's nodes for ComfyUI: ``FILE.rgthree-info.json``, after the model's whole file name.

The fields are those that its ``py/server/utils_info.py`` writes. Its words come from Civitai, from the user or from the
file's header; the latter are told from the header itself.
"""

from __future__ import annotations

from modelhub.sidefiles import civitai
from modelhub.sidefiles.base import Claims, ModelFile
from modelhub.sidefiles.fields import JSON, digests, distinct, long_text, number, part, tags, text

SUFFIX = ".rgthree-info.json"


def is_it(data: JSON) -> bool:
    """Whether *data* has fields that no other dialect has."""
    return "baseModelFile" in data or ("raw" in data and "trainedWords" in data)


def read(data: JSON, file: ModelFile) -> Claims:
    """What *data* claims of the model *file*."""
    theirs = civitai.read(part(data, "raw", "civitai"), file)
    words = data.get("trainedWords")
    chosen = [
        str(each["word"])
        for each in (words if isinstance(words, list) else ())
        if isinstance(each, dict) and isinstance(each.get("word"), str) and (each.get("civitai") or each.get("user"))
    ]
    stated = digests({"sha256": data.get("sha256")})  # the file's name says whose it is
    return Claims(
        name=text(data, "name"),
        base_model=text(data, "baseModel"),
        kind=text(data, "type"),
        triggers=distinct(chosen) or theirs.triggers,
        weight=number(data, "strengthMax"),
        tags=tags(data.get("userTags")) or theirs.tags,
        description=theirs.description,
        notes=long_text(data, "userNote"),
        model_id=theirs.model_id,
        version_id=theirs.version_id,
        url=theirs.url,
        digests=tuple({**dict(theirs.digests), **dict(stated)}.items()),
    )
