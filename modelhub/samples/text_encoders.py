"""Names and shapes of the CLIP text encoders, as transformers (``CLIPTextModel``) and as OpenCLIP name them.

Widths and depths: openai/clip-vit-large-patch14 (L), laion/CLIP-ViT-H-14 (H) and CLIP-ViT-bigG-14 (G).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelhub.samples.modules import Named, linear, norm, scaler

_VOCABULARY = 49408
_POSITIONS = 77


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """Hidden width and number of layers; the MLP is so many *times* as wide."""

    width: int
    layers: int
    times: int = 4


CLIP_L = TextEncoder(768, 12)
CLIP_H = TextEncoder(1024, 24)
CLIP_G = TextEncoder(1280, 32)


def encoder_matrices(encoder: TextEncoder, hidden: int) -> Iterator[tuple[str, int, int]]:
    """``(name, outputs, inputs)`` of every matrix in transformers' layers, *hidden* being their width."""
    for layer in range(encoder.layers):
        prefix = f"text_model.encoder.layers.{layer}"
        for matrix in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield f"{prefix}.self_attn.{matrix}", hidden, hidden
        yield f"{prefix}.mlp.fc1", hidden * encoder.times, hidden
        yield f"{prefix}.mlp.fc2", hidden, hidden * encoder.times


def clip_text_model(encoder: TextEncoder, width: float = 1.0) -> Named:
    """transformers' names and shapes; ``position_ids`` included, as files of its time have it.

    *width* scales the layers and the vocabulary, not the width of the embedding tables.
    """
    scale = scaler(width)
    hidden = scale(encoder.width)
    yield "text_model.embeddings.position_ids", (1, _POSITIONS)
    yield "text_model.embeddings.token_embedding.weight", (scale(_VOCABULARY), encoder.width)
    yield "text_model.embeddings.position_embedding.weight", (_POSITIONS, encoder.width)
    for name, outputs, inputs in encoder_matrices(encoder, hidden):
        layer, _, matrix = name.rpartition(".")
        if matrix == "fc1":
            yield from norm(layer.replace(".mlp", ".layer_norm1"), hidden)
        yield from linear(name, outputs, inputs)
        if matrix == "fc2":
            yield from norm(layer.replace(".mlp", ".layer_norm2"), hidden)
    yield from norm("text_model.final_layer_norm", hidden)


def open_clip(encoder: TextEncoder, width: float = 1.0) -> Named:
    """OpenCLIP's names and shapes, scaled as in :func:`clip_text_model`."""
    scale = scaler(width)
    hidden = scale(encoder.width)
    yield "positional_embedding", (_POSITIONS, encoder.width)
    yield "text_projection", (hidden, hidden)
    yield "logit_scale", ()
    for layer in range(encoder.layers):
        prefix = f"transformer.resblocks.{layer}"
        yield from norm(f"{prefix}.ln_1", hidden)
        yield f"{prefix}.attn.in_proj_weight", (hidden * 3, hidden)
        yield f"{prefix}.attn.in_proj_bias", (hidden * 3,)
        yield from linear(f"{prefix}.attn.out_proj", hidden, hidden)
        yield from norm(f"{prefix}.ln_2", hidden)
        yield from linear(f"{prefix}.mlp.c_fc", hidden * encoder.times, hidden)
        yield from linear(f"{prefix}.mlp.c_proj", hidden, hidden * encoder.times)
    yield "token_embedding.weight", (scale(_VOCABULARY), encoder.width)
    yield from norm("ln_final", hidden)
