"""Names and shapes of the small modules that every network here is made of, as torch lays them out.

Each function yields ``(name, shape)`` in the order of torch's ``state_dict()``: weight, then bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from modelhub.tensors import DType

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]
Layout = dict[str, tuple[DType, Shape]]
"""Names, in file order, to element type and shape."""
Scale = Callable[[int], int]


def linear(name: str, outputs: int, inputs: int, *, bias: bool = True) -> Named:
    """``torch.nn.Linear``."""
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def conv(name: str, outputs: int, inputs: int, kernel: int) -> Named:
    """``torch.nn.Conv2d`` with a square kernel."""
    yield f"{name}.weight", (outputs, inputs, kernel, kernel)
    yield f"{name}.bias", (outputs,)


def norm(name: str, width: int) -> Named:
    """``torch.nn.LayerNorm`` or ``GroupNorm``."""
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def scaler(width: float) -> Scale:
    """A function that scales a hidden width by *width* (0 < width <= 1), never below 4."""
    if not 0 < width <= 1:
        raise ValueError(f"width must be above 0 and at most 1, not {width}")
    return lambda n: n if width == 1 else max(4, round(n * width))
