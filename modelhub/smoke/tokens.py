"""Prompts as token ids: by CLIP's vocabulary, where the user has it, else by a stand-in of our own.

No checkpoint contains the vocabulary. The stand-in makes each word a number that depends on its letters alone, between
the marks of start and end as CLIP has them. With it an image shows what a model is capable of, not what the prompt
says; that two prompts differ, and whether that makes a difference, it shows as well.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import Any, Protocol

STAND_IN = "stand-in"
"""How a result calls the tokenizer of our own."""

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
    """CLIP's own tokenizer, from the vocabulary in *folder* (or in ``tokenizer`` there); transformers reads the words,
    and nothing else of the folder."""

    def __init__(self, folder: str, length: int = _LENGTH, padding: int | None = None) -> None:
        from transformers import CLIPTokenizer

        place = folder if os.path.isfile(os.path.join(folder, "vocab.json")) else os.path.join(folder, "tokenizer")
        with open(os.path.join(place, "vocab.json"), encoding="utf-8") as file:
            vocabulary = json.load(file)
        with open(os.path.join(place, "merges.txt"), encoding="utf-8") as file:
            pairs: Any = [tuple(row.split()) for row in file if not row.startswith("#version") and row.strip()]
        self._tokenizer: Any = CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=length)
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


def tokenizer_for(config: Any, folder: str | None) -> Tokenizer:
    """The tokenizer of an encoder with the transformers *config*: CLIP's from *folder*, or the stand-in."""
    padding = None if config.hidden_act == "quick_gelu" else 0
    length = config.max_position_embeddings
    if folder is None:
        return StandIn(config.vocab_size, length, padding)
    return Clip(folder, length, padding)
