"""Whole merges: files in, a file out, against the published formulas in double precision."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import modelhub
from modelhub.convert import ConversionOptions, convert
from modelhub.errors import (
    IncompatibleArchitecture,
    MergeError,
    MissingExtra,
    NotFound,
    UnmatchedKeys,
    UnsafeModelError,
    VerificationFailed,
    WouldOverwrite,
)
from modelhub.merge import AdapterUse, Address, Precision, Weights, merge, plan_merge, read_recipe
from modelhub.report.merged import merge_lines
from modelhub.samples.unet import UNETS, parts
from modelhub.tensors import DType
from tests.merge import reference
from tests.merge.build import (
    as_stored,
    assert_merged,
    assert_same,
    base_weights,
    leaf,
    load,
    random,
    write_adapter,
)
from tests.merge.test_adapters import CASES, CONV, LINEAR, REFERENCE

ALPHA = 1.5
DIALECTS = {
    "kohya": ("lora_unet_", "diffusers", "_"),
    "kohya-sgm": ("lora_unet_", "ldm", "_"),
    "lycoris": ("lycoris_unet_", "diffusers", "_"),
    "diffusers": ("unet.", "diffusers", "."),
    "comfy": ("diffusion_model.", "ldm", "."),
    "bare": ("", "diffusers", "."),
}
"""How a module's name begins, whose names it has, and what divides them."""


class Site(NamedTuple):
    """A tensor of the base, and the name of its module in LDM's and in diffusers' layout."""

    tensor: str
    ldm: str
    diffusers: str

    def named(self, dialect: str) -> str:
        prefix, layout, mark = DIALECTS[dialect]
        return prefix + getattr(self, layout).replace(".", mark)


def sites(architecture: str) -> dict[tuple[int, ...], list[Site]]:
    """Modules for cases of the shapes LINEAR, CONV and a 1x1 convolution."""
    linear, conv, point = [], [], []
    for part in parts(UNETS[architecture]):
        if part.kind == "attention":
            for name in ("attn1.to_q", "attn1.to_k", "attn2.to_v"):
                module = f"transformer_blocks.0.{name}"
                linear.append(_site(f"{part.ldm}.{module}", f"{part.diffusers}.{module}"))
        elif part.kind == "residual":
            conv.append(_site(f"{part.ldm}.in_layers.2", f"{part.diffusers}.conv1"))
            point.append(_site(f"{part.ldm}.out_layers.3", f"{part.diffusers}.conv2"))
    return {LINEAR: linear, CONV: conv, (24, 16, 1, 1): point}


def _site(ldm: str, diffusers: str) -> Site:
    return Site(f"model.diffusion_model.{ldm}.weight", ldm, diffusers)


def every_case(architecture: str, dialect: str, dtype: DType) -> tuple[dict, dict, dict]:
    """A base, an adapter file's tensors with a module of every algorithm, and by tensor of the base the reference."""
    weights = base_weights(architecture, dtype)  # type: ignore[arg-type]
    free = sites(architecture)
    tensors: dict[str, np.ndarray] = {}
    expected: dict[str, tuple] = {}
    for number, (algorithm, _, shape, given) in enumerate(CASES):
        if len(shape) == 1 or (dialect == "bare" and algorithm in ("full", "set", "glora")):
            continue  # a name that ends in "diff" is an adapter's only below a name that begins as adapters' do
        arrays = {"on_input": np.array(0.0), **given} if algorithm == "ia3" else given  # every file has that
        site = free[shape].pop(0)
        name = site.named(dialect)
        weights[site.tensor] = torch.from_numpy(random(*shape, seed=number, size=1.0)).to(weights[site.tensor].dtype)
        for role, array in arrays.items():
            tensors[f"{name}.{leaf(algorithm, role)}"] = array
        stored = {role: as_stored(array) for role, array in arrays.items()}
        alpha = ALPHA if algorithm not in ("full", "set", "ia3") else None
        if alpha is not None:
            tensors[f"{name}.alpha"] = np.array(ALPHA)
        expected[site.tensor] = (algorithm, stored, alpha, None)
    for axis, magnitudes in enumerate([(48, 1), (1, 32)]):
        site = free[LINEAR].pop(0)
        name = site.named(dialect)
        weights[site.tensor] = torch.from_numpy(random(*LINEAR, seed=90 + axis, size=1.0)).to(
            weights[site.tensor].dtype
        )
        arrays = {"up": random(48, 4, seed=5), "down": random(4, 32, seed=6)}
        scale = np.abs(random(*magnitudes, seed=7)) + 5
        tensors |= {f"{name}.{leaf('lora', role)}": array for role, array in arrays.items()}
        tensors |= {f"{name}.dora_scale": scale, f"{name}.alpha": np.array(ALPHA)}
        expected[site.tensor] = ("lora", {r: as_stored(a) for r, a in arrays.items()}, ALPHA, (as_stored(scale), axis))
    return weights, tensors, expected


def reference_of(weight: torch.Tensor, what: tuple, strength: float) -> np.ndarray:
    algorithm, arrays, alpha, dora = what
    before = weight.to(torch.float64).numpy()
    if dora is None:
        return REFERENCE[algorithm](before, arrays, alpha, strength)
    magnitudes, axis = dora
    return reference.dora(before, REFERENCE[algorithm](before, arrays, alpha, 1.0), magnitudes, axis, strength)


@pytest.mark.parametrize(
    ("architecture", "dialect", "dtype"),
    [
        *(("sd-1", dialect, DType.F16) for dialect in DIALECTS),
        ("sd-1", "kohya", DType.F32),
        ("sd-2", "kohya", DType.F16),
        *(("sdxl", dialect, DType.F16) for dialect in ("kohya", "kohya-sgm", "diffusers")),
        ("sdxl-refiner", "kohya-sgm", DType.F16),
    ],
)
def test_every_algorithm_in_every_dialect(architecture: str, dialect: str, dtype: DType, tmp_path: Path) -> None:
    """One file with a module of every algorithm gives, at any strength, the numbers of the formulas rounded once;
    what it does not change is bit for bit the base, and at strength 0 all of it is."""
    weights, tensors, expected = every_case(architecture, dialect, dtype)
    base = tmp_path / "base.safetensors"
    save_file(weights, base, {"format": "pt"})
    adapter = write_adapter(tmp_path / "adapter.safetensors", tensors)
    for strength in (-1.0, 0.0, 0.5, 1.0):
        target = tmp_path / f"out{strength}.safetensors"
        done = merge(base, [f"{adapter}:{strength}"], target=target, verify_tensors=3)
        found = load(target)
        assert_same(found, weights, set(expected) if strength else set())
        assert len(done.told) == (len(expected) if strength else 0)
        for name, what in expected.items():
            assert_merged(found[name], reference_of(weights[name], what, strength), weights[name])


@pytest.fixture
def sdxl(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A small SDXL checkpoint."""
    weights = base_weights("sdxl")
    path = tmp_path / "base.safetensors"
    save_file(weights, path, {"format": "pt", "modelspec.author": "somebody", "modelspec.hash_sha256": "0xabc"})
    return path, weights


TE2 = "conditioner.embedders.1.model"


def test_fused_rows_and_the_transposed_projection(sdxl, tmp_path: Path) -> None:
    """An adapter of the second text encoder's key and of its projection changes the key's rows alone, and the
    projection the other way round, for algorithms that need the whole weight as well."""
    base, weights = sdxl
    rows = weights[f"{TE2}.text_projection"].shape[0]
    stem = "lora_te2_text_model_encoder_layers_3_self_attn"
    arrays = {"up": random(rows, 4), "down": random(4, rows, seed=1)}
    blocks = random(rows // 2, 2, 2)
    tensors = {f"{stem}_k_proj.oft_blocks": blocks}
    for role, array in arrays.items():
        tensors[f"{stem}_q_proj.{leaf('lora', role)}"] = array
        tensors[f"lora_te2_text_projection.{leaf('lora', role)}"] = array
    target = tmp_path / "out.safetensors"
    merge(base, [str(write_adapter(tmp_path / "a.safetensors", tensors))], target=target)
    found = load(target)
    fused, projection = f"{TE2}.transformer.resblocks.3.attn.in_proj_weight", f"{TE2}.text_projection"
    assert_same(found, weights, {fused, projection})
    stored = {role: as_stored(array) for role, array in arrays.items()}
    before = weights[fused].to(torch.float64).numpy()
    exact = before.copy()
    exact[:rows] = reference.lora(before[:rows], stored, None, 1.0)
    exact[rows : 2 * rows] = reference.oft(before[rows : 2 * rows], {"blocks": as_stored(blocks)}, None, 1.0)
    assert_merged(found[fused], exact, weights[fused])
    assert torch.equal(found[fused][2 * rows :], weights[fused][2 * rows :])
    turned = weights[projection].to(torch.float64).numpy().T
    assert_merged(found[projection], reference.lora(turned, stored, None, 1.0).T, weights[projection])


@pytest.mark.parametrize(("adapted", "dtype"), [("q", "keep"), ("qv", "keep"), ("v", "bf16"), ("qkv", "keep")])
def test_rows_that_nothing_changes_are_not_told_of(sdxl, tmp_path: Path, adapted: str, dtype: str) -> None:
    """Of a fused matrix those rows are counted that an adapter is for: the others are not what rounding left."""
    base, weights = sdxl
    fused = f"{TE2}.transformer.resblocks.3.attn.in_proj_weight"
    rows = weights[fused].shape[1]
    stem = "lora_te2_text_model_encoder_layers_3_self_attn"
    tensors = {f"{stem}_{each}_proj.diff": random(rows, rows, seed=ord(each), size=1.0) for each in adapted}
    adapter = write_adapter(tmp_path / "a.safetensors", tensors)
    done = merge(base, [str(adapter)], target=tmp_path / "out.safetensors", precision=Precision(dtype=dtype))
    told = done.told[Address("", fused)]
    before = weights[fused].to(torch.float64).reshape(3, rows, rows)["qkv".index(adapted[0])]
    assert told.numel == len(adapted) * rows * rows
    assert told.unchanged < 0.02 * told.numel
    assert told.change == pytest.approx(
        np.sqrt(sum(np.square(as_stored(each)).sum() for each in tensors.values())), 1e-4
    )
    assert len(adapted) > 1 or told.weight == pytest.approx(float(before.norm()), 1e-5)
    assert not any("swallows" in "".join(map(str, each)) for each in merge_lines(done))


SITE = sites("sdxl")[LINEAR][0]


def lora_file(
    path: Path,
    weights: dict[str, torch.Tensor],
    *,
    seed: int = 0,
    names: tuple[Site, ...] = (SITE,),
    alpha: float | None = None,
) -> Path:
    tensors: dict[str, np.ndarray] = {}
    for site in names:
        out, inputs = weights[site.tensor].shape
        tensors[f"{site.named('kohya-sgm')}.lora_up.weight"] = random(out, 4, seed=seed)
        tensors[f"{site.named('kohya-sgm')}.lora_down.weight"] = random(4, inputs, seed=seed + 1)
        if alpha is not None:
            tensors[f"{site.named('kohya-sgm')}.alpha"] = np.array(alpha)
    return write_adapter(path, tensors)


def delta(path: Path, site: Site = SITE) -> np.ndarray:
    tensors = {name: tensor.to(torch.float64).numpy() for name, tensor in load_file(path).items()}
    name = site.named("kohya-sgm")
    return tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"]


def test_several_adapters_are_rounded_once(sdxl, tmp_path: Path) -> None:
    """The sum of several adapters is rounded once, in whatever order they come."""
    base, weights = sdxl
    files = [lora_file(tmp_path / f"{n}.safetensors", weights, seed=3 * n) for n in range(8)]
    exact = weights[SITE.tensor].to(torch.float64).numpy() + sum(0.1 * delta(path) for path in files)
    for number, order in enumerate((files, files[::-1])):
        target = tmp_path / f"out{number}.safetensors"
        merge(base, [AdapterUse(str(path), Weights(0.1)) for path in order], target=target)
        assert_merged(load(target)[SITE.tensor], exact, weights[SITE.tensor])


def test_the_given_order_is_kept_where_it_matters(sdxl, tmp_path: Path) -> None:
    """(IA)^3 scales what the adapters before it made, and the plan says that the order matters."""
    base, weights = sdxl
    rows = weights[SITE.tensor].shape[0]
    lora = lora_file(tmp_path / "lora.safetensors", weights)
    name = SITE.named("kohya-sgm")
    scale = write_adapter(
        tmp_path / "ia3.safetensors", {f"{name}.weight": random(rows), f"{name}.on_input": np.array(0)}
    )
    factors = 1 + load_file(scale)[f"{name}.weight"].to(torch.float64).numpy()[:, None]
    before = weights[SITE.tensor].to(torch.float64).numpy()
    for number, (order, exact) in enumerate(
        [((lora, scale), (before + delta(lora)) * factors), ((scale, lora), before * factors + delta(lora))]
    ):
        with plan_merge(base, list(map(str, order))) as plan:
            assert any("order" in note for note in plan.notes)
        target = tmp_path / f"out{number}.safetensors"
        merge(base, list(map(str, order)), target=target)
        assert_merged(load(target)[SITE.tensor], exact, weights[SITE.tensor])


def test_metadata_keeps_the_base_and_tells_the_recipe(sdxl, tmp_path: Path) -> None:
    """The output has the base's metadata, without the hash that is not true any more, and the recipe with the digests
    of everything; the recipe beside it makes the same file again."""
    base, weights = sdxl
    adapter = lora_file(tmp_path / "a.safetensors", weights)
    target = tmp_path / "out.safetensors"
    done = merge(base, [f"{adapter}:0.5"], target=target)
    with safe_open(target, "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.author"] == "somebody"
    assert "modelspec.hash_sha256" not in metadata
    recipe = tomllib.loads(metadata["modelhub.merge"])
    digests = {path.name: modelhub.scan(path, digest=True).digest.sha256 for path in (base, adapter)}
    assert recipe["base"] == {"path": base.name, "sha256": {base.name: digests[base.name]}}
    assert recipe["adapter"] == [{"path": adapter.name, "sha256": digests[adapter.name], "weight": 0.5}]
    assert done.recipe_path == f"{target}.recipe.toml"
    again = tmp_path / "again.safetensors"
    merge(read_recipe(done.recipe_path), target=again)
    assert again.read_bytes() == target.read_bytes()


def test_a_recipe_holds_its_files_to_their_digests(sdxl, tmp_path: Path) -> None:
    """A recipe whose adapter or base is another file now is refused, and nothing is written."""
    base, weights = sdxl
    adapter = lora_file(tmp_path / "a.safetensors", weights)
    done = merge(base, [str(adapter)], target=tmp_path / "out.safetensors")
    recipe = read_recipe(done.recipe_path)
    lora_file(adapter, weights, seed=9)
    with pytest.raises(MergeError, match="not the adapter of the recipe"):
        merge(recipe, target=tmp_path / "again.safetensors")
    lora_file(adapter, weights)
    save_file(base_weights("sdxl"), base, {"format": "pt", "changed": "yes"})
    with pytest.raises(MergeError, match="not the file of the recipe"):
        merge(recipe, target=tmp_path / "again.safetensors")
    assert not [name for name in os.listdir(tmp_path) if "again" in name]


def test_merging_the_same_adapter_twice_is_refused(sdxl, tmp_path: Path) -> None:
    """An output that is merged with its own adapter once more is an error, unless that is asked for."""
    base, weights = sdxl
    adapter = lora_file(tmp_path / "a.safetensors", weights)
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    merge(base, [str(adapter)], target=once)
    with pytest.raises(MergeError, match=r"merged with .* before"):
        merge(once, [str(adapter)], target=twice)
    merge(once, [str(adapter)], target=twice, again=True)
    with safe_open(twice, "pt") as file:
        assert {key for key in file.metadata() if key.startswith("modelhub.merge")} == {
            "modelhub.merge",
            "modelhub.merge.1",
        }


def test_what_has_no_place_is_an_error(sdxl, tmp_path: Path) -> None:
    """A module that the base has not, one of another shape, and a tensor of no module are errors that name them; with
    allow_unmatched they are left out and listed."""
    base, weights = sdxl
    good = load_file(lora_file(tmp_path / "good.safetensors", weights))
    name = SITE.named("kohya-sgm")
    odd = {
        "missing": {f"{name}x.lora_up.weight": torch.zeros(4, 1), f"{name}x.lora_down.weight": torch.zeros(1, 4)},
        "shape": {
            f"{name[:-1]}k.lora_up.weight": torch.zeros(4, 1),
            f"{name[:-1]}k.lora_down.weight": torch.zeros(1, 4),
        },
        "stray": {"something.else": torch.zeros(3)},
    }
    told = {
        "missing": r"no such module.*nearest: \w+to_q",
        "shape": "a weight of 4 by 4",
        "stray": "no adapter's module",
    }
    for kind, tensors in odd.items():
        path = tmp_path / f"{kind}.safetensors"
        save_file(good | tensors, path)
        with pytest.raises(UnmatchedKeys, match=told[kind]):
            merge(base, [str(path)], target=tmp_path / "out.safetensors")
        with plan_merge(base, [str(path)], allow_unmatched=True) as plan:
            assert len(plan.unmatched) == 1
            assert list(plan.changes) == [("", SITE.tensor)]
    assert not (tmp_path / "out.safetensors").exists()


def test_an_adapter_for_another_architecture(sdxl, tmp_path: Path) -> None:
    """A LoRA of SD 1 has no business in SDXL, and the error says so."""
    from modelhub.samples.layouts import lora
    from modelhub.samples.safetensors_files import write_safetensors
    from modelhub.samples.weights import random_weights

    path = tmp_path / "sd1.safetensors"
    write_safetensors(path, random_weights(lora("sd-1", 1)))
    with pytest.raises(IncompatibleArchitecture, match="an adapter for sd-1, and the base is sdxl"):
        merge(sdxl[0], [str(path)], target=tmp_path / "out.safetensors")


def test_weights_by_component_block_and_pattern(sdxl, tmp_path: Path) -> None:
    """Strengths of components, blocks and patterns multiply, and reach the tensors that they name."""
    base, weights = sdxl
    some = (*sites("sdxl")[LINEAR][:1], *sites("sdxl")[LINEAR][6:7])
    blocks = [site.tensor.split(".")[3] for site in some]
    adapter = lora_file(tmp_path / "a.safetensors", weights, names=some)
    given = Weights(0.5, {"denoiser": 2.0}, {f"IN{int(blocks[0]):02}": 0.25}, {f"*{some[1].ldm}*": 0.75})
    target = tmp_path / "out.safetensors"
    merge(base, [AdapterUse(str(adapter), given)], target=target)
    found = load(target)
    for site, strength in zip(some, (0.25, 0.75), strict=True):
        exact = weights[site.tensor].to(torch.float64).numpy() + strength * delta(adapter, site)
        assert_merged(found[site.tensor], exact, weights[site.tensor])


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_the_output_in_another_type(sdxl, tmp_path: Path, dtype: Literal["bf16", "fp32"]) -> None:
    """All weights are cast, the merged ones from the numbers that were computed; what is no weight keeps its type.

    Where the type is finer than float32 computes, what that may err is no error of many last places.
    """
    base, weights = sdxl
    adapter = lora_file(tmp_path / "a.safetensors", weights)
    target = tmp_path / "out.safetensors"
    done = merge(base, [str(adapter)], target=target, precision=Precision(dtype), verify_tensors=1)
    assert all(0 < error < 0.52 for error in done.checked.values())
    wanted = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    for name, tensor in load(target).items():
        before = weights[name]
        assert tensor.dtype is (wanted if before.is_floating_point() else before.dtype)
        if name == SITE.tensor:
            assert_merged(tensor, before.to(torch.float64).numpy() + delta(adapter), before)
        else:
            assert torch.equal(tensor, before.to(tensor.dtype))


def test_exact_merges_are_the_nearest_numbers(sdxl, tmp_path: Path) -> None:
    """Computed in float64, every weight is the number of its type that is nearest to the formula."""
    base, weights = sdxl
    adapter = lora_file(tmp_path / "a.safetensors", weights)
    target = tmp_path / "out.safetensors"
    done = merge(base, [str(adapter)], target=target, precision=Precision(exact=True), verify_tensors=1)
    exact = weights[SITE.tensor].to(torch.float64).numpy() + delta(adapter)
    np.testing.assert_array_equal(load(target)[SITE.tensor].numpy(), exact.astype(np.float16))
    assert next(iter(done.checked.values())) <= 0.5 + 1e-9


def test_stochastic_rounding_loses_nothing_on_average(tmp_path: Path) -> None:
    """A change too small for bfloat16 is told to be swallowed; rounded stochastically it is there on average, every
    weight is one of both neighbours, and the same seed gives the same file."""
    weights = base_weights("sd-1", DType.F32)
    site = sites("sd-1")[LINEAR][0]
    weights = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor for name, tensor in weights.items()
    }
    weights[site.tensor] = torch.full((400, 400), 1.0, dtype=torch.bfloat16)
    base = tmp_path / "base.safetensors"
    save_file(weights, base)
    change = np.full((400, 400), 0.001)
    adapter = write_adapter(tmp_path / "a.safetensors", {f"{site.named('kohya')}.diff": change})
    nearest = merge(base, [str(adapter)], target=tmp_path / "nearest")
    assert next(iter(nearest.told.values())).unchanged == 400 * 400
    made = [tmp_path / name for name in ("one", "two", "three")]
    for path, seed in zip(made, (1, 1, 2), strict=True):
        merge(base, [str(adapter)], target=path, precision=Precision(seed=seed), verify_tensors=1)
    found = load(made[0])[site.tensor].to(torch.float64)
    assert set(found.unique().tolist()) == {1.0, 1.0078125}
    assert abs(float(found.mean()) - 1.001) < 5e-5
    assert torch.equal(load(made[1])[site.tensor].to(torch.float64), found)
    assert not torch.equal(load(made[2])[site.tensor].to(torch.float64), found)


@pytest.mark.parametrize(
    ("up", "down", "told"),
    [
        (np.zeros((16, 0)), np.zeros((0, 16)), "has no elements"),
        (np.full((16, 2), np.nan), np.zeros((2, 16)), "values that are not finite"),
        (np.zeros((16, 2)), np.full((2, 16), np.inf), "values that are not finite"),
    ],
)
def test_an_adapter_of_no_numbers_is_named(sdxl, tmp_path: Path, up: np.ndarray, down: np.ndarray, told: str) -> None:
    """A module of rank 0, or with NaNs or infinities, is an error that names it, and nothing is written."""
    base, weights = sdxl
    rows, columns = weights[SITE.tensor].shape
    name = SITE.named("kohya-sgm")
    tensors = {f"{name}.lora_up.weight": np.resize(up, (rows, up.shape[1]))} if up.size else {}
    tensors |= {f"{name}.lora_down.weight": np.resize(down, (len(down), columns))} if down.size else {}
    if not tensors:
        tensors = {
            f"{name}.lora_up.weight": np.zeros((rows, 0)),
            f"{name}.lora_down.weight": np.zeros((0, columns)),
            f"{name}.alpha": np.array(1.0),
        }
    adapter = write_adapter(tmp_path / "a.safetensors", tensors)
    with pytest.raises(MergeError, match=f"{name}: .*{told}"):
        merge(base, [str(adapter)], target=tmp_path / "out.safetensors")
    with pytest.raises(MergeError, match=name):
        modelhub.resize(adapter, target=tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*"))


def test_weights_of_what_is_not_there_are_told(sdxl, tmp_path: Path) -> None:
    """A block, a component or a pattern that the base has nothing of is told, and one that it has is not."""
    base, weights = sdxl
    file = lora_file(tmp_path / "a.safetensors", weights)
    with plan_merge(base, [f"{file}:te=0.5,te3=0.5,IN04=0.5,IN77=0.5,*attn1*=0.5,*nowhere*=0.5,BASE=1"]) as plan:
        assert [note for note in plan.notes if "the base has not" in note] == [
            f"{file}: weights of what the base has not: te3, IN77, *nowhere*"
        ]


@pytest.mark.parametrize("packing", ["nf4", "svdquant"])
def test_packed_bases_are_refused_by_name(tmp_path: Path, packing: str) -> None:
    """Of weights that are packed into other tensors the error says how, not that a shape is another."""
    weights = base_weights("sd-1")
    site = sites("sd-1")[LINEAR][0]
    rows, columns = weights[site.tensor].shape
    file = lora_file(tmp_path / "a.safetensors", weights, names=(site,))
    stem = site.tensor.removesuffix("weight")
    del weights[site.tensor]
    if packing == "nf4":
        weights[site.tensor] = torch.zeros(rows * columns // 2, 1, dtype=torch.uint8)
        weights[f"{site.tensor}.quant_state.bitsandbytes__nf4"] = torch.zeros(9, dtype=torch.uint8)
    else:
        weights |= {f"{stem}qweight": torch.zeros(rows, columns // 2).to(torch.int8), f"{stem}wscales": torch.zeros(1)}
    base = tmp_path / "base.safetensors"
    save_file(weights, base)
    with pytest.raises((MergeError, UnmatchedKeys), match=packing):
        merge(base, [str(file)], target=tmp_path / "out.safetensors")


def test_values_out_of_range_are_an_error(sdxl, tmp_path: Path) -> None:
    """A merge whose result float16 does not hold, or that is no number, writes nothing and names the tensor."""
    base, weights = sdxl
    shape = weights[SITE.tensor].shape
    for value, strength, told in ((1e5, 1, "out of range"), (3e38, 10, "not finite")):
        change = np.zeros(shape)
        change[2, 3] = value
        name = f"{SITE.named('kohya-sgm')}.diff"
        adapter = write_adapter(tmp_path / "a.safetensors", {name: change})
        with pytest.raises(MergeError, match=f"{SITE.tensor}.*{told}"):
            merge(base, [f"{adapter}:{strength}"], target=tmp_path / "out.safetensors")
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "base.safetensors"]


def test_nothing_is_replaced(sdxl, tmp_path: Path) -> None:
    """An output or a recipe that is there already stays, unless force says otherwise; the base is never the target."""
    base, weights = sdxl
    adapter = str(lora_file(tmp_path / "a.safetensors", weights))
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"mine")
    with pytest.raises(WouldOverwrite):
        merge(base, [adapter], target=target)
    assert target.read_bytes() == b"mine"
    with pytest.raises(WouldOverwrite):
        merge(base, [adapter], target=base, force=True)
    merge(base, [adapter], target=target, force=True)
    target.unlink()
    with pytest.raises(WouldOverwrite, match="recipe"):
        merge(base, [adapter], target=target)


def test_a_diffusers_folder_stays_one(sdxl, tmp_path: Path) -> None:
    """A folder becomes a folder: the component that changes is written anew, everything else is copied."""
    base, weights = sdxl
    folder, target = tmp_path / "folder", tmp_path / "merged"
    convert(base, folder, options=ConversionOptions(layout="diffusers"))
    adapter = lora_file(tmp_path / "a.safetensors", weights)
    done = merge(folder, [str(adapter)], target=target)
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert {path.relative_to(target) for path in target.rglob("*") if path.is_file()} == files
    unet = Path("unet/diffusion_pytorch_model.safetensors")
    for file in files - {unet}:
        assert (target / file).read_bytes() == (folder / file).read_bytes(), file
    before, after = load(folder / unet), load(target / unet)
    name = f"{SITE.diffusers}.weight"
    assert_same(after, before, {name})
    assert_merged(after[name], before[name].to(torch.float64).numpy() + delta(adapter), before[name])
    assert set(done.digests) == {str(each) for each in files if each.suffix == ".safetensors"}


def test_pickled_files_are_read_and_unsafe_ones_refused(sdxl, tmp_path: Path) -> None:
    """Bases and adapters in torch's format merge as those in safetensors do; one that would run something is refused
    without being run, and with salvage only its tensors are taken."""
    base, weights = sdxl
    adapter = lora_file(tmp_path / "a.safetensors", weights)
    expected = tmp_path / "expected.safetensors"
    merge(base, [str(adapter)], target=expected)
    pickled, pickled_adapter = tmp_path / "base.ckpt", tmp_path / "a.pt"
    torch.save({"state_dict": weights}, pickled)
    torch.save(load_file(adapter), pickled_adapter)
    target = tmp_path / "out.safetensors"
    merge(pickled, [str(pickled_adapter)], target=target)
    assert_same(load(target), load(expected))

    marker = tmp_path / "ran"

    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    torch.save({**load_file(adapter), "payload": Runs()}, pickled_adapter)
    with pytest.raises(UnsafeModelError, match="not merged"):
        merge(pickled, [str(pickled_adapter)], target=tmp_path / "no.safetensors")
    target.unlink()
    merge(base, [str(pickled_adapter)], target=tmp_path / "salvaged.safetensors", salvage=True)
    assert_same(load(tmp_path / "salvaged.safetensors"), load(expected))
    with safe_open(tmp_path / "salvaged.safetensors", "pt") as file:
        assert file.metadata()["modelhub.salvaged"] == "true"
    assert not marker.exists()


def peft_file(
    path: Path, weights: dict[str, torch.Tensor], metadata: dict[str, str], name: str = f"unet.{SITE.diffusers}"
) -> Path:
    """A LoRA of rank 4 in PEFT's names, with *metadata*."""
    out, inputs = weights[SITE.tensor].shape
    tensors = {f"{name}.lora_B.weight": random(out, 4), f"{name}.lora_A.weight": random(4, inputs, seed=1)}
    return write_adapter(path, tensors, metadata)


@pytest.mark.parametrize("where", ["file", "metadata"])
def test_alphas_of_peft_stand_beside_the_tensors(sdxl, tmp_path: Path, where: str) -> None:
    """The scale of a PEFT adapter is that of its configuration, also with patterns and rank stabilisation."""
    base, weights = sdxl
    out, inputs = weights[SITE.tensor].shape
    name = f"base_model.model.unet.{SITE.diffusers}"
    tensors = {f"{name}.lora_B.weight": random(out, 4), f"{name}.lora_A.weight": random(4, inputs, seed=1)}
    for number, (config, scale) in enumerate(
        [
            ({"lora_alpha": 6, "r": 4}, 1.5),
            ({"lora_alpha": 6, "r": 4, "use_rslora": True}, 3.0),
            ({"lora_alpha": 6, "r": 4, "alpha_pattern": {"attn1.to_q": 2}}, 0.5),
        ]
    ):
        metadata = {}
        if where == "file":
            (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        else:
            prefixed = {f"unet.{key}": value for key, value in config.items()}
            metadata = {"lora_adapter_metadata": json.dumps(prefixed)}
        adapter = write_adapter(tmp_path / "a.safetensors", tensors, metadata)
        target = tmp_path / f"out{number}.safetensors"
        merge(base, [str(adapter)], target=target)
        change = as_stored(random(out, 4)) @ as_stored(random(4, inputs, seed=1))
        exact = weights[SITE.tensor].to(torch.float64).numpy() + scale * change
        assert_merged(load(target)[SITE.tensor], exact, weights[SITE.tensor])


@pytest.mark.parametrize(
    ("pattern", "scale"),
    [
        ("attn1.to_q", 0.5),
        (r"attn1\.to_q$", 0.5),
        ("to_q", 0.5),
        ("o_q", 1.5),
        ("^attn1.to_q", 1.5),
        (f"^{SITE.diffusers}", 0.5),
        ("attn1.to.q", 1.5),
    ],
)
def test_patterns_of_alphas_are_names(sdxl, tmp_path: Path, pattern: str, scale: float) -> None:
    """PEFT's pattern is the end of a module's name from a dot on, or with ^ the whole of it."""
    base, weights = sdxl
    config = {"unet.lora_alpha": 6, "unet.r": 4, "unet.alpha_pattern": {"elsewhere": 9, pattern: 2}}
    adapter = peft_file(tmp_path / "a.safetensors", weights, {"lora_adapter_metadata": json.dumps(config)})
    with plan_merge(base, [str(adapter)]) as plan:
        ((change,),) = plan.changes.values()
    assert change.module.alpha == scale * 4


def test_hostile_patterns_are_not_tried(sdxl, tmp_path: Path) -> None:
    """A pattern that is more than a name is said not to be understood, at once, whatever it would take to try it."""
    base, weights = sdxl
    for pattern in (r"(a+)+b", r"(.*)*\.to_k", "attn[12].to_q", "(", r"a\d", "attn1.to_q|x"):
        config = {"lora_alpha": 6, "r": 4, "alpha_pattern": {pattern: 2}}
        metadata = {"lora_adapter_metadata": json.dumps(config)}
        adapter = peft_file(tmp_path / "a.safetensors", weights, metadata, name=f"{'a' * 64}.{SITE.diffusers}")
        with pytest.raises(UnmatchedKeys, match="is not understood"):
            merge(base, [str(adapter)], target=tmp_path / "no.safetensors")


@pytest.mark.parametrize("alpha", ["NaN", "-Infinity", "1e999", f"1{'0' * 400}", '"much"', "[1]", "true", "{}"])
def test_alphas_that_are_no_numbers_are_refused(sdxl, tmp_path: Path, alpha: str) -> None:
    """What PEFT's configuration has as an alpha is a finite number, or the module is not merged."""
    base, weights = sdxl
    for config in (f'{{"lora_alpha": {alpha}}}', f'{{"lora_alpha": 4, "alpha_pattern": {{"to_q": {alpha}}}}}'):
        adapter = peft_file(tmp_path / "a.safetensors", weights, {"lora_adapter_metadata": config})
        with pytest.raises(MergeError, match="its alpha is no finite number"):
            merge(base, [str(adapter)], target=tmp_path / "no.safetensors")
    with pytest.raises(MergeError, match="its alpha is no finite number"):
        merge(
            base, [str(peft_file(tmp_path / "a.safetensors", weights, {"lora_alpha": alpha}))], target=tmp_path / "no"
        )


def test_alphas_in_plain_metadata(sdxl, tmp_path: Path) -> None:
    """Values that stand as text in the file's own metadata are read as the numbers that they are."""
    base, weights = sdxl
    metadata = {"lora_alpha": "6", "use_rslora": "False", "alpha_pattern": '{"to_k": 3}'}
    with plan_merge(base, [str(peft_file(tmp_path / "a.safetensors", weights, metadata))]) as plan:
        ((change,),) = plan.changes.values()
    assert change.module.alpha == 6


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), float("-inf")])
def test_an_alpha_that_is_not_finite_is_no_scale(sdxl, tmp_path: Path, alpha: float) -> None:
    """A module whose alpha is not finite is not merged; a huge one is what it says; and to a LoKr of two full factors,
    for which LyCORIS writes alphas that half precision cannot hold, it means nothing."""
    base, weights = sdxl
    adapter = lora_file(tmp_path / "a.safetensors", weights, alpha=alpha)
    with pytest.raises(UnmatchedKeys, match="its alpha is no finite number"):
        merge(base, [str(adapter)], target=tmp_path / "no.safetensors")
    with plan_merge(base, [str(lora_file(tmp_path / "a.safetensors", weights, alpha=1e30))]) as plan:
        ((change,),) = plan.changes.values()
    assert change.module.alpha == pytest.approx(1e30)
    out, inputs = weights[SITE.tensor].shape
    name = SITE.named("kohya")
    full = {f"{name}.lokr_w1": random(1, 1), f"{name}.lokr_w2": random(out, inputs)}
    tensors = {**full, f"{name}.alpha": np.array(alpha)}
    with plan_merge(base, [str(write_adapter(tmp_path / "a.safetensors", tensors))]) as plan:
        ((change,),) = plan.changes.values()
    assert change.module.alpha is None


def test_biases_and_norms(sdxl, tmp_path: Path) -> None:
    """diff_b and PEFT's bias change the bias, PEFT's scaled as the weight is; w_norm and b_norm a norm's tensors."""
    base, weights = sdxl
    part = SITE.ldm.removesuffix("attn1.to_q")
    out, norm = f"model.diffusion_model.{part}attn1.to_out.0", f"model.diffusion_model.{part}norm1"
    size = weights[f"{norm}.weight"].shape[0]
    stem = f"lora_unet_{part}".replace(".", "_")
    values = {key: random(size, seed=n) for n, key in enumerate(("diff_b", "w", "b", "lora"))}
    tensors = {
        f"{stem}attn1_to_out_0.lora_up.weight": random(size, 4),
        f"{stem}attn1_to_out_0.lora_down.weight": random(4, size),
        f"{stem}attn1_to_out_0.lora_up.bias": values["lora"],
        f"{stem}attn1_to_out_0.alpha": np.array(2.0),
        f"{stem}norm1.w_norm": values["w"],
        f"{stem}norm1.b_norm": values["b"],
        f"{stem}norm2.b_norm": values["b"],
        f"{stem}attn2_to_out_0.diff": random(size, size),
        f"{stem}attn2_to_out_0.diff_b": values["diff_b"],
    }
    target = tmp_path / "out.safetensors"
    merge(base, [f"{write_adapter(tmp_path / 'a.safetensors', tensors)}:0.5"], target=target)
    found = load(target)
    second = out.replace("attn1", "attn2")
    for name, key, scale in (
        (f"{out}.bias", "lora", 0.25),
        (f"{norm}.weight", "w", 0.5),
        (f"{norm}.bias", "b", 0.5),
        (f"{second}.bias", "diff_b", 0.5),
    ):
        exact = weights[name].to(torch.float64).numpy() + scale * as_stored(values[key])
        assert_merged(found[name], exact, weights[name])


def test_a_wrong_byte_is_noticed(sdxl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is read back: were a merged tensor written to a wrong place, nothing would be left of it."""
    from modelhub.convert.target import PartFile

    base, weights = sdxl
    adapter = lora_file(tmp_path / "a.safetensors", weights)
    with plan_merge(base, [str(adapter)]) as plan:
        (output,) = plan.conversion.outputs
        (planned,) = [tensor for tensor in output.tensors if tensor.name == SITE.tensor]
        place = len(output.header) + planned.begin
    write_at, room = PartFile.write_at, PartFile.room

    def writes(self: PartFile, offset: int, data: memoryview | bytes, *, direct: bool = False) -> None:
        write_at(self, offset, bytes(len(data)) if offset == place else data)

    def gives(self: PartFile, offset: int, size: int) -> memoryview | None:
        given = room(self, offset, size)
        return memoryview(bytearray(size)) if offset == place and given is not None else given

    monkeypatch.setattr(PartFile, "write_at", writes)
    monkeypatch.setattr(PartFile, "room", gives)
    with pytest.raises(VerificationFailed, match=SITE.tensor):
        merge(base, [str(adapter)], target=tmp_path / "out.safetensors")
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "base.safetensors"]


def test_without_torch_there_is_a_plan_and_a_hint(sdxl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging says which extra it needs."""
    base, weights = sdxl
    adapter = lora_file(tmp_path / "a.safetensors", weights)
    monkeypatch.setattr("modelhub.merge.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="torch"):
        merge(base, [str(adapter)], target=tmp_path / "out.safetensors")


FUSED = {
    "img_in.weight": (32, 8),
    "double_blocks.0.img_attn.qkv.weight": (96, 32),
    "single_blocks.0.linear1.weight": (224, 32),
    "final_layer.adaLN_modulation.1.weight": (64, 32),
}


@pytest.mark.parametrize("root", ["", "model.diffusion_model."])
def test_flux_has_its_rows_changed(root: str, tmp_path: Path) -> None:
    """diffusers' modules change their rows of FLUX's fused matrices, the last modulation with its halves swapped."""
    generator = torch.Generator().manual_seed(0)
    weights = {root + name: torch.randn(shape, generator=generator).bfloat16() for name, shape in FUSED.items()}
    base = tmp_path / "flux.safetensors"
    save_file(weights, base)
    modules = {
        "transformer_blocks.0.attn.to_k": ("double_blocks.0.img_attn.qkv.weight", 32, [slice(32, 64)]),
        "single_transformer_blocks.0.proj_mlp": ("single_blocks.0.linear1.weight", 128, [slice(96, 224)]),
        "norm_out.linear": ("final_layer.adaLN_modulation.1.weight", 64, [slice(32, 64), slice(0, 32)]),
    }
    tensors, changed = {}, {}
    for module, (name, rows, parts_of) in modules.items():
        up, down = random(rows, 4), random(4, 32, seed=1)
        tensors |= {f"transformer.{module}.lora_B.weight": up, f"transformer.{module}.lora_A.weight": down}
        exact = weights[root + name].to(torch.float64).numpy().copy()
        change, first = as_stored(up) @ as_stored(down), 0
        for rows_of in parts_of:
            count = rows_of.stop - rows_of.start
            exact[rows_of] += change[first : first + count]
            first += count
        changed[root + name] = exact
    target = tmp_path / "out.safetensors"
    merge(base, [str(write_adapter(tmp_path / "a.safetensors", tensors))], target=target)
    found = load(target)
    assert_same(found, weights, set(changed))
    for name, exact in changed.items():
        assert_merged(found[name], exact, weights[name])


SD3 = {
    "joint_blocks.0.x_block.attn.qkv.weight": (96, 32),
    "joint_blocks.0.x_block.attn.proj.weight": (32, 32),
    "joint_blocks.0.context_block.attn.qkv.weight": (96, 32),
    "joint_blocks.0.context_block.mlp.fc1.weight": (128, 32),
    "joint_blocks.1.x_block.attn.qkv.weight": (96, 32),
    "joint_blocks.1.context_block.adaLN_modulation.1.weight": (64, 32),
    "joint_blocks.1.context_block.attn.qkv.weight": (96, 32),
    "final_layer.adaLN_modulation.1.weight": (64, 32),
    "context_embedder.weight": (32, 64),
    "x_embedder.proj.weight": (32, 16, 2, 2),
}
_ENCODERS = {
    "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (64, 16),
    "text_encoders.clip_g.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight": (32, 32),
    "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight": (32, 32),
}
_SD3_MODULES = {
    "transformer.transformer_blocks.0.attn.to_v": ("joint_blocks.0.x_block.attn.qkv.weight", [slice(64, 96)]),
    "transformer.transformer_blocks.0.attn.add_k_proj": (
        "joint_blocks.0.context_block.attn.qkv.weight",
        [slice(32, 64)],
    ),
    "transformer.transformer_blocks.0.attn.to_out.0": ("joint_blocks.0.x_block.attn.proj.weight", [slice(0, 32)]),
    "transformer.transformer_blocks.0.ff_context.net.0.proj": (
        "joint_blocks.0.context_block.mlp.fc1.weight",
        [slice(0, 128)],
    ),
    "transformer.norm_out.linear": ("final_layer.adaLN_modulation.1.weight", [slice(32, 64), slice(0, 32)]),
    "transformer.transformer_blocks.1.norm1_context.linear": (
        "joint_blocks.1.context_block.adaLN_modulation.1.weight",
        [slice(32, 64), slice(0, 32)],
    ),
    "lora_unet_joint_blocks_1_x_block_attn_qkv": ("joint_blocks.1.x_block.attn.qkv.weight", [slice(0, 96)]),
    "lora_unet_x_embedder_proj": ("x_embedder.proj.weight", [slice(0, 32)]),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": (next(iter(_ENCODERS)), [slice(0, 64)]),
    "lora_te2_text_model_encoder_layers_0_self_attn_q_proj": (list(_ENCODERS)[1], [slice(0, 32)]),
    "lora_te3_encoder_block_0_layer_0_SelfAttention_q": (list(_ENCODERS)[2], [slice(0, 32)]),
}


@pytest.mark.parametrize("s", [-1.0, 0.5, 1.0])
def test_sd3_has_its_rows_changed(tmp_path: Path, s: float) -> None:
    """diffusers' and sd-scripts' modules of SD 3 change their rows of its fused matrices, of its three encoders and of
    its patch convolution; of the last block's context, and of the end, scale and shift are swapped."""
    generator = torch.Generator().manual_seed(0)
    shapes = {f"model.diffusion_model.{name}": shape for name, shape in SD3.items()} | _ENCODERS
    weights = {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}
    base = tmp_path / "sd3.safetensors"
    save_file(weights, base)
    tensors, changed = {}, {}
    for module, (name, parts_of) in _SD3_MODULES.items():
        full = name if name in weights else f"model.diffusion_model.{name}"
        inner = tuple(weights[full].shape[1:])
        rows = sum(each.stop - each.start for each in parts_of)
        up, down = random(rows, 4), random(4, *inner, seed=1)
        peft = module.startswith("transformer.")
        high, low = ("lora_B.weight", "lora_A.weight") if peft else ("lora_up.weight", "lora_down.weight")
        tensors |= {f"{module}.{high}": up.reshape(rows, 4, *(1,) * (len(inner) - 1)), f"{module}.{low}": down}
        tensors |= {} if peft else {f"{module}.alpha": np.array(3.0)}
        scale = s * (1.0 if peft else 3.0 / 4)
        change = (as_stored(up) @ as_stored(down).reshape(4, -1) * scale).reshape(rows, *inner)
        exact, first = weights[full].to(torch.float64).numpy().copy(), 0
        for rows_of in parts_of:
            count = rows_of.stop - rows_of.start
            exact[rows_of] += change[first : first + count]
            first += count
        changed[full] = exact
    target = tmp_path / "out.safetensors"
    merge(base, [f"{write_adapter(tmp_path / 'a.safetensors', tensors)}:{s}"], target=target)
    found = load(target)
    assert_same(found, weights, set(changed))
    for name, exact in changed.items():
        assert_merged(found[name], exact, weights[name])


def test_a_transformer_folder_takes_fused_modules(tmp_path: Path) -> None:
    """A module of FLUX's own names is shared out among the matrices of a diffusers folder; one that needs its whole
    weight has no place there."""
    folder = tmp_path / "folder"
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    names = [f"single_transformer_blocks.0.{m}.weight" for m in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    shapes = dict(zip(names, (32, 32, 32, 128), strict=True)) | {"x_embedder.weight": 32}
    shapes |= {f"transformer_blocks.0.attn.to_{m}.weight": 32 for m in "qkv"}
    weights = {
        name: torch.randn(rows, 32, generator=torch.Generator().manual_seed(rows)) for name, rows in shapes.items()
    }
    save_file(weights, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    up, down = random(224, 4), random(4, 32, seed=1)
    stem = "lora_unet_single_blocks_0_linear1"
    adapter = write_adapter(
        tmp_path / "a.safetensors", {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}
    )
    merge(folder, [str(adapter)], target=tmp_path / "out")
    found = load(tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert_same(found, weights, set(names))
    change, first = as_stored(up) @ as_stored(down), 0
    for name in names:
        rows = weights[name].shape[0]
        exact = weights[name].to(torch.float64).numpy() + change[first : first + rows]
        assert_merged(found[name], exact, weights[name])
        first += rows
    adapter = write_adapter(tmp_path / "a.safetensors", {f"{stem}.oft_blocks": random(28, 8, 8)})
    with pytest.raises(UnmatchedKeys, match="needs the whole weight, which lies in 4 tensors"):
        merge(folder, [str(adapter)], target=tmp_path / "no")


@pytest.mark.parametrize("dtype", ["keep", "fp16"])
def test_weights_of_eight_bits_without_a_scale(tmp_path: Path, dtype: str) -> None:
    """8-bit weights without a scale are merged and told to lose small changes; in another type they lose nothing."""
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    weights = base_weights("sd-1")
    weights[name] = weights[name].to(torch.float8_e4m3fn)
    rows, columns = weights[name].shape
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    arrays = {"up": random(rows, 2), "down": random(2, columns, seed=1)}
    tensors = {f"{stem}.{leaf('lora', role)}": array for role, array in arrays.items()}
    base, target = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    save_file(weights, base)
    lora = str(write_adapter(tmp_path / "a.safetensors", tensors))
    done = merge(base, [lora], target=target, precision=Precision(dtype))  # type: ignore[arg-type]
    assert any("F8_E4M3 without a scale" in note for note in done.plan.notes) is (dtype == "keep")
    found = load(target)
    assert found[name].dtype is (torch.float8_e4m3fn if dtype == "keep" else torch.float16)
    stored = {role: as_stored(array) for role, array in arrays.items()}
    before = weights[name].to(torch.float64)
    assert_merged(found[name], reference.lora(before.numpy(), stored, None, 1.0), before)


@pytest.mark.parametrize(
    ("roles", "told"),
    [
        ({"bias_values": (3,), "bias_indices": (2, 3), "bias_size": ()}, "do not make a lora module"),
        ({"hada_w1_a": (48, 4, 1), "hada_w1_b": (4, 32), "hada_w2_a": (48, 4, 1), "hada_w2_b": (4, 32)}, "shapes"),
        ({"lokr_w1": (2, 2), "lokr_w2_a": (24, 4, 1), "lokr_w2_b": (1, 16)}, "one has the rank 4, and the other 1"),
    ],
)
def test_shapes_that_do_not_go_together_name_the_module(
    tmp_path: Path, roles: dict[str, tuple[int, ...]], told: str
) -> None:
    """Tensors whose outer sizes fit the weight and whose inner ones do not fit each other are an error that names the
    file and the module, whenever that turns out."""
    weights = base_weights("sd-1")
    site = sites("sd-1")[LINEAR][0]
    weights[site.tensor] = torch.zeros(48, 32)
    base, name = tmp_path / "base.safetensors", site.named("kohya")
    save_file(weights, base)
    tensors = {f"{name}.{role}": torch.ones(shape) for role, shape in roles.items()}
    if "bias_values" in roles:
        tensors |= {f"{name}.lora_up.weight": torch.ones(48, 4), f"{name}.lora_down.weight": torch.ones(4, 32)}
    adapter = tmp_path / "a.safetensors"
    save_file(tensors, adapter)
    with pytest.raises(MergeError, match=rf"a\.safetensors: {name}: .*({told})"):
        merge(base, [str(adapter)], target=tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "C64", "I8", "U8", "BOOL", "I32", "F8_E4M3FNUZ"])
def test_types_that_nothing_is_computed_in_are_not_merged(sdxl, tmp_path: Path, dtype: str) -> None:
    """A factor of packed, complex or whole numbers, which are codes of something quantised, is not taken for what it is
    not: its module is not merged."""
    base, weights = sdxl
    rows, columns = weights[SITE.tensor].shape
    name = SITE.named("kohya")
    bits = DType[dtype].bits
    sizes = {f"{name}.lora_up.weight": (dtype, [rows, 4], rows * bits // 2)}
    sizes[f"{name}.lora_down.weight"] = "F32", [4, columns], 16 * columns
    header, end = {}, 0
    for tensor, (kind, shape, size) in sizes.items():
        header[tensor] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    adapter = tmp_path / "a.safetensors"
    adapter.write_bytes(len(head).to_bytes(8, "little") + head + bytes(end))
    with pytest.raises(UnmatchedKeys, match=f"of type {dtype}, which is not merged"):
        merge(base, [str(adapter)], target=tmp_path / "out.safetensors")
    with pytest.raises(MergeError, match="no module of LoRA"):
        modelhub.resize(adapter, target=tmp_path / "out.safetensors")


def test_a_recipe_in_a_base_is_not_believed(tmp_path: Path) -> None:
    """What stands for a recipe in the base's metadata is no obstacle, whatever it says."""
    weights = base_weights("sdxl")
    recipe = 'schema = "modelhub.recipe/1"\n[base]\npath = "b"\n[[adapter]]\npath = "a"\nweight = {}\n'
    adapter = lora_file(tmp_path / "a.safetensors", weights)
    for weight in ("1" + "0" * 400, "1e999", "[]", '"x"'):
        save_file(weights, tmp_path / "base.safetensors", {"modelhub.merge": recipe.format(weight)})
        with plan_merge(tmp_path / "base.safetensors", [str(adapter)]) as plan:
            assert plan.changes


def test_a_configuration_that_cannot_be_read_is_not_guessed(sdxl, tmp_path: Path) -> None:
    """A PEFT adapter whose configuration is there and is broken is not merged as if it had none; an adapter with
    alphas of its own does not ask for it."""
    base, weights = sdxl
    for broken in ('{"lora_alpha": 6', "[]", "6", "[" * 100_000):
        adapter = peft_file(tmp_path / "a.safetensors", weights, {"lora_adapter_metadata": broken})
        with pytest.raises(UnmatchedKeys, match="configuration, in which its alpha may stand, cannot be read"):
            merge(base, [str(adapter)], target=tmp_path / "no.safetensors")
    adapter = peft_file(tmp_path / "a.safetensors", weights, {})
    for broken in ('{"lora_alpha": 6', '{"lora_alpha": 6}' + " " * (1 << 20)):
        (tmp_path / "adapter_config.json").write_text(broken)
        with pytest.raises(UnmatchedKeys, match="cannot be read"):
            merge(base, [str(adapter)], target=tmp_path / "no.safetensors")
    with plan_merge(base, [str(lora_file(tmp_path / "b.safetensors", weights, alpha=2.0))]) as plan:
        assert plan.changes


def test_hints_are_those_of_a_merge(sdxl, tmp_path: Path) -> None:
    """What is said of a target that cannot be is what a merge can do: it has no --in-place, and makes no folders."""
    base, weights = sdxl
    adapter = lora_file(tmp_path / "a.safetensors", weights)
    for taken in (base, adapter):
        with pytest.raises(WouldOverwrite, match="one of the sources") as caught:
            merge(base, [str(adapter)], target=taken, force=True)
        assert caught.value.hint == "name another target"
    for work in (
        lambda target: merge(base, [str(adapter)], target=target),
        lambda target: modelhub.resize(adapter, target=target),
    ):
        with pytest.raises(NotFound) as missing:
            work(tmp_path / "nowhere" / "out.safetensors")
        assert missing.value.hint == "make it"


@pytest.mark.parametrize(
    ("roles", "told"),
    [
        (
            {"lora_up.0.weight": (48, 4), "lora_down.0.weight": (4, 32), "lora_up.1.weight": (48, 4)},
            "it has several tensors in one role",
        ),
        (
            {"lora_A.one.weight": (4, 32), "lora_B.one.weight": (48, 4), "lora_A.two.weight": (4, 32)},
            "it has several tensors in one role",
        ),
        ({"lora_up.weight": (48, 5), "lora_down.weight": (4, 32)}, "one has the rank 5, and the other 4"),
        (
            {"hada_w1_a": (48, 4), "hada_w1_b": (3, 32), "hada_w2_a": (48, 4), "hada_w2_b": (4, 32)},
            "one has the rank 4, and the other 3",
        ),
        (
            {"lora_up.weight": (48, 4), "lora_down.weight": (4, 32), "dora_scale": (1, 33)},
            r"magnitudes of shape \[1, 33\] do not fit a weight of shape \[48, 32\]",
        ),
        ({"oft_blocks": (6, 8, 8), "dora_scale": (48, 1)}, r"a oft module with magnitudes \(DoRA\) is not defined"),
        ({"lora_up.weight": (48, 4), "lora_down.weight": (4, 32), "lora_mid.weight": (4,)}, "do not make a lora"),
    ],
)
def test_a_plan_tells_what_cannot_be_merged(sdxl, tmp_path: Path, roles: dict, told: str) -> None:
    """What the shapes of a module's tensors, or their number, rule out is told by the plan, and may be left out."""
    base, weights = sdxl
    changed = {SITE.tensor: torch.randn(48, 32, generator=torch.Generator().manual_seed(0)).half()}
    save_file({**weights, **changed}, base)
    name, other = SITE.named("kohya-sgm"), sites("sdxl")[LINEAR][1]
    tensors = {f"{name}.{role}": random(*shape, seed=n) for n, (role, shape) in enumerate(roles.items())}
    tensors[f"{other.named('kohya-sgm')}.diff"] = random(*weights[other.tensor].shape)
    adapter = str(write_adapter(tmp_path / "a.safetensors", tensors))
    with pytest.raises(UnmatchedKeys, match=told), plan_merge(base, [adapter]):
        pass
    with plan_merge(base, [adapter], allow_unmatched=True) as plan:
        assert {address.tensor for address in plan.changes} == {other.tensor}
        assert [each.name for each in plan.unmatched] == [name]


@pytest.mark.parametrize("alpha", [0.0, 1e-3, 2.0])
def test_blocks_of_the_parts_of_a_fused_layer(tmp_path: Path, alpha: float) -> None:
    """sd-scripts' OFT of FLUX turns q, k, v and the rest of a fused matrix by blocks of their own, each with a limit of
    its own; what is not fused has one run of blocks."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in FUSED.items()}
    base = tmp_path / "flux.safetensors"
    save_file(weights, base)
    sizes = {
        "double_blocks.0.img_attn.qkv": (32, 32, 32),
        "single_blocks.0.linear1": (32, 32, 32, 128),
        "final_layer.adaLN_modulation.1": (64,),
    }
    tensors, whole = {}, {}
    for module, runs in sizes.items():
        stem = f"oft_unet_{module.replace('.', '_')}"
        blocks = [random(4, size // 4, size // 4, seed=n) for n, size in enumerate(runs)]
        tensors |= {f"{stem}.oft_blocks.{n}": each for n, each in enumerate(blocks)} | {
            f"{stem}.alpha": np.array(alpha)
        }
        whole[f"{module}.weight"] = [as_stored(each) for each in blocks]
    adapter = write_adapter(tmp_path / "a.safetensors", tensors)
    for s in (-1.0, 0.5, 1.0):
        target = tmp_path / f"{s}.safetensors"
        merge(base, [f"{adapter}:{s}"], target=target)
        found = load(target)
        assert_same(found, weights, set(whole))
        for name, blocks in whole.items():
            before = np.split(weights[name].double().numpy(), np.cumsum(sizes[name.removesuffix(".weight")])[:-1])
            limit = float(np.float32(alpha))
            exact = [reference.oft(run, {"blocks": b}, limit, s) for run, b in zip(before, blocks, strict=True)]
            assert_merged(found[name], np.concatenate(exact), weights[name])
    del tensors["oft_unet_single_blocks_0_linear1.oft_blocks.1"]
    adapter = write_adapter(tmp_path / "a.safetensors", tensors)
    with pytest.raises(UnmatchedKeys, match="oft_unet_single_blocks_0_linear1: "):
        merge(base, [str(adapter)], target=tmp_path / "no.safetensors")


@pytest.mark.parametrize("said", ["True", "False"])
def test_parts_that_were_trained_apart_are_told(tmp_path: Path, said: str) -> None:
    """A LoRA of sd-scripts that was trained with split_qkv has alphas of a part's rank: it merges as its file says, and
    the plan tells that this is weaker than it was trained."""
    weights = {name: torch.randn(shape) for name, shape in FUSED.items()}
    base = tmp_path / "flux.safetensors"
    save_file(weights, base)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    up, down = random(96, 12), random(12, 32, seed=1)
    tensors = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": np.array(4.0)}
    metadata = {"ss_network_args": json.dumps({"split_qkv": said})}
    adapter = write_adapter(tmp_path / "a.safetensors", tensors, metadata)
    done = merge(base, [str(adapter)], target=tmp_path / "out.safetensors")
    assert any("split_qkv" in note for note in done.plan.notes) is (said == "True")
    before = weights["double_blocks.0.img_attn.qkv.weight"]
    exact = before.double().numpy() + as_stored(up) @ as_stored(down) / 3
    assert_merged(load(tmp_path / "out.safetensors")["double_blocks.0.img_attn.qkv.weight"], exact, before)


def test_a_folder_at_strength_0_is_the_base(sdxl, tmp_path: Path) -> None:
    """Every file of the folder is copied, and the recipe holds its digests, to which the next merge is held."""
    base, weights = sdxl
    folder, target = tmp_path / "folder", tmp_path / "out"
    convert(base, folder, options=ConversionOptions(layout="diffusers"))
    adapter = lora_file(tmp_path / "a.safetensors", weights)
    done = merge(folder, [f"{adapter}:0"], target=target)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(target) for path in target.rglob("*") if path.is_file())
    assert all((folder / path).read_bytes() == (target / path).read_bytes() for path in files)
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert done.digests[unet] == hashlib.sha256((folder / unet).read_bytes()).hexdigest()
    assert not done.told
    recipe = Path(done.recipe_path)
    merge(read_recipe(str(recipe)), target=tmp_path / "again")
    recipe.write_text(recipe.read_text().replace(done.digests[unet], "0" * 64))
    with pytest.raises(MergeError, match="it is not the file of the recipe"):
        merge(read_recipe(str(recipe)), target=tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_control_loras_are_told_for_what_they_are(tmp_path: Path) -> None:
    """Of FLUX's control LoRAs the norms, which stand for whole tensors, and the wider first layer are not merged, and
    said to be what they are; the others are, their biases too."""
    norm, qkv = "double_blocks.0.img_attn.norm.key_norm.scale", "double_blocks.0.img_attn.qkv"
    weights = {name: torch.randn(shape) for name, shape in FUSED.items()}
    weights |= {norm: torch.ones(8), f"{qkv}.bias": torch.randn(96)}
    base = tmp_path / "flux.safetensors"
    save_file(weights, base)
    tensors = {f"{qkv}.lora_A.weight": random(4, 32), f"{qkv}.lora_B.weight": random(96, 4)}
    tensors |= {f"{qkv}.lora_B.bias": random(96), norm: random(8)}
    tensors |= {"img_in.lora_A.weight": random(4, 16), "img_in.lora_B.weight": random(32, 4)}
    adapter = str(write_adapter(tmp_path / "a.safetensors", tensors))
    with pytest.raises(UnmatchedKeys, match=rf"{norm}: it stands for a whole tensor of the base, as in FLUX's control"):
        merge(base, [adapter], target=tmp_path / "no.safetensors")
    done = merge(base, [f"{adapter}:0.5"], target=tmp_path / "out.safetensors", allow_unmatched=True)
    assert {each.name for each in done.plan.unmatched} == {norm, "img_in"}
    assert "it is for a weight of 32 by 16" in done.plan.unmatched[-1].reason
    found = load(tmp_path / "out.safetensors")
    assert_same(found, weights, {f"{qkv}.weight", f"{qkv}.bias"})
    change = 0.5 * as_stored(tensors[f"{qkv}.lora_B.weight"]) @ as_stored(tensors[f"{qkv}.lora_A.weight"])
    before = weights[f"{qkv}.weight"]
    assert_merged(found[f"{qkv}.weight"], before.double().numpy() + change, before)
    before = weights[f"{qkv}.bias"]
    assert_merged(found[f"{qkv}.bias"], before.double().numpy() + 0.5 * as_stored(random(96)), before)
