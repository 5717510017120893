"""Extracted LoRAs in diffusers: what it draws with them is what the tuned model draws."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import modelhub
from modelhub.convert import ConversionOptions, convert
from modelhub.lowrank import RankRule
from tests.merge.test_runtime import components, diffusers, image, lora_of

pytest.importorskip("peft")
RANK = 2
UPSAMPLER = "up_blocks.0.upsamplers.0.conv"
"""Of SDXL, behind a block without attention, which no real one has there: diffusers takes its SGM name for one's."""


def checkpoint(folder: Path, parts: Mapping[str, Any], xl: bool) -> Path:
    """The checkpoint of the pipeline of *parts*."""
    for name, module in parts.items():
        module.save_pretrained(folder / name)
    kind = "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"
    (folder / "model_index.json").write_text(f'{{"_class_name": "{kind}"}}')
    path = folder.with_suffix(".safetensors")
    convert(folder, path, options=ConversionOptions(layout="ldm"))
    return path


@pytest.mark.parametrize("xl", [False, True], ids=["sd-1", "sdxl"])
def test_diffusers_draws_with_it_what_the_tuned_model_draws(xl: bool, tmp_path: Path) -> None:
    """A LoRA extracted from a checkpoint is loaded by ``load_lora_weights`` with all its modules, and makes the base
    draw what the tuned model draws."""
    parts = {name: module.eval() for name, module in components(xl).items()}
    before = image(parts, xl)
    tuned = copy.deepcopy(parts)
    for component, modules in lora_of(parts, xl).items():
        for name, (up, down) in modules.items():
            if xl and name == UPSAMPLER:
                continue
            weight = tuned[component].get_parameter(f"{name}.weight").data
            weight += (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    models = [checkpoint(tmp_path / name, each, xl) for name, each in (("tuned", tuned), ("base", parts))]
    lora = tmp_path / "lora.safetensors"
    modelhub.extract(*models, RankRule(RANK), target=lora, dtype="fp32")
    kind = diffusers.StableDiffusionXLPipeline if xl else diffusers.StableDiffusionPipeline
    more = {"tokenizer_2": None} if xl else {"safety_checker": None, "feature_extractor": None}
    pipeline = kind(**parts, tokenizer=None, scheduler=diffusers.DDIMScheduler(), **more)
    pipeline.load_lora_weights(lora)
    loaded = sum(hasattr(layer, "lora_A") for part in parts.values() for layer in part.modules())
    assert loaded == sum(name.endswith(".alpha") for name in load_file(lora))
    found = image(parts, xl)
    assert np.abs(found - image(tuned, xl)).max() < 1e-3
    assert np.abs(found - before).max() > 0.02
