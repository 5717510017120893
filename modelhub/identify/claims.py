"""What a file's own metadata say of its architecture: claims, to be weighed against its structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modelhub.identify.base import RARER, Evidence, Identity
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

    A claim never overrules structure: one that contradicts it becomes evidence of low confidence and nothing more. A
    rarer model that has all of an adapter's layers is one that structure leaves open.
    """
    if identity.kind is None:
        return identity
    for key in _KEYS:
        claimed = claimed_architecture(metadata.get(key, ""))
        if claimed is None:
            continue
        detail = f"{key} is {metadata[key][:80]!r}"
        is_open = identity.architecture is None and (not identity.candidates or claimed in identity.candidates)
        if is_open or claimed in _rarer(identity):
            return _decided(identity, claimed, detail, "medium")
        if claimed != identity.architecture:
            detail += ", which its structure contradicts"
        confidence = "medium" if claimed == identity.architecture else "low"
        evidence = Evidence("architecture", claimed, "metadata", detail, confidence)
        return replace(identity, evidence=(*identity.evidence, evidence))
    return _narrowed(identity, metadata)


def _rarer(identity: Identity) -> frozenset[str]:
    """Architectures that structure would leave open, were they not so rare."""
    return frozenset(name for each in identity.evidence if each.detail == RARER for name in each.value.split(" | "))


def _decided(identity: Identity, claimed: str, detail: str, confidence: str) -> Identity:
    evidence = Evidence("architecture", claimed, "metadata", detail, confidence)
    variant = identity.variant if identity.architecture == claimed else None
    everything = (*identity.evidence, evidence)
    return replace(identity, architecture=claimed, variant=variant, candidates=(), evidence=everything)


def _narrowed(identity: Identity, metadata: Mapping[str, str]) -> Identity:
    """*identity*, one of whose candidates is named where little is meant by it."""
    possible = {*identity.candidates, *_rarer(identity)}
    if not possible:
        return identity
    said = {key: claimed_architecture(metadata.get(key, "").rpartition("/")[2]) for key in _LOOSE}
    if identity.candidates == ("sd-1", "sd-2"):
        said["ss_v2"] = _OF_TWO.get(metadata.get("ss_v2", "").lower())
    for key, claimed in said.items():
        if claimed is not None and claimed in possible:
            return _decided(identity, claimed, f"{key} is {metadata[key][:80]!r}", "low")
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
