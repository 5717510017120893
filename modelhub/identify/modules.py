"""The modules that a LoRA or one of its relatives changes, as their tensors describe them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from modelhub.tensors import TensorInfo

_RANK_AXES = (
    (("lora", "down"), 0),
    (("lora", "up"), 1),
    (("loha", "w1_b"), 0),
    (("lokr", "t2"), 0),
    (("lokr", "w2_a"), 1),
    (("lokr", "w1_a"), 1),
    (("glora", "a2"), 0),
    (("svdquant", "up"), 1),
    (("delora", "down"), 0),
    (("hira", "down"), 0),
    (("hra", "u"), 1),
    (("miss", "block"), 0),
)
"""Where a rank stands: LyCORIS keeps ``hada_w1_b`` as [rank, in], ``lokr_w2_a`` as [out, rank]."""

_INPUTS = (("lora", "down"), ("loha", "w1_b"), ("full", "diff"), ("glora", "a2"), ("delora", "down"), ("hira", "down"))
"""Matrices of which the second size is that of what their module takes."""

_OUTPUTS = (("lora", "up"), ("full", "diff"), ("svdquant", "up"), ("delora", "up"), ("hira", "up"))
"""Matrices of which the first size is that of what their module gives."""

DIMENSIONS = 8
"""Dimensions of a shape that say anything; a header may give one a million, which nobody is to remember."""

_PLAIN = frozenset({("lora", "down"), ("lora", "up"), ("", "alpha")})
"""What almost every module of almost every file consists of."""


@dataclass(frozen=True, slots=True)
class ModulePrefix:
    """How the names of a component's modules begin in one dialect.

    ``candidates`` are the architectures whose modules are named so, ``because`` the reason in words; ``keep`` is set
    when the beginning is part of the module's own name.
    """

    begins: str
    component: str
    dialect: str | None = None
    candidates: tuple[str, ...] = ()
    because: str = ""
    keep: bool = False


class Form(NamedTuple):
    """What the shapes of a module's tensors tell, as the properties of :class:`Module` of the same names say."""

    algorithm: str
    rank: int | None
    is_convolution: bool
    inputs: int | None
    outputs: int | None


@dataclass(slots=True)
class Module:
    """One changed module: ``name`` as the file has it, ``path`` without its beginning and with underscores."""

    name: str
    path: str
    prefix: ModulePrefix | None
    tensors: dict[tuple[str, str], TensorInfo] = field(default_factory=dict)
    leaves: list[str] = field(default_factory=list)
    _form: Form | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def form(self) -> Form:
        """All that the shapes tell, at once; asked once the module has all its tensors."""
        if self._form is None:
            self._form = form_of({told: tensor.shape for told, tensor in self.tensors.items()})
        return self._form

    @property
    def algorithm(self) -> str:
        """``lora``, ``locon`` (a LoRA of a convolution), ``loha`` ...; ``dora`` or ``loha+dora`` with a magnitude."""
        return self.form.algorithm

    @property
    def rank(self) -> int | None:
        """The rank of its factors; ``None`` where the algorithm has none or they are kept whole."""
        return self.form.rank

    @property
    def is_convolution(self) -> bool:
        return self.form.is_convolution

    @property
    def inputs(self) -> int | None:
        """Width of what the module takes, where its factors tell."""
        return self.form.inputs

    @property
    def outputs(self) -> int | None:
        """Width of what the module gives, where its factors tell."""
        return self.form.outputs


_Shapes = Mapping[tuple[str, str], tuple[int, ...]]


def form_of(shapes: Mapping[tuple[str, str], tuple[int, ...]]) -> Form:
    """The form of a module whose tensors, by algorithm and role, have *shapes*."""
    return _form(tuple([(told, shape[:DIMENSIONS]) for told, shape in shapes.items()]))


@lru_cache(maxsize=1 << 14)
def _form(told: tuple[tuple[tuple[str, str], tuple[int, ...]], ...]) -> Form:
    """The form of a module of tensors of these algorithms, roles and shapes; few differ from all others."""
    shapes = dict(told)
    is_convolution = len(_shape(shapes, "lora", "down")) == 4
    return Form(_algorithm(shapes, is_convolution), _rank(shapes), is_convolution, _inputs(shapes), _outputs(shapes))


def _algorithm(shapes: _Shapes, is_convolution: bool) -> str:
    kernel = max(_shape(shapes, "lora", "down")[2:], default=1)
    if shapes.keys() <= _PLAIN and ("lora", "down") in shapes:
        return "locon" if is_convolution and kernel > 1 else "lora"
    algorithms = [name for name, _ in shapes if name and name != "dora"]
    base = algorithms[0] if algorithms else ""
    if base == "lora" and is_convolution and kernel > 1:
        base = "locon"
    if base == "oft" and len(_shape(shapes, "oft", "blocks")) == 4:
        base = "boft"
    if any(name == "dora" for name, _ in shapes):
        return "dora" if base in {"lora", ""} else f"{base}+dora"
    return base


def _rank(shapes: _Shapes) -> int | None:
    for (algorithm, role), axis in _RANK_AXES:
        if len(shape := _shape(shapes, algorithm, role)) > axis:
            return shape[axis]
    return None


def _inputs(shapes: _Shapes) -> int | None:
    for key in _INPUTS:
        if len(shape := _shape(shapes, *key)) >= 2:
            return shape[1]
    if len(shape := _shape(shapes, "hra", "u")) == 2:
        return shape[0]
    if len(shape := _shape(shapes, "svdquant", "down")) == 2:  # [inputs, rank] as it is packed, but for modulations
        return shape[0] if shape[1] == _rank(shapes) else shape[1]
    if len(shape := _shape(shapes, "ia3", "l")) == 2 and shape[0] == 1:
        return shape[1]
    if len(shape := _shape(shapes, "oft", "triangles")) == 2 and shape[0] > 1:  # [blocks, size * (size - 1) / 2]
        return shape[0] * (1 + math.isqrt(1 + 8 * shape[1])) // 2
    left, right = _lokr(shapes, "w1", 1), _lokr(shapes, "w2", 1)
    return left * right if left and right else None


def _outputs(shapes: _Shapes) -> int | None:
    for key in _OUTPUTS:
        if len(shape := _shape(shapes, *key)) >= 2:
            return shape[0]
    if len(shape := _shape(shapes, "miss", "block")) == 2:
        return shape[1]
    if len(shape := _shape(shapes, "loha", "w1_a")) == 2 and ("loha", "t1") not in shapes:
        return shape[0]
    if len(shape := _shape(shapes, "ia3", "l")) == 2 and shape[1] == 1:
        return shape[0]
    if len(shape := _shape(shapes, "oft", "blocks")) in {3, 4} and shape[-1] == shape[-2]:
        return shape[-3] * shape[-1]  # blocks along the diagonal
    left, right = _lokr(shapes, "w1", 0), _lokr(shapes, "w2", 0)
    return left * right if left and right else None


def _shape(shapes: _Shapes, algorithm: str, role: str) -> tuple[int, ...]:
    return shapes.get((algorithm, role), ())


def _lokr(shapes: _Shapes, factor: str, axis: int) -> int | None:
    """Size along *axis* of a Kronecker factor that is kept whole or as the product of two matrices."""
    if len(shape := _shape(shapes, "lokr", factor)) >= 2:
        return shape[axis]
    if ("lokr", "t2") in shapes and factor == "w2":  # in Tucker form the outer factors stand the other way
        shape = _shape(shapes, "lokr", "w2_a" if axis == 0 else "w2_b")
        return shape[1] if len(shape) >= 2 else None
    shape = _shape(shapes, "lokr", f"{factor}_{'ab'[axis]}")
    return shape[axis] if len(shape) >= 2 else None
