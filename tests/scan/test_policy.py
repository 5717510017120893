"""The policy is data, and the data holds together."""

from __future__ import annotations

import re
import sys
import time
import tomllib
from pathlib import Path

import pytest

import modelhub
from modelhub.container import open_container
from modelhub.errors import Malformed
from modelhub.scan import Verdict, load_policy, policy_file, scan
from modelhub.scan.contracts import CALLS, STATES
from modelhub.source import BytesSource
from tests.pickles.assemble import called

ROOT = Path(modelhub.__file__).parent
SUBJECTS = (
    """pickle tensor zip torch legacy safetensors container folder archive gguf joblib numpy onnx compressed""".split()
)


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


def test_knowledge_is_broad_and_explained():
    """Hundreds of families and names are known to be dangerous, each with a reason that ends a sentence."""
    policy = load_policy()
    assert len(policy.denied_modules) > 500
    assert len(policy.denied_names) > 150
    for denied in (*policy.denied_modules.values(), *policy.denied_names.values()):
        assert denied.reason[0].islower() and not denied.reason.endswith(".")


def test_the_standard_library_is_known():
    """Of the standard library, what is not known to be dangerous is arithmetic, text and data."""
    policy = load_policy()
    unknown = {name for name in sys.stdlib_module_names if policy.denies(name, "x") is None}
    assert {"os", "subprocess", "runpy", "ctypes", "pickle", "socket", "importlib", "pty", "code"} & unknown == set()
    assert len(unknown) < 0.5 * len(sys.stdlib_module_names)


def test_modules_are_listed_once():
    """A family stands under one reason, so that its finding does not depend on the order of the file."""
    with open(ROOT / "scan" / "policy.toml", "rb") as file:
        listed = [module for entry in tomllib.load(file)["deny"] for module in entry.get("modules", "").split()]
    assert sorted(listed) == sorted(set(listed))


def test_the_policy_is_read_quickly():
    """Every start reads the policy: it takes a few milliseconds."""
    taken = []
    for _ in range(20):
        policy_file._built_in.cache_clear()
        start = time.process_time()
        load_policy()
        taken.append(time.process_time() - start)
    assert min(taken) < 0.012


def test_a_policy_of_ones_own_is_told_in_every_report(tmp_path):
    """A user's policy allows a name, and each report judged by it says so; a denied one it cannot allow."""
    own = tmp_path / "own.toml"
    own.write_text('[[allow]]\nmodule = "ourtrainer.state"\nnames = ["TrainState"]\ncall = "empty"\n')
    program = b"\x80\x02" + called("ourtrainer.state", "TrainState") + b"."
    container = open_container(BytesSource("a.pkl", program))
    assert scan(container).verdict is Verdict.SUSPICIOUS
    report = scan(container, load_policy(str(own)))
    assert report.verdict is Verdict.SAFE
    assert [finding.rule for finding in report.findings] == ["policy.extended"]
    assert report.policy_version != load_policy().version
    own.write_text('[[allow]]\nmodule = "os"\nnames = ["system"]\n')
    with pytest.raises(Malformed):
        load_policy(str(own))
