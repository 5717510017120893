"""The words that call a model up, as its metadata and the files beside it state them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice

STATED = ("modelspec.trigger_phrase", "modelspec.trigger_word", "trigger_words", "trained_words", "activation_text")
"""Keys whose value is the phrase itself; the first is ModelSpec's (github.com/Stability-AI/ModelSpec)."""

COUNTED = "ss_tag_frequency"
"""kohya-ss/sd-scripts: a JSON object of data sets, each counting the tags of its captions."""

MOST = 100
LONGEST = 2 << 20
"""How many tags are taken from the counts, and how many characters of JSON are read for it."""

LISTED = 20
NAME_LENGTH = 255
"""How many a list tells of each record, and of how many characters each."""


def trigger_words(metadata: Mapping[str, str], beside: Iterable[str] = ()) -> tuple[str, ...]:
    """The phrases that side files (*beside*) and *metadata* state, then the tags that the latter counts, the commonest
    first; each once."""
    stated = [*beside, *(metadata[key].strip() for key in STATED if key in metadata)]
    counts = _counted(metadata.get(COUNTED, ""))
    found = [*stated, *sorted(counts, key=counts.__getitem__, reverse=True)[:MOST]]
    return tuple(dict.fromkeys(filter(None, found)))


def listed(words: Iterable[str]) -> list[str]:
    """The first of the trigger *words*, cut to what a row of a list has room for."""
    return [word[:NAME_LENGTH] for word in islice(words, LISTED)]


def _counted(text: str) -> dict[str, int]:
    """How often each tag occurs in all data sets together."""
    counts: dict[str, int] = {}
    if not text:
        return counts
    try:
        datasets = json.loads(text) if len(text) <= LONGEST else None
    except (ValueError, RecursionError):  # whoever wrote the file wrote this: it need not be JSON
        return counts
    if isinstance(datasets, dict) and len(datasets) == 1 and (only := _plain(*datasets.values())) is not None:
        return only
    for tags in datasets.values() if isinstance(datasets, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(count, int):
                name = tag.strip()
                counts[name] = counts.get(name, 0) + count
    return counts


def _plain(tags: object) -> dict[str, int] | None:
    """*tags* as they are, where they are nothing but names, each once, and numbers."""
    if not isinstance(tags, dict) or set(map(type, tags.values())) != {int}:
        return None
    names = list(map(str.strip, tags))
    return tags if names == list(tags) else None
