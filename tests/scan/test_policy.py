"""The policy is data, and the data holds together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import modelhub
from modelhub.errors import Malformed, NotFound
from modelhub.scan import load_policy
from modelhub.scan.contracts import CALLS, STATES

ROOT = Path(modelhub.__file__).parent


def test_every_contract_exists():
    """Each role names contracts that are there, and each contract is used."""
    policy = load_policy()
    assert {role.call for role in policy.allowed.values()} - {None} == set(CALLS)
    assert {role.build for role in policy.allowed.values()} - {None} == set(STATES)


def test_every_anomaly_has_a_severity_and_every_severity_an_anomaly():
    """Each rule that a reader can state stands in the policy, and nothing else does."""
    stated: set[str] = set()
    prefixes = "pickle|tensor|zip|torch|legacy|tar|safetensors|container|folder|gguf|numpy"
    for path in [*ROOT.glob("pickles/*.py"), *ROOT.glob("container/*.py")]:
        stated |= set(re.findall(rf'"((?:{prefixes})\.[a-z0-9-]+)"', path.read_text()))
    stated = {rule for rule in stated if not rule.endswith((".pkl", ".json", ".load", ".storage", ".cuda"))}
    assert stated == set(load_policy().anomalies)


def test_no_name_is_both_allowed_and_denied():
    """A name that is denied by its exact pair is not allowed, and what needs care is neither."""
    policy = load_policy()
    assert not policy.allowed.keys() & policy.denied_names.keys()
    assert not policy.allowed.keys() & policy.care


def test_nothing_that_runs_code_is_allowed():
    """The allowlist holds no resolver, importer, loader or evaluator."""
    for module, name in load_policy().allowed:
        assert name.split("_")[-1] not in {
            "eval",
            "exec",
            "getattr",
            "load",
            "loads",
            "open",
            "import",
            "system",
            "call",
        }
        assert module.split(".")[0] not in {"os", "posix", "subprocess", "sys", "importlib", "operator", "functools"}


def test_a_policy_of_ones_own_is_read_or_refused(tmp_path):
    """A policy file that is missing or not a policy is one clear error."""
    with pytest.raises(NotFound):
        load_policy(str(tmp_path / "none.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("version = 1\n[[allow]]\n")
    with pytest.raises(Malformed):
        load_policy(str(broken))
    own = tmp_path / "own.toml"
    own.write_bytes((ROOT / "scan" / "policy.toml").read_bytes())
    assert load_policy(str(own)).allowed == load_policy().allowed
