"""Both directions equal what diffusers itself makes of the same model: names, shapes and values."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modelhub.convert.layouts import CHECKPOINT, Told, to_diffusers, to_ldm, viewed_shape
from modelhub.samples.layouts import Architecture
from tests.convert.layouts.build import (
    ARCHITECTURES,
    SMALL,
    Weights,
    assert_equal,
    carried_out,
    random_weights,
    shapes_of,
)
from tests.samples.test_layouts_against_diffusers import clip_shapes, text_shapes, unet_shapes, vae_shapes

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
files = pytest.importorskip("diffusers.loaders.single_file_utils")

OPEN_CLIP = {
    "sd-2": ("text_encoder", "cond_stage_model.model."),
    "sdxl": ("text_encoder_2", "conditioner.embedders.1.model."),
    "sdxl-refiner": ("text_encoder_2", "conditioner.embedders.0.model."),
}


def by_diffusers(weights: Weights, architecture: Architecture, configs: Any) -> dict[str, Weights]:
    """The components that diffusers' own converters make of *weights*."""
    made = {
        "unet": files.convert_ldm_unet_checkpoint(dict(weights), configs["unet/config.json"]),
        "vae": files.convert_ldm_vae_checkpoint(dict(weights), configs["vae/config.json"]),
    }
    if architecture in {"sd-1", "sdxl"}:
        made["text_encoder"] = files.convert_ldm_clip_checkpoint(dict(weights))
    if architecture in OPEN_CLIP:
        component, prefix = OPEN_CLIP[architecture]
        made[component] = files.convert_open_clip_checkpoint(SimpleNamespace(), dict(weights), prefix=prefix)
    return made


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_becomes_what_diffusers_makes_of_it(architecture: Architecture) -> None:
    """Every component of a small checkpoint has exactly the tensors of diffusers' converters, bit for bit."""
    weights = random_weights(shapes_of(architecture, width=SMALL))
    layout = to_diffusers({name: tuple(tensor.shape) for name, tensor in weights.items()})
    assert not layout.missing
    expected = by_diffusers(weights, architecture, layout.configs)
    found = carried_out(layout, {CHECKPOINT: weights})
    assert found.keys() == expected.keys()
    for component, tensors in expected.items():
        assert_equal(found[component], tensors)


def text_components(architecture: Architecture) -> dict[str, Any]:
    if architecture == "sd-1":
        return {"text_encoder": clip_shapes("L")}
    if architecture == "sd-2":
        kept = {n: s for n, s in text_shapes("H").items() if ".layers.23." not in n and n != "text_projection.weight"}
        return {"text_encoder": kept}
    both = {"text_encoder": clip_shapes("L"), "text_encoder_2": text_shapes("G")}
    return both if architecture == "sdxl" else {"text_encoder_2": both["text_encoder_2"]}


def folder_shapes(architecture: Architecture) -> dict[str, Any]:
    """Full-size modules as diffusers and transformers build them."""
    return {"unet": unet_shapes(architecture), "vae": vae_shapes(), **text_components(architecture)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folder_becomes_the_checkpoint_that_people_have(architecture: Architecture) -> None:
    """The modules that diffusers builds become the names and shapes of real checkpoints, less what they lack."""
    components = folder_shapes(architecture)
    layout = to_ldm(components)
    assert not layout.missing
    assert not layout.unused
    views_of = layout.components[CHECKPOINT]
    found = {name: viewed_shape(views, components[views[0].component]) for name, views in views_of.items()}
    expected = shapes_of(architecture)
    lacking = expected.keys() - found.keys()
    assert {name: shape for name, shape in expected.items() if name in found} == found
    assert all(is_lacking_in_diffusers(name) for name in lacking), lacking


def is_lacking_in_diffusers(name: str) -> bool:
    sd2_last = name.startswith(("cond_stage_model.model.transformer.resblocks.23.", "cond_stage_model.model.text_proj"))
    return "." not in name or name.endswith(".logit_scale") or sd2_last


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_configurations_build_the_modules_that_the_tensors_fit(architecture: Architecture) -> None:
    """Modules built from the JSON files have exactly the names and shapes of the folder's full-size tensors."""
    shapes = shapes_of(architecture)
    layout = to_diffusers(shapes, Told(prediction_type="v_prediction" if architecture == "sd-2" else None))
    for component, tensors in layout.components.items():
        built = module_shapes(layout.configs[f"{component}/config.json"])
        found = {name: viewed_shape(views, shapes) for name, views in tensors.items()}
        found.pop("text_model.embeddings.position_ids", None)
        if component == "text_encoder":
            built = {f"text_model.{name.removeprefix('text_model.')}": shape for name, shape in built.items()}
        assert found == built, component


def module_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        if "_class_name" in config:
            module = getattr(diffusers, config["_class_name"]).from_config(dict(config))
        else:
            cls = getattr(transformers, config["architectures"][0])
            module = cls(transformers.CLIPTextConfig(**config))
    return {name: tuple(t.shape) for name, t in module.state_dict().items() if not name.endswith("position_ids")}


SDXL_LIKE = {
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
SD2_LIKE = {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "inpaint": {"cross_attention_dim": 768, "in_channels": 9},
    "pix2pix": {"cross_attention_dim": 768, "in_channels": 8},
    "depth": SD2_LIKE | {"in_channels": 5},
    "unclip": SD2_LIKE | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048},
    "ssd-1b": SDXL_LIKE
    | {
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, 2, 4],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    },
    "vega": SDXL_LIKE | {"mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [1, 1, 2]},
    "koala-700m": SDXL_LIKE
    | {"mid_block_type": None, "transformer_layers_per_block": [1, 2, 5], "layers_per_block": 1},
    "koala-1b": SDXL_LIKE | {"transformer_layers_per_block": [1, 2, 6], "layers_per_block": 1},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_the_unet_come_back_as_they_were(variant: str) -> None:
    """Other input channels, depths and numbers of blocks go to LDM names and back, configuration included."""
    with torch.device("meta"):
        module = diffusers.UNet2DConditionModel(**VARIANTS[variant])
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    ldm = to_ldm({"unet": shapes})
    assert not ldm.unused
    assert not ldm.missing
    single = {name: viewed_shape(views, shapes) for name, views in ldm.components[CHECKPOINT].items()}
    back = to_diffusers(single)
    assert not back.unused
    assert not back.missing
    assert {name: viewed_shape(views, single) for name, views in back.components["unet"].items()} == shapes
    config = back.configs["unet/config.json"]
    assert module_shapes(dict(config)) == shapes
    for key in ("mid_block_type", "class_embed_type", "addition_embed_type", "in_channels", "cross_attention_dim"):
        assert config.get(key, module.config[key]) == module.config[key], key
    if "koala" not in variant:
        theirs = files.convert_ldm_unet_checkpoint(
            {name: torch.empty(s, device="meta") for name, s in single.items()}, config
        )
        assert {name: tuple(t.shape) for name, t in theirs.items()} == shapes
