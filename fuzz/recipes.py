"""What checkpoints hold, as trees, and the tricks of those who abuse pickles.

Every name is only ever a stand-in in the sandbox, or one of the harmless classes that it has. Random nodes of one tree
put into another are what finds the gaps between a rule and what it means.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from fuzz.standins import EXTENSIONS
from fuzz.trees import (
    After,
    Again,
    Array,
    Asked,
    Buffer,
    ComputedName,
    Extension,
    Made,
    Members,
    Name,
    Node,
    Pairs,
    Twice,
)
from modelhub.scan import load_policy

STORAGES = {"0": ("FloatStorage", 4), "1": ("HalfStorage", 8), "2": ("LongStorage", 2)}
"""The storages that tensors lie in: key, class and elements; all are of 16 bytes."""

DENIED = [
    Name(*pair.split())
    for pair in (
        "os system,posix system,nt system,subprocess Popen,builtins eval,__builtin__ eval,builtins exec,"
        "builtins getattr,builtins __import__,builtins map,operator attrgetter,operator methodcaller,_operator call,"
        "functools partial,functools reduce,pickle loads,_pickle loads,cPickle loads,torch load,"
        "torch.storage _load_from_bytes,importlib import_module,runpy run_path,sys setrecursionlimit,"
        "copyreg add_extension,copyreg _inverted_registry,codecs encode,_codecs lookup,io open,pathlib Path.unlink,"
        "webbrowser open,numpy load,torch._utils _rebuild_xla_tensor,torch.hub load,types CodeType,types FunctionType,"
        "collections namedtuple,torch._C _jit,joblib load,urllib2 urlopen,copy_reg add_extension"
    ).split(",")
]
UNFAMILIAR = [
    *(Name(*pair.split()) for pair in "some.module thing,__main__ Model,torch.nn.modules.linear Linear,a b".split(",")),
    *(Name(*pair.split()) for pair in "collections OrderedDict.fromkeys,random _os.system,os path.join".split(",")),
    *(Name(*pair) for pair in (("", ""), ("os\r", "system"), ("os", "syst\u00e9m"), ("o s", "x"), ("os", ".system"))),
    *(
        Name(*pair)
        for pair in (("\ud800", "x"), ("builtins", "eval\0"), ("os\0", "system"), ("'", '"'), ("a", "\\x41"))
    ),
]
ALLOWED = [Name(*pair) for pair in sorted(load_policy().allowed)]
SPECIAL = ["__setstate__", "__class__", "__dict__", "__reduce__", "__init__", "__call__", "__getattr__", "__slots__"]
TEXTS = [
    "",
    "a",
    "weight",
    "state_dict",
    "epoch",
    "0",
    "latin1",
    "\u00e9",
    "\u0400\n",
    "\ud800",
    "os",
    "system",
    "x" * 300,
]
INTEGERS = [0, 1, -1, 2, 10, 127, 128, 255, 256, 65535, 65536, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 40, -(1 << 70)]


def plain(rng: Random) -> Node:
    """A value without parts."""
    kind = rng.randrange(8)
    if kind < 2:
        return rng.choice(INTEGERS)
    if kind < 5:
        return rng.choice(TEXTS)
    if kind == 5:
        return rng.choice([b"", b"\0\1\xff", b"text", rng.randbytes(9)])
    if kind == 6:
        return rng.choice([0.0, -1.5, 1e300, float("inf"), float("nan"), 0.1])
    return rng.choice([None, True, False])


def data(rng: Random, depth: int = 3) -> Node:
    """Plain values in containers."""
    if depth == 0 or rng.random() < 0.4:
        return plain(rng)
    parts = [data(rng, depth - 1) for _ in range(rng.randrange(5))]
    kind = rng.randrange(6)
    if kind == 0:
        return parts
    if kind == 1:
        return tuple(parts)
    if kind == 2:
        return Members(tuple(plain(rng) for _ in parts), rng.random() < 0.5)
    if kind == 3:
        return Again()
    return Pairs(tuple((rng.choice(TEXTS) if rng.random() < 0.8 else plain(rng), part) for part in parts))


def _attributes(rng: Random) -> Pairs:
    return Pairs(tuple((rng.choice(["a", "b", "training", "_x"]), known(rng, 1)) for _ in range(rng.randrange(4))))


def _storage(rng: Random) -> Asked:
    key = rng.choice(list(STORAGES))
    cls, numel = STORAGES[key]
    pid = ("storage", Name("torch", cls), key, "cpu", numel)
    return Asked((*pid, None) if rng.random() < 0.1 else pid)


_HOOKS = Made(Name("collections", "OrderedDict"))


def _tensor_args(rng: Random) -> tuple[Node, ...]:
    return (_storage(rng), *rng.choice([(0, (2,), (1,)), (1, (1, 1), (1, 1)), (1, (), ()), (0, (0,), (1,))]))


def _tensor(rng: Random) -> Node:
    how = rng.randrange(6)
    if how == 0:
        return Made(Name("torch._utils", "_rebuild_tensor"), _tensor_args(rng))
    args = (*_tensor_args(rng), False, _HOOKS)
    if how == 1:
        return Made(
            Name("torch._utils", "_rebuild_tensor_v3"), (*args, Name("torch", rng.choice(["uint16", "float16"])))
        )
    tensor = Made(Name("torch._utils", "_rebuild_tensor_v2"), args)
    if how == 2:
        return Made(Name("torch._utils", "_rebuild_parameter"), (tensor, True, _HOOKS))
    if how == 3:
        arguments = (Name("torch._utils", "_rebuild_tensor_v2"), Name("torch", "Tensor"), args, _attributes(rng))
        return Made(Name("torch._tensor", "_rebuild_from_type_v2"), arguments)
    return tensor


def _dict_like(rng: Random) -> Node:
    names = [
        ("collections", "OrderedDict"),
        ("typing", "OrderedDict"),
        ("builtins", "dict"),
        ("collections", "Counter"),
    ]
    pairs = tuple((rng.choice(TEXTS), known(rng, 1)) for _ in range(rng.randrange(4)))
    name = Name(*rng.choice(names))
    form = rng.randrange(4)
    if form == 0:
        args: tuple[Node, ...] = ([[key, part] for key, part in pairs],)
    elif form == 1:
        args = (Pairs(pairs),)
    else:
        args = ()
    if rng.random() < 0.2:
        name = Name("collections", "defaultdict")
        args = (Name("builtins", rng.choice(["int", "list", "dict"])), *(a for a in args if type(a) is Pairs))
    made = Made(name, args)
    steps: list[tuple[str, Node]] = [("pairs", pairs)] if form > 1 else []
    if rng.random() < 0.2 and name.name == "OrderedDict":
        steps.append(("build", _attributes(rng)))
    return After(made, tuple(steps)) if steps else made


def _python_data(rng: Random) -> Node:
    items = [plain(rng) for _ in range(rng.randrange(3))]
    calls: list[Node] = [
        Made(Name("builtins", rng.choice(["set", "frozenset", "list", "tuple"])), (items,)),
        After(Made(Name("collections", "deque"), (items,)), (("items", (*items, 1)),)),
        Made(Name("builtins", "bytearray"), (b"abc",)),
        Made(Name("builtins", "complex"), (1.0, 2.0)),
        Made(Name("builtins", rng.choice(["range", "slice"])), (1, 5, 2)),
        Made(Name("_codecs", "encode"), (rng.choice(["", "abc\u00ff"]), "latin1")),
        Made(Name("datetime", "date"), (b"\x07\xe8\x01\x02",)),
        Made(Name("datetime", "timedelta"), (1, 2, 3)),
        Made(Name("pathlib", rng.choice(["PurePosixPath", "PosixPath"])), ("a", "b")),
        Made(Name("torch", "Size"), ((2, 3),)),
        Made(Name("torch", "device"), ("cpu",)),
        Name("torch", "float16"),
        Name("typing", "Any"),
    ]
    return rng.choice(calls)


def _numpy(rng: Random) -> Node:
    dtype: Node = Made(Name("numpy", "dtype"), (rng.choice(["f8", "i8"]), False, True))
    dtype = After(dtype, (("build", (3, "<", None, None, None, -1, -1, 0)),))
    core = rng.choice(["numpy.core", "numpy._core"])
    if rng.random() < 0.5:
        return Made(Name(f"{core}.multiarray", "scalar"), (dtype, bytes(8)))
    array = Made(Name(f"{core}.multiarray", "_reconstruct"), (Name("numpy", "ndarray"), (0,), b"b"))
    return After(array, (("build", (1, (2,), dtype, False, bytes(16))),))


def _object(rng: Random) -> Node:
    classes = [
        ("argparse", "Namespace"),
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
        ("torch.nn.modules.container", "ParameterDict"),
        ("omegaconf.dictconfig", "DictConfig"),
    ]
    cls = Name(*rng.choice(classes))
    if rng.random() < 0.5:
        made = Made(cls, (), how="NEWOBJ")
    else:
        made = Made(Name("copyreg", "_reconstructor"), (cls, Name("builtins", "object"), None))
    return After(made, (("build", _attributes(rng)),))


def known(rng: Random, depth: int = 3) -> Node:
    """What legitimate files hold."""
    if depth == 0:
        return data(rng, 1)
    kind = rng.random()
    if kind < 0.35:
        return data(rng)
    makers: list[Callable[[Random], Node]] = [_tensor, _tensor, _dict_like, _dict_like, _python_data, _numpy, _object]
    if kind < 0.85:
        return rng.choice(makers)(rng)
    return Pairs(tuple((rng.choice(TEXTS), known(rng, depth - 1)) for _ in range(rng.randrange(4))))


def any_name(rng: Random) -> Name:
    """A name of any sort."""
    return rng.choice(rng.choice([DENIED, UNFAMILIAR, ALLOWED, ALLOWED]))


def _call(rng: Random) -> Node:
    args: Node = tuple(wild(rng, 1) for _ in range(rng.randrange(4)))
    if rng.random() < 0.1:
        args = wild(rng, 1)
    kwargs = Pairs(((rng.choice(TEXTS), wild(rng, 1)),)) if rng.random() < 0.1 else None
    return Made(any_name(rng), args, kwargs)


def _steps(rng: Random) -> tuple[tuple[str, Node], ...]:
    steps: list[tuple[str, Node]] = []
    for _ in range(rng.randrange(1, 3)):
        parts = tuple(wild(rng, 1) for _ in range(rng.randrange(3)))
        kind = rng.choice(["build", "build", "pairs", "items", "adds"])
        if kind == "build":
            state: Node = Pairs(tuple((rng.choice(TEXTS + SPECIAL), part) for part in parts))
            form = rng.randrange(5)
            if form == 0:
                state = (None, state)
            elif form == 1:
                state = Made(Name("collections", "OrderedDict"), ([[k, v] for k, v in state.pairs],))
            elif form == 2:
                state = wild(rng, 1)
            steps.append(("build", state))
        elif kind == "pairs":
            steps.append(("pairs", tuple((rng.choice(TEXTS + SPECIAL), part) for part in parts)))
        else:
            steps.append((kind, parts))
    return tuple(steps)


def _trick(rng: Random) -> Node:
    name, other = any_name(rng), any_name(rng)
    ordered = Made(Name("collections", "OrderedDict"))
    hook = Pairs(((rng.choice(SPECIAL), name),))
    hidden = Made(Name("collections", "OrderedDict"), ([[rng.choice(SPECIAL), name]],))
    args = _tensor_args(rng)
    state = rng.choice([None, Pairs(), plain(rng)])
    tricks: list[Node] = [
        Made(Made(name, (other, "system")), ("id",)),
        After(ordered, (("build", hook), ("build", state))),
        After(ordered, (("build", hidden), ("build", state))),
        After(ordered, (("build", (None, hook)), ("build", (plain(rng), hidden)))),
        After(ordered, (("build", (None, hidden)), ("build", state))),
        After(ordered, (("build", After(ordered, (("pairs", hook.pairs),))), ("build", state))),
        After(Made(Name("argparse", "Namespace"), (), how="NEWOBJ"), (("build", hidden), ("build", state))),
        Made(Name("__builtin__", "set"), ([state],)),
        After(_object(rng), (("items", ()),)),
        After(name, (("build", hook),)),
        After(name, (("build", (None, Pairs((("a", other),)))),)),
        After(name, (("items", (other,)),)),
        After(name, (("pairs", (("a", other),)),)),
        Made(Name("copyreg", "_reconstructor"), (name, other, rng.choice([None, "state"]))),
        Made(Name("torch._tensor", "_rebuild_from_type_v2"), (name, other, args, Pairs())),
        Made(
            Name("torch._tensor", "_rebuild_from_type_v2"), (Name("torch._utils", "_rebuild_tensor"), name, args, hook)
        ),
        Made(Name("torch._utils", "_rebuild_tensor_v2"), (*args, False, After(ordered, (("pairs", ((1, name),)),)))),
        Made(Name("collections", "defaultdict"), (name, Pairs((("a", other),)))),
        Made(Name("builtins", rng.choice(["set", "list", "tuple", "bytearray", "complex"])), (Made(name),)),
        Made(Name("_codecs", "encode"), ("text", rng.choice(["rot13", "zlib", "idna", "unknown", "utf-16"]))),
        Made(Name("builtins", "bytearray"), (1 << 60,)),
        Asked(("module", name, "file.py", "source")),
        Asked(("storage", Made(name), "0", "cpu", 4)),
        Asked(plain(rng)),
        Asked("text id", text=True),
        ComputedName(Made(Name("builtins", "str"), (name.module,)), name.name),
        ComputedName(plain(rng), plain(rng)),
        ComputedName(Again(), "system"),
        Made(Extension(rng.choice([*EXTENSIONS, 5])), ("id",)),
        Twice(Made(name)),
        Buffer(rng.random() < 0.5),
        Array(b"abc"),
        After(Array(b"abc"), (("items", (1, 2)),)),
        After("text", (("items", (1,)),)),
        After((), (("build", hook),)),
    ]
    return rng.choice(tricks)


def wild(rng: Random, depth: int = 3) -> Node:
    """Anything at all, with a bias to what could hurt."""
    if depth == 0:
        return rng.choice([plain, any_name])(rng)
    kind = rng.randrange(9)
    if kind == 0:
        return data(rng)
    if kind == 1:
        return known(rng, 1)
    if kind in (2, 3):
        return _trick(rng)
    if kind == 4:
        return _call(rng)
    if kind == 5:
        return After(_target(rng), _steps(rng))
    if kind == 6:
        return [wild(rng, depth - 1) for _ in range(rng.randrange(3))]
    if kind == 7:
        return tuple(wild(rng, depth - 1) for _ in range(rng.randrange(4)))
    return Pairs(tuple((rng.choice(TEXTS + SPECIAL), wild(rng, depth - 1)) for _ in range(rng.randrange(3))))


def _target(rng: Random) -> Node:
    return rng.choice([_dict_like, _object, _call, _numpy, any_name, _python_data, data])(rng)
