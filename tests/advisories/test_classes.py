"""One test for each class of attack: every file of it is not safe, and its harmless twin is SAFE.

The classes are those by which published bypasses of scanners work; the files are the corpus's.
"""

from __future__ import annotations

import pytest

from modelhub.scan import Verdict
from tests.corpus import items
from tests.corpus.containers import gguf, legacy, state, tensor
from tests.corpus.programs import framed, short, stack_global
from tests.corpus.zips import Entry, archive, checkpoint
from tests.pickles.assemble import called, imported, text
from tests.scan.judge import judged, rules

UNSAFE, SUSPICIOUS, UNKNOWN = Verdict.UNSAFE, Verdict.SUSPICIOUS, Verdict.UNKNOWN
ORDERED = called("collections", "OrderedDict")
GOOD = checkpoint(state(tensor()), [bytes(16)])


def program(body: bytes, protocol: int = 2) -> bytes:
    return bytes([0x80, protocol]) + body + b"."


CLASSES: dict[str, tuple[Verdict, bytes]] = {
    "ordinary payload": (UNSAFE, archive(GOOD)),
    "unlisted gadget": (UNSAFE, program(called("builtins", "set", b"](K\x01e"))),
    "two-step resolver": (UNSAFE, program(called("_codecs", "encode", text("os:system") + text("latin1")))),
    "dotted name": (UNSAFE, program(stack_global("collections", "OrderedDict") + b")R", 4)),
    "python 2 name": (UNSAFE, program(called("__builtin__", "set", b"](K\x01e"))),
    "memo trick": (UNSAFE, program(ORDERED + b"q\x000h\x00")),
    "computed name": (UNSAFE, program(short("collections") + b"\x94" + short("OrderedDict") + b"\x93)R", 4)),
    "opcode call": (UNSAFE, program(imported("argparse", "Namespace") + b")\x81")),
    "extension code": (UNSAFE, program(imported("collections", "OrderedDict") + b")R")),
    "persistent id": (SUSPICIOUS, archive(GOOD)),
    "out-of-band buffer": (SUSPICIOUS, program(called("builtins", "bytearray", b"C\x02ab"), 4)),
    "build call": (UNSAFE, program(ORDERED + b"}" + text("_metadata") + b"}sb")),
    "module overwrite": (UNSAFE, program(ORDERED + text("w") + b"K\x01s")),
    "append target": (UNSAFE, program(called("collections", "deque") + b"K\x01a")),
    "import only": (SUSPICIOUS, program(imported("torch", "float16"))),
    "nested pickle": (UNSAFE, next(item.data for _, item in items() if item.attack == "pickled tensor")),
    "parser differential": (UNKNOWN, b"I10\n0F1.5\n0L3L\n0S'a'\n0Va\n."),
    "break after payload": (UNSAFE, program(ORDERED)),
    "odd name": (SUSPICIOUS, program(imported("torch._utils", "_rebuild_tensor_v2") + b"0N")),
    "protocol lie": (UNSAFE, program(b"N", 5)),
    "scanner deactivation": (UNSAFE, program(text("fickling.hook"))),
    "role": (SUSPICIOUS, program(called("collections", "defaultdict", imported("builtins", "list")), 4)),
    "several pickles": (UNKNOWN, program(b"N")),
    "frame lie": (UNSAFE, framed(stack_global("collections", "OrderedDict") + b")R.")),
    "scanner denial of service": (UNKNOWN, program(b"](" + b"K\x01" * 50_000 + b"e")),
    "legacy header": (UNKNOWN, legacy()),
    "tar dispatch": (UNSAFE, legacy()),
    "appended zip": (UNSAFE, archive(GOOD)),
    "duplicate entry": (UNSAFE, archive(GOOD)),
    "directory base": (SUSPICIOUS, archive(GOOD)),
    "case clash": (UNSAFE, archive(GOOD)),
    "zip integrity": (UNKNOWN, archive([Entry("archive/data.pkl", state(tensor()), deflate=True), *GOOD[1:]])),
    "wrapped": (UNSAFE, archive(GOOD)),
    "hidden member": (UNKNOWN, archive(GOOD)),
    "lying tensor": (UNKNOWN, archive(checkpoint(state(tensor(shape=(2, 2), stride=(1, 2))), [bytes(16)]))),
    "torchscript": (UNSAFE, archive(GOOD)),
    "numpy object array": (UNSAFE, next(item.data for _, item in items() if item.what == "npy of numbers")),
    "joblib": (UNKNOWN, gguf("{{ bos_token }}")),
    "safetensors header": (UNKNOWN, next(item.data for _, item in items() if item.attack == "safetensors")),
}


@pytest.mark.parametrize("attack", CLASSES)
def test_class(attack):
    """Each file of the class is at least as bad as the class is; the twin is SAFE without a finding."""
    least, twin = CLASSES[attack]
    found = [item for label, item in items() if label == "malicious" and item.attack == attack]
    assert found
    for item in found:
        report = judged(item.data, f"model{item.extension}")
        assert report.verdict >= least, (item.what, report.findings)
        assert not (report.verdict is UNKNOWN and report.coverage.complete)
        assert report.findings and all(finding.message for finding in report.findings)
    report = judged(twin, "model")
    assert report.verdict is Verdict.SAFE, report.findings
    assert not report.findings


def test_every_class_is_tested():
    """No class of the corpus is without a test here, or among the advisories."""
    attacks = {item.attack for label, item in items() if label == "malicious"}
    assert {attack for attack in attacks if not attack.startswith(("CVE", "GHSA"))} == CLASSES.keys()


def test_weights_only_escapes_do_not_matter():
    """No loader's promise counts: code that a file brings is never SAFE (CVE-2025-32434)."""
    script = [*GOOD, Entry("archive/constants.pkl", program(b")")), Entry("archive/code/__torch__.py", b"pass\n")]
    report = judged(archive(script), "model.pt")
    assert report.verdict is UNKNOWN
    assert rules(report) == {"torch.script"}


def test_a_file_is_judged_whatever_it_is_called():
    """The name and its extension make a payload no better (CVE-2025-1889, CVE-2025-10155)."""
    payload = archive(checkpoint(state(called("os", "system", text("true")))))
    for name in ("model.pt", "model", "model.png", "MODEL.SAFETENSORS", "a.b.c", ".hidden", "model.txt"):
        assert judged(payload, name).verdict is UNSAFE
