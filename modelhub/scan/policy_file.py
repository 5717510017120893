"""modelhub's own policy, loaded from ``policy.toml``; a user's own file may add names to it, and nothing else."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from functools import cache
from typing import Any

from modelhub.scan.findings import Severity
from modelhub.scan.policy import Allowed, Denied, Policy

_BUILTINS = Denied("is a builtin that no data needs", Severity.CRITICAL)


def load_policy(path: str | None = None) -> Policy:
    """modelhub's own policy, extended by the names that the TOML file *path* allows.

    Raises :class:`NotFound` or :class:`AccessDenied` when *path* cannot be read, :class:`Malformed` when it is not
    such a file or tries more than to allow exact, unfamiliar names (see :mod:`modelhub.scan.own_policy`).
    """
    if path is None:
        return _built_in()
    from modelhub.scan.own_policy import extended

    return extended(_built_in(), path)


@cache
def _built_in() -> Policy:
    with open(os.path.join(os.path.dirname(__file__), "policy.toml"), "rb") as file:
        return _policy(tomllib.load(file))


def _policy(data: Mapping[str, Any]) -> Policy:
    denied_names: dict[tuple[str, str], Denied] = {}
    denied_modules = {"builtins": _BUILTINS, "__builtin__": _BUILTINS, "__main__": _BUILTINS}
    denied_modules["__main__"] = Denied("is defined by the script that loads the file", Severity.MEDIUM)
    for entry in data["deny"]:
        severity = Severity[entry.get("severity", "critical").upper()]
        denied = Denied(entry["reason"], severity, tuple(entry.get("advisories", "").split()))
        denied_modules.update(dict.fromkeys(entry.get("modules", "").split(), denied))
        denied_names.update({(entry["module"], name): denied for name in entry.get("names", "").split()})
    allowed = {
        (entry["module"], name): Allowed(
            entry["tier"],
            entry.get("call"),
            entry.get("build"),
            entry.get("pairs", False),
            entry.get("items", False),
            Severity[entry.get("misuse", "medium").upper()],
        )
        for entry in data["allow"]
        for name in entry["names"].split()
    }
    return Policy(
        version=data["version"],
        allowed=allowed,
        care=frozenset((entry["module"], name) for entry in data["care"] for name in entry["names"].split()),
        denied_names=denied_names,
        denied_modules=denied_modules,
        executable=frozenset(module for entry in data["executable"] for module in entry["modules"].split()),
        anomalies={rule: Severity[level.upper()] for rule, level in data["anomalies"].items()},
    )
