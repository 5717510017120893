"""The vocabulary of CLIP's tokenizer, which no checkpoint contains and every diffusers folder needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack

from modelhub.errors import NotFound
from modelhub.source import Source, open_local

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
