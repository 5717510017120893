"""Models of the size that people have: run by ``make test-big``."""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelhub.convert import ConversionOptions, convert
from modelhub.samples.layouts import Architecture, checkpoint
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.weights import random_weight
from tests.convert.layouts.build import ARCHITECTURES

pytestmark = pytest.mark.big


@pytest.fixture(params=ARCHITECTURES)
def full_size(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A whole checkpoint of random weights in half precision; everything beside it is removed at the end."""
    architecture: Architecture = request.param
    path = tmp_path / f"{architecture}.safetensors"
    layout = checkpoint(architecture)
    weights = {name: random_weight(name, dtype, shape) for name, (dtype, shape) in layout.items()}
    write_safetensors(path, weights, {"format": "pt"})
    yield path
    shutil.rmtree(tmp_path)


def test_a_full_size_model_goes_there_and_back(full_size: Path) -> None:
    """diffusers and transformers load every component without a missing or unexpected key, and the way back ends at
    the same file."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    folder = full_size.with_suffix("")
    convert(full_size, folder, options=ConversionOptions(layout="diffusers"))
    index = json.loads((folder / "model_index.json").read_text())
    for component, value in index.items():
        if isinstance(value, list) and value[0] is not None and component != "scheduler":
            library = diffusers if value[0] == "diffusers" else transformers
            cls, half = getattr(library, value[1]), {"torch_dtype": torch.float16, "output_loading_info": True}
            model, told = cls.from_pretrained(folder / component, **half)
            assert not any(told.values()), component
            del model
    convert(folder, full_size.with_name("again.safetensors"), options=ConversionOptions(layout="ldm"))
    assert filecmp.cmp(full_size, full_size.with_name("again.safetensors"), shallow=False)
