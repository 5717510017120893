"""PyTorch's format before 1.6, and bare pickles."""

from __future__ import annotations

import io
import pickle
import struct

import pytest
import torch

from tests.container.build import hostile, imports, opened, rules, same_tensors, saved

torch.manual_seed(0)
BASE = torch.randn(6, 5)
DTYPES = [
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16,
]  # fmt: skip
STATE_DICT = {
    **{f"layer.{i}": torch.randint(0, 2, (2, 3)).to(dtype) for i, dtype in enumerate(DTYPES)},
    **{"row": BASE[2], "columns": BASE.t(), "block": BASE[1:4, 2:4], "tied": BASE},
    "nothing": torch.empty(0, 3),
}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


class Stored:
    """Pickles as a tensor over storage *key*; for legacy streams put together by hand."""

    def __init__(
        self, key: str, numel: int, view: tuple[str, int, int] | None = None, shape: tuple[int, ...] = ()
    ) -> None:
        self.pid = ("storage", torch.FloatStorage, key, "cpu", numel, view)
        self.shape = shape or (view[2] if view else numel,)

    def __reduce__(self):
        strides = torch.empty(self.shape, device="meta").stride()
        return torch._utils._rebuild_tensor_v2, (Pid(self.pid), 0, self.shape, strides, False, {})


class Pid:
    def __init__(self, pid):
        self.pid = pid


class Pickler(pickle._Pickler):
    def persistent_id(self, value):
        return value.pid if isinstance(value, Pid) else None


def stream(value, keys, storages, *, magic=None, protocol=PROTOCOL, system=SYSTEM, after=b"") -> bytes:
    """A legacy file: five pickles, then for each of *storages* its float32 numbers."""
    out = io.BytesIO()
    out.write(pickle.dumps(MAGIC, 2) if magic is None else magic)
    for each in (protocol, system):
        out.write(each if isinstance(each, bytes) else pickle.dumps(each, 2))
    if isinstance(value, bytes):
        out.write(value)
    else:
        Pickler(out, 2).dump(value)
    out.write(keys if isinstance(keys, bytes) else pickle.dumps(keys, 2))
    for numbers in storages:
        out.write(struct.pack(f"<q{len(numbers)}f", len(numbers), *numbers))
    return out.getvalue() + after


def good(**changes) -> bytes:
    return stream({"a": Stored("1", 3), "b": Stored("2", 2)}, ["1", "2"], [(1, 2, 3), (4, 5)], **changes)


@pytest.mark.parametrize("protocol", range(1, 6))
def test_reads_every_tensor_that_torch_saved(protocol):
    """All element types and views of shared storages come back bit for bit, whatever pickle protocol was used."""
    data = saved({"state_dict": STATE_DICT, "epoch": 3}, legacy=True, protocol=protocol)
    container = opened(data, "model.ckpt")
    assert container.kind == "torch-legacy"
    assert container.anomalies == () and container.skipped == ()
    assert [p.role for p in container.pickles] == ["magic", "protocol", "system", "object", "storage-keys"]
    assert all(program.trace.complete for program in container.pickles)
    assert same_tensors(data, container, STATE_DICT)


def test_views_of_storages():
    """Files by torch 0.x ask for parts of a storage; they are found within it."""
    value = {"root": Stored("1", 6), "part": Stored("1", 6, ("9", 2, 3))}
    data = stream(value, ["1"], [(0, 1, 2, 3, 4, 5)])
    container = opened(data)
    assert container.anomalies == ()
    assert same_tensors(data, container, {"root": torch.arange(6.0), "part": torch.arange(2.0, 5.0)})
    assert torch.load(io.BytesIO(data), weights_only=True)["part"].tolist() == [2, 3, 4]


def test_storages_are_little_endian_whatever_machine_wrote_them():
    """torch converts when it writes, so a file from a big-endian machine is read like any other, and noted."""
    data = good(system={**SYSTEM, "little_endian": False})
    container = opened(data)
    assert rules(container) == {"legacy.byteorder"}
    assert same_tensors(data, container, {"a": torch.tensor([1.0, 2, 3]), "b": torch.tensor([4.0, 5])})
    assert torch.load(io.BytesIO(data), weights_only=True)["b"].tolist() == [4, 5]


DECOY = b"\x80\x02I5\n0" + pickle.dumps(MAGIC, 2)[2:]
ODD = {
    "decoy before the magic": (good(magic=DECOY), "legacy.magic"),
    "magic as LONG4": (good(magic=b"\x80\x02\x8b\n\0\0\0" + MAGIC.to_bytes(10, "little") + b"."), "legacy.magic"),
    "other protocol": (good(protocol=1002), "legacy.protocol"),
    "truth for protocol": (good(protocol=True), "legacy.protocol"),
    "system is a list": (good(system=[1]), "legacy.system"),
    "text in system": (good(system={**SYSTEM, "x": "y"}), "legacy.system"),
    "keys are numbers": (stream({"a": Stored("1", 1)}, [1], [(1,)]), "legacy.storage-keys"),
    "key twice": (stream({"a": Stored("1", 1)}, ["1", "1"], [(1,), (1,)]), "legacy.storage-keys"),
    "key of no tensor": (stream({"a": Stored("1", 1)}, ["0", "1"], [(1,), (1,)]), "legacy.unreferenced-storage"),
    "key not listed": (stream({"a": Stored("1", 1), "b": Stored("2", 1)}, ["1"], [(1,)]), "legacy.missing-storage"),
    "other number of elements": (stream({"a": Stored("1", 2)}, ["1"], [(1,)]), "legacy.storage-size"),
    "bytes at the end": (good(after=b"x"), "legacy.trailing-bytes"),
}


@pytest.mark.parametrize("name", ODD)
def test_every_departure_is_told(name):
    """A legacy file that is not exactly what torch writes says so."""
    data, rule = ODD[name]
    container = opened(data)
    assert container.kind == "torch-legacy"
    assert rule in rules(container)


def test_a_stream_put_together_by_hand_is_sound():
    """The stream that the odd ones are made of has no anomaly by itself."""
    assert opened(good()).anomalies == ()


@pytest.mark.parametrize("place", ["magic", "protocol", "system", "value", "keys"])
@pytest.mark.parametrize("protocol", range(6))
def test_no_pickle_stays_unseen(place, protocol):
    """A payload in any of the five pickles is seen; behind an opcode that unpicklers disagree on, at least a break."""
    pieces = {"value": {"a": Stored("1", 1)}, "keys": ["1"], "magic": None, "protocol": 1001, "system": SYSTEM}
    evil = imports(opened(hostile(protocol)))
    container = opened(stream(storages=[(1,)], **{**pieces, place: hostile(protocol)}))
    assert imports(container) >= evil
    behind = opened(stream(storages=[(1,)], **{**pieces, place: b"I0x10\n0" + hostile(protocol)}))
    assert imports(behind) >= evil or any(not program.trace.complete for program in behind.pickles)


@pytest.mark.parametrize("cut", [1, 8, 30])
def test_cut_off_in_its_storages(cut):
    """A file that ends in its storages has all names and shapes, and the exact number of missing bytes."""
    data = saved(STATE_DICT, legacy=True)
    container = opened(data[:-cut])
    assert rules(container) == {"legacy.truncated"}
    assert f"{cut} bytes of {len(data)}" in container.anomalies[0].message
    assert list(container.state_dict) == list(STATE_DICT)


def test_cut_off_in_its_list_of_keys():
    """A file that ends between the object and the storages still has names and shapes."""
    data = good()
    end = data.index(pickle.dumps(["1", "2"], 2))
    container = opened(data[: end + 4])
    assert {"legacy.truncated", "legacy.storage-keys"} == rules(container)
    assert {name: info.shape for name, info in container.state_dict.items()} == {"a": (3,), "b": (2,)}
    assert container.skipped


def test_cut_off_in_its_object():
    """A file that ends in the object has no tensors, and says so."""
    data = good()
    container = opened(data[: data.index(b"FloatStorage")])
    assert container.kind == "torch-legacy" and container.state_dict is None
    assert "legacy.truncated" in rules(container)
    assert container.skipped


def test_bare_pickles():
    """A pickle and nothing after it is read as one program."""
    for protocol in range(6):
        data = pickle.dumps({"step": 4, "names": ["a"]}, protocol=protocol)
        container = opened(data, "x.pkl")
        assert container.kind == "pickle"
        assert container.anomalies == () and container.skipped == ()
        assert len(container.pickles) == 1 and container.pickles[0].trace.complete
        assert dict(container.state_dict.scalars)["step"] == 4


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_behind_the_first_are_seen(protocol):
    """What stands behind a STOP is traced when it is a pickle, and told when it is not."""
    container = opened(pickle.dumps([1], protocol) + hostile(protocol))
    assert "pickle.several" in rules(container)
    assert imports(container) == imports(opened(hostile(protocol)))
    junk = opened(pickle.dumps([1], protocol) + b"\xff\xff\xff")
    assert rules(junk) == {"pickle.trailing-bytes"}
    assert junk.skipped


def test_a_million_pickles_in_a_row_end_soon():
    """Following concatenated pickles has an end, which is told."""
    container = opened(b"\x80\x02N." * 1_000_000, "x.pkl")
    assert {"pickle.several", "pickle.limit"} <= rules(container)
    assert container.skipped


def test_execute_then_break():
    """A payload before a broken opcode is seen, without PROTO too."""
    for protocol in range(6):
        container = opened(hostile(protocol)[:-1] + b"\xff\xff")
        assert container.kind == "pickle"
        assert len(imports(container)) == 1


def test_random_bytes_that_begin_like_a_pickle():
    """Binary junk after a PROTO opcode is a broken pickle with nothing in it."""
    container = opened(b"\x80\x02" + bytes(range(256)) * 40)
    assert container.kind == "pickle"
    assert not container.pickles[0].trace.complete
    assert container.state_dict is None
