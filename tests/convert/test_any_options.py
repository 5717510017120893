"""Whatever the tensors and whatever is asked for: the output is a valid file of exactly the values asked for."""

from __future__ import annotations

import json

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import deserialize

from modelhub.container import Container
from modelhub.convert import ConversionOptions, DTypeRule, plan_conversion
from modelhub.convert.base import OutputFile
from modelhub.convert.gather import c_strides
from modelhub.convert.stream import stream
from modelhub.errors import ModelHubError
from modelhub.source import BytesSource
from modelhub.tensors import DType, StateDict, StorageRef, TensorInfo

TORCH = {
    DType.F16: torch.float16,
    DType.BF16: torch.bfloat16,
    DType.F32: torch.float32,
    DType.F64: torch.float64,
    DType.I64: torch.int64,
    DType.U8: torch.uint8,
    DType.BOOL: torch.bool,
}
BYTES = 1 << 12
PARTS = {"model.diffusion_model.a": "unet", "first_stage_model.b.weight": "vae", "cond_stage_model.norm": "te"}
NAMES = [*PARTS, "x", "é.ü", "model_ema.a", "0"]


@st.composite
def views(draw, name: str) -> TensorInfo:
    """A view of one of two storages of the file, of any element type, shape and strides that fit."""
    dtype = draw(st.sampled_from(list(TORCH)))
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=3)))
    strides = tuple(draw(st.lists(st.integers(0, 9), min_size=len(shape), max_size=len(shape))))
    if draw(st.booleans()):
        strides = c_strides(shape)
    storage = StorageRef(str(draw(st.integers(0, 1))), 0, BYTES)
    if storage.key == "1":
        storage = StorageRef("1", BYTES, BYTES)
    return TensorInfo(name, dtype, shape, storage, 8 * draw(st.integers(0, 20)), strides)


@st.composite
def state_dicts(draw) -> StateDict:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    return StateDict({name: draw(views(name)) for name in names}, {"step": 3})


rules = st.builds(
    DTypeRule,
    st.sampled_from(["*", "unet", "vae", "te", "*norm*", "x"]),
    st.sampled_from([None, DType.F16, DType.BF16, DType.F32]),
)
options = st.builds(
    ConversionOptions,
    dtypes=st.lists(rules, max_size=3).map(tuple),
    ema=st.sampled_from([None, "keep", "drop"]),
    prune=st.booleans(),
    dedupe_shared=st.booleans(),
    align=st.sampled_from([None, 64, 4096]),
    max_shard_size=st.sampled_from([None, 1, 100, 10_000]),
    metadata=st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=2),
)


def numbers() -> bytes:
    """Small numbers whatever the element type that they are read as: no cast of them overflows."""
    generator = np.random.default_rng(5)
    return b"".join(generator.standard_normal(BYTES // 4).astype("<f4").tobytes() for _ in range(2))


DATA = numbers()


def tensor_of(view: TensorInfo) -> torch.Tensor:
    """What torch would see through *view*, its BOOL elements as the bytes they are."""
    dtype = torch.uint8 if view.dtype is DType.BOOL else TORCH[view.dtype]
    begin, end = view.start, view.storage.end
    end -= (end - begin) % view.dtype.itemsize
    return torch.as_strided(torch.frombuffer(bytearray(DATA[begin:end]), dtype=dtype), view.shape, view.strides)


def same(data: bytes, view: TensorInfo, dtype: DType) -> bool:
    """Whether *data* are the elements of *view* as *dtype*; those of 64 bits to 16 torch itself rounds twice."""
    expected = tensor_of(view).clone(memory_format=torch.contiguous_format)
    if not data:
        return expected.numel() == 0
    if view.dtype is dtype:
        return data == expected.flatten().view(torch.uint8).numpy().tobytes()
    found = torch.frombuffer(bytearray(data), dtype=TORCH[dtype]).reshape(view.shape)
    if view.dtype is DType.F64 and dtype.bits == 16:
        return torch.allclose(found.double(), expected, rtol=2**-7, atol=2**-24, equal_nan=True)
    expected = expected.to(TORCH[dtype])
    return torch.equal(found.isnan(), expected.isnan()) and torch.equal(found.nan_to_num(), expected.nan_to_num())


def written(output: OutputFile) -> dict[str, dict]:
    """The file that *output* describes, read back by the library."""
    data = bytearray(output.size)
    data[: len(output.header)] = output.header
    for planned in output.tensors:
        for offset, part in stream(planned):
            begin = len(output.header) + planned.begin + offset
            data[begin : begin + len(part)] = part
    return dict(deserialize(bytes(data)))


def wanted(name: str, view: TensorInfo, asked: ConversionOptions) -> DType:
    """The element type by the documented rule, told once more."""
    fits = {"*": True, "*norm*": "norm" in name, "x": name == "x"}
    dtype = None
    for rule in asked.dtypes:
        if fits.get(rule.pattern, PARTS.get(name) == rule.pattern):
            dtype = rule.dtype
    return dtype if dtype is not None and view.dtype.is_float else view.dtype


@settings(max_examples=150)
@given(state_dicts(), options)
def test_the_output_is_what_was_asked_for(found, asked):
    """Names, element types, shapes and values are as asked; every file is valid; every name is accounted for."""
    source = BytesSource("m.ckpt", DATA)
    try:
        plan = plan_conversion(Container("torch-zip", "m.ckpt", source, found), None, asked)
        files = [written(output) for output in plan.outputs]
    except ModelHubError as error:
        message = str(error)
        assert message.startswith("m.ckpt: ")
        assert any(word in message for word in ("no tensor would be left", "out of range", "beyond its storage"))
        return
    tensors = {name: value for file in files for name, value in file.items()}
    assert sum(map(len, files)) == len(tensors)
    ema = asked.ema or ("drop" if asked.prune else "keep")
    left = {item.path for item in plan.leftovers}
    for name, view in found.items():
        if name not in tensors:
            assert name in left
            assert (name.startswith("model_ema.") and ema == "drop") or asked.dedupe_shared
            continue
        dtype = wanted(name, view, asked)
        assert (tensors[name]["dtype"], tensors[name]["shape"]) == (dtype.label, list(view.shape))
        assert same(bytes(tensors[name]["data"]), view, dtype)
    for output in plan.outputs:
        assert asked.metadata.items() <= output.metadata.items()
        assert len(output.header) % (asked.align or 8) == 0
    if asked.max_shard_size and len(plan.outputs) > 1:
        for output in plan.outputs:
            assert sum(t.nbytes for t in output.tensors) <= asked.max_shard_size or len(output.tensors) == 1
        index = json.loads(plan.plain[0].source.read_at(0, 1 << 20))
        assert index["weight_map"].keys() == tensors.keys()
    assert plan.size == sum(o.size for o in plan.outputs) + sum(p.source.size for p in plan.plain)
