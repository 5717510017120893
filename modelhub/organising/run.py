"""A plan carried out, the catalog following; and one that was interrupted, completed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from modelhub.db import Batch, Catalog, Known, LibraryRoot, Moved, Seen
from modelhub.errors import ModelHubError
from modelhub.intake import stat_of
from modelhub.organising.journal import NAME, Journal, Step
from modelhub.organising.moving import flush, move, settle, stamp
from modelhub.organising.plan import Move, Plan
from modelhub.placing import is_inside

TOGETHER = 50
"""Units of which the disk and the catalog are told at once: what a power cut can leave to be completed."""


class Done(NamedTuple):
    """Moved, with what stands beside it."""

    moves: tuple[Move, ...]


class Failed(NamedTuple):
    """Not moved, and why; what had been moved of it was moved back."""

    moves: tuple[Move, ...]
    error: ModelHubError


def organise(catalog: Catalog, plan: Plan) -> Iterator[Done | Failed]:
    """Carry *plan* out: each unit as it is done, or the error for which it was not.

    Nothing is ever overwritten; a file that is not as it was planned for stays. The catalog follows in the same step.
    Killed at whichever moment, each file is whole at its old place or its new one, and :func:`recover`, which has to
    come first, completes what had begun. Raises what the journal and the catalog raise.
    """
    root = plan.root
    with Journal(root.path) as journal:
        if journal.read():
            raise ModelHubError(f"{root.path}: an interrupted run is to be completed first")
        for start in range(0, len(plan.moves), TOGETHER):
            units, failed = _stamped(plan.moves[start : start + TOGETHER])
            yield from failed
            journal.write([steps for steps, _ in units])
            outcomes: list[Done | Failed] = []
            done = []
            for steps, moves in units:
                try:
                    _carry_out(steps)
                except ModelHubError as error:
                    outcomes.append(Failed(moves, error))
                else:
                    outcomes.append(Done(moves))
                    done.append(steps)
            _settled(catalog, root, done)
            journal.clear()
            yield from outcomes


def recover(catalog: Catalog, root: LibraryRoot) -> tuple[Step, ...]:
    """Complete what an interrupted run in *root* had begun; returns the files that lie at their new places now.

    A unit of which nothing was moved is forgotten: the next plan has it again. Raises :class:`Conflict` when another
    process is organising the library.
    """
    if not os.path.lexists(os.path.join(root.path, NAME)):
        return ()
    with Journal(root.path) as journal:
        units = [_completed(steps, root.path) for steps in journal.read()]
        _settled(catalog, root, units)
        journal.clear()
        return tuple(step for unit in units for step in unit)


def _completed(steps: Sequence[Step], root: str) -> list[Step]:
    """The *steps* that are done now, where any of them had been."""
    begun = [_stays_inside(step, root) and settle(step.source, step.target, step.stamp) for step in steps]
    if any(begun):
        for index, step in enumerate(steps):
            if not begun[index] and _stays_inside(step, root):
                with suppress(ModelHubError):  # what somebody has put there since, or changed, stays
                    move(step.source, step.target, step.stamp)
                    begun[index] = True
    return [step for step, is_done in zip(steps, begun, strict=True) if is_done]


def _stays_inside(step: Step, root: str) -> bool:
    """Whether no link leads *step* out of the library. It is asked right before each: a step can put a link in place,
    and nobody knows who wrote the journal."""
    return all(is_inside(os.path.dirname(path), root) for path in (step.source, step.target))


def _stamped(units: Sequence[tuple[Move, ...]]) -> tuple[list[tuple[list[Step], tuple[Move, ...]]], list[Failed]]:
    stamped, failed = [], []
    for moves in units:
        try:
            steps = [Step(each.source, each.target, stamp(each.source), each.place is not None) for each in moves]
        except ModelHubError as error:
            failed.append(Failed(moves, error))
        else:
            stamped.append((steps, moves))
    return stamped, failed


def _carry_out(steps: Sequence[Step]) -> None:
    done: list[Step] = []
    try:
        for step in steps:
            move(step.source, step.target, step.stamp)
            done.append(step)
    except ModelHubError:
        for step in reversed(done):
            with suppress(ModelHubError):
                move(step.target, step.source, stamp(step.target))
        raise


def _settled(catalog: Catalog, root: LibraryRoot, units: Sequence[Sequence[Step]]) -> None:
    """Have the new names on the disk, then in the catalog, which may have followed before an interruption."""
    steps = [step for unit in units for step in unit]
    folders = {os.path.dirname(path) for step in steps for path in (step.source, step.target)}
    flush(folders | {above for folder in folders for above in _above(folder, root.path)})
    moved = []
    targets = {step.source: step.target for step in steps if step.is_model}
    places = [place for place in catalog.libraries.at(list(targets)) if not _lies_there(place)]
    if any(not step.is_model for step in steps):
        theirs = {step.source: {each.source: each.target for each in unit} for unit in units for step in unit}
        paths_of: dict[int, dict[str, str]] = {}
        for place in places:  # models with the same bytes have one content
            paths_of.setdefault(place.content_id, {}).update(theirs[place.path])
        catalog.side_files.moved(paths_of)
    for place in places:
        with suppress(ModelHubError):  # somebody has moved it on: the next sync knows it by its inode
            st = stat_of(targets[place.path])
            seen = Seen(st.path, st.size, st.mtime_ns, st.dev, st.ino, root.id, is_folder=place.is_folder)
            moved.append(Moved(place, seen, True, "moved"))
    if moved:
        catalog.libraries.write(Batch(moved=tuple(moved)))


def _lies_there(place: Known) -> bool:
    """Whether what the catalog has at *place* lies there now: it has taken the place of what was moved away."""
    try:
        st = stat_of(place.path)
    except ModelHubError:
        return False
    return (st.size, st.mtime_ns, st.ino) == (place.size, place.mtime_ns, place.ino)


def _above(folder: str, root: str) -> Iterator[str]:
    while folder != root and folder.startswith(root):
        yield folder
        folder = os.path.dirname(folder)
    yield root
