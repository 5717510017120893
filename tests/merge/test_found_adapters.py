"""Adapter files as they are found: of several trainers at once, half converted, of other models than they seem."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modelhub.errors import IncompatibleArchitecture, UnmatchedKeys
from modelhub.merge import MergePlan, merge, plan_merge
from tests.merge.build import assert_merged, base_weights, load
from tests.merge.test_dialects import HIDDEN, MLP
from tests.merge.test_dialects import flux as flux_modules

Q = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
STEM = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
FLAT, NATIVE = STEM.replace(".", "_"), "input_blocks_1_1_transformer_blocks_0_attn1_to_q"
TEXT = "text_model.encoder.layers.0.mlp.fc1"
RANK = 2


def factors(out: int, inputs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(out, RANK, generator=generator), torch.randn(RANK, inputs, generator=generator)


def product(up: torch.Tensor, down: torch.Tensor) -> np.ndarray:
    return up.double().numpy() @ down.double().numpy()


def kohya(name: str, pair: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{name}.lora_up.weight": pair[0].clone(), f"{name}.lora_down.weight": pair[1].clone()}


def peft(name: str, pair: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{name}.lora_B.weight": pair[0].clone(), f"{name}.lora_A.weight": pair[1].clone()}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save_file(base_weights("sd-1"), tmp_path / "base.safetensors")
    return tmp_path / "base.safetensors"


def pair_of(base: Path, tensor: str = Q) -> tuple[torch.Tensor, torch.Tensor]:
    out, inputs = load(base)[tensor].shape
    return factors(out, inputs)


def planned(base: Path, tensors: dict[str, torch.Tensor], weights: str = "1", **more: bool) -> MergePlan:
    path = base.parent / "adapter.safetensors"
    save_file(tensors, path)
    with plan_merge(base, [f"{path}:{weights}"], **more) as plan:
        return plan


@pytest.mark.parametrize("second", [f"lora_unet_{NATIVE}", f"unet.{STEM}"])
def test_the_same_module_under_two_names_is_not_added_twice(base: Path, second: str) -> None:
    """Files are known that have every LoRA under kohya's names and under diffusers': one of them is an error."""
    pair = pair_of(base)
    tensors = kohya(f"lora_unet_{FLAT}", pair) | kohya(second, pair)
    with pytest.raises(UnmatchedKeys, match="is for the same weights"):
        planned(base, tensors)
    plan = planned(base, tensors, allow_unmatched=True)
    assert [len(changes) for changes in plan.changes.values()] == [1]
    assert len(plan.unmatched) == 1


def test_a_fused_module_and_one_of_its_parts_are_not_both_added(tmp_path: Path) -> None:
    """Rows of a fused matrix are one module's."""
    base = tmp_path / "flux.safetensors"
    save_file({f"{name}.weight": torch.randn(shape) for name, shape in flux_modules().items()}, base)
    whole = kohya("lora_unet_double_blocks_0_img_attn_qkv", factors(3 * HIDDEN, HIDDEN))
    part = kohya("lora_transformer_transformer_blocks_0_attn_to_k", factors(HIDDEN, HIDDEN))
    with pytest.raises(UnmatchedKeys, match="is for the same weights"):
        planned(base, whole | part)
    thirds = [kohya(f"lora_transformer_transformer_blocks_0_attn_to_{each}", factors(HIDDEN, HIDDEN)) for each in "qkv"]
    assert len(planned(base, thirds[0] | thirds[1] | thirds[2]).changes) == 1


@pytest.mark.parametrize(
    "begins", ["controlnet.", "unet.controlnet.", "refiner.", "ip_adapter.unet.", "transformer_2."]
)
def test_other_models_modules_are_no_part_of_the_base(base: Path, begins: str) -> None:
    """A ControlNet or a second denoiser has modules of the same names: what says that it is of one is not merged."""
    with pytest.raises(UnmatchedKeys, match=r"no component of a base|second of two"):
        planned(base, peft(f"{begins}{STEM}", pair_of(base)))


@pytest.mark.parametrize("begins", ["", "model.", "base_model.model.unet.", "unet.base_model.model.", "pipe.unet."])
def test_wrappers_say_nothing(base: Path, begins: str) -> None:
    """What programs wrap a model in is no other model."""
    assert [address.tensor for address in planned(base, peft(f"{begins}{STEM}", pair_of(base))).changes] == [Q]


def test_a_text_encoder_that_its_names_do_not_tell_has_its_own_weight(base: Path) -> None:
    """A name without a component is found in one, and has the strength that is given for it."""
    text = f"cond_stage_model.transformer.{TEXT}.weight"
    encoder = peft("encoder.layers.0.mlp.fc1", pair_of(base, text))
    plan = planned(base, encoder | peft(STEM, pair_of(base)), "te=0.25,unet=0.5")
    strengths = {address.tensor: change.strength for address, (change,) in plan.changes.items()}
    assert strengths == {text: 0.25, Q: 0.5}


def test_an_adapter_of_another_architecture_that_fits(tmp_path: Path) -> None:
    """SD 1's text encoder is a part of SDXL too: an adapter that is known to be of SD 1 is refused all the same."""
    base = tmp_path / "base.safetensors"
    save_file(base_weights("sdxl"), base)
    out, inputs = load(base)[f"conditioner.embedders.0.transformer.{TEXT}.weight"].shape
    adapter: dict[str, torch.Tensor] = {}
    for i in range(12):
        adapter |= kohya(f"lora_te_text_model_encoder_layers_{i}_mlp_fc1", factors(out, inputs))
    with pytest.raises(IncompatibleArchitecture, match="it is an adapter for sd-1 or sd-2, and the base is sdxl"):
        planned(base, adapter)
    assert len(planned(base, adapter, allow_unmatched=True).changes) == 12


def test_a_prediction_that_is_not_the_bases_is_told(base: Path) -> None:
    """A LoRA that says that it predicts velocities, on a model that predicts noise: the plan tells it."""
    path = base.parent / "adapter.safetensors"
    for said in ("v", "epsilon"):
        save_file(kohya(f"lora_unet_{FLAT}", pair_of(base)), path, {"modelspec.prediction_type": said})
        with plan_merge(base, [str(path)]) as plan:
            assert any("predict" in note for note in plan.notes) is (said == "v")


def test_embeddings_that_come_along_are_told(base: Path) -> None:
    """OneTrainer's LoRAs may bring embeddings: no model can take them in, and the plan names them."""
    tensors = kohya(f"lora_unet_{FLAT}", pair_of(base)) | {"bundle_emb.sks.clip_l": torch.zeros(2, 768)}
    assert any("embeddings" in note and "sks" in note for note in planned(base, tensors).notes)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_base_that_was_changed_before_training(base: Path, start: str, inside: bool) -> None:
    """PiSSA and its like take something out of the base: their factors alone are no change of the model."""
    path = base.parent / "adapter.safetensors"
    name = f"unet.{STEM}" if inside else f"base_model.model.{STEM}"
    prefix = "unet." if inside else ""
    config = json.dumps({f"{prefix}lora_alpha": 4, f"{prefix}init_lora_weights": start})
    save_file(peft(name, pair_of(base)), path, {"lora_adapter_metadata": config} if inside else {})
    if not inside:
        (base.parent / "adapter_config.json").write_text(config)
    with (
        pytest.raises(UnmatchedKeys, match=f"trained on a base that {start} had changed"),
        plan_merge(base, [path.as_posix()]),
    ):
        pass


@pytest.mark.parametrize(
    ("alpha", "scale"),
    [
        (torch.tensor(1.0), 0.5),
        (torch.tensor([[1.0]]), 0.5),
        (torch.tensor(1.0, dtype=torch.bfloat16), 0.5),
        (torch.tensor(1), 0.5),
        (torch.tensor(1.0).to(torch.float8_e4m3fn), 0.5),
        (torch.tensor([1.0]).to(torch.float8_e5m2), 0.5),
        (torch.tensor([1.0, 2.0]), None),
        (torch.tensor(float("nan")), None),
    ],
)
def test_alphas_of_every_type(base: Path, alpha: torch.Tensor, scale: float | None) -> None:
    """An alpha is one number of any type; what is none is not guessed."""
    pair = pair_of(base)
    tensors = kohya(f"lora_unet_{FLAT}", pair) | {f"lora_unet_{FLAT}.alpha": alpha}
    if scale is None:
        with pytest.raises(UnmatchedKeys, match="alpha is no finite number"):
            planned(base, tensors)
        return
    out = base.parent / "out.safetensors"
    save_file(tensors, base.parent / "adapter.safetensors")
    merge(base, [str(base.parent / "adapter.safetensors")], target=out)
    before = load(base)[Q]
    assert_merged(load(out)[Q], before.double().numpy() + scale * product(*pair), before)


def test_names_of_the_open_model_initiative(tmp_path: Path) -> None:
    """OneTrainer's other format numbers the parts of fused layers, and swaps the halves of the last modulation: every
    change is in its rows, in numbers."""
    shapes = flux_modules()
    generator = torch.Generator().manual_seed(1)
    weights = {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, tmp_path / "base.safetensors")
    modules = {
        "double_blocks.1.img_attn.qkv.1": ("double_blocks.1.img_attn.qkv", HIDDEN, 2 * HIDDEN),
        "double_blocks.0.txt_attn.qkv.2": ("double_blocks.0.txt_attn.qkv", 2 * HIDDEN, 3 * HIDDEN),
        "single_blocks.0.linear1.0": ("single_blocks.0.linear1", 0, HIDDEN),
        "single_blocks.1.linear1.3": ("single_blocks.1.linear1", 3 * HIDDEN, 3 * HIDDEN + MLP),
        "img_in.proj": ("img_in", 0, HIDDEN),
        "final_layer.adaLN_modulation.1": ("final_layer.adaLN_modulation.1", 0, 2 * HIDDEN),
    }
    tensors: dict[str, torch.Tensor] = {}
    expected = {name: tensor.double().numpy() for name, tensor in weights.items()}
    for number, (name, (native, first, end)) in enumerate(modules.items()):
        pair = factors(end - first, shapes[native][1], number)
        tensors |= kohya(f"transformer.{name}", pair)
        expected[f"{native}.weight"] = expected[f"{native}.weight"].copy()
        expected[f"{native}.weight"][first:end] += product(*pair)
    save_file(tensors, tmp_path / "adapter.safetensors")
    merge(tmp_path / "base.safetensors", [str(tmp_path / "adapter.safetensors")], target=tmp_path / "out.safetensors")
    for name, tensor in load_file(tmp_path / "out.safetensors").items():
        assert_merged(tensor, expected[name], weights[name])


def test_the_tensors_of_modules_that_have_several_in_one_role(base: Path) -> None:
    """They are told of once, with their module; a tensor whose name only begins alike is told of by itself."""
    first, second = f"lora_unet_{FLAT}", f"lora_unet_{FLAT}_more"
    tensors = {f"{name}.{role}.weight": torch.ones(1) for name in (first, second) for role in ("lora_A.a", "lora_A.b")}
    tensors |= {
        f"{first}_mo.alpha.x": torch.ones(1),
        f"{first}.a.word": torch.ones(1),
        **kohya("unet." + STEM, pair_of(base)),
    }
    plan = planned(base, tensors, allow_unmatched=True)
    assert sorted(each.name for each in plan.unmatched) == [first, f"{first}_mo.alpha.x", second]


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (("lora_up", "lora_down"), "the order of its kernels"),
        (("delora_B", "delora_A"), "algorithm of PEFT"),
    ],
)
def test_factors_that_are_told_and_not_merged(base: Path, ends: tuple[str, str], said: str) -> None:
    """Factors whose order or meaning is another algorithm's are refused with the reason, and not multiplied."""
    up, down = pair_of(base)
    with pytest.raises(UnmatchedKeys, match=said):
        planned(base, {f"unet.{STEM}.{ends[0]}": up, f"unet.{STEM}.{ends[1]}": down})


def test_patches_that_forge_writes(base: Path) -> None:
    """Forge's ``key::lora::0`` and ``key::lora::1`` are the factors of that key."""
    up, down = pair_of(base)
    key = Q.removeprefix("model.")
    planned(base, {f"{key}::lora::0": up, f"{key}::lora::1": down})
    out = base.parent / "merged.safetensors"
    merge(base, [str(base.parent / "adapter.safetensors")], target=out)
    before = load(base)[Q]
    assert_merged(load(out)[Q], before.double().numpy() + product(up, down), before)
