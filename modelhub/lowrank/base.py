"""The words that extracting and resizing answer in: which rank is kept, of which modules, and what that kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from modelhub.convert import Conversion, ConversionPlan, OutputFile, Piece, PlannedTensor
from modelhub.merge import Address, Unmatched
from modelhub.source import Source
from modelhub.tensors import DType

Dynamic = Literal["sv_ratio", "sv_fro", "sv_cumulative"]
FactorType = Literal["fp16", "bf16", "fp32"]
TYPES: Mapping[FactorType, DType] = {"fp16": DType.F16, "bf16": DType.BF16, "fp32": DType.F32}
_NEAREST = {DType.F64: DType.F32, DType.F8_E4M3: DType.F16, DType.F8_E5M2: DType.F16}


@dataclass(frozen=True, slots=True)
class RankRule:
    """How many singular values of a module are kept: ``rank``, or ``conv_rank`` of convolutions with a kernel.

    With *dynamic*, these are the most, and its name and number say how many of those. The names are kohya's
    (sd-scripts ``networks/resize_lora.py``): ``sv_ratio`` those larger than the first divided by the number, ``sv_fro``
    the fewest whose share of the Frobenius norm is the number, ``sv_cumulative`` whose share of the sum of all is.
    """

    rank: int = 32
    conv_rank: int | None = None
    dynamic: tuple[Dynamic, float] | None = None

    def most(self, *, kernel: bool) -> int:
        """The most that is kept of a module, a convolution with a *kernel* larger than one or not."""
        return self.conv_rank if kernel and self.conv_rank is not None else self.rank


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept of a module's change: its rank before (``None``: not known) and after, the norm of the change, and
    the share of its energy (the sum of the squared singular values) that the kept rank has."""

    before: int | None
    rank: int
    norm: float
    energy: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Rows of a module's weight in the tuned model and in the base: *rows* of a tensor each."""

    tuned: Piece
    base: Piece
    rows: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """The bytes of them that the tuned model has."""
        begin, end = self.rows
        return self.tuned.tensor.nbytes * (end - begin) // self.tuned.tensor.shape[0]


@dataclass(frozen=True, slots=True)
class ExtractedModule:
    """A module to extract: its ``name`` in the LoRA, its weight's ``shape`` as adapters see it, and where that lies."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Difference, ...]
    transposed: bool = False

    @property
    def kernel(self) -> bool:
        """Whether it is a convolution with a kernel larger than one."""
        return any(size > 1 for size in self.shape[2:])


@dataclass(frozen=True, slots=True)
class ExtractPlan:
    """Everything that an extraction will do. ``others`` are the pairs, tuned and base, of these components' tensors
    that no module is made of (norms, biases, embeddings), ``vae`` those of the VAE, by their places in the base: of
    both only the change is told. ``files`` are those of ``tuned`` and of ``base``, by relative name. ``metadata`` is
    what is said of the LoRA beforehand; ``exact`` has all singular values computed; ``notes`` are sentences."""

    tuned: str
    base: str
    modules: tuple[ExtractedModule, ...]
    others: Mapping[Address, tuple[Piece, Piece]]
    vae: Mapping[Address, tuple[Piece, Piece]]
    unmatched: tuple[Unmatched, ...]
    rule: RankRule
    dtype: FactorType
    files: Mapping[str, Mapping[str, Source]]
    metadata: Mapping[str, str]
    exact: bool = False
    salvaged: bool = False
    notes: tuple[str, ...] = ()

    @property
    def reading(self) -> ConversionPlan:
        """Everything that is read, as a plan whose sources can be checked."""
        pieces = [piece for module in self.modules for part in module.parts for piece in (part.tuned, part.base)]
        pieces += [piece for pair in (*self.others.values(), *self.vae.values()) for piece in pair]
        planned = (PlannedTensor(p.tensor.name, p.tensor.dtype, p.tensor.shape, (p,), 0, 0) for p in pieces)
        return ConversionPlan(self.tuned, (OutputFile("", b"", tuple(planned), {}),))

    @property
    def pending(self) -> tuple[tuple[Source, str], ...]:
        """The files that are read, whose digests are told, and a name for each."""
        read = {id(source) for source in self.reading.sources()}
        return tuple(
            (source, f"{model}/{name}")
            for model, files in self.files.items()
            for name, source in files.items()
            if id(source) in read
        )


@dataclass(frozen=True, slots=True)
class Extraction:
    """An extraction that was carried out. ``kept`` is by module, ``same`` counts the modules that did not change, and
    ``left`` are the norms of the changes, and of the weights, of what is in no module; ``vae`` counts the VAE's tensors
    that changed. ``digests`` are the SHA-256 of the files that were read, by model, ``tuned`` or ``base``, and relative
    name."""

    plan: ExtractPlan
    conversion: Conversion
    kept: Mapping[str, Kept]
    same: int
    left: Mapping[Address, tuple[float, float]]
    vae: int
    digests: Mapping[str, Mapping[str, str]]

    @property
    def read(self) -> tuple[tuple[Source, str], ...]:
        """The models' files, and the SHA-256 of each."""
        return tuple(
            (source, self.digests[model][name])
            for model, files in self.plan.files.items()
            for name, source in files.items()
            if name in self.digests[model]
        )


@dataclass(frozen=True, slots=True)
class ResizedModule:
    """A LoRA module to resize: its name, its tensors by role, its scale, and the name that its alpha will have
    (``None``: as PEFT, it has none, and scale 1). ``bias`` is what it adds to the bias, with the same scale."""

    name: str
    alpha: str | None
    tensors: Mapping[str, Piece]
    scale: float
    rank: int
    bias: Piece | None = None

    @property
    def kernel(self) -> bool:
        """Whether it is a convolution with a kernel larger than one."""
        shape = self.tensors["mid" if "mid" in self.tensors else "down"].tensor.shape
        return any(size > 1 for size in shape[2:])


@dataclass(frozen=True, slots=True)
class ResizePlan:
    """Everything that resizing will do. ``copied`` are tensors that stay as they are, by name: those of other
    algorithms, of magnitudes, of no module; ``algorithms`` counts the modules among them."""

    source: str
    modules: tuple[ResizedModule, ...]
    copied: Mapping[str, Piece]
    algorithms: Mapping[str, int]
    rule: RankRule
    dtype: FactorType | None
    metadata: Mapping[str, str]
    salvaged: bool = False
    notes: tuple[str, ...] = field(default=())

    def type_of(self, factor: Piece) -> DType:
        """The type of what *factor* becomes."""
        return TYPES[self.dtype] if self.dtype is not None else nearest_type(factor.tensor.dtype)


@dataclass(frozen=True, slots=True)
class Resizing:
    """A LoRA that was resized; ``kept`` is by module."""

    plan: ResizePlan
    conversion: Conversion
    kept: Mapping[str, Kept]
    sha256: str


def nearest_type(dtype: DType) -> DType:
    """The narrowest of :data:`TYPES` that has the numbers of *dtype*, but for F64's, or *dtype*, where it is one."""
    return _NEAREST.get(dtype, dtype)


def network_dim(rule: RankRule, kept: Mapping[str, Kept]) -> dict[str, str]:
    """What sd-scripts writes down of the ranks: theirs and the alphas', or that *rule* chose them one by one."""
    largest = max(each.rank for each in kept.values())
    dim = "Dynamic" if rule.dynamic is not None else str(min(rule.rank, largest))
    return {"ss_network_dim": dim, "ss_network_alpha": dim}


def in_total(kept: Mapping[str, Kept]) -> float:
    """The share of the energy of all changes together that was kept; 1 where there is none."""
    energy = sum(each.norm**2 for each in kept.values())
    return sum(each.energy * each.norm**2 for each in kept.values()) / energy if energy else 1.0
