"""FLUX, FLUX.2, Chroma, Z-Image and SD 3 under their own and under diffusers' names: which rows of a fused matrix each
of diffusers' is.

Sources: black-forest-labs/flux ``modules/layers.py``, Stability-AI/sd3.5 ``mmditx.py``, diffusers'
``scripts/convert_flux_to_diffusers.py``, ``scripts/convert_flux2_to_diffusers.py``,
``scripts/convert_sd3_to_diffusers.py`` and, of Chroma, ``loaders/single_file_utils.py``; of Z-Image ComfyUI's
``comfy/utils.py``; XLabs-AI/x-flux ``modules/layers.py`` for the processors that its LoRAs are named by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modelhub.convert.layouts import Shapes

_ENDINGS = (".weight", ".scale", ".bias")


@dataclass(frozen=True, slots=True)
class Fused:
    """A module of *native* name whose rows are those of the *diffusers* modules, one after the other.

    ``rows`` are how many each has; empty: equally many. ``swapped``: the two halves stand the other way round there
    (``AdaLayerNormContinuous`` has scale before shift, the original shift before scale). ``qkv`` is what XLabs calls
    the first three together.
    """

    native: str
    diffusers: tuple[str, ...]
    rows: tuple[int, ...] = ()
    swapped: bool = False
    qkv: str = ""


def places(shapes: Shapes) -> Iterator[Fused]:
    """The modules of a transformer with these names, without prefix and of either sort; none of what is no such one."""
    if "double_stream_modulation_img.lin.weight" in shapes:
        yield from _flux_2(_count(shapes, "double_blocks"), _count(shapes, "single_blocks"))
    elif "double_stream_modulation_img.linear.weight" in shapes:
        yield from _flux_2(_count(shapes, "transformer_blocks"), _count(shapes, "single_transformer_blocks"))
    elif "double_blocks.0.img_attn.qkv.weight" in shapes:
        yield from _flux(shapes, "double_blocks", "single_blocks", "img_in.weight")
    elif "single_transformer_blocks.0.attn.to_q.weight" in shapes:
        yield from _flux(shapes, "transformer_blocks", "single_transformer_blocks", "x_embedder.weight")
    elif "noise_refiner.0.attention.to_q.weight" in shapes or _is_fused(shapes.get(_Z_IMAGE, ())):
        for name in ("layers", "noise_refiner", "context_refiner"):
            yield from _z_image(name, _count(shapes, name))
        for end in ("x_embedder", "final_layer.linear", "final_layer.adaLN_modulation.1"):
            family, _, rest = end.partition(".")
            yield Fused(end, (f"all_{family}.2-1" + (f".{rest}" if rest else ""),))
    elif "joint_blocks.0.x_block.attn.qkv.weight" in shapes:
        yield from _sd3(_count(shapes, "joint_blocks"))
    elif "transformer_blocks.0.attn.add_k_proj.weight" in shapes and "pos_embed.proj.weight" in shapes:
        yield from _sd3(_count(shapes, "transformer_blocks"))


def tensors_of(stem: str, shapes: Mapping[str, object]) -> Iterator[str]:
    """The names of the tensors that the module *stem* has among *shapes*."""
    return (stem + ending for ending in _ENDINGS if stem + ending in shapes)


def _count(shapes: Shapes, blocks: str) -> int:
    start = len(blocks) + 1
    numbers = {name[start:].partition(".")[0] for name in shapes if name.startswith(f"{blocks}.")}
    return sum(number.isdecimal() for number in numbers)


def _flux(shapes: Shapes, doubles: str, singles: str, embedder: str) -> Iterator[Fused]:
    for native, diffusers in {
        "img_in": "x_embedder",
        "txt_in": "context_embedder",
        "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
        "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
        "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
        "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
        "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
        "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
        "final_layer.linear": "proj_out",
    }.items():
        yield Fused(native, (diffusers,))
    for i in range(_count(shapes, "distilled_guidance_layer.layers")):  # Chroma's
        layer = f"distilled_guidance_layer.layers.{i}"
        yield Fused(f"{layer}.in_layer", (f"{layer}.linear_1",))
        yield Fused(f"{layer}.out_layer", (f"{layer}.linear_2",))
    yield Fused("final_layer.adaLN_modulation.1", ("norm_out.linear",), swapped=True)
    for i in range(_count(shapes, doubles)):
        native, block = f"double_blocks.{i}", f"transformer_blocks.{i}"
        yield from _double(native, block)
        for theirs, ours in {
            "img_mod.lin": "norm1.linear",
            "txt_mod.lin": "norm1_context.linear",
            "img_mlp.0": "ff.net.0.proj",
            "img_mlp.2": "ff.net.2",
            "txt_mlp.0": "ff_context.net.0.proj",
            "txt_mlp.2": "ff_context.net.2",
        }.items():
            yield Fused(f"{native}.{theirs}", (f"{block}.{ours}",))
    hidden = (shapes.get(embedder) or (0,))[0]
    for i in range(_count(shapes, singles)):
        native, block = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        fused = shapes.get(f"{native}.linear1.weight") or shapes.get(f"{block}.proj_mlp.weight") or (0,)
        mlp = fused[0] - 3 * hidden if f"{native}.linear1.weight" in shapes else fused[0]
        names = (*(f"{block}.attn.to_{m}" for m in "qkv"), f"{block}.proj_mlp")
        yield Fused(f"{native}.linear1", names, (hidden, hidden, hidden, mlp), qkv=f"{native}.qkv")
        for theirs, ours in {
            "linear2": "proj_out",
            "modulation.lin": "norm.linear",
            "norm.query_norm": "attn.norm_q",
            "norm.key_norm": "attn.norm_k",
        }.items():
            yield Fused(f"{native}.{theirs}", (f"{block}.{ours}",))


def _double(native: str, block: str) -> Iterator[Fused]:
    """The attention of a double block of either FLUX."""
    yield Fused(f"{native}.img_attn.qkv", tuple(f"{block}.attn.to_{m}" for m in "qkv"))
    yield Fused(f"{native}.txt_attn.qkv", tuple(f"{block}.attn.add_{m}_proj" for m in "qkv"))
    for theirs, ours in {
        "img_attn.proj": "attn.to_out.0",
        "txt_attn.proj": "attn.to_add_out",
        "img_attn.norm.query_norm": "attn.norm_q",
        "img_attn.norm.key_norm": "attn.norm_k",
        "txt_attn.norm.query_norm": "attn.norm_added_q",
        "txt_attn.norm.key_norm": "attn.norm_added_k",
    }.items():
        yield Fused(f"{native}.{theirs}", (f"{block}.{ours}",))


def _flux_2(doubles: int, singles: int) -> Iterator[Fused]:
    for native, diffusers in {
        "img_in": "x_embedder",
        "txt_in": "context_embedder",
        "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
        "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
        "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
        "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
        "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
        "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
        "single_stream_modulation.lin": "single_stream_modulation.linear",
        "final_layer.linear": "proj_out",
    }.items():
        yield Fused(native, (diffusers,))
    yield Fused("final_layer.adaLN_modulation.1", ("norm_out.linear",), swapped=True)
    for i in range(doubles):
        native, block = f"double_blocks.{i}", f"transformer_blocks.{i}"
        yield from _double(native, block)
        for theirs, ours in {
            "img_mlp.0": "ff.linear_in",
            "img_mlp.2": "ff.linear_out",
            "txt_mlp.0": "ff_context.linear_in",
            "txt_mlp.2": "ff_context.linear_out",
        }.items():
            yield Fused(f"{native}.{theirs}", (f"{block}.{ours}",))
    for i in range(singles):
        native, block = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        for theirs, ours in {
            "linear1": "attn.to_qkv_mlp_proj",
            "linear2": "attn.to_out",
            "norm.query_norm": "attn.norm_q",
            "norm.key_norm": "attn.norm_k",
        }.items():
            yield Fused(f"{native}.{theirs}", (f"{block}.{ours}",))


_Z_IMAGE = "noise_refiner.0.attention.qkv.weight"
"""Lumina 2 has it too, with fewer heads for keys and values."""


def _is_fused(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[0] == 3 * shape[1]


def _z_image(name: str, blocks: int) -> Iterator[Fused]:
    for i in range(blocks):
        block = f"{name}.{i}.attention"
        yield Fused(f"{block}.qkv", tuple(f"{block}.to_{m}" for m in "qkv"))
        for theirs, ours in {"out": "to_out.0", "q_norm": "norm_q", "k_norm": "norm_k"}.items():
            yield Fused(f"{block}.{theirs}", (f"{block}.{ours}",))


def _sd3(blocks: int) -> Iterator[Fused]:
    for native, diffusers in {
        "x_embedder.proj": "pos_embed.proj",
        "context_embedder": "context_embedder",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
        "final_layer.linear": "proj_out",
    }.items():
        yield Fused(native, (diffusers,))
    yield Fused("final_layer.adaLN_modulation.1", ("norm_out.linear",), swapped=True)
    for i in range(blocks):
        image, text, block = f"joint_blocks.{i}.x_block", f"joint_blocks.{i}.context_block", f"transformer_blocks.{i}"
        yield Fused(f"{image}.attn.qkv", tuple(f"{block}.attn.to_{m}" for m in "qkv"))
        yield Fused(f"{image}.attn2.qkv", tuple(f"{block}.attn2.to_{m}" for m in "qkv"))
        yield Fused(f"{text}.attn.qkv", tuple(f"{block}.attn.add_{m}_proj" for m in "qkv"))
        for theirs, ours in {
            f"{image}.attn.proj": "attn.to_out.0",
            f"{image}.attn2.proj": "attn2.to_out.0",
            f"{text}.attn.proj": "attn.to_add_out",
            f"{image}.mlp.fc1": "ff.net.0.proj",
            f"{image}.mlp.fc2": "ff.net.2",
            f"{text}.mlp.fc1": "ff_context.net.0.proj",
            f"{text}.mlp.fc2": "ff_context.net.2",
            f"{image}.adaLN_modulation.1": "norm1.linear",
            f"{image}.attn.ln_q": "attn.norm_q",
            f"{image}.attn.ln_k": "attn.norm_k",
            f"{image}.attn2.ln_q": "attn2.norm_q",
            f"{image}.attn2.ln_k": "attn2.norm_k",
            f"{text}.attn.ln_q": "attn.norm_added_q",
            f"{text}.attn.ln_k": "attn.norm_added_k",
        }.items():
            yield Fused(theirs, (f"{block}.{ours}",))
        last = i == blocks - 1  # its context is only normalised, by AdaLayerNormContinuous
        yield Fused(f"{text}.adaLN_modulation.1", (f"{block}.norm1_context.linear",), swapped=last)
