"""The committed reasons why another program says otherwise: ``disagreements.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.corpus import CorpusFile

Side = Literal["passes", "objects"]

LIST = Path(__file__).with_name("disagreements.toml")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why *tool* ends otherwise than modelhub on files of the classes *attacks*.

    *theirs* is ``passes`` (it finds nothing in a file that modelhub does not call safe) or ``objects`` (it flags a
    file that modelhub calls safe, or cannot examine it).
    """

    tool: str
    theirs: Side
    attacks: frozenset[str]
    why: str


@dataclass(frozen=True, slots=True)
class Disagreement:
    """*tool* passes *file* and modelhub does not, or the other way round."""

    file: CorpusFile
    tool: str
    theirs: Side

    def __str__(self) -> str:
        return f"{self.tool} {self.theirs}: {self.file.attack}: {self.file.what} ({self.file.label})"


def reasons() -> list[Reason]:
    """The list, as it is committed."""
    with LIST.open("rb") as file:
        entries = tomllib.load(file)["disagreement"]
    return [Reason(e["tool"], e["theirs"], frozenset(e["attacks"]), " ".join(e["why"].split())) for e in entries]


def disagreements(
    files: Sequence[CorpusFile], safe: Iterable[bool], tool: str, answers: Iterable[str]
) -> list[Disagreement]:
    """Where *tool*, whose *answers* are as :func:`benchmarks.peers.answers` gives them, and modelhub part."""
    found = []
    for file, ours, answer in zip(files, safe, answers, strict=True):
        passes = answer == "0"
        if passes is not ours:
            found.append(Disagreement(file, tool, "passes" if passes else "objects"))
    return found


def unexplained(found: Iterable[Disagreement], known: Iterable[Reason]) -> list[Disagreement]:
    """Those of *found* that no reason in *known* covers."""
    covered = {(reason.tool, reason.theirs, attack) for reason in known for attack in reason.attacks}
    return [d for d in found if (d.tool, d.theirs, d.file.attack) not in covered]


def stale(found: Iterable[Disagreement], known: Iterable[Reason], tool: str) -> list[tuple[str, Side]]:
    """Classes for which a reason is *known* and on which *tool* no longer disagrees."""
    seen = {(d.theirs, d.file.attack) for d in found}
    return sorted(
        (attack, reason.theirs)
        for reason in known
        if reason.tool == tool
        for attack in reason.attacks
        if (reason.theirs, attack) not in seen
    )
