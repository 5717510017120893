"""The words of smoke tests, and the form in which a test crosses to the process that carries it out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Outcome = Literal["passed", "suspect", "failed", "not testable"]
Preset = Literal["quick", "standard"]

PROMPTS = ("a red bicycle leaning against a white wall", "a mountain lake at night, oil painting")
"""The prompt of the image, and another one that must make a difference."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How models are tested, the same for all of them.

    ``quick`` samples 4 steps at 256 pixels, ``standard`` 20 at the size that the model was made for; *steps* and *size*
    (pixels, a multiple of 64) overrule that. *device* is ``auto``, ``cpu`` or ``cuda``; *dtype* ``auto``, ``fp32``,
    ``bf16`` or ``fp16``. *tokenizer* is a folder with the vocabulary of CLIP; without one, words become numbers by
    their checksum.
    """

    preset: Preset = "quick"
    steps: int | None = None
    size: int | None = None
    seed: int = 0
    guidance: float = 7.0
    device: str = "auto"
    dtype: str = "auto"
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A safetensors file as it was when its scan called it safe: path, size in bytes, time in ns, inode."""

    path: str
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class TensorView:
    """Where a tensor comes from: *name* in the file number *file*, and how it is looked at, as in
    :class:`modelhub.convert.layouts.View`."""

    file: int
    name: str
    rows: tuple[int, int] | None = None
    transposed: bool = False
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """A module's configuration and its tensors under diffusers' names."""

    config: Mapping[str, object]
    tensors: Mapping[str, TensorView]


@dataclass(frozen=True, slots=True)
class SmokeSpec:
    """One test: the model at *path*, of *kind* ``checkpoint`` or ``vae``, and all that is needed to run it.

    *pipeline* is the class of diffusers' pipeline (``""`` for a VAE alone); *scheduler* its scheduler's configuration;
    *steps*, *size* (pixels) and *seed* what is generated; *unused* the names in the file that nothing loads.
    """

    path: str
    kind: str
    architecture: str | None
    pipeline: str
    files: tuple[TensorFile, ...]
    components: Mapping[str, Component]
    scheduler: Mapping[str, object]
    unused: tuple[str, ...]
    steps: int
    size: int
    seed: int
    guidance: float
    prompts: tuple[str, str]
    device: str
    dtype: str
    tokenizer: str | None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SmokeSpec:
        """The spec that :meth:`to_json` wrote."""
        told = json.loads(text)
        components = {
            name: Component(each["config"], {key: _view(view) for key, view in each["tensors"].items()})
            for name, each in told.pop("components").items()
        }
        files = tuple(TensorFile(**each) for each in told.pop("files"))
        prompts, unused = tuple(told.pop("prompts")), tuple(told.pop("unused"))
        return cls(components=components, files=files, prompts=prompts, unused=unused, **told)


def _view(told: Mapping[str, Any]) -> TensorView:
    rows, shape = told["rows"], told["shape"]
    return TensorView(
        told["file"],
        told["name"],
        None if rows is None else (rows[0], rows[1]),
        told["transposed"],
        None if shape is None else tuple(shape),
    )


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was measured (``None``: nothing finite), what was asked for, and the upshot
    in a sentence."""

    name: str
    outcome: Literal["passed", "suspect", "failed"]
    value: float | None
    threshold: str
    sentence: str


@dataclass(frozen=True, slots=True)
class SmokeResult:
    """What a test came to: an outcome, one *sentence* that says why, and the evidence.

    *image* is the PNG file's bytes; *seconds* the wall time of the stages by name; *host_memory* and *device_memory*
    the most bytes that the worker held; *facts* what else it told (device, element type, versions, tokenizer, losses).
    """

    path: str
    outcome: Outcome
    sentence: str
    kind: str | None = None
    architecture: str | None = None
    checks: tuple[Check, ...] = ()
    image: bytes | None = field(default=None, repr=False)
    seconds: Mapping[str, float] = field(default_factory=dict)
    host_memory: int | None = None
    device_memory: int | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
