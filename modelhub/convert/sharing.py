"""Tensors that look at the same bytes: in a pickle they may, in safetensors each has its own."""

from __future__ import annotations

from collections.abc import Mapping

from modelhub.convert.base import Assembly, Draft
from modelhub.convert.gather import extent
from modelhub.tensors import Leftover

Groups = tuple[tuple[str, ...], ...]


def shared_groups(tensors: Mapping[str, Assembly]) -> Groups:
    """Names of *tensors* that look at overlapping bytes of one storage, grouped."""
    by_storage: dict[tuple[int, int, str], list[tuple[int, int, str]]] = {}
    for name, made in tensors.items():
        for piece in made.pieces:
            tensor = piece.tensor
            if tensor.nbytes:
                storage = (id(piece.source), tensor.storage.start, tensor.storage.key)
                by_storage.setdefault(storage, []).append((tensor.offset, tensor.offset + extent(tensor), name))
    groups: list[tuple[str, ...]] = []
    for runs in by_storage.values():
        group: dict[str, None] = {}
        reach = -1
        for first, last, name in sorted(runs, key=lambda run: run[0]) if len(runs) > 1 else ():
            if first >= reach:
                groups.append(tuple(group))
                group = {}
            group[name] = None
            reach = max(reach, last)
        groups.append(tuple(group))
    return tuple(group for group in groups if len(group) > 1)


def duplicated_bytes(tensors: Mapping[str, Assembly], groups: Groups) -> int:
    """Bytes that the tensors of *groups* take more in the output than the runs they lie in."""
    more = 0
    for group in groups:
        made = [tensors[name] for name in group]
        views = [piece.tensor for assembly in made for piece in assembly.pieces]
        run = max(view.offset + extent(view) for view in views) - min(view.offset for view in views)
        more += max(0, sum(view.nbytes for view in views) - run)
    return more


def dedupe(draft: Draft) -> tuple[Draft, Mapping[str, str]]:
    """*draft* with each tensor once that has several names, and the names left out with the ones they are kept under.

    Only tensors that are the same view of the same bytes are one; those that merely overlap are each kept.
    """
    first: dict[object, str] = {}
    tensors: dict[str, Assembly] = {}
    removed: dict[str, str] = {}
    for name in sorted(draft.tensors):
        made = draft.tensors[name]
        views = tuple((id(piece.source), piece.tensor._replace(name="")) for piece in made.pieces)
        kept = first.setdefault((made.dtype, made.shape, views), name) if made.nbytes else name
        if kept == name:
            tensors[name] = made
        else:
            removed[name] = kept
    left = [Leftover(name, f"the same tensor as {kept!r:.100}, written once") for name, kept in removed.items()]
    notes = [f"tensors with several names written once; names left out: {len(removed)}"] if removed else []
    return draft.changed(tensors, *notes, left=left), removed
