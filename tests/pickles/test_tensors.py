"""State dicts read from traces: names, geometry and what stands beside the tensors."""

from __future__ import annotations

import collections
import io
import pickle
import time
import zipfile

import pytest
import torch

from modelhub.pickles import (
    StorageDeclaration,
    Surroundings,
    TensorReading,
    Trace,
    read_state_dict,
    storage_declarations,
    trace_pickle,
)
from modelhub.samples.pickling import Call, Import, dumps
from modelhub.source import BytesSource
from modelhub.tensors import DType, StorageRef
from tests.pickles.assemble import called, imported, text


def program_of(value: object, protocol: int = 2) -> bytes:
    """The ``data.pkl`` that torch.save writes for *value*."""
    out = io.BytesIO()
    torch.save(value, out, pickle_protocol=protocol)
    archive = zipfile.ZipFile(out)
    return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))


def storages_of(trace: Trace) -> dict[str, StorageRef]:
    """Storages just as large as the trace declares them."""
    return {d.key: StorageRef(d.key, 1000 * i, d.nbytes) for i, d in enumerate(storage_declarations(trace))}


def read(program: bytes) -> TensorReading:
    trace = trace_pickle(BytesSource("data.pkl", program))
    assert trace.stopped
    return read_state_dict(trace, Surroundings(storages_of(trace)))


def rules(reading: TensorReading) -> list[str]:
    return [anomaly.rule for anomaly in reading.anomalies]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.uint8, torch.int16, torch.int32,
        torch.int64, torch.bool, torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64,
        torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
    ],
)  # fmt: skip
def test_every_dtype_in_every_protocol(dtype, protocol):
    """Each element type that torch saves is read with its name, shape and size, whatever the pickle protocol."""
    reading = read(program_of({"w": torch.zeros(3, 4).to(dtype)}, protocol))
    tensor = reading.state_dict["w"]
    assert tensor.dtype.torch_name == str(dtype).removeprefix("torch.")
    assert tensor.shape == (3, 4)
    assert tensor.nbytes == tensor.storage.nbytes == 12 * dtype.itemsize
    assert tensor.contiguous
    assert not reading.anomalies


def test_packed_four_bit_elements_are_counted_apart():
    """torch packs two F4 elements into a byte; the last dimension counts elements, as safetensors does."""
    packed = torch.zeros(4, 8, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    tensor = read(program_of({"w": packed})).state_dict["w"]
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == (DType.F4, (4, 16), 32)


def test_views_keep_their_place_in_the_storage():
    """Offsets, strides and lazy bits of views are read; contiguous ones have no strides spelled out."""
    base = torch.arange(24.0).reshape(4, 6)
    complex_base = torch.zeros(4, dtype=torch.complex64)
    state = read(
        program_of(
            {
                "base": base,
                "row": base[2:3],
                "transposed": base.t(),
                "column": base[:, 1],
                "expanded": base[0, :1].expand(5),
                "conj": complex_base.conj(),
                "neg": torch._neg_view(base),
                "scalar": base[1, 1],
                "empty": base[:0],
            }
        )
    ).state_dict
    assert state["row"].offset == 48 and state["row"].contiguous
    assert state["transposed"].strides == (1, 6) and not state["transposed"].contiguous
    assert state["column"].offset == 4 and state["column"].strides == (6,)
    assert state["expanded"].strides == (0,) and state["expanded"].nbytes == 20
    assert state["conj"].conj and not state["conj"].neg
    assert state["neg"].neg and not state["neg"].conj
    assert state["scalar"].shape == () and state["scalar"].offset == 28
    assert state["empty"].nbytes == 0
    groups = state.shared_groups()
    assert len(groups) == 1 and set(groups[0]) == {"base", "row", "transposed", "column", "expanded", "neg", "scalar"}


def test_parameters_and_tensors_with_attributes_are_unwrapped():
    """Parameters, parameters with state and tensors with attributes are the tensors they wrap."""
    tagged = torch.zeros(2)
    tagged.tag = "kept"
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.note = 1
    state = read(program_of({"t": tagged, "p": torch.nn.Parameter(torch.zeros(1)), "q": parameter})).state_dict
    assert {name: tensor.shape for name, tensor in state.items()} == {"t": (2,), "p": (1,), "q": (3,)}


def test_trainer_wrapper_is_unwrapped_and_siblings_are_told():
    """``state_dict`` is taken off; scalars beside it are kept, everything else is listed by name."""
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    reading = read(
        program_of(
            {
                "epoch": 3,
                "global_step": 840000,
                "pytorch-lightning_version": "1.4.2",
                "state_dict": {"model.w": torch.zeros(2), "model.b": torch.zeros(1)},
                "optimizer_states": [optimizer],
                "lr_schedulers": [],
            }
        )
    )
    state = reading.state_dict
    assert list(state) == ["model.w", "model.b"]
    assert state.wrapper == ("state_dict",)
    assert state.scalars == {"epoch": 3, "global_step": 840000, "pytorch-lightning_version": "1.4.2"}
    assert {leftover.path for leftover in state.leftovers} == {"optimizer_states", "lr_schedulers"}


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "params_ema", "params", "model", "net"])
def test_known_wrappers(wrapper):
    """The wrappers of trainers and upscalers are taken off."""
    state = read(program_of({wrapper: {"conv.weight": torch.zeros(2)}, "iter": 7})).state_dict
    assert (list(state), state.wrapper, state.scalars) == (["conv.weight"], (wrapper,), {"iter": 7})


def test_averaged_parameters_win_and_the_others_are_told():
    """Of ``params`` and ``params_ema`` the averaged ones are read, and the report says that there were others."""
    state = read(program_of({"params": {"w": torch.zeros(2)}, "params_ema": {"w": torch.zeros(2)}})).state_dict
    assert state.wrapper == ("params_ema",)
    assert [leftover.path for leftover in state.leftovers] == ["params"]


def test_a_state_dict_inside_a_state_dict():
    """Some checkpoints hold a second ``state_dict`` in the first, or themselves: neither loses a tensor or loops."""
    state = read(program_of({"state_dict": {"state_dict": {"w": torch.zeros(2)}}})).state_dict
    assert list(state) == ["w"]
    both = read(program_of({"state_dict": {"v": torch.zeros(1), "state_dict": {"w": torch.zeros(2)}}})).state_dict
    assert set(both) == {"v", "state_dict.w"}
    cyclic: dict[str, object] = {"w": torch.zeros(2)}
    cyclic["state_dict"] = cyclic
    assert list(read(program_of(cyclic)).state_dict) == ["w"]


def test_whole_modules_are_walked_without_their_classes():
    """A pickled network gives the same names as its state dict."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
    assert set(read(program_of(network)).state_dict) == set(network.state_dict())


def test_embeddings_and_hypernetworks_are_flattened():
    """Textual inversions and hypernetworks give dotted names, with their plain values beside them."""
    embedding = {
        "string_to_token": {"*": 265},
        "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.zeros(2, 768))}),
        "name": "style",
        "step": 500,
    }
    state = read(program_of(embedding)).state_dict
    assert list(state) == ["string_to_param.*"]
    assert state.scalars["name"] == "style"
    layer = collections.OrderedDict({"linear.0.weight": torch.zeros(2)})
    state = read(program_of({320: (layer, layer), "layer_structure": [1, 2, 1], "step": 4})).state_dict
    assert list(state) == ["320.0.linear.0.weight", "320.1.linear.0.weight"]
    assert state.scalars == {"layer_structure.0": 1, "layer_structure.1": 2, "layer_structure.2": 1, "step": 4}


def test_colliding_names_are_told_not_lost():
    """Two paths that join to one name are an anomaly."""
    assert rules(read(program_of({"a": {"b": torch.zeros(1)}, "a.b": torch.zeros(1)}))) == ["tensor.name-collision"]


def tensor_program(numel: int, offset: object, shape: object, stride: object, key: str = "0") -> bytes:
    """``{'w': _rebuild_tensor_v2(storage of numel floats, offset, shape, stride, False, OrderedDict())}``"""
    pid = b"(" + text("storage") + imported("torch", "FloatStorage") + text(key) + text("cpu")
    pid += pickle.dumps(numel, 2)[2:-1] + b"tQ"
    geometry = b"".join(pickle.dumps(part, 2)[2:-1] for part in (offset, shape, stride))
    hooks = imported("collections", "OrderedDict") + b")R"
    rebuilt = imported("torch._utils", "_rebuild_tensor_v2") + b"(" + pid + geometry + b"\x89" + hooks + b"tR"
    return b"\x80\x02}" + text("w") + rebuilt + b"s."


@pytest.mark.parametrize(
    ("numel", "offset", "shape", "stride"),
    [
        (4, 0, (5,), (1,)),
        (4, 1, (4,), (1,)),
        (4, 0, (2, 2), (3, 1)),
        (4, -1, (2,), (1,)),
        (4, 0, (-2,), (1,)),
        (4, 3, (2,), (-1,)),
        (4, 0, (2, 2), (1,)),
        (4, True, (2,), (1,)),
        (4, 0, (2.0,), (1,)),
        (4, 0, (1 << 40, 1 << 40), (0, 0)),
        (4, 0, (1,) * 65, (1,) * 65),
        (4, 1 << 80, (1,), (1,)),
    ],
)
def test_lying_geometry_is_told(numel, offset, shape, stride):
    """A tensor that reaches outside its storage, or is not made of counts, is an anomaly and not a tensor."""
    reading = read(tensor_program(numel, offset, shape, stride))
    assert not reading.state_dict
    assert rules(reading)[0] in ("tensor.geometry", "tensor.out-of-bounds")


def test_a_missing_or_shorter_storage_is_told():
    """A tensor whose storage is not in the file, or shorter there, is an anomaly."""
    trace = trace_pickle(BytesSource("x", tensor_program(4, 0, (4,), (1,))))
    assert rules(read_state_dict(trace, Surroundings({}))) == ["tensor.missing-storage"]
    assert rules(read_state_dict(trace, Surroundings({"0": StorageRef("0", 0, 12)}))) == ["tensor.out-of-bounds"]
    assert not read_state_dict(trace, Surroundings({"0": StorageRef("0", 0, 16)})).anomalies


def test_vast_expansion_is_told():
    """Four bytes that claim to be gigabytes are an anomaly before anyone writes them out."""
    assert rules(read(tensor_program(1, 0, (1 << 20, 1 << 10), (0, 0)))) == ["tensor.expansion"]
    assert not rules(read(tensor_program(1, 0, (64, 64), (0, 0))))


def test_one_storage_declared_twice():
    """A storage asked for with two sizes is an anomaly."""
    pids = [
        b"(" + text("storage") + imported("torch", "FloatStorage") + text("0") + text("cpu") + size + b"tQ"
        for size in (b"K\x01", b"K\x02")
    ]
    reading = read(b"\x80\x02" + pids[0] + pids[1] + b"\x86.")
    assert rules(reading) == ["tensor.storage-conflict"]


def test_declarations_are_read_once_each():
    """Each storage is declared once, with its element type and size."""
    shared = torch.zeros(3, dtype=torch.float16)
    trace = trace_pickle(BytesSource("x", program_of({"a": shared, "b": shared, "c": torch.zeros(2)})))
    declared = storage_declarations(trace)
    assert [(d.key, d.dtype, d.numel, d.nbytes) for d in declared] == [
        ("0", DType.F16, 3, 6),
        ("1", DType.F32, 2, 8),
    ]
    assert isinstance(declared[0], StorageDeclaration)


def test_a_graph_that_unfolds_forever_ends():
    """Tuples of tuples that share their parts are walked within a bound."""
    graph = text("w") + b"N" + b"2\x86" * 62 + b"s"
    assert "tensor.limit" in rules(read(b"\x80\x02}" + text("c") + called("a", "b") + b"s" + graph + b"."))
    assert read(b"\x80\x02}" + graph + b".").state_dict.leftovers[-1].path == "..."


def test_unfinished_programs_have_no_state_dict():
    """A program that breaks off has no state dict."""
    assert read_state_dict(trace_pickle(BytesSource("x", b"}")), Surroundings({})).state_dict is None


def test_keys_of_one_name_collide_aloud():
    """The keys 1 and '1' of one dict give one name: the second tensor is told, not lost."""
    assert rules(read(program_of({1: torch.zeros(1), "1": torch.zeros(1)}))) == ["tensor.name-collision"]


def test_an_empty_key_is_a_part_of_the_name():
    """A dict under the key '' does not spill into the one around it, not even where that is the dict itself."""
    nested = read(program_of({"": {"w": torch.zeros(1), "n": 1}, "w": torch.zeros(2), "n": 2}))
    assert (rules(nested), set(nested.state_dict), nested.state_dict.scalars) == ([], {"w", ".w"}, {"n": 2, ".n": 1})
    around = read(b"\x80\x02}q\x00(" + text("") + b"h\x00" + text("n") + b"K\x01u.")
    assert (rules(around), around.state_dict.scalars) == ([], {"n": 1})


def test_values_of_one_name_are_both_told():
    """Of two plain values with one name the first is kept, and the other listed."""
    reading = read(program_of({"a": {"b": 1}, "a.b": 2}))
    assert reading.state_dict.scalars == {"a.b": 1}
    assert [(left.path, left.description) for left in reading.state_dict.leftovers] == [
        ("a.b", "another value of that name, 2")
    ]


def test_tensors_that_cannot_be_read_are_marked():
    """A sparse tensor of the state dict is a leftover that says so; one beside it is not a part of the model."""
    sparse = torch.eye(2).to_sparse()
    (left,) = read(program_of({"w": torch.zeros(1), "s": sparse})).state_dict.leftovers
    assert (left.path, left.unread) == ("s", True)
    (beside,) = read(program_of({"state_dict": {"w": torch.zeros(1)}, "s": sparse})).state_dict.leftovers
    assert (beside.path, beside.unread) == ("s", False)


def test_large_plain_data_is_not_walked_to_its_end():
    """A long list of plain tuples is told as large, not as endless, and what is small beside it is read."""
    program = pickle.dumps({"w": 1, "rows": [(i, i) for i in range(150_000)]}, 2)
    reading = read(program[:-1] + text("o") + called("a", "b") + b"s.")
    assert rules(reading) == ["tensor.many"]
    plain = read(program)
    assert (rules(plain), plain.state_dict.scalars["w"]) == ([], 1)
    assert [left.path for left in plain.state_dict.leftovers] == ["..."]


def test_a_network_that_is_met_over_and_over_ends():
    """A module of many parts, none of which is a tensor, does not cost its size each time that it is mentioned."""
    names = {f"n{i}": None for i in range(20_000)}
    part = Call(Import("lib", "Part"), new=True, state={"_parameters": names, "_modules": {}, "_buffers": {}})
    begun = time.monotonic()
    reading = read(dumps([part] * 20_000))
    assert rules(reading) == ["tensor.limit"]
    assert time.monotonic() - begun < 5


def test_a_hundred_thousand_tensors_are_all_there_and_nothing_else():
    """The empty batch that ends a dict of a multiple of a thousand items is not taken for values that were dropped."""
    tensors = torch.zeros(100_000).unbind()
    trace = trace_pickle(BytesSource("data.pkl", program_of({f"k{n}": each for n, each in enumerate(tensors)})))
    reading = read_state_dict(trace, Surroundings(storages_of(trace)))
    assert len(reading.state_dict) == 100_000
    assert reading.state_dict.leftovers == ()
