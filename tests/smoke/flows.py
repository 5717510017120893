"""Diffusers folders of the small models of SD 3's and FLUX.1's sort."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from modelhub.container import open_path
from modelhub.identify import identify
from modelhub.samples.runnable import Weights, save
from modelhub.samples.runnable_flows import write_t5_tokenizer
from modelhub.smoke.flow_parts import T5, flow_parts
from modelhub.smoke.loading import Files


def as_folder(weights: Weights, folder: Path, *, tokenizer: bool = True, shards: bool = False) -> str:
    """Write *weights*, a checkpoint, as a diffusers folder, with T5's *tokenizer* and its transformer in *shards*."""
    folder.mkdir()
    single = save(weights, folder.parent / f"{folder.name}-single.safetensors", torch.float32)
    with open_path(single) as container:
        identity = identify(container)
        parts = flow_parts(container, identity)
    files = Files(parts.files, torch.device("cpu"))
    index: dict[str, object] = {"_class_name": parts.pipeline}
    for name, component in parts.components.items():
        (folder / name).mkdir()
        tensors = {key: files.see(view).clone() for key, view in (component.tensors or {}).items()}
        of_transformers = "architectures" in component.config
        stem = "model" if of_transformers else "diffusion_pytorch_model"
        if shards and name == "transformer":
            _save_shards(tensors, folder / name, stem)
        else:
            save_file(tensors, folder / name / f"{stem}.safetensors")
        config = dict(component.config)
        (folder / name / "config.json").write_text(json.dumps(config))
        kind = config["architectures"][0] if of_transformers else config["_class_name"]  # type: ignore[index]
        index[name] = ["transformers" if of_transformers else "diffusers", kind]
    (folder / "model_index.json").write_text(json.dumps(index))
    if tokenizer:
        write_t5_tokenizer(folder, T5[str(identity.architecture)])
    Path(single).unlink()
    return str(folder)


def _save_shards(tensors: Weights, folder: Path, stem: str) -> None:
    places = {name: f"{stem}-{1 + i % 2:05}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: tensor for name, tensor in tensors.items() if places[name] == file}, folder / file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
