"""A merged model draws what the base draws with the adapter applied while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from modelhub.convert import ConversionOptions, convert
from modelhub.merge import merge

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

ALPHA, RANK, STRENGTH = 3.0, 2, 0.8
TOKENS = torch.arange(1, 78).remainder(47)[None]


def text_config(width: int, *, projection: int | None = None) -> Any:
    return transformers.CLIPTextConfig(
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        vocab_size=50,
        bos_token_id=48,
        eos_token_id=49,
        projection_dim=projection or width,
        hidden_act="gelu" if projection else "quick_gelu",
    )


def components(xl: bool) -> dict[str, torch.nn.Module]:
    """The parts of a tiny SD 1 or SDXL with random weights."""
    torch.manual_seed(0)
    more: dict[str, Any] = {}
    if xl:
        more = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "use_linear_projection": True,
            "attention_head_dim": (1, 1),
        }
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=2048 if xl else 768,
        norm_num_groups=32,
        **more,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=32,
    )
    made = {"unet": unet, "vae": vae, "text_encoder": transformers.CLIPTextModel(text_config(768))}
    if xl:
        config = text_config(1280, projection=1280)
        made["text_encoder_2"] = transformers.CLIPTextModelWithProjection(config)
    return made


def lora_of(parts: dict[str, torch.nn.Module], xl: bool) -> dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Factors for every matrix and convolution of the UNet and the text encoders, by component and module."""
    generator = torch.Generator().manual_seed(1)
    found: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
    for component, module in parts.items():
        if component == "vae":
            continue
        for name, layer in module.named_modules():
            if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):
                out, *rest = layer.weight.shape
                up = torch.randn(out, RANK, *(1 for _ in rest[1:]), generator=generator) * 0.1
                down = torch.randn(RANK, *rest, generator=generator) * 0.1
                found.setdefault(component, {})[name] = (up, down)
    return found


def apply_at_runtime(module: torch.nn.Module, factors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Have every layer add what the adapter makes of its input."""

    def hook(up: torch.Tensor, down: torch.Tensor) -> Any:
        def add(layer: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            if isinstance(layer, torch.nn.Conv2d):
                narrow = torch.nn.functional.conv2d(inputs[0], down, None, layer.stride, layer.padding)
                change = torch.nn.functional.conv2d(narrow, up)
            else:
                change = inputs[0] @ down.T @ up.T
            return output + STRENGTH * ALPHA / RANK * change

        return add

    layers = dict(module.named_modules())
    for name, (up, down) in factors.items():
        layers[name].register_forward_hook(hook(up, down))


def image(parts: dict[str, torch.nn.Module], xl: bool) -> np.ndarray:
    """What the pipeline of *parts* draws in two steps."""
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    common: dict[str, Any] = {
        "num_inference_steps": 2,
        "output_type": "np",
        "height": 16,
        "width": 16,
        "latents": latents,
    }
    with torch.no_grad():
        if xl:
            first = parts["text_encoder"](TOKENS, output_hidden_states=True).hidden_states[-2]
            second = parts["text_encoder_2"](TOKENS, output_hidden_states=True)
            embeds = torch.cat([first, second.hidden_states[-2]], dim=-1)
            pipeline = diffusers.StableDiffusionXLPipeline(
                **parts, tokenizer=None, tokenizer_2=None, scheduler=scheduler, add_watermarker=False
            )
            pooled = second.text_embeds
            common |= {
                "pooled_prompt_embeds": pooled,
                "negative_prompt_embeds": embeds * 0,
                "negative_pooled_prompt_embeds": pooled * 0,
            }
        else:
            embeds = parts["text_encoder"](TOKENS).last_hidden_state
            pipeline = diffusers.StableDiffusionPipeline(
                **parts,
                tokenizer=None,
                scheduler=scheduler,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
            common["negative_prompt_embeds"] = embeds * 0
        pipeline.set_progress_bar_config(disable=True)
        drawn: np.ndarray = pipeline(prompt_embeds=embeds, **common).images
    return drawn


def loaded(folder: Path, parts: dict[str, torch.nn.Module]) -> dict[str, torch.nn.Module]:
    """The parts in *folder*, each with the configuration of the one in *parts*."""
    from safetensors.torch import load_file

    made = {}
    for name, module in parts.items():
        (file,) = (folder / name).glob("*.safetensors")
        copy = (
            type(module).from_config(module.config) if hasattr(module, "from_config") else type(module)(module.config)
        )
        known = copy.state_dict()
        weights = {}
        for key, tensor in load_file(file).items():  # transformers 5.6 leaves text_model out and adds it when loading
            other = key.removeprefix("text_model.") if key.startswith("text_model.") else f"text_model.{key}"
            weights[key if key in known else other] = tensor
        missing, unexpected = copy.load_state_dict(weights, strict=False)
        assert not unexpected and not [key for key in missing if "position_ids" not in key]
        made[name] = copy.eval()
    return made


@pytest.mark.parametrize(("xl", "form"), [(False, "folder"), (True, "checkpoint")], ids=["sd-1", "sdxl"])
def test_merged_is_what_runs(xl: bool, form: str, tmp_path: Path) -> None:
    """The image of the merged model is that of the base with the adapter's layers running beside its own, and another
    than the base's; merged as a folder or as the checkpoint that it is made into."""
    parts = {name: module.eval() for name, module in components(xl).items()}
    folder, single, merged = tmp_path / "base", tmp_path / "base.safetensors", tmp_path / "merged"
    for name, module in parts.items():
        module.save_pretrained(folder / name)
    kind = "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"
    (folder / "model_index.json").write_text(f'{{"_class_name": "{kind}"}}')
    factors = lora_of(parts, xl)
    prefixes = {"unet": "lora_unet", "text_encoder": "lora_te1" if xl else "lora_te", "text_encoder_2": "lora_te2"}
    tensors = {}
    for component, modules in factors.items():
        for name, (up, down) in modules.items():
            stem = f"{prefixes[component]}_{name.replace('.', '_')}"
            tensors |= {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}
            tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
    adapter = tmp_path / "adapter.safetensors"
    save_file(tensors, adapter)
    if form == "folder":
        merge(folder, [f"{adapter}:{STRENGTH}"], target=merged)
    else:
        convert(folder, single, options=ConversionOptions(layout="ldm"))
        merge(single, [f"{adapter}:{STRENGTH}"], target=tmp_path / "merged.safetensors")
        convert(tmp_path / "merged.safetensors", merged, options=ConversionOptions(layout="diffusers"))
    found = image(loaded(merged, parts), xl)
    before = image(parts, xl)
    for component, modules in factors.items():
        apply_at_runtime(parts[component], modules)
    expected = image(parts, xl)
    assert np.abs(found - expected).max() < 1e-3
    assert np.abs(found - before).max() > 0.02


LINEARS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "time_emb_proj"]
RELATIVES: dict[str, dict[str, Any]] = {
    "IA3Config": {"target_modules": [*LINEARS, "conv1", "proj_in"], "feedforward_modules": ["ff.net.2", "proj_in"]},
    "OFTConfig": {"target_modules": LINEARS, "oft_block_size": 8, "module_dropout": 0.0},
    "BOFTConfig": {"target_modules": [*LINEARS, "conv1"], "boft_block_size": 8},
}


@pytest.mark.parametrize("kind", RELATIVES)
def test_relatives_of_peft_merged_are_what_runs(kind: str, tmp_path: Path) -> None:
    """The image of a model that PEFT's (IA)^3, OFT or BOFT was merged into is that of the model with it put on."""
    peft = pytest.importorskip("peft")
    parts: dict[str, Any] = {name: module.eval() for name, module in components(xl=False).items()}
    for name, module in parts.items():
        module.save_pretrained(tmp_path / "base" / name)
    (tmp_path / "base/model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    before = image(parts, xl=False)
    adapted = peft.get_peft_model(parts["unet"], getattr(peft, kind)(**RELATIVES[kind])).eval()
    torch.manual_seed(4)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    adapted.save_pretrained(tmp_path / "adapter")
    expected = image(parts, xl=False)
    merge(tmp_path / "base", [str(tmp_path / "adapter")], target=tmp_path / "merged")
    found = image(loaded(tmp_path / "merged", components(xl=False)), xl=False)
    assert np.abs(found - expected).max() < 1e-3
    assert np.abs(found - before).max() > 0.005
