"""The files that stand beside models and go with them: told by their names alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

_SUFFIXES = frozenset(
    ".civitai.info .metadata.json .json .cm-info.json .swarm.json .rgthree-info.json .config.json .yaml .yml .txt "
    ".description.txt .html .sha256 .receipt.json .recipe.toml".split()
)
_PICTURES = frozenset(".png .jpg .jpeg .webp .gif .avif .mp4 .webm".split())
_OWN_VAE = frozenset(".vae.pt .vae.ckpt .vae.safetensors".split())
"""A checkpoint's own VAE, which the web UI loads with the checkpoint beside it (``modules/sd_vae.py``)."""


def beside(names: Iterable[str], models: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Those of *names* that stand beside any of *models*, all of them names in one folder, each with those models.

    A file beside a model has its name with another extension, or its whole file name with one more. Names contain dots,
    so that ``a.v2.png`` is beside ``a.v2.ckpt`` and not beside ``a.ckpt``.
    """
    owners: dict[str, list[str]] = {}
    for model in models:
        for name in (os.path.splitext(model)[0], model):
            owners.setdefault(name, []).append(model)
    for name in names:
        for stem, suffix in _splits(name):
            if suffix in _SUFFIXES or suffix in _OWN_VAE or _is_picture(suffix):
                found = [model for model in owners.get(stem, ()) if model != name]
                if found:
                    yield name, tuple(found)
                    break


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """The ways of cutting *name* before one of its last two dots, the longer ending first."""
    first, last = os.path.splitext(name)
    stem, middle = os.path.splitext(first)
    if middle:
        yield stem, (middle + last).lower()
    yield first, last.lower()


def _is_picture(suffix: str) -> bool:
    word, extension = os.path.splitext(suffix)
    return (extension in _PICTURES and word in (".preview", ".thumb")) or suffix in _PICTURES
