"""Whatever could run code is not safe, however it is spelled. Nothing here is ever unpickled, and the payloads would
do no harm: they only ask for a process id or the working folder."""

from __future__ import annotations

import contextlib
import io
import pickle
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub.scan import Verdict, load_policy
from tests.pickles.assemble import called, imported, text
from tests.pickles.test_machine import OPERATIONS, Recorder
from tests.scan.judge import judged, rules, saved


def zipped(program: bytes) -> bytes:
    """A torch zip whose ``data.pkl`` is *program*."""
    whole = zipfile.ZipFile(io.BytesIO(saved({})))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for info in whole.infolist():
            data = program if info.filename.endswith("data.pkl") else whole.read(info)
            archive.writestr(zipfile.ZipInfo(info.filename), data)
    return out.getvalue()


def legacy(program: bytes) -> bytes:
    """A legacy torch file whose object is *program*."""
    whole = saved({}, legacy=True)
    ends = []
    stream = io.BytesIO(whole)
    for _ in range(5):
        pickle.Unpickler(stream).load()  # our own bytes, written a line above
        ends.append(stream.tell())
    return whole[: ends[2]] + program + whole[ends[3] :]


WRAPPERS = {"bare": lambda program: program, "zip": zipped, "legacy": legacy}

UNSAFE = {
    "os.system": called("os", "getcwd"),
    "posix": called("posix", "getpid"),
    "nt": called("nt", "getpid"),
    "subprocess": called("subprocess", "getoutput", text("true")),
    "builtins eval": called("builtins", "eval", text("1")),
    "builtins exec": called("builtins", "exec", text("1")),
    "python 2 builtins": called("__builtin__", "eval", text("1")),
    "getattr": called("builtins", "getattr", imported("os", "path") + text("sep")),
    "runpy": called("runpy", "_run_code", text("1")),
    "importlib": called("importlib", "import_module", text("this")),
    "pkgutil": called("pkgutil", "resolve_name", text("os.getcwd")),
    "operator": called("operator", "attrgetter", text("system")),
    "functools": called("functools", "partial", imported("os", "getcwd")),
    "pickle": called("pickle", "loads", text("N.")),
    "cPickle": called("cPickle", "loads", text("N.")),
    "torch.load": called("torch", "load", text("x")),
    "torch.hub": called("torch.hub", "load", text("x")),
    "numpy.load": called("numpy", "load", text("x")),
    "pip": called("pip", "main", text("x")),
    "timeit": called("timeit", "timeit", text("1")),
    "asyncio": called("asyncio.unix_events", "_UnixSubprocessTransport._start"),
    "socket": called("socket", "gethostname"),
    "webbrowser": called("webbrowser", "open", text("x")),
    "pathlib": called("pathlib", "Path.unlink", text("x")),
    "ctypes": called("ctypes", "CDLL", text("x")),
    "fickling": called("fickling.hook", "remove_hook"),
    "picklescan": called("picklescan.scanner", "x"),
    "inst": b"(" + b"ios\ngetcwd\n",
    "obj": b"(" + imported("os", "getcwd") + b"o",
    "newobj": imported("os", "getcwd") + b")\x81",
    "newobj_ex": imported("os", "getcwd") + b")}\x92",
    "stack global": text("os") + text("getcwd") + b"\x93)R",
    "dotted": text("random") + text("_os.getcwd") + b"\x93)R",
    "dotted torch": text("torch") + text("os.getcwd") + b"\x93)R",
    "dotted builtins": text("builtins") + text("eval.__call__") + b"\x93" + text("1") + b"\x85R",
    "discarded": called("os", "getcwd") + b"0N",
    "extension": b"\x82\x01)R",
    "reference only": imported("os", "system"),
    "hidden in a dict": b"}" + text("w") + called("os", "getcwd") + b"s",
    "after memo games": b"N(1q\x000" + called("os", "getcwd"),
    "computed": called("builtins", "getattr", imported("os", "path") + text("x")) + b")R",
    "globals": imported("collections", "namedtuple.__globals__"),
    "setitem on an import": imported("sys", "modules") + text("a") + text("b") + b"s",
    "append to an import": imported("sys", "path") + text("a") + b"a",
    "build an import": imported("collections", "OrderedDict") + b"}" + text("x") + text("y") + b"sb",
    "setstate": called("collections", "OrderedDict")
    + b"}" + text("__setstate__") + imported("collections", "OrderedDict") + b"sb",
    "setstate through a constructor": called("collections", "OrderedDict")
    + called("collections", "OrderedDict", b"]](" + text("__setstate__") + imported("torch", "Size") + b"ea") + b"b",
    "class through a constructor": called("collections", "OrderedDict")
    + b"N" + called("collections", "OrderedDict", b"]](" + text("__class__") + imported("torch", "Tensor") + b"ea")
    + b"\x86b",
    "slot state": called("collections", "OrderedDict") + b"N}" + text("__class__") + b"Ns\x86b",
}  # fmt: skip

NOT_SAFE = {
    "unfamiliar call": called("mylab.models", "Net"),
    "unfamiliar reference": imported("mylab.models", "Net"),
    "unlisted torch": called("torch", "seed"),
    "codec": called("_codecs", "encode", text("a") + text("rot13")),
    "big bytearray": called("builtins", "bytearray", b"J\xff\xff\xff\x7f"),
    "list of range": called("builtins", "list", called("builtins", "range", b"J\xff\xff\xff\x7f")),
    "factory": called("collections", "defaultdict", imported("torch", "Tensor")),
    "ordered dict of text": called("collections", "OrderedDict", text("ab")),
    "dtype": called("numpy", "dtype", text("evil")),
    "storage called": called("torch", "FloatStorage", b"J\xff\xff\xff\x7f"),
    "reconstructor of a module": called(
        "copyreg", "_reconstructor", imported("mylab", "Net") + imported("builtins", "object") + b"N"
    ),
    "rebuild of nothing": called("torch._utils", "_rebuild_tensor_v2", b"N" * 6),
    "rebuild by type": called(
        "torch._tensor", "_rebuild_from_type_v2", imported("builtins", "set") + imported("torch", "Tensor") + b")N"
    ),
    "nested": called("torch.storage", "_load_from_bytes", text("x")),
    "two pickles": b"N." + b"N",
    "bytes after": b"N.junkjunkjunk",
    "unknown persistent id": text("x") + b"Q",
    "text persistent id": b"Pabc\n",
    "next buffer": b"\x97",
    "genops breaker": b"I0x10\n0N",
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", UNSAFE)
def test_known_ways_to_run_code_are_unsafe(name, wrapper):
    """A name that runs code, called or only referred to, is UNSAFE in every kind of file."""
    report = judged(WRAPPERS[wrapper](b"\x80\x02" + UNSAFE[name] + b"."))
    assert report.verdict is Verdict.UNSAFE, report.findings
    worst = report.findings[0]
    assert worst.severity.verdict is Verdict.UNSAFE
    assert worst.location.offset is not None
    assert worst.message


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", NOT_SAFE)
def test_what_cannot_be_proven_is_not_safe(name, wrapper):
    """An unknown name, or a known one out of its role, is never SAFE."""
    report = judged(WRAPPERS[wrapper](b"\x80\x02" + NOT_SAFE[name] + b"."))
    assert report.verdict > Verdict.SAFE
    assert report.findings


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_payload_before_a_break_counts(protocol):
    """Code that would run before the stream breaks off is UNSAFE; an unfamiliar call before a break is, too."""
    start = b"" if protocol == 0 else bytes([0x80, protocol])
    assert judged(start + called("os", "getcwd") + b"\xff").verdict is Verdict.UNSAFE
    assert judged(start + called("mylab", "run") + b"\xff").verdict is Verdict.UNSAFE
    assert judged(zipped(start + called("os", "getcwd"))).verdict is Verdict.UNSAFE


def test_every_part_of_a_legacy_file_is_judged():
    """The magic number's, the system's and the storage keys' pickles are programs too."""
    whole = saved({}, legacy=True)
    stream = io.BytesIO(whole)
    start = 0
    for _ in range(5):
        pickle.Unpickler(stream).load()  # our own bytes
        evil = whole[:start] + b"\x80\x02" + called("os", "getcwd") + b"." + whole[stream.tell() :]
        assert judged(evil).verdict is Verdict.UNSAFE
        start = stream.tell()


def test_findings_say_where_and_what():
    """A finding has the member, the offset in it, the call as text and a reason."""
    program = b"\x80\x02N0" + called("os", "system", text("true")) + b"."
    finding = judged(zipped(program)).findings[0]
    assert finding.rule == "call.dangerous"
    assert finding.location.member is not None and finding.location.member.endswith("/data.pkl")
    assert program[finding.location.offset : finding.location.offset + 1] == b"R"
    assert finding.evidence == "os.system('true')"
    assert "os.system" in finding.message


def test_a_thousand_findings_are_a_few_lines():
    """The same thing over and over is listed a few times and counted."""
    report = judged(b"\x80\x02(" + b"".join(called(f"m{i}", "f") for i in range(1000)) + b"t.")
    assert len(report.findings) < 20
    assert any("more like it" in finding.message for finding in report.findings)


def test_reports_have_no_truth_value():
    """Nobody can mistake a report for a boolean."""
    with pytest.raises(TypeError):
        bool(judged(b"N."))


@given(st.binary(max_size=300))
@settings(max_examples=400)
def test_no_bytes_make_scan_raise(data):
    """Any bytes at all get a report."""
    judged(data)


@given(
    st.sampled_from([saved({"a": __import__("torch").zeros(2)}), saved({"a": 1}, legacy=True), zipped(b"\x80\x02N.")]),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8),
    st.integers(0, 5000),
)
@settings(max_examples=300)
def test_no_mutation_makes_scan_raise(data, edits, cut):
    """Flipped and missing bytes of real files get a report."""
    changed = bytearray(data)
    for position, value in edits:
        changed[position % len(changed)] = value
    judged(bytes(changed[: max(1, cut)]))


@given(st.lists(OPERATIONS, max_size=20))
@settings(max_examples=800)
def test_nothing_safe_imports_anything_unlisted(operations):
    """What a real unpickler imports of a SAFE program is on the allowlist."""
    program = b"\x80\x04" + b"".join(operations) + b"."
    if judged(program, "a.pkl").verdict is not Verdict.SAFE:
        return
    found: set[tuple[str, str]] = set()
    with contextlib.suppress(Exception):
        Recorder(program, found).load()
    assert all(load_policy().allows(module, name) for module, name in found)


def test_safe_reports_have_complete_coverage():
    """SAFE and incomplete do not go together, and UNKNOWN says what was not understood."""
    for data in (saved({}), b"N.", imported("mylab", "Net") + b".", b"junk"):
        report = judged(data)
        assert report.coverage.complete is (not report.coverage.skipped)
        assert (report.verdict is Verdict.SAFE) <= report.coverage.complete
        if report.verdict is Verdict.UNKNOWN:
            assert report.coverage.skipped
    assert rules(judged(imported("mylab", "Net") + b".")) == {"import.unfamiliar"}
