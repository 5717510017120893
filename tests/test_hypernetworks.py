"""A hypernetwork that became safetensors becomes again what the web UI loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modelhub.convert import convert
from modelhub.errors import ConversionError, WouldOverwrite
from modelhub.hypernetworks import restore_hypernetwork

SETTINGS = {
    "step": 30,
    "name": "12",
    "layer_structure": [1, 1.5, 1],
    "activation_func": "true",
    "sd_checkpoint": "81761151",
    "is_layer_norm": False,
    "use_dropout": True,
    "dropout_structure": [0, 0.05, 0],
}


@pytest.fixture
def hypernetwork() -> dict:
    """As modules/hypernetworks/hypernetwork.py of the web UI saves it."""
    torch.manual_seed(0)
    return {
        **{
            size: tuple(torch.nn.Linear(size, 2 * size).half().state_dict() for _ in range(2))
            for size in (1024, 320, 640)
        },
        **SETTINGS,
    }


def test_it_is_the_same_again(hypernetwork, tmp_path):
    """torch loads the same widths, networks, weights and settings, each of its type."""
    torch.save(hypernetwork, tmp_path / "hn.pt")
    made = convert(tmp_path / "hn.pt").target
    back = restore_hypernetwork(made, tmp_path / "back.pt").target
    loaded = torch.load(back, weights_only=True)
    assert {key for key in loaded if isinstance(key, int)} == {320, 640, 1024}
    for size in (320, 640, 1024):
        for old, new in zip(hypernetwork[size], loaded[size], strict=True):
            assert old.keys() == new.keys()
            assert all(torch.equal(new[key], tensor) for key, tensor in old.items())
    settings = {key: value for key, value in loaded.items() if isinstance(key, str)}
    assert settings == SETTINGS
    assert Path(convert(back, tmp_path / "again.safetensors").target).read_bytes() == Path(made).read_bytes()


def test_it_lies_beside_the_source_and_replaces_nothing_unasked(hypernetwork, tmp_path):
    """With force it does."""
    torch.save(hypernetwork, tmp_path / "hn.pt")
    convert(tmp_path / "hn.pt")
    before = (tmp_path / "hn.pt").read_bytes()
    with pytest.raises(WouldOverwrite):
        restore_hypernetwork(tmp_path / "hn.safetensors")
    assert (tmp_path / "hn.pt").read_bytes() == before
    assert restore_hypernetwork(tmp_path / "hn.safetensors", force=True).target == str(tmp_path / "hn.pt")
    assert torch.load(tmp_path / "hn.pt", weights_only=True).keys() == hypernetwork.keys()
    assert {path.name for path in tmp_path.iterdir()} == {"hn.pt", "hn.safetensors"}


def test_what_is_no_hypernetwork_is_refused(tmp_path):
    """Other models and other formats each get a sentence, and nothing is written."""
    save_file({"320.0.linear.weight": torch.ones(2), "other.weight": torch.ones(2)}, tmp_path / "m.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "m.ckpt")
    with pytest.raises(ConversionError, match=r"'other\.weight' is no hypernetwork's layer"):
        restore_hypernetwork(tmp_path / "m.safetensors")
    with pytest.raises(ConversionError, match="only a hypernetwork in safetensors"):
        restore_hypernetwork(tmp_path / "m.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == {"m.safetensors", "m.ckpt"}
