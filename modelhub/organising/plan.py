"""Which file of a library goes where, which stays, and why. Nothing is changed, and no file is opened."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from modelhub.db import Holding, Known, LibraryRoot
from modelhub.errors import SettingsError
from modelhub.organising.beside import beside
from modelhub.organising.folders import DIALECTS
from modelhub.organising.held import Held
from modelhub.organising.names_there import Names
from modelhub.organising.naming import DEFAULT, LONGEST_NAME, LONGEST_PATH, Template, folded
from modelhub.sidefiles.naming import beside_target

_NOT_OURS = {"invokeai": "InvokeAI's own database", "hf-cache": "the Hugging Face cache's links"}


class Move(NamedTuple):
    """A file, or a folder that is one model, goes from *source* to *target*; *place* is the catalog's (``None``: a file
    that stands beside a model)."""

    source: str
    target: str
    place: Known | None = None


class Stays(NamedTuple):
    """A model stays where it is. *why* is ``in place``, ``unidentified``, ``held``, ``twin`` or ``clash``."""

    path: str
    why: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """*moves*, in the order in which they are done: each of models of one name and of what stands beside them, which
    are moved together; and what *stays*."""

    root: LibraryRoot
    moves: tuple[tuple[Move, ...], ...]
    stays: tuple[Stays, ...]


@dataclass(slots=True)
class _Unit:
    """What is moved together or not at all."""

    moves: list[Move]
    content: int

    @property
    def path(self) -> str:
        return self.moves[0].source


def plan_organising(
    root: LibraryRoot,
    holdings: Sequence[Holding],
    *,
    template: Template | None = None,
    dialect: str | None = None,
    unidentified: bool = False,
) -> Plan:
    """How the library *root*, in which *holdings* lie, becomes tidy.

    *template* says where a model belongs; with the *dialect* ``a1111`` or ``comfyui`` (that of the library itself, if
    none is given) below the folder of its kind, in which files without a template keep the folders they are in. Files
    that nobody identified stay unless *unidentified*. Raises :class:`SettingsError` for a library whose own program
    keeps track of its files.
    """
    dialect = dialect or root.dialect
    if root.dialect in _NOT_OURS:
        raise SettingsError(f"{root.path}: {_NOT_OURS[root.dialect]} would lead to nothing if its files were moved")
    planner = _Planner(root, holdings, template, dialect if dialect in DIALECTS else None, unidentified)
    return planner.plan()


class _Planner:
    def __init__(
        self,
        root: LibraryRoot,
        holdings: Sequence[Holding],
        template: Template | None,
        dialect: str | None,
        unidentified: bool,
    ) -> None:
        self.root = root
        self.holdings = [each for each in holdings if each.place.path.startswith(root.path.rstrip(os.sep) + os.sep)]
        self.template = template
        self.folders = DIALECTS.get(dialect or "")
        self.dialect = dialect
        self.unidentified = unidentified
        self.names = Names(root.path)
        self.held = Held(self.names)
        self.one_model = {folded(each.place.path) for each in self.holdings if each.place.is_folder}
        """Folders that are one model, as they are and as they will be: nothing else goes into them."""
        self.stays: dict[str, Stays] = {}

    def plan(self) -> Plan:
        by_folder: defaultdict[str, list[Holding]] = defaultdict(list)
        for each in self.holdings:
            by_folder[os.path.dirname(each.place.path)].append(each)
        units = [unit for folder in sorted(by_folder) for unit in self._units(folder, by_folder[folder])]
        moves = self._ordered(units)
        return Plan(self.root, tuple(moves), tuple(self.stays[path] for path in sorted(self.stays)))

    def _stay(self, path: str, why: str, reason: str) -> None:
        self.stays.setdefault(path, Stays(path, why, reason))

    def _units(self, folder: str, here: Sequence[Holding]) -> Iterator[_Unit]:
        """What goes together: models that share a file beside them, and those files."""
        names = self.names.of(folder)
        folders = [os.path.basename(each.place.path) for each in here if each.place.is_folder]
        files = [os.path.basename(each.place.path) for each in here if not each.place.is_folder]
        companions: dict[str, tuple[str, ...]] = dict(beside(names, files, folders))
        own = {os.path.basename(each.place.path): each for each in here}
        group = {name: {name} for name in own if name not in companions}
        for owners in companions.values():
            together = {name for owner in owners for name in group.get(owner, ())}
            for name in together:
                group[name] = together
        for name in companions.keys() & own.keys():
            self._stay(own[name].place.path, "in place", f"stands beside {companions[name][0]}, and stays with it")
        with_it: defaultdict[str, list[str]] = defaultdict(list)
        for name, owners in companions.items():
            for owner in owners:
                with_it[owner].append(name)
        for members in {min(each): sorted(each) for each in group.values()}.values():
            theirs = {name: companions[name] for owner in members for name in with_it[owner]}
            unit = self._unit([own[name] for name in members], theirs, own)
            if unit is not None:
                yield unit

    def _unit(
        self, models: Sequence[Holding], files: dict[str, tuple[str, ...]], own: dict[str, Holding]
    ) -> _Unit | None:
        folder = os.path.dirname(models[0].place.path)
        room = LONGEST_NAME - max((_rest(name, owners[0]) for name, owners in files.items()), default=0)
        targets: dict[str, str] = {}
        for model in models:
            reason = self._held(model)
            target = self._target(model, room) if reason is None else None
            if reason is not None:
                self._stay(model.place.path, *reason)
            elif target is not None:
                targets[model.place.path] = target
        if not targets:
            return None
        new = {os.path.basename(path): target for path, target in targets.items()}
        moves = [
            Move(model.place.path, targets[model.place.path], model.place)
            for model in models
            if model.place.path in targets
        ]
        for name, owners in files.items():
            if os.path.islink(os.path.join(folder, name)):
                for model in models:
                    self._stay(model.place.path, "held", f"{name}, which stands beside it, is a symbolic link")
                return None
            there = {beside_target(name, owner, new[owner]) for owner in owners if owner in new}
            if len(there) != 1 or not all(owner in new for owner in owners):
                for model in models:
                    others = ", ".join(owner for owner in owners if owner != os.path.basename(model.place.path))
                    self._stay(model.place.path, "held", f"shares {name} with {others}, which goes elsewhere or stays")
                return None
            place = own[name].place if name in own else None
            if place is not None:
                self.stays.pop(place.path, None)
            moves.append(Move(os.path.join(folder, name), there.pop(), place))
        return _Unit(moves, models[0].place.content_id)

    def _held(self, model: Holding) -> tuple[str, str] | None:
        """Why *model* stays whatever its name."""
        if (why := self.held.why(model)) is not None:
            return "held", why
        if not self.unidentified and (model.kind is None or model.place.problem is not None):
            return "unidentified", model.place.problem or "nobody can tell what it is"
        return None

    def _target(self, model: Holding, room: int) -> str | None:
        """Where *model* belongs; ``None``, and a word on it, where it stays."""
        path = model.place.path
        stem, extension = os.path.splitext(path) if not model.place.is_folder else (path, "")
        facts = {
            **{name: getattr(model, name) for name in ("kind", "architecture", "variant", "prediction_type")},
            **{name: getattr(model, name) for name in ("precision", "container", "title")},
            "name": os.path.basename(stem),
            "parent": os.path.basename(os.path.dirname(path)),
            "digest": model.digest[:10] if model.digest else None,
        }
        inside = os.path.relpath(path, self.root.path)
        base: tuple[str, ...] = ()
        template = self.template or Template(DEFAULT)
        if self.folders is not None:
            wanted = self.folders.get(model.kind or "") if not model.place.is_folder else None
            tops = {folder.split("/")[0] for folders in self.folders.values() for folder in folders}
            if self.root.dialect == self.dialect and inside.split(os.sep)[0] not in tops:
                self._stay(path, "held", "it lies in a folder of another program")
                return None
            if wanted is None:
                what = "a folder of several files" if model.place.is_folder else model.kind or "what it is"
                self._stay(path, "held", f"{self.dialect} has no folder for {what}")
                return None
            right = [top for top in wanted if folded(inside).startswith(folded(os.path.join(*top.split("/"), "")))]
            if right and self.template is None:
                self._stay(path, "in place", "it lies where it belongs")
                return None
            base = tuple((right or wanted)[0].split("/"))
            template = self.template or Template("{name}")
        try:
            parts = (*base, *template.render(facts, min(room, LONGEST_NAME) - len(os.fsencode(extension))))
        except KeyError as missing:
            self._stay(path, "held", f"its {missing.args[0]} is not known" + _HINTS.get(missing.args[0], ""))
            return None
        target = self.names.spelled(parts[:-1], parts[-1] + extension)
        if target is None:
            self._stay(path, "clash", f"{os.path.join(*parts[:-1])}: a file has the name of a folder")
            return None
        if folded(target) == folded(path):
            self._stay(path, "in place", "it lies where it belongs")
            return None
        if len(os.fsencode(target)) > LONGEST_PATH - LONGEST_NAME:
            self._stay(path, "held", "its path would be too long")
            return None
        if not self.held.lies_inside(os.path.dirname(target)):
            self._stay(path, "held", f"a link in {os.path.join(*parts[:-1])} leads out of the library")
            return None
        return target

    def _ordered(self, units: Iterable[_Unit]) -> list[tuple[Move, ...]]:
        """The *units* that find their names free, in an order in which each does; the others stay."""
        waiting, before = list(units), -1
        coming: dict[str, _Unit] = {}
        moves: list[tuple[Move, ...]] = []
        while len(waiting) != before:
            before, trying, waiting = len(waiting), waiting, []
            for unit in trying:
                if any(self.names.taken(move.target) or self._model_above(move.target) for move in unit.moves):
                    waiting.append(unit)
                    continue
                for move in unit.moves:
                    self.names.move(move.source, move.target)
                    coming[folded(move.target)] = unit
                    if move.place is not None and move.place.is_folder:
                        self.one_model.add(folded(move.target))
                moves.append(tuple(unit.moves))
        here = {folded(each.place.path): each.place.content_id for each in self.holdings}
        for unit in waiting:
            for move in unit.moves:
                same, name = False, os.path.relpath(move.target, self.root.path)
                if (above := self._model_above(move.target)) is not None:
                    reason = f"{os.path.relpath(above, self.root.path)} is a folder that is one model"
                elif self.names.taken(move.target):
                    first = coming.get(folded(move.target))
                    content = first.content if first is not None else here.get(folded(move.target))
                    same = content == unit.content and move.place is not None
                    reason = f"the same bytes as {name}" if same else f"{name} is taken"
                else:
                    continue
                for each in unit.moves:
                    if each.place is not None:
                        self._stay(each.source, "twin" if same else "clash", reason)
                break
        return moves

    def _model_above(self, path: str) -> str | None:
        """The folder that is one model in which *path* would lie."""
        while len(path := os.path.dirname(path)) > len(self.root.path):
            if folded(path) in self.one_model:
                return path
        return None


_HINTS = {"digest": ": 'modelhub hash' computes it"}


def _rest(name: str, owner: str) -> int:
    """Bytes that *name* has beyond the name, without its extension, of the model *owner* beside which it stands."""
    return len(os.fsencode(name)) - len(os.fsencode(os.path.splitext(owner)[0]))
