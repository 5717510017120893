"""The vocabulary of CLIP's tokenizer, which no checkpoint contains and every diffusers folder needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack

from modelhub import vocabulary
from modelhub.errors import NotFound
from modelhub.source import BytesSource, Source, open_local

VOCABULARY = ("vocab.json", "merges.txt")
"""Files that ``CLIPTokenizer`` loads; the ones of CLIP and of every OpenCLIP model are the same."""


def open_vocabulary(folder: str | os.PathLike[str], stack: ExitStack) -> Mapping[str, Source]:
    """The files of the tokenizer in *folder*, or in the folder ``tokenizer`` of a pipeline there; *stack* closes them.

    Raises :class:`~modelhub.errors.SourceError` where there is none, or where it cannot be read.
    """
    path = os.fspath(folder)
    for place in (path, os.path.join(path, "tokenizer")):
        if all(os.path.isfile(os.path.join(place, name)) for name in VOCABULARY):
            return {name: stack.enter_context(open_local(os.path.join(place, name))) for name in VOCABULARY}
    raise NotFound(f"{path}: there is no tokenizer: {' and '.join(VOCABULARY)} are what it consists of")


def own_vocabulary(shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Source] | None:
    """The files of CLIP's own tokenizer for a model of *shapes*; ``None`` where its encoders have other words."""
    words = [shape for name, shape in shapes.items() if name.endswith("token_embedding.weight")]
    if not words or any(shape[:1] != (vocabulary.WORDS,) for shape in words):
        return None
    return {name: BytesSource(name, data) for name, data in vocabulary.as_files().items()}
