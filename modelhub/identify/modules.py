"""The modules that a LoRA or one of its relatives changes, as their tensors describe them."""

from __future__ import annotations

from dataclasses import dataclass, field

from modelhub.tensors import TensorInfo

_RANK_AXES = (
    (("lora", "down"), 0),
    (("lora", "up"), 1),
    (("loha", "w1_b"), 0),
    (("lokr", "t2"), 0),
    (("lokr", "w2_a"), 1),
    (("lokr", "w1_a"), 1),
    (("glora", "a2"), 0),
)
"""Where a rank stands: LyCORIS keeps ``hada_w1_b`` as [rank, in], ``lokr_w2_a`` as [out, rank]."""


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


@dataclass(slots=True)
class Module:
    """One changed module: ``name`` as the file has it, ``path`` without its beginning and with underscores."""

    name: str
    path: str
    prefix: ModulePrefix | None
    tensors: dict[tuple[str, str], TensorInfo] = field(default_factory=dict)
    leaves: list[str] = field(default_factory=list)

    @property
    def algorithm(self) -> str:
        """``lora``, ``locon`` (a LoRA of a convolution), ``loha`` ...; ``dora`` or ``loha+dora`` with a magnitude."""
        if self.tensors.keys() <= _PLAIN and ("lora", "down") in self.tensors:
            return "locon" if self.is_convolution and self._kernel > 1 else "lora"
        algorithms = [name for name, _ in self.tensors if name and name != "dora"]
        base = algorithms[0] if algorithms else ""
        if base == "lora" and self.is_convolution and self._kernel > 1:
            base = "locon"
        if base == "oft" and len(self._shape("oft", "blocks")) == 4:
            base = "boft"
        if any(name == "dora" for name, _ in self.tensors):
            return "dora" if base in {"lora", ""} else f"{base}+dora"
        return base

    @property
    def rank(self) -> int | None:
        """The rank of its factors; ``None`` where the algorithm has none or they are kept whole."""
        for (algorithm, role), axis in _RANK_AXES:
            if len(shape := self._shape(algorithm, role)) > axis:
                return shape[axis]
        return None

    @property
    def is_convolution(self) -> bool:
        return len(self._shape("lora", "down")) == 4

    @property
    def inputs(self) -> int | None:
        """Width of what the module takes, where its factors tell."""
        for key in (("lora", "down"), ("loha", "w1_b"), ("full", "diff"), ("glora", "a2")):
            if len(shape := self._shape(*key)) >= 2:
                return shape[1]
        left, right = self._lokr("w1", 1), self._lokr("w2", 1)
        return left * right if left and right else None

    @property
    def outputs(self) -> int | None:
        """Width of what the module gives, where its factors tell."""
        for key in (("lora", "up"), ("full", "diff")):
            if len(shape := self._shape(*key)) >= 2:
                return shape[0]
        if len(shape := self._shape("loha", "w1_a")) == 2 and ("loha", "t1") not in self.tensors:
            return shape[0]
        left, right = self._lokr("w1", 0), self._lokr("w2", 0)
        return left * right if left and right else None

    @property
    def _kernel(self) -> int:
        return max(self._shape("lora", "down")[2:], default=1)

    def _shape(self, algorithm: str, role: str) -> tuple[int, ...]:
        tensor = self.tensors.get((algorithm, role))
        return tensor.shape if tensor else ()

    def _lokr(self, factor: str, axis: int) -> int | None:
        """Size along *axis* of a Kronecker factor that is kept whole or as the product of two matrices."""
        if len(shape := self._shape("lokr", factor)) >= 2:
            return shape[axis]
        if ("lokr", "t2") in self.tensors and factor == "w2":  # in Tucker form the outer factors stand the other way
            shape = self._shape("lokr", "w2_a" if axis == 0 else "w2_b")
            return shape[1] if len(shape) >= 2 else None
        shape = self._shape("lokr", f"{factor}_{'ab'[axis]}")
        return shape[axis] if len(shape) >= 2 else None
