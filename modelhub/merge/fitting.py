"""Whether the tensors of a module fit a weight, told by shapes alone."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt, prod

from modelhub.merge.base import AdapterModule, Address, Shape, Target

_NEEDED = {
    "lora": ("up", "down"),
    "loha": ("w1_a", "w1_b", "w2_a", "w2_b"),
    "full": ("diff",),
    "set": ("set",),
    "oft": ("blocks",),
    "glora": ("a1", "a2", "b1", "b2"),
    "boft": ("blocks",),
    "hra": ("u",),
    "old-peft-oft": ("square",),
}

_MIXING_ROWS = frozenset({"oft", "old-peft-oft"})
"""Algorithms that mix rows of the weight."""

_MOST_BETWEEN = 1 << 28
"""Numbers of a product in between: twenty times as many as a convolution of SDXL has with a rank of 512."""


def misfit(module: AdapterModule, target: Target) -> str | None:
    """Why *module* cannot be applied to *target*; ``None`` where its shapes fit."""
    shapes = {role: piece.tensor.shape for role, piece in module.tensors.items()}
    lacking = [role for role in _NEEDED.get(module.algorithm, ()) if role not in shapes]
    if lacking:
        return f"the {module.algorithm} module has no tensor {lacking[0]!r}"
    empty = [role for role, shape in shapes.items() if 0 in shape]
    if empty:
        return f"its tensor {empty[0]!r} has no elements"
    try:
        size = _SIZES[module.algorithm](shapes, target.shape)
        inner = list(_inner(shapes))
    except (KeyError, IndexError, ValueError):
        return f"its tensors do not make a {module.algorithm} module"
    wanted = (target.shape[0] if target.shape else 1, prod(target.shape[1:]))
    if size != wanted:
        return f"it is for a weight of {size[0]} by {size[1]}, and the base's has the shape {list(target.shape)}"
    for left, right in inner:
        if left != right:
            return f"its factors do not fit each other: one has the rank {left}, and the other {right}"
    if (most := max(_between(shapes), default=0)) > _MOST_BETWEEN:
        return f"a product of its factors alone would have {most:,} numbers"
    magnitudes = module.magnitudes.tensor.shape if module.magnitudes is not None else None
    output = True
    if magnitudes is not None:
        if module.algorithm not in ADDITIVE:
            return f"a {module.algorithm} module with magnitudes (DoRA) is not defined"
        found = on_output(magnitudes, target.shape, peft=module.peft)
        if found is None:
            return f"magnitudes of shape {list(magnitudes)} do not fit a weight of shape {list(target.shape)}"
        output = found
    if len(target.parts) > 1 and (module.algorithm in _MIXING_ROWS or not output):
        return f"{module.algorithm} needs the whole weight, which lies in {len(target.parts)} tensors of the base"
    return None


class Taken:
    """The rows of a base's tensors that modules of one adapter are for: each row is one module's.

    Files are known that have the same LoRA under two names, as kohya's and diffusers': added up it would count double.
    """

    def __init__(self) -> None:
        self._rows: dict[Address, list[tuple[int, int, str]]] = {}

    def take(self, name: str, target: Target) -> str | None:
        """Give the rows of *target* to the module *name*; why not, where another has some of them already."""
        for part in target.parts:
            for first, end, other in self._rows.get(part.address, ()):
                if part.rows[0] < end and first < part.rows[1]:
                    return f"the module {other} of the file is for the same weights"
        for part in target.parts:
            self._rows.setdefault(part.address, []).append((*part.rows, name))
        return None


ADDITIVE = frozenset({"lora", "loha", "lokr", "full"})
"""Algorithms whose change does not depend on the weight: what a DoRA can be made of."""


def on_output(magnitudes: Shape, shape: Shape, *, peft: bool = False) -> bool | None:
    """Whether a DoRA of a weight of *shape* has *magnitudes* for its outputs and not for its inputs; ``None``: neither.

    The axis is told by their shape, see :mod:`modelhub.merge.adapters.dora`; *peft* says that PEFT wrote them, always
    one for each output.
    """
    count = prod(magnitudes)
    if sum(size != 1 for size in magnitudes) > 1 or len(shape) < 2:
        return None
    if peft or len(magnitudes) < 2:
        return True if count == shape[0] else None
    if count == shape[0] and magnitudes[0] == count and (count != 1 or shape[1] != 1):
        return True
    return False if count == shape[1] and magnitudes[1] == count else None


Shapes = dict[str, Shape]


def _inner(s: Shapes) -> Iterator[tuple[int, int]]:
    """The ranks of *s*, a module's shapes by role, that have to be the same, in pairs."""
    if "mid" in s and "up" in s:
        yield from ((prod(s["up"][1:]), s["mid"][0]), (s["mid"][1], s["down"][0]))
    elif "up" in s:
        yield prod(s["up"][1:]), s["down"][0]
    for number in "12":
        left, right, core = (s.get(f"{role}{number}{end}") for role, end in (("w", "_a"), ("w", "_b"), ("t", "")))
        if left and right and core:
            yield from ((left[0], core[0]), (right[0], core[1]))
        elif left and right:
            yield left[1], right[0]


def _between(s: Shapes) -> Iterator[int]:
    """How many numbers the products in between have that are made of *s*, a CP form's shapes by role: the ranks of a
    small file can make them larger than any memory."""
    if "mid" in s:
        yield prod(s["mid"][:1] + s["mid"][2:] + s["down"][1:])
    for core, right in (("t1", "w1_b"), ("t2", "w2_b")):
        if core in s:
            yield prod(s[core][:1] + s[core][2:] + s[right][1:])
    if "t2" in s:
        yield prod(s["t2"][1:] + s["w2_a"][1:])


def _lora(s: Shapes, _shape: Shape) -> Shape:
    kernel = s["mid"][2:] if "mid" in s else ()
    return s["up"][0], prod(s["down"][1:]) * prod(kernel)


def _loha(s: Shapes, _shape: Shape) -> Shape:
    if "t1" in s:
        return s["w1_a"][1], s["w1_b"][1] * prod(s["t1"][2:])
    return s["w1_a"][0], prod(s["w1_b"][1:])


def _lokr(s: Shapes, _shape: Shape) -> Shape:
    small = (s["w1"][0], prod(s["w1"][1:])) if "w1" in s else (s["w1_a"][0], s["w1_b"][1])
    if "w2" in s:
        large = s["w2"][0], prod(s["w2"][1:])
    elif "t2" in s:
        large = s["w2_a"][1], s["w2_b"][1] * prod(s["t2"][2:])
    else:
        large = s["w2_a"][0], prod(s["w2_b"][1:])
    return small[0] * large[0], small[1] * large[1]


def _whole(s: Shapes, _shape: Shape) -> Shape:
    (only,) = s.values()
    return only[0] if only else 1, prod(only[1:])


def _ia3(s: Shapes, shape: Shape) -> Shape:
    columns = prod(shape[1:])
    if "inputs" in s:
        count = prod(s["inputs"])
        return shape[0], columns if count == shape[1] else count
    if "outputs" in s:
        return prod(s["outputs"]), columns
    count = prod(s["weight"])
    return (shape[0] if count in shape[:2] else count), columns


def _oft(s: Shapes, shape: Shape) -> Shape:
    return sum(blocks[-3] * blocks[-1] for role, blocks in s.items() if role != "rescale"), prod(shape[1:])


def _peft_oft(s: Shapes, shape: Shape) -> Shape:
    columns = prod(shape[1:])
    if "triangles" in s:
        count, elements = s["triangles"]
        size = (1 + isqrt(1 + 8 * elements)) // 2
        square = size * (size - 1) // 2 == elements
    else:
        count, size, other = s["square"]
        square = size == other
    rows = prod(s["scale"]) if "scale" in s else shape[0]
    shared = count == 1 and columns % size == 0
    return rows, columns if square and (shared or count * size == columns) else count * size


def _old_peft_oft(s: Shapes, shape: Shape) -> Shape:
    count, size, other = s["square"]
    fits = size == other and count in (1, -(-shape[0] // size))
    return (shape[0] if fits else count * size), prod(shape[1:])


def _peft_boft(s: Shapes, shape: Shape) -> Shape:
    passes, count, size, other = s["blocks"]
    fits = size == other and (passes == 1 or (size % 2 == 0 and count % 2 ** min(passes - 1, 64) == 0))
    rows = prod(s["scale"]) if "scale" in s else shape[0]
    return rows, count * size if fits else 0


def _peft_hra(s: Shapes, shape: Shape) -> Shape:
    inputs, _ = s["u"]
    return shape[0], inputs


def _glora(s: Shapes, shape: Shape) -> Shape:
    """Both layouts: the output is a dimension of b1 in one and of b2 in the other."""
    rows = s["b1"][0] if s["b1"][0] == shape[0] else s["b2"][0]
    inputs = s["a1"][0] if s["a1"][0] == shape[1] else s["a1"][1]
    return rows, inputs * prod(shape[2:])


_SIZES = {
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "full": _whole,
    "set": _whole,
    "ia3": _ia3,
    "oft": _oft,
    "glora": _glora,
    "boft": _peft_boft,
    "hra": _peft_hra,
    "peft-oft": _peft_oft,
    "old-peft-oft": _old_peft_oft,
}
