"""The words blending answers in: how models are put together, and the plan of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from modelhub.convert import Conversion, ConversionPlan, Piece
from modelhub.merge import Address, Precision, Told, Unmatched, Weights
from modelhub.source import Source

MethodName = Literal["weighted", "sum-twice", "add-difference", "train-difference", "slerp"]

TAKES: Mapping[MethodName, tuple[int, ...]] = {
    "weighted": (2, 3),
    "sum-twice": (3,),
    "add-difference": (3,),
    "train-difference": (3,),
    "slerp": (2,),
}
"""How many models each method takes."""


@dataclass(frozen=True, slots=True)
class BlendRecipe:
    """What a blend is made of: *models* A, B and perhaps C, the ratios that *method* takes, and, where they are known,
    the SHA-256 of each model's files by name; ``file`` and ``output`` as in a :class:`~modelhub.merge.Recipe`."""

    method: MethodName
    models: tuple[str, ...]
    alpha: Weights
    beta: Weights = field(default_factory=lambda: Weights(0.0))
    precision: Precision = field(default_factory=Precision)
    digests: tuple[Mapping[str, str], ...] = ()
    file: str | None = field(default=None, compare=False)
    output: str | None = field(default=None, compare=False)

    @property
    def uses_beta(self) -> bool:
        """Whether there is a beta in the method's formula."""
        return self.method == "sum-twice" or (self.method == "weighted" and len(self.models) == 3)


@dataclass(frozen=True, slots=True)
class Blended:
    """How one tensor of A changes: the same tensor of B and perhaps C, and the ratios there.

    ``columns``: only the first so many input channels are blended, which is all that the others have (``None``: all).
    """

    others: tuple[Piece, ...]
    alpha: float
    beta: float
    columns: int | None = None


@dataclass(frozen=True, slots=True)
class BlendPlan:
    """Everything that a blend will do, decided before a byte is written.

    ``conversion`` is how A alone would be written, ``changes`` what is done to its tensors, ``rescaled`` as in a
    :class:`~modelhub.merge.MergePlan`. ``unmatched`` are tensors that not all of the models have. The digests of the
    files are not known before they are read: the recipe has ``pending`` in their places. ``notes`` are sentences.
    """

    conversion: ConversionPlan
    changes: Mapping[Address, Blended]
    recipe: BlendRecipe
    pending: tuple[tuple[Source, str], ...]
    unmatched: tuple[Unmatched, ...] = ()
    notes: tuple[str, ...] = ()
    rescaled: Mapping[Address, Address] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the output."""
        return self.conversion.size


@dataclass(frozen=True, slots=True)
class Blend:
    """A blend that was carried out; the fields are those of :class:`~modelhub.merge.Merge`."""

    plan: BlendPlan
    conversion: Conversion
    told: Mapping[Address, Told]
    recipe: BlendRecipe
    recipe_path: str
    checked: Mapping[Address, float] = field(default_factory=dict)

    @property
    def read(self) -> tuple[tuple[Source, str], ...]:
        """The models' files, and the SHA-256 of each."""
        found = [sha256 for digests in self.recipe.digests for sha256 in digests.values()]
        return tuple((source, sha256) for (source, _), sha256 in zip(self.plan.pending, found, strict=True))
