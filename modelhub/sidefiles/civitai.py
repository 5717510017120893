"""Civitai's own words: ``NAME.civitai.info``, what its API answers about one version of a model.

Written by Civitai Helper and by most programs that download. The fields are those of ``/api/v1/model-versions/ID``
(developer.civitai.com, "Model versions"); some programs keep the answer of ``/api/v1/models/ID`` instead, in which the
versions are a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
    whole,
    without_markup,
)

SUFFIX = ".civitai.info"
_HASHES = ("AutoV1", "AutoV2", "AutoV3", "SHA256", "CRC32", "BLAKE3")


def is_it(data: JSON) -> bool:
    """Whether *data* has the shape of a version or of a model with versions."""
    named = [key for key in ("trainedWords", "baseModel", "modelId", "files") if key in data]
    return "modelVersions" in data or len(named) > 1


def read(data: JSON, file: ModelFile) -> Claims:
    """What *data* claims of the model *file*."""
    versions = data.get("modelVersions")
    if isinstance(versions, list):
        model, version = data, _version(versions, file)
    else:
        model, version = part(data, "model"), data
    model_id = whole(version, "modelId") or whole(model, "id")
    version_id = whole(version, "id")
    own = _file(version, file)
    return Claims(
        name=text(model, "name"),
        version=text(version, "name"),
        base_model=text(version, "baseModel"),
        kind=text(model, "type"),
        creator=text(part(model, "creator"), "username") or text(part(data, "creator"), "username"),
        licence=_licence(model),
        nsfw=flag(model, "nsfw"),
        triggers=phrases(version.get("trainedWords"), "word"),
        tags=tags(model.get("tags")),
        description=without_markup(long_text(model, "description") or long_text(version, "description")),
        model_id=model_id,
        version_id=version_id,
        url=address(model_id, version_id),
        digests=digests(part(own, "hashes")),
        dated=text(version, "updatedAt", "publishedAt", "createdAt"),
    )


def address(model_id: int | None, version_id: int | None) -> str | None:
    """The page of a model, and of a version of it."""
    if model_id is None:
        return None
    version = f"?modelVersionId={version_id}" if version_id is not None else ""
    return f"https://civitai.com/models/{model_id}{version}"


def _version(versions: list[object], file: ModelFile) -> JSON:
    """The one of *versions* that *file* is of; nothing where that cannot be told."""
    known = [each for each in versions if isinstance(each, dict)]
    fitting = [each for each in known if _file(each, file, strictly=True)]
    chosen = fitting or known
    return chosen[0] if len(chosen) == 1 else NOTHING


def _file(version: JSON, file: ModelFile, *, strictly: bool = False) -> JSON:
    """The one of the version's files that *file* is, by name or size, or by being the only one unless *strictly*."""
    listed = version.get("files")
    files = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    ways = [[each for each in files if each.get("name") == file.name]]
    if file.size is not None:
        ways.append([each for each in files if _is_of_size(each, file.size)])
    if not strictly and file.alone:
        ways.append(files)
    return next((way[0] for way in ways if len(way) == 1), NOTHING)


def _is_of_size(each: JSON, size: int) -> bool:
    kilobytes = number(each, "sizeKB")
    return kilobytes is not None and abs(kilobytes * 1024 - size) < 1


def _licence(model: JSON) -> str | None:
    """The permissions of a model as a sentence; ``None`` where none is stated."""
    return "; ".join(_permissions(model)) or None


def _permissions(model: JSON) -> Iterator[str]:
    for key, yes, no in (
        ("allowNoCredit", "no credit needed", "credit needed"),
        ("allowDerivatives", "merges may be shared", "merges may not be shared"),
        ("allowDifferentLicense", "merges may have other permissions", "merges have the same permissions"),
    ):
        allowed = flag(model, key)
        if allowed is not None:
            yield yes if allowed else no
    uses = model.get("allowCommercialUse")
    if isinstance(uses, str):  # once a word, now a list of words, sometimes as PostgreSQL writes one: {Image,Rent}
        uses = uses.strip("{}").split(",")
    words = phrases(uses, longest=40)
    if words:
        yield f"commercial use: {', '.join(words)}"


def write(claims: Claims, file: ModelFile) -> dict[str, Any]:
    """The same in Civitai's words, for the programs that read them."""
    stated = dict(claims.digests)
    hashes = {name: stated[name.lower()].upper() for name in _HASHES if name.lower() in stated}
    return {
        "id": claims.version_id,
        "modelId": claims.model_id,
        "name": claims.version,
        "baseModel": claims.base_model,
        "description": None,
        "trainedWords": list(claims.triggers),
        "updatedAt": claims.dated,
        "model": {
            "name": claims.name,
            "type": claims.kind,
            "nsfw": claims.nsfw,
            "tags": list(claims.tags),
            "description": claims.description,
            "creator": {"username": claims.creator},
        },
        "files": [
            {
                "name": file.name,
                "sizeKB": file.size / 1024 if file.size is not None else None,
                "type": "Model",
                "primary": True,
                "hashes": hashes,
            }
        ],
        "images": [],
    }
