"""Identification from what was kept of a file, without the file."""

from __future__ import annotations

import json
import random
import struct

import pytest

from modelhub.container.base import Container
from modelhub.identify import Observation, identify, identify_observation, observe, restored, rules_version, stored
from modelhub.samples.layouts import Layout, checkpoint, lora
from modelhub.source import BytesSource
from modelhub.tensors import DType
from tests.identify.build import half, layout, state_dict


def container(contents: Layout, metadata: dict[str, str] | None = None) -> Container:
    """A file of *contents*, in which every element of two bytes is 0.5."""
    tensors = state_dict(contents, metadata)
    size = max(tensor.storage.end for tensor in tensors.values())
    return Container("safetensors", "file", BytesSource("file", half(0.5) * (size // 2)), tensors)


def kept(observation: Observation) -> Observation:
    """*observation* as a catalog gives it back: written as JSON and read again."""
    return restored(json.loads(json.dumps(stored(observation))))


@pytest.mark.parametrize(
    "contents",
    [
        lora("sd-1", 4),
        lora("sdxl", 4, dialect="peft"),
        checkpoint("sd-1", width=1 / 16),
        checkpoint("sd-2", width=1 / 16),
        {"emb_params": (DType.F32, (4, 768))},
    ],
    ids=["kohya", "peft", "sd-1", "sd-2", "embedding"],
)
def test_answers_are_the_same_without_the_file(contents: Layout) -> None:
    """What was stored of a file is identified as the file was, alphas and the SD 2 probe included."""
    observation = observe(container(contents, {"ss_base_model_version": "sd_v1", "ss_tag_frequency": "x" * 10_000}))
    identity = identify_observation(observation)
    assert identity == identify_observation(kept(observation))
    assert "ss_tag_frequency" not in kept(observation).files[""][0].metadata


def test_alphas_are_kept() -> None:
    """The numbers that identification read are stored with the names."""
    observation = observe(
        container(
            {
                "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (DType.F16, (4, 1280)),
                "lora_unet_mid_block_attentions_0_proj_in.alpha": (DType.F16, ()),
            }
        )
    )
    identity = identify_observation(observation)
    assert identity.adapter is not None
    assert identity.adapter.alpha == 0.5
    assert identify_observation(kept(observation)).adapter == identity.adapter


def test_probed_bias_is_kept() -> None:
    """Whether an SD 2 model predicts v is told again from the stored deviation, not from the file."""
    contents = checkpoint("sd-2", width=1)
    name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    tensors = state_dict({each: value for each, value in contents.items() if not each.startswith("first_stage")})
    rng = random.Random(1)
    data = struct.pack("<320e", *(rng.gauss(0, 0.3) for _ in range(320)))

    class Source(BytesSource):
        def read_at(self, offset: int, length: int) -> bytes:
            assert (offset, length) == (tensors[name].start, len(data))
            return data

    observation = observe(Container("safetensors", "file", Source("file", b""), tensors))
    assert identify_observation(observation).prediction_type == "v_prediction"
    assert identify_observation(kept(observation)) == identify_observation(observation)


def test_folder() -> None:
    """A folder is told again from its configurations and the stored names of its parts."""
    unet = layout({"conv_in.weight": (320, 4, 3, 3), "conv_out.weight": (4, 320, 3, 3)})
    unet |= layout({"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (640, 1024)})
    configs = {
        "model_index.json": {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]},
        "scheduler/scheduler_config.json": {"prediction_type": "v_prediction"},
    }
    folder = Container(
        "diffusers-folder", "folder", None, parts={"unet/model.safetensors": container(unet)}, configs=configs
    )
    observation = observe(folder)
    identity = identify_observation(kept(observation))
    assert identity == identify(folder)
    assert (identity.architecture, identity.prediction_type) == ("sd-2", "v_prediction")


def test_nothing() -> None:
    """A file whose tensors cannot be told is kept as one that says nothing."""
    observation = observe(Container("html", "file", BytesSource("file", b"<html>")))
    assert identify_observation(kept(observation)) == identify_observation(observation)
    assert identify_observation(observation).kind is None


def test_rules_have_a_version() -> None:
    """The version is short text, the same for the same rules."""
    assert len(rules_version()) == 12
    assert set(rules_version()) <= set("0123456789abcdef")
    assert rules_version.__wrapped__() == rules_version()
