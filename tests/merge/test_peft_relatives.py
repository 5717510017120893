"""PEFT's own forms of (IA)^3, OFT and BOFT: against their formulas in double precision, and against PEFT."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from modelhub.container import open_path
from modelhub.errors import MergeError, UnmatchedKeys
from modelhub.identify import identify
from modelhub.lowrank import RankRule, resize
from modelhub.merge import merge
from modelhub.merge.adapters import make_update
from modelhub.merge.modules import adapter_modules
from modelhub.merge.reading import whole
from tests.merge import reference
from tests.merge.build import Weights, as_stored, assert_merged, assert_same, load, random, write_adapter

STEM, ROOT = "base_model.model.", "model.diffusion_model."
LINEAR = "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2"
SQUARE = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.1.resnets.0.conv1"
UNCHANGED = "down_blocks.1.resnets.0.conv2"
SHAPES = {LINEAR: (640, 2560), SQUARE: (640, 640), CONV: (640, 320, 3, 3), UNCHANGED: (640, 640, 3, 3)}
BIASED = (LINEAR, CONV, UNCHANGED)
STRENGTHS = (-1.0, 0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Layers of SD 1's UNet as wide as they are."""
    generator = torch.Generator().manual_seed(3)
    made = {f"{name}.weight": torch.randn(SHAPES[name], generator=generator) for name in SHAPES}
    return made | {f"{name}.bias": torch.randn(SHAPES[name][0], generator=generator) for name in BIASED}


def merged(folder: Path, weights: Weights, adapter: Path, s: float) -> Weights:
    save_file({f"{ROOT}{name}": tensor for name, tensor in weights.items()}, folder / "base.safetensors")
    merge(folder / "base.safetensors", [f"{adapter}:{s}"], target=folder / "out.safetensors")
    return {name.removeprefix(ROOT): tensor for name, tensor in load(folder / "out.safetensors").items()}


OFT: dict[str, object] = {
    **{"peft_type": "OFT", "peft_version": "0.18.1", "coft": False, "eps": 6e-5, "block_share": False},
    **{"use_cayley_neumann": False, "num_cayley_neumann_terms": 5},
}
OLD: dict[str, object] = {"peft_type": "OFT", "coft": False, "eps": 6e-5, "block_share": False}


@dataclass(frozen=True)
class Case:
    """What PEFT saves of a layer, and the layer's weight at strength 1 by the formula."""

    layer: str
    tensors: dict[str, np.ndarray]
    at_one: Callable[[np.ndarray], np.ndarray]
    config: dict[str, object] | None


def saved(folder: Path, case: Case) -> Path:
    """The folder of *case* as PEFT writes it."""
    folder.mkdir()
    tensors = {f"{STEM}{case.layer}.{leaf}": each for leaf, each in case.tensors.items()}
    write_adapter(folder / "adapter_model.safetensors", tensors)
    if case.config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(case.config))
    return folder


def upper(count: int, size: int, seed: int = 0) -> np.ndarray:
    return random(count, size * (size - 1) // 2, seed=seed, size=0.05)


def triangles(layer: str, count: int, size: int, **config: object) -> Case:
    """The newest form of OFT."""
    vectors = upper(count, size)
    said = {key: value for key, value in (OFT | config).items() if value is not None}

    def at_one(weight: np.ndarray) -> np.ndarray:
        longest = float(str(said["eps"])) if said["coft"] else None
        skew = [reference.bounded(reference.from_triangle(each), longest, count) for each in as_stored(vectors)]
        if not said["use_cayley_neumann"]:
            return reference.on_inputs(weight, [reference.cayley(each) for each in skew])
        terms, halved = int(str(said["num_cayley_neumann_terms"])), "peft_version" in said
        turns = [reference.cayley_neumann(each, terms, halved=halved) for each in skew]
        return reference.on_inputs(weight, turns)

    return Case(layer, {"oft_R.weight": vectors}, at_one, said)


def squares(layer: str, count: int, size: int, *, scale: bool, **config: object) -> Case:
    """The two older forms of OFT: with a scale of the inputs, without one of the outputs."""
    blocks, factors = random(count, size, size), 1 + random(SHAPES[layer][0], 1, seed=1)
    said = OLD | config
    out, columns = SHAPES[layer][0], int(np.prod(SHAPES[layer][1:]))
    runs = columns // size if scale else -(-out // size)

    def at_one(weight: np.ndarray) -> np.ndarray:
        longest = float(str(said["eps"])) * (-(-out // runs)) ** 2 if said["coft"] else None
        made = [reference.bounded(each, longest, count) for each in as_stored(blocks)]
        turns = [reference.cayley((each - each.T) / 2) for each in made]
        if scale:
            return reference.scaled(reference.on_inputs(weight, turns), as_stored(factors))
        return reference.on_outputs(weight, turns)

    return Case(layer, {"oft_r": blocks, **({"oft_s": factors} if scale else {})}, at_one, said)


def butterfly(layer: str, passes: int, size: int) -> Case:
    out, columns = SHAPES[layer][0], int(np.prod(SHAPES[layer][1:]))
    blocks, factors = random(passes, columns // size, size, size), 1 + random(out, 1, seed=1)

    def at_one(weight: np.ndarray) -> np.ndarray:
        return reference.scaled(reference.butterfly_of_inputs(weight, as_stored(blocks)), as_stored(factors))

    saved_as = factors.T if len(SHAPES[layer]) > 2 else factors
    return Case(layer, {"boft_R": blocks, "boft_s": saved_as}, at_one, None)


def ia3(layer: str, shape: tuple[int, ...], config: dict[str, object] | None, *, on_input: bool) -> Case:
    factors = 1 + random(*shape)

    def at_one(weight: np.ndarray) -> np.ndarray:
        return reference.peft_ia3(weight, as_stored(factors), on_input=on_input, s=1.0)

    return Case(layer, {"ia3_l": factors}, at_one, config)


def hra(layer: str, *, orthogonal: bool) -> Case:
    directions = random(int(np.prod(SHAPES[layer][1:])), 6)

    def at_one(weight: np.ndarray) -> np.ndarray:
        return reference.reflected(weight, as_stored(directions), orthogonal=orthogonal)

    return Case(layer, {"hra_u": directions}, at_one, {"peft_type": "HRA", "apply_GS": orthogonal})


FORWARD: dict[str, object] = {"peft_type": "IA3", "feedforward_modules": ["conv1", "conv2"]}
CASES = {
    "oft": triangles(LINEAR, 80, 32),
    "oft, convolution": triangles(CONV, 90, 32),
    "oft, shared": triangles(LINEAR, 1, 32, block_share=True),
    "oft, constrained": triangles(LINEAR, 80, 32, coft=True, eps=2.0),
    "oft, constrained, shared, convolution": triangles(CONV, 1, 64, coft=True, eps=0.5),
    **{
        f"oft, {terms} terms, {version or 'older'}": triangles(
            SQUARE, 40, 16, use_cayley_neumann=True, num_cayley_neumann_terms=terms, peft_version=version
        )
        for terms in (1, 2, 3, 4, 5, 7)
        for version in ("0.18.0", None)
    },
    "oft of 0.14": squares(LINEAR, 80, 32, scale=True),
    "oft of 0.14, convolution, shared": squares(CONV, 1, 24, scale=True),
    "oft of 0.14, constrained": squares(LINEAR, 80, 32, scale=True, coft=True, eps=0.05),
    "oft of 0.13": squares(LINEAR, 8, 80, scale=False),
    "oft of 0.13, convolution, shared": squares(CONV, 1, 80, scale=False),
    "oft of 0.13, cut off": squares(SQUARE, 6, 107, scale=False),
    "oft of 0.13, constrained": squares(LINEAR, 8, 80, scale=False, coft=True, eps=0.001),
    "boft": butterfly(LINEAR, 1, 8),
    "boft, odd blocks": butterfly(SQUARE, 1, 5),
    "boft, two passes": butterfly(LINEAR, 2, 8),
    "boft, four passes": butterfly(SQUARE, 4, 4),
    "boft, three passes, convolution": butterfly(CONV, 3, 6),
    "hra": hra(LINEAR, orthogonal=False),
    "hra, convolution": hra(CONV, orthogonal=False),
    "hra, orthogonal": hra(SQUARE, orthogonal=True),
    "ia3": ia3(LINEAR, (640, 1), None, on_input=False),
    "ia3, square": ia3(SQUARE, (640, 1), None, on_input=False),
    "ia3, inputs": ia3(LINEAR, (1, 2560), None, on_input=True),
    "ia3, square, inputs": ia3(SQUARE, (1, 640), None, on_input=True),
    "ia3, convolution": ia3(CONV, (1, 640, 1, 1), {"peft_type": "IA3", "feedforward_modules": []}, on_input=False),
    "ia3, convolution, inputs": ia3(CONV, (1, 320, 1, 1), FORWARD, on_input=True),
    "ia3, square convolution, inputs": ia3(UNCHANGED, (1, 640, 1, 1), FORWARD, on_input=True),
}


@pytest.mark.parametrize("name", CASES)
def test_its_formula(weights: Weights, tmp_path: Path, name: str) -> None:
    """Every form is W + s (D - W), in layers as wide as a model's, and in any blocks of rows."""
    case = CASES[name]
    weight, bias = weights[f"{case.layer}.weight"].double(), weights.get(f"{case.layer}.bias")
    at_one = case.at_one(weight.numpy())
    assert name.startswith("oft, 1 terms") or np.abs(at_one - weight.numpy()).max() > 1e-2
    adapter = saved(tmp_path / "adapter", case)
    with open_path(str(adapter / "adapter_model.safetensors")) as container:
        first, *others = adapter_modules(container).modules
        tensors = {role: whole(piece, torch.float64) for role, piece in first.tensors.items()}
    assert [(each.kind, each.optional) for each in others] == ([("bias", True)] if "outputs" in tensors else [])
    update = make_update(first.algorithm, tensors, None, SHAPES[case.layer], settings=first.settings)
    for s in STRENGTHS:
        found = update.apply(weight.clone(), 0, s)
        np.testing.assert_allclose(found.numpy(), weight.numpy() + s * (at_one - weight.numpy()), rtol=1e-9, atol=1e-11)
        assert s or torch.equal(found, weight)
    if update.by_rows:
        block = update.apply(weight[300:420].clone(), 300, 1.0)
        np.testing.assert_allclose(block.numpy(), at_one[300:420], rtol=1e-9, atol=1e-11)
    if others and bias is not None:
        own = make_update("ia3", tensors, None, (len(bias),))
        exact = reference.peft_ia3(bias.double().numpy(), tensors["outputs"].numpy(), on_input=False, s=0.5)
        np.testing.assert_allclose(own.apply(bias.double().clone(), 0, 0.5).numpy(), exact, rtol=1e-12)


@pytest.mark.parametrize("name", ["oft", "oft of 0.13", "boft, three passes, convolution", "ia3, convolution"])
@pytest.mark.parametrize("s", [0.5, 1.0])
def test_its_merge(weights: Weights, tmp_path: Path, name: str, s: float) -> None:
    """A folder as PEFT writes it is merged to half a unit of the last place, with its bias where it scales outputs;
    a layer without a bias has none to scale."""
    case = CASES[name]
    tensor, bias = f"{case.layer}.weight", f"{case.layer}.bias"
    before = weights[tensor].double().numpy()
    base = {each: weights[each] for each in (tensor, bias, f"{UNCHANGED}.bias") if each in weights}
    found = merged(tmp_path, base, saved(tmp_path / "adapter", case), s)
    assert_merged(found[tensor], before + s * (case.at_one(before) - before), weights[tensor])
    if "ia3" in name:
        factors = as_stored(case.tensors["ia3_l"])
        exact = reference.peft_ia3(base[bias].double().numpy(), factors, on_input=False, s=s)
        assert_merged(found[bias], exact, base[bias])
    assert_same(found, base, {tensor, bias} if "ia3" in name else {tensor})


QKV, HIDDEN = "double_blocks.0.img_attn.qkv", 32


def fused(folder: Path, tensors: dict[str, np.ndarray]) -> tuple[Weights, Weights]:
    """A small FLUX before and after merging PEFT's *tensors* of its key's projection."""
    generator = torch.Generator().manual_seed(0)
    base = {
        f"{QKV}.weight": torch.randn(3 * HIDDEN, HIDDEN, generator=generator),
        f"{QKV}.bias": torch.randn(3 * HIDDEN, generator=generator),
        "img_in.weight": torch.ones(32, 16),
    }
    save_file(base, folder / "base.safetensors")
    made = {f"transformer_blocks.0.attn.to_k.{leaf}": array for leaf, array in tensors.items()}
    write_adapter(folder / "adapter_model.safetensors", {f"{STEM}{name}": each for name, each in made.items()})
    (folder / "adapter_config.json").write_text(json.dumps(OFT))
    merge(folder / "base.safetensors", [str(folder)], target=folder / "out.safetensors")
    return base, load(folder / "out.safetensors")


def test_rows_of_a_fused_matrix(tmp_path: Path) -> None:
    """What turns inputs and scales outputs changes its rows of a fused matrix, and of its bias."""
    rows, weight, bias = slice(HIDDEN, 2 * HIDDEN), f"{QKV}.weight", f"{QKV}.bias"
    (turned := tmp_path / "oft").mkdir()
    vectors = upper(4, 8)
    base, found = fused(turned, {"oft_R.weight": vectors})
    expected = base[weight].double().numpy()
    turns = [reference.cayley(reference.from_triangle(each)) for each in as_stored(vectors)]
    expected[rows] = reference.on_inputs(expected[rows], turns)
    assert_merged(found[weight], expected, base[weight])
    assert_same(found, base, {weight})
    (scaled := tmp_path / "ia3").mkdir()
    factors = 1 + random(HIDDEN, 1)
    base, found = fused(scaled, {"ia3_l": factors})
    for name in (weight, bias):
        expected = base[name].double().numpy()
        expected[rows] = reference.peft_ia3(expected[rows], as_stored(factors), on_input=False, s=1.0)
        assert_merged(found[name], expected, base[name])
    assert_same(found, base, {weight, bias})


def changed(name: str, config: dict[str, object] | None) -> Case:
    case = CASES[name]
    return Case(case.layer, case.tensors, case.at_one, config)


REFUSED = {
    "rotates stands in adapter_config.json": changed("oft", None),
    "OFT rotates": changed("oft of 0.13", {"peft_type": "LORA"}),
    "does not say it": changed("oft", {key: OFT[key] for key in ("peft_type", "coft", "eps")}),
    "eps": changed("oft", OFT | {"coft": True, "eps": "wide"}),
    "number of terms": changed("oft", OFT | {"use_cayley_neumann": True, "num_cayley_neumann_terms": 10**9}),
    "inputs or outputs": changed("ia3, convolution", None),
    "is not understood": changed("ia3, convolution", {"peft_type": "IA3", "feedforward_modules": ".*conv1"}),
    "HRA reflects": changed("hra", {"peft_type": "HRA"}),
    "cannot be read": changed("oft", None),
    "for a weight of": Case(LINEAR, {"oft_R.weight": upper(79, 32)}, CASES["oft"].at_one, OFT),
    "and the base's has the shape": Case(LINEAR, {"boft_R": random(2, 427, 6, 6)}, CASES["boft"].at_one, None),
    "by 640, and": Case(LINEAR, {"ia3_l": 1 + random(1, 640)}, CASES["ia3"].at_one, None),
    "embedding tables": Case(LINEAR, {"oft_embedding_R.weight": upper(20, 32)}, CASES["oft"].at_one, OFT),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_known_is_refused(weights: Weights, tmp_path: Path, reason: str) -> None:
    """What the tensors do not tell and no configuration says is not guessed, and shapes that do not fit are told."""
    adapter = saved(tmp_path / "adapter", REFUSED[reason])
    if reason == "cannot be read":
        (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(UnmatchedKeys, match=reason):
        merged(tmp_path, {name: each for name, each in weights.items() if LINEAR in name or CONV in name}, adapter, 1)


@pytest.mark.parametrize(
    ("name", "algorithm"), [("oft", "oft"), ("oft of 0.14", "oft"), ("boft", "boft"), ("ia3", "ia3"), ("hra", "hra")]
)
def test_they_are_told_and_not_resized(tmp_path: Path, name: str, algorithm: str) -> None:
    """Identification tells the algorithm and the architecture; there is nothing of them to resize."""
    adapter = saved(tmp_path / "adapter", CASES[name]) / "adapter_model.safetensors"
    with open_path(str(adapter)) as container:
        identity = identify(container)
    assert identity.adapter is not None and identity.adapter.algorithms == {algorithm: 1}
    assert "sd-1" in (identity.architecture, *identity.candidates)
    with pytest.raises(MergeError, match=f"no module of LoRA or LoCon to resize: it has .*{algorithm}"):
        resize(adapter, RankRule(4), target=tmp_path / "out.safetensors")
