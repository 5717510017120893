"""What a file's own metadata say of its architecture: claims, to be weighed against its structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modelhub.identify.base import Evidence, Identity
from modelhub.identify.registry import architectures
from modelhub.identify.side_file import PEFT_BASE

_KEYS = (
    "modelspec.architecture",
    "ss_base_model_version",
    "base_model_version",
    "ot_base_model",
    PEFT_BASE,
    "general.architecture",
)
"""Metadata keys that name the architecture: ModelSpec, sd-scripts (and all that write like it), PEFT, GGUF, others."""


_LOOSE = ("base_model", "ss_sd_model_name")
"""Metadata keys that name the base model's repository or file, which may be called anything."""

_OF_TWO = {"true": "sd-2", "false": "sd-1"}
"""``ss_v2``: what sd-scripts wrote before it named the version; for SDXL it is false too."""


def weigh_claims(identity: Identity, metadata: Mapping[str, str]) -> Identity:
    """*identity*, with the architecture that *metadata* claim where structure left it open to that one.

    A claim never overrules structure: one that contradicts it becomes evidence of low confidence and nothing more.
    """
    if identity.kind is None:
        return identity
    for key in _KEYS:
        claimed = claimed_architecture(metadata.get(key, ""))
        if claimed is None:
            continue
        detail = f"{key} is {metadata[key][:80]!r}"
        if identity.architecture is None and (not identity.candidates or claimed in identity.candidates):
            evidence = Evidence("architecture", claimed, "metadata", detail, "medium")
            return replace(identity, architecture=claimed, candidates=(), evidence=(*identity.evidence, evidence))
        if claimed != identity.architecture:
            detail += ", which its structure contradicts"
        confidence = "medium" if claimed == identity.architecture else "low"
        evidence = Evidence("architecture", claimed, "metadata", detail, confidence)
        return replace(identity, evidence=(*identity.evidence, evidence))
    return _narrowed(identity, metadata) if identity.candidates else identity


def _narrowed(identity: Identity, metadata: Mapping[str, str]) -> Identity:
    """*identity*, one of whose candidates is named where little is meant by it."""
    said = {key: claimed_architecture(metadata.get(key, "").rpartition("/")[2]) for key in _LOOSE}
    if identity.candidates == ("sd-1", "sd-2"):
        said["ss_v2"] = _OF_TWO.get(metadata.get("ss_v2", "").lower())
    for key, claimed in said.items():
        if claimed is not None and claimed in identity.candidates:
            evidence = Evidence("architecture", claimed, "metadata", f"{key} is {metadata[key][:80]!r}", "low")
            return replace(identity, architecture=claimed, candidates=(), evidence=(*identity.evidence, evidence))
    return identity


def claimed_architecture(claim: str) -> str | None:
    """The architecture that somebody means by *claim*, the one whose known name fits the longest part of it."""
    plain = "".join(filter(str.isalnum, claim.lower()))
    fitting = [
        (len(beginning), known.name)
        for known in architectures().values()
        for beginning in known.claimed_as
        if plain.startswith(beginning)
    ]
    return max(fitting)[1] if fitting else None
