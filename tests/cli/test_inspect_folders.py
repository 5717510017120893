"""``modelhub inspect`` of folders that are one model, and of files that are named as something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelhub.container.safetensors import canonical_order, encode_header
from modelhub.samples.layouts import Layout, checkpoint, lora
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.torch_files import write_torch_legacy, write_torch_zip
from modelhub.samples.weights import random_weights
from tests.cli.run import modelhub


def sparse(path: Path, layout: Layout) -> None:
    """A file of the tensors of *layout*, all holes."""
    tensors = []
    for name in canonical_order({name: dtype for name, (dtype, _) in layout.items()}):
        dtype, shape = layout[name]
        bits = dtype.bits
        for size in shape:
            bits *= size
        tensors.append((name, dtype, shape, bits // 8))
    head = encode_header(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + sum(nbytes for *_, nbytes in tensors))


def told(path: Path) -> dict[str, Any]:
    """The one answer that is given of *path*."""
    [report] = modelhub("inspect", "--format", "json", str(path)).json()["reports"]
    assert isinstance(report, dict)
    return report


def unet() -> Layout:
    prefix = "model.diffusion_model."
    layout = checkpoint("sd-1")
    return {name.removeprefix(prefix): said for name, said in layout.items() if name.startswith(prefix)}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A UNet in three shards, with their index."""
    folder = tmp_path / "unet"
    names = list(unet())
    index = {}
    for number in range(3):
        chosen = names[number::3]
        file = f"diffusion_pytorch_model-{number + 1:05}-of-00003.safetensors"
        sparse(folder / file, {name: unet()[name] for name in chosen})
        index |= dict.fromkeys(chosen, file)
    (folder / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def test_shards_are_one_model(shards: Path) -> None:
    """A folder of shards is told once, as the model that all of them together are."""
    report = told(shards)
    assert (report["kind"], report["architecture"], report["error"]) == ("diffusion-model", "sd-1", None)
    assert report["tensor_count"] == len(unet())
    assert report["notes"] == ["3 of 3 shards"]


@pytest.mark.parametrize("indexed", [True, False])
def test_missing_shards_are_named(shards: Path, indexed: bool) -> None:
    """A shard that the index or the numbers of the others name, and that is not there, is a problem with its name."""
    (shards / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    if not indexed:
        (shards / "diffusion_pytorch_model.safetensors.index.json").unlink()
    report = told(shards)
    assert report["error"] == (
        "1 of its shards are missing, the first of them diffusion_pytorch_model-00002-of-00003.safetensors"
    )
    assert report["notes"] == ["2 of 3 shards"]
    assert modelhub("inspect", str(shards)).code == 2


def test_a_peft_folder_is_one_adapter(tmp_path: Path) -> None:
    """PEFT's folder is the adapter with the alpha and the base of its configuration."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_safetensors(folder / "adapter_model.safetensors", random_weights(lora("sdxl", dialect="peft"), 3))
    config = {"peft_type": "LORA", "lora_alpha": 6, "base_model_name_or_path": "stabilityai/sdxl-base-1.0"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    report = told(folder)
    assert (report["container"], report["kind"], report["architecture"]) == ("model-folder", "lora", "sdxl")
    assert report["adapter"]["alpha"] == 6


def test_a_component_in_two_formats_is_one_model(tmp_path: Path) -> None:
    """A component's folder with its weights as safetensors and in halves again is told once."""
    sparse(tmp_path / "te" / "model.safetensors", unet())
    sparse(tmp_path / "te" / "model.fp16.safetensors", unet())
    (tmp_path / "te" / "config.json").write_text("{}")
    assert told(tmp_path / "te")["architecture"] == "sd-1"


def test_a_pipeline_without_a_component(tmp_path: Path) -> None:
    """A component that the pipeline's index lists and that is not there is named."""
    sparse(tmp_path / "p" / "unet" / "diffusion_pytorch_model.safetensors", unet())
    listed = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    listed |= {"vae": ["diffusers", "AutoencoderKL"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    (tmp_path / "p" / "model_index.json").write_text(json.dumps({**listed, "safety_checker": [None, None]}))
    assert told(tmp_path / "p")["error"] == "components that its index lists are missing: vae"


def test_downloads_beside_a_configuration_are_told_one_by_one(tmp_path: Path) -> None:
    """A config.json among files with names of their own does not make them one model."""
    (tmp_path / "config.json").write_text("{}")
    for number in range(2):
        write_safetensors(tmp_path / f"lora{number}.safetensors", random_weights(lora(rank=number + 1), 3))
    assert len(modelhub("inspect", "--format", "json", str(tmp_path)).json()["reports"]) == 2


def test_a_misnamed_file_says_so(tmp_path: Path) -> None:
    """What a file is called and what it is are both told, and that it is misnamed is no reason to fail."""
    write_safetensors(tmp_path / "model.ckpt", random_weights(lora(), 3))
    report = told(tmp_path / "model.ckpt")
    assert (report["container"], report["kind"], report["error"]) == ("safetensors", "lora", None)
    assert report["notes"] == ["named .ckpt, but it is a safetensors file"]
    assert "named .ckpt, but it is a safetensors file" in modelhub("inspect", str(tmp_path / "model.ckpt")).out


@pytest.mark.parametrize("write", [write_torch_zip, write_torch_legacy])
def test_a_pickle_in_the_clothes_of_safetensors(tmp_path: Path, write: Callable[..., object]) -> None:
    """A pickle named .safetensors is told as what it is, and identified as under its right name."""
    write(tmp_path / "style.safetensors", random_weights(lora(rank=2), 3))
    report = told(tmp_path / "style.safetensors")
    assert (report["kind"], report["architecture"], report["error"]) == ("lora", "sd-1", None)
    assert report["notes"][0].startswith("named .safetensors, but it is a ") and report["container"] != "safetensors"
