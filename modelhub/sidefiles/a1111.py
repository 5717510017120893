"""The card of AUTOMATIC1111's web UI and of Forge: ``NAME.json``.

The fields are those that its metadata editors write (``modules/ui_extra_networks_user_metadata.py`` and, for LoRAs,
``extensions-builtin/Lora/ui_edit_user_metadata.py``). Extensions that download add Civitai's ids and the SHA-256.
"""

from __future__ import annotations

from typing import Any

from modelhub.sidefiles.base import Claims, ModelFile
from modelhub.sidefiles.civitai import address
from modelhub.sidefiles.fields import JSON, digests, distinct, long_text, number, text, whole, without_markup

SUFFIX = ".json"
_KEYS = frozenset({"sd version", "activation text", "preferred weight", "negative text"})
_COMMON_KEYS = frozenset({"description", "notes", "modelVersionId"})
_VERSIONS = {"sd-1": "SD1", "sd-2": "SD2", "sdxl": "SDXL"}
"""The web UI's own names of architectures; it knows no others (``SdVersion`` in its ``network.py``)."""


def is_it(data: JSON) -> bool:
    """Whether *data* has any of the fields that no other dialect has."""
    return not _KEYS.isdisjoint(data)


def may_be_it(data: JSON) -> bool:
    """Whether *data* has any of the fields that other dialects have, too."""
    return not _COMMON_KEYS.isdisjoint(data)


def read(data: JSON, file: ModelFile) -> Claims:
    """What *data* claims of the model *file*."""
    base_model = text(data, "sd version")
    model_id, version_id = whole(data, "modelId"), whole(data, "modelVersionId")
    return Claims(
        name=text(data, "name", "model name"),
        base_model=base_model if base_model not in ("Unknown", "Other") else None,
        triggers=_triggers(long_text(data, "activation text")),
        negative=long_text(data, "negative text"),
        weight=number(data, "preferred weight") or None,  # the slider's zero stands for: none was chosen
        description=without_markup(long_text(data, "description")),
        notes=long_text(data, "notes"),
        model_id=model_id,
        version_id=version_id,
        url=address(model_id, version_id),
        digests=digests({"sha256": data.get("sha256")}) if file.alone else (),
    )


def _triggers(said: str | None) -> tuple[str, ...]:
    """The text to put into a prompt, phrase by phrase; as one where brackets hold phrases together."""
    if said is None:
        return ()
    if any(sign in said for sign in "()[]{}<>"):
        return distinct([said])
    return distinct(said.replace("\n", ",").split(","))


def write(claims: Claims, file: ModelFile, architecture: str | None) -> dict[str, Any]:
    """The same as the web UI's card, which has no place for the rest."""
    return {
        "description": claims.description or "",
        "sd version": _VERSIONS.get(architecture or "", "Unknown"),
        "activation text": ", ".join(claims.triggers),
        "preferred weight": claims.weight or 0,
        "negative text": claims.negative or "",
        "notes": claims.notes or "",
        **({"modelId": claims.model_id} if claims.model_id is not None else {}),
        **({"modelVersionId": claims.version_id} if claims.version_id is not None else {}),
        **({"sha256": dict(claims.digests)["sha256"].upper()} if "sha256" in dict(claims.digests) else {}),
    }
