"""Quantised models: what they are is told as for plain ones, and the scheme is named."""

from __future__ import annotations

import pytest

from modelhub.container.base import Container
from modelhub.identify import Identity, identify_observation, identify_state_dict, observe, restored, stored
from modelhub.tensors import BlockTensor, DType, Leftover, StateDict, StorageRef
from tests.identify.build import known, state_dict
from tests.identify.keylists import Shapes, modules
from tests.identify.test_modules import EXPECTED

MODELS = [name for name, (kind, *_) in EXPECTED.items() if kind == "diffusion-model" and name != "unet-2d"]
Typed = dict[str, tuple[DType, tuple[int, ...]]]


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(".weight") and len(shape) == 2 and ("block" in name or "layers" in name)


def scaled_fp8(shapes: Shapes) -> Typed:
    """ComfyUI's scaled fp8: matrices of eight bits, each with a scale."""
    typed: Typed = {"scaled_fp8": (DType.F8_E4M3, (2,))}
    for name, shape in shapes.items():
        matrix = is_matrix(name, shape)
        typed[name] = (DType.F8_E4M3 if matrix else DType.BF16, shape)
        if matrix:
            typed[name.removesuffix("weight") + "scale_weight"] = (DType.F32, (1,))
    return typed


def nf4(shapes: Shapes) -> Typed:
    """bitsandbytes' nf4: matrices of blocks packed two numbers a byte, with their statistics beside them."""
    typed: Typed = {}
    for name, shape in shapes.items():
        if not is_matrix(name, shape):
            typed[name] = (DType.BF16, shape)
            continue
        count = shape[0] * shape[1]
        typed[name] = (DType.U8, (count // 2, 1))
        typed[f"{name}.absmax"] = (DType.U8, (count // 64,))
        typed[f"{name}.quant_map"] = (DType.F32, (16,))
        typed[f"{name}.quant_state.bitsandbytes__nf4"] = (DType.U8, (100,))
    return typed


def torchao(shapes: Shapes) -> Typed:
    typed: Typed = {}
    for name, shape in shapes.items():
        if is_matrix(name, shape):
            typed[f"{name.removesuffix('weight')}_weight_qdata"] = (DType.I8, shape)
            typed[f"{name.removesuffix('weight')}_weight_scale"] = (DType.F32, shape[:1])
        else:
            typed[name] = (DType.BF16, shape)
    return typed


def sdnq(shapes: Shapes) -> Typed:
    typed: Typed = {}
    for name, shape in shapes.items():
        typed[name] = (DType.U8 if is_matrix(name, shape) else DType.BF16, shape)
        if is_matrix(name, shape):
            typed[f"{name.removesuffix('weight')}scale"] = (DType.F32, (shape[0], 1))
            typed[f"{name.removesuffix('weight')}zero_point"] = (DType.F32, (shape[0], 1))
    return typed


def told(identity: Identity) -> tuple[object, ...]:
    return identity.kind, identity.architecture, identity.variant


@pytest.mark.parametrize("name", MODELS)
def test_scaled_fp8(name: str) -> None:
    """Scales beside fp8 weights change nothing but the precision."""
    identity = known(scaled_fp8(modules()[name]))
    assert told(identity) == EXPECTED[name]
    assert identity.precision == "fp8_e4m3-scaled"


@pytest.mark.parametrize("name", MODELS)
def test_sdnq(name: str) -> None:
    """SDNQ's integers and scales change nothing but the precision."""
    identity = known(sdnq(modules()[name]))
    assert told(identity) == EXPECTED[name]
    assert identity.precision == "sdnq"


@pytest.mark.parametrize("name", MODELS)
def test_nf4(name: str) -> None:
    """The packed shapes of nf4 weights do not hide the model."""
    identity = known(nf4(modules()[name]))
    assert told(identity) == EXPECTED[name]
    assert identity.precision == "nf4"


@pytest.mark.parametrize("name", MODELS)
def test_gguf(name: str) -> None:
    """Tensors in ggml's blocks count as the tensors that they are, also from what a catalog has stored."""
    shapes = modules()[name]
    plain = {key: shape for key, shape in shapes.items() if not is_matrix(key, shape)}
    blocks = tuple(
        Leftover(key, "", True, BlockTensor("Q4_K", shape, StorageRef(key, 0, shape[0] * shape[1] * 9 // 16)))
        for key, shape in shapes.items()
        if key not in plain
    )
    tensors = state_dict({key: (DType.F32, shape) for key, shape in plain.items()}).tensors
    whole = StateDict(tensors, {"general.architecture": "flux"}, blocks)
    identity = identify_state_dict(whole)
    assert told(identity) == EXPECTED[name]
    assert identity.precision == ("gguf-q4_k" if blocks else "fp32")
    observation = observe(Container("gguf", "file", None, whole))
    assert identify_observation(restored(stored(observation))) == identity


@pytest.mark.parametrize("name", MODELS)
def test_torchao(name: str) -> None:
    """torchao's packed tensors are found under names of their own."""
    identity = known(torchao(modules()[name]))
    assert told(identity) == EXPECTED[name]
    assert identity.precision == "torchao"


@pytest.mark.parametrize(
    ("contents", "precision"),
    [
        ({"a.weight": (DType.I8, (64, 64)), "a.weight_scale": (DType.F32, (64,))}, "int8-scaled"),
        ({"a.weight": (DType.F8_E5M2, (64, 64)), "a.scale_weight": (DType.F32, ())}, "fp8_e5m2-scaled"),
        ({"a.weight._data": (DType.I8, (64, 64)), "a.weight._scale": (DType.F16, (64, 1))}, "quanto"),
        ({"a.qweight": (DType.I32, (64, 64)), "a.wscales": (DType.BF16, (1, 64))}, "svdquant"),
        ({"a.weight": (DType.I8, (64, 64)), "a.SCB": (DType.F32, (64,))}, "bnb-int8"),
        ({"a.weight": (DType.F16, (64, 64)), "a.scale": (DType.F16, (64,))}, "fp16"),
        ({"a.weight": (DType.F16, (64, 64)), "a.input_scale": (DType.F32, ())}, "fp16"),
    ],
)
def test_schemes(contents: Typed, precision: str) -> None:
    """Each scheme is told by what stands beside the weights; a scale beside plain weights tells nothing."""
    assert known(contents).precision == precision
