"""Floating point numbers of one width as those of another, in blocks.

Values are rounded once, to the nearest, ties to even; NaNs stay NaNs and infinities infinities. A finite value beyond
the range of the narrower type has no counterpart there: it is an error that names its tensor, never an infinity. numpy
does the arithmetic and is imported when the first cast is made; what processors have instructions for, NumKong does
where it is installed (the extra ``fast``), ten times as fast. The bytes are the same with and without it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from modelhub.errors import ConversionError, MissingExtra
from modelhub.tensors import DType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CHUNK = 1 << 15
"""Elements that are rounded at a time: what is computed of them stays in the processor's cache."""

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

        if self._source.bits == 16:
            cast = _table(self._source, self._target).take(np.frombuffer(data, "<u2"))
        else:
            values = np.frombuffer(data, _NUMPY[self._source])
            quick = _quickly(values, self._target)
            if quick is not None:
                return _as_bytes(quick)
            cast = _rounded(values, self._target)
        infinite = _is_infinite(cast, self._target)
        if infinite.any():
            self._check_overflow(_numbers(data, self._source)[infinite])
        return _as_bytes(cast)

    def _check_overflow(self, values: NDArray[Any]) -> None:
        import numpy as np

        lost = values[np.isfinite(values)]
        if lost.size:
            raise ConversionError(
                f"{self._which} has the value {float(lost[0]):.6g}, which is out of range in {self._target.torch_name}",
                hint="keep it wider with a further --dtype NAME=fp32",
            )


@cache
def _table(source: DType, target: DType) -> NDArray[Any]:
    """Every number of the 16-bit type *source* as *target*, by its bits: looking up is twice as fast as casting."""
    import numpy as np

    return _rounded(_numbers(np.arange(1 << 16, dtype="<u2").data, source), target)


def _numbers(data: memoryview, dtype: DType) -> NDArray[Any]:
    """Elements of *dtype* as numbers that numpy has: BF16 ones are the upper halves of F32 ones."""
    import numpy as np

    if dtype is DType.BF16:
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, _NUMPY[dtype])


def _as_bytes(cast: NDArray[Any]) -> memoryview:
    data: memoryview = cast.view("u1").data
    return data


def _is_infinite(cast: NDArray[Any], dtype: DType) -> NDArray[np.bool_]:
    import numpy as np

    infinite: NDArray[np.bool_]
    if dtype.bits > 16:
        infinite = np.isinf(cast)
    else:  # many times as fast as isinf of half floats
        infinite = (cast.view("<u2") & 0x7FFF) == (0x7F80 if dtype is DType.BF16 else 0x7C00)
    return infinite


def _rounded(values: NDArray[Any], dtype: DType) -> NDArray[Any]:
    """*values* as elements of *dtype*, BF16 ones as integers."""
    import numpy as np

    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dtype.bits > 16:
            return values.astype(_NUMPY[dtype])
        wide = _as_f32(values, np)
        if dtype is DType.BF16:
            return _to_bf16(wide, np)
        halves = np.empty(wide.size, "<u2")
        for at in range(0, wide.size, _CHUNK):
            halves[at : at + _CHUNK] = _to_f16(wide[at : at + _CHUNK], np)
        return halves.view("<f2")


def _quickly(values: NDArray[Any], dtype: DType) -> NDArray[Any] | None:
    """F32 and F64 numbers as F16 or BF16 by NumKong, ``None`` where it is not there or there are others than finite
    ones: which of the many NaNs becomes of one differs between processors."""
    import numpy as np

    narrower = _narrower() if dtype.bits == 16 else None
    if narrower is None:
        return None
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        wide = np.require(_as_f32(values, np), requirements="A")  # it takes no elements across words
    narrow: NDArray[Any] = narrower(wide, dtype)
    exponent = 0x7F80 if dtype is DType.BF16 else 0x7C00
    if int((narrow.view("<u2") & np.uint16(0x7FFF)).max(initial=0)) >= exponent:
        return None
    return narrow


@cache
def _narrower() -> Callable[[NDArray[np.float32], DType], NDArray[Any]] | None:
    """NumKong's cast, if it is installed and rounds a few numbers as it must on this processor."""
    try:
        import numkong
    except ImportError:
        return None
    import numpy as np

    def narrower(wide: NDArray[np.float32], dtype: DType) -> NDArray[Any]:
        if dtype is DType.BF16:
            return np.asarray(memoryview(numkong.astype(wide, "bfloat16")))
        narrow = np.empty(wide.size, "<f2")
        if wide.size:
            numkong.astype(wide, "float16", out=narrow)
        return narrow

    with np.errstate(over="ignore", under="ignore"):  # from below the least of F16, and F32's own below 2**-126
        exponents = np.concatenate([np.arange(-149, -124), np.arange(-26, 16)]).astype(np.int32)
        powers = np.ldexp(np.float32(1), exponents)[:, None]
        # beside, on and between the ties of F16, whose steps are 2**-10, and of BF16, whose steps are 2**-7
        beside = np.array([-1, 1]) * 2.0**-20 + 2.0**-8
        fractions = np.concatenate([np.arange(16) * 2.0**-12, np.arange(64) * 2.0**-9, beside])
        wide = (powers * (1 + fractions.astype("<f4"))).ravel().astype("<f4")
    wide = np.concatenate([wide[wide < 65504], -wide[wide < 65504]])
    exact = np.array_equal(narrower(wide, DType.F16).view("<u2"), _to_f16(wide, np))
    return narrower if exact and np.array_equal(narrower(wide, DType.BF16), _to_bf16(wide, np)) else None


def _to_f16(values: NDArray[np.float32], np: Any) -> NDArray[np.uint16]:
    """F32 numbers as the bits of F16 ones, by integer arithmetic: numpy's own cast is slow, and very slow below 2**-14.

    In the normal range half a unit in the last place, less one bit for even numbers, is added before bits are cut off.
    Below it the units are those of numbers from 0.5 on in F32, so adding 0.5 rounds. From 65520 on all are infinite.
    """
    bits = values.view("<u4")
    size = bits & np.uint32(0x7FFFFFFF)
    halves = size >> np.uint32(13)
    halves &= np.uint32(1)
    halves += size
    halves += np.uint32((0x0FFF - (112 << 23)) % (1 << 32))  # 112: the difference of the exponents' biases
    halves >>= np.uint32(13)
    np.copyto(halves, (size.view("<f4") + np.float32(0.5)).view("<u4"), where=size < np.uint32(0x38800000))
    narrow: NDArray[np.uint16] = halves.astype("<u2")
    beyond = size > np.uint32(0x477FEFFF)
    if beyond.any():
        nan = 0x7E00 | ((size[beyond] >> 13) & 0x1FF)
        narrow[beyond] = np.where(size[beyond] > np.uint32(0x7F800000), nan, 0x7C00)
    narrow |= bits.view("<u2")[1::2] & np.uint16(0x8000)
    return narrow


def _to_bf16(values: NDArray[np.float32], np: Any) -> NDArray[np.uint16]:
    """The upper halves of F32 numbers, rounded; NaNs keep their upper bits and stay quiet."""
    bits = np.ascontiguousarray(values).view("<u4")
    rounded = (bits >> 16) & 1
    rounded += 0x7FFF
    rounded += bits
    halves: NDArray[np.uint16] = (rounded >> 16).astype("<u2")
    nan = np.isnan(values)
    if nan.any():
        halves[nan] = (bits[nan] >> 16) | 0x40
    return halves


def _as_f32(values: NDArray[Any], np: Any) -> NDArray[np.float32]:
    """F32 and F64 numbers as F32 ones that round to F16 and BF16 as they do."""
    return _to_odd_f32(values, np) if values.dtype.itemsize == 8 else values.astype("<f4", copy=False)


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
