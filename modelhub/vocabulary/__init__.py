"""CLIP's vocabulary, which no checkpoint contains: how words become the ids that its text encoders take.

Every Stable Diffusion, and every model that has OpenAI's or OpenCLIP's text encoders, was trained with the same one. It
follows from an ordered list of merges, which lies here as published with CLIP (``bpe_simple_vocab_16e6.txt.gz`` of
https://github.com/openai/CLIP, of which the first 48,894 count), under the licence beside it.
"""

from __future__ import annotations

import bz2
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

WORDS = 49_408
"""How many ids there are: the rows of a text encoder's token embedding."""

Merges = tuple[tuple[str, str], ...]

_PRINTABLE = (range(ord("!"), ord("~") + 1), range(ord("¡"), ord("¬") + 1), range(ord("®"), ord("ÿ") + 1))
"""Bytes that stand for themselves; the others are the characters from U+0100 on (CLIP's ``simple_tokenizer.py``)."""


@cache
def merges() -> Merges:
    """The pairs of tokens that become one, the most frequent first."""
    return tuple((left, right) for left, right in (row.split(" ") for row in _rows()))


@cache
def ids() -> Mapping[str, int]:
    """The id of each token: the bytes, the bytes at the end of a word, the pairs in order, and the marks of start and
    end."""
    printed = [byte for run in _PRINTABLE for byte in run]
    letters = [*map(chr, printed), *(chr(256 + number) for number in range(256 - len(printed)))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges())]
    return {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def as_files() -> Mapping[str, bytes]:
    """``vocab.json`` and ``merges.txt``, byte for byte those of the published folders of Stable Diffusion."""
    words = json.dumps(ids(), indent=2, sort_keys=True, ensure_ascii=False)
    return {"vocab.json": f"{words}\n".encode(), "merges.txt": "\n".join(["#version: 0.2", *_rows(), ""]).encode()}


def _rows() -> list[str]:
    packed = files(__name__).joinpath("clip_merges.txt.bz2").read_bytes()
    return bz2.decompress(packed).decode().splitlines()
