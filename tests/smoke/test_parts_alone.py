"""Components that lie alone, as files or as the folders that diffusers saves, and folders of adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modelhub.convert.layouts import to_diffusers
from modelhub.samples.runnable import UNET, Weights, healthy, healthy_vae, save
from modelhub.samples.runnable_flows import healthy_flow
from modelhub.smoke import Settings, SmokeResult, SmokeSpec
from modelhub.smoke.kept import Kept
from modelhub.smoke.prepare import prepare
from tests.smoke.course import carried_out, outcomes, unpassed
from tests.smoke.flows import as_folder

SETTINGS = Settings(device="cpu", dtype="fp32", size=64)


def run(path: str, folder: Path, base: str | None = None, kept: Kept | None = None) -> SmokeResult:
    spec = prepare(path, SETTINGS, lambda _: base)
    return spec if isinstance(spec, SmokeResult) else carried_out(spec, folder, kept)


def component(weights: Weights, name: str, folder: Path, *, shards: bool = False) -> str:
    """Write the component *name* of a checkpoint as diffusers saves it alone."""
    layout = to_diffusers({key: tuple(value.shape) for key, value in weights.items()})
    tensors = {}
    for key, (view,) in layout.components[name].items():
        tensor = weights[view.name]
        tensor = tensor if view.rows is None else tensor[view.rows[0] : view.rows[1]]
        tensor = tensor.T if view.transposed else tensor
        tensors[key] = (tensor if view.shape is None else tensor.reshape(view.shape)).clone().contiguous()
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(layout.configs[f"{name}/config.json"]))
    stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
    if not shards:
        save_file(tensors, folder / f"{stem}.safetensors")
        return str(folder)
    places = {key: f"{stem}-{1 + i % 2:05}-of-00002.safetensors" for i, key in enumerate(tensors)}
    for file in set(places.values()):
        save_file({key: value for key, value in tensors.items() if places[key] == file}, folder / file)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return str(folder)


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
def test_the_folder_of_a_vae_passes(tmp_path: Path, shards: bool) -> None:
    """What diffusers saves of an autoencoder is tried as a file of one is."""
    result = run(component(healthy("sd-1"), "vae", tmp_path / "vae", shards=shards), tmp_path)
    assert (result.outcome, result.sentence, unpassed(result)) == ("passed", "it decodes", {})


@pytest.mark.parametrize("name", ["ae", "diffusers"])
def test_the_vae_of_flux_passes(tmp_path: Path, name: str) -> None:
    """16 channels and no 1x1 convolutions, under its maker's or diffusers' names; without a tensor it fails."""
    folder = tmp_path / "vae"
    folder.mkdir()
    if name == "ae":
        weights = healthy_vae(0.3611, 16)
        path = save(weights, tmp_path / "ae.safetensors", torch.float32)
    else:
        path = f"{as_folder(healthy_flow('flux-dev'), tmp_path / 'model')}/vae"
    result = run(path, tmp_path)
    assert (result.outcome, result.sentence, unpassed(result)) == ("passed", "it decodes", {})
    if name == "ae":
        del weights["decoder.mid.block_1.norm1.bias"]
        lost = run(save(weights, tmp_path / "ae.safetensors", torch.float32), tmp_path)
        assert (lost.outcome, unpassed(lost)) == ("failed", {"keys.missing": "failed"})


def test_a_vae_of_four_channels_has_its_convolutions(tmp_path: Path) -> None:
    """What SD 3's lacks is missed in Stable Diffusion's."""
    weights = {name: value for name, value in healthy_vae().items() if "quant_conv" not in name}
    result = run(save(weights, tmp_path / "vae.safetensors", torch.float32), tmp_path)
    assert (result.outcome, unpassed(result)) == ("failed", {"keys.missing": "failed"})
    assert "quant_conv.weight" in result.sentence


@pytest.mark.parametrize(
    ("kind", "name"), [("sd-1", "text_encoder"), ("sd-2", "text_encoder"), ("sdxl", "text_encoder_2")]
)
def test_a_text_encoder_alone_tells_prompts_apart(tmp_path: Path, kind: str, name: str) -> None:
    """It loads, is finite, and makes different things of different prompts; one that does not fails."""
    weights = healthy(kind)
    result = run(component(weights, name, tmp_path / "whole"), tmp_path)
    assert (result.outcome, result.sentence, unpassed(result)) == ("passed", "it tells prompts apart", {})
    assert result.kind == "text-encoder"
    for key, value in weights.items():
        if "token_embedding" in key:
            value.zero_()
    spoilt = run(component(weights, name, tmp_path / "same"), tmp_path)
    assert unpassed(spoilt) == {"text.difference": "failed"}


def test_a_unet_alone_is_run_with_the_parts_of_a_base(tmp_path: Path) -> None:
    """Its VAE and text encoder are the base's, however it is laid out; without a base it says what it lacks."""
    weights = healthy("sd-1")
    base = save(weights, tmp_path / "base.safetensors", torch.float32)
    folder = component(weights, "unet", tmp_path / "unet")
    bare = {name.removeprefix(UNET): value for name, value in weights.items() if name.startswith(UNET)}
    file = save(bare, tmp_path / "unet.safetensors", torch.float32)
    components = []
    for path in (folder, f"{folder}/diffusion_pytorch_model.safetensors", file):
        lost = run(path, tmp_path)
        assert (lost.outcome, lost.sentence) == (
            "not testable",
            "it has no VAE and no text encoder (--base names a model that has)",
        )
        spec = prepare(path, SETTINGS, lambda _: base)
        assert isinstance(spec, SmokeSpec)
        components.append({name: (each.config, set(each.tensors or ())) for name, each in spec.components.items()})
    assert components[0] == components[1] == components[2]
    result = run(file, tmp_path, base)
    assert (result.outcome, result.sentence, unpassed(result)) == ("passed", "it generates", {})
    assert result.facts["base"] == base


def test_a_unet_of_zeros_is_caught_on_its_base(tmp_path: Path) -> None:
    """It is the UNet that is tried, not the base's."""
    weights = healthy("sd-1")
    base = save(weights, tmp_path / "base.safetensors", torch.float32)
    spoilt = {name: torch.zeros_like(v) if name.startswith(UNET) else v for name, v in weights.items()}
    found = unpassed(run(component(spoilt, "unet", tmp_path / "unet"), tmp_path, base))
    assert found["sampling.prompt"] == "failed"


def peft(folder: Path, modules: dict[str, tuple[int, int]], size: float = 0.2) -> str:
    """Write a LoRA for *modules*, outputs and inputs, as PEFT saves it."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, (out, inputs) in modules.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(4, inputs, generator=generator) * size
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, 4, generator=generator) * size
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["to_q"], "base_model_name_or_path": ""}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def test_the_folder_of_a_peft_adapter_is_put_on_its_base(tmp_path: Path) -> None:
    """Its alpha is that of the configuration beside it; one that is zero changes nothing, and fails."""
    base = save(healthy("sd-1"), tmp_path / "base.safetensors", torch.float32)
    attention = "down_blocks.0.attentions.0.transformer_blocks.0"
    modules = {f"{attention}.attn1.to_q": (128, 128), f"{attention}.attn2.to_k": (128, 768)}
    kept = Kept()
    result = run(peft(tmp_path / "adapter", modules), tmp_path, base, kept)
    assert result.kind == "lora"
    assert outcomes(result)["adapter.change"] == "passed", result.sentence
    dead = run(peft(tmp_path / "dead", modules, 0.0), tmp_path, base, kept)
    assert {"adapter.change": "failed", "adapter.effect": "failed"}.items() <= unpassed(dead).items()


def lora(kind: str, size: float = 0.5) -> Weights:
    """A LoRA for the first attention of a transformer, under kohya's names."""
    generator = torch.Generator().manual_seed(4)
    flux = kind.startswith("flux")
    module = "double_blocks_0_img_attn_proj" if flux else "joint_blocks_0_x_block_attn_proj"
    rows = {"lora_down": (4, 192), "lora_up": (192, 4)}
    made = {f"lora_unet_{module}.{n}.weight": torch.randn(s, generator=generator) * size for n, s in rows.items()}
    return made | {f"lora_unet_{module}.alpha": torch.tensor(4.0)}


@pytest.mark.parametrize("kind", ["sd-3", "flux-dev"])
def test_a_lora_is_put_on_a_transformer(tmp_path: Path, kind: str) -> None:
    """LoRAs of SD 3 and FLUX.1 change what their base draws; one of zeros does not. They need a base."""
    base = as_folder(healthy_flow(kind), tmp_path / "base")
    path = save(lora(kind), tmp_path / "lora.safetensors", torch.float32)
    kept = Kept()
    result = run(path, tmp_path, base, kept)
    assert result.kind == "lora"
    assert (result.outcome, unpassed(result)) == ("passed", {}), result.sentence
    dead = run(save(lora(kind, 0.0), tmp_path / "dead.safetensors", torch.float32), tmp_path, base, kept)
    assert {"adapter.change": "failed", "adapter.effect": "failed"}.items() <= unpassed(dead).items()
    assert "--base" in run(path, tmp_path).sentence
