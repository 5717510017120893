"""What can be claimed of a model, in whichever dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

DIGESTS = {"sha256": (64,), "autov1": (8,), "autov2": (10,), "autov3": (12, 64), "crc32": (8,), "blake3": (64,)}
"""The digests that people state, and how many hex digits each has (Civitai keeps twelve of AutoV3)."""

_HEX = frozenset("0123456789abcdef")


class ModelFile(NamedTuple):
    """The model that a side file stands beside: its file name, and its size in bytes (``None``: it is not known).

    ``alone`` is false where another model in the folder has the same name but for its extension, so that a side file
    may be of either.
    """

    name: str
    size: int | None = None
    alone: bool = True


@dataclass(frozen=True, slots=True)
class Claims:
    """What somebody says of a model; ``None`` and empty where nothing is said.

    ``name`` is the model's, ``version`` that of this release of it; ``base_model`` and ``kind`` are in the words of
    whoever says so; ``triggers`` are the phrases that call it up, the most important first; ``negative`` goes into the
    negative prompt and ``weight`` is the strength to use it with. ``digests`` are pairs of algorithm (one of
    :data:`DIGESTS`) and lower-case hex. ``model_id`` and ``version_id`` are Civitai's. ``dated`` is when its writer
    says that it was last changed or fetched, as written.
    """

    name: str | None = None
    version: str | None = None
    base_model: str | None = None
    kind: str | None = None
    prediction_type: str | None = None
    creator: str | None = None
    licence: str | None = None
    nsfw: bool | None = None
    favourite: bool | None = None
    triggers: tuple[str, ...] = ()
    negative: str | None = None
    weight: float | None = None
    tags: tuple[str, ...] = ()
    description: str | None = None
    notes: str | None = None
    model_id: int | None = None
    version_id: int | None = None
    url: str | None = None
    digests: tuple[tuple[str, str], ...] = ()
    dated: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """What is said, as JSON has it; :meth:`of` makes claims of it again."""
        said = {each.name: getattr(self, each.name) for each in fields(self)}
        plain = {name: value for name, value in said.items() if value is not None and value != ()}
        for name in ("triggers", "tags"):
            if name in plain:
                plain[name] = list(plain[name])
        if "digests" in plain:
            plain["digests"] = dict(plain["digests"])
        return plain

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Claims:
        """The claims that :meth:`as_dict` gave as *plain*."""
        said = dict(plain)
        for name in ("triggers", "tags"):
            said[name] = tuple(said.get(name, ()))
        said["digests"] = tuple(said.get("digests", {}).items())
        return cls(**said)


def digest_pair(algorithm: str, value: object) -> tuple[str, str] | None:
    """*value* as a digest of this *algorithm*, in lower case; ``None`` for what cannot be one."""
    algorithm = algorithm.lower()
    if not isinstance(value, str) or algorithm not in DIGESTS:
        return None
    digits = value.strip().lower().removeprefix("0x")
    return (algorithm, digits) if len(digits) in DIGESTS[algorithm] and _HEX.issuperset(digits) else None
