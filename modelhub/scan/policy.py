"""What is known about names, loaded from ``policy.toml``."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from modelhub.errors import Malformed, NotFound
from modelhub.scan.findings import Severity


@dataclass(frozen=True, slots=True)
class Allowed:
    """A name that tensor checkpoints legitimately import, and the role it is allowed in.

    ``call`` and ``build`` name contracts of :mod:`modelhub.scan.contracts` (``None``: it may not be called, its
    instances not be given a state); ``pairs`` and ``items`` say whether items may be set on or added to an instance.
    """

    tier: str
    call: str | None = None
    build: str | None = None
    pairs: bool = False
    items: bool = False


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a name is dangerous, and how bad it is to call it."""

    reason: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class Policy:
    """The scanner's knowledge. Look names up with :meth:`allows`, :meth:`denies`, :meth:`is_executable`."""

    version: str
    allowed: Mapping[tuple[str, str], Allowed]
    care: frozenset[tuple[str, str]]
    denied_names: Mapping[tuple[str, str], Denied]
    denied_modules: Mapping[str, Denied]
    executable: frozenset[str]
    anomalies: Mapping[str, Severity]

    def allows(self, module: str, name: str) -> Allowed | None:
        """The role in which exactly this name is allowed."""
        return self.allowed.get((module, name))

    def denies(self, module: str, name: str) -> Denied | None:
        """Why this name is dangerous: the exact pair, else the nearest listed module above it."""
        exact = self.denied_names.get((module, name))
        if exact is not None:
            return exact
        return next((self.denied_modules[m] for m in _ancestors(module) if m in self.denied_modules), None)

    def is_executable(self, module: str) -> bool:
        """Whether the module belongs to a family of whole pickled programs."""
        return any(m in self.executable for m in _ancestors(module))

    def severity_of(self, rule: str) -> Severity:
        """The severity of an anomaly; one that is not listed was not understood."""
        return self.anomalies.get(rule, Severity.LOW)


_BUILTINS = Denied("is a builtin that no data needs", Severity.CRITICAL)


def _ancestors(module: str) -> list[str]:
    """``a.b.c`` -> ``a.b.c``, ``a.b``, ``a``."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


@cache
def load_policy(path: str | None = None) -> Policy:
    """The policy in the TOML file *path*, or modelhub's own. Raises :class:`Malformed` or :class:`NotFound`."""
    name = path or os.path.join(os.path.dirname(__file__), "policy.toml")
    try:
        with open(name, "rb") as file:
            return _policy(tomllib.load(file))
    except FileNotFoundError as error:
        raise NotFound(f"{name}: no such policy file") from error
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Malformed(f"{name}: not a policy: {error}") from error


def _policy(data: Mapping[str, Any]) -> Policy:
    denied_names: dict[tuple[str, str], Denied] = {}
    denied_modules = {"builtins": _BUILTINS, "__builtin__": _BUILTINS, "__main__": _BUILTINS}
    denied_modules["__main__"] = Denied("is defined by the script that loads the file", Severity.MEDIUM)
    for entry in data["deny"]:
        denied = Denied(entry["reason"], Severity[entry.get("severity", "critical").upper()])
        denied_modules.update(dict.fromkeys(entry.get("modules", ()), denied))
        denied_names.update({(entry["module"], name): denied for name in entry.get("names", ())})
    allowed = {
        (entry["module"], name): Allowed(
            entry["tier"],
            entry.get("call"),
            entry.get("build"),
            entry.get("pairs", False),
            entry.get("items", False),
        )
        for entry in data["allow"]
        for name in entry["names"]
    }
    return Policy(
        version=data["version"],
        allowed=allowed,
        care=frozenset((entry["module"], name) for entry in data["care"] for name in entry["names"]),
        denied_names=denied_names,
        denied_modules=denied_modules,
        executable=frozenset(module for entry in data["executable"] for module in entry["modules"]),
        anomalies={rule: Severity[level.upper()] for rule, level in data["anomalies"].items()},
    )
