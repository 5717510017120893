"""A CLIP model with both its towers, told without torch: it says how well an image shows its prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping

from modelhub.container import open_path
from modelhub.smoke.parts import NotTestable, file_of, require_safe
from modelhub.smoke.spec import ClipSpec, TensorView
from modelhub.tensors import StateDict

_TEXT, _VISION = "text_model.", "vision_model."
_NEEDED = (
    "text_model.embeddings.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight",
    "vision_model.embeddings.class_embedding",
    "vision_model.embeddings.patch_embedding.weight",
    "vision_model.embeddings.position_embedding.weight",
    "text_projection.weight",
    "visual_projection.weight",
)
_MLP = "encoder.layers.0.mlp.fc1.weight"
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")
_HEAD_WIDTH, _WIDE_VISION, _WIDE_HEADS = 64, 1024, 16
"""Values in a head; the published vision towers from ViT-L on have 16 heads however wide they are."""

_OPENAI_WIDTHS = frozenset({512, 768})
"""Widths of the text towers of OpenAI's models, whose activation is the quick one; OpenCLIP's larger ones have the
exact one."""


def clip_of(path: str) -> ClipSpec:
    """The CLIP model in the safetensors file *path*, under transformers' names.

    Raises :class:`NotTestable` for what is none or is not safe, and :class:`~modelhub.errors.SourceError` when it
    cannot be had.
    """
    with open_path(path) as container:
        require_safe(container)
        state_dict = container.state_dict
        absent = next((name for name in _NEEDED if name not in (state_dict or {})), None)
        if state_dict is None or container.source is None or absent is not None:
            raise NotTestable(f"it is no CLIP model with both towers: there is no {absent}")
        tensors = {
            name: TensorView(0, name)
            for name in state_dict
            if name.startswith((_TEXT, _VISION, "text_projection.", "visual_projection.", "logit_scale"))
        }
        words = state_dict[_NEEDED[0]].shape[:1]
        return ClipSpec(path, (file_of(container),), _config(state_dict), tensors, *words)


def _config(state_dict: StateDict) -> Mapping[str, object]:
    """What ``CLIPConfig`` takes, from the shapes."""

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        found = tuple(state_dict[name].shape)
        if len(found) != dimensions or 0 in found:
            raise NotTestable(f"it is no CLIP model: its tensor {name!r} has the shape {list(found)}")
        return found

    def tower(prefix: str, width: int) -> dict[str, object]:
        layers = {int(match[1]) for name in state_dict if (match := _LAYER.match(name.removeprefix(prefix)))}
        inner = shape(prefix + _MLP, 2)[0] if prefix + _MLP in state_dict else 4 * width
        return {
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": max(layers, default=-1) + 1,
            "num_attention_heads": max(1, width // _HEAD_WIDTH),
            "hidden_act": "quick_gelu" if shape(_NEEDED[0], 2)[1] in _OPENAI_WIDTHS else "gelu",
            "projection_dim": shape("text_projection.weight", 2)[0],
        }

    words, width = shape(_NEEDED[0], 2)
    vision_width, _, patch, _ = shape(_NEEDED[3], 4)
    text = tower(_TEXT, width) | {
        "vocab_size": words,
        "max_position_embeddings": shape(_NEEDED[1], 2)[0],
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
    }
    vision = tower(_VISION, vision_width) | {
        "patch_size": patch,
        "image_size": patch * round((shape(_NEEDED[4], 2)[0] - 1) ** 0.5),
    }
    if vision_width >= _WIDE_VISION:
        vision["num_attention_heads"] = _WIDE_HEADS
    return {"text_config": text, "vision_config": vision, "projection_dim": shape("text_projection.weight", 2)[0]}
