"""Blends of small models with the names of real ones, against the formulas in double precision."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import modelhub
from modelhub.blend import TAKES, plan_blend, read_blend
from modelhub.blend.methods import slerp_factors
from modelhub.convert import ConversionOptions, convert
from modelhub.errors import IncompatibleArchitecture, MergeError, SettingsError, UnmatchedKeys, WouldOverwrite
from modelhub.merge import Address, Precision
from modelhub.samples.layouts import Architecture
from modelhub.tensors import DType
from tests.merge.build import Weights, assert_merged, assert_same, base_weights

ATTENTION = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_q.weight"
ENCODER = "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"
VAE = "first_stage_model.decoder.conv_in.weight"
PARTS = ("model.diffusion_model.", "cond_stage_model.", "first_stage_model.")


def other(weights: Weights, seed: int, size: float = 0.3) -> Weights:
    """Another model of the same architecture."""
    generator = torch.Generator().manual_seed(seed)
    made: Weights = {}
    for name, tensor in weights.items():
        if tensor.is_floating_point() and tensor.dim():
            drawn = torch.randn(tensor.shape, generator=generator) * size
            made[name] = (tensor.float() + drawn).to(tensor.dtype)
        else:
            made[name] = tensor
    return made


def write(folder: Path, **models: Weights) -> list[Path]:
    paths = [folder / f"{name}.safetensors" for name in models]
    for path, weights in zip(paths, models.values(), strict=True):
        save_file(weights, path, {"format": "pt"})
    return paths


def formula(method: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    if method == "weighted":
        return (1 - alpha) * a + alpha * b
    if method == "weighted of three":
        return (1 - alpha - beta) * a + alpha * b + beta * c
    if method == "sum-twice":
        return (1 - beta) * ((1 - alpha) * a + alpha * b) + beta * c
    if method == "add-difference":
        return a + alpha * (b - c)
    if method == "train-difference":
        near = np.abs(b - a) + np.abs(b - c)
        share = np.divide(np.abs(b - a), near, out=np.zeros_like(near), where=near != 0)
        return a + 1.8 * alpha * (b - c) * share
    angle = np.arccos((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    return (np.sin((1 - alpha) * angle) * a + np.sin(alpha * angle) * b) / np.sin(angle)


@pytest.mark.parametrize(
    "method", ["weighted", "weighted of three", "sum-twice", "add-difference", "train-difference", "slerp"]
)
def test_methods_are_their_formulas(tmp_path: Path, method: str) -> None:
    """Every weight of every method is the formula's number, rounded once; what is no weight is A's, bit for bit."""
    a = base_weights("sd-1")
    b, c = other(a, 1), other(a, 2)
    paths = write(tmp_path, a=a, b=b, c=c)
    models = paths[:2] if method in ("weighted", "slerp") else paths
    name = method.partition(" ")[0]
    beta = 0.25 if method in ("weighted of three", "sum-twice") else 0.0
    done = modelhub.blend(models, name, 0.3, beta, target=tmp_path / "out.safetensors", verify_tensors=5)
    found = load_file(tmp_path / "out.safetensors")
    assert len(done.checked) == 5
    changed = {address.tensor for address in done.plan.changes}
    assert changed == {n for n, t in a.items() if n.startswith(PARTS) and t.is_floating_point() and t.dim()}
    for each in (ATTENTION, ENCODER, VAE, CONV_IN, ENCODER.replace("weight", "bias")):
        exact = formula(name if len(models) == 2 else method, *(m[each].double().numpy() for m in (a, b, c)), 0.3, beta)
        assert_merged(found[each], exact, a[each])
    assert_same(found, a, but=changed)
    told = done.told[Address("", ATTENTION)]
    assert told.change == pytest.approx(float((found[ATTENTION].double() - a[ATTENTION].double()).norm()), rel=1e-2)


def test_ends(tmp_path: Path) -> None:
    """At ratio 1 a weighted blend is B, an arc ends at B, and what has ratio 0 is copied from A."""
    a = base_weights("sd-1")
    b = other(a, 1)
    models = write(tmp_path, a=a, b=b)
    for method in ("weighted", "slerp"):
        target = tmp_path / f"{method}.safetensors"
        done = modelhub.blend(models, method, "1,vae=0", target=target)
        found = load_file(target)
        changed = {address.tensor for address in done.plan.changes}
        assert VAE not in changed and ENCODER in changed
        assert_same(found, b, but={name for name in a if name not in changed})
        assert_same(found, a, but=changed)


def test_ratios_of_parts(tmp_path: Path) -> None:
    """A tensor's ratio is that of the last pattern that fits it, else its block's, its component's, the number."""
    a = base_weights("sd-1")
    models = write(tmp_path, a=a, b=other(a, 1))
    text = "0.1,te=0.2,unet=0.3,IN04=0.4,*attn2.to_q*=0.5"
    with plan_blend(models, alpha=text) as plan:
        ratio = {address.tensor: change.alpha for address, change in plan.changes.items()}
    assert ratio[VAE] == 0.1
    assert ratio[ENCODER] == 0.2
    assert ratio[CONV_IN] == 0.3
    assert ratio[ATTENTION.replace("to_q", "to_k")] == 0.4
    assert ratio[ATTENTION] == 0.5


@pytest.mark.parametrize(("architecture", "last"), [("sd-1", "OUT11"), ("sdxl", "OUT08")])
def test_what_lies_before_and_behind_the_blocks(tmp_path: Path, architecture: Architecture, last: str) -> None:
    """It has the ratio of the first and of the last block, in a checkpoint and in a folder; without one its own."""
    a = base_weights(architecture, DType.F32)
    models = write(tmp_path, a=a, b=other(a, 1))
    folders = [path.with_suffix("") for path in models]
    for path, folder in zip(models, folders, strict=True):
        convert(path, folder, options=ConversionOptions(layout="diffusers"))
    edges = {
        "model.diffusion_model.time_embed.0.weight": 0.25,
        "model.diffusion_model.out.2.bias": 0.75,
        "time_embedding.linear_1.weight": 0.25,
        "conv_norm_out.weight": 0.75,
        "conv_out.bias": 0.75,
    }
    if architecture == "sdxl":
        edges |= {"model.diffusion_model.label_emb.0.0.weight": 0.25, "add_embedding.linear_1.weight": 0.25}
    found: dict[str, float] = {}
    for pair in (models, folders):
        with plan_blend(pair, alpha=f"0.5,IN00=0.25,{last}=0.75") as plan:
            found |= {address.tensor: change.alpha for address, change in plan.changes.items()}
        with plan_blend(pair, alpha="0.5,unet=0.125") as plan:
            assert {plan.changes[address].alpha for address in plan.changes if address.tensor in edges} == {0.125}
    assert {name: found[name] for name in edges} == edges


def test_same_recipe_same_bytes(tmp_path: Path) -> None:
    """The recipe beside the output makes the same file again, and refuses other models."""
    a = base_weights("sd-1")
    models = write(tmp_path, a=a, b=other(a, 1))
    how = Precision("bf16", seed=3)
    done = modelhub.blend(models, "weighted", "0.4,IN04=1", target=tmp_path / "out.safetensors", precision=how)
    recipe = read_blend(done.recipe_path)
    assert recipe.alpha.blocks == {"IN04": 1.0} and recipe.digests == done.recipe.digests
    modelhub.blend(recipe, target=tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()
    save_file(other(a, 9), models[1], {"format": "pt"})
    with pytest.raises(MergeError, match="not the file of the recipe"):
        modelhub.blend(recipe, target=tmp_path / "third.safetensors")
    assert not (tmp_path / "third.safetensors").exists()


def test_nothing_that_is_given_is_ignored(tmp_path: Path) -> None:
    """A beta that the method's formula has not, and a precision beside a recipe, are errors."""
    a = base_weights("sd-1")
    paths = write(tmp_path, a=a, b=other(a, 1), c=other(a, 2))
    target = tmp_path / "out.safetensors"
    for method in TAKES:
        models = paths[: TAKES[method][0]]
        if method != "sum-twice":
            with pytest.raises(MergeError, match="has no beta"):
                modelhub.blend(models, method, 0.5, "0,IN04=1", target=target)
        with plan_blend(models, method, 0.5) as plan:
            recipe = plan.recipe
        with pytest.raises(MergeError, match="a recipe says how"):
            modelhub.blend(recipe, precision=Precision("fp32"), target=target)
    assert not target.exists()


def test_lineage_is_in_the_metadata(tmp_path: Path) -> None:
    """The output keeps A's metadata, says the recipe with every model's digest, and keeps A's own recipe too."""
    import hashlib

    from safetensors import safe_open

    a = base_weights("sd-1")
    first, second = write(tmp_path, a=a, b=other(a, 1))
    save_file(a, first, {"format": "pt", "author": "somebody"})
    modelhub.blend([first, second], target=tmp_path / "one.safetensors")
    modelhub.blend([tmp_path / "one.safetensors", second], target=tmp_path / "two.safetensors")
    with safe_open(tmp_path / "two.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["author"] == "somebody"
    for path in (tmp_path / "one.safetensors", second):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in metadata["modelhub.blend"]
    assert hashlib.sha256(first.read_bytes()).hexdigest() in metadata["modelhub.blend.1"]


def test_an_adapter_that_was_blended_in_is_known(tmp_path: Path) -> None:
    """The recipes that B came from stay too, each once, so that the adapter of one is not merged once more unasked."""
    from safetensors import safe_open

    a = base_weights("sd-1")
    (base,) = write(tmp_path, a=a)
    out, inputs = a[ATTENTION].shape
    stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_q"
    lora = {f"{stem}.lora_up.weight": torch.ones(out, 2), f"{stem}.lora_down.weight": torch.ones(2, inputs)}
    save_file(lora, tmp_path / "lora.safetensors")
    adapter, merged, blended = (tmp_path / f"{name}.safetensors" for name in ("lora", "merged", "blended"))
    modelhub.merge(base, [str(adapter)], target=merged)
    modelhub.blend([base, merged, merged], beta=0.1, target=blended)
    with safe_open(blended, "pt") as file:
        recipes = [key for key in file.metadata() if key.startswith("modelhub.")]
    assert sorted(recipes) == ["modelhub.blend", "modelhub.merge.1"]
    with pytest.raises(MergeError, match=r"it was merged with .* before"):
        modelhub.merge(blended, [str(adapter)], target=tmp_path / "no.safetensors")


def test_an_inpainting_model_is_a(tmp_path: Path) -> None:
    """Of A's nine input channels the first four are blended, the others are A's; as B such a model is refused."""
    plain = base_weights("sd-1")
    nine = other(plain, 4)
    shape = nine[CONV_IN].shape
    extra = torch.randn(shape[0], 5, *shape[2:]).to(torch.float16)
    nine[CONV_IN] = torch.cat([nine[CONV_IN], extra], 1)
    models = write(tmp_path, a=nine, b=other(plain, 5), c=plain)
    done = modelhub.blend(models, "add-difference", 1.0, target=tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")[CONV_IN]
    exact = nine[CONV_IN].double()
    exact[:, :4] += other(plain, 5)[CONV_IN].double() - plain[CONV_IN].double()
    assert_merged(found, exact.numpy(), nine[CONV_IN])
    assert torch.equal(found[:, 4:], nine[CONV_IN][:, 4:])
    assert any("first 4 input channels" in note for note in done.plan.notes)
    with pytest.raises(IncompatibleArchitecture, match="must be A"):
        modelhub.blend([models[1], models[0]], target=tmp_path / "no.safetensors")


def test_what_only_some_models_have(tmp_path: Path) -> None:
    """A component that B lacks is A's, and told; a tensor that B lacks, or A, is an error that can be allowed."""
    a = base_weights("sd-1")
    b = {name: tensor for name, tensor in other(a, 1).items() if not name.startswith("first_stage_model.")}
    models = write(tmp_path, a=a, b=b)
    done = modelhub.blend(models, target=tmp_path / "out.safetensors")
    assert any("has no VAE" in note for note in done.plan.notes)
    assert_same(load_file(tmp_path / "out.safetensors"), a, but={address.tensor for address in done.plan.changes})
    del b[ATTENTION]
    b["model.diffusion_model.extra.weight"] = torch.zeros(3, 3)
    models = write(tmp_path, a=a, b=b)
    with pytest.raises(UnmatchedKeys, match=r"to_q.*and 1 more"):
        modelhub.blend(models, target=tmp_path / "no.safetensors")
    done = modelhub.blend(models, target=tmp_path / "allowed.safetensors", allow_unmatched=True)
    assert len(done.plan.unmatched) == 2
    found = load_file(tmp_path / "allowed.safetensors")
    assert torch.equal(found[ATTENTION], a[ATTENTION]) and "model.diffusion_model.extra.weight" not in found


def test_encoders_are_the_same_under_their_older_names(tmp_path: Path) -> None:
    """The first checkpoints have their text encoder without text_model: it is the same, and keeps A's names."""
    a = base_weights("sd-1")
    b = {name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in other(a, 1).items()}
    done = modelhub.blend(write(tmp_path, a=a, b=b), alpha=1.0, target=tmp_path / "out.safetensors")
    assert not done.plan.unmatched
    found = load_file(tmp_path / "out.safetensors")
    assert torch.equal(found[ENCODER], b[ENCODER.replace("text_model.", "")])


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    """Models of two architectures, and a file with a folder, are no blend; nor is one without any ratio."""
    models = write(tmp_path, a=base_weights("sd-1"), b=base_weights("sdxl"), c=other(base_weights("sd-1"), 1))
    with pytest.raises(IncompatibleArchitecture, match=r"it is sdxl, and .* is sd-1"):
        modelhub.blend(models[:2], target=tmp_path / "out.safetensors")
    with pytest.raises(MergeError, match="nothing would change"):
        modelhub.blend([models[0], models[2]], alpha=0.0, target=tmp_path / "out.safetensors")
    with pytest.raises(MergeError, match="blends 3 models, not 2"):
        modelhub.blend([models[0], models[2]], "add-difference", target=tmp_path / "out.safetensors")
    with pytest.raises(WouldOverwrite, match="one of the sources"):
        modelhub.blend([models[0], models[2]], target=models[2], force=True)
    with pytest.raises(SettingsError, match="no component"):
        modelhub.blend([models[0], models[2]], alpha="0.5,unett=1", target=tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_folders(tmp_path: Path) -> None:
    """Diffusers folders blend to a folder, whose untouched files are copies; a file and a folder do not mix."""
    a = base_weights("sd-1", DType.F32)
    models = write(tmp_path, a=a, b=other(a, 1))
    folders = [tmp_path / "a", tmp_path / "b"]
    for path, folder in zip(models, folders, strict=True):
        convert(path, folder, options=ConversionOptions(layout="diffusers"))
    modelhub.blend(folders, alpha="0.3,vae=0", target=tmp_path / "out")
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "out" / vae).read_bytes() == (folders[0] / vae).read_bytes()
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.weight"
    found = load_file(tmp_path / "out/unet/diffusion_pytorch_model.safetensors")[name]
    exact = 0.7 * a[ATTENTION].double() + 0.3 * other(a, 1)[ATTENTION].double()
    assert_merged(found, exact.numpy(), a[ATTENTION])
    with pytest.raises(MergeError, match="is a folder and the other is a file") as raised:
        modelhub.blend([folders[0], models[1]], target=tmp_path / "no")
    assert raised.value.hint == f"modelhub convert {models[1]} --layout diffusers -o ... makes a folder of it"


def test_pickles_are_blended_and_their_checksums_compared(tmp_path: Path) -> None:
    """A .ckpt is read without unpickling; a flipped bit in B is an error that names its tensor."""
    from modelhub.errors import Malformed

    a = base_weights("sd-1")
    (first,) = write(tmp_path, a=a)
    second = tmp_path / "b.ckpt"
    torch.save({"state_dict": other(a, 1)}, second)
    modelhub.blend([first, second], target=tmp_path / "out.safetensors")
    data = bytearray(second.read_bytes())
    place = data.find(other(a, 1)[ATTENTION].numpy().tobytes())
    data[place] ^= 1
    second.write_bytes(data)
    with pytest.raises(Malformed, match=r"attn2\.to_q"):
        modelhub.blend([first, second], target=tmp_path / "no.safetensors")
    assert not (tmp_path / "no.safetensors").exists()


@given(st.floats(1e-3, 1e3), st.floats(1e-8, 3.1), st.floats(0, 1))
def test_arcs_between_models_that_are_nearly_the_same(length: float, angle: float, alpha: float) -> None:
    """The factors of an arc are right down to angles whose cosine is 1, where a fine-tune's weights lie."""
    a, b = np.array([1.0, 0.0]), length * np.array([np.cos(angle), np.sin(angle)])
    distance = float(np.hypot(1 - length * np.cos(angle), length * np.sin(angle)))
    factors = slerp_factors(1.0, length, distance, alpha)
    assert factors is not None
    found = factors[0] * a + factors[1] * b / length
    exact = np.array([np.cos(alpha * angle), np.sin(alpha * angle)])
    np.testing.assert_allclose(found, exact, atol=2e-5)


def test_opposite_directions_have_no_arc() -> None:
    """Between a vector and its opposite no way is the shortest; of nothing, or the same, the line is the arc."""
    assert slerp_factors(1.0, 2.0, 3.0, 0.5) is None
    assert slerp_factors(0.0, 2.0, 2.0, 0.25) == (0.75, 0.25)
    assert slerp_factors(1.0, 1.0, 0.0, 0.25) == (0.75, 0.25)


def test_shapes_that_no_model_has_are_blended(tmp_path: Path) -> None:
    """A first convolution that is no convolution, and a matrix without columns, are tensors like others."""
    a = base_weights("sd-1")
    conv = "model.diffusion_model.input_blocks.0.0.weight"
    empty = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    a |= {conv: torch.ones(8), empty: torch.zeros(8, 0)}
    paths = write(tmp_path, a=a, b={**a, conv: torch.full((8,), 3.0)})
    done = modelhub.blend(paths, target=tmp_path / "out.safetensors", verify_tensors=len(a))
    assert any(address.tensor == empty for address in done.checked)
    assert torch.equal(load_file(tmp_path / "out.safetensors")[conv], torch.full((8,), 2.0))


def test_what_is_computed_once_more_is_spread_over_the_bytes(tmp_path: Path) -> None:
    """A few tensors that are checked are not the many small ones, and each is another one."""
    a = base_weights("sd-1")
    done = modelhub.blend(write(tmp_path, a=a, b=other(a, 1)), target=tmp_path / "out.safetensors", verify_tensors=3)
    sizes = sorted((tensor.nbytes for tensor in a.values()), reverse=True)
    checked = sorted((a[address.tensor].nbytes for address in done.checked), reverse=True)
    assert len(checked) == 3
    assert checked[0] == sizes[0]
    assert checked[-1] > sizes[len(sizes) // 2]


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ('method = ["slerp"]\n[[model]]\npath = "a"', "of 1 models is no blend"),
        ('method = "slerp"\n[[model]]\npath = "a"\n[[model]]\npath = "b"\n[[model]]\npath = "c"', "of 3 models is no"),
        ('method = "slerp"\nmodel = "a"', "one or more [[model]]"),
        ('method = "slerp"\n[[model]]\nsha256 = {}', "a model in a recipe has a path"),
        ('method = "slerp"\nalpha = 0.5\n[[model]]\npath = "a"', "alpha in a recipe is a table"),
    ],
)
def test_what_a_recipe_cannot_say_is_an_error(tmp_path: Path, rest: str, told: str) -> None:
    """Values of another kind than a recipe has are an error in words."""
    path = tmp_path / "a.recipe.toml"
    ends = "" if "alpha" in rest else "\n[alpha]\nweight = 0.5"
    path.write_text(f'schema = "modelhub.blend/1"\n{rest}{ends}\n')
    with pytest.raises(SettingsError, match=re.escape(told)):
        read_blend(str(path))
