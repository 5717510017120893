"""The evidence: what each pickle would do, as lines of Python."""

from __future__ import annotations

import collections
import pickle
import time

import pytest
import torch

from modelhub.container import open_container
from modelhub.scan.explain import MAX_LINES, MAX_PROGRAMS, MAX_WIDTH, Decompiled, decompile
from modelhub.source import BytesSource
from tests.pickles.assemble import called, text
from tests.scan.children import CRASHES, HANGS, replaced_by, saying
from tests.scan.judge import saved

TENSORS = {"w": torch.zeros(2), "b": torch.ones(3)}


def explained(data: bytes, **options: float) -> tuple[Decompiled, ...]:
    return decompile(open_container(BytesSource("file.pt", data)), **options)


def all_text(*parts: Decompiled) -> str:
    return "\n".join(row for part in parts for _, row in part.lines)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_lines_have_the_offsets_of_their_opcodes(legacy, protocol):
    """Each import and each call of a checkpoint is a line at the byte where its opcode lies in the member."""
    container = open_container(BytesSource("file.pt", saved(TENSORS, legacy=legacy, protocol=protocol)))
    (part,) = decompile(container)
    program = next(program for program in container.pickles if program.role == "object")
    assert part.by == "fickling"
    assert part.member == program.member
    offsets = {offset for offset, row in part.lines if row.startswith("from ") or "(" in row}
    acts = (*program.trace.imports, *program.trace.calls)
    assert {act.offset - program.origin for act in acts} <= offsets
    assert part.lines[-1][1].startswith("result = {'w': ")


def test_a_payload_is_shown_and_not_run(tmp_path):
    """A pickle that would make a folder is shown to do so, and the folder is not made."""
    marker = tmp_path / "marker"
    (part,) = explained(b"\x80\x02" + called("os", "mkdir", text(str(marker))) + b".")
    assert part.lines[0] == (2, "from os import mkdir")
    assert part.lines[1][1] == f"_var0 = mkdir('{marker}')"
    assert not marker.exists()


@pytest.mark.parametrize("program", [HANGS, CRASHES, "raise SystemExit(4)", "print('nonsense')"])
def test_without_fickling_modelhub_shows_its_own_reading(monkeypatch, program):
    """Whatever becomes of fickling, the imports and calls are shown, and why it is not fickling that shows them."""
    replaced_by(monkeypatch, program)
    began = time.monotonic()
    (part,) = explained(b"\x80\x02" + called("os", "system", text("true")) + b".", timeout=0.5)
    assert time.monotonic() - began < 5
    assert part.by == "modelhub"
    assert part.lines[0][0] is None and "fickling has none" in part.lines[0][1]
    assert part.lines[1:3] == ((2, "from os import system"), (24, "os.system('true')"))
    assert part.lines[-1][1] == "result = os.system('true')"


def test_what_fickling_does_not_know_is_shown_all_the_same():
    """A program with an opcode that fickling does not know is shown in modelhub's reading, oddities included."""
    (part,) = explained(b"Pid\n0" + called("os", "system", text("true")) + b".")
    assert part.by == "modelhub"
    assert "os.system('true')" in all_text(part)
    assert "[pickle.persid]" in all_text(part)


def test_every_value_that_is_changed_is_shown():
    """BUILD and items set on what a pickle imports are in modelhub's own reading too."""
    program = b"\x80\x02Pid\n0cm\nobj\n}b0cm\nobj\nK\x01K\x02s."
    (part,) = explained(program)
    assert part.by == "modelhub"
    assert "m.obj.__setstate__({})" in all_text(part)
    assert "# SETITEM on m.obj" in all_text(part)


def test_a_payload_does_not_drown():
    """Behind ten thousand harmless lines, the one that is not allowed is still shown, in either reading."""
    harmless = b"".join(called("collections", "OrderedDict") + b"0" for _ in range(5000))
    for odd in (b"", b"Pid\n0"):
        (part,) = explained(b"\x80\x02" + odd + harmless + called("os", "system", text("true")) + b".")
        assert part.by == ("modelhub" if odd else "fickling")
        assert len(part.lines) <= MAX_LINES + 5
        assert "system('true')" in all_text(part)
        assert "lines left out" in all_text(part)


def test_lines_are_short_and_cannot_steer_a_terminal(monkeypatch):
    """Whatever a file says, a line is printable ASCII and of bounded length."""
    hostile = text("\x1b[31m\n\u202e" + "a" * 5000)
    data = b"\x80\x02" + called("os", "system", hostile) + b"."
    parts = explained(data)
    saying(monkeypatch, {"lines": [[0, "\x1b[31m\u202e\nimport \ud800"]], "more": 3})
    parts += explained(data)
    replaced_by(monkeypatch, CRASHES)
    parts += explained(data)
    assert [part.by for part in parts] == ["fickling", "fickling", "modelhub"]
    for _, row in (row for part in parts for row in part.lines):
        assert row.isascii() and row.isprintable()
        assert len(row) <= MAX_WIDTH


def test_framing_is_left_out_unless_it_does_something():
    """Of a legacy checkpoint only the object is shown; a pickle of its frame that calls something is shown too."""
    legacy = saved(TENSORS, legacy=True)
    assert len(explained(legacy)) == 1
    container = open_container(BytesSource("file.pt", legacy))
    system = next(program.trace for program in container.pickles if program.role == "system")
    evil = b"\x80\x02" + called("os", "system", text("true")) + b"."
    parts = explained(legacy[: system.start] + evil + legacy[system.end :])
    assert "_var0 = system('true')" in all_text(*parts)


def test_every_pickle_is_shown():
    """A pickle of plain data is one line; several in a file are several parts, up to a limit that is told."""
    assert explained(pickle.dumps({"a": 1}, 2))[0].lines == ((16, "result = {'a': 1}"),)
    parts = explained(b"N." * 10)
    assert [all_text(part) for part in parts] == ["result = None"] * 10
    assert len(explained(b"N." * 500)) <= MAX_PROGRAMS + 1


def test_a_file_without_pickles_has_nothing_to_explain():
    """A safetensors file has no program to show."""
    assert explained(b"\x02\0\0\0\0\0\0\0{}") == ()


def test_broken_programs_are_shown_as_far_as_they_go():
    """What runs before the place where a program is broken is shown."""
    for end in (b"", b"\xff", b"\x80\x02h\x07."):
        parts = explained(b"\x80\x02" + called("os", "system", text("true")) + b"0" + end)
        assert "system('true')" in all_text(*parts), parts


def test_large_checkpoints_stay_readable():
    """A checkpoint of a thousand tensors is shown by its first lines."""
    big = collections.OrderedDict((f"layer.{n}.weight", torch.zeros(1)) for n in range(1000))
    (part,) = explained(saved(big))
    assert part.by == "fickling"
    assert len(part.lines) <= MAX_LINES + 2
