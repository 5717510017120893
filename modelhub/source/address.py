"""Which arguments are addresses on the network, and which sources are far away; imports nothing that reaches them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from modelhub.source.base import Source

HUB = "hf://"
"""``hf://OWNER/REPOSITORY[@REVISION][/PATH]``: a repository of models on the Hugging Face Hub, or what lies in it."""

BUCKETS = ("s3://", "gs://")
"""``s3://BUCKET/KEY``, ``gs://BUCKET/KEY``: an object in a store, or all whose keys begin so."""

_SCHEMES = (HUB, *BUCKETS, "https://", "http://")


def is_remote(name: str) -> bool:
    """Whether *name* is an address and not a path."""
    return name.startswith(_SCHEMES)


def shown_address(name: str) -> str:
    """*name* as it may be shown and kept: of a web address without its query, fragment and password, each of which may
    be what authorises."""
    if not name.startswith(("https://", "http://")):
        return name
    scheme, _, rest = re.split(r"[?#]", name, maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def at_hand(source: Source, offset: int, length: int) -> bool:
    """Whether reading these bytes costs little: always, but of a source behind a network that has not fetched them."""
    ask = getattr(source, "at_hand", None)
    return ask is None or bool(ask(offset, length))


def is_distant(source: Source) -> bool:
    """Whether each read of *source* may be a request over a network."""
    return hasattr(source, "at_hand")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What reading from a distance took: requests (redirections included), bytes received, of how many."""

    requests: int
    received: int
    size: int


def traffic_of(sources: Iterable[Source]) -> Traffic | None:
    """What reading *sources* has taken over the network altogether; ``None`` where nothing came over one."""
    told = [traffic for each in sources if isinstance(traffic := getattr(each, "traffic", None), Traffic)]
    if not told:
        return None
    return Traffic(sum(t.requests for t in told), sum(t.received for t in told), sum(t.size for t in told))
