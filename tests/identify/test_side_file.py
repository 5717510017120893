"""The configuration beside a checkpoint, and its place on the ladder of prediction types."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from modelhub.container import open_path
from modelhub.identify import identify, identify_observation, observe, restored, stored
from modelhub.identify.side_file import claimed_beside, told_beside, told_in
from modelhub.samples.layouts import Layout, checkpoint
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.weights import random_weights
from modelhub.tensors import DType

V = 'model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    parameterization: "v"\n'
EPS = "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    linear_start: 0.00085\n"
SGM = "        scaling_config:\n          target: sgm.modules.diffusionmodules.denoiser_scaling.{}\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (V, "v_prediction"),
        (V.replace('"v"', "eps"), "epsilon"),
        (EPS, "epsilon"),
        (SGM.format("VScaling"), "v_prediction"),
        (SGM.format("EpsScaling"), "epsilon"),
        (SGM.format("EDMScaling"), "edm"),
        (SGM.format("OwnScaling"), None),
        ("parameterization: x0\n", None),
        ("# parameterization: v\nanything: else\n", None),
        ("", None),
        ("\0\ufffd: [", None),
    ],
)
def test_configurations(text: str, value: str | None) -> None:
    """LDM's and sgm's configurations say what the model predicts; others say nothing."""
    told = told_in(text, "model.yaml")
    assert (told.value if told else None) == value


def small(architecture: str, **marks: bool) -> Layout:
    return checkpoint(architecture, width=1 / 32, **marks)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ["sd-1", "sd-2", "sdxl"])
def test_beside_a_file(tmp_path: Path, architecture: str) -> None:
    """``model.v1.yaml`` beside ``model.v1.safetensors`` decides, also from what a catalog has stored."""
    path = tmp_path / "model.v1.safetensors"
    write_safetensors(str(path), random_weights(small(architecture), seed=1))
    (tmp_path / "model.v1.yaml").write_text(V)
    with open_path(str(path)) as container:
        observation = observe(container)
        identity = identify_observation(observation)
    assert identity.prediction_type == "v_prediction"
    [why] = [each for each in identity.evidence if each.fact == "prediction_type"]
    assert (why.by, why.confidence) == ("side file", "high")
    assert "model.v1.yaml" in why.detail
    assert identify_observation(restored(stored(observation))) == identity


def told(tmp_path: Path, contents: Layout, metadata: dict[str, str], side: str | None) -> tuple[str | None, str | None]:
    path = tmp_path / "m.safetensors"
    write_safetensors(str(path), random_weights(contents, seed=1), metadata)
    (tmp_path / "m.yaml").unlink(missing_ok=True)
    if side:
        (tmp_path / "m.yaml").write_text(side)
    with open_path(str(path)) as container:
        identity = identify(container)
    by = [each.by for each in identity.evidence if each.fact == "prediction_type"]
    return identity.prediction_type, by[0] if by else None


def test_the_ladder(tmp_path: Path) -> None:
    """Marker keys outrank the configuration beside the file, that the metadata, and those what is usual."""
    plain, marked = small("sdxl"), small("sdxl", v_prediction=True)
    says_v = {"modelspec.prediction_type": "v"}
    assert told(tmp_path, marked, {"modelspec.prediction_type": "epsilon"}, EPS) == ("v_prediction", "key")
    assert told(tmp_path, plain, says_v, EPS) == ("epsilon", "side file")
    assert told(tmp_path, plain, says_v, None) == ("v_prediction", "metadata")
    assert told(tmp_path, plain, {}, None) == (None, "structure")
    assert told(tmp_path, small("sd-1"), {}, None) == ("epsilon", "structure")
    sd_2 = {name: value for name, value in small("sd-2").items() if "norm1.bias" not in name}
    assert told(tmp_path, sd_2, {}, None) == (None, None)
    assert told(tmp_path, small("sd-2"), says_v, None) == ("v_prediction", "metadata")
    inpaint = {**sd_2, "model.diffusion_model.input_blocks.0.0.weight": (DType.F16, (320, 9, 3, 3))}
    assert told(tmp_path, inpaint, {}, None) == ("epsilon", "shape")
    assert told(tmp_path, inpaint, says_v, None) == ("v_prediction", "metadata")


def test_peft_folder(tmp_path: Path) -> None:
    """PEFT's configuration beside an adapter tells the base model where layers leave it open, and the alpha."""
    contents = {
        f"base_model.model.transformer_blocks.{index}.attn.to_q.lora_{side}.weight": (DType.F32, shape)
        for index in range(3)
        for side, shape in (("A", (4, 3072)), ("B", (3072, 4)))
    }
    path = tmp_path / "adapter_model.safetensors"
    write_safetensors(str(path), random_weights(contents, seed=1))
    with open_path(str(path)) as container:
        assert "flux" in identify(container).candidates
    config = {"base_model_name_or_path": "black-forest-labs/FLUX.1-dev", "lora_alpha": 8, "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with open_path(str(path)) as container:
        observation = observe(container)
        identity = identify_observation(observation)
    assert (identity.kind, identity.architecture) == ("lora", "flux")
    assert identity.adapter is not None
    assert identity.adapter.alpha == 8.0
    assert identify_observation(restored(stored(observation))) == identity
    for broken in ("[1]", "{", '{"lora_alpha": true, "base_model_name_or_path": 7}'):
        (tmp_path / "adapter_config.json").write_text(broken)
        with open_path(str(path)) as container:
            assert identify(container).architecture is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.yaml"])
def test_a_fifo_beside_a_file(tmp_path: Path, name: str) -> None:
    """A FIFO that is called like a configuration is none, and nobody waits for what it would say."""
    path = tmp_path / "adapter_model.safetensors"
    write_safetensors(str(path), random_weights(small("sd-1"), seed=1))
    os.mkfifo(tmp_path / name)
    writer = os.open(tmp_path / name, os.O_RDWR)
    os.write(writer, V.encode() if name.endswith(".yaml") else b'{"lora_alpha": 8}')
    end = threading.Timer(0.3, os.close, [writer])  # so that whoever reads it reads something, and comes to an end
    end.start()
    try:
        assert told_beside(str(path)) is None
        assert claimed_beside(str(path)) == {}
    finally:
        end.join()
