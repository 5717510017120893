"""LoRAs out of the difference of two models."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import modelhub
from modelhub.convert import ConversionOptions, convert
from modelhub.errors import ChangedDuringRead, IncompatibleArchitecture, MergeError, SettingsError, UnmatchedKeys
from modelhub.lowrank import RankRule, dynamic_rank, plan_extract
from modelhub.lowrank.base import FactorType
from modelhub.merge import Address
from modelhub.samples.layouts import Base, lora
from modelhub.tensors import DType
from tests.merge.build import Weights, base_weights
from tests.merge.test_dialects import MODELS, ROOT

SDXL_TO_K = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
NORM = "model.diffusion_model.input_blocks.1.1.norm.weight"


def small_lora(architecture: Base, weights: Weights, rank: int, folder: Path) -> Path:
    """A LoRA for the small base *weights* in sd-scripts' names: every module that a real one has, as small as it."""
    from modelhub.merge.keymap import keymap_of_checkpoint

    keymap = keymap_of_checkpoint({name: tuple(tensor.shape) for name, tensor in weights.items()})
    generator = torch.Generator().manual_seed(11)
    made: Weights = {}
    for name in {each.partition(".")[0] for each in lora(architecture)}:
        head, _, path = name.partition("_unet_")
        component = "denoiser" if path else {"1": "text_encoder", "2": "text_encoder_2"}[name[7:8].strip("_") or "1"]
        path = path or name.partition("_text_model")[2].removeprefix("_")
        target = keymap.find(component, path, "weight") or keymap.find(component, f"text_model_{path}", "weight")
        assert target is not None, (head, name)
        made[f"{name}.lora_up.weight"] = torch.randn(target.shape[0], rank, generator=generator) * 0.1
        made[f"{name}.lora_down.weight"] = torch.randn(rank, *target.shape[1:], generator=generator) * 0.1
        if len(target.shape) == 4:
            made[f"{name}.lora_up.weight"] = made[f"{name}.lora_up.weight"].reshape(-1, rank, 1, 1)
        made[f"{name}.alpha"] = torch.tensor(rank / 2)
    save_file(made, folder / "lora.safetensors")
    return folder / "lora.safetensors"


def products(path: Path) -> Weights:
    """What each module of a LoRA adds, scaled."""
    tensors = load_file(path)
    made: Weights = {}
    for name in {each.partition(".")[0] for each in tensors}:
        down = tensors[f"{name}.lora_down.weight"].double().flatten(1)
        up = tensors[f"{name}.lora_up.weight"].double().flatten(1)
        made[name] = up @ down * float(tensors[f"{name}.alpha"]) / down.shape[0]
    return made


@pytest.mark.parametrize("architecture", ["sd-1", "sd-2", "sdxl"])
def test_a_merged_lora_is_recovered(tmp_path: Path, architecture: Base) -> None:
    """Of the difference of a merge and its base the LoRA comes back: the same modules, at equal rank within 1e-3."""
    weights = base_weights(architecture, DType.F32)
    save_file(weights, tmp_path / "base.safetensors", {"format": "pt"})
    adapter = small_lora(architecture, weights, 4, tmp_path)
    modelhub.merge(tmp_path / "base.safetensors", [f"{adapter}:0.7"], target=tmp_path / "tuned.safetensors")
    out = tmp_path / "out.safetensors"
    done = modelhub.extract(
        tmp_path / "tuned.safetensors", tmp_path / "base.safetensors", RankRule(4), target=out, dtype="fp32"
    )
    expected, found = products(adapter), products(out)
    assert found.keys() == expected.keys() == done.kept.keys()
    for name, product in expected.items():
        assert (found[name] - 0.7 * product).norm() <= 1e-3 * (0.7 * product).norm(), name
    assert not done.left and done.same
    assert all(each.energy > 1 - 1e-6 for each in done.kept.values())
    again = tmp_path / "again.safetensors"
    modelhub.merge(tmp_path / "base.safetensors", [str(out)], target=again)
    tuned, remade = load_file(tmp_path / "tuned.safetensors"), load_file(again)
    for name, tensor in tuned.items():
        torch.testing.assert_close(remade[name], tensor, rtol=0, atol=1e-5)


def test_folders_give_the_same_lora(tmp_path: Path) -> None:
    """Two diffusers folders of SDXL give modules under the names that their checkpoints give, and the same products."""
    weights = base_weights("sdxl", DType.F32)
    fused = "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight"
    places = {
        SDXL_TO_K: "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
        fused: "lora_te2_text_model_encoder_layers_3_self_attn_v_proj",
    }
    tuned = dict(weights)
    for name in places:
        tuned[name] = weights[name] + torch.randn(weights[name].shape[0], 2) @ torch.randn(2, weights[name].shape[1])
    for name, tensors in {"base": weights, "tuned": tuned}.items():
        save_file(tensors, tmp_path / f"{name}.safetensors", {"format": "pt"})
        convert(tmp_path / f"{name}.safetensors", tmp_path / name, options=ConversionOptions(layout="diffusers"))
    modelhub.extract(
        tmp_path / "tuned", tmp_path / "base", RankRule(2), target=tmp_path / "f.safetensors", dtype="fp32"
    )
    modelhub.extract(
        tmp_path / "tuned.safetensors",
        tmp_path / "base.safetensors",
        RankRule(2),
        target=tmp_path / "c.safetensors",
        dtype="fp32",
    )
    ours, theirs = products(tmp_path / "f.safetensors"), products(tmp_path / "c.safetensors")
    assert ours.keys() == theirs.keys() and set(places.values()) <= ours.keys() and len(ours) == 4
    for name, product in theirs.items():
        torch.testing.assert_close(ours[name], product, rtol=1e-4, atol=1e-4)
    rows = weights[fused].shape[0] // 3
    change = (tuned[fused] - weights[fused])[2 * rows :].double()
    torch.testing.assert_close(ours[places[fused]], change, rtol=1e-4, atol=1e-4)


def test_convolutions_and_what_no_lora_has(tmp_path: Path) -> None:
    """Convolutions have their own rank; changes of norms and biases are told, since they are in no module."""
    weights = base_weights("sd-1", DType.F32)
    tuned = {name: tensor.clone() for name, tensor in weights.items()}
    conv = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    line = "model.diffusion_model.time_embed.0.weight"
    for name in (conv, line, NORM):
        tuned[name] += torch.randn(tuned[name].shape) * 0.1
    save_file(weights, tmp_path / "base.safetensors", {"format": "pt"})
    save_file(tuned, tmp_path / "tuned.safetensors", {"format": "pt"})
    models, target = (tmp_path / "tuned.safetensors", tmp_path / "base.safetensors"), tmp_path / "out.safetensors"
    done = modelhub.extract(*models, RankRule(3, conv_rank=2), target=target)
    found = load_file(target)
    assert done.kept["lora_unet_down_blocks_0_resnets_0_conv1"].rank == 2
    assert done.kept["lora_unet_time_embedding_linear_1"].rank == 3
    assert found["lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight"].shape == (2, *weights[conv].shape[1:])
    assert set(done.left) == {Address("", NORM)}
    change, weight = done.left[Address("", NORM)]
    assert change == pytest.approx(float((tuned[NORM] - weights[NORM]).norm()), rel=1e-4)
    assert weight == pytest.approx(float(weights[NORM].norm()), rel=1e-4)


def test_metadata_and_digests(tmp_path: Path) -> None:
    """The LoRA says what sd-scripts' own extraction says, and which files it came from."""
    import hashlib

    weights = base_weights("sdxl")
    tuned = {
        name: (t * 1.1).to(t.dtype) if t.dim() == 2 and t.is_floating_point() else t for name, t in weights.items()
    }
    save_file(weights, tmp_path / "base.safetensors", {"format": "pt"})
    torch.save(tuned, tmp_path / "tuned.pt")
    rule = RankRule(4, dynamic=("sv_fro", 0.9))
    modelhub.extract(tmp_path / "tuned.pt", tmp_path / "base.safetensors", rule, target=tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert metadata["ss_network_module"] == "networks.lora" and metadata["ss_network_dim"] == "Dynamic"
    told = json.loads(metadata["modelhub.extract"])
    assert told["dynamic"] == "sv_fro=0.9"
    for model, path in {"tuned": tmp_path / "tuned.pt", "base": tmp_path / "base.safetensors"}.items():
        assert told["sha256"][model] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    assert modelhub.identify(tmp_path / "out.safetensors").architecture == "sdxl"


@pytest.mark.parametrize(("model", "network"), [("sd-3", "networks.lora_sd3"), ("flux", None)])
def test_the_network_is_named_where_it_is_known(tmp_path: Path, model: str, network: str | None) -> None:
    """A LoRA of SD 3 says which of sd-scripts' networks it is; what is no model that sd-scripts knows says none."""
    base = {f"{ROOT}{name}.weight": torch.randn(shape) for name, shape in MODELS[model][0]().items()}
    save_file(base, tmp_path / "base.safetensors")
    save_file({name: each + torch.randn_like(each) for name, each in base.items()}, tmp_path / "tuned.safetensors")
    models, target = (tmp_path / "tuned.safetensors", tmp_path / "base.safetensors"), tmp_path / "out.safetensors"
    modelhub.extract(*models, RankRule(2), target=target)
    with safe_open(target, "pt") as file:
        assert file.metadata().get("ss_network_module") == network


def test_files_of_one_name_have_a_digest_each(tmp_path: Path) -> None:
    """Models whose files have the same names, two files or two folders, are told apart in what the LoRA says of them,
    and the bytes of the tuned model's modules are counted as they are done."""
    import hashlib

    weights = base_weights("sd-1")
    tuned = weights | {name: t * 2 for name, t in weights.items() if name.endswith("attn2.to_k.weight")}
    for model, tensors in {"base": weights, "tuned": tuned}.items():
        (tmp_path / model).mkdir()
        save_file(tensors, tmp_path / model / "model.safetensors", {"format": "pt"})
        source = tmp_path / model / "model.safetensors"
        convert(source, tmp_path / f"{model}-folder", options=ConversionOptions(layout="diffusers"))
    told: list[int] = []
    for ending, names in {
        "/model.safetensors": ["model.safetensors"],
        "-folder": [
            "text_encoder/model.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
        ],
    }.items():
        target = tmp_path / "out.safetensors"
        models = {model: Path(f"{tmp_path / model}{ending}") for model in ("tuned", "base")}
        done = modelhub.extract(
            models["tuned"], models["base"], RankRule(2), target=target, force=True, progress=told.append
        )
        with safe_open(target, "pt") as file:
            digests = json.loads(file.metadata()["modelhub.extract"])["sha256"]
        assert digests == done.digests
        for model, path in models.items():
            files = [path / name if path.is_dir() else path for name in names]
            expected = {n: hashlib.sha256(f.read_bytes()).hexdigest() for n, f in zip(names, files, strict=True)}
            assert digests[model] == expected
        assert sum(told) == 2 * sum(math.prod(module.shape) for module in done.plan.modules)
        told.clear()


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_an_alpha_is_the_rank_whatever_the_type(tmp_path: Path, dtype: FactorType) -> None:
    """A rank of 257, which bfloat16 does not have, is the alpha all the same, of an extraction and a resizing."""
    weights = base_weights("sd-1")
    name = "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
    weights[name] = torch.zeros(300, 260, dtype=torch.float16)
    save_file(weights, tmp_path / "base.safetensors", {"format": "pt"})
    weights[name] = torch.randn(300, 260, generator=torch.Generator().manual_seed(5)).half()
    save_file(weights, tmp_path / "tuned.safetensors", {"format": "pt"})
    models = tmp_path / "tuned.safetensors", tmp_path / "base.safetensors"
    rule = RankRule(257)
    modelhub.extract(*models, rule, target=tmp_path / "out.safetensors", dtype=dtype)
    modelhub.resize(tmp_path / "out.safetensors", rule, target=tmp_path / "same.safetensors")
    for target in ("out.safetensors", "same.safetensors"):
        (alpha,) = (tensor for key, tensor in load_file(tmp_path / target).items() if key.endswith(".alpha"))
        assert float(alpha) == 257


@pytest.mark.parametrize("types", [(torch.float64, torch.float32), (torch.bfloat16, torch.float64)])
def test_models_of_two_types(tmp_path: Path, types: tuple[torch.dtype, torch.dtype]) -> None:
    """Models of any two types are compared by their numbers."""
    weights = base_weights("sd-1", DType.F32)
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    change = torch.randn(weights[name].shape[0], 1) @ torch.randn(1, weights[name].shape[1])
    tuned, base = ((weights[name] + change).to(types[0]), weights[name].to(types[1]))
    same = {key: tensor.bfloat16() for key, tensor in weights.items()}
    save_file(same | {name: tuned}, tmp_path / "tuned.safetensors")
    save_file(same | {name: base}, tmp_path / "base.safetensors")
    models = tmp_path / "tuned.safetensors", tmp_path / "base.safetensors"
    done = modelhub.extract(*models, RankRule(1), target=tmp_path / "out.safetensors", dtype="fp32")
    ((_, found),) = products(tmp_path / "out.safetensors").items()
    assert len(done.kept) == 1
    expected = tuned.double() - base.double()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.abs().max()))


def test_what_is_refused(tmp_path: Path) -> None:
    """Models of two architectures, models that are the same, lacking tensors and senseless ranks are one sentence."""
    weights = base_weights("sd-1")
    save_file(weights, tmp_path / "a.safetensors", {"format": "pt"})
    save_file(base_weights("sdxl"), tmp_path / "xl.safetensors", {"format": "pt"})
    lacking = dict(weights)
    del lacking["model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_q.weight"]
    save_file(lacking, tmp_path / "b.safetensors", {"format": "pt"})
    a, target = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    with pytest.raises(IncompatibleArchitecture):
        modelhub.extract(tmp_path / "xl.safetensors", a, target=target)
    with pytest.raises(MergeError, match=r"differs from .* in no module"):
        modelhub.extract(a, a, target=target)
    with pytest.raises(UnmatchedKeys, match="no such tensor"):
        modelhub.extract(tmp_path / "b.safetensors", a, target=target)
    with plan_extract(tmp_path / "b.safetensors", a, allow_unmatched=True) as plan:
        assert len(plan.unmatched) == 1
    with pytest.raises(SettingsError):
        modelhub.extract(a, a, RankRule(0), target=target)
    for text in ("sv_fro", "sv_fro=2", "sv_fro=nan", "sv_ratio=0.5", "rank=3", "sv_ratio=inf"):
        with pytest.raises(SettingsError):
            dynamic_rank(text)
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("bare", ["base", "tuned"])
def test_weights_whose_scales_are_not_understood_are_refused(tmp_path: Path, bare: str) -> None:
    """8-bit weights that two scales multiply are refused in either model, also where the other has no prefix before its
    names: their codes alone are not the weights."""
    root = "model.diffusion_model."
    weights = base_weights("sd-1", DType.F32)
    name = f"{root}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    scale = name.replace("weight", "scale_weight")
    quantised = weights | {
        name: weights[name].to(torch.float8_e4m3fn),
        scale: torch.tensor(0.5),
        f"{scale}_tensor": torch.tensor(0.5),
    }
    models = {"base": weights, "tuned": weights, ("tuned" if bare == "base" else "base"): quantised}
    models[bare] = {key.removeprefix(root): tensor for key, tensor in weights.items() if key.startswith(root)}
    for model, tensors in models.items():
        save_file(tensors, tmp_path / f"{model}.safetensors", {"format": "pt"})
    target = tmp_path / "out.safetensors"
    with pytest.raises(MergeError, match=r"attn2\.to_k\.weight' is quantised with two scales"):
        modelhub.extract(
            tmp_path / "tuned.safetensors", tmp_path / "base.safetensors", target=target, allow_unmatched=True
        )
    assert not target.exists()


def test_models_that_change_meanwhile_are_noticed(tmp_path: Path) -> None:
    """Where a model is written to while it is read, nothing is made of it."""
    weights = base_weights("sd-1")
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    save_file(weights, base)
    save_file(weights | {name: weights[name] * 2}, tuned)

    def touch(_: int) -> None:
        with base.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"x")

    with pytest.raises(ChangedDuringRead):
        modelhub.extract(tuned, base, target=tmp_path / "out.safetensors", progress=touch)
    assert {path.name for path in tmp_path.iterdir()} == {base.name, tuned.name}


@pytest.mark.parametrize("shape", [(0, 8), (8, 0)])
def test_weights_without_elements_are_no_modules(tmp_path: Path, shape: tuple[int, int]) -> None:
    """A matrix that has no rows or no columns is left out, of an extraction as of the bytes that are counted."""
    weights = base_weights("sd-1")
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    weights[name] = torch.zeros(shape)
    save_file(weights, tmp_path / "base.safetensors")
    other = name.replace("to_k", "to_v")
    save_file(weights | {other: weights[other] * 2}, tmp_path / "tuned.safetensors")
    models = tmp_path / "tuned.safetensors", tmp_path / "base.safetensors"
    done = modelhub.extract(*models, RankRule(2), target=tmp_path / "out.safetensors", progress=lambda _: None)
    assert len(done.kept) == 1


def test_what_only_the_tuned_model_has_is_told(tmp_path: Path) -> None:
    """Encoders that the base lacks, layers that it lacks, another VAE and another prediction are in no LoRA: each is
    told of."""
    weights = base_weights("sd-1")
    root = "model.diffusion_model."
    tuned = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    tuned[f"{root}middle_block.1.extra.weight"] = torch.ones(3, 3)
    save_file(weights, tmp_path / "base.safetensors", {"modelspec.prediction_type": "epsilon"})
    save_file(tuned, tmp_path / "tuned.safetensors", {"modelspec.prediction_type": "v"})
    unet = {name.removeprefix(root): tensor for name, tensor in weights.items() if name.startswith(root)}
    save_file(unet, tmp_path / "unet.safetensors")
    out = tmp_path / "out.safetensors"
    done = modelhub.extract(tmp_path / "tuned.safetensors", tmp_path / "base.safetensors", RankRule(1), target=out)
    assert done.vae == sum(name.startswith("first_stage_model.") for name in weights)
    assert not any(address.tensor.startswith("first_stage_model.") for address in done.left)
    told = " ".join(done.plan.notes)
    assert "which are left out: 1, as model.diffusion_model.middle_block.1.extra.weight" in told
    assert "predicts v" in told
    with plan_extract(tmp_path / "tuned.safetensors", tmp_path / "unet.safetensors") as plan:
        assert any("has text encoder, which" in note for note in plan.notes)
        assert any("has VAE, which" in note for note in plan.notes)


def test_tensors_of_two_encoders_have_the_same_names(tmp_path: Path) -> None:
    """In a folder of SDXL the norms of both text encoders are called alike, and both are told of; where nothing else
    changed there is no LoRA, and the answer says that something did."""
    weights = base_weights("sdxl", DType.F32)
    norms = [
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.layer_norm1.weight",
        "conditioner.embedders.1.model.transformer.resblocks.0.ln_1.weight",
    ]
    tuned = weights | {name: weights[name] + 1 for name in norms}
    other = tuned | {SDXL_TO_K: weights[SDXL_TO_K] + 1}
    for name, tensors in {"base": weights, "tuned": tuned, "other": other}.items():
        save_file(tensors, tmp_path / f"{name}.safetensors", {"format": "pt"})
        convert(tmp_path / f"{name}.safetensors", tmp_path / name, options=ConversionOptions(layout="diffusers"))
    out = tmp_path / "out.safetensors"
    with pytest.raises(MergeError, match="no module that a LoRA is made of, but in 2 other tensors"):
        modelhub.extract(tmp_path / "tuned", tmp_path / "base", RankRule(1), target=out)
    done = modelhub.extract(tmp_path / "other", tmp_path / "base", RankRule(1), target=out)
    assert sorted(address.file.partition("/")[0] for address in done.left) == ["text_encoder", "text_encoder_2"]


@pytest.mark.parametrize("rank", [2, 6])
def test_what_is_left_is_what_the_best_approximation_leaves(tmp_path: Path, rank: int) -> None:
    """Of changes of full rank each module's factors leave no more than a hundredth more than the singular value
    decomposition of the difference, cut off at that rank, as sd-scripts does it."""
    base = base_weights("sdxl", DType.F32)
    block = "input_blocks.4.1.transformer_blocks.0."
    names = {
        f"lora_unet_{block}{path}".replace(".", "_"): f"model.diffusion_model.{block}{path}.weight"
        for path in ("attn2.to_k", "attn1.to_q", "ff.net.0.proj", "ff.net.2")
    }
    tuned = base | {name: base[name] + torch.randn_like(base[name]) * 0.1 for name in names.values()}
    save_file(base, tmp_path / "base.safetensors", {"format": "pt"})
    save_file(tuned, tmp_path / "tuned.safetensors", {"format": "pt"})
    models, target = (tmp_path / "tuned.safetensors", tmp_path / "base.safetensors"), tmp_path / "out.safetensors"
    modelhub.extract(*models, RankRule(rank), target=target, dtype="fp32")
    found = products(target)
    for module, name in names.items():
        change = tuned[name].double() - base[name].double()
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        best = float((change - left[:, :rank] * values[:rank] @ right[:rank]).norm())
        assert best > 0 and float((change - found[module]).norm()) <= 1.01 * best
