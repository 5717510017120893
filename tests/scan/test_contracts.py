"""Allowed names keep to their roles: what a call may be given, and what state what it made may be given."""

from __future__ import annotations

import struct

import pytest

from modelhub.samples.pickling import Call, Import, dumps
from modelhub.scan import Verdict
from tests.corpus.containers import legacy, state, tensor
from tests.corpus.zips import archive, checkpoint
from tests.pickles.assemble import called, imported, text
from tests.scan.judge import judged, rules

DTYPE = Import("numpy", "dtype")
PLAIN = (3, "<", None, None, None, -1, -1, 0)


def dtype(letter: str, state: object = PLAIN) -> Call:
    return Call(DTYPE, (letter, False, True), state=state)


def array(
    letter: str, shape: tuple[int, ...], data: object, given: object = PLAIN, start: tuple[int, ...] = (0,)
) -> Call:
    arguments = (Import("numpy", "ndarray"), start, b"b")
    return Call(
        Import("numpy.core.multiarray", "_reconstruct"), arguments, state=(1, shape, dtype(letter, given), False, data)
    )


@pytest.mark.parametrize(
    "given",
    [
        PLAIN,
        (3, ">", None, None, None, -1, -1, 0),
    ],
)
def test_element_types_as_numpy_writes_them_are_safe(given):
    """The states that numpy gives its own element types are proven."""
    assert judged(dumps(dtype("f4", given))).verdict is Verdict.SAFE


@pytest.mark.parametrize(
    ("letter", "given"),
    [
        ("V8", (3, "|", None, None, None, 8, 1, 63)),
        ("f8", (3, "<", None, None, None, -1, -1, 63)),
        ("f8", (3, "<", None, None, None, 1 << 30, 8, 0)),
        ("S4", (3, "|", None, None, None, 400, 1, 0)),
        ("f8", (3, "<", ("f8", (2,)), None, None, -1, -1, 0)),
        ("f8", (9, "<", None, None, None, -1, -1, 0)),
        ("f8", ()),
    ],
)
def test_element_types_that_lie_are_not_safe(letter, given):
    """An element type whose flags or size are not its own would have numpy read bytes as pointers."""
    report = judged(dumps(dtype(letter, given)))
    assert report.verdict is Verdict.SUSPICIOUS
    assert rules(report) == {"state.misused"}


def test_arrays_are_as_large_as_their_data():
    """An array's shape and data agree, and it begins with no elements."""
    objects = (3, "|", None, None, None, -1, -1, 63)
    assert judged(dumps(array("f4", (2,), bytes(8)))).verdict is Verdict.SAFE
    assert judged(dumps(array("O8", (2,), ["a", None], objects))).verdict is Verdict.SAFE
    for lie in (
        array("f4", (3,), bytes(8)),
        array("f4", (1 << 40,), bytes(8)),
        array("O8", (1 << 40,), ["a"], objects),
        array("O8", (1,), bytes(8), objects),
        array("f4", (2,), ["a", "b"]),
        array("f4", (2,), bytes(8), start=(1 << 40,)),
    ):
        assert judged(dumps(lie)).verdict is Verdict.SUSPICIOUS


def test_a_tensor_that_no_name_leads_to_is_checked_too():
    """A tensor is held to its storage even where it is dropped at once: torch would have made room for it."""
    hidden = b"\x80\x02" + tensor(offset=1 << 40) + b"0" + state(tensor())[2:]
    report = judged(archive(checkpoint(hidden, [bytes(16)])))
    assert report.verdict is Verdict.SUSPICIOUS
    assert "reaches out of its storage" in report.findings[0].message


@pytest.mark.parametrize("part", ["__setstate__", "__class__", "__dict__"])
def test_attributes_that_python_obeys_are_unsafe(part):
    """No state may give an object a method or a class of its own."""
    body = called("collections", "OrderedDict") + b"}" + text(part) + imported("torch", "Size") + b"sb"
    report = judged(b"\x80\x02" + body + b".")
    assert report.verdict is Verdict.UNSAFE
    assert rules(report) == {"state.special"}


ITEMS_ARE_ATTRIBUTES = [
    ("easydict", "EasyDict"),
    ("yacs.config", "CfgNode"),
    ("addict.addict", "Dict"),
    ("pytorch_lightning.utilities.parsing", "AttributeDict"),
    ("diffusers.configuration_utils", "FrozenDict"),
]
SETSTATE = called("numpy.core.multiarray", "scalar", called("numpy", "dtype", text("U12")) + text("a" * 48))


@pytest.mark.parametrize("key", [text("__setstate__"), text("__class__"), SETSTATE], ids=["state", "class", "made"])
@pytest.mark.parametrize("name", ITEMS_ARE_ATTRIBUTES)
@pytest.mark.parametrize("spelling", ["added", "given", "listed", "ordered", "nested", "pair"])
def test_items_that_python_obeys_are_unsafe(name, key, spelling):
    """Where a class's items are its attributes, no item may be a method that BUILD then calls: neither one added to the
    new object, nor one of the dict that ``copyreg._reconstructor`` makes it of, nor one of its arguments."""
    pair = key + imported("torch.storage", "_load_from_bytes")
    item, listed = pair + b"s", b"](" + pair + b"\x86e"
    made = {
        "added": imported(*name) + b")\x81" + item,
        "given": called("copyreg", "_reconstructor", imported(*name) + imported("builtins", "dict") + b"}" + item),
        "listed": called(*name, listed),
        "ordered": called(*name, called("collections", "OrderedDict", listed)),
        "nested": called(*name, called("collections", "OrderedDict", called("collections", "OrderedDict") + item)),
        "pair": called(*name, pair + b"\x86"),
    }
    report = judged(b"\x80\x02" + made[spelling] + b"}b.")
    assert report.verdict is Verdict.UNSAFE
    assert "state.special" in rules(report)


@pytest.mark.parametrize(
    "body",
    [
        called("fractions", "Fraction", text("1e999999999")),
        called("fractions", "Fraction", imported("torch", "Size")),
        called("array", "array", text("d") + imported("torch", "Size")),
        called("array", "array", text("O") + b"]"),
        called("array", "_array_reconstructor", imported("torch", "Size") + text("d") + b"K\x10" + text("")),
        called("array", "_array_reconstructor", imported("array", "array") + text("d") + b"K\x99" + text("")),
        called("collections", "UserDict", b"}"),
        called("collections", "UserDict") + text("a") + b"Ns",
        called("copyreg", "_reconstructor", imported("easydict", "EasyDict") + imported("builtins", "dict") + b"]"),
        imported("addict.addict", "Dict") + b")\x81}" + text("a") + b"Nsb",
        imported("addict.addict", "Dict") + text("a") + b"\x85\x81",
        called("numpy", "dtype", imported("torch", "Size")),
    ],
)
def test_plain_data_keeps_to_its_spelling(body):
    """Fractions, arrays and dicts of libraries are only allowed as their own pickles spell them."""
    assert judged(b"\x80\x03" + body + b".", "a.pkl").verdict >= Verdict.SUSPICIOUS


def storage_in_bytes(inner: bytes) -> bytes:
    loaded = called("torch.storage", "_load_from_bytes", b"B" + struct.pack("<I", len(inner)) + inner)
    body = loaded + b"K\x00(K\x04t(K\x01t\x89" + called("collections", "OrderedDict")
    return b"\x80\x03" + called("torch._utils", "_rebuild_tensor_v2", body) + b"."


def a_storage(numel: int = 4) -> bytes:
    storage = b"(" + text("storage") + imported("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x04NtQ"
    return legacy(value=b"\x80\x02" + storage + b".", keys=dumps(["0"])) + struct.pack("<q", numel) + bytes(16)


def test_bytes_that_torch_loads_are_judged_as_a_file():
    """``_load_from_bytes`` is SAFE when the file in its bytes is, UNSAFE when it is not, and never taken on trust."""
    assert judged(storage_in_bytes(a_storage()), "a.pkl").verdict is Verdict.SAFE
    evil = legacy(value=b"\x80\x02" + called("os", "system", text("true")) + b".")
    assert judged(storage_in_bytes(evil), "a.pkl").verdict is Verdict.UNSAFE
    assert judged(storage_in_bytes(a_storage(numel=9)), "a.pkl").verdict is Verdict.SUSPICIOUS
    assert judged(storage_in_bytes(b"\x89PNG\r\n\x1a\n"), "a.pkl").verdict > Verdict.SAFE
    assert judged(storage_in_bytes(storage_in_bytes(storage_in_bytes(a_storage()))), "a.pkl").verdict > Verdict.SAFE


def test_bytes_that_torch_loads_must_be_written_out():
    """Bytes that are computed, or handed over in another way than by a plain call, are not proven."""
    computed = called("torch.storage", "_load_from_bytes", called("builtins", "bytearray", b"C\x01a"))
    other = imported("torch.storage", "_load_from_bytes") + b"C\x01a\x85\x81"
    nothing = called("torch.storage", "_load_from_bytes")
    for body in (computed, other, nothing):
        assert judged(b"\x80\x03" + body + b".", "a.pkl").verdict > Verdict.SAFE


def test_names_of_python_2_are_mapped_below_protocol_3_only():
    """``__builtin__.set`` is the builtin where an unpickler maps it, and a module that does not exist elsewhere."""
    body = called("__builtin__", "set", b"](K\x01e")
    assert judged(b"\x80\x02" + body + b".", "a.pkl").verdict is Verdict.SAFE
    assert judged(body + b".", "a.pkl").verdict is Verdict.SAFE
    assert judged(b"\x80\x03" + body + b".", "a.pkl").verdict is Verdict.UNSAFE
    report = judged(b"\x80\x02" + called("commands", "getoutput", text("true")) + b".", "a.pkl")
    assert "subprocess.getoutput (written commands.getoutput)" in report.findings[0].message


def test_unrenamed_modules_are_in_no_table():
    """The names that are not looked up are none that Python 3 renamed."""
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    from modelhub.scan.rules.names import UNRENAMED

    renamed = {name.partition(".")[0] for name in IMPORT_MAPPING} | {name.partition(".")[0] for name, _ in NAME_MAPPING}
    assert not renamed & UNRENAMED


@pytest.mark.parametrize(
    "part",
    [
        called("__builtin__", "getattr", imported("ultralytics.nn.modules.head", "Detect") + text("forward")),
        called("functools", "partial", imported("torch.nn.modules.normalization", "LayerNorm")),
        called("torchvision.transforms.functional", "InterpolationMode", text("bilinear")),
        called("builtins", "getattr", imported("torch._C", "_VariableFunctionsClass") + text("relu")),
        imported("torch._C._nn", "gelu"),
        imported("torch.utils.data.sampler", "RandomSampler") + b")\x81",
    ],
    ids=["method", "partial", "enumeration", "torch's own function", "activation", "sampler"],
)
def test_parts_of_a_network_are_not_malware(part):
    """How protocol 2 writes a method, a prepared layer or a choice leaves a network an executable object: UNKNOWN."""
    network = imported("torch.nn.modules.container", "Sequential") + b")\x81}" + text("part") + part + b"sb"
    report = judged(b"\x80\x02" + network + b".")
    assert report.verdict is Verdict.UNKNOWN, report.findings
    assert "object.executable" in rules(report) <= {"object.executable", "tensor.unmodelled"}
    assert "cannot be proven" in report.findings[0].message


@pytest.mark.parametrize(
    "part",
    [
        called("__builtin__", "getattr", imported("os", "path") + text("sep")),
        called("__builtin__", "getattr", imported("torch.nn", "Module") + text("__globals__")),
        called("__builtin__", "getattr", imported("torch.utils.collect_env", "run") + text("x")),
        called("__builtin__", "getattr", imported("torch.nn", "Module") + text("x")) + b")R",
        called("functools", "partial", imported("os", "system")),
        called("functools", "partial", imported("torch.nn", "Module") + text("x")),
        called("builtins", "getattr", imported("torch._C", "_VariableFunctionsClass") + text("from_file"))
        + text("x")
        + b"\x85R",
        called("builtins", "getattr", imported("torch._C", "_nn") + text("gelu")),
        imported("torch.utils.data.datapipes.utils.decoder", "basichandlers"),
        called("__builtin__", "getattr", imported("torch.nn", "Module") + text("x")) + b"0" + imported("os", "system"),
    ],
)
def test_what_only_looks_like_part_of_a_network_is_unsafe(part):
    """A method of something else, a hidden attribute, and any call of the result are what they are."""
    assert judged(b"\x80\x02" + part + b".").verdict is Verdict.UNSAFE


def record(fields: dict[str, tuple[object, ...]], *, size: int = 8, flags: int = 16, **given: object) -> Call:
    """numpy's element type of *size* bytes with named fields."""
    names = given.get("names", tuple(fields))
    return Call(DTYPE, (f"V{size}", False, True), state=(3, "|", given.get("base"), names, fields, size, 1, flags))


def test_records_are_of_plain_elements_inside_them():
    """A record of numpy's is proven when its fields are plain elements that lie inside it, and not otherwise."""
    number = dtype("f4")
    assert judged(dumps(record({"a": (number, 0), "b": (number, 4)}))).verdict is Verdict.SAFE
    objects = dtype("O8", (3, "|", None, None, None, -1, -1, 63))
    inner = record({"a": (number, 0), "b": (number, 4)})
    for lie in (
        record({"a": (number, 8)}),
        record({"a": (number, -4)}),
        record({"a": (number, 0)}, flags=63),
        record({"a": (objects, 0)}),
        record({"a": (objects, 0)}, flags=27),
        record({"a": (inner, 0)}),
        record({"a": ("f4", 0)}),
        record({"a": (number, 0)}, names=("b",)),
        record({}, names=None, base=(number, (3,))),
        record({}, names=None, base=(objects, (1,))),
    ):
        report = judged(dumps(lie))
        assert report.verdict is Verdict.SUSPICIOUS and rules(report) == {"state.misused"}, report.findings


def test_a_record_in_itself_is_not_safe():
    """A record that is its own field would have numpy follow it without end."""
    made = called("numpy", "dtype", text("V8") + b"\x89\x88") + b"q\x00"
    fields = b"}" + text("a") + b"h\x00K\x00\x86s"
    itself = made + b"(K\x03" + text("|") + b"N" + text("a") + b"\x85" + fields + b"K\x08K\x01K\x10tb"
    assert judged(b"\x80\x02" + itself + b".").verdict is Verdict.SUSPICIOUS


@pytest.mark.parametrize(
    "body",
    [
        called("builtins", "type", text("x")),
        called("builtins", "type", text("x") + b")}"),
        imported("builtins", "type") + b"N\x85\x81",
        b"(Nibuiltins\ntype\n",
    ],
)
def test_the_type_of_none_is_all_that_type_may_make(body):
    """``type(None)`` is plain data; any other call of ``type``, which makes classes, is UNSAFE."""
    assert judged(b"\x80\x02" + called("builtins", "type", b"N") + b".").verdict is Verdict.SAFE
    assert judged(b"\x80\x02" + body + b".").verdict is Verdict.UNSAFE


@pytest.mark.parametrize(
    "body",
    [
        called("torch.serialization", "_get_layout", text("torch.load")),
        called("datetime", "datetime", called("builtins", "set", b"]")),
        called("builtins", "bytes", b"J\xff\xff\xff\x7f"),
        called("numpy", "float32", text("1")),
    ],
)
def test_rare_names_keep_to_their_roles(body):
    """What is allowed for the sake of rare plain data is allowed in that spelling alone."""
    report = judged(b"\x80\x02" + body + b".")
    assert report.verdict is Verdict.SUSPICIOUS and rules(report) == {"call.misused"}


@pytest.mark.parametrize("given", ["http://localhost/model.pt", "model.pt", "../model", "/etc/passwd", "two words"])
def test_a_choice_is_a_word(given):
    """A class that is called with a path or an address may open it: SUSPICIOUS, where a word is a choice."""
    body = called("torchvision.io.video_reader", "VideoReader", text(given))
    assert judged(b"\x80\x02" + body + b".").verdict is Verdict.SUSPICIOUS


def test_networks_of_unknown_packages_are_networks():
    """An object without arguments and with a network's state is an executable object, whoever wrote its class; one
    that is made in any other way is SUSPICIOUS."""
    parts = b"".join(text(name) + b"}" for name in ("_parameters", "_buffers", "_modules"))
    made = imported("RRDBNet_arch", "RRDBNet") + b")\x81"
    report = judged(b"\x80\x02" + made + b"}(" + parts + b"ub.")
    assert (report.verdict, rules(report)) == (Verdict.UNKNOWN, {"object.executable"})
    network = made + b"}(" + parts + b"ub"
    for other in (
        made + b"}" + text("x") + b"}sb",
        imported("RRDBNet_arch", "RRDBNet") + text("true") + b"\x85\x81}(" + parts + b"ub",
        called("RRDBNet_arch", "RRDBNet", text("word")) + b"}(" + parts + b"ub",
        imported("RRDBNet_arch", "RRDBNet") + b")}" + text("x") + b"Ns\x92}(" + parts + b"ub",
        b"(" + network + made + b"t",
        b"(" + network + called("RRDBNet_arch", "RRDBNet") + b"t",
        imported("scipy.stats", "norm_gen") + b")\x81}(" + parts + b"ub",
    ):
        assert judged(b"\x80\x02" + other + b".").verdict >= Verdict.SUSPICIOUS
