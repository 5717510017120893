"""Pickle programs that hide, mislead or exhaust: the classes of attack that need no container."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.corpus.gadgets import GADGETS
from tests.corpus.item import EVIL, PROGRAM, Item
from tests.pickles.assemble import called, imported, text

_TRUE = text("true")
_ORDERED = called("collections", "OrderedDict")


def short(value: str) -> bytes:
    """SHORT_BINUNICODE"""
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def stack_global(module: str, name: str) -> bytes:
    """Two strings and STACK_GLOBAL"""
    return short(module) + short(name) + b"\x93"


def framed(body: bytes, length: int | None = None) -> bytes:
    """PROTO 4 and *body* in a frame that says it is *length* bytes long (default: the truth)."""
    return b"\x80\x04\x95" + struct.pack("<Q", len(body) if length is None else length) + body


def gadget_items() -> Iterator[Item]:
    """One file for each gadget, named by its advisory where it has one."""
    for gadget in GADGETS:
        attack = gadget.advisories[0] if gadget.advisories else "unlisted gadget"
        yield Item(attack, gadget.qualified, gadget.program)


_TRICKS: dict[str, dict[str, bytes]] = {
    "two-step resolver": {
        "pkgutil finds os.system": called("pkgutil", "resolve_name", text("os:system")) + _TRUE + b"\x85R",
        "import_module then getattr_static": called(
            "inspect", "getattr_static", called("importlib", "import_module", text("os")) + text("system")
        )
        + _TRUE
        + b"\x85R",
        "pydoc locates os.system": called("pydoc", "locate", text("os.system")) + _TRUE + b"\x85R",
        "methodcaller on a module": called("operator", "methodcaller", text("system") + _TRUE)
        + called("importlib", "import_module", text("os"))
        + b"\x85R",
        "getattr of an import": called("builtins", "getattr", imported("os", "path") + text("os")),
        "torch's own import by name": called("torch._utils", "_import_dotted_name", text("os.system"))
        + _TRUE
        + b"\x85R",
    },
    "dotted name": {
        f"{module} {name}": b"\x80\x04" + stack_global(module, name) + _TRUE + b"\x85R"
        for module, name in (
            ("random", "_os.system"),
            ("torch", "os.system"),
            ("builtins", "eval.__call__"),
            ("collections", "namedtuple.__globals__.get"),
            ("numpy", "os.system"),
            ("collections", "OrderedDict.__init_subclass__.__self__.__base__.__subclasses__"),
            ("torch", "serialization.os.system"),
            ("torch._utils", "_rebuild_tensor_v2.__globals__.get"),
            ("pathlib", "Path.unlink"),
        )
    },
    "python 2 name": {
        "cPickle loads": called("cPickle", "loads", text("N.")),
        "commands getoutput": called("commands", "getoutput", _TRUE),
        "urllib2 urlopen": called("urllib2", "urlopen", text("http://localhost/")),
        "builtin eval": called("__builtin__", "eval", text("1")),
        "builtin apply": called("__builtin__", "apply", imported("os", "getcwd") + b")"),
        "copy_reg constructor": called("copy_reg", "constructor", imported("os", "getcwd")),
        "whichdb": called("whichdb", "whichdb", _TRUE),
        "itertools imap": called("itertools", "imap", imported("os", "system") + b"](" + _TRUE + b"e"),
        "anydbm": called("anydbm", "open", _TRUE),
        "SocketServer": called("SocketServer", "TCPServer", _TRUE),
    },
    "memo trick": {
        "put after pop mark": _ORDERED + b"(0" + EVIL,
        "memoize twice": b"\x80\x04" + short("os") + b"\x94\x94" + short("system") + b"\x94\x93" + _TRUE + b"\x85R",
        "names out of the memo": text("os") + b"q\x000" + text("system") + b"q\x010h\x00h\x01\x93" + _TRUE + b"\x85R",
        "names replaced in the memo": text("collections")
        + b"q\x000"
        + text("os")
        + b"q\x000h\x00"
        + text("system")
        + b"\x93"
        + _TRUE
        + b"\x85R",
        "import from the memo": imported("os", "system") + b"q\x050h\x05" + _TRUE + b"\x85R",
        "dup of an import": imported("os", "system") + b"2" + _TRUE + b"\x85R",
        "unset entry after payload": EVIL + b"0h\x07",
        "memo over the end of a mark": b"(" + imported("os", "system") + b"q\x001h\x00" + _TRUE + b"\x85R",
        "missing memo type confusion": b"K\x2aq\x000"
        + text("os")
        + b"q\x010h\x01"
        + text("system")
        + b"\x93"
        + _TRUE
        + b"\x85R",
    },
    "computed name": {
        "str join": called("builtins", "str.join", text("") + b"](" + text("o") + text("s") + b"e")
        + text("system")
        + b"\x93"
        + _TRUE
        + b"\x85R",
        "codecs decode": called("_codecs", "decode", b"C\x02os" + text("utf-8"))
        + text("system")
        + b"\x93"
        + _TRUE
        + b"\x85R",
        "call gives the name": text("os") + called("builtins", "str", text("system")) + b"\x93" + _TRUE + b"\x85R",
        "bytes as names": b"C\x02osC\x06system\x93" + _TRUE + b"\x85R",
        "integer as a name": text("os") + b"K\x01\x93" + _TRUE + b"\x85R",
    },
    "opcode call": {
        "INST": b"(" + _TRUE + b"ios\nsystem\n",
        "OBJ": b"(" + imported("os", "system") + _TRUE + b"o",
        "OBJ and POP": b"(" + imported("os", "system") + _TRUE + b"o0N",
        "NEWOBJ": imported("os", "system") + _TRUE + b"\x85\x81",
        "NEWOBJ_EX": imported("os", "system") + _TRUE + b"\x85}\x92",
        "REDUCE and POP": EVIL + b"0N",
        "REDUCE and POP_MARK": b"(" + EVIL + b"1N",
        "result kept in the memo only": EVIL + b"q\x000N",
        "result as a dict key": b"}" + EVIL + b"Ns",
        "call of a call": called("functools", "partial", imported("os", "system") + _TRUE) + b")R",
        "INST of an allowed class with a gadget": b"(" + EVIL + b"icollections\nOrderedDict\n",
    },
    "extension code": {
        "EXT1": b"\x82\x01" + _TRUE + b"\x85R",
        "EXT2": b"\x83\x01\x01" + _TRUE + b"\x85R",
        "EXT4": b"\x84\x01\x01\x01\x01" + _TRUE + b"\x85R",
        "registered first": called("copyreg", "add_extension", text("os") + text("system") + b"K\xf0")
        + b"0\x82\xf0"
        + _TRUE
        + b"\x85R",
        "set in the registry": imported("copyreg", "_inverted_registry")
        + b"K\xf1"
        + text("os")
        + text("system")
        + b"\x86s0\x82\xf1"
        + _TRUE
        + b"\x85R",
    },
    "persistent id": {
        "written as text": b"Pos.system\n",
        "a call in it": EVIL + b"Q",
        "a string": text("os.system") + b"Q",
        "a module": text("module") + imported("os", "system") + text("a.py") + text("") + b"(NNNNtQ",
        "a class of a module": b"(" + text("module") + imported("os", "system") + text("a.py") + text("") + b"tQ",
    },
    "out-of-band buffer": {
        "NEXT_BUFFER": b"\x97",
        "READONLY_BUFFER": b"\x97\x98",
        "buffer in a call": imported("builtins", "bytearray") + b"\x97\x85R",
    },
    "build call": {
        "setstate of an instance": _ORDERED
        + b"}"
        + text("__setstate__")
        + imported("os", "system")
        + b"sb"
        + _TRUE
        + b"b",
        "setstate of a namespace": called("types", "SimpleNamespace")
        + b"}"
        + text("__setstate__")
        + imported("os", "system")
        + b"sb"
        + _TRUE
        + b"b",
        "setstate of an allowed namespace": called("argparse", "Namespace")
        + b"}"
        + text("__setstate__")
        + imported("os", "system")
        + b"sb"
        + _TRUE
        + b"b",
        "class in the slots": _ORDERED + b"N}" + text("__class__") + imported("types", "SimpleNamespace") + b"s\x86b",
        "reduce attribute": _ORDERED + b"}" + text("__reduce_ex__") + imported("os", "system") + b"sb",
        "getattr attribute of a class": imported("collections", "OrderedDict")
        + b"N}"
        + text("__setitem__")
        + imported("os", "system")
        + b"s\x86b",
        "state of a class": imported("collections", "OrderedDict")
        + b"}"
        + text("update")
        + imported("os", "system")
        + b"sb",
        "a tensor's setstate": called("torch", "Tensor") + b"}" + text("x") + EVIL + b"sb",
    },
    "module overwrite": {
        "sys modules": imported("sys", "modules") + text("torch") + imported("os", "path") + b"s",
        "builtins of a function": b"\x80\x04"
        + stack_global("numpy", "size.__builtins__")
        + short("len")
        + stack_global("os", "system")
        + b"s",
        "dict of a module": b"\x80\x04"
        + stack_global("torch._utils", "__dict__")
        + short("_rebuild_tensor_v2")
        + stack_global("os", "system")
        + b"s",
        "build a module": imported("torch", "_utils")
        + b"}"
        + text("_rebuild_tensor_v2")
        + imported("os", "system")
        + b"sb",
        "environment": imported("os", "environ") + text("LD_PRELOAD") + _TRUE + b"s",
    },
    "append target": {
        "sys path": imported("sys", "path") + text("/tmp") + b"a",
        "sys path several": imported("sys", "path") + b"(" + text("/tmp") + b"e",
        "additems on an import": imported("sys", "path_hooks") + b"(" + _TRUE + b"\x90",
        "append to an object": called("logging", "getLogger") + _TRUE + b"a",
        "extend of a module": imported("importlib", "sys") + b"(" + _TRUE + b"e",
    },
    "import only": {
        "antigravity": imported("antigravity", "geohash"),
        "this": imported("this", "s"),
        "os.system": imported("os", "system"),
        "main": imported("__main__", "payload"),
        "an attribute of os": imported("os", "environ"),
        "pickled reference in a dict": b"}" + text("activation") + imported("subprocess", "call") + b"s",
        "idlelib": imported("idlelib.idle", "x"),
    },
    "nested pickle": {
        "_load_from_bytes": called("torch.storage", "_load_from_bytes", b"C" + bytes([len(PROGRAM)]) + PROGRAM),
        "_load_from_bytes of protocol 2": called(
            "torch.storage",
            "_load_from_bytes",
            called("_codecs", "encode", text(PROGRAM.decode("latin-1")) + text("latin1")),
        ),
        "torch.load": called("torch", "load", text("evil.pt")),
        "pickle loads": called("pickle", "loads", b"C" + bytes([len(PROGRAM)]) + PROGRAM),
        "pickle _loads": called("pickle", "_loads", b"C" + bytes([len(PROGRAM)]) + PROGRAM),
        "joblib load": called("joblib", "load", text("evil.joblib")),
        "pandas read_pickle": called("pandas", "read_pickle", text("evil.pkl")),
        "numpy load": called("numpy", "load", text("evil.npy") + b"N\x88"),
        "dill loads": called("dill", "loads", b"C" + bytes([len(PROGRAM)]) + PROGRAM),
        "yaml": called("yaml", "unsafe_load", text("!!python/object/apply:os.getcwd []")),
    },
    "parser differential": {
        **{
            f"prefix {line!r}": line + b"\n0" + EVIL
            for line in (b"I0x10", b"I0b1", b"I0o7", b"L0x10L", b"I1_0", b"I 1", b"L1l", b"F1_0.0", b"Finfinity")
        },
        "NUL in an integer": b"I1\x00zz\n0" + EVIL,
        "NUL in a float": b"F1.0\x00zz\n0" + EVIL,
        "string of high bytes": b"S'\xff'\n0" + EVIL,
        "string with a break": b"S'a\\\n0" + EVIL,
        "put index with spaces": b"Np 1\n0" + EVIL,
        "carriage return in a name": b"cos\r\nsystem\n" + _TRUE + b"\x85R",
        "name that is not UTF-8": b"cos\nsyst\xe9m\n" + _TRUE + b"\x85R",
    },
    "break after payload": {
        "unknown opcode": EVIL + b"0\xff",
        "cut off": EVIL + b"0X\xff\x00\x00\x00abc",
        "no stop": EVIL,
        "stack underflow": EVIL + b"0000",
        "unset memo": EVIL + b"0h\x63",
        "unfamiliar call": called("colour_maps.tools", "install", _TRUE) + b"0\xff",
        "bad text": EVIL + b"0X\x02\x00\x00\x00\xff\xff",
    },
    "odd name": {
        "newline in a name": b"\x80\x04" + stack_global("os\nsystem", "x") + b")R",
        "dot at the end": b"\x80\x04" + stack_global("os.", "system") + _TRUE + b"\x85R",
        "letters of another alphabet": b"\x80\x04" + stack_global("оs", "system") + _TRUE + b"\x85R",
        "full-width letters": b"\x80\x04" + stack_global("os", "ｓｙｓｔｅｍ") + _TRUE + b"\x85R",
        "empty module": b"\x80\x04" + stack_global("", "system") + _TRUE + b"\x85R",
        "module with a space": imported("os ", "system") + _TRUE + b"\x85R",
    },
    "protocol lie": {
        "protocol 255": b"\x80\xff" + EVIL,
        "protocol twice": b"\x80\x02\x80\x04" + EVIL,
        "protocol 0 with new opcodes": stack_global("os", "system") + _TRUE + b"\x85R",
    },
    "scanner deactivation": {
        "fickling": called("fickling.hook", "remove_hook"),
        "fickling always check": called("fickling", "deactivate_safe_ml_environment"),
        "picklescan": called("picklescan.scanner", "_unsafe_globals"),
        "modelaudit": called("modelaudit.telemetry", "record"),
    },
    "role": {
        "defaultdict that calls": called("collections", "defaultdict", imported("os", "getcwd")),
        "defaultdict of an allowed function": called(
            "collections", "defaultdict", imported("torch._utils", "_rebuild_tensor_v2")
        ),
        "ordered dict of a call": called("collections", "OrderedDict", EVIL),
        "set over a map": called(
            "builtins", "set", called("builtins", "map", imported("os", "system") + b"](" + _TRUE + b"e")
        ),
        "codec that is not latin1": called("_codecs", "encode", _TRUE + text("rot13")),
        "rebuild by an argument": called(
            "torch._tensor",
            "_rebuild_from_type_v2",
            imported("os", "system") + imported("torch", "Tensor") + _TRUE + b"\x85N",
        ),
        "hooks of a parameter": called(
            "torch._utils",
            "_rebuild_parameter",
            b"N\x88" + called("collections", "OrderedDict", b"](K\x01" + imported("os", "system") + b"\x86e"),
        ),
        "reconstructor of a gadget": called(
            "copyreg", "_reconstructor", imported("subprocess", "Popen") + imported("builtins", "object") + b"N"
        ),
        "reconstructor with a base of its own": called(
            "copyreg", "_reconstructor", imported("builtins", "str") + imported("subprocess", "Popen") + _TRUE
        ),
        "namespace with arguments": called("argparse", "Namespace", EVIL),
        "huge bytearray": called("builtins", "bytearray", b"J\xff\xff\xff\x7f"),
        "range as a list": called("builtins", "list", called("builtins", "range", b"J\xff\xff\xff\x7f")),
        "storage called": called("torch", "FloatStorage", b"J\xff\xff\xff\x7f"),
        "device by a call": called("torch", "device", EVIL),
        "numpy array of a class": called(
            "numpy.core.multiarray", "_reconstruct", imported("subprocess", "Popen") + b"K\x00\x85C\x01b"
        ),
        "path with a call": called("pathlib", "PosixPath", EVIL),
    },
}

_EXHAUSTING: dict[str, bytes] = {
    "a million pickles": b"N." * 200_000,
    "a hundred thousand marks": b"(" * 100_000 + b"N.",
    "memo index of two billion": b"Nr\xff\xff\xff\x7f.",
    "integer of a megabyte": b"\x8b" + struct.pack("<i", 1 << 20) + bytes(1 << 20) + b".",
    "exponential tuples": b"\x80\x02)" + b"2\x86" * 2000 + EVIL + b"\x86.",
    "nested tuples": b"\x80\x02)" + b"\x85" * 200_000 + EVIL + b"\x86.",
    "a list in itself": b"\x80\x02]q\x00h\x00a" + EVIL + b"\x86.",
    "literal longer than the file": EVIL + b"0\x8e" + struct.pack("<Q", 1 << 62) + b".",
}


def trick_items() -> Iterator[Item]:
    """One file for each trick of the pickle language."""
    for attack, tricks in _TRICKS.items():
        for what, body in tricks.items():
            start = (
                b"" if body.startswith(b"\x80") or attack in ("parser differential", "protocol lie") else b"\x80\x02"
            )
            end = b"" if attack == "break after payload" and what != "unknown opcode" else b"."
            yield Item(attack, what, start + body + end)
    for what, body in _EXHAUSTING.items():
        yield Item("scanner denial of service", what, body)
    yield from _frames()
    yield from _several()


def _frames() -> Iterator[Item]:
    body = stack_global("os", "system") + _TRUE + b"\x85R."
    yield Item("frame lie", "frame shorter than its opcodes", framed(body, 3))
    yield Item("frame lie", "frame longer than the file", framed(body, len(body) + 500))
    yield Item("frame lie", "frame in a frame", framed(b"\x95" + struct.pack("<Q", 2) + body))
    yield Item("frame lie", "frame of no bytes", framed(body, 0))
    yield Item("frame lie", "string over the end of a frame", framed(short("os")[:2], 2) + b"\x01s" + body)


def _several() -> Iterator[Item]:
    harmless = b"\x80\x02}q\x00."
    yield Item("several pickles", "a second one", harmless + PROGRAM)
    yield Item("several pickles", "a third one", harmless * 2 + PROGRAM)
    yield Item("several pickles", "after padding", harmless + bytes(64) + PROGRAM)
    yield Item("several pickles", "after junk", harmless + b"junk" * 9 + PROGRAM)
    memo = b"\x80\x02" + imported("os", "system") + b"q\x00."
    yield Item("memo trick", "carried over to the next pickle", memo + b"\x80\x02h\x00" + _TRUE + b"\x85R.")
    for what, between in (("zeros", bytes(64)), ("a line break", b"\n"), ("other bytes", b"\xff" * 40)):
        yield Item("several pickles", f"behind {what}", harmless + between + PROGRAM)
    yield Item("several pickles", "of protocol 0 behind zeros", harmless + bytes(8) + b"cos\nsystem\n(S'true'\ntR.")
    yield Item("several pickles", "a hundred harmless ones first", harmless * 100 + PROGRAM)


def protocol_items() -> Iterator[Item]:
    """The same payload in every protocol."""
    for protocol in range(6):
        start = b"" if protocol < 2 else bytes([0x80, protocol])
        if protocol == 0:
            body = b"cos\nsystem\n(S'true'\ntR"
        elif protocol < 4:
            body = EVIL
        else:
            body = stack_global("os", "system") + b"\x94" + short("true") + b"\x94\x85\x94R\x94"
        yield Item("ordinary payload", f"os.system in protocol {protocol}", start + body + b".")
    yield Item("ordinary payload", "framed", framed(stack_global("posix", "system") + short("true") + b"\x85R."))
    inside = b"\x80\x02}" + text("state_dict") + b"}" + text("w") + EVIL + b"ss."
    yield Item("ordinary payload", "deep in a dict", inside)
    lambda_ = called("builtins", "exec", text("import os\nos.getcwd()"))
    yield Item("ordinary payload", "exec of source text", b"\x80\x02" + lambda_ + b".")
    yield Item("ordinary payload", "eval", b"\x80\x02" + called("builtins", "eval", text("1+1")) + b".")
    runpy = called("runpy", "_run_code", text("1") + b"}")
    yield Item("ordinary payload", "runpy", b"\x80\x02" + runpy + b".")
