"""Whether the tensors of a module fit a weight, told by shapes alone."""

from __future__ import annotations

from math import prod

from modelhub.merge.base import AdapterModule, Shape, Target

_NEEDED = {
    "lora": ("up", "down"),
    "loha": ("w1_a", "w1_b", "w2_a", "w2_b"),
    "full": ("diff",),
    "set": ("set",),
    "ia3": ("weight",),
    "oft": ("blocks",),
    "glora": ("a1", "a2", "b1", "b2"),
}


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
    except (KeyError, IndexError):
        return f"its tensors do not make a {module.algorithm} module"
    wanted = (target.shape[0] if target.shape else 1, prod(target.shape[1:]))
    if size != wanted:
        return f"it is for a weight of {size[0]} by {size[1]}, and the base's has the shape {list(target.shape)}"
    if len(target.parts) > 1 and not _by_rows(module):
        return f"{module.algorithm} needs the whole weight, which lies in {len(target.parts)} tensors of the base"
    return None


def _by_rows(module: AdapterModule) -> bool:
    if module.algorithm == "oft":
        return False
    scale = module.magnitudes
    return scale is None or module.peft or scale.tensor.shape[:1] != (1,)


Shapes = dict[str, Shape]


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
    count = prod(s["weight"])
    columns = prod(shape[1:])
    return (shape[0] if count in shape[:2] else count), columns


def _oft(s: Shapes, shape: Shape) -> Shape:
    blocks = s["blocks"]
    return blocks[-3] * blocks[-1], prod(shape[1:])


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
}
