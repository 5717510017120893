"""The part that a tensor belongs to is told by its name in the single files of every architecture."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from modelhub.convert import ConversionOptions, convert
from modelhub.convert.components import component_named, component_of, is_part
from modelhub.samples.layouts import checkpoint, lora
from tests.convert.layouts.build import SMALL
from tests.convert.layouts.test_relayout import weights_of

PARTS = {
    "sd-1": {"unet", "vae", "te"},
    "sd-2": {"unet", "vae", "te"},
    "sdxl": {"unet", "vae", "te", "te_2"},
    "sdxl-refiner": {"unet", "vae", "te"},
}


@pytest.mark.parametrize("architecture", PARTS)
def test_every_weight_of_a_checkpoint_is_of_a_part(architecture):
    """Only the noise schedule and counters are of none."""
    names = checkpoint(architecture, width=SMALL)
    found = {name: component_of(name) for name in names}
    assert set(found.values()) - {None} == PARTS[architecture]
    assert not [name for name, part in found.items() if part is None and name.endswith((".weight", ".bias"))]


@pytest.mark.parametrize("architecture", PARTS)
def test_the_parts_are_the_whole(architecture, tmp_path):
    """Split into all of its parts, a checkpoint's tensors are all there, each once, without their prefixes."""
    weights = weights_of(architecture)
    torch.save(weights, tmp_path / "m.ckpt")
    done = convert(tmp_path / "m.ckpt", options=ConversionOptions(components=("unet", "vae", "te")))
    sizes = {output.path: len(output.tensors) for output in done.plan.outputs}
    assert sizes.keys() == {f"{part}.safetensors" for part in PARTS[architecture]}
    left = {item.path for item in done.plan.leftovers}
    assert sum(sizes.values()) + len(left) == len(weights)
    for path in sizes:
        for name, tensor in load_file(f"{done.target}/{path}").items():
            (whole,) = [key for key in weights if key.endswith(f".{name}") and component_of(key) == path.split(".")[0]]
            assert torch.equal(weights[whole], tensor)


def test_a_loras_layers_are_of_what_they_change():
    """kohya's names and diffusers' both say whether a layer is the UNet's or a text encoder's."""
    assert {component_of(name) for name in lora("sdxl")} <= {"unet", "te", "te_2"}
    assert component_of("unet.down_blocks.0.lora_A.weight") == "unet"
    assert component_of("text_encoder_2.text_model.lora_B.weight") == "te_2"
    assert component_of("params.weight") is None


def test_parts_have_two_names():
    """Ours and diffusers'; te is every text encoder, te_2 only the second."""
    assert [component_named(word) for word in ("te", "text_encoder_2", "transformer", "foo")] == [
        "te",
        "te_2",
        "unet",
        None,
    ]
    assert is_part("te_2", "te")
    assert not is_part("te", "te_2")
