"""A user's policy file: names that their own files need, allowed exactly and in a role.

    [[allow]]
    module = "ourtrainer.state"     # exactly this module
    names = ["TrainState"]          # exactly these names in it; or as one text, "TrainState Other"
    call = "empty"                  # the contract of its calls; absent: it may only be referred to
    build = "attributes"            # the contract of its states; absent: it may not be given one
    pairs = false                   # whether items may be set on it
    items = false                   # whether items may be added to it
    reason = "our own trainer"      # for people

Contracts are those of :mod:`modelhub.scan.contracts`. There are no wildcards, and nothing that modelhub knows to be
dangerous, or allows in another role, can be allowed here: a file cannot weaken what modelhub's own policy says.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from modelhub.errors import Malformed
from modelhub.scan.contracts import CALLS, STATES
from modelhub.scan.policy import Allowed, Policy
from modelhub.user_files import read_user_file

_TIER = "own"
_FIELDS = frozenset({"module", "names", "call", "build", "pairs", "items", "reason"})
_HINT = "a policy file has [[allow]] tables of module, names, call, build, pairs, items and reason; see docs/rules.md"


def extended(policy: Policy, path: str) -> Policy:
    """*policy* and the names that the file *path* allows; its version names the file by its digest.

    Raises :class:`NotFound`, :class:`AccessDenied` or :class:`SourceError` when the file cannot be read, and
    :class:`Malformed` when it is anything else than exact names in known roles.
    """
    try:
        data = read_user_file(path, "policy file")
        own = dict(_entries(tomllib.loads(data.decode("utf-8")), policy))
    except (ValueError, TypeError, KeyError, RecursionError) as error:  # UnicodeDecodeError and TOMLDecodeError too
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise Malformed(f"{path}: not a policy file: {reason}", hint=_HINT) from error
    import hashlib

    mark = hashlib.sha256(data).hexdigest()[:8]
    return replace(
        policy, version=f"{policy.version}+own:{mark}", allowed={**policy.allowed, **own}, own=tuple(sorted(own))
    )


def _entries(data: Mapping[str, Any], policy: Policy) -> Iterator[tuple[tuple[str, str], Allowed]]:
    if set(data) != {"allow"} or not isinstance(data["allow"], list) or not data["allow"]:
        other = ", ".join(sorted(set(data) - {"allow"}))
        raise ValueError(f"it may only allow names, not set {other}" if other else "it allows nothing")
    for entry in data["allow"]:
        role = _role(entry)
        for name in _names(entry):
            if _is_news(entry["module"], name, role, policy):
                yield (entry["module"], name), role


def _role(entry: Any) -> Allowed:
    if not isinstance(entry, dict):
        raise ValueError("an [[allow]] is not a table")
    unknown = sorted(entry.keys() - _FIELDS)
    if unknown:
        raise ValueError(f"an [[allow]] has no field {unknown[0]!r}")
    for field, contracts in (("call", CALLS), ("build", STATES)):
        if field in entry and entry[field] not in contracts:
            raise ValueError(f"there is no {field} contract {entry[field]!r}; there are {', '.join(sorted(contracts))}")
    for field in ("pairs", "items"):
        if not isinstance(entry.get(field, False), bool):
            raise ValueError(f"{field} is not true or false")
    return Allowed(_TIER, entry.get("call"), entry.get("build"), entry.get("pairs", False), entry.get("items", False))


def _names(entry: Mapping[str, Any]) -> list[str]:
    module, names = entry["module"], entry["names"]
    if not isinstance(module, str) or not all(map(_is_plain, module.split("."))):
        raise ValueError(f"{module!r} is not the exact name of a module")
    if isinstance(names, str):
        names = names.split()
    if not isinstance(names, list) or not names:
        raise ValueError(f"the names of {module} are not a list of names")
    for name in names:
        if not isinstance(name, str) or not _is_plain(name) or (name.startswith("__") and name.endswith("__")):
            raise ValueError(f"{name!r} is not the exact name of something in {module}")
    return names


def _is_plain(name: str) -> bool:
    return name.isascii() and name.isidentifier()


def _is_news(module: str, name: str, role: Allowed, policy: Policy) -> bool:
    """Whether modelhub's own policy has not decided about the name; what it has decided cannot be changed."""
    title = f"{module}.{name}"
    known = policy.allows(module, name)
    if known is not None:
        if replace(role, tier=known.tier) != known:
            raise ValueError(f"{title} is allowed already, in a role that cannot be changed")
        return False
    denied = policy.denies(module, name)
    if denied is not None:
        raise ValueError(f"{title} cannot be allowed: it {denied.reason}")
    if (module, name) in policy.care:
        raise ValueError(f"{title} cannot be allowed: what it rebuilds is not modelled")
    return True
