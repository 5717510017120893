"""One test for each published advisory: what it tells of is UNSAFE, and its harmless twin is SAFE."""

from __future__ import annotations

import pytest

from modelhub.scan import Verdict, load_policy
from tests.corpus import items
from tests.corpus.gadgets import GADGETS, Gadget
from tests.pickles.assemble import called, text
from tests.scan.judge import judged

BY_ADVISORY: dict[str, list[Gadget]] = {}
for _gadget in GADGETS:
    for _id in _gadget.advisories:
        BY_ADVISORY.setdefault(_id, []).append(_gadget)

CONTAINERS = {
    item.attack for label, item in items() if label == "malicious" and item.attack.startswith(("CVE", "GHSA"))
}
MILDER = {
    "CVE-2025-1945": Verdict.UNKNOWN,  # an encrypted member cannot be read by us, nor by any loader
    "CVE-2026-24747": Verdict.SUSPICIOUS,  # SETITEM on a tensor: no import tells what for
}


def twin(gadget: Gadget) -> bytes:
    """The gadget's program with a harmless callable in its place."""
    if "." in gadget.name:
        body = text("_codecs") + text("encode") + b"\x93" + text("true") + text("latin1") + b"\x86R"
        return b"\x80\x04" + body + b"."
    return b"\x80\x02" + called("_codecs", "encode", text("true") + text("latin1")) + b"."


@pytest.mark.parametrize("advisory", BY_ADVISORY)
def test_advisory(advisory):
    """Each callable that the advisory tells of is UNSAFE, called or referred to; its twin is SAFE."""
    for gadget in BY_ADVISORY[advisory]:
        report = judged(gadget.program, "model.pkl")
        assert report.verdict is Verdict.UNSAFE, gadget
        assert gadget.qualified in report.findings[0].message or report.findings[0].rule == "pickle.dotted-name"
        assert judged(twin(gadget), "model.pkl").verdict is Verdict.SAFE


@pytest.mark.parametrize("advisory", sorted(CONTAINERS - BY_ADVISORY.keys()))
def test_advisory_of_a_container(advisory):
    """Each file that the advisory tells of is UNSAFE, or as bad as can be told."""
    found = [item for label, item in items() if label == "malicious" and item.attack == advisory]
    for item in found:
        report = judged(item.data, f"model{item.extension}")
        assert report.verdict >= MILDER.get(advisory, Verdict.UNSAFE), (item.what, report.findings)
    assert any(judged(item.data, "model.pt").verdict >= Verdict.SUSPICIOUS for item in found)


@pytest.mark.parametrize("gadget", GADGETS, ids=lambda gadget: gadget.qualified)
def test_gadget(gadget):
    """A callable that could run code, reach files, processes or the network is known and UNSAFE, in every protocol."""
    report = judged(gadget.program, "model.pkl")
    assert report.verdict is Verdict.UNSAFE, report.findings
    if "." not in gadget.name:
        later = judged(b"\x80\x04" + gadget.program[2:], "model.pkl")
        assert later.verdict is Verdict.UNSAFE, later.findings


def test_findings_name_the_advisory():
    """What is published is told with its id, so that people can read about it."""
    told = 0
    for gadget in GADGETS:
        denied = load_policy().denies(gadget.module, gadget.name)
        if denied is not None and denied.advisories:
            messages = " ".join(finding.message for finding in judged(gadget.program, "model.pkl").findings)
            assert denied.advisories[0] in messages, gadget
            told += 1
    assert told > 50


def test_every_advisory_of_the_policy_is_tested():
    """No id stands in the policy that the tests do not know, and each is written as its publisher writes it."""
    import re

    policy = load_policy()
    listed = {
        id_ for denied in (*policy.denied_modules.values(), *policy.denied_names.values()) for id_ in denied.advisories
    }
    assert len(listed) > 40
    assert listed <= BY_ADVISORY.keys()
    assert all(re.fullmatch(r"GHSA(-[23456789cfghjmpqrvwx]{4}){3}|CVE-\d{4}-\d{4,}", id_) for id_ in listed)
