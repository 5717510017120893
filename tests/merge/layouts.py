"""Published transformers in the layouts that users have, and which rows of which tensor of their authors' layout each
of diffusers' layers is. The converters that say so are diffusers' own; where it has none, the rows are written here.

Names and widths are those of whole models: of their authors' from :mod:`tests.identify.keylists.originals` and the
tables here, of diffusers' from its classes (``tests/identify/keylists/make.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from diffusers.loaders import single_file_utils as converters

from tests.identify.keylists import modules
from tests.identify.keylists import originals as o

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Run = tuple[str, int, int, int]
"""A layer, its rows from the one to the other, and the row of the whole that the first of them is."""


class Model(NamedTuple):
    """A model of diffusers' list *diffusers*: the layers that its authors call otherwise (*authors*, with outputs and
    inputs, and *ends*, each after the one of diffusers' that has its shape), those that both call the same (*same*, a
    pattern), the converter that says what diffusers makes of them, and how others rename the authors' (*renamed*)."""

    diffusers: str
    authors: o.Layers
    converter: str
    ends: Mapping[str, str] = {}
    same: str = "(?!)"
    renamed: tuple[tuple[str, str], ...] = ()


TIME = {"t_embedder.mlp.0": "{}.linear_1", "t_embedder.mlp.2": "{}.linear_2"}


def time(name: str) -> dict[str, str]:
    return {ours: theirs.format(name) for ours, theirs in TIME.items()}


REFINED = "context_embedder.time_text_embed"
HUNYUAN = {
    "img_in.proj": "x_embedder.proj",
    "txt_in.input_embedder": "context_embedder.proj_in",
    "txt_in.t_embedder.mlp.0": f"{REFINED}.timestep_embedder.linear_1",
    "txt_in.t_embedder.mlp.2": f"{REFINED}.timestep_embedder.linear_2",
    "txt_in.c_embedder.linear_1": f"{REFINED}.text_embedder.linear_1",
    "txt_in.c_embedder.linear_2": f"{REFINED}.text_embedder.linear_2",
    "time_in.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "time_in.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "guidance_in.mlp.0": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.mlp.2": "time_text_embed.guidance_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
TOKENS = "context_embedder.token_refiner.refiner_blocks"
PARTS = {
    "transformer-pixart-alpha": {
        "blocks.#.attn.qkv": " ".join(f"transformer_blocks.#.attn1.to_{each}" for each in "qkv"),
        "blocks.#.attn.proj": "transformer_blocks.#.attn1.to_out.0",
        "blocks.#.cross_attn.q_linear": "transformer_blocks.#.attn2.to_q",
        "blocks.#.cross_attn.kv_linear": "transformer_blocks.#.attn2.to_k transformer_blocks.#.attn2.to_v",
        "blocks.#.cross_attn.proj": "transformer_blocks.#.attn2.to_out.0",
        "blocks.#.mlp.fc1": "transformer_blocks.#.ff.net.0.proj",
        "blocks.#.mlp.fc2": "transformer_blocks.#.ff.net.2",
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
        "csize_embedder.mlp.0": "adaln_single.emb.resolution_embedder.linear_1",
        "csize_embedder.mlp.2": "adaln_single.emb.resolution_embedder.linear_2",
        "ar_embedder.mlp.0": "adaln_single.emb.aspect_ratio_embedder.linear_1",
        "ar_embedder.mlp.2": "adaln_single.emb.aspect_ratio_embedder.linear_2",
        "t_block.1": "adaln_single.linear",
        "y_embedder.y_proj.fc1": "caption_projection.linear_1",
        "y_embedder.y_proj.fc2": "caption_projection.linear_2",
        "final_layer.linear": "proj_out",
    },
    "transformer-hunyuan-dit": {
        "blocks.#.attn1.Wqkv": "blocks.#.attn1.to_q blocks.#.attn1.to_k blocks.#.attn1.to_v",
        "blocks.#.attn1.out_proj": "blocks.#.attn1.to_out.0",
        "blocks.#.attn2.q_proj": "blocks.#.attn2.to_q",
        "blocks.#.attn2.kv_proj": "blocks.#.attn2.to_k blocks.#.attn2.to_v",
        "blocks.#.attn2.out_proj": "blocks.#.attn2.to_out.0",
        "blocks.#.mlp.fc1": "blocks.#.ff.net.0.proj",
        "blocks.#.mlp.fc2": "blocks.#.ff.net.2",
        "blocks.#.default_modulation.1": "blocks.#.norm1.linear",
        "blocks.#.skip_linear": "blocks.#.skip_linear",
        "extra_embedder.0": "time_extra_emb.extra_embedder.linear_1",
        "extra_embedder.2": "time_extra_emb.extra_embedder.linear_2",
        "pooler.q_proj": "time_extra_emb.pooler.q_proj",
        "t_embedder.mlp.0": "time_extra_emb.timestep_embedder.linear_1",
        "mlp_t5.0": "text_embedder.linear_1",
        "x_embedder.proj": "pos_embed.proj",
        "final_layer.linear": "proj_out",
    },
    "transformer-hunyuan-video-1.5": {
        **{
            f"double_blocks.#.{ours}": f"transformer_blocks.#.{theirs}"
            for ours, theirs in {
                **{f"img_attn_{each}": f"attn.to_{each}" for each in "qkv"},
                **{f"txt_attn_{each}": f"attn.add_{each}_proj" for each in "qkv"},
                "img_attn_proj": "attn.to_out.0",
                "txt_attn_proj": "attn.to_add_out",
                "img_mod.linear": "norm1.linear",
                "txt_mod.linear": "norm1_context.linear",
                "img_mlp.fc1": "ff.net.0.proj",
                "img_mlp.fc2": "ff.net.2",
                "txt_mlp.fc1": "ff_context.net.0.proj",
                "txt_mlp.fc2": "ff_context.net.2",
            }.items()
        },
        **{
            f"txt_in.individual_token_refiner.blocks.#.{ours}": f"{TOKENS}.#.{theirs}"
            for ours, theirs in {
                **{f"self_attn_{each}": f"attn.to_{each}" for each in "qkv"},
                "self_attn_proj": "attn.to_out.0",
                "mlp.fc1": "ff.net.0.proj",
                "mlp.fc2": "ff.net.2",
                "adaLN_modulation.1": "norm_out.linear",
            }.items()
        },
        "byt5_in.fc1": "context_embedder_2.linear_1",
        "vision_in.proj.3": "image_embedder.linear_2",
        "time_in.mlp.0": "time_embed.timestep_embedder.linear_1",
        "img_in.proj": "x_embedder.proj",
        "final_layer.linear": "proj_out",
    },
}
"""Of models that diffusers has no converter of: the parts in its layout of their authors' layers, in their order."""

COMFY_HUNYUAN = (
    (r"txt_in\.t_embedder\.mlp\.0", "txt_in.t_embedder.in_layer"),
    (r"txt_in\.t_embedder\.mlp\.2", "txt_in.t_embedder.out_layer"),
    (r"txt_in\.c_embedder\.linear_1", "txt_in.c_embedder.in_layer"),
    (r"txt_in\.c_embedder\.linear_2", "txt_in.c_embedder.out_layer"),
    (r"(_mod|modulation)\.linear", r"\1.lin"),
    (r"_attn_(qkv|proj)$", r"_attn.\1"),
    (r"mlp\.fc1", "mlp.0"),
    (r"mlp\.fc2", "mlp.2"),
    (r"^(time|guidance)_in\.mlp\.0", r"\1_in.in_layer"),
    (r"^(time|guidance)_in\.mlp\.2", r"\1_in.out_layer"),
)
"""What ComfyUI makes of HunyuanVideo's names (``supported_models.py``)."""

MODELS = {
    "flux-dev": Model("transformer-flux-dev", o.flux(), "convert_flux_transformer_checkpoint_to_diffusers"),
    "chroma": Model(
        "transformer-chroma", o.flux(modulation=False), "convert_chroma_transformer_checkpoint_to_diffusers"
    ),
    "flux-2-dev": Model(
        "transformer-flux-2-dev",
        o.flux_2(6144, 8, 48, 15360),
        "convert_flux2_transformer_checkpoint_to_diffusers",
        {
            "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
            "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
        },
    ),
    "flux-2-klein": Model(
        "transformer-flux-2-klein-4b",
        o.flux_2(3072, 5, 20, 7680),
        "convert_flux2_transformer_checkpoint_to_diffusers",
    ),
    "sd-3-medium": Model(
        "transformer-sd-3-medium", o.sd_3(1536, 24), "convert_sd3_transformer_checkpoint_to_diffusers"
    ),
    "sd-3.5-medium": Model(
        "transformer-sd-3.5-medium", o.sd_3(1536, 24, dual=13), "convert_sd3_transformer_checkpoint_to_diffusers"
    ),
    "sd-3.5-large": Model(
        "transformer-sd-3.5-large", o.sd_3(2432, 38), "convert_sd3_transformer_checkpoint_to_diffusers"
    ),
    "wan-2.1-1.3b": Model(
        "transformer-wan-t2v-1.3b", o.wan(1536, 30, 8960), "convert_wan_transformer_to_diffusers", {}, "patch_embedding"
    ),
    "wan-2.1-i2v": Model(
        "transformer-wan-i2v-14b",
        o.wan(5120, 40, 13824, image=True),
        "convert_wan_transformer_to_diffusers",
        {},
        "patch_embedding",
    ),
    "wan-2.2-14b": Model(
        "transformer-wan-2.2-i2v-a14b",
        o.wan(5120, 40, 13824),
        "convert_wan_transformer_to_diffusers",
        {},
        "patch_embedding",
    ),
    "wan-2.2-5b": Model(
        "transformer-wan-2.2-ti2v-5b",
        o.wan(3072, 30, 14336),
        "convert_wan_transformer_to_diffusers",
        {},
        "patch_embedding",
    ),
    "wan-vace": Model(
        "transformer-wan-vace-1.3b",
        o.wan(1536, 30, 8960) | o.vace(1536, 15, 8960),
        "convert_wan_transformer_to_diffusers",
        {},
        "(vace_)?patch_embedding",
    ),
    "hunyuan-video": Model(
        "transformer-hunyuan-video",
        o.hunyuan_video(3072, 20, 40),
        "convert_hunyuan_video_transformer_to_diffusers",
        HUNYUAN,
        renamed=COMFY_HUNYUAN,
    ),
    "ltx-video": Model(
        "transformer-ltx-2b",
        o.ltx_video(2048),
        "convert_ltx_transformer_checkpoint_to_diffusers",
        {},
        "caption_projection.+|transformer_blocks.+|proj_out",
    ),
    "ltx-2": Model(
        "transformer-ltx-2",
        {name: size for name, size in o.ltx_2().items() if not re.search("gate_logits|prompt|^(audio_)?adaln", name)},
        "convert_ltx2_transformer_to_diffusers",
        {
            f"{ours}.{end}": f"{theirs}.{end}"
            for ours, theirs in (("adaln_single", "time_embed"), ("audio_adaln_single", "audio_time_embed"))
            for end in ("linear", "emb.timestep_embedder.linear_1", "emb.timestep_embedder.linear_2")
        },
        "(audio_)?caption_projection.+",
    ),
    "mochi": Model(
        "transformer-mochi",
        {name: size for name, size in o.mochi().items() if not re.match(r"blocks\.47\.(mod_y|attn\.proj_y)", name)},
        "convert_mochi_transformer_checkpoint_to_diffusers",
        {
            "x_embedder.proj": "patch_embed.proj",
            **time("time_embed.timestep_embedder"),
            "t5_y_embedder.to_kv": "time_embed.pooler.to_kv",
            "t5_y_embedder.to_q": "time_embed.pooler.to_q",
            "t5_y_embedder.to_out": "time_embed.pooler.to_out",
            "t5_yproj": "time_embed.caption_proj",
            "blocks.47.mod_y": "transformer_blocks.47.norm1_context.linear_1",
            **{f"blocks.{i}.mlp_y.w1": f"transformer_blocks.{i}.ff_context.net.0.proj" for i in range(47)},
            **{f"blocks.{i}.mlp_y.w2": f"transformer_blocks.{i}.ff_context.net.2" for i in range(47)},
            "final_layer.mod": "norm_out.linear",
            "final_layer.linear": "proj_out",
        },
    ),
    "auraflow": Model(
        "transformer-auraflow",
        o.auraflow(),
        "convert_auraflow_transformer_checkpoint_to_diffusers",
        {
            "init_x_linear": "pos_embed.proj",
            "cond_seq_linear": "context_embedder",
            **time("time_step_proj"),
            "modF.1": "norm_out.linear",
            "final_linear": "proj_out",
        },
    ),
    "sana": Model(
        "transformer-sana-1600m",
        o.sana(2240, 20),
        "convert_sana_transformer_to_diffusers",
        {
            "x_embedder.proj": "patch_embed.proj",
            **time("time_embed.emb.timestep_embedder"),
            "t_block.1": "time_embed.linear",
            "y_embedder.y_proj.fc1": "caption_projection.linear_1",
            "y_embedder.y_proj.fc2": "caption_projection.linear_2",
            **{
                f"blocks.{i}.mlp.{ours}.conv": f"transformer_blocks.{i}.ff.{theirs}"
                for i in range(20)
                for ours, theirs in (
                    ("inverted_conv", "conv_inverted"),
                    ("depth_conv", "conv_depth"),
                    ("point_conv", "conv_point"),
                )
            },
            "final_layer.linear": "proj_out",
        },
    ),
    "lumina-2": Model(
        "transformer-lumina-2",
        o.lumina(2304, 26, 3840, 9216, 1, 1024),
        "convert_lumina2_to_diffusers",
        {
            **time("time_caption_embed.timestep_embedder"),
            "cap_embedder.1": "time_caption_embed.caption_embedder.1",
            "final_layer.adaLN_modulation.1": "norm_out.linear_1",
            "final_layer.linear": "norm_out.linear_2",
        },
        "x_embedder",
    ),
    "z-image": Model(
        "transformer-z-image",
        o.lumina(3840, 30, 11520, 10240, 0, 256),
        "convert_z_image_transformer_checkpoint_to_diffusers",
        {
            "x_embedder": "all_x_embedder.2-1",
            "final_layer.linear": "all_final_layer.2-1.linear",
            "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
        },
        "t_embedder.+|cap_embedder.+",
    ),
    "cosmos-predict-2": Model(
        "transformer-cosmos-2-2b",
        o.cosmos_2(2048, 28),
        "convert_cosmos_transformer_checkpoint_to_diffusers",
        {
            "x_embedder.proj.1": "patch_embed.proj",
            "t_embedder.1.linear_1": "time_embed.t_embedder.linear_1",
            "t_embedder.1.linear_2": "time_embed.t_embedder.linear_2",
            "final_layer.adaln_modulation.1": "norm_out.linear_1",
            "final_layer.adaln_modulation.2": "norm_out.linear_2",
            "final_layer.linear": "proj_out",
        },
    ),
    "animatediff": Model(
        "motion-sd-1-v2",
        {},
        "convert_animatediff_checkpoint_to_diffusers",
        {
            re.sub(r"(motion_modules\.\d)", r"\1.temporal_transformer", name)
            .replace("attn1", "attention_blocks.0")
            .replace("attn2", "attention_blocks.1"): name
            for name, shape in (
                (tensor.removesuffix(".weight"), shape) for tensor, shape in modules()["motion-sd-1-v2"].items()
            )
            if len(shape) == 2
        },
    ),
    "pixart": Model("transformer-pixart-alpha", {}, ""),
    "hunyuan-dit": Model("transformer-hunyuan-dit", {}, ""),
    "hunyuan-video-1.5": Model("transformer-hunyuan-video-1.5", {}, ""),
    "krea-2": Model("transformer-krea-2", o.krea_2(), "convert_krea2_transformer_checkpoint_to_diffusers"),
}


class Layouts(NamedTuple):
    """The matrices of a model in its authors' and in diffusers' layout, and which rows of the authors' layers each of
    diffusers' is."""

    authors: Shapes
    diffusers: Shapes
    rows: dict[str, tuple[Run, ...]]


@cache
def layouts(model: str) -> Layouts:
    """Every row of every layer of the authors' layout has a number of its own, which the converter moves."""
    diffusers, layers, converter, ends, same, _ = MODELS[model]
    theirs = {name.removesuffix(".weight"): shape for name, shape in modules()[diffusers].items()
              if name.endswith(".weight") and len(shape) > 1}  # fmt: skip
    if not converter:
        return _written(theirs, PARTS[diffusers])
    authors: Shapes = {**layers, **{ours: theirs[name] for ours, name in ends.items()}}
    authors |= {name: shape for name, shape in theirs.items() if re.fullmatch(same, name)}
    names = list(authors)
    numbered = {
        f"{name}.weight": torch.arange(shape[0], dtype=torch.int64)[:, None] + (number << 32)
        for number, (name, shape) in enumerate(authors.items())
    }
    numbered |= {f"{name}.bias": torch.full(shape[:1], -1) for name, shape in authors.items()}
    made = getattr(converters, converter)(_Numbered(numbered))
    rows: dict[str, tuple[Run, ...]] = {}
    for name, tensor in made.items():
        stem = name.removesuffix(".weight")
        if stem in theirs and tensor is not None:
            values = tensor.flatten()
            assert values.min() >= 0 and len(values) == theirs[stem][0], name
            rows[stem] = tuple(_runs(values, names))
            authors |= {native: (authors[native][0], *theirs[stem][1:]) for native, *_ in rows[stem]}
    assert rows.keys() == theirs.keys(), sorted(theirs.keys() - rows.keys())
    return Layouts(authors, theirs, rows)


def _written(theirs: Shapes, parts: Mapping[str, str]) -> Layouts:
    authors: Shapes = {}
    rows: dict[str, tuple[Run, ...]] = {}
    numbers = sorted({number for name in theirs for number in re.findall(r"blocks\.(\d+)", name)}, key=int)
    for pattern, names in parts.items():
        for number in numbers if "#" in pattern else [""]:
            native, first = pattern.replace("#", number), 0
            for name in names.replace("#", number).split():
                if name in theirs:
                    end = first + theirs[name][0]
                    rows[name] = ((native, first, end, 0),)
                    authors[native] = (end, *theirs[name][1:])
                    first = end
    return Layouts(authors, {name: theirs[name] for name in theirs if name in rows}, rows)


class _Numbered(dict[str, torch.Tensor]):
    """Tensors for a converter, which finds what no LoRA is made for, as norms and biases, too."""

    def pop(self, key: str, *_default: Any) -> Any:
        return super().pop(key, torch.full((6, 1), -1))


def _runs(values: torch.Tensor, names: list[str]) -> Iterable[Run]:
    breaks = (values[1:] - values[:-1] != 1).nonzero().flatten() + 1
    bounds = [0, *breaks.tolist(), len(values)]
    for first, end in pairwise(bounds):
        number, row = divmod(int(values[first]), 1 << 32)
        yield names[number], row, row + end - first, first


def inverse(rows: Mapping[str, tuple[Run, ...]]) -> dict[str, tuple[Run, ...]]:
    """Of each of the authors' layers, the rows of diffusers' that it is."""
    made: dict[str, list[Run]] = {}
    for name, runs in rows.items():
        for native, first, end, at in runs:
            made.setdefault(native, []).append((name, at, at + end - first, first))
    return {name: tuple(joined(found)) for name, found in made.items()}


def joined(runs: Iterable[Run]) -> list[Run]:
    """*runs* in their order in the whole, those that go on together as one."""
    made: list[Run] = []
    for name, first, end, at in sorted(runs, key=lambda run: run[3]):
        if made and made[-1][0] == name and made[-1][2] == first and at == made[-1][3] + made[-1][2] - made[-1][1]:
            made[-1] = (name, made[-1][1], end, made[-1][3])
        else:
            made.append((name, first, end, at))
    return made


def renamed(model: str, name: str) -> str:
    """What ComfyUI calls the authors' layer *name*."""
    for pattern, other in MODELS[model].renamed:
        name = re.sub(pattern, other, name)
    return name
