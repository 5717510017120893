"""ModelSpec metadata says what a model is, in the specification's words, or the conversion says that it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from modelhub.convert import ConversionOptions, convert
from modelhub.convert.modelspec import modelspec
from modelhub.errors import ConversionError
from modelhub.identify import Identity
from tests.convert.layouts.test_relayout import weights_of

MUST = {"sai_model_spec", "architecture", "implementation", "title"}
"""Keys that the specification requires; of models that draw, the resolution, too."""


@pytest.mark.parametrize(
    ("identity", "architecture", "resolution", "prediction"),
    [
        (Identity("checkpoint", "sd-1", None, "epsilon"), "stable-diffusion-v1", "512x512", "epsilon"),
        (Identity("checkpoint", "sd-2", None, "epsilon"), "stable-diffusion-v2-512", "512x512", "epsilon"),
        (Identity("checkpoint", "sd-2", None, "v_prediction"), "stable-diffusion-v2-768-v", "768x768", "v"),
        (Identity("diffusion-model", "sdxl"), "stable-diffusion-xl-v1-base", "1024x1024", None),
        (Identity("checkpoint", "sdxl-refiner"), "stable-diffusion-xl-v1-refiner", "1024x1024", None),
        (Identity("lora", "sdxl"), "stable-diffusion-xl-v1-base/lora", None, None),
        (Identity("embedding", "sd-1"), "stable-diffusion-v1/textual-inversion", None, None),
    ],
)
def test_the_identity_in_the_specifications_words(identity, architecture, resolution, prediction):
    """Everything that is required and known is there, and nothing that would change from run to run."""
    spec = modelspec(identity, "my model", "ldm", "m.ckpt")
    assert all(key.startswith("modelspec.") for key in spec)
    bare = {key.removeprefix("modelspec."): value for key, value in spec.items()}
    assert bare.keys() >= MUST
    assert (bare["architecture"], bare["title"], bare["sai_model_spec"]) == (architecture, "my model", "1.0.1")
    assert (bare.get("resolution"), bare.get("prediction_type")) == (resolution, prediction)
    assert "date" not in bare


@pytest.mark.parametrize("identity", [Identity(), Identity("checkpoint", "flux"), Identity("upscaler", "sd-1")])
def test_without_a_word_for_it_the_conversion_says_so(identity):
    """A wrong architecture in the header would mislead every program that believes it."""
    with pytest.raises(ConversionError, match=r"m\.ckpt: ModelSpec has no word") as caught:
        modelspec(identity, "x", "ldm", "m.ckpt")
    assert "--modelspec" in caught.value.hint


def test_it_stands_in_the_header_of_the_file(tmp_path: Path) -> None:
    """From the identity that was found, with the file's name as the title."""
    torch.save({"state_dict": weights_of("sd-1")}, tmp_path / "dream.ckpt")
    done = convert(tmp_path / "dream.ckpt", options=ConversionOptions(modelspec=True))
    with safe_open(done.target, "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert metadata["modelspec.title"] == "dream"
    assert metadata["format"] == "pt"
