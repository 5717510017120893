"""The abstract machine: what it sees of a program, and what it refuses."""

from __future__ import annotations

import collections
import datetime
import io
import pickle
import pickletools
import struct
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub.pickles import Blob, Call, Dict, Global, Limits, SetOf, opcodes, trace_pickle
from modelhub.pickles.render import render
from modelhub.pickles.values import PLAIN
from modelhub.source import BytesSource
from tests.pickles.assemble import called, imported, text, trace

STRINGS = [b"V" + b"a" * 70_000, b"S'" + b"a" * 70_000 + b"'"]


@pytest.mark.parametrize("line", STRINGS, ids=["V", "S"])
def test_long_strings_of_protocol_0_are_read(line):
    """A string in one long line is read whole, wherever the window ends, and what follows it too."""
    for around in (0, 70_000, 262_100, 262_144):
        before = b"\x8e" + struct.pack("<Q", around) + bytes(around) + b"0"
        found = trace(before + line + b"\n0" + called("os", "getcwd") + b".")
        assert found.complete and [each.qualified for each in found.imports] == ["os.getcwd"]
    assert trace(line + b"\n.").result == "a" * 70_000


def test_long_strings_have_a_limit():
    """Strings as text are kept up to a limit in one, and in all; beyond, the pickle is not understood."""
    assert [odd.rule for odd in trace(b"V" + bytes(5 << 20) + b"\n.").anomalies] == ["pickle.truncated"]
    several = trace((b"V" + b"a" * (1 << 20) + b"\n0") * 9 + b"N.")
    assert not several.stopped and [odd.rule for odd in several.anomalies] == ["pickle.limit"]
    assert not trace(b"V" + b"a" * (1 << 20)).stopped
    assert not trace(b"c" + b"a" * 70_000 + b"\nb\n.").stopped


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=5)
    ),
    max_leaves=20,
)


def plain(value: object) -> object:
    """A traced value of plain data as Python has it."""
    if type(value) is Dict:
        return {plain(key): plain(item) for key, item in value.pairs}
    if type(value) is SetOf:
        return {plain(item) for item in value.items}
    if type(value) is list:
        return [plain(item) for item in value]
    if type(value) is tuple:
        return tuple(plain(item) for item in value)
    if type(value) is Call and value.callee.name == "encode":
        return value.args[0].encode(value.args[1])
    if type(value) is Call and value.callee.name == "bytes":
        return b""
    return value


def rules(program: bytes) -> set[str]:
    return {anomaly.rule for anomaly in trace(program).anomalies}


def test_opcode_table_is_cpythons():
    """Every opcode of CPython's table is known under the same name and number, and no other."""
    ours = {name: value for name, value in vars(opcodes).items() if name.isupper()}
    assert ours == {op.name: ord(op.code) for op in pickletools.opcodes}
    assert len(ours) == 68


@given(VALUES, st.integers(0, 5))
@settings(max_examples=300)
def test_plain_data_reads_back(value, protocol):
    """Whatever plain data CPython pickles, in any protocol, is traced completely and to equal values."""
    traced = trace(pickle.dumps(value, protocol))
    assert traced.complete, traced.anomalies
    assert plain(traced.result) == value
    assert traced.end == len(pickle.dumps(value, protocol))


@given(VALUES, st.integers(0, 5))
@settings(max_examples=100)
def test_the_python_pickler_is_understood_too(value, protocol):
    """The pure Python pickler writes differently from the C one; both are traced completely."""
    out = io.BytesIO()
    pickle._Pickler(out, protocol).dump(value)
    traced = trace(out.getvalue())
    assert traced.complete, traced.anomalies
    assert plain(traced.result) == value


def test_objects_are_walked_not_made():
    """Imports, calls and states of objects are recorded with their offsets, and nothing is constructed."""
    program = pickle.dumps(
        [collections.OrderedDict(a=1), datetime.date(2020, 1, 2), {1, 2}, Exception("x"), collections.deque([1])], 2
    )
    traced = trace(program)
    assert traced.complete
    assert {g.qualified for g in traced.imports} >= {"collections.OrderedDict", "datetime.date"}
    for found in traced.imports:
        assert program[found.offset : found.offset + 1] == b"c"
    ordered = traced.result[0]
    assert type(ordered) is Call
    assert ordered.pairs == [("a", 1)]


@given(st.binary(max_size=400))
@settings(max_examples=1000)
def test_no_bytes_make_it_raise(program):
    """Any bytes at all give a trace."""
    trace(program)


SEED = pickle.dumps({"a": [1, 2.5, ("b", b"c")], "d": collections.OrderedDict(e={1, 2})}, 4)


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    st.integers(0, len(SEED)),
    st.integers(0, 5),
)
@settings(max_examples=500)
def test_no_mutation_makes_it_raise(edits, cut, protocol):
    """Flipped and missing bytes of a real pickle give a trace; a cut one is never complete."""
    program = bytearray(pickle.dumps({"a": [1, 2.5, ("b", b"c")], "d": collections.OrderedDict(e={1, 2})}, protocol))
    for position, value in edits:
        program[position % len(program)] = value
    trace(bytes(program))
    assert not trace(SEED[:cut]).complete or cut == len(SEED)


class Recorder(pickle.Unpickler):
    """A real unpickler whose imports are inert."""

    def __init__(self, data: bytes, found: set[tuple[str, str]]) -> None:
        super().__init__(io.BytesIO(data))
        self.found = found

    def find_class(self, module: str, name: str) -> object:
        self.found.add((module, name))
        return _Inert

    def persistent_load(self, pid: object) -> object:
        return _Inert()


class _Inert:
    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass

    def __hash__(self) -> int:
        return 1


OPERATIONS = st.sampled_from(
    [
        imported("os", "getcwd"),
        imported("collections", "OrderedDict"),
        text("posix") + text("getpid") + b"\x93",
        text("key"),
        b"K\x01",
        b"N",
        b"(",
        b"t",
        b")",
        b"}",
        b"]",
        b"R",
        b"b",
        b"a",
        b"s",
        b"u",
        b"e",
        b"0",
        b"1",
        b"2",
        b"q\x00",
        b"q\x01",
        b"h\x00",
        b"h\x01",
        b"\x94",
        b"\x81",
        b"\x85",
        b"\x86",
        b"\x87",
        b"\x8f",
        b"\x90",
        b"\x91",
        b"o",
        b"l",
        b"d",
        b"Q",
        b"ios\ngetcwd\n",
        b"I1\n",
        b"\x95\x03\x00\x00\x00\x00\x00\x00\x00",
        b".",
    ]
)


@given(st.lists(OPERATIONS, max_size=25), st.sampled_from([b"", b"\x80\x02", b"\x80\x04"]))
@settings(max_examples=1500)
def test_what_a_real_unpickler_imports_is_in_the_trace(operations, start):
    """Whatever CPython's unpickler would import, the trace of the same bytes has recorded, and what it finishes the
    trace finishes; only opcodes that cross a frame are read differently by it (and by its own ways of reading), and
    those the trace calls odd."""
    program = start + b"".join(operations) + b"."
    found: set[tuple[str, str]] = set()
    finished = True
    try:
        Recorder(program, found).load()
    except Exception:
        finished = False
    traced = trace(program)
    if "pickle.frame" in {anomaly.rule for anomaly in traced.anomalies}:
        return
    assert {(g.module, g.name) for g in traced.imports} >= found
    if finished:
        assert traced.stopped


@pytest.mark.parametrize(
    ("program", "rule"),
    [
        (b"I0x10\n.", "pickle.text"),
        (b"I0b1\n.", "pickle.text"),
        (b"I 1\n.", "pickle.text"),
        (b"I1_0\n.", "pickle.text"),
        (b"I1\0zz\n.", "pickle.text"),
        (b"L0x10L\n.", "pickle.text"),
        (b"L5\n.", "pickle.text"),
        (b"F1.0\0zz\n.", "pickle.text"),
        (b"F 1.0\n.", "pickle.text"),
        (b"S'\\x41'\n.", "pickle.text"),
        (b"S'abc\n.", "pickle.text"),
        (b"V\\u0041\n.", "pickle.text"),
        (b"g0x0\n.", "pickle.text"),
        (b"Nq\x00g00\n.", "pickle.text"),
        (b"h\x07.", "pickle.memo"),
        (b"(q\x00.", "pickle.stack"),
        (b"R.", "pickle.stack"),
        (b"t.", "pickle.stack"),
        (b"NN.", "pickle.stack"),
        (b"(NNNd.", "pickle.stack"),
        (b"N", "pickle.truncated"),
        (b"", "pickle.truncated"),
        (b"X\xff\xff\x00\x00abc.", "pickle.truncated"),
        (b"cos\nsystem", "pickle.truncated"),
        (b"K", "pickle.truncated"),
        (b"J\x01\x02", "pickle.truncated"),
        (b"\xff.", "pickle.opcode"),
        (b"X\x01\x00\x00\x00\xff.", "pickle.bad-text"),
        (b"\x80\x09N.", "pickle.protocol"),
        (b"\x80\x02\x80\x02N.", "pickle.protocol"),
        (b"\x82\x01.", "pickle.extension"),
        (b"\x83\x01\x00.", "pickle.extension"),
        (b"\x84\x01\x00\x00\x00.", "pickle.extension"),
        (b"\x97.", "pickle.buffer"),
        (b"N\x98.", "pickle.buffer"),
        (b"P1\n.", "pickle.persid"),
        (text("os") + b"K\x01\x93.", "pickle.computed-name"),
        (text("random") + text("_os.system") + b"\x93.", "pickle.dotted-name"),
        (imported("torch", "os.system") + b".", "pickle.dotted-name"),
        (imported("os ", "system") + b".", "pickle.odd-name"),
        (imported("\u03bfs", "system") + b".", "pickle.odd-name"),
        (imported("os", "") + b".", "pickle.odd-name"),
        (text("os\nx") + text("system") + b"\x93.", "pickle.odd-name"),
        (b"\x80\x04\x95\x01\x00\x00\x00\x00\x00\x00\x00K\x01.", "pickle.frame"),
        (b"\x80\x04\x95\xff\x00\x00\x00\x00\x00\x00\x00N.", "pickle.truncated"),
        (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x95\x01\x00\x00\x00\x00\x00\x00\x00N.", "pickle.frame"),
        (b"N\x8b\xff\xff\xff\x7f.", "pickle.exhausting"),
        (b"T\xff\xff\xff\xff.", "pickle.stack"),
        (b"Nr\xff\xff\xff\x7f.", "pickle.exhausting"),
    ],
)
def test_the_language_is_strict(program, rule):
    """What unpicklers could read differently, or cannot read at all, is an anomaly of its own rule."""
    assert rule in rules(program)
    assert not trace(program).complete


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (called("os", "system", text("id")) + b".", "os.system"),
        (b"(" + text("id") + b"ios\nsystem\n.", "os.system"),
        (b"(" + imported("os", "system") + text("id") + b"o.", "os.system"),
        (imported("os", "system") + text("id") + b"\x85\x81.", "os.system"),
        (imported("os", "system") + text("id") + b"\x85}\x92.", "os.system"),
        (text("os") + text("system") + b"\x93" + text("id") + b"\x85R.", "os.system"),
        (called("os", "system", text("id")) + b"0N.", "os.system"),
        (b"\x80\x02N0" + called("os", "system", text("id")) + b"q\x0000N.", "os.system"),
    ],
)
def test_every_way_of_calling_is_a_call(program, name):
    """REDUCE, INST, OBJ, NEWOBJ and NEWOBJ_EX are calls alike, and a result that is thrown away is still a call."""
    calls = trace(program).calls
    assert [call.callee.qualified for call in calls] == [name]
    assert render(calls[0]) == "os.system('id')"


def test_calls_before_a_break_are_recorded():
    """A program that breaks off after its payload keeps the payload in its trace."""
    traced = trace(called("os", "system", text("id")) + b"\xff")
    assert [call.callee.qualified for call in traced.calls] == ["os.system"]
    assert not traced.complete


def test_long_literals_stay_in_the_file():
    """A literal over the limit is kept as its place in the file, and what follows it is read on."""
    data = bytes(300_000)
    program = b"\x80\x03B" + struct.pack("<I", len(data)) + data + text("after") + b"\x86."
    traced = trace(program)
    assert traced.complete
    blob, after = traced.result
    assert type(blob) is Blob
    assert (blob.start, blob.nbytes, after) == (7, 300_000, "after")


def test_windows_are_seamless():
    """Opcodes that lie across the reader's windows are read as if they did not."""
    value = [f"name-{i}" * 7 for i in range(30_000)]
    for protocol in (0, 2, 4):
        traced = trace(pickle.dumps(value, protocol), Limits(kept=8 << 20))
        assert traced.complete, traced.anomalies
        assert traced.result == value


def test_reading_starts_and_ends_where_it_is_told():
    """A program inside a larger file is traced with absolute offsets, and never past its end."""
    program = called("os", "getcwd") + b"."
    source = BytesSource("x", b"junk" + program + b"more")
    traced = trace_pickle(source, 4, 4 + len(program))
    assert traced.complete
    assert (traced.imports[0].offset, traced.end) == (4, 4 + len(program))
    assert not trace_pickle(source, 4, 4 + len(program) - 1).complete


@pytest.mark.parametrize(
    "program",
    [
        b"]" * 3_000_000,
        b"(" * 3_000_000,
        b"N" * 40_000_000,
        b"N" + b"\x94" * 4_000_000,
        b"N" + b"\x85" * 4_000_000 + b".",
        b"N" + b"2\x86" * 1_500_000 + b".",
        b"\x95" + bytes(8) * 100_000,
        b"\x95\0\0\0\0\0\0\0\0" * 500_000,
        b"I" + b"9" * 5_000_000 + b"\n.",
        b"cos\nsystem\n" * 300_000,
    ],
    ids=lambda p: repr(p[:9]),
)
def test_exhausting_programs_end_in_time(program):
    """Programs made to exhaust memory or time end within seconds, as incomplete or harmless data."""
    start = time.monotonic()
    traced = trace(program)
    assert time.monotonic() - start < 20
    assert sys.getsizeof(traced.anomalies) < 10_000
    assert not traced.complete or not traced.calls


def test_budgets_are_the_callers():
    """A caller's own limits are kept to."""
    program = pickle.dumps([[i] for i in range(300_000)], 2)
    assert trace(program).complete
    assert {a.rule for a in trace(program, Limits(values=1000)).anomalies} == {"pickle.limit"}


def test_rendering_is_bounded():
    """Text made of a hostile value is one short line of printable ASCII."""
    deep = trace(b"N" + b"2\x86" * 60 + b".").result
    assert len(render(deep)) <= 200
    wide = trace(pickle.dumps(["\x1b[31m\n" * 100] * 1000)).result
    assert render(wide).isprintable()
    assert len(render(wide)) <= 200
    assert render(Global("a", "b", 0, "GLOBAL")) == "a.b"


def test_an_import_that_the_end_of_the_file_cuts_off_is_traced() -> None:
    """Python's own unpickler imports by the line without its last byte; so the trace has that import too."""
    for program, named in (
        (b"cos\nsystem1", ("os", "system")),
        (b"(ios\nsys", ("os", "sy")),
        (b"cos\n", ("os", "")),
        (b"cos1", ("os", "")),
        (b"c", ("", "")),
    ):
        cut = trace(program)
        assert [(each.module, each.name) for each in cut.imports] == [named]
        assert not cut.stopped
        assert cut.anomalies[-1].rule == "pickle.truncated"


def test_adding_no_items_to_an_object_is_a_mutation() -> None:
    """Python's own unpickler calls the object's ``extend`` even so; a list that gets no items is none."""
    assert [each.opcode for each in trace(called("a", "b") + b"(e.").mutations] == ["APPENDS"]
    assert trace(b"](e.").mutations == ()


def long_program(*tail: bytes) -> bytes:
    """A list of plain records that takes more opcodes than are kept, with what the opcodes *tail* make at its end."""
    records = pickle.dumps([{"step": i, "loss": i / 7, "caption": f"image {i}"} for i in range(60_000)], 2)
    return records[:-1] + b"".join(opcodes + b"a" for opcodes in tail) + b"."


def test_plain_values_of_a_long_program_are_understood_and_not_kept() -> None:
    """A long log of numbers and text is followed to its end; its later records are empty of what they held."""
    traced = trace(long_program())
    assert traced.complete, traced.anomalies
    assert len(traced.result) == 60_000
    assert [key for key, _ in traced.result[0].pairs] == ["step", "loss", "caption"]
    assert list(traced.result[-1].pairs) == [(PLAIN, PLAIN)]
    assert trace(pickle.dumps(list(range(600_000)), 2)).result[-1] is PLAIN


def test_a_long_program_hides_nothing() -> None:
    """What is imported, called and asked for after very many records is traced as anywhere else."""
    payload = called("os", "system", text("id"))
    late = b"}(" + text("ran") + payload + text("w") + b"NQu"
    traced = trace(long_program(payload, late))
    assert [call.callee.qualified for call in traced.calls] == ["os.system", "os.system"]
    assert len(traced.persistent_ids) == 1
    assert [key for key, _ in traced.result[-1].pairs] == ["ran", "w"]
    mixed = trace(long_program(b"}(" + text("a") + b"Nu(" + text("b") + payload + b"u(" + text("c") + b"Nu"))
    assert [key for key, _ in mixed.result[-1].pairs] == [PLAIN, "b", PLAIN]


def test_names_are_still_known_in_a_long_program() -> None:
    """Text that is memoised stays known however long the program: an import may be spelled with it."""
    module, name = (b"r" + struct.pack("<I", index) for index in (300_000, 300_001))
    kept = b"}(" + text("os") + module + text("listdir") + name + b"u"
    traced = trace(long_program(kept, b"j" + module[1:] + b"j" + name[1:] + b"\x93"))
    assert traced.complete, traced.anomalies
    assert [(each.qualified, each.literal) for each in traced.imports] == [("os.listdir", True)]


def test_the_memo_may_have_holes() -> None:
    """MEMOIZE counts the entries that are set, as CPython's unpicklers do, wherever PUT left some out."""
    program = b"\x80\x04" + text("a") + b"q\x05" + text("b") + b"\x94" + b"h\x01h\x05\x87\x86."
    traced = trace(program)
    assert traced.complete, traced.anomalies
    assert traced.result == pickle.loads(program) == ("a", ("b", "b", "a"))
    assert rules(b"Nq\x05h\x03.") == {"pickle.memo"}
