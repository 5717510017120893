"""Prompts as token ids: by CLIP's vocabulary, or, for an encoder that has other words, by a stand-in of our own.

The stand-in makes each word a number that depends on its letters alone, between the marks of start and end as CLIP has
them. With it an image shows what a model is capable of, not what the prompt says; that two prompts differ, and whether
that makes a difference, it shows as well.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from modelhub import vocabulary
from modelhub.smoke.spec import CLIP

_LENGTH = 77
"""Tokens of every prompt: the positions of CLIP."""


class Tokenizer(Protocol):
    def __call__(self, text: str) -> list[int]:
        """The token ids of *text*, as many as there are positions."""


class StandIn:
    """Ids below *vocabulary* - 2 for words, the last two for start and end, *padding* to the length (``None``: the
    end's id), as OpenAI's CLIP has it, and OpenCLIP's encoders with 0."""

    def __init__(self, vocabulary: int, length: int = _LENGTH, padding: int | None = None) -> None:
        self._words = max(1, vocabulary - 2)
        self._start, self._end = vocabulary - 2, vocabulary - 1
        self._length = length
        self._padding = self._end if padding is None else padding

    def __call__(self, text: str) -> list[int]:
        words = [zlib.crc32(word.encode()) % self._words for word in text.lower().split()]
        ids = [self._start, *words[: self._length - 2], self._end]
        return ids + [self._padding] * (self._length - len(ids))


class Clip:
    """A tokenizer of CLIP's, of the ids of its *words* and of its *merges*; transformers takes the text apart."""

    def __init__(
        self,
        words: Mapping[str, int],
        merges: Iterable[tuple[str, ...]],
        length: int = _LENGTH,
        padding: int | None = None,
    ) -> None:
        from transformers import CLIPTokenizer

        pairs: Any = list(merges)
        self._tokenizer: Any = CLIPTokenizer(vocab=dict(words), merges=pairs, model_max_length=length)
        self._length = length
        self._padding = padding

    def __call__(self, text: str) -> list[int]:
        ids = list(self._tokenizer(text, truncation=True, max_length=self._length)["input_ids"])
        padding = ids[-1] if self._padding is None else self._padding
        return ids + [padding] * (self._length - len(ids))


class T5:
    """T5's tokenizer, from the ``tokenizer.json`` at *path*, which the tokenizers library reads as data; prompts are
    cut off at, or filled up with 0 to, *length*."""

    def __init__(self, path: str, length: int) -> None:
        from tokenizers import Tokenizer as Words

        with open(path, encoding="utf-8") as file:
            self._tokenizer: Any = Words.from_str(file.read())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length)
        self._length = length

    def __call__(self, text: str) -> list[int]:
        ids = list(self._tokenizer.encode(text).ids)
        return ids + [0] * (self._length - len(ids))


def tokenizer_for(config: Any, named: str | None) -> Tokenizer:
    """The tokenizer of an encoder with the transformers *config*: of the vocabulary in the folder *named*, CLIP's own,
    or the stand-in (``None``)."""
    padding = None if config.hidden_act == "quick_gelu" else 0
    length = config.max_position_embeddings
    if named is None:
        return StandIn(config.vocab_size, length, padding)
    if named == CLIP:
        return Clip(vocabulary.ids(), vocabulary.merges(), length, padding)
    return Clip(*_read(named), length, padding)


def _read(folder: str) -> tuple[Mapping[str, int], list[tuple[str, ...]]]:
    """The words and merges in *folder* (or in ``tokenizer`` there); nothing else of it is read."""
    place = folder if os.path.isfile(os.path.join(folder, "vocab.json")) else os.path.join(folder, "tokenizer")
    with open(os.path.join(place, "vocab.json"), encoding="utf-8") as file:
        words = json.load(file)
    with open(os.path.join(place, "merges.txt"), encoding="utf-8") as file:
        return words, [tuple(row.split()) for row in file if not row.startswith("#version") and row.strip()]
