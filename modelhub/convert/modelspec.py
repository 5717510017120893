"""The identity of a model as header metadata, by ModelSpec 1.0.1 (github.com/Stability-AI/ModelSpec).

Only what was found is written, and nothing that would differ from run to run (no date): the same input gives the same
bytes. Nor is ``hash_sha256``, of the bytes after the header: what a header says is settled before a byte is read, so
that a plan can be shown and an existing file compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modelhub.errors import ConversionError

if TYPE_CHECKING:
    from modelhub.identify import Identity

_ARCHITECTURES: Mapping[str, tuple[str, str]] = {
    "sd-1": ("stable-diffusion-v1", "512x512"),
    "sd-2": ("stable-diffusion-v2", "512x512"),
    "sdxl": ("stable-diffusion-xl-v1-base", "1024x1024"),
    "sdxl-refiner": ("stable-diffusion-xl-v1-refiner", "1024x1024"),
}
"""Architecture and resolution in pixels, in the words of the specification and of kohya-ss's ``sai_model_spec.py``."""

_IMPLEMENTATIONS = {"ldm": "https://github.com/Stability-AI/generative-models", "diffusers": "diffusers"}
_ADAPTERS = {"lora": "lora", "embedding": "textual-inversion", "controlnet": "controlnet", "vae": "vae"}
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}


def modelspec(identity: Identity, title: str, layout: str, name: str) -> dict[str, str]:
    """The pairs ``modelspec.*`` for a model called *title*, named in the *layout* ``ldm`` or ``diffusers``.

    Raises :class:`ConversionError` where the architecture of the file *name* is not known, or has no word in the
    specification: a wrong word would be worse than none.
    """
    known = _ARCHITECTURES.get(identity.architecture or "")
    suffix = _ADAPTERS.get(identity.kind or "")
    if known is None or (suffix is None and identity.kind not in ("checkpoint", "diffusion-model")):
        what = identity.architecture or identity.kind or "unknown"
        raise ConversionError(f"{name}: ModelSpec has no word for what it is ({what})", hint="leave out --modelspec")
    architecture, resolution = known
    if identity.architecture == "sd-2" and identity.prediction_type == "v_prediction":
        architecture, resolution = f"{architecture}-768-v", "768x768"
    elif identity.architecture == "sd-2":
        architecture = f"{architecture}-512"
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{architecture}/{suffix}" if suffix else architecture,
        "implementation": _IMPLEMENTATIONS[layout],
        "title": title,
    }
    if suffix is None:
        spec["resolution"] = resolution
        prediction = _PREDICTIONS.get(identity.prediction_type or "")
        if prediction is not None:
            spec["prediction_type"] = prediction
    return {f"modelspec.{key}": value for key, value in spec.items()}
