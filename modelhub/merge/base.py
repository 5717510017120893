"""The words merging answers in: what an adapter changes, where that lies in the base, and the plan of it all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from modelhub.convert import Conversion, ConversionPlan, Piece
from modelhub.source import Source

Shape = tuple[int, ...]
Kind = Literal["weight", "bias"]


class NotMerged(Exception):
    """Why a module is not merged."""


@dataclass(frozen=True, slots=True)
class AdapterModule:
    """What one module of an adapter does to one tensor, the *kind* of the base's module that it is for.

    ``name`` is the module as the file has it, ``component`` what it belongs to (``denoiser``, ``text_encoder``,
    ``text_encoder_2`` ...; ``None``: the name does not say) and ``paths`` what it may be called there, with
    underscores: the first is meant that the base has. ``foreign`` is a word before its name that says that it is of
    another model, if the base has none of ``paths``.
    ``algorithm`` is a key of :data:`modelhub.merge.adapters.ALGORITHMS`, ``tensors`` are its tensors by role,
    ``magnitudes`` those of a DoRA, which ``peft`` says that PEFT wrote. ``factor`` multiplies every strength.
    ``settings`` are what its configuration says that the algorithm has to know, by the names that it calls it.
    ``optional``: nothing is lost where the base has no such tensor.
    """

    name: str
    component: str | None
    paths: tuple[str, ...]
    kind: Kind
    algorithm: str
    tensors: Mapping[str, Piece]
    alpha: float | None = None
    magnitudes: Piece | None = None
    peft: bool = False
    factor: float = 1.0
    settings: Mapping[str, float] = field(default_factory=dict)
    optional: bool = False
    foreign: str = ""


class Address(NamedTuple):
    """A tensor of the base: the output file that it will be in (empty: the only one), and its name."""

    file: str
    tensor: str


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a tensor of the base that are rows of a module's weight: ``rows[0]`` of it is row ``first`` there."""

    address: Address
    rows: tuple[int, int]
    first: int


@dataclass(frozen=True, slots=True)
class Target:
    """Where a module's weight, of *shape* as the adapter sees it, lies in the base.

    ``transposed``: the base has it the other way round. ``block`` is the name that users know its block by (``IN04``),
    empty where it has none. ``components`` are what the component it is in is called: FLUX's T5 is the third encoder to
    some and the second to others.
    """

    shape: Shape
    parts: tuple[Part, ...]
    transposed: bool = False
    block: str = ""
    components: tuple[str, ...] = ("denoiser",)


@dataclass(frozen=True, slots=True)
class Change:
    """One module's change of a run of rows of one tensor of the base, at *strength*.

    The fields are those of :class:`Part` and :class:`Target`; ``adapter`` is the adapter's place in the recipe.
    """

    adapter: int
    module: AdapterModule
    strength: float
    shape: Shape
    rows: tuple[int, int]
    first: int
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A module, or a tensor, of an adapter that is not applied: why, and the base's names that are nearest."""

    adapter: str
    name: str
    reason: str
    nearest: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Weights:
    """How strongly an adapter is applied: ``overall``, times what fits of the others.

    ``components`` are by component (``denoiser``, ``text_encoder``, ``text_encoders``: all of them), ``blocks`` by the
    name of a block (``IN04``), ``tensors`` by :mod:`fnmatch` patterns over the base's tensor names, the last that fits
    counting.
    """

    overall: float = 1.0
    components: Mapping[str, float] = field(default_factory=dict)
    blocks: Mapping[str, float] = field(default_factory=dict)
    tensors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """An adapter's file and its weights."""

    path: str
    weights: Weights = field(default_factory=Weights)


@dataclass(frozen=True, slots=True)
class Precision:
    """How numbers are computed and rounded: in F32, or F64 with *exact*; to the nearest, or with *seed* at random."""

    dtype: Literal["keep", "fp16", "bf16", "fp32"] = "keep"
    exact: bool = False
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class RecipeAdapter:
    """An adapter and its weights, and its digest where that is known."""

    use: AdapterUse
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a merge is made of; ``digests`` are the SHA-256 of the base's files, where they are known.

    One that was read has the ``file`` that it was read from, and the ``output`` that this says, if it says one.
    """

    base: str
    adapters: tuple[RecipeAdapter, ...]
    precision: Precision = field(default_factory=Precision)
    digests: Mapping[str, str] = field(default_factory=dict)
    file: str | None = field(default=None, compare=False)
    output: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class PlannedAdapter:
    """An adapter of a plan: its open file, what it is, how many of its modules are applied, sentences on it, whether it
    was made for another architecture than the base's, as far as both are known, and its SHA-256."""

    use: AdapterUse
    source: Source
    architecture: str | None
    algorithms: Mapping[str, int]
    matched: int
    skipped: int = 0
    notes: tuple[str, ...] = ()
    foreign: bool = False
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Everything that a merge will do, decided before a byte is written.

    ``conversion`` is how the base alone would be written, ``changes`` what is done to its tensors, in order.
    ``rescaled`` are the scales that may change with a tensor of eight bits, and the tensors they belong to. The digests
    of the base's files are not known before it is read: the recipe in the metadata has ``pending`` in their places, by
    file. ``notes`` are sentences.
    """

    base: str
    conversion: ConversionPlan
    adapters: tuple[PlannedAdapter, ...]
    changes: Mapping[Address, tuple[Change, ...]]
    unmatched: tuple[Unmatched, ...]
    recipe: Recipe
    pending: tuple[tuple[Source, str], ...] = ()
    precision: Precision = field(default_factory=Precision)
    notes: tuple[str, ...] = ()
    rescaled: Mapping[Address, Address] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the output."""
        return self.conversion.size


class Told(NamedTuple):
    """What merging did to those rows of one tensor that something changes: the norms of their weights before and of the
    change, both as they were intended, how many weights there are, and how many of them rounding left as they were."""

    weight: float
    change: float
    numel: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class Merge:
    """A merge that was carried out. ``told`` is by tensor; ``checked`` the tensors that were computed again in F64,
    with the largest error in units of the last place of the output's type."""

    plan: MergePlan
    conversion: Conversion
    told: Mapping[Address, Told]
    digests: Mapping[str, str]
    recipe_path: str
    checked: Mapping[Address, float] = field(default_factory=dict)

    @property
    def read(self) -> tuple[tuple[Source, str], ...]:
        """The files of the base and the adapters, and the SHA-256 of each."""
        names = {mark: name for name, mark in self.plan.recipe.digests.items()}
        base = ((source, self.digests[names[mark]]) for source, mark in self.plan.pending)
        return (*base, *((each.source, each.sha256) for each in self.plan.adapters))
