"""The configurations of SD 3's and FLUX.1's parts, from diffusers' names and shapes.

What shapes do not say is as their makers published it: stabilityai/stable-diffusion-3-medium-diffusers and -3.5-*,
black-forest-labs/FLUX.1-dev and -schnell, google/t5-v1_1-xxl.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

from modelhub.convert.layouts import Shape
from modelhub.errors import ConversionError
from modelhub.smoke.parts import Incomplete

Config = Mapping[str, object]
Shapes = Mapping[str, Shape]

_HEAD = 64
"""Channels of an attention head of SD 3 (``mmditx.py``: as many heads as ``depth``, which is 1/64 of the width)."""

LATENTS: Mapping[str, Config] = {
    "sd-3": {"scaling_factor": 1.5305, "shift_factor": 0.0609},
    "flux": {"scaling_factor": 0.3611, "shift_factor": 0.1159},
}
"""Scales of latents: ``SD3LatentFormat`` in sd3.5's ``sd3_impls.py``, ``AutoEncoderParams`` in flux's ``util.py``."""

_EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "prediction_type": "flow"}


def scheduler(architecture: str, *, guided: bool) -> Config:
    """The sampler of flows: SD 3's has a shift of 3, FLUX.1 dev's one by the size of the image, schnell's none."""
    if architecture == "sd-3":
        return {**_EULER, "shift": 3.0}
    if not guided:
        return {**_EULER, "shift": 1.0}
    by_size = {"base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15}
    return {**_EULER, **by_size, "shift": 3.0, "use_dynamic_shifting": True}


def sd3(shapes: Shapes) -> Config:
    """``SD3Transformer2DModel``, of SD 3 and, with second attentions and normed queries, of SD 3.5.

    Raises :class:`Incomplete` where a tensor that says it is not there.
    """
    patches = _shape(shapes, "pos_embed.proj.weight", 4)
    positions = _shape(shapes, "pos_embed.pos_embed", 3)[1]
    layers = _count(shapes, "transformer_blocks")
    width, side = patches[0], patches[-1]
    normed = shapes.get("transformer_blocks.0.attn.norm_q.weight")
    head = normed[0] if normed else _HEAD
    return {
        "_class_name": "SD3Transformer2DModel",
        "attention_head_dim": head,
        "caption_projection_dim": _shape(shapes, "context_embedder.weight", 2)[0],
        "dual_attention_layers": [i for i in range(layers) if f"transformer_blocks.{i}.attn2.to_q.weight" in shapes],
        "in_channels": patches[1],
        "joint_attention_dim": _shape(shapes, "context_embedder.weight", 2)[1],
        "num_attention_heads": _divided(width, head),
        "num_layers": layers,
        "out_channels": _divided(_shape(shapes, "proj_out.weight", 2)[0], side * side),
        "patch_size": side,
        "pooled_projection_dim": _shape(shapes, "time_text_embed.text_embedder.linear_1.weight", 2)[1],
        "pos_embed_max_size": isqrt(positions),
        "qk_norm": "rms_norm" if normed else None,
        "sample_size": 128,
    }


def flux(shapes: Shapes) -> Config:
    """``FluxTransformer2DModel``; dev takes a scale of guidance, schnell none. Raises :class:`Incomplete`."""
    width, channels = _shape(shapes, "x_embedder.weight", 2)
    head = _shape(shapes, "transformer_blocks.0.attn.norm_q.weight", 1)[0]
    return {
        "_class_name": "FluxTransformer2DModel",
        "attention_head_dim": head,
        "axes_dims_rope": [head // 8, *([_divided(head - head // 8, 2)] * 2)],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
        "in_channels": channels,
        "joint_attention_dim": _shape(shapes, "context_embedder.weight", 2)[1],
        "num_attention_heads": _divided(width, head),
        "num_layers": _count(shapes, "transformer_blocks"),
        "num_single_layers": _count(shapes, "single_transformer_blocks"),
        "out_channels": _shape(shapes, "proj_out.weight", 2)[0],
        "patch_size": 1,
        "pooled_projection_dim": _shape(shapes, "time_text_embed.text_embedder.linear_1.weight", 2)[1],
    }


def t5(shapes: Shapes) -> Config:
    """``T5EncoderModel`` of T5 1.1. Raises :class:`Incomplete`."""
    first = "encoder.block.0.layer.0.SelfAttention"
    vocabulary, width = _shape(shapes, "shared.weight", 2)
    buckets, heads = _shape(shapes, f"{first}.relative_attention_bias.weight", 2)
    return {
        "architectures": ["T5EncoderModel"],
        "d_ff": _shape(shapes, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 2)[0],
        "d_kv": _divided(_shape(shapes, f"{first}.q.weight", 2)[0], heads),
        "d_model": width,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "layer_norm_epsilon": 1e-06,
        "num_heads": heads,
        "num_layers": _count(shapes, "encoder.block"),
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": buckets,
        "tie_word_embeddings": False,
        "use_cache": False,
        "vocab_size": vocabulary,
    }


def _shape(shapes: Shapes, name: str, dimensions: int) -> Shape:
    shape = shapes.get(name)
    if shape is None:
        raise Incomplete((name,))
    if len(shape) != dimensions or 0 in shape:
        raise ConversionError(f"the tensor {name!r:.100} of shape {list(shape)} has not the dimensions that it should")
    return shape


def _divided(number: int, by: int) -> int:
    if by < 1 or number % by:
        raise ConversionError(f"diffusers has no network whose widths are {number} and {by}")
    return number // by


def _count(shapes: Shapes, blocks: str) -> int:
    start = len(blocks) + 1
    return len({name[start:].partition(".")[0] for name in shapes if name.startswith(f"{blocks}.")})
