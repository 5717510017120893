"""Diffusers folders, and containers that are something else."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import pytest

from modelhub.container.base import Container
from modelhub.identify import Identity, identify
from modelhub.samples.layouts import Layout, checkpoint, lora
from modelhub.source import BytesSource
from modelhub.tensors import DType
from tests.identify.build import Shape, layout, reasons, state_dict

UNET: dict[str, Shape] = {
    "conv_in.weight": (320, 4, 3, 3),
    "conv_out.weight": (4, 320, 3, 3),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (640, 768),
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.36.0",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def part(contents: Layout, data: bytes = b"") -> Container:
    return Container("safetensors", "part", BytesSource("part", data), state_dict(contents))


def folder(
    parts: Mapping[str, Container] | None = None, configs: Mapping[str, Mapping[str, Any]] | None = None
) -> Identity:
    everything: dict[str, Mapping[str, object]] = {"model_index.json": INDEX, **(configs or {})}
    return identify(Container("diffusers-folder", "folder", None, parts=parts or {}, configs=everything))


def test_pipeline_folder() -> None:
    """A folder is a checkpoint: its components from its index, its architecture from its denoiser's tensors."""
    parts = {
        "unet/diffusion_pytorch_model.safetensors": part(layout(UNET)),
        "vae/diffusion_pytorch_model.safetensors": part({"decoder.conv_in.weight": (DType.F32, (8, 4, 3, 3))}),
    }
    identity = folder(parts, {"scheduler/scheduler_config.json": {"prediction_type": "epsilon"}})
    assert (identity.kind, identity.architecture, identity.candidates) == ("checkpoint", "sd-1", ())
    assert identity.components == ("text_encoder", "unet", "vae")
    assert identity.precision == "fp16"
    assert identity.prediction_type == "epsilon"
    [why] = reasons(identity, "prediction_type")
    assert (why.by, why.confidence) == ("metadata", "high")
    assert "scheduler_config.json" in why.detail


def test_inpainting_pipeline() -> None:
    """The variant is that of the denoiser."""
    tensors = layout({**UNET, "conv_in.weight": (320, 9, 3, 3)})
    assert folder({"unet/model.safetensors": part(tensors)}).variant == "inpaint"


def test_shards_are_one_component() -> None:
    """A denoiser in shards is seen as a whole; a second copy in another format does not change the precision."""
    names = list(UNET)
    parts = {
        "unet/model-00001-of-00002.safetensors": part(layout({name: UNET[name] for name in names[:2]})),
        "unet/model-00002-of-00002.safetensors": part(layout({name: UNET[name] for name in names[2:]})),
        "unet/model.bin": part(layout(UNET, DType.F32)),
    }
    identity = folder(parts)
    assert identity.architecture == "sd-1"
    assert identity.precision == "fp16"


def test_probe_inside_a_folder() -> None:
    """SD 2's prediction type is probed in the denoiser's own file when the scheduler says nothing."""
    probe = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
    shapes = {name: tuple(1024 if size == 768 else size for size in shape) for name, shape in UNET.items()}
    contents = {probe: (DType.F16, (320,)), **layout(shapes)}
    data = struct.pack("<320e", *([0.5, -0.5] * 160))
    identity = folder({"unet/model.safetensors": part(contents, data)})
    assert (identity.architecture, identity.prediction_type) == ("sd-2", "v_prediction")


@pytest.mark.parametrize(
    ("index", "configs", "architecture", "candidates"),
    [
        ({}, {}, None, ("sd-1", "sd-2")),
        ({}, {"unet/config.json": {"cross_attention_dim": 1024}}, "sd-2", ()),
        ({}, {"unet/config.json": {"cross_attention_dim": [320, 640]}}, None, ("sd-1", "sd-2")),
        ({"_class_name": "StableDiffusionXLPipeline"}, {}, "sdxl", ()),
        ({"_class_name": "StableDiffusionXLInpaintPipeline"}, {}, "sdxl", ()),
        ({"_class_name": "FluxPipeline"}, {}, "flux", ()),
        ({"_class_name": "Flux2Pipeline"}, {}, "flux-2", ()),
        ({"_class_name": "StableDiffusion3Pipeline"}, {}, "sd-3", ()),
        ({"_class_name": "MyOwnPipeline"}, {}, None, ()),
        ({"_class_name": ["module", "Class"]}, {}, None, ()),
    ],
)
def test_folder_without_readable_weights(
    index: dict[str, Any], configs: dict[str, Any], architecture: str | None, candidates: tuple[str, ...]
) -> None:
    """Where tensors cannot be told, the configurations say what they can."""
    identity = folder(configs={**configs, "model_index.json": {**INDEX, **index}})
    assert (identity.kind, identity.architecture, identity.candidates) == ("checkpoint", architecture, candidates)


def test_flow_scheduler() -> None:
    """A flow matching scheduler says that the flow is predicted."""
    config = {"scheduler/scheduler_config.json": {"_class_name": "FlowMatchEulerDiscreteScheduler"}}
    assert folder(configs=config).prediction_type == "flow"


@pytest.mark.parametrize("value", [None, 3, "text", [], [1], ["a", "b", "c"], {"a": 1}, ["diffusers", 7]])
def test_odd_configurations(value: object) -> None:
    """Configurations that hold something else than expected are no error."""
    odd = {"_class_name": value, "unet": value, "vae": value}
    identity = folder(
        configs={
            "model_index.json": odd,
            "unet/config.json": {"cross_attention_dim": value},
            "scheduler/scheduler_config.json": {"prediction_type": value, "_class_name": value},
        }
    )
    assert identity.kind == "checkpoint"


def test_shards_without_an_index() -> None:
    """Parts of one model without a pipeline's index are that model."""
    names = list(UNET)
    parts = {
        "a.safetensors": part(layout({name: UNET[name] for name in names[:2]})),
        "b.safetensors": part(layout({name: UNET[name] for name in names[2:]})),
    }
    identity = identify(Container("diffusers-folder", "folder", None, parts=parts))
    assert (identity.kind, identity.architecture) == ("diffusion-model", "sd-1")


def test_file_without_tensors() -> None:
    """A container whose tensors cannot be told has no identity, and nothing is raised."""
    assert identify(Container("html", "page.safetensors", BytesSource("page", b"<html>"))) == Identity()


def test_file() -> None:
    """A file is identified by its tensors, its alphas read from its own bytes."""
    contents = lora("sd-1", text_encoder=False)
    tensors = state_dict(contents)
    size = sum(each.nbytes for each in tensors.values())
    source = BytesSource("lora", struct.pack("<e", 2) * (size // 2))
    identity = identify(Container("safetensors", "lora", source, tensors))
    assert identity.adapter is not None
    assert (identity.kind, identity.adapter.alpha) == ("lora", 2.0)


def test_whole_checkpoint_file() -> None:
    """A checkpoint in a container is identified as its state dict is."""
    tensors = state_dict(checkpoint("sdxl", width=1 / 16))
    identity = identify(Container("torch-zip", "model.ckpt", BytesSource("model", b""), tensors))
    assert (identity.kind, identity.architecture) == ("checkpoint", "sdxl")
