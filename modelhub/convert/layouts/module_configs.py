"""A component's ``config.json``, from its diffusers names and shapes."""

from __future__ import annotations

from collections.abc import Mapping

from modelhub.convert.layouts import text_encoders
from modelhub.convert.layouts import unet as unet_rules
from modelhub.convert.layouts import vae as vae_rules
from modelhub.convert.layouts.base import Modules, Shapes, dimension, last_of
from modelhub.errors import ConversionError

Config = Mapping[str, object]

_HEAD = 64
"""Channels of an attention head in every text encoder, and in the UNets since SD 2 (``num_head_channels``)."""

_SD1_HEADS = 8
"""Heads of every attention of SD 1 (``num_heads`` in CompVis' v1-inference.yaml)."""

_TIME_WIDTH = 256
"""Width of the encoding of each of the six numbers that SDXL is conditioned on (diffusers' SDXL configuration)."""

_SD_SCALE, _XL_SCALE, _PLAYGROUND_SCALE = 0.18215, 0.13025, 0.5
"""``scale_factor`` of the latents (CompVis' v1-inference.yaml, generative-models' sd_xl_base.yaml, Playground 2.5)."""


def unet(shapes: Shapes, size: int, *, upcast_attention: bool = False) -> Config:
    """``UNet2DConditionModel`` for latents of *size* x *size*.

    Raises :class:`ConversionError` for depths that its configuration cannot say.
    """
    structure = unet_rules.from_diffusers(shapes)
    down, up = structure.down, structure.up
    if not all((*down, *up)) or [len(level) - 1 for level in up] != [len(level) for level in reversed(down)]:
        raise ConversionError("diffusers has no UNet with such numbers of residual blocks")
    middle = [block.depth for block in structure.middle]
    if len(middle) != (2 if any(middle) else len(middle[:1])):
        raise ConversionError("diffusers has no UNet with such a block in the middle")
    config = _lower_half(shapes, structure)
    depths, rising = _depths(structure), [_depth(level) for level in up]
    config |= {
        "_class_name": "UNet2DConditionModel",
        "center_input_sample": False,
        "out_channels": dimension(shapes, "conv_out.weight", 0),
        "sample_size": size,
        "up_block_types": ["CrossAttnUpBlock2D" if _depth(level) else "UpBlock2D" for level in up],
    }
    if any(depth not in (0, 1) for depth in (*depths, *rising)):
        config["transformer_layers_per_block"] = [depth or 1 for depth in depths]
        if any(depth not in (0, other) for depth, other in zip(rising, reversed(depths), strict=True)):
            config["reverse_transformer_layers_per_block"] = [depth or 1 for depth in rising]
    if upcast_attention:
        config["upcast_attention"] = True
    return dict(sorted(config.items()))


def controlnet(shapes: Shapes) -> Config:
    """``ControlNetModel``: a UNet down to its middle, and the convolutions that take the picture.

    Raises :class:`ConversionError` for depths that its configuration cannot say.
    """
    structure = unet_rules.from_diffusers(shapes)
    if not structure.down or not all(structure.down) or not structure.middle:
        raise ConversionError("diffusers has no ControlNet with such numbers of residual blocks")
    config = _lower_half(shapes, structure)
    modules = Modules(shapes)
    attending = [f"down_blocks.{i}.attentions" in modules for i in range(len(structure.down))]
    layers = [depth if there else depth or 1 for depth, there in zip(_depths(structure), attending, strict=True)]
    if any(depth != 1 for depth in layers):
        config["transformer_layers_per_block"] = layers
    steps = modules.count("controlnet_cond_embedding.blocks")
    widening = ("conv_in", *(f"blocks.{i}" for i in range(1, steps, 2)))
    config |= {
        "_class_name": "ControlNetModel",
        "down_block_types": ["CrossAttnDownBlock2D" if there else "DownBlock2D" for there in attending],
        "conditioning_channels": dimension(shapes, "controlnet_cond_embedding.conv_in.weight", 1),
        "conditioning_embedding_out_channels": [
            dimension(shapes, f"controlnet_cond_embedding.{name}.weight", 0) for name in widening
        ],
    }
    return dict(sorted(config.items()))


def _lower_half(shapes: Shapes, structure: unet_rules.Structure) -> dict[str, object]:
    """What the configurations of a UNet and of a ControlNet say of everything down to the middle."""
    channels = [dimension(shapes, f"down_blocks.{i}.resnets.0.conv1.weight", 0) for i in range(len(structure.down))]
    linear = any(name.endswith(".proj_in.weight") and len(shape) == 2 for name, shape in shapes.items())
    layers = [len(level) for level in structure.down]
    config: dict[str, object] = {
        "act_fn": "silu",
        "attention_head_dim": [max(1, width // _HEAD) for width in channels] if linear else _SD1_HEADS,
        "block_out_channels": channels,
        "cross_attention_dim": last_of(shapes, ".attn2.to_k.weight"),
        "down_block_types": ["CrossAttnDownBlock2D" if _depth(level) else "DownBlock2D" for level in structure.down],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": dimension(shapes, "conv_in.weight", 1),
        "layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "use_linear_projection": linear,
    }
    if not structure.middle:
        config["mid_block_type"] = None
    elif not structure.middle[0].depth:
        config["mid_block_type"] = "UNetMidBlock2D"
    if structure.pooled == "add_embedding":
        config["addition_embed_type"] = "text_time"
        config["addition_time_embed_dim"] = _TIME_WIDTH
    elif structure.pooled == "class_embedding":
        config["class_embed_type"] = "projection"
    if structure.pooled is not None:
        config["projection_class_embeddings_input_dim"] = dimension(shapes, f"{structure.pooled}.linear_1.weight", 1)
    return config


def _depths(structure: unet_rules.Structure) -> list[int | list[int]]:
    """The depth of the attentions of each level on the way down; the last one's is the middle's too."""
    depths = [_depth(level) for level in structure.down]
    middle = structure.middle[0].depth if structure.middle else 0
    if middle:
        if depths[-1] not in (0, middle):
            raise ConversionError("diffusers has no UNet with such depths of attention in the middle")
        depths[-1] = middle
    return depths


def _depth(level: tuple[unet_rules.Residual, ...]) -> int | list[int]:
    """The depth of every attention of *level*, or each one's where they differ."""
    depths = [block.depth for block in level]
    if len(set(depths)) == 1:
        return depths[0]
    if 0 in depths:
        raise ConversionError("diffusers has no UNet with attentions behind some residual blocks of a level only")
    return depths


def vae(
    shapes: Shapes, size: int, *, xl: bool, latents: tuple[tuple[float, ...], tuple[float, ...]] | None = None
) -> Config:
    """``AutoencoderKL`` for latents of *size* x *size*; *latents* are their mean and standard deviation."""
    structure = vae_rules.from_diffusers(shapes)
    levels = structure.encoder
    layers = len(levels[0]) if levels else 0
    numbers = ({len(level) for level in levels}, {len(level) for level in structure.decoder})
    if not layers or numbers != ({layers}, {layers + 1}) or len(structure.decoder) != len(levels):
        raise ConversionError("diffusers has no autoencoder with such numbers of residual blocks")
    config: dict[str, object] = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [
            dimension(shapes, f"encoder.down_blocks.{i}.resnets.0.conv1.weight", 0) for i in range(len(levels))
        ],
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "force_upcast": xl,
        "in_channels": dimension(shapes, "encoder.conv_in.weight", 1),
        "latent_channels": dimension(shapes, "decoder.conv_in.weight", 1),
        "layers_per_block": layers,
        "norm_num_groups": 32,
        "out_channels": dimension(shapes, "decoder.conv_out.weight", 0),
        "sample_size": size << (len(levels) - 1),
        "scaling_factor": _PLAYGROUND_SCALE if latents else _XL_SCALE if xl else _SD_SCALE,
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
    }
    if latents is not None:
        config["latents_mean"], config["latents_std"] = list(latents[0]), list(latents[1])
    return config


def text_encoder(shapes: Shapes) -> Config:
    """``CLIPTextModel``, or ``CLIPTextModelWithProjection`` where there is a projection."""
    width = dimension(shapes, text_encoders.TOKENS, 1)
    projection = shapes.get(text_encoders.PROJECTION)
    return {
        "architectures": ["CLIPTextModelWithProjection" if projection else "CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu" if _is_clip_l(shapes) else "gelu",
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": dimension(shapes, f"{text_encoders.LAYERS}.0.mlp.fc1.weight", 0),
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": dimension(shapes, text_encoders.POSITIONS, 0),
        "model_type": "clip_text_model",
        "num_attention_heads": max(1, width // _HEAD),
        "num_hidden_layers": Modules(shapes).count(text_encoders.LAYERS),
        "pad_token_id": 1,
        "projection_dim": projection[0] if projection else width,
        "vocab_size": dimension(shapes, text_encoders.TOKENS, 0),
    }


def tokenizer(encoder: str, shapes: Shapes) -> Mapping[str, Config]:
    """The JSON files of *encoder*'s tokenizer beside its vocabulary, by relative path.

    CLIP pads with the end of the text, OpenCLIP with token 0, ``!``.
    """
    folder = encoder.replace("text_encoder", "tokenizer")
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokens = {"bos_token": start, "eos_token": end, "pad_token": end if _is_clip_l(shapes) else "!", "unk_token": end}
    settings = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": dimension(shapes, text_encoders.POSITIONS, 0),
        "tokenizer_class": "CLIPTokenizer",
    }
    return {f"{folder}/tokenizer_config.json": settings | tokens, f"{folder}/special_tokens_map.json": tokens}


def _is_clip_l(shapes: Shapes) -> bool:
    return dimension(shapes, text_encoders.POSITIONS, 1) == text_encoders.CLIP_L_WIDTH
