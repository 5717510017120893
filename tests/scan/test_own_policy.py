"""Policy files of users' own: exact names in known roles, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhub.container import open_container
from modelhub.errors import AccessDenied, Malformed, NotFound, SourceError
from modelhub.samples.pickling import Call, Import, dumps
from modelhub.scan import Policy, ScanReport, Verdict, load_policy, scan
from modelhub.source import BytesSource

OWN = """
[[allow]]
module = "ourtrainer.state"
names = ["TrainState", "Other"]
call = "empty"
build = "attributes"
reason = "our own trainer"
"""
Load = Callable[[str], Policy]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def write_and_load(text: str) -> Policy:
        path = tmp_path / "own.toml"
        path.write_text(text, encoding="utf-8")
        return load_policy(str(path))

    return write_and_load


def judged(
    policy: Policy, module: str = "ourtrainer.state", name: str = "TrainState", *arguments: object
) -> ScanReport:
    data = dumps([Call(Import(module, name), arguments)])
    return scan(open_container(BytesSource("x.pkl", data)), policy)


def test_names_are_added_in_their_role(load: Load) -> None:
    """An allowed name is allowed as that exact pair, in that role, besides all that modelhub allows."""
    policy = load(OWN)
    role = policy.allows("ourtrainer.state", "TrainState")
    assert role is not None
    assert (role.tier, role.call, role.build, role.pairs, role.items) == ("own", "empty", "attributes", False, False)
    assert policy.own == (("ourtrainer.state", "Other"), ("ourtrainer.state", "TrainState"))
    assert policy.allows("ourtrainer", "TrainState") is None
    assert policy.allows("ourtrainer.state.sub", "TrainState") is None
    base = load_policy()
    assert {key: role for key, role in policy.allowed.items() if key not in policy.own} == base.allowed
    assert policy.denied_modules is base.denied_modules


def test_the_verdict_changes_for_exactly_that_role(load: Load) -> None:
    """A file that uses the name in its role is judged SAFE with the policy only; out of its role it never is."""
    assert judged(load_policy()).verdict is Verdict.SUSPICIOUS
    assert judged(load(OWN)).verdict is Verdict.SAFE
    assert judged(load(OWN), "ourtrainer.state", "TrainState", "argument").verdict is Verdict.SUSPICIOUS
    assert judged(load(OWN), "ourtrainer.state", "Third").verdict is Verdict.SUSPICIOUS
    assert judged(load(OWN), "os", "system", "true").verdict is Verdict.UNSAFE


def test_reports_say_so(load: Load) -> None:
    """The policy's version names the file by its digest, and every report made with it says that it was extended."""
    policy = load(OWN)
    assert policy.extended
    assert not load_policy().extended
    assert re.fullmatch(re.escape(load_policy().version) + r"\+own:[0-9a-f]{8}", policy.version)
    assert load(OWN + "# another").version != policy.version
    report = judged(policy)
    assert report.policy_version == policy.version
    assert "policy.extended" in {finding.rule for finding in report.findings}
    assert "policy.extended" not in {finding.rule for finding in judged(load_policy()).findings}


def test_a_changed_file_is_read_again(load: Load) -> None:
    """The file is read each time; modelhub's own policy once."""
    load(OWN)
    assert load(OWN.replace("TrainState", "Another")).own[0] == ("ourtrainer.state", "Another")
    assert load_policy() is load_policy()


def test_names_may_be_one_text(load: Load) -> None:
    """Names may be written as a list or, like modelhub's own policy does, as words in one text."""
    assert load(OWN.replace('["TrainState", "Other"]', '"TrainState Other"')).allowed == load(OWN).allowed


def test_what_is_allowed_already_may_be_repeated(load: Load) -> None:
    """A name in the role that it has already adds nothing."""
    policy = load('[[allow]]\nmodule = "torch"\nnames = ["Size"]\ncall = "sequence"\n')
    assert not policy.extended
    assert policy.allowed == load_policy().allowed


def entry(module: str = "ourtrainer", names: str = '["State"]', more: str = "") -> str:
    return f'[[allow]]\nmodule = "{module}"\nnames = {names}\n{more}'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "allows nothing"),
        ("allow = []", "allows nothing"),
        ('version = "2"', "not set version"),
        (OWN + '[anomalies]\n"zip.crc" = "info"\n', "not set anomalies"),
        (OWN + '[[deny]]\nreason = "x"\nmodules = ["y"]\n', "not set deny"),
        ("allow = [1]", "not a table"),
        (entry(names='["*"]'), "'\\*' is not the exact name"),
        (entry(names='["a.b"]'), "'a.b' is not the exact name"),
        (entry(names='["__reduce__"]'), "is not the exact name"),
        (entry(names="[]"), "not a list of names"),
        (entry(names='""'), "not a list of names"),
        (entry(names='"os.system *"'), "is not the exact name"),
        (entry(names="1"), "not a list of names"),
        (entry("ourtrainer.*"), "not the exact name of a module"),
        (entry(""), "not the exact name of a module"),
        ('[[allow]]\nmodule = "x"\n', "it has no 'names'"),
        ('[[allow]]\nnames = ["x"]\n', "it has no 'module'"),
        (entry(more='call = "anything"\n'), "no call contract 'anything'; there are .*plain"),
        (entry(more='build = "anything"\n'), "no build contract"),
        (entry(more="call = []\n"), "not a policy file"),
        (entry(more="pairs = 1\n"), "pairs is not true or false"),
        (entry(more="severity = 1\n"), "no field 'severity'"),
        (entry("os", '["system"]'), "os.system cannot be allowed: it runs shell"),
        (entry("os.path", '["join"]'), "cannot be allowed"),
        (entry("builtins", '["getattr"]'), "cannot be allowed"),
        (entry("torch", '["load"]'), "cannot be allowed"),
        (entry("__main__", '["Model"]'), "cannot be allowed"),
        (entry("torch._utils", '["_rebuild_sparse_tensor"]', 'call = "plain"\n'), "not modelled"),
        (entry("_codecs", '["encode"]', 'call = "plain"\n'), "in a role that cannot be changed"),
        ("[[allow", "not a policy file"),
        ("x = " + "[" * 5000, "not a policy file"),
    ],
)
def test_anything_else_is_refused(load: Load, text: str, why: str) -> None:
    """Wildcards, unknown fields and roles, and all that would weaken modelhub's own policy are one clear error."""
    with pytest.raises(Malformed, match=why) as caught:
        load(text)
    assert "own.toml: not a policy file: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_nothing_denied_can_be_allowed(load: Load) -> None:
    """Whatever modelhub denies by its exact name, no policy file can allow."""
    for module, name in load_policy().denied_names:
        with pytest.raises(Malformed, match=r"cannot be allowed|is allowed already|is not the exact name"):
            load(entry(module, f'["{name}"]'))


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing, closed or binary policy file, or a folder in its place, is one clear error that names it."""
    with pytest.raises(NotFound, match=r"none\.toml: no such policy file"):
        load_policy(str(tmp_path / "none.toml"))
    with pytest.raises(SourceError, match=re.escape(str(tmp_path))):
        load_policy(str(tmp_path))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Malformed, match="not a policy file"):
        load_policy(str(tmp_path / "binary.toml"))
    (tmp_path / "large.toml").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(Malformed, match="larger than"):
        load_policy(str(tmp_path / "large.toml"))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(AccessDenied, match="may not be read"):
        load_policy("closed.toml")
