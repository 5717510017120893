"""What people keep in a library is safe, whatever wrote it; nobody is cried wolf at."""

from __future__ import annotations

import argparse
import array
import collections
import datetime
import fractions
import pathlib
import pickle
import random
import struct
import sys
import types

import numpy as np
import pytest
import torch

from modelhub.scan import Verdict
from tests.pickles.assemble import text
from tests.scan.judge import judged, rules, saved


@pytest.fixture
def lightning(monkeypatch):
    """pytorch_lightning's checkpoint callback as a pickle names it, without the trainer."""
    module = "pytorch_lightning.callbacks.model_checkpoint"
    parts = module.split(".")
    for length in range(1, 4):
        name = ".".join(parts[:length])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    cls = type("ModelCheckpoint", (), {"__module__": module})
    sys.modules[module].ModelCheckpoint = cls  # type: ignore[attr-defined]
    return cls


class EasyDict(dict):  # type: ignore[type-arg]
    """easydict 1.14, as far as its pickles go: each item is an attribute too."""

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        super().__setitem__(name, value)

    __setitem__ = __setattr__


class CfgNode(dict):  # type: ignore[type-arg]
    """yacs 0.1.8, likewise: it keeps four settings of its own as attributes."""

    def __init__(self, items=()):
        super().__init__(items)
        self.__dict__.update(__immutable__=False, __deprecated_keys__=set(), __renamed_keys__={}, __new_allowed__=False)


class AddictDict(dict):  # type: ignore[type-arg]
    """addict 2.4, likewise: its items are arguments and state as well."""

    def __getnewargs__(self):
        return tuple(self.items())

    def __getstate__(self):
        return self

    def __setstate__(self, state):
        self.update(state)


@pytest.fixture(params=["easydict.EasyDict", "yacs.config.CfgNode", "addict.addict.Dict"])
def configuration(request, monkeypatch):
    """A configuration that one of the libraries made, without the library."""
    module, _, name = request.param.rpartition(".")
    base = {"EasyDict": EasyDict, "CfgNode": CfgNode, "Dict": AddictDict}[name]
    kind = type(name, (base,), {"__module__": module})
    for length in range(1, module.count(".") + 2):
        part = ".".join(module.split(".")[:length])
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    setattr(sys.modules[module], name, kind)
    made = kind()
    made["lr"] = 0.1
    made["net"] = kind()
    made["net"]["sizes"] = [1, 2]
    return made


def state_dict() -> dict[str, torch.Tensor]:
    return torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)).state_dict()


OBJECTS = {
    "state dict": state_dict(),
    "half": {k: v.half() for k, v in state_dict().items()},
    "bfloat16": {"w": torch.zeros(2, dtype=torch.bfloat16)},
    "float8": {"w": torch.zeros(2).to(torch.float8_e4m3fn)},
    "uint16": {"w": torch.zeros(2, dtype=torch.uint16)},
    "complex conj": {"w": torch.zeros(2, dtype=torch.complex64).conj()},
    "parameters": dict(torch.nn.Linear(2, 2).named_parameters()),
    "trainer": {"state_dict": state_dict(), "epoch": 1, "global_step": 2, "optimizer_states": [{"lr": 0.1}]},
    "embedding": {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": torch.zeros(2, 768)},
        "name": "style",
        "step": 499,
        "sd_checkpoint": "abcdef12",
        "sd_checkpoint_name": None,
    },
    "parameter dict embedding": {"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.zeros(2))})},
    "hypernetwork": {320: (collections.OrderedDict(w=torch.zeros(2)),) * 2, "layer_structure": [1, 2, 1]},
    "numpy scalar": {"best": np.float64(0.5), "n": np.int64(3)},
    "numpy array": {"mean": np.zeros((2, 3)), "names": np.array(["a"], dtype=object), "i": np.arange(3)},
    "python data": {
        "set": {1, 2},
        "frozen": frozenset("a"),
        "bytes": b"\xff\x00",
        "bytearray": bytearray(b"a"),
        "complex": 1j,
        "slice": slice(1, 2),
        "counter": collections.Counter("aab"),
        "default": collections.defaultdict(list, a=[1]),
        "deque": collections.deque([1, 2], 5),
        "namespace": argparse.Namespace(lr=0.1, paths=["a"]),
        "date": datetime.datetime(2022, 10, 1),
        "path": pathlib.PurePosixPath("a/b"),
        "dtype": torch.float16,
        "device": torch.device("cuda", 0),
        "size": torch.Size([1, 2]),
    },
    "rarer python data": {
        "bytes": [b"", bytearray()],
        "types": [type(None), int, complex, frozenset],
        "alone": [..., NotImplemented, None],
        "defaults": [collections.defaultdict(int), collections.defaultdict(collections.Counter)],
        "zones": [datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC), datetime.timezone(datetime.timedelta(0, 60))],
        "layout": torch.strided,
        "range": range(3),
        "fractions": [fractions.Fraction(-1, 3), fractions.Fraction(10**30)],
        "arrays": [array.array("d", [1.0, -2.0]), array.array("b", b"ab"), array.array("u", "ab"), array.array("I")],
        "user": [collections.UserDict(a=[1]), collections.UserList([1]), collections.UserString("a")],
        "chain": collections.ChainMap({"a": 1}, {}),
    },
    "rarer numpy data": {
        "types": [np.float32, np.int64, np.bool_],
        "record": np.zeros(2, dtype=[("a", "f4"), ("b", "i8", (2,)), ("c", "U3")]),
        "aligned": np.zeros(2, dtype=np.dtype([("a", "f4"), ("b", "i1")], align=True)),
        "small arrays": np.dtype((np.float32, (2,))),
        "empty text": [np.str_(""), np.bytes_(b""), np.array([""])],
        "matrix": np.matrix([[1, 2]]),
        "date": np.datetime64("2024-01-02"),
        "void": np.zeros(1, dtype="V3"),
        "record array": np.zeros(2, dtype=[("a", "f4"), ("b", "i8")]).view(np.recarray),
        "one of them": np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])[0],
        "fortran": np.asfortranarray(np.zeros((2, 3))),
    },
    "random states": {
        "torch": torch.get_rng_state(),
        "numpy": np.random.RandomState(1).get_state(),
        "numpy as a dict": np.random.RandomState(1).get_state(legacy=False),
        "python": random.Random(1).getstate(),
    },
    "optimizer": torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=torch.tensor(1e-3)).state_dict(),
    "expanded": {"w": torch.zeros(1).expand(4, 4), "t": torch.zeros(2, 3).t()},
    "tied": dict.fromkeys("ab", torch.zeros(4)),
    "list of tensors": [torch.zeros(2), torch.zeros(3)],
    "one tensor": torch.zeros(2),
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", OBJECTS)
def test_ordinary_files_are_safe(name, legacy, protocol):
    """Every kind of tensor file that torch saves is SAFE, in either format and any protocol."""
    report = judged(saved(OBJECTS[name], legacy=legacy, protocol=protocol))
    assert report.verdict is Verdict.SAFE, report.findings
    assert report.coverage.complete
    assert not report.findings


def test_original_stable_diffusion_checkpoints_are_safe(lightning):
    """An SD 1.x checkpoint with Lightning's callback objects and numpy scalars is SAFE without Lightning."""
    callback = lightning()
    callback.best_model_score = np.float64(0.3)
    callback.__dict__["monitor"] = "val/loss"
    checkpoint = {
        "epoch": 0,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": state_dict(),
        "callbacks": {lightning: {"best_model_score": torch.zeros(()), "current_score": np.float64(1)}, "cb": callback},
        "optimizer_states": [{"state": {0: {"step": 1, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [{"base_lrs": [1e-4], "lr_lambdas": [None]}],
    }
    report = judged(saved(checkpoint))
    assert report.verdict is Verdict.SAFE, report.findings


def test_safetensors_are_safe():
    """A well-formed safetensors file is SAFE."""
    header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    report = judged(struct.pack("<Q", len(header)) + header + bytes(8), "a.safetensors")
    assert (report.verdict, report.container) == (Verdict.SAFE, "safetensors")


def test_plain_data_pickles_are_safe():
    """A bare pickle of plain data is SAFE."""
    for protocol in range(6):
        assert judged(pickle.dumps({"a": [1, 2.0, "b"]}, protocol), "a.pkl").verdict is Verdict.SAFE


def test_long_plain_data_of_protocol_0_is_safe():
    """Arrays, text and bytes that protocol 0 writes in one line, escaped or in Latin-1, are SAFE however they begin."""
    for value in (np.arange(50_000.0), "x" * 100_000, "\xe9" * 100_000, b"\xff" * 100_000, ["\u20ac" * 70_000] * 2):
        report = judged(pickle.dumps(value, 0), "a.pkl")
        assert (report.verdict, report.container) == (Verdict.SAFE, "pickle"), report.findings


@pytest.mark.parametrize("protocol", range(6))
def test_configurations_of_research_code_are_safe(protocol, configuration):
    """Dicts of easydict, yacs and addict are SAFE, as those libraries pickle them."""
    report = judged(pickle.dumps({"cfg": configuration}, protocol), "a.pkl")
    assert report.verdict is Verdict.SAFE, report.findings


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_files_cut_off_anywhere_are_unknown(legacy, protocol):
    """A download that broke off is UNKNOWN wherever it did, in the middle of a name too, and not called worse."""
    data = saved({"w": torch.zeros(2), "n": np.float64(2), "s": 3}, legacy=legacy, protocol=protocol)
    for length in range(len(data)):
        report = judged(data[:length])
        assert report.verdict is Verdict.UNKNOWN, (length, report.findings)


def test_whole_networks_are_unknown_and_not_called_malware():
    """A pickled network (as of YOLO detectors) is UNKNOWN: an executable object that cannot be proven."""
    for legacy in (False, True):
        report = judged(saved(torch.nn.Sequential(torch.nn.Linear(2, 2)), legacy=legacy))
        assert report.verdict is Verdict.UNKNOWN
        assert rules(report) == {"object.executable"}
        assert not report.coverage.complete
        assert "cannot be proven" in report.findings[0].message


@pytest.mark.parametrize(
    "value",
    [
        torch.eye(2).to_sparse(),
        torch.eye(2).to_sparse_csr(),
        torch.zeros(2, device="meta"),
        torch.Generator(),
        np.random.default_rng(1),
    ],
    ids=["coo", "csr", "meta", "generator", "numpy generator"],
)
def test_unmodelled_tensors_are_unknown_by_name(value):
    """Valid torch that is not modelled is UNKNOWN, and the finding names it."""
    report = judged(saved({"w": value}))
    assert report.verdict is Verdict.UNKNOWN
    assert rules(report) == {"tensor.unmodelled"}


def test_broken_files_are_unknown():
    """A cut, empty or foreign file is UNKNOWN, with one sentence that says why."""
    whole = saved(state_dict())
    for data in (whole[:-30], whole[: len(whole) // 2], b"", b"<!DOCTYPE html><html>", b"junk" * 10, text("a")):
        report = judged(data)
        assert report.verdict is Verdict.UNKNOWN, (data[:20], report.findings)
        assert report.findings and report.findings[0].message
        assert not report.coverage.complete
