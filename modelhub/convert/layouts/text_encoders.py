"""CLIP's text encoders in both layouts.

Checkpoints hold CLIP ViT-L under transformers' own names, and CLIP ViT-H and bigG under OpenCLIP's: query, key and
value in one matrix, the projection the other way round (``x @ text_projection``). A folder has all of them under
transformers' names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from modelhub.convert.layouts.base import Modules, Place, Shapes, both

TOKENS = "text_model.embeddings.token_embedding.weight"
POSITIONS = "text_model.embeddings.position_embedding.weight"
PROJECTION = "text_projection.weight"
LAYERS = "text_model.encoder.layers"

CLIP_L_WIDTH = 768
"""Width of CLIP ViT-L, the one encoder that checkpoints hold under transformers' names."""

SD2_LAYERS = 23
"""Layers that SD 2 runs of the 24 of CLIP ViT-H: its configuration asks for the last but one layer's output
(Stability-AI/stablediffusion, ``v2-inference.yaml``), and diffusers leaves the last one out."""

_MODULES = ("layer_norm1", "self_attn.out_proj", "layer_norm2", "mlp.fc1", "mlp.fc2")
_OPEN_CLIP = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def clip_places(shapes: Shapes) -> Iterator[Place]:
    """The places of an encoder that has transformers' names in both layouts."""
    layers = Modules(shapes).count(LAYERS)
    yield _same("text_model.embeddings.position_ids", required=False)
    yield _same(TOKENS)
    yield _same(POSITIONS)
    for i in range(layers):
        for module in (*_MODULES, *(f"self_attn.{matrix}_proj" for matrix in "qkv")):
            yield from both(f"{LAYERS}.{i}.{module}", f"{LAYERS}.{i}.{module}")
    yield from both("text_model.final_layer_norm", "text_model.final_layer_norm")


def open_clip_places(shapes: Shapes) -> Iterator[Place]:
    """The places of an encoder with its projection that has the OpenCLIP names and *shapes* in a checkpoint."""
    return _open_clip(Modules(shapes).count("transformer.resblocks"), projection=True)


def sd2_places(shapes: Shapes) -> Iterator[Place]:
    """The places of SD 2's encoder, likewise."""
    return _open_clip(min(Modules(shapes).count("transformer.resblocks"), SD2_LAYERS), projection=False)


def open_clip_places_in_folder(shapes: Shapes) -> Iterator[Place]:
    """The places of an encoder that has transformers' names and *shapes* in a folder, and OpenCLIP's elsewhere."""
    return _open_clip(Modules(shapes).count(LAYERS), projection=PROJECTION in shapes)


def current_names(names: Shapes) -> Mapping[str, str]:
    """transformers' names with ``text_model.`` before them, to the names as they are in a file.

    Checkpoints by NovelAI and folders by transformers 5.6 and later leave it out.
    """
    if any(name.startswith("text_model.") for name in names):
        return {name: name for name in names}
    return {
        f"text_model.{name}" if name.startswith(("embeddings.", "encoder.", "final_")) else name: name for name in names
    }


def _same(name: str, *, required: bool = True) -> Place:
    return Place(name, (name,), required=required)


def _open_clip(layers: int, *, projection: bool) -> Iterator[Place]:
    yield Place("token_embedding.weight", (TOKENS,))
    yield Place("positional_embedding", (POSITIONS,))
    for i in range(layers):
        ldm, diffusers = f"transformer.resblocks.{i}", f"{LAYERS}.{i}"
        for kind in ("weight", "bias"):
            divided = tuple(f"{diffusers}.self_attn.{matrix}_proj.{kind}" for matrix in "qkv")
            yield Place(f"{ldm}.attn.in_proj_{kind}", divided)
        for theirs, ours in _OPEN_CLIP.items():
            yield from both(f"{ldm}.{theirs}", f"{diffusers}.{ours}")
    yield from both("ln_final", "text_model.final_layer_norm")
    if projection:
        yield Place("text_projection", (PROJECTION,), "transposed")
