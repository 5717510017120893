"""What a configuration beside a file says of it.

``model.yaml`` beside ``model.ckpt``, as A1111 reads it: only a line or two are looked for, so no YAML is parsed.
``adapter_config.json`` beside ``adapter_model.safetensors``, as PEFT writes it.
"""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

PEFT_BASE = "adapter_config.base_model_name_or_path"
PEFT_ALPHA = "adapter_config.lora_alpha"
"""What :func:`claimed_beside` calls the two."""

_LARGEST = 1 << 20
_PARAMETERIZATION = re.compile(r"^\s*parameterization\s*:\s*[\"']?(\w+)", re.MULTILINE)
_SCALING = re.compile(r"^\s*target\s*:\s*\S*denoiser_scaling\.(\w+)", re.MULTILINE)
_LATENT_DIFFUSION = re.compile(r"^\s*target\s*:\s*ldm\.models\.diffusion\.ddpm\.", re.MULTILINE)

_VALUES = {"v": "v_prediction", "eps": "epsilon"}
_SCALINGS = {
    "VScaling": "v_prediction",
    "VScalingWithEDMcNoise": "v_prediction",
    "EpsScaling": "epsilon",
    "EDMScaling": "edm",
}
"""Classes of sgm's ``denoiser_scaling`` (Stability-AI/generative-models)."""


class Told(NamedTuple):
    """A prediction type, in what words the side file says it, and how surely."""

    value: str
    detail: str
    confidence: str = "high"


def told_beside(path: str) -> Told | None:
    """What the configuration beside the file *path* says of its prediction type; ``None`` when there is none."""
    name = os.path.splitext(path)[0] + ".yaml"
    try:
        text = _beginning(name).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
    return told_in(text, os.path.basename(name))


def claimed_beside(path: str) -> dict[str, str]:
    """What PEFT's ``adapter_config.json`` beside the adapter *path* says of base model and alpha, as metadata."""
    folder, name = os.path.split(path)
    if not name.startswith(("adapter_model.", "pytorch_lora_weights.")):
        return {}
    try:
        config = json.loads(_beginning(os.path.join(folder, "adapter_config.json")))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(config, dict):
        return {}
    base, alpha = config.get("base_model_name_or_path"), config.get("lora_alpha")
    found = {PEFT_BASE: base.rstrip("/").rpartition("/")[2][:200]} if isinstance(base, str) else {}
    if isinstance(alpha, int | float) and not isinstance(alpha, bool) and abs(alpha) < 1e6:
        found[PEFT_ALPHA] = str(alpha)
    return found


def _beginning(path: str) -> bytes:
    if not os.path.isfile(path):  # a FIFO would never answer
        raise FileNotFoundError(path)
    with open(path, "rb") as file:
        return file.read(_LARGEST)


def told_in(text: str, name: str) -> Told | None:
    """What the configuration *text*, called *name*, says of the prediction type.

    LDM's default (``DDPM`` in CompVis/latent-diffusion) is the noise, so a configuration of it that does not say
    anything else says that.
    """
    if match := _PARAMETERIZATION.search(text):
        value = _VALUES.get(match[1])
        return Told(value, f"{name}: parameterization is {match[1]}") if value else None
    if match := _SCALING.search(text):
        value = _SCALINGS.get(match[1])
        return Told(value, f"{name}: the denoiser's scaling is {match[1]}") if value else None
    if _LATENT_DIFFUSION.search(text):
        return Told("epsilon", f"{name}: no parameterization, for which latent diffusion takes epsilon", "medium")
    return None
