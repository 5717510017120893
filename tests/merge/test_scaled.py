"""Weights of eight bits with scales beside them, as they are published: merged, blended, extracted, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import modelhub
from modelhub.blend import blend
from modelhub.errors import MergeError
from modelhub.merge import Precision, merge, plan_merge
from tests.merge.build import Weights, as_stored, assert_merged, assert_same, load, random, write_adapter

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
QKV, LINEAR, PLAIN = "double_blocks.0.img_attn.qkv", "single_blocks.0.linear1", "img_in"
SHAPES = {QKV: (96, 32), "double_blocks.0.img_mlp.0": (128, 32), LINEAR: (224, 32)}
K = "transformer.transformer_blocks.0.attn.to_k"
MLP = "transformer.single_transformer_blocks.0.proj_mlp"


def blocks_of(shape: tuple[int, int], layout: str) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Rows and columns that have one scale, and the shape of the scales."""
    rows, columns = shape
    return {
        "tensor": ((rows, columns), ()),
        "one": ((rows, columns), (1,)),
        "row": ((1, columns), (rows, 1)),
        "flat row": ((1, columns), (rows,)),
        "columns": ((1, 8), (rows, columns // 8, 1)),
        "blocks": ((16, 16), (rows // 16, columns // 16)),
    }[layout]


def spread(scales: torch.Tensor, shape: tuple[int, int], layout: str) -> torch.Tensor:
    """The scale of each number, in F64."""
    (height, width), _ = blocks_of(shape, layout)
    grid = scales.to(torch.float64).reshape(shape[0] // height, shape[1] // width)
    return grid.repeat_interleave(height, 0).repeat_interleave(width, 1)


def quantised(
    layout: str = "tensor", dtype: torch.dtype = E4M3, scale: str = "scale_weight", kind: torch.dtype = torch.float32
) -> Weights:
    """The weights of a small FLUX, those of its blocks as codes with the scales that use all of them."""
    made: Weights = {f"{PLAIN}.weight": torch.from_numpy(random(32, 8)).bfloat16()}
    for number, (name, shape) in enumerate(SHAPES.items()):
        numbers = torch.from_numpy(random(*shape, seed=number, size=0.02))
        (height, width), form = blocks_of(shape, layout)
        tiles = numbers.abs().reshape(shape[0] // height, height, shape[1] // width, width)
        scales = (tiles.amax((1, 3)) / torch.finfo(dtype).max).reshape(form).to(kind)
        made[f"{name}.{scale}"] = scales
        made[f"{name}.weight"] = (numbers / spread(scales, shape, layout)).to(torch.float32).to(dtype)
        made[f"{name}.{'scale_input' if scale == 'scale_weight' else 'input_scale'}"] = torch.tensor(0.5)
    return made


def numbers_of(weights: Weights, name: str, layout: str, scale: str = "scale_weight") -> torch.Tensor:
    codes = weights[f"{name}.weight"]
    return codes.to(torch.float64) * spread(weights[f"{name}.{scale}"], tuple(codes.shape), layout)


def adapter(path: Path, size: float = 0.01) -> tuple[str, dict[str, tuple[slice, np.ndarray]]]:
    """A LoRA of the key of one fused matrix and of a part of another, and by tensor its rows and change."""
    tensors, changes = {}, {}
    for module, name, rows in ((K, QKV, slice(32, 64)), (MLP, LINEAR, slice(96, 224))):
        up, down = random(rows.stop - rows.start, 4, size=size), random(4, 32, seed=1, size=0.3)
        tensors |= {f"{module}.lora_B.weight": up, f"{module}.lora_A.weight": down}
        changes[name] = rows, as_stored(up) @ as_stored(down)
    return str(write_adapter(path, tensors)), changes


def assert_quantised(found: Weights, before: Weights, name: str, exact: torch.Tensor, layout: str, scale: str) -> None:
    """The numbers of *name* are *exact* to half a unit of the last place of codes, at scales that are the old ones, or
    those doubled as often as the largest number needs."""
    codes, shape = found[f"{name}.weight"], tuple(exact.shape)
    assert codes.dtype is before[f"{name}.weight"].dtype
    assert found[f"{name}.{scale}"].dtype is before[f"{name}.{scale}"].dtype
    old, new = (spread(weights[f"{name}.{scale}"], shape, layout) for weights in (before, found))
    (height, width), _ = blocks_of(shape, layout)
    tiles = exact.abs().reshape(shape[0] // height, height, shape[1] // width, width).amax((1, 3))
    largest = tiles.repeat_interleave(height, 0).repeat_interleave(width, 1)
    reach = {E4M3: 464.0, E5M2: 61440.0}[codes.dtype]
    doublings = torch.log2(new / old)
    assert torch.equal(doublings, torch.log2(largest / old / reach).ceil().clamp(min=0))
    info = torch.finfo(codes.dtype)
    _, exponent = torch.frexp((exact / new).abs().clamp(min=info.smallest_normal, max=info.max))
    unit = torch.ldexp(torch.full_like(exact, info.eps), exponent - 1) * new
    error = (codes.to(torch.float64) * new - exact).abs()
    assert float((error - 0.5 * unit).max()) <= 2e-6 * float(exact.abs().max())


@pytest.mark.parametrize("size", [0.002, 0.3])
@pytest.mark.parametrize(
    ("layout", "scale", "dtype", "kind"),
    [
        ("tensor", "scale_weight", E4M3, torch.float32),
        ("tensor", "scale_weight", E5M2, torch.float32),
        ("one", "weight_scale", E4M3, torch.bfloat16),
        ("row", "weight_scale", E4M3, torch.float32),
        ("flat row", "weight_scale", E5M2, torch.float32),
        ("columns", "scale_weight", E4M3, torch.float32),
        ("blocks", "weight_scale_inv", E4M3, torch.float32),
    ],
)
def test_codes_and_scales_are_merged(
    layout: str, scale: str, dtype: torch.dtype, kind: torch.dtype, size: float, tmp_path: Path
) -> None:
    """Of FLUX with scaled codes, an adapter's modules become codes again that are as near to the formula as codes can
    be; scales grow only where a number needs it, rows without a change keep their numbers, and all else its bytes."""
    weights = quantised(layout, dtype, scale, kind)
    base, target = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    save_file(weights | {"scaled_fp8": torch.zeros(2).to(dtype)}, base)
    lora, changes = adapter(tmp_path / "a.safetensors", size)
    done = merge(base, [lora], target=target, verify_tensors=2)
    found = load(target)
    changed = {f"{name}.{leaf}" for name in changes for leaf in ("weight", scale)}
    assert torch.equal(found.pop("scaled_fp8").float(), torch.zeros(2))
    assert_same(found, weights, changed)
    assert {address.tensor for address in done.told} == {f"{name}.weight" for name in changes}
    assert all(error < 0.51 for error in done.checked.values())
    assert any("eight bits with scales: 2" in note for note in done.plan.notes)
    for name, (rows, change) in changes.items():
        exact = numbers_of(weights, name, layout, scale)
        before = exact.clone()
        exact[rows] += torch.from_numpy(change)
        assert_quantised(found, weights, name, exact, layout, scale)
        after = numbers_of(found, name, layout, scale)
        told = next(each for address, each in done.told.items() if address.tensor == f"{name}.weight")
        assert told.unchanged == int((after == before)[rows].sum())
        assert told.change == pytest.approx(np.linalg.norm(change), rel=1e-4)
        kept = torch.ones(len(before), dtype=torch.bool)
        kept[rows] = False
        smallest = torch.finfo(dtype).smallest_normal * 16
        normal = before[kept].abs() >= smallest * spread(found[f"{name}.{scale}"], tuple(exact.shape), layout)[kept]
        assert torch.equal(after[kept][normal], before[kept][normal]) and bool(normal.any())


def test_strength_0_is_the_base(tmp_path: Path) -> None:
    """At strength 0 a model of codes is what it was, byte for byte."""
    weights = quantised()
    base, target = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    save_file(weights, base)
    lora, _ = adapter(tmp_path / "a.safetensors")
    merge(base, [f"{lora}:0"], target=target)
    assert_same(load(target), weights)


def test_what_rounding_to_codes_swallows_is_told(tmp_path: Path) -> None:
    """A change of a few thousandths is lost to codes, which is told; rounding at random keeps it on average."""
    weights = quantised()
    base = tmp_path / "base.safetensors"
    save_file(weights, base)
    lora, changes = adapter(tmp_path / "a.safetensors", 0.0002)
    done = merge(base, [lora], target=tmp_path / "near.safetensors")
    assert sum(told.unchanged for told in done.told.values()) > 0.9 * sum(told.numel for told in done.told.values())
    rows, change = changes[LINEAR]
    before = numbers_of(weights, LINEAR, "tensor")[rows]
    total = torch.zeros_like(before)
    for seed in range(40):
        target = tmp_path / f"{seed}.safetensors"
        merge(base, [lora], target=target, precision=Precision(seed=seed))
        total += numbers_of(load(target), LINEAR, "tensor")[rows] - before
    along = float((total / 40 * torch.from_numpy(change)).sum() / np.square(change).sum())
    assert along == pytest.approx(1.0, abs=0.1)


WORDS = {name: {"format": "float8_e4m3fn"} for name in SHAPES}


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("said", ["marker", "tensors", "metadata"])
def test_another_type_needs_no_scales(said: str, dtype: str, tmp_path: Path) -> None:
    """In another type all weights are the numbers that they stand for; scales and words for codes are gone."""
    scale = "scale_weight" if said == "marker" else "weight_scale"
    weights = quantised(scale=scale)
    bias = {"double_blocks.0.img_attn.proj.weight": torch.from_numpy(random(32, 32)).float().to(E5M2)}
    metadata = {"format": "pt"}
    more: Weights = {}
    if said == "marker":
        more = {"scaled_fp8": torch.zeros(0).to(E4M3)}
    elif said == "tensors":
        more = {
            f"{name}.comfy_quant": torch.tensor(list(json.dumps(word).encode()), dtype=torch.uint8)
            for name, word in WORDS.items()
        }
    else:
        metadata["_quantization_metadata"] = json.dumps({"format_version": "1.0", "layers": WORDS})
    base, target = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    save_file(weights | bias | more, base, metadata)
    lora, changes = adapter(tmp_path / "a.safetensors")
    merge(base, [lora], target=target, precision=Precision(dtype), verify_tensors=2)  # type: ignore[arg-type]
    found = load(target)
    assert found.keys() == {f"{name}.weight" for name in SHAPES} | {f"{PLAIN}.weight", *bias}
    wanted = {"fp16": torch.float16, "fp32": torch.float32}[dtype]
    assert {tensor.dtype for tensor in found.values()} == {wanted}
    for name in SHAPES:
        exact = numbers_of(weights, name, "tensor", scale)
        before = exact.clone()
        if name in changes:
            rows, change = changes[name]
            exact[rows] += torch.from_numpy(change)
        assert_merged(found[f"{name}.weight"], exact.numpy(), before)
    for name, tensor in bias.items():
        assert torch.equal(found[name], tensor.to(wanted))
    with safe_open(target, "np") as file:
        assert "_quantization_metadata" not in file.metadata()


def test_words_for_layers_that_are_kept(tmp_path: Path) -> None:
    """Where codes stay codes, the metadata that says so stays as it is."""
    said = json.dumps({"format_version": "1.0", "layers": WORDS})
    base, target = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    save_file(quantised(scale="weight_scale"), base, {"_quantization_metadata": said})
    merge(base, [adapter(tmp_path / "a.safetensors")[0]], target=target)
    with safe_open(target, "np") as file:
        assert file.metadata()["_quantization_metadata"] == said


def _bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"weight_scale": torch.ones(96, 1, dtype=torch.uint8)}, "scales of type U8"),
        ({"weight_scale": torch.ones(5)}, r"scales of shape \[5\], which do not fit its \[96, 32\]"),
        ({"weight_scale_inv": torch.ones(2, 1)}, r"scales of shape \[2, 1\]"),
        ({"weight_scale": torch.ones(()), "scale_weight": torch.ones(())}, "several scales"),
        ({"weight_scale": torch.ones(()), "weight_scale_2": torch.ones(())}, "two scales"),
        ({"scale_weight": torch.ones(96, 4, 1), "scale_weight_tensor": torch.ones(())}, "two scales"),
        ({"weight_scale": torch.ones(()), "comfy_quant": _bytes('{"format": "mxfp8"}')}, "quantised as 'mxfp8'"),
        (
            {"weight_scale": torch.ones(()), "comfy_quant": _bytes('{"format": "float8_e4m3fn", "convrot": true}')},
            "'float8_e4m3fn' with convrot",
        ),
        ({"weight_scale": torch.ones(()), "comfy_quant": _bytes("{")}, "quantised as None"),
        ({"comfy_quant": _bytes('{"format": "float8_e4m3fn"}')}, "has no scale"),
        ({"weight_scale": torch.tensor(float("nan"))}, "not finite"),
        ({"weight_scale": torch.tensor(0.0)}, "scale is 0"),
    ],
)
def test_scales_that_are_not_understood_are_refused(more: Weights, told: str, tmp_path: Path) -> None:
    """What number a code stands for is never guessed: the tensor and the reason are named."""
    root = f"{QKV}."
    weights = {name: tensor for name, tensor in quantised().items() if name == f"{root}weight" or root not in name}
    base, target = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    save_file(weights | {root + name: tensor for name, tensor in more.items()}, base)
    lora, _ = adapter(tmp_path / "a.safetensors")
    with pytest.raises(MergeError, match=told):
        merge(base, [lora], target=target)
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*"))


def test_quantised_weights_beside_what_changes(tmp_path: Path) -> None:
    """Weights whose numbers are not known may stay as they are, and are an error where they would change."""
    weights = quantised(scale="weight_scale")
    weights["double_blocks.0.img_mlp.0.weight"] = torch.zeros(128, 16, dtype=torch.uint8)
    weights["double_blocks.0.img_mlp.0.weight_scale"] = torch.zeros(128, 2).to(E4M3)
    weights["double_blocks.0.img_mlp.0.weight_scale_2"] = torch.tensor(0.5)
    base, target = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    save_file(weights, base)
    lora, changes = adapter(tmp_path / "a.safetensors")
    merge(base, [lora], target=target)
    assert_same(load(target), weights, {f"{name}.{leaf}" for name in changes for leaf in ("weight", "weight_scale")})
    with (
        pytest.raises(MergeError, match=r"img_mlp\.0\.weight' is quantised.*not cast"),
        plan_merge(base, [lora], precision=Precision("fp16")),
    ):
        pass


def test_blends_and_extractions_see_numbers(tmp_path: Path) -> None:
    """Of models of codes, blends and extractions compute with the numbers; a blend of two is as near as codes are, and
    a LoRA of what was merged into plain weights is the same as of the codes that those are."""
    weights, others = quantised("one"), quantised("row", E5M2, "weight_scale")
    plain = {f"{name}.weight": numbers_of(weights, name, "one").to(torch.float32) for name in SHAPES} | {
        f"{PLAIN}.weight": weights[f"{PLAIN}.weight"]
    }
    a, b, c = (tmp_path / f"{name}.safetensors" for name in "abc")
    save_file(weights | {"scaled_fp8": torch.zeros(2).to(E4M3)}, a)
    save_file(others, b)
    save_file(plain, c)
    for name, second in (("codes", b), ("numbers", c)):
        target = tmp_path / f"{name}.safetensors"
        blend([a, second], alpha=0.25, target=target, verify_tensors=1)
        found = load(target)
        for each in SHAPES:
            ours, theirs = numbers_of(weights, each, "one"), plain[f"{each}.weight"].to(torch.float64)
            if second is b:
                theirs = numbers_of(others, each, "row", "weight_scale")
            assert_quantised(found, weights, each, 0.75 * ours + 0.25 * theirs, "one", "scale_weight")
            assert found[f"{each}.scale_input"] == 0.5
    lora, changes = adapter(tmp_path / "lora.safetensors")
    merge(c, [lora], target=tmp_path / "tuned.safetensors")
    modelhub.extract(tmp_path / "tuned.safetensors", a, modelhub.RankRule(4), target=tmp_path / "back.safetensors")
    merge(c, [str(tmp_path / "back.safetensors")], target=tmp_path / "again.safetensors")
    found = load(tmp_path / "again.safetensors")
    for name, (rows, change) in changes.items():
        made = (found[f"{name}.weight"] - plain[f"{name}.weight"])[rows].to(torch.float64).numpy()
        assert np.linalg.norm(made - change) < 2e-3 * np.linalg.norm(change)


@pytest.mark.parametrize("scales", [(0, 4), (96, 0, 1), (0,)])
def test_scales_without_elements_are_refused(tmp_path: Path, scales: tuple[int, ...]) -> None:
    """Scales that have no elements are said not to fit the weight."""
    save_file(quantised() | {f"{QKV}.scale_weight": torch.zeros(scales)}, tmp_path / "base.safetensors")
    lora, _ = adapter(tmp_path / "a.safetensors")
    with pytest.raises(MergeError, match="which do not fit"):
        merge(tmp_path / "base.safetensors", [lora], target=tmp_path / "out.safetensors")


def test_a_format_that_is_no_word_is_refused(tmp_path: Path) -> None:
    """ComfyUI's word for how a layer is quantised may be any JSON; what is no known word is refused."""
    for word in ([], {}, None, 8):
        metadata = {"_quantization_metadata": json.dumps({"layers": {QKV: {"format": word}}})}
        save_file(quantised(), tmp_path / "base.safetensors", metadata)
        lora, _ = adapter(tmp_path / "a.safetensors")
        with pytest.raises(MergeError, match="quantised as"):
            merge(tmp_path / "base.safetensors", [lora], target=tmp_path / "out.safetensors")


@pytest.mark.filterwarnings("error")
def test_odd_scales_of_what_no_adapter_changes_are_copied(tmp_path: Path) -> None:
    """A weight of no dimension with a scale, and a scale that carries its numbers out of range, are only copied."""
    odd = {"odd.weight": torch.tensor(1.0).to(E4M3), "odd.scale_weight": torch.tensor(1.0)}
    weights = quantised() | odd | {"double_blocks.0.img_mlp.0.scale_weight": torch.tensor(3e38)}
    base, target = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    save_file(weights, base)
    lora, changes = adapter(tmp_path / "a.safetensors")
    merge(base, [lora], target=target)
    assert_same(load(target), weights, {f"{name}.{leaf}" for name in changes for leaf in ("weight", "scale_weight")})
    save_file(weights | {f"{QKV}.scale_weight": torch.tensor(3e38)}, base)
    with pytest.raises(MergeError, match="not finite"):
        merge(base, [lora], target=target, force=True)
