"""The files that stand beside models and go with them: told by their names alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain

from modelhub.sidefiles.naming import beside as side_files

_OURS = (".receipt.json", ".recipe.toml")
"""What modelhub itself writes beside a model."""

_OWN_VAE = (".vae.pt", ".vae.ckpt", ".vae.safetensors")
"""A checkpoint's own VAE, which the web UI loads with the checkpoint beside it (``modules/sd_vae.py``)."""


def beside(
    names: Iterable[str], models: Iterable[str], folders: Iterable[str] = ()
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Those of *names* that stand beside any of *models* and of *folders* that are one model, all of them names in one
    folder, each with those models.

    Side files as :func:`modelhub.sidefiles.naming.beside` tells them, receipts and recipes, and checkpoints' own VAEs.
    What stands beside such a VAE stands beside its checkpoint.
    """
    names, models, folders = list(names), list(models), list(folders)
    owners: dict[str, list[str]] = {}
    for model in models:
        for name in (os.path.splitext(model)[0], model):
            owners.setdefault(name, []).append(model)
    for folder in folders:
        owners.setdefault(folder, []).append(folder)
    told: dict[str, tuple[str, ...]] = {found.name: found.models for found in side_files(names, models, folders)}
    for name in names:
        suffix = next((each for each in (*_OURS, *_OWN_VAE) if name.lower().endswith(each)), None)
        if suffix is not None and (found := [each for each in owners.get(name[: -len(suffix)], ()) if each != name]):
            told.setdefault(name, tuple(found))

    @cache
    def first(model: str) -> tuple[str, ...]:
        if model not in told or not model.lower().endswith(_OWN_VAE):
            return (model,)
        return _all(map(first, told[model]))

    for name, owning in told.items():
        yield name, _all(map(first, owning))


def _all(each: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(each)))
