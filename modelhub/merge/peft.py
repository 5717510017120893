"""What of PEFT's adapters stands in no tensor: in ``adapter_config.json`` beside the file, or in the file's metadata.

The scale is ``lora_alpha / r``, with ``use_rslora`` ``lora_alpha / sqrt(r)``; ``rank_pattern`` and ``alpha_pattern``
give modules of their own values, by the end of their names. diffusers writes the same under ``lora_adapter_metadata``,
each name after its component (``unet.lora_alpha``). PEFT's LoHa and LoKr have ``alpha / r``, whatever of their factors
is kept whole. Source: PEFT ``tuners/lora/config.py``, ``tuners/loha``, ``tuners/lokr`` and ``tuners/tuners_utils.py``
(``get_pattern_key``); diffusers ``loaders/lora_base.py``.

Some ways to begin training take something out of the base first (PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ): what they saved
is no change of the model that people have, unless it was converted, which sets ``init_lora_weights`` to true
(``tuners/lora/model.py``, ``subtract_mutated_init``).

How an OFT rotates (``use_cayley_neumann``, ``num_cayley_neumann_terms``, ``coft``, ``eps``), how an HRA reflects
(``apply_GS``) and which modules of an (IA)^3 are scaled at their inputs (``feedforward_modules``) is read likewise.
Source: PEFT ``tuners/oft/config.py``, ``tuners/hra/config.py``, ``tuners/ia3/model.py``.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from modelhub.errors import SourceError
from modelhub.merge.base import NotMerged
from modelhub.merge.components import SECOND
from modelhub.source import open_local

CONFIG = "adapter_config.json"
PEFT_ROOT = "base_model.model."
"""What PEFT writes before the names of a model's modules."""
_FILES = (
    *("adapter_model.safetensors", "adapter_model.bin"),
    *("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin"),
)
"""Names of PEFT's files (``utils/constants.py``) and of diffusers' (``loaders/lora_base.py``)."""

_INSIDE, _BESIDE = "its metadata", f"{CONFIG} beside it"
_LARGEST = 1 << 20
_DEFAULT = 8
"""``alpha`` and ``r`` of PEFT's LoHa and LoKr."""
_MERGED = frozenset({"LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "HRA"})
"""Algorithms that are merged, or whose modules say why they are not."""
_HALVED, _MOST_TERMS = (0, 18), 100
"""The version of PEFT from which on the last power of a rotation's series is added once; terms that are believed."""
_MOST_ENDS = 200
"""Words of a list that are compared with the name of each tensor, of which a file may have very many."""
_KEYS = ("lora_alpha", "alpha_pattern", "use_rslora")
_MUTATED = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Values of ``init_lora_weights``, or their beginnings, with which the base was changed before training."""


def adapter_file(path: str) -> str:
    """The file of the adapter at *path*: of a folder as PEFT or diffusers saves one, what they call it there."""
    inside = (os.path.join(path, name) for name in _FILES)
    return next((file for file in inside if os.path.isfile(file)), path)


class Configuration:
    """What an adapter's configuration says of its modules; nothing where there is none."""

    def __init__(self, path: str, metadata: Mapping[str, str]) -> None:
        """*path* is the adapter's file, *metadata* its own."""
        self.where, self._settings = _settings(path, metadata)
        self.used: set[float] = set()
        """The alphas of LoRAs that were found, to be told with where they stand."""

    def alpha(self, module: str, component: str | None, rank: int) -> float | None:
        """The number, perhaps not finite, that divided by *rank* is the module's scale; ``None`` where none is said.

        *module* is its name, dotted, with or without its component before it. Raises :class:`NotMerged` where a pattern
        that comes before its own is not understood, the configuration cannot be read, or says that it is a change of
        another base.
        """
        settings = self._readable()
        prefixes = _PREFIXES.get(component or "", ())
        names = _names(module, component)
        for prefix in (*prefixes, ""):
            dotted = f"{prefix}." if prefix else ""
            start = str(settings.get(f"{dotted}init_lora_weights", "")).lower()
            if start.startswith(_MUTATED):
                raise NotMerged(f"it was trained on a base that {start:.20} had changed, and not converted since")
            alpha = settings.get(f"{dotted}lora_alpha")
            if alpha is None:
                continue
            alpha = _of_module(alpha, settings.get(f"{dotted}alpha_pattern"), names)
            stabilised = settings.get(f"{dotted}use_rslora") in (True, "True")
            self.used.add(as_number(alpha))
            return as_number(alpha) * (math.sqrt(rank) if stabilised else 1.0)
        return None

    def factor(self, algorithm: str, module: str, component: str | None) -> float:
        """The scale of a *module* of PEFT's LoHa or LoKr, as *algorithm* says; 1 where the configuration is of no such.

        Raises :class:`NotMerged` where it is no finite number, and as :meth:`alpha`.
        """
        settings = self._readable()
        if settings.get("peft_type") != algorithm.upper():
            return 1.0
        names = _names(module, component)
        alpha = as_number(_of_module(settings.get("alpha", _DEFAULT), settings.get("alpha_pattern"), names))
        rank = as_number(_of_module(settings.get("r", _DEFAULT), settings.get("rank_pattern"), names))
        if not (math.isfinite(alpha) and 0 < rank < math.inf):
            raise NotMerged("its alpha and its rank are no finite numbers")
        return alpha / rank

    @property
    def unmerged(self) -> str | None:
        """The algorithm that it says the adapter is of, where that is none that is merged."""
        told = (self._settings or {}).get("peft_type")
        return told if isinstance(told, str) and told not in _MERGED else None

    def is_saved(self, module: str, kind: str) -> bool:
        """Whether the tensor of a *kind* that stands at *module* in the file is the whole tensor of the model."""
        settings = self._settings or {}
        if kind == "bias" and settings.get("bias", "none") != "none":
            return True
        return any(f"{end}." in f"{module}." for end in _ends(settings.get("modules_to_save")))

    def rotation(self, *, series: bool) -> Mapping[str, float]:
        """The settings of a module of PEFT's OFT: how long its blocks are at most, and with *series* the terms of one.

        Raises :class:`NotMerged` where the configuration does not say how it rotates.
        """
        settings = self._readable()
        constrained, neumann = settings.get("coft"), settings.get("use_cayley_neumann", None if series else False)
        if settings.get("peft_type") != "OFT" or not (isinstance(constrained, bool) and isinstance(neumann, bool)):
            raise NotMerged(f"how its OFT rotates stands in {CONFIG}, which is not beside it or does not say it")
        told: dict[str, float] = {}
        if constrained:
            told["eps"] = as_number(settings.get("eps"))
            if not 0 <= told["eps"] < math.inf:
                raise NotMerged("the limit of its rotations (eps) is no finite number")
        if neumann:
            told["terms"] = as_number(settings.get("num_cayley_neumann_terms"))
            if told["terms"] not in range(1, _MOST_TERMS + 1):
                raise NotMerged("the number of terms that its rotations are made of is none")
            told["halved"] = _version(settings.get("peft_version")) >= _HALVED
        return told

    def reflection(self) -> Mapping[str, float]:
        """The settings of a module of PEFT's HRA: whether its directions are made orthogonal. Raises
        :class:`NotMerged` where the configuration does not say it."""
        settings = self._readable()
        orthogonal = settings.get("apply_GS")
        if settings.get("peft_type") != "HRA" or not isinstance(orthogonal, bool):
            raise NotMerged(f"how its HRA reflects stands in {CONFIG}, which is not beside it or does not say it")
        return {"orthogonal": orthogonal}

    def is_feedforward(self, module: str, component: str | None) -> bool:
        """Whether a *module* of PEFT's (IA)^3 is scaled at its inputs.

        PEFT takes each of a list's words as an end of names, and a text as a regular expression of the whole. Raises
        :class:`NotMerged` where the configuration does not say it, or a pattern is not understood.
        """
        settings = self._readable()
        told = settings.get("feedforward_modules")
        if settings.get("peft_type") != "IA3" or not isinstance(told, str | list):
            raise NotMerged(f"whether it scales inputs or outputs stands in {CONFIG}, which is not beside it")
        if len(told) > _MOST_ENDS:
            raise NotMerged("the words that say which of its modules scale inputs are too many")
        names = _names(module, component)
        if isinstance(told, str):
            return _fits(f"^{told}", names)
        return any(name.endswith(_ends(told)) for name in names)

    def _readable(self) -> Mapping[str, Any]:
        if self._settings is None:
            raise NotMerged("its adapter's configuration, in which its alpha may stand, cannot be read")
        return self._settings


def _ends(told: object) -> tuple[str, ...]:
    """The ends of names that *told* lists; none where it is no list, or longer than anyone's."""
    if not isinstance(told, list) or len(told) > _MOST_ENDS:
        return ()
    return tuple(map(str, told))


def _version(text: object) -> tuple[int, int]:
    """The first two numbers of the version *text*; PEFT before 0.18 wrote none."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})", text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2])) if match is not None else (0, 0)


def _names(module: str, component: str | None) -> set[str]:
    """What *module* is called with its component before it and without."""
    return {module, *(module.removeprefix(f"{prefix}.") for prefix in _PREFIXES.get(component or "", ()))}


def _of_module(value: object, patterns: object, names: Iterable[str]) -> object:
    """What the first of *patterns* that fits one of *names* says, else *value*."""
    if isinstance(patterns, dict):
        return next((own for pattern, own in patterns.items() if _fits(pattern, names)), value)
    if patterns:
        raise NotMerged("the patterns of its adapter's alphas are not understood")
    return value


def as_number(value: object) -> float:
    """*value* as a number; NaN where it is none, infinite where it is too large for one."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "denoiser": ("unet", "transformer"),
    SECOND: ("transformer_2",),
    "text_encoder": ("text_encoder",),
    "text_encoder_2": ("text_encoder_2",),
    "text_encoder_3": ("text_encoder_3",),
}


_SPECIAL = frozenset("\\^$*+?{}[]|()")


def _fits(pattern: str, names: Iterable[str]) -> bool:
    """Whether PEFT's *pattern* is the name of the module that has *names*, or the end of it from a dot on; after ``^``
    the whole of it.

    To PEFT it is a regular expression. The files' are names, with their dots escaped or not; of others it may take
    exponential time to say what they fit. Raises :class:`NotMerged` for those.
    """
    literal = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if _SPECIAL.intersection(literal):
        raise NotMerged(f"the pattern {pattern!r:.60} in its configuration is not understood")
    return any(name == literal or (pattern[:1] != "^" and name.endswith(f".{literal}")) for name in names)


def _settings(path: str, metadata: Mapping[str, str]) -> tuple[str, Mapping[str, Any] | None]:
    """Where the configuration stands, and what it says: nothing where there is none, ``None`` if it cannot be read."""
    if "lora_adapter_metadata" in metadata:
        return _INSIDE, _object(metadata["lora_adapter_metadata"])
    beside = os.path.join(os.path.dirname(path), CONFIG)
    if os.path.isfile(beside):
        try:
            with open_local(beside) as source:
                return _BESIDE, _object(source.read_at(0, source.size)) if source.size <= _LARGEST else None
        except SourceError:
            return _BESIDE, None
    return _INSIDE, {key: _value(metadata[key]) for key in _KEYS if key in metadata}


def _object(text: str | bytes) -> Mapping[str, Any] | None:
    value = _value(text)
    return value if isinstance(value, dict) else None


def _value(text: str | bytes) -> Any:
    """The value that *text* is as JSON; *text* itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
