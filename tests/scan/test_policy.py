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
SUBJECTS = ("pickle", "tensor", "zip", "torch", "legacy", "safetensors", "container", "folder")


def test_every_contract_exists():
    """Each role names contracts that are there, and each contract is used."""
    policy = load_policy()
    assert {role.call for role in policy.allowed.values()} - {None} == set(CALLS)
    assert {role.build for role in policy.allowed.values()} - {None} == set(STATES)


def stated_rules() -> set[str]:
    """Every rule id that a reader's source names, in full or as the end of one that is put together."""
    stated: set[str] = set()
    for path in [*ROOT.glob("pickles/*.py"), *ROOT.glob("container/*.py")]:
        source = path.read_text()
        stated |= set(re.findall(rf'"((?:{"|".join(SUBJECTS)})\.[a-z0-9-]+)"', source))
        for subject in re.findall(rf'f"({"|".join(SUBJECTS)})\.\{{', source):
            stated |= {f"{subject}.{end}" for end in re.findall(r'"([a-z]+(?:-[a-z]+)*)"', source)}
    return stated


def test_every_severity_is_of_a_rule_that_is_stated():
    """Nothing in the policy is about a rule that no reader has."""
    assert set(load_policy().anomalies) <= stated_rules()


def test_every_stated_rule_has_a_severity():
    """Each rule that a reader names in full, or the tests below see, has a severity of its own."""
    literal = set()
    for path in [*ROOT.glob("pickles/*.py"), *ROOT.glob("container/*.py")]:
        literal |= set(re.findall(rf'Anomaly\(\s*"((?:{"|".join(SUBJECTS)})\.[a-z0-9-]+)"', path.read_text()))
        literal |= set(re.findall(rf'(?:note|fail)\(\s*"((?:{"|".join(SUBJECTS)})\.[a-z0-9-]+)"', path.read_text()))
    assert len(literal) > 50
    assert literal <= set(load_policy().anomalies)


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
