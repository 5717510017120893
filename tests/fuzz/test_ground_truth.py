"""Generated programs, run by CPython's unpicklers in a sandbox and judged by modelhub."""

from __future__ import annotations

import _compat_pickle
import os
import pickle
import pickletools
import resource
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fuzz.campaign import SANDBOX, run_programs
from fuzz.programs import Case, case_of
from fuzz.truth import Judgement, judge, request, violations
from fuzz.workers import Worker
from modelhub.scan import Verdict, load_policy


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Worker]:
    with Worker(SANDBOX) as worker:
        yield worker


def case(program: bytes, wrapping: str = "bare", profile: str = "wild") -> Case:
    return Case("test", profile, ((program,),), wrapping)


def run(sandbox: Worker, program: bytes, **given: Any) -> dict[str, Any]:
    """What the sandbox saw of *program*."""
    return next(sandbox.ask([request(replace(case(program), **given))]))


def broken(sandbox: Worker, program: bytes, **changed: Any) -> set[str]:
    """The properties that do not hold for *program*, if its judgement is *changed*."""
    tried = case(program)
    judgement = judge(tried)
    report = replace(judgement.report, verdict=changed.pop("verdict", judgement.report.verdict))
    traces = (judgement.traces[0]._replace(**changed), *judgement.traces[1:])
    seen = next(sandbox.ask([request(tried)]))
    return {each.property for each in violations(tried, Judgement(traces, judgement.container, report), seen)}


@pytest.mark.parametrize("part", range(3))
def test_what_unpicklers_do_is_traced_and_none_of_it_is_called_safe(part: int) -> None:
    """Whatever CPython's unpicklers import and call stands in the trace; SAFE files do nothing that is not allowed."""
    summary = run_programs(f"tests-{part}", range(1000))
    assert [(each.rule, each.what, each.data) for each in summary.found] == []
    assert summary.count == 1000
    assert summary.verdicts["safe"] > 300
    assert summary.verdicts["unsafe"] > 100
    assert summary.seen["finished"] > 500
    for effect in ("import", "call", "call of a result", "state", "pairs", "items", "special", "event", "persistent"):
        assert summary.seen[effect] > 0, effect


def test_unpicklers_rename_no_allowed_import_to_another() -> None:
    """Below protocol 3 the unpicklers rename imports (``fix_imports``); an allowed name stays an allowed one."""
    allowed = load_policy().allowed
    for module, name in allowed:
        renamed = _compat_pickle.NAME_MAPPING.get((module, name))
        if renamed is None:
            renamed = _compat_pickle.IMPORT_MAPPING.get(module, module), name
        assert renamed in allowed, (module, name)


def test_generated_programs_have_every_opcode() -> None:
    """All 68 opcodes of protocols 0 to 5 are generated."""
    opcodes = {chunk[0] for number in range(1500) for chunk in case_of(f"o:{number}").programs[0] if chunk}
    assert {ord(each.code) for each in pickletools.opcodes} <= opcodes


def test_a_seed_stands_for_one_program() -> None:
    """The same seed gives the same program, so that a finding can be shown again."""
    assert case_of("x:1") == case_of("x:1")
    assert len({case_of(f"x:{number}").file for number in range(100)}) > 90


def test_the_sandbox_imports_nothing_and_sees_every_step(sandbox: Worker) -> None:
    """Names are looked up in a fixed table: what a program calls is a stand-in, and it is written down."""
    seen = run(sandbox, b"cos\nsystem\n(X\x02\0\0\0idtR}X\x01\0\0\0aK\x01sb.")
    named = ["os", "system"]
    for how in ("real", "python", "inert"):
        assert seen[how]["finished"] == 1
        assert seen[how]["effects"] == [["import", *named], ["call", *named], ["state", *named, "instance"]]


def test_the_sandbox_blocks_what_the_interpreter_audits(sandbox: Worker) -> None:
    """Even a harmless function of Python's own cannot import, and the attempt is written down."""
    seen = run(sandbox, b"c_codecs\nencode\n(X\x01\0\0\0aX\x05\0\0\0rot13tR.")
    for how in ("real", "python"):
        assert seen[how]["finished"] == 0
        assert seen[how]["error"] == "Blocked"
        assert [effect[:2] for effect in seen[how]["effects"]][-1] == ["event", "import"]


def test_a_sandbox_that_was_changed_is_replaced(sandbox: Worker) -> None:
    """A program that changes a class for those after it is found out, and the next one has a new process."""
    run(sandbox, b"N.")
    before = sandbox.pid
    seen = run(sandbox, b"cargparse\nNamespace\nN}X\x01\0\0\0aK\x01s\x86b.")
    assert seen["changed"] == ["argparse.Namespace"]
    assert run(sandbox, b"N.")["real"]["finished"] == 1
    assert sandbox.pid != before


def test_the_sandbox_cannot_open_files(sandbox: Worker) -> None:
    """The process has no file descriptors to spare, may write no byte to a file and has bounded memory."""
    run(sandbox, b"N.")
    assert sandbox.pid is not None
    limits = {
        name: resource.prlimit(sandbox.pid, getattr(resource, name)) for name in ("RLIMIT_NOFILE", "RLIMIT_FSIZE")
    }
    assert set(limits.values()) == {(0, 0)}
    assert resource.prlimit(sandbox.pid, resource.RLIMIT_AS)[1] <= 1 << 30


def test_a_sandbox_that_runs_out_of_memory_or_dies_is_no_obstacle(sandbox: Worker) -> None:
    """What cannot be finished is told as such, and the programs after it are run."""
    huge = b"cbuiltins\nbytearray\n(\x8a\x08\0\0\0\0\0\0\0\x10tR."
    assert run(sandbox, huge)["real"]["error"] in ("MemoryError", "OverflowError")
    assert run(sandbox, b"N.")["real"]["finished"] == 1
    assert sandbox.pid is not None
    os.kill(sandbox.pid, 9)
    first, second = sandbox.ask([request(case(b"N.")), request(case(b"N."))])
    assert "failed" in first or first["real"]["finished"] == 1
    assert second["real"]["finished"] == 1


HOSTILE = b"cos\nsystem\n(X\x02\0\0\0idtR."


def test_an_honest_judgement_holds(sandbox: Worker) -> None:
    """The properties hold for a call of a denied name that is judged UNSAFE, and for plain data judged SAFE."""
    assert broken(sandbox, HOSTILE) == set()
    assert broken(sandbox, pickle.dumps({"a": [1, 2.5, "text", b"bytes", None, True, (1, {2})]}, 4)) == set()


@pytest.mark.parametrize(
    ("changed", "property_"),
    [
        ({"verdict": Verdict.SAFE}, "safe"),
        ({"verdict": Verdict.UNKNOWN}, "verdict"),
        ({"imports": ()}, "recorded"),
        ({"calls": ()}, "recorded"),
        ({"end": 5}, "recorded"),
        ({"stopped": False}, "finished"),
        ({"result": None}, "values"),
    ],
)
def test_a_wrong_judgement_is_found_out(sandbox: Worker, changed: dict[str, Any], property_: str) -> None:
    """A verdict that is too good, a trace without an import, a call, its end or its value: each breaks a property."""
    assert property_ in broken(sandbox, HOSTILE, **changed)


@pytest.mark.parametrize(
    "program",
    [
        b"ccollections\nOrderedDict\n)R}X\x0c\0\0\0__setstate__ctorch\nSize\nsb}b.",
        b"ccollections\nOrderedDict\n)Rccollections\nOrderedDict\n]](X\x0c\0\0\0__setstate__ctorch\nSize\nea\x85Rb}b.",
        b"ctorch\nFloatStorage\n}X\x01\0\0\0aK\x01sb.",
        b"ctorch\nFloatStorage\n]a.",
        b"ctorch\nfloat16\n)R.",
        b"cargparse\nNamespace\nN}X\x01\0\0\0aK\x01s\x86b.",
        b"c_codecs\nencode\n(X\x01\0\0\0aX\x05\0\0\0rot13tR.",
        b"cbuiltins\nset\nctorch\nSize\n)R\x85R.",
        b"K\x01Q.",
        b"\x97.",
    ],
)
def test_misuse_of_allowed_names_would_be_found_out(sandbox: Worker, program: bytes) -> None:
    """Were a file SAFE that misuses what is allowed, it would be seen: by what is called, changed or audited."""
    tried = replace(case(program), buffers=True)
    judgement = judge(tried)
    assert judgement.report.verdict is not Verdict.SAFE
    believed = replace(judgement, report=replace(judgement.report, verdict=Verdict.SAFE))
    seen = next(sandbox.ask([request(tried)]))
    assert "safe" in {each.property for each in violations(tried, believed, seen)}


def test_an_alarm_over_a_legitimate_file_is_found_out(sandbox: Worker) -> None:
    """A file of what legitimate files hold has to be SAFE."""
    tried = replace(case(pickle.dumps({"a": 1})), profile="known")
    judgement = judge(tried)
    seen = next(sandbox.ask([request(tried)]))
    assert list(violations(tried, judgement, seen)) == []
    cried = replace(judgement, report=replace(judgement.report, verdict=Verdict.UNKNOWN))
    assert {each.property for each in violations(tried, cried, seen)} == {"alarm"}
