"""What the scanner knows about names, and how bad what the readers find odd is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from modelhub.scan.findings import Severity


@dataclass(frozen=True, slots=True)
class Allowed:
    """A name that tensor checkpoints legitimately import, and the role it is allowed in.

    ``call`` and ``build`` name contracts of :mod:`modelhub.scan.contracts` (``None``: it may not be called, its
    instances not be given a state); ``pairs`` and ``items`` say whether items may be set on or added to an instance.
    ``misuse`` is how bad any other call of it is.
    """

    tier: str
    call: str | None = None
    build: str | None = None
    pairs: bool = False
    items: bool = False
    misuse: Severity = Severity.MEDIUM


class Denied(NamedTuple):
    """Why a name is dangerous, how bad it is to call it, and the advisories (GHSA, CVE) that have told of it."""

    reason: str
    severity: Severity
    advisories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """The scanner's knowledge. Look names up with :meth:`allows`, :meth:`denies`, :meth:`is_executable`.

    ``own`` are the names that a user's policy file has added to modelhub's; ``version`` then says which file.
    """

    version: str
    allowed: Mapping[tuple[str, str], Allowed]
    care: frozenset[tuple[str, str]]
    denied_names: Mapping[tuple[str, str], Denied]
    denied_modules: Mapping[str, Denied]
    executable: frozenset[str]
    anomalies: Mapping[str, Severity]
    own: tuple[tuple[str, str], ...] = ()

    @property
    def extended(self) -> bool:
        """Whether a user's policy file allows more than modelhub's own policy does."""
        return bool(self.own)

    def allows(self, module: str, name: str) -> Allowed | None:
        """The role in which exactly this name is allowed."""
        return self.allowed.get((module, name))

    def denies(self, module: str, name: str) -> Denied | None:
        """Why this name is dangerous: the exact pair, else the nearest listed module above it.

        A family of whole programs inside a dangerous module is not: ``torch.ao.nn``, of ``torch.ao``.
        """
        exact = self.denied_names.get((module, name))
        if exact is not None:
            return exact
        listed = (m for m in _ancestors(module) if m in self.denied_modules or m in self.executable)
        return self.denied_modules.get(next(listed, ""))

    def is_executable(self, module: str) -> bool:
        """Whether the module belongs to a family of whole pickled programs."""
        return any(m in self.executable for m in _ancestors(module))

    def severity_of(self, rule: str) -> Severity:
        """The severity of an anomaly; one that is not listed was not understood."""
        return self.anomalies.get(rule, Severity.LOW)


def _ancestors(module: str) -> list[str]:
    """``a.b.c`` -> ``a.b.c``, ``a.b``, ``a``."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
