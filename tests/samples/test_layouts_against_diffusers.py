"""The layouts equal what diffusers and transformers build, under LDM names; no weights, no downloads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from modelhub.samples.layouts import Architecture, checkpoint, vae

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

Shapes = dict[str, tuple[int, ...]]

SD_LEVELS = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd-1": SD_LEVELS | {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd-2": SD_LEVELS
    | {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "projection_class_embeddings_input_dim": 2816,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "use_linear_projection": True,
    },
    "sdxl-refiner": {
        "block_out_channels": (384, 768, 1536, 1536),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": 4,
        "attention_head_dim": (6, 12, 24, 24),
        "cross_attention_dim": 1280,
        "projection_class_embeddings_input_dim": 2560,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "use_linear_projection": True,
    },
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
ENCODERS = {"L": (768, 12), "H": (1024, 24), "G": (1280, 32)}
TEXT = {
    "sd-1": {"cond_stage_model.transformer.": "L"},
    "sd-2": {"cond_stage_model.model.": "H"},
    "sdxl": {"conditioner.embedders.0.transformer.": "L", "conditioner.embedders.1.model.": "G"},
    "sdxl-refiner": {"conditioner.embedders.0.model.": "G"},
}


def shapes_of(module: Any) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def unet_shapes(architecture: str) -> Shapes:
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return shapes_of(UNet2DConditionModel(**UNETS[architecture]))


def vae_shapes() -> Shapes:
    import torch
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        return shapes_of(AutoencoderKL(**VAE))


def text_shapes(which: str) -> Shapes:
    """transformers' text encoder with a projection, its names with the prefix ``text_model.`` in every version."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    width, layers = ENCODERS[which]
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width,
        vocab_size=49408,
    )
    with torch.device("meta"):
        found = shapes_of(CLIPTextModelWithProjection(config))
    return {name: shape for name, shape in found.items() if not name.endswith("position_ids")}


RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}


def ldm_unet_name(name: str, attentive_up_blocks: set[str]) -> str:
    for theirs, ldm in UNET_ENDS.items():
        if name.startswith(theirs):
            return ldm + name.removeprefix(theirs)
    side, rest = name.split(".", 1)
    if side == "mid_block":
        part, number, leaf = rest.split(".", 2)
        place = "middle_block.1" if part == "attentions" else f"middle_block.{2 * int(number)}"
    else:
        block, part, number, leaf = rest.split(".", 3)
        if side == "down_blocks":
            if part == "downsamplers":
                return f"input_blocks.{3 * int(block) + 3}.0.op." + leaf.removeprefix("conv.")
            place = f"input_blocks.{3 * int(block) + int(number) + 1}.{int(part == 'attentions')}"
        elif part == "upsamplers":
            return f"output_blocks.{3 * int(block) + 2}.{2 if block in attentive_up_blocks else 1}.{leaf}"
        else:
            place = f"output_blocks.{3 * int(block) + int(number)}.{int(part == 'attentions')}"
    if part == "resnets":
        module, kind = leaf.split(".")
        leaf = f"{RESIDUAL[module]}.{kind}"
    return f"{place}.{leaf}"


def ldm_vae_name(name: str) -> str:
    name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{3 - int(m[1])}", name).replace("down_blocks.", "down.")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"\.(down|up)samplers\.0\.", r".\1sample.", name).replace(".resnets.", ".block.")
    for theirs, ldm in {
        "mid_block.attentions.0": "mid.attn_1",
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
        "conv_norm_out": "norm_out",
        "conv_shortcut": "nin_shortcut",
    }.items():
        name = name.replace(theirs, ldm)
    return name


def open_clip_shapes(which: str) -> Shapes:
    """transformers' text encoder as OpenCLIP lays it out: query, key and value in one matrix."""
    layer = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)")
    inside = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    outside = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
        "text_projection.weight": "text_projection",
    }
    found: Shapes = {"logit_scale": ()}
    for name, shape in text_shapes(which).items():
        if not (match := layer.fullmatch(name)):
            found[outside[name]] = shape
            continue
        block = f"transformer.resblocks.{match[1]}"
        module, kind = match[2].rsplit(".", 1)
        if module in inside:
            found[f"{block}.{inside[module]}.{kind}"] = shape
        elif module == "self_attn.q_proj":
            found[f"{block}.attn.in_proj_{kind}"] = (3 * shape[0], *shape[1:])
    return found


def clip_shapes(which: str) -> Shapes:
    found = {name: shape for name, shape in text_shapes(which).items() if name != "text_projection.weight"}
    return found | {"text_model.embeddings.position_ids": (1, 77)}


def expected_components(architecture: str) -> Iterator[tuple[str, Shapes]]:
    theirs = unet_shapes(architecture)
    attentive = {name.split(".")[1] for name in theirs if name.startswith("up_blocks.") and ".attentions." in name}
    yield "model.diffusion_model.", {ldm_unet_name(name, attentive): shape for name, shape in theirs.items()}
    yield "first_stage_model.", ldm_vae_shapes()
    for prefix, which in TEXT[architecture].items():
        yield prefix, clip_shapes(which) if prefix.endswith("transformer.") else open_clip_shapes(which)


def ldm_vae_shapes() -> Shapes:
    attention = re.compile(r".*mid_block\.attentions\.0\.to_.*\.weight")
    return {
        ldm_vae_name(name): (*shape, 1, 1) if attention.fullmatch(name) else shape
        for name, shape in vae_shapes().items()
    }


@pytest.mark.parametrize("architecture", list(UNETS))
def test_a_checkpoint_is_what_diffusers_builds(architecture: Architecture) -> None:
    """Each component has exactly the names and shapes of the module that diffusers or transformers runs it with."""
    layout = {name: shape for name, (_, shape) in checkpoint(architecture).items()}
    for prefix, expected in expected_components(architecture):
        found = {name.removeprefix(prefix): shape for name, shape in layout.items() if name.startswith(prefix)}
        assert found == expected, prefix
        layout = {name: shape for name, shape in layout.items() if not name.startswith(prefix)}
    assert all(shape == (1000,) for shape in layout.values())
    assert len(layout) == (12 if architecture in {"sd-1", "sd-2"} else 0)


def test_a_vae_is_what_diffusers_builds() -> None:
    """A VAE on its own has the names and shapes of diffusers' AutoencoderKL."""
    assert {name: shape for name, (_, shape) in vae().items()} == ldm_vae_shapes()
