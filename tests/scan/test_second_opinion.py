"""fickling is heard where it knows more, discounted where modelhub has proven more, and never in the way."""

from __future__ import annotations

import collections
import os
import pickle
import subprocess
import sys
import time
import zipfile
from io import BytesIO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub.container import open_container, open_path
from modelhub.scan import Policy, ScanReport, Severity, Verdict, load_policy, scan
from modelhub.scan import fickling_child as child
from modelhub.scan.policy import Allowed
from modelhub.scan.second_opinion import second_opinion
from modelhub.source import BytesSource
from tests.pickles.assemble import called, imported, text
from tests.scan.children import CRASHES, HANGS, replaced_by, saying, with_fickling_in
from tests.scan.judge import saved

HALF = {name: tensor.half() for name, tensor in torch.nn.Linear(2, 2).state_dict().items()}
STATE_DICT = collections.OrderedDict(HALF)
NETWORK = torch.nn.Sequential(torch.nn.Linear(2, 2))
SYSTEM = called("os", "system", text("true"))
BROKEN_OFF = b"\x80\x02h\x070"  # reads an unset memo entry, where modelhub stops and fickling goes on


def opinion_on(data: bytes, **options: object) -> tuple[ScanReport, ScanReport]:
    """The report on *data* without and with a second opinion."""
    container = open_container(BytesSource("file.pt", data))
    report = scan(container)
    return report, second_opinion(container, report, **options)  # type: ignore[arg-type]


def opinions(report: ScanReport) -> dict[str, str]:
    """Evidence or message of the last finding of each rule ``opinion.*``."""
    found = [finding for finding in report.findings if finding.rule.startswith("opinion.")]
    return {finding.rule: f"{finding.message}: {finding.evidence}" for finding in found}


def without_opinions(report: ScanReport) -> list[object]:
    return [finding for finding in report.findings if not finding.rule.startswith("opinion.")]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "value",
    [HALF, STATE_DICT, {"p": torch.nn.Parameter(torch.zeros(2))}],
    ids=["half", "state dict", "parameter"],
)
def test_proven_imports_and_calls_are_discounted(value, legacy, protocol):
    """A plain state dict, to whose every import fickling objects, stays SAFE; the report shows what was discounted."""
    _, report = opinion_on(saved(value, legacy=legacy, protocol=protocol))
    assert report.verdict is Verdict.SAFE
    assert report.coverage.complete
    assert set(opinions(report)) == {"opinion.discounted"}
    assert "from torch._utils import _rebuild_" in opinions(report)["opinion.discounted"]
    assert all(finding.severity is Severity.INFO for finding in report.findings)


@pytest.mark.parametrize(
    "value",
    [
        {"d": collections.deque([1, 2]), "b": bytearray(b"a")},
        {"same": dict.fromkeys(range(2000), torch.zeros(2))},
        {"c": collections.Counter("aab"), "s": {1, 2}, "f": frozenset("a")},
    ],
    ids=["deque", "many references", "data"],
)
def test_safe_files_stay_safe(value):
    """What fickling cannot follow, or finds odd in its numbers, does not make a proven file worse."""
    for protocol in (2, 5):
        _, report = opinion_on(saved(value, protocol=protocol))
        assert report.verdict is Verdict.SAFE, report.findings
        assert report.findings


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_whole_networks_stay_unknown(legacy):
    """A pickled network is UNKNOWN for itself; that fickling knows no torch does not make it suspicious."""
    before, after = opinion_on(saved(NETWORK, legacy=legacy))
    assert before.verdict is after.verdict is Verdict.UNKNOWN
    assert set(opinions(after)) == {"opinion.discounted"}
    assert without_opinions(after) == list(before.findings)


def test_broken_downloads_stay_unknown():
    """A file that is cut off is UNKNOWN, and fickling's saying so too does not make it suspicious."""
    whole = saved(HALF)
    for length in (300, 500, len(whole) - 30):
        _, report = opinion_on(whole[:length])
        assert report.verdict is Verdict.UNKNOWN, report.findings


def test_what_fickling_knows_as_dangerous_is_heard():
    """Where fickling names what runs code, its words stand in the report, at the byte where the import is."""
    _, report = opinion_on(b"\x80\x02" + SYSTEM + b".")
    finding = next(f for f in report.findings if f.rule == "opinion.objects")
    assert report.verdict is Verdict.UNSAFE
    assert (finding.evidence, finding.location.offset) == ("from os import system", 2)


def test_an_opinion_is_the_same_each_time():
    """Two children, whose sets have orders of their own, give one and the same report."""
    data = b"\x80\x02" + b"".join(called("os", f"f{number}") + b"0" for number in range(9)) + b"N."
    assert opinion_on(data)[1] == opinion_on(data)[1]


def test_findings_keep_their_order_by_severity():
    """The worst findings come first, whoever they are from."""
    _, report = opinion_on(b"\x80\x02" + SYSTEM + b".")
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, reverse=True)


def test_what_follows_the_end_of_our_reading_is_heard():
    """A payload behind the place where modelhub stops reading: the second opinion makes the file UNSAFE."""
    before, after = opinion_on(BROKEN_OFF + SYSTEM + b".")
    assert (before.verdict, after.verdict) == (Verdict.UNKNOWN, Verdict.UNSAFE)
    assert after.findings[0].evidence == "from os import system"


def test_tensors_behind_the_end_of_our_reading_are_no_objection():
    """What tensors need, behind such a place, leaves the file UNKNOWN."""
    tensor = called("collections", "OrderedDict") + imported("torch", "FloatStorage")
    before, after = opinion_on(BROKEN_OFF + tensor + b"0.")
    assert before.verdict is after.verdict is Verdict.UNKNOWN
    assert set(opinions(after)) == {"opinion.discounted"}


def test_an_import_that_only_fickling_sees_is_heard(monkeypatch):
    """When the two read a program differently, a file that was SAFE is at least SUSPICIOUS."""
    saying(monkeypatch, {"objections": [], "imports": [["random", "_os.system"]]})
    before, after = opinion_on(saved(HALF))
    assert before.verdict is Verdict.SAFE
    assert after.verdict >= Verdict.SUSPICIOUS
    assert "from random import _os.system" in opinions(after)["opinion.objects"]
    assert "differently" in opinions(after)["opinion.objects"]


@pytest.mark.parametrize("subject", ["from os import system", "mystery(...)", "_var0: _var1(1)", "import copyreg, sys"])
def test_an_objection_to_what_we_did_not_see_is_heard(monkeypatch, subject):
    """An objection that cannot be held against anything in the trace makes the file SUSPICIOUS."""
    saying(monkeypatch, {"objections": [[3, subject, f"`{subject}` is odd"]], "imports": []})
    _, report = opinion_on(saved(HALF))
    assert report.verdict is Verdict.SUSPICIOUS
    assert subject in opinions(report)["opinion.objects"]


def test_a_known_danger_in_an_unproven_file_is_heard(monkeypatch):
    """Where modelhub only says "not proven" and fickling knows the very name as dangerous, it is SUSPICIOUS."""
    name = ["torch.nn.modules.container", "Sequential"]
    subject = f"from {name[0]} import {name[1]}"
    saying(monkeypatch, {"objections": [[4, subject, "indicative of malice"]], "imports": [name]})
    before, after = opinion_on(saved(NETWORK))
    assert (before.verdict, after.verdict) == (Verdict.UNKNOWN, Verdict.SUSPICIOUS)


def test_many_objections_are_counted(monkeypatch):
    """A hundred objections are a few findings; the last one says how many more there are."""
    objections = [[3, f"from mod{n} import f", "odd"] for n in range(100)]
    saying(monkeypatch, {"objections": objections, "imports": []})
    _, report = opinion_on(saved(HALF))
    found = [finding for finding in report.findings if finding.rule == "opinion.objects"]
    assert len(found) == 6
    assert "95 more" in found[-1].message


def test_what_the_users_policy_allows_is_proven(monkeypatch):
    """Names that the policy of this scan allows are discounted, though another finding speaks against the file."""
    own = load_policy()
    allowed = {**own.allowed, ("mytrainer", "State"): Allowed("own")}
    policy = Policy(own.version, allowed, own.care, own.denied_names, own.denied_modules, own.executable, own.anomalies)
    data = b"(" + imported("mytrainer", "State") + imported("torch.nn", "Thing") + b"t."
    container = open_container(BytesSource("file.pkl", data))
    report = second_opinion(container, scan(container, policy), policy=policy)
    proven = next(f for f in report.findings if f.rule == "opinion.discounted" and "proven" in f.message)
    assert proven.evidence == "from mytrainer import State"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (HANGS, "it took too long"),
        (CRASHES, "it ended with status"),
        ("raise SystemExit(4)", "fickling is not installed"),
        ("raise SystemExit(0)", "it ended with status 0"),
        ("print('no JSON')", "it ended with status 0"),
        ("print('[]')", "it ended with status 0"),
        ("print('{}')", "it ended with status 0"),
        ("print('null', end='')", "it ended with status 0"),
    ],
)
def test_a_failing_child_is_a_note(monkeypatch, program, reason):
    """A child that hangs, crashes or talks nonsense changes no verdict: a note says that there is no opinion."""
    replaced_by(monkeypatch, program)
    began = time.monotonic()
    for data in (saved(HALF), SYSTEM + b"."):
        before, after = opinion_on(data, timeout=0.5)
        assert after.verdict is before.verdict
        assert after.coverage == before.coverage
        assert without_opinions(after) == list(before.findings)
        assert reason in opinions(after)["opinion.failed"]
    assert time.monotonic() - began < 10


def test_a_child_that_cannot_be_started_is_a_note(monkeypatch):
    """Without a Python to run it with there is no opinion, and no error."""
    monkeypatch.setattr(child, "command", lambda task, seconds: [os.path.join("no", "such", "python")])
    _, report = opinion_on(saved(HALF))
    assert report.verdict is Verdict.SAFE
    assert "cannot be started" in opinions(report)["opinion.failed"]


def test_one_program_that_ends_the_child_does_not_silence_the_others(monkeypatch):
    """When the child dies of one pickle, another child goes on with the next."""
    answer = '{"objections": [], "imports": [["only", "fickling"]]}'
    started = replaced_by(monkeypatch, f"import sys; print('{answer}'); sys.stdout.flush(); import os; os.abort()")
    _, report = opinion_on(b"N.N.N.")
    assert len(started) == 2
    rules = [finding.rule for finding in report.findings if finding.rule.startswith("opinion.")]
    assert sorted(rules) == ["opinion.failed", "opinion.objects", "opinion.objects"]


def test_a_child_that_keeps_dying_is_given_up(monkeypatch):
    """However many pickles a file has, only a few children are started for it."""
    started = replaced_by(monkeypatch, CRASHES)
    _, report = opinion_on(b"N." * 30)
    assert len(started) <= 3
    assert sum(finding.rule == "opinion.failed" for finding in report.findings) == 30


def test_a_slow_pickle_is_cut_off():
    """A pickle that fickling needs long for takes no longer than the limit, and shorter ones are heard before it."""
    slow = pickle.dumps(list(range(300_000)), 2)
    began = time.monotonic()
    before, after = opinion_on(slow + SYSTEM + b".", timeout=1.0)
    assert time.monotonic() - began < 6
    assert after.verdict is before.verdict
    assert {"opinion.failed", "opinion.objects"} <= set(opinions(after))


def test_a_huge_pickle_is_not_asked_about(monkeypatch):
    """A pickle of more than 8 MiB is not given to fickling at all."""
    started = replaced_by(monkeypatch, CRASHES)
    _, report = opinion_on(b"\x80\x02" + text("a" * (9 << 20)) + b".")
    assert not started
    assert "more than fickling is given" in opinions(report)["opinion.failed"]


def test_the_bytes_given_to_fickling_are_bounded(monkeypatch):
    """All pickles of a file together are given to fickling only up to a limit."""
    monkeypatch.setattr(child, "MAX_ALTOGETHER", 100)
    container = open_container(BytesSource("file.pkl", b"".join(pickle.dumps("a" * 30) for _ in range(5))))
    given = [question.data for question in child.questions_about(container)]
    assert sum(len(data) for data in given if isinstance(data, bytes)) <= 100
    assert any(isinstance(data, str) for data in given)


def test_a_file_without_pickles_is_not_asked_about(monkeypatch):
    """A safetensors file's report comes back as it was, and no child is started."""
    started = replaced_by(monkeypatch, CRASHES)
    before, after = opinion_on(b"\x02\0\0\0\0\0\0\0{}")
    assert after is before
    assert not started


@pytest.fixture
def impostor(tmp_path, monkeypatch):
    """A function that makes the child's ``fickling`` a package whose analysis is the given code."""

    def install(analysis: str) -> None:
        package = tmp_path / "fickling"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "fickle.py").write_text(
            "class Pickled:\n"
            "    @staticmethod\n"
            "    def load(data, fail_on_decode_error=True): return Pickled() if data != b'N.' else Empty()\n"
            "class Empty(Pickled):\n"
            "    has_interpretation_error = has_resource_exhaustion = False\n"
            "    class properties: imports = []\n"
        )
        (package / "analysis.py").write_text(
            "import io, os, socket, subprocess\n"
            "class Nothing: results = []\n"
            "def check_safety(pickled):\n"
            "    if type(pickled).__name__ == 'Empty': return Nothing()\n"
            f"    {analysis}\n"
        )
        with_fickling_in(monkeypatch, str(tmp_path))

    return install


@pytest.mark.parametrize(
    "deed",
    [
        "os.system('touch {marker}')",
        "open('{marker}', 'w')",
        "os.mkdir('{marker}')",
        "socket.socket()",
        "subprocess.Popen(['touch', '{marker}'])",
        "import pickle; pickle.loads(b'cos\\nmkdir\\n(V{marker}\\ntR.')",
        "eval('1')",
        "import colorsys",
    ],
)
def test_the_child_can_do_nothing_but_read(impostor, tmp_path, deed):
    """Whatever the analysis tries beyond computing ends the child before it happens."""
    marker = tmp_path / "marker"
    impostor(deed.replace("{marker}", str(marker)))
    _, report = opinion_on(b"\x80\x02K\x01.")
    assert "tried to do more than to read" in opinions(report)["opinion.failed"]
    assert not marker.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not limit address space")
def test_the_child_has_limited_memory(impostor):
    """An analysis that wants gigabytes fails, and the file's verdict does not change."""
    impostor("b'x' * (3 << 30)")
    before, after = opinion_on(b"\x80\x02K\x01.")
    assert after.verdict is before.verdict is Verdict.SAFE
    assert "MemoryError" in opinions(after)["opinion.failed"]


def test_fickling_stays_outside(tmp_path):
    """The scanning process asks fickling and never imports it, nor an unpickler."""
    path = tmp_path / "file.pkl"
    path.write_bytes(SYSTEM + b".")
    program = (
        "import sys\n"
        "from modelhub.container import open_path\n"
        "from modelhub.scan import scan\n"
        "from modelhub.scan.second_opinion import second_opinion\n"
        "with open_path(sys.argv[1]) as container:\n"
        "    report = second_opinion(container, scan(container))\n"
        "assert any(f.rule == 'opinion.objects' for f in report.findings)\n"
        "print(sorted({'fickling', 'pickle', '_pickle'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_members_of_a_folder_are_named(tmp_path):
    """In a folder, an opinion names the file, and the member in it."""
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(saved(HALF))
    with open_path(folder) as container:
        report = second_opinion(container, scan(container))
    places = {finding.location.member for finding in report.findings if finding.rule == "opinion.discounted"}
    assert places == {"unet/diffusion_pytorch_model.bin!archive/data.pkl"}


def test_a_packed_pickle_never_gets_the_opinion_on_other_bytes():
    """A compressed pickle is judged by its own bytes, or said not to be at hand; its verdict does not change."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(saved(HALF))) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    before, after = opinion_on(out.getvalue())
    assert after.verdict is before.verdict
    assert opinions(after).keys() < {"opinion.failed", "opinion.discounted"}


def test_quoted_text_is_harmless():
    """Names of an untrusted file stand in the report in printable ASCII."""
    odd = b"\x80\x04\x8c\x02os\x8c\x07sys\xe2\x80\xaet\x93\x8c\x05\x1b[31m\x85R."
    _, report = opinion_on(odd)
    for finding in report.findings:
        assert (finding.message + (finding.evidence or "")).isascii()
        assert (finding.message + (finding.evidence or "")).isprintable()


@settings(max_examples=6)
@given(st.lists(st.binary(min_size=1, max_size=60), min_size=60, max_size=60), st.sampled_from([b"", b"\x80\x02"]))
def test_every_program_has_an_answer(programs, prefix):
    """Whatever bytes it is given, the child answers for each of them, and no failure is its end."""
    container = open_container(BytesSource("file.pkl", b"N."))
    program = container.pickles[0]
    questions = [child.Question(None, program, prefix + data, len(data)) for data in programs]
    for task in ("opinion", "decompile"):
        for answer in child.ask(task, questions):
            assert not str(answer.get("failed", "")).startswith("it ")
