"""The words of smoke tests, and the form in which a test crosses to the process that carries it out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

Outcome = Literal["passed", "suspect", "failed", "not testable"]
Preset = Literal["quick", "standard", "thorough"]

CLIP = "CLIP"
"""The vocabulary of a test that is CLIP's own, where others are a folder."""

UPSCALER = "upscaler"
"""The component that an upscaler or restorer is."""

PROMPTS = (
    "a red bicycle leaning against a white wall",
    "a mountain lake at night, oil painting",
    "portrait of an old fisherman, photograph",
    "three green apples on a wooden table",
)
"""The prompt of the image, another one that must make a difference, and what else a grid is made of."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How models are tested, the same for all of them.

    ``quick`` samples 4 steps at 256 pixels, ``standard`` 20 at the size that the model was made for; *steps* and *size*
    (pixels, a multiple of 64) overrule that. *prompts* are that of the image, another one that must make a difference,
    and any number of others, *negative* the one that guidance leads away from. ``thorough`` does what ``standard`` does
    and makes an image of each prompt at each of *seeds* (none: *seed* and the two after it). Without *seed* it is the
    first of *seeds*, or 0; without *guidance* it is the model's own, mostly 7. *device* is ``auto``, ``cpu``, ``mps``,
    ``cuda`` or ``cuda:1``; *dtype* ``auto``, ``fp32``, ``bf16`` or ``fp16``. *tokenizer* is a folder with another
    vocabulary than CLIP's own.
    """

    preset: Preset = "quick"
    steps: int | None = None
    size: int | None = None
    seed: int | None = None
    seeds: tuple[int, ...] = ()
    guidance: float | None = None
    prompts: tuple[str, ...] = PROMPTS
    negative: str = ""
    device: str = "auto"
    dtype: str = "auto"
    tokenizer: str | None = None

    @property
    def first_seed(self) -> int:
        """The seed of the image."""
        return self.seed if self.seed is not None else next(iter(self.seeds), 0)


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
    :class:`modelhub.convert.layouts.View`; *swapped*: its second half of rows comes before the first."""

    file: int
    name: str
    rows: tuple[int, int] | None = None
    transposed: bool = False
    shape: tuple[int, ...] | None = None
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class Component:
    """A module's configuration and its tensors under diffusers' names; ``None``: random weights."""

    config: Mapping[str, object]
    tensors: Mapping[str, TensorView] | None


@dataclass(frozen=True, slots=True)
class WeightChange:
    """What one *module* of an adapter does to rows of the *tensor* of a *component*.

    The other fields are those of :class:`modelhub.merge.Change` and its module; the strength is 1.
    """

    module: str
    component: str
    tensor: str
    rows: tuple[int, int]
    first: int
    shape: tuple[int, ...]
    transposed: bool
    algorithm: str
    tensors: Mapping[str, TensorView]
    alpha: float | None
    magnitudes: TensorView | None
    peft: bool
    factor: float
    settings: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Layer:
    """A step of a hypernetwork's network: ``linear``, ``norm`` (their tensors by name), or an activation's name."""

    kind: str
    tensors: Mapping[str, TensorView] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Networks:
    """What a hypernetwork makes of keys and values that are *width* wide."""

    width: int
    keys: tuple[Layer, ...]
    values: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """What is put on a base: a LoRA's *changes*, an embedding's *vectors* by text encoder, a hypernetwork's *networks*,
    or the *control* that a ControlNet or T2I-Adapter is; *unmatched* are pairs of what has no place there and why."""

    changes: tuple[WeightChange, ...] = ()
    vectors: Mapping[str, TensorView] = field(default_factory=dict)
    networks: tuple[Networks, ...] = ()
    control: Component | None = None
    unmatched: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """The CLIP model at *path* that an image is looked at with: the configuration of transformers' ``CLIPModel``, its
    tensors in *files*, and how many words it knows."""

    path: str
    files: tuple[TensorFile, ...]
    config: Mapping[str, object]
    tensors: Mapping[str, TensorView]
    words: int


@dataclass(frozen=True, slots=True)
class SmokeSpec:
    """One test: the model at *path*, of *kind* ``checkpoint``, ``vae``, ``lora`` ..., and all that is needed to run it.

    *pipeline* is the class of diffusers' pipeline (``""`` for a VAE alone); *scheduler* its scheduler's configuration;
    *steps*, *size* (pixels) and *seed* what is generated; *unused* the names in the file that nothing loads. With
    *adapter*, all of these are those of the model that it is put on, *base* (``None``: one of random weights).
    *reference* is a PNG file that the image is compared with; with *image_to_image* a model for text starts from a
    picture as well; of every prompt at each of *seeds*, where there are any, an image more is made. *clip* says how
    well the image shows its prompt, or *no_clip* why nothing does. *tokenizer* is a folder with a vocabulary, or
    :data:`CLIP`; ``None``: words become numbers by their checksum. *t5* is the file of T5's tokenizer; *left_out* says
    what of the model is not run, and why. Without an adapter, *base* is the model that gave what this one lacks.
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
    prompts: tuple[str, ...]
    device: str
    dtype: str
    tokenizer: str | None
    adapter: AdapterSpec | None = None
    base: str | None = None
    reference: str | None = None
    image_to_image: bool = False
    negative: str = ""
    seeds: tuple[int, ...] = ()
    clip: ClipSpec | None = None
    no_clip: str = ""
    t5: str | None = None
    left_out: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SmokeSpec:
        """The spec that :meth:`to_json` wrote."""
        spec: SmokeSpec = _rebuilt(cls, json.loads(text))
        return spec


def _rebuilt(kind: Any, value: Any) -> Any:
    """*value*, as JSON has it, as the type *kind*: of dataclasses, mappings, tuples, and ``None`` or another."""
    if value is None or kind in (Any, object, str, int, float, bool):
        return value
    if is_dataclass(kind):
        made: type = kind  # type: ignore[assignment]
        return made(**{name: _rebuilt(_hints(made)[name], each) for name, each in value.items()})
    inner = get_args(kind)
    if get_origin(kind) is Mapping:
        return {name: _rebuilt(inner[1], each) for name, each in value.items()}
    if get_origin(kind) is tuple:
        kinds = (inner[0],) * len(value) if inner[1:] == (...,) else inner
        return tuple(_rebuilt(each, item) for each, item in zip(kinds, value, strict=True))
    return _rebuilt(next(each for each in inner if each is not type(None)), value)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


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

    *image* is the PNG file's bytes, *grid* those of one with the images of each prompt (a row) at each seed; *seconds*
    the wall time of the stages by name; *host_memory* and *device_memory* the most bytes that the worker held; *facts*
    what else it told (device, element type, versions, losses); *asked* is what two tests must share to be comparable:
    steps, size, seed, prompts, tokenizer, base ...
    """

    path: str
    outcome: Outcome
    sentence: str
    kind: str | None = None
    architecture: str | None = None
    checks: tuple[Check, ...] = ()
    image: bytes | None = field(default=None, repr=False)
    grid: bytes | None = field(default=None, repr=False)
    seconds: Mapping[str, float] = field(default_factory=dict)
    host_memory: int | None = None
    device_memory: int | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    asked: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pair:
    """What two models made of one prompt and seed; ``alike`` is how alike the images are, ``bits`` and ``ssim``
    (``None``: there are not two images)."""

    prompt: str
    seed: int
    first: SmokeResult
    second: SmokeResult
    alike: Mapping[str, float | None] | None = None
