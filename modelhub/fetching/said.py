"""What a repository on the Hub says of itself, in the words in which all claims are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

from modelhub.errors import SourceError
from modelhub.sidefiles import Claims
from modelhub.sidefiles.fields import long_text, phrases, tags, text
from modelhub.source.network import RemoteFolder, open_address, reference_of

ORIGIN = "huggingface"
"""Whose words they are."""

_CARD = "README.md"
_LARGEST_CARD = 1 << 18
"""Bytes of a model card that are read; the longest that people write are some tens of thousands."""

_FRONT_MATTER = re.compile(r"\A---\s*\n.*?\n---\s*(?:\n|\Z)", re.DOTALL)
"""A card's metadata, which the Hub tells by itself ("Model Cards", huggingface.co/docs/hub)."""


class Said(NamedTuple):
    """What a repository says: ``claims`` and, in the Hub's own words, ``extra``; ``address`` is it, pinned."""

    address: str
    claims: Claims
    extra: Mapping[str, Any]


def said_of(address: str, claims: Mapping[str, object]) -> Said | None:
    """What the repository of *address*, which is pinned, says of itself by *claims*
    (:func:`modelhub.source.hub.claims_of`) and by its card; ``None`` for an address outside the Hub."""
    reference = reference_of(address)
    if reference is None:
        return None
    repository = reference._replace(path="")
    owner, _, name = reference.repo.partition("/")
    base_model = claims.get("base_model")
    said = {
        **claims,
        "base_model": ", ".join(phrases(base_model)) if isinstance(base_model, list) else base_model,
        "card": _card(str(reference._replace(path=_CARD))),
    }
    triggers = text(said, "triggers", longest=1000)
    return Said(
        str(repository),
        Claims(
            name=name,
            base_model=text(said, "base_model"),
            creator=owner,
            licence=text(said, "licence"),
            triggers=(triggers,) if triggers else (),
            tags=tags(claims.get("tags")),
            description=long_text(said, "card"),
            dated=text(said, "changed"),
        ),
        {"gated": claims["gated"]} if claims.get("gated") else {},
    )


def _card(address: str) -> str | None:
    """The text of a model card, without its metadata; ``None`` where there is none to be had."""
    try:
        with ExitStack() as stack:
            source = open_address(address, stack)
            assert not isinstance(source, RemoteFolder)
            data = source.read_at(0, min(source.size, _LARGEST_CARD))
    except SourceError:
        return None
    return _FRONT_MATTER.sub("", data.decode("utf-8", "replace"), count=1)
