"""The element type that weights are kept in."""

from __future__ import annotations

import pytest

from modelhub.samples.layouts import checkpoint
from modelhub.tensors import DType
from tests.identify.build import known, reasons


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [
        (DType.F64, "fp64"),
        (DType.F32, "fp32"),
        (DType.F16, "fp16"),
        (DType.BF16, "bf16"),
        (DType.F8_E4M3, "fp8_e4m3"),
        (DType.F8_E5M2, "fp8_e5m2"),
        (DType.F4, "fp4"),
        (DType.I64, None),
        (DType.U8, None),
        (DType.BOOL, None),
        (DType.C64, None),
    ],
)
def test_one_type(dtype: DType, precision: str | None) -> None:
    """The precision is that of the floating point numbers; a file without any has none."""
    assert known({"weight": (64, 64)}, dtype=dtype).precision == precision


@pytest.mark.parametrize(
    ("halves", "singles", "precision"),
    [(2000, 0, "fp16"), (1800, 100, "fp16"), (1780, 110, "mixed"), (1000, 500, "mixed"), (100, 950, "fp32")],
)
def test_share_of_bytes(halves: int, singles: int, precision: str) -> None:
    """A type that holds nine tenths of the floating point bytes is the precision; otherwise it is mixed."""
    identity = known({"a": (DType.F16, (halves,)), "b": (DType.F32, (singles,)), "c": (DType.I64, (10**6,))})
    assert identity.precision == precision


def test_evidence_gives_the_shares() -> None:
    """The evidence says what share each type has."""
    [why] = reasons(known({"a": (DType.F16, (3000,)), "b": (DType.F32, (500,))}), "precision")
    assert why.detail.endswith("fp16 75 %, fp32 25 %")


def test_schedule_buffers_do_not_matter() -> None:
    """The few single precision buffers of an SD 1 checkpoint leave it fp16."""
    assert known(checkpoint("sd-1", width=1 / 16)).precision == "fp16"


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("double_blocks.0.img_attn.qkv.weight.quant_state.bitsandbytes__nf4", "nf4"),
        ("double_blocks.0.img_attn.qkv.weight.quant_state.bitsandbytes__fp4", "fp4"),
        ("transformer_blocks.0.qkv_proj.wscales", "svdquant"),
        ("double_blocks.0.img_attn.qkv.weight_scale_2", "nvfp4"),
    ],
)
def test_packed_weights(name: str, precision: str) -> None:
    """Weights packed into integers are told by the names beside them."""
    identity = known({"weight": (DType.U8, (1 << 20, 1)), name: (DType.U8, (100,)), "norm": (DType.F32, (64,))})
    assert identity.precision == precision
