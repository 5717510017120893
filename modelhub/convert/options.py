"""What a conversion may be asked to change on the way, and how those wishes are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from modelhub.errors import SettingsError
from modelhub.tensors import DType

DTYPES: Mapping[str, DType | None] = {"keep": None, "fp16": DType.F16, "bf16": DType.BF16, "fp32": DType.F32}
"""Words for element types; ``keep`` is the source's own."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}


@dataclass(frozen=True, slots=True)
class DTypeRule:
    """Cast what *pattern* matches to *dtype* (``None``: keep it).

    *pattern* is a component (``unet``, ``vae``, ``te`` ...) or, in :mod:`fnmatch`'s wildcards, the name of a tensor;
    ``*`` is every tensor.
    """

    pattern: str
    dtype: DType | None


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """What is changed on the way; by default nothing, and the output is what ``safetensors.torch.save_file`` writes.

    * ``dtypes``: casts of floating point tensors; of the rules that match a tensor the last one decides.
    * ``ema``: ``keep`` the averaged weights of a training checkpoint, ``drop`` them, or ``use`` them in place of the
      trained ones; ``None`` is ``drop`` when pruning, else ``keep``.
    * ``prune``: leave out what no loader uses: averaged weights, losses and their networks, optimizer state.
    * ``include``, ``exclude``: keep only tensors whose names fit one of these wildcards, and none of those.
    * ``components``: write only these parts of a checkpoint, each into a file of its own.
    * ``metadata``: further pairs for the header. ``modelspec``: describe the model there by ModelSpec 1.0.1.
    * ``dense``: write sparse and quantised tensors with all their elements, which are refused otherwise.
    * ``dedupe_shared``: write tensors that are one and the same in the source once, under their first name.
    * ``align``: let tensors begin at multiples of so many bytes (64 or 4096) in the file, where their sizes permit.
    * ``max_shard_size``: the most bytes of tensors in one file; what does not fit becomes several, with an index.
    * ``layout``: make a checkpoint a ``diffusers`` folder, or such a folder a checkpoint, whose names are ``ldm``'s.
    """

    dtypes: tuple[DTypeRule, ...] = ()
    ema: Literal["keep", "drop", "use"] | None = None
    prune: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    modelspec: bool = False
    dense: bool = False
    dedupe_shared: bool = False
    align: int | None = None
    max_shard_size: int | None = None
    layout: Literal["ldm", "diffusers"] | None = None

    @property
    def changes_nothing(self) -> bool:
        """Whether these are the defaults."""
        return self == NO_OPTIONS


NO_OPTIONS = ConversionOptions()


def written_options(options: ConversionOptions) -> dict[str, Any]:
    """Those of *options* that are not the default, as JSON values; :func:`read_options` is the way back."""
    words = {dtype: word for word, dtype in DTYPES.items()}
    found: dict[str, Any] = {}
    for each in fields(options):
        value = getattr(options, each.name)
        if value != getattr(NO_OPTIONS, each.name):
            found[each.name] = list(value) if isinstance(value, tuple) else value
    if options.dtypes:
        found["dtypes"] = [f"{rule.pattern}={words[rule.dtype]}" for rule in options.dtypes]
    if options.metadata:
        found["metadata"] = dict(options.metadata)
    return found


def read_options(values: Mapping[str, Any]) -> ConversionOptions:
    """The options that :func:`written_options` wrote. Raises :class:`SettingsError` for what it would not write."""
    known = {each.name for each in fields(ConversionOptions)}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known or isinstance(value, float):
            raise SettingsError(f"there is no option {name!r:.60} of the value {value!r:.60}")
        found[name] = value
    for name in ("dtypes", "include", "exclude", "components"):
        words = found.get(name, [])
        if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            raise SettingsError(f"the option {name} is {words!r:.60}")
        found[name] = tuple(map(dtype_rule, words)) if name == "dtypes" else tuple(words)
    return ConversionOptions(**found)


def metadata_pair(text: str) -> tuple[str, str]:
    """``KEY=VALUE`` as a pair for the header. Raises :class:`SettingsError`, also for a key that is ours to set."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise SettingsError(f"{text!r:.100} is no metadata", hint="write KEY=VALUE")
    if key == "format" or key.startswith("modelhub."):
        raise SettingsError(f"the metadata {key!r:.100} is set by modelhub itself")
    return key, value


def dtype_rule(text: str) -> DTypeRule:
    """``fp16`` or ``PATTERN=fp16`` as a rule. Raises :class:`SettingsError`."""
    pattern, equals, word = text.rpartition("=")
    if word not in DTYPES or (equals and not pattern):
        raise SettingsError(
            f"{text!r} is no element type to convert to",
            hint=f"write one of {', '.join(DTYPES)}, or PART=TYPE: vae=fp32, '*norm*=fp32'",
        )
    return DTypeRule(pattern or "*", DTYPES[word])


def byte_count(text: str) -> int:
    """A size such as ``5GB`` (10^9 bytes), ``500MiB`` (2^20) or ``1000`` in bytes. Raises :class:`SettingsError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", text.strip().upper())
    count = int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    if count < 1:
        raise SettingsError(f"{text!r} is no size", hint="write a number and a unit: 5GB, 500MiB")
    return count
