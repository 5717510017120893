"""PEFT's alphas, which stand in no tensor: in ``adapter_config.json`` beside the file, or in the file's metadata.

The scale is ``lora_alpha / r``, with ``use_rslora`` ``lora_alpha / sqrt(r)``; ``rank_pattern`` and ``alpha_pattern``
give modules of their own values, by the end of their names. diffusers writes the same under ``lora_adapter_metadata``,
each name after its component (``unet.lora_alpha``). Source: PEFT ``tuners/lora/config.py`` and
``tuners/tuners_utils.py`` (``get_pattern_key``); diffusers ``loaders/lora_base.py``.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from modelhub.errors import SourceError
from modelhub.source import open_local

CONFIG = "adapter_config.json"
_LARGEST = 1 << 20


class PeftScales:
    """What an adapter's configuration says of its modules' alphas; nothing where there is none."""

    def __init__(self, path: str, metadata: Mapping[str, str]) -> None:
        """*path* is the adapter's file, *metadata* its own."""
        self._settings = _settings(path, metadata)

    def alpha(self, module: str, component: str | None, rank: int) -> float | None:
        """The number that divided by *rank* is the module's scale; ``None`` where none is said.

        *module* is its name, dotted, with or without its component before it.
        """
        for prefix in (*_PREFIXES.get(component or "", ()), ""):
            dotted = f"{prefix}." if prefix else ""
            alpha = self._settings.get(f"{dotted}lora_alpha")
            if not isinstance(alpha, int | float) or isinstance(alpha, bool):
                continue
            pattern = self._settings.get(f"{dotted}alpha_pattern")
            if isinstance(pattern, dict):
                alpha = next((value for key, value in pattern.items() if _names(key, module)), alpha)
            return float(alpha) * (math.sqrt(rank) if self._settings.get(f"{dotted}use_rslora") else 1.0)
        return None


_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "denoiser": ("unet", "transformer"),
    "text_encoder": ("text_encoder",),
    "text_encoder_2": ("text_encoder_2",),
    "text_encoder_3": ("text_encoder_3",),
}


def _names(pattern: str, module: str) -> bool:
    """Whether PEFT's *pattern* names *module*: as a whole, or as the end of it from a dot on."""
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None
    except re.error:
        return module == pattern or module.endswith(f".{pattern}")


def _settings(path: str, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    if "lora_adapter_metadata" in metadata:
        return _object(metadata["lora_adapter_metadata"])
    beside = os.path.join(os.path.dirname(path), CONFIG)
    if os.path.isfile(beside):
        try:
            with open_local(beside) as source:
                return _object(source.read_at(0, min(source.size, _LARGEST)))
        except SourceError:
            return {}
    return metadata if "lora_alpha" in metadata else {}


def _object(text: str | bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
