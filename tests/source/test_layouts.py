"""Whose folders they are, and which of them hold models."""

from __future__ import annotations

import os
from pathlib import Path

from modelhub.source.layouts import detect, extra_model_paths, folders_of, title_of

YAML = """\
# a comment
a111:
    base_path: stable-diffusion-webui/
    is_default: true
    checkpoints: models/Stable-diffusion   # inline
    loras: |
         models/Lora
         models/LyCORIS
    controlnet: "models/ControlNet"

other:
    base_path: /srv/models
    vae: vae
    custom_nodes: /elsewhere/nodes
"""


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


def test_a_repository_in_a_cache_is_called_by_its_name():
    """A folder is called as it is; in a Hugging Face cache, where that is a revision, as the repository."""
    assert title_of("a/sd-v1.5/") == "sd-v1.5"
    assert title_of("hub/models--runwayml--stable-diffusion-v1-5/snapshots/451f4fe1") == "stable-diffusion-v1-5"
    assert title_of("hub/models--gpt2/snapshots/451f4fe1") == "gpt2"
    assert title_of("hub/models--gpt2/451f4fe1") == "451f4fe1"


def test_told_by_their_folders(tmp_path: Path) -> None:
    """Each program's folder is known by what lies in it; anything else is a plain folder."""
    assert detect(str(make(tmp_path / "a", "models/Stable-diffusion"))) == "a1111"
    assert detect(str(make(tmp_path / "c", "models/checkpoints", "custom_nodes"))) == "comfyui"
    assert detect(str(make(tmp_path / "i", "databases"))) == "plain"
    (tmp_path / "i" / "databases" / "invokeai.db").touch()
    assert detect(str(tmp_path / "i")) == "invokeai"
    assert detect(str(make(tmp_path / "h", "models--org--name/snapshots"))) == "hf-cache"
    assert detect(str(tmp_path / "none")) == "plain"


def test_folders(tmp_path: Path) -> None:
    """Only the folders that hold models are walked, each once."""
    a1111 = make(tmp_path / "a", "models/Lora", "embeddings", "extensions/x/models", "extensions/y", "outputs")
    assert [os.path.relpath(each, a1111) for each in folders_of(str(a1111), "a1111")] == [
        "models",
        "embeddings",
        "extensions/x/models",
    ]
    comfy = make(tmp_path / "c", "models/checkpoints", "stable-diffusion-webui/models/Lora", "stable-diffusion-webui/x")
    (comfy / "extra_model_paths.yaml").write_text(YAML)
    assert [os.path.relpath(each, comfy) for each in folders_of(str(comfy), "comfyui")] == [
        "models",
        "stable-diffusion-webui/models/Lora",
    ]
    assert folders_of(str(comfy), "plain") == [str(comfy)]


def test_extra_model_paths(tmp_path: Path) -> None:
    """The YAML of ComfyUI's example is understood: sections, base paths, single folders and blocks of several."""
    path = tmp_path / "extra_model_paths.yaml"
    path.write_text(YAML)
    assert extra_model_paths(str(path)) == [
        "stable-diffusion-webui/models/Stable-diffusion",
        "stable-diffusion-webui/models/Lora",
        "stable-diffusion-webui/models/LyCORIS",
        "stable-diffusion-webui/models/ControlNet",
        "/srv/models/vae",
        "/elsewhere/nodes",
    ]
    assert extra_model_paths(str(tmp_path / "none.yaml")) == []
    path.write_text("][ not yaml\n\t: :\n- - -\n")
    assert extra_model_paths(str(path)) == []
