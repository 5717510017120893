"""Stability Matrix: ``NAME.cm-info.json``; and ``NAME.cminfo.json``, by which downloaders for ComfyUI mean the same.

The fields are those of its ``ConnectedModelInfo``.
"""

from __future__ import annotations

from modelhub.sidefiles.base import Claims, ModelFile
from modelhub.sidefiles.civitai import address
from modelhub.sidefiles.fields import JSON, digests, flag, long_text, part, phrases, tags, text, whole, without_markup

SUFFIXES = (".cm-info.json", ".cminfo.json")


def is_it(data: JSON) -> bool:
    """Whether *data* has fields that no other dialect has."""
    return "ModelName" in data or "TrainedWords" in data


def read(data: JSON, file: ModelFile) -> Claims:
    """What *data* claims of the model *file*."""
    model_id, version_id = whole(data, "ModelId"), whole(data, "VersionId")
    named = text(data, "RemoteFileName") == file.name
    return Claims(
        name=text(data, "UserTitle", "ModelName"),
        version=text(data, "VersionName"),
        base_model=text(data, "BaseModel"),
        kind=text(data, "ModelType"),
        creator=text(data, "AuthorUsername", "CreatorUsername"),
        nsfw=flag(data, "Nsfw"),
        triggers=phrases(data.get("TrainedWords")),
        tags=tags(data.get("Tags")),
        description=without_markup(long_text(data, "ModelDescription", "VersionDescription")),
        model_id=model_id,
        version_id=version_id,
        url=address(model_id, version_id),
        digests=digests(part(data, "Hashes")) if file.alone or named else (),
        dated=text(data, "ImportedAt"),
    )
