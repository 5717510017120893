"""Floating point numbers of one width as those of another, in blocks.

Values are rounded once, to the nearest, ties to even; NaNs stay NaNs and infinities infinities. A finite value beyond
the range of the narrower type has no counterpart there: it is an error that names its tensor, never an infinity. numpy
does the arithmetic and is imported when the first cast is made.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from modelhub.errors import ConversionError, MissingExtra
from modelhub.tensors import DType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NUMPY = {DType.F16: "<f2", DType.F32: "<f4", DType.F64: "<f8"}


def check_casts_are_possible() -> None:
    """Raise :class:`MissingExtra` where numpy is not installed."""
    if find_spec("numpy") is None:
        raise MissingExtra("numpy, which changes element types,", "cast")


class Cast:
    """From little-endian elements of type *source* to those of type *target*, both of F16, BF16, F32 and F64."""

    def __init__(self, source: DType, target: DType, which: str) -> None:
        """*which* names the file and the tensor in errors."""
        assert source.is_float and target.is_float
        self._source = source
        self._target = target
        self._which = which

    def __call__(self, data: memoryview) -> memoryview:
        """The elements of *data*, cast. Raises :class:`ConversionError` for a finite value that becomes infinite."""
        import numpy as np

        if self._source is DType.BF16:
            values: NDArray[Any] = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        else:
            values = np.frombuffer(data, _NUMPY[self._source])
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if self._target is DType.BF16:
                cast = _to_bf16(values, np)
                infinite = (cast & 0x7FFF) == 0x7F80
            else:
                cast = values.astype(_NUMPY[self._target])
                if self._target is DType.F16:
                    infinite = (cast.view("<u2") & 0x7FFF) == 0x7C00  # many times as fast as isinf of half floats
                else:
                    infinite = np.isinf(cast)
        if infinite.any():
            self._check_overflow(values, infinite)
        narrow: memoryview = cast.view(np.uint8).data
        return narrow

    def _check_overflow(self, values: NDArray[Any], infinite: NDArray[np.bool_]) -> None:
        import numpy as np

        lost = values[infinite & np.isfinite(values)]
        if lost.size:
            raise ConversionError(
                f"{self._which} has the value {float(lost[0]):.6g}, which is out of range in {self._target.torch_name}",
                hint="keep it wider with a further --dtype NAME=fp32",
            )


def _to_bf16(values: NDArray[Any], np: Any) -> NDArray[np.uint16]:
    """The upper halves of F32 numbers, rounded; NaNs keep their upper bits and stay quiet."""
    if values.dtype.itemsize == 8:
        values = _to_odd_f32(values, np)
    bits = np.ascontiguousarray(values.astype("<f4", copy=False)).view("<u4")
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    nan = np.isnan(values)
    if nan.any():
        rounded[nan] = (bits[nan] >> 16) | 0x40
    halves: NDArray[np.uint16] = rounded.astype("<u2")
    return halves


def _to_odd_f32(values: NDArray[np.float64], np: Any) -> NDArray[np.float32]:
    """F64 as F32 rounded to odd, so that rounding the result once more to a narrower type is rounding once.

    Boldo, Melquiond, "When double rounding is odd" (2005): towards zero, then the last bit set where that was inexact.
    """
    narrow = values.astype("<f4")
    bits = narrow.view("<u4")
    back = narrow.astype("<f8")
    inexact = (back != values) & ~np.isnan(values)
    bits[inexact & (np.abs(back) > np.abs(values))] -= 1
    bits[inexact] |= 1
    return bits.view("<f4")
