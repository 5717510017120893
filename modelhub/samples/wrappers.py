"""What stands around the tensors in the files that people share: training state, tokens, settings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from modelhub.samples.modules import Layout
from modelhub.samples.pickling import Call, Import
from modelhub.samples.weights import Weight, random_weights


def lightning_checkpoint(
    weights: Mapping[str, Weight], *, epoch: int = 3, global_step: int = 470_000, callbacks: bool = False
) -> dict[str, Any]:
    """*weights* as PyTorch Lightning saves a trained model, the way the first Stable Diffusion files were shared.

    *callbacks* adds the state of a ``ModelCheckpoint``, a class that a loader would have to import.
    """
    value: dict[str, Any] = {
        "epoch": epoch,
        "global_step": global_step,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": module_state(weights),
    }
    if callbacks:
        monitor = Import("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
        value["callbacks"] = {monitor: {"monitor": "val/loss_simple_ema", "dirpath": "checkpoints"}}
    return value


def module_state(weights: Mapping[str, Weight]) -> Call:
    """*weights* as torch's ``Module.state_dict()`` gives them: an OrderedDict with an attribute of its own."""
    state = {"_metadata": OrderedDict({"": {"version": 1}})}
    return Call(Import("collections", "OrderedDict"), pairs=weights, state=state)


def a1111_embedding(name: str, vectors: Weight, *, step: int = 5000) -> dict[str, Any]:
    """A textual inversion as AUTOMATIC1111's web UI saves it (``textual_inversion.py``)."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": vectors},
        "name": name,
        "step": step,
        "sd_checkpoint": "81761151",
        "sd_checkpoint_name": "v1-5-pruned-emaonly",
    }


def a1111_hypernetwork(
    name: str, layout: Mapping[int, tuple[Layout, Layout]], *, structure: tuple[float, ...] = (1, 2, 1), seed: int = 0
) -> dict[int | str, Any]:
    """A hypernetwork as AUTOMATIC1111's web UI saves it (``hypernetwork.py``), with random weights of *layout*."""
    value: dict[int | str, Any] = {
        width: tuple(module_state(random_weights(module, seed + 2 * i + j)) for j, module in enumerate(modules))
        for i, (width, modules) in enumerate(layout.items())
    }
    return value | {
        "step": 10_000,
        "name": name,
        "layer_structure": list(structure),
        "activation_func": "linear",
        "is_layer_norm": False,
        "weight_initialization": "Normal",
        "sd_checkpoint": "81761151",
        "sd_checkpoint_name": "v1-5-pruned-emaonly",
        "activate_output": True,
        "use_dropout": False,
        "dropout_structure": None,
        "last_layer_dropout": False,
    }
