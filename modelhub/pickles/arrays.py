"""NumPy's arrays and scalars in a pickle.

Source: numpy 2.4 (``array_reduce``, ``arraydescr_reduce``, ``array_reduce_ex_picklebuffer`` and ``_frombuffer`` of
``_core/numeric.py``); numpy 1 has the same under ``numpy.core``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Literal, NamedTuple

from modelhub.pickles.declaration import is_count
from modelhub.pickles.elements import (
    MAX_RANK,
    BadTensor,
    Composite,
    Surroundings,
    count_of,
    placed,
)
from modelhub.pickles.literals import literal_elements
from modelhub.pickles.values import Call, Global, Value
from modelhub.tensors import DTYPE_BY_LABEL, DType, Scalar, TensorInfo

_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_LABELS = {"b1": "BOOL", "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64", "c16": "C128"} | {
    f"{letter}{size}": f"{letter.upper()}{8 * size}" for letter in "iu" for size in (1, 2, 4, 8)
}
_CLASSES = {
    "BoolDType": "b1",
    "Int8DType": "i1",
    "Int16DType": "i2",
    "Int32DType": "i4",
    "Int64DType": "i8",
    "UInt8DType": "u1",
    "UInt16DType": "u2",
    "UInt32DType": "u4",
    "UInt64DType": "u8",
    "Float16DType": "f2",
    "Float32DType": "f4",
    "Float64DType": "f8",
    "Complex64DType": "c8",
    "Complex128DType": "c16",
}
_OTHERS = {
    "O": "Python objects",
    "U": "text",
    "S": "byte strings",
    "V": "records",
    "M": "dates",
    "m": "time spans",
    "f": "long floats",
    "c": "long complex numbers",
}
_FORMATS = "?bBhHiIqQefd"


class _Type(NamedTuple):
    """An element type as numpy pickles it; ``dtype`` is ``None`` for one that no tensor has."""

    letter: str
    dtype: DType | None
    byteorder: Literal["little", "big"]


def makes_array(call: Call) -> str | None:
    """``reconstruct`` or ``frombuffer`` when *call* is one by which numpy makes an array."""
    callee = call.callee
    if type(callee) is Global and call.opcode == "REDUCE":
        if callee.name == "_reconstruct" and callee.module in _MULTIARRAY:
            return "reconstruct"
        if callee.name == "_frombuffer" and callee.module in _NUMERIC:
            return "frombuffer"
    return None


def array_of(name: str, call: Call, around: Surroundings) -> TensorInfo | None:
    """The array that *call*, and what was done to its result, makes; ``None`` when it cannot be told.

    Raises :class:`BadTensor` where its bytes are not as many as its shape asks for, :class:`Composite` for element
    types that no tensor has.
    """
    axes: Value = None
    if makes_array(call) == "reconstruct":
        state = call.states[0] if len(call.states) == 1 else None
        if type(state) is not tuple or len(state) != 5:
            return None
        _, shape, kind, fortran, data = state
        order = "F" if fortran is True or fortran == 1 else "C"
    else:
        if type(call.args) is not tuple or len(call.args) not in (4, 5):
            return None
        data, kind, shape, order = call.args[:4]
        axes = call.args[4] if len(call.args) == 5 else None
    element = _type_of(kind)
    if element is None or type(shape) is not tuple or order not in ("C", "F", "K"):
        return None
    if not all(map(is_count, shape)) or len(shape) > MAX_RANK:
        raise BadTensor("tensor.geometry", f"{name}: its shape is not made of counts, or of too many")
    if element.dtype is None:
        raise Composite(f"a NumPy array of {_OTHERS.get(element.letter[0], element.letter)}")
    size = count_of(name, shape) * element.dtype.itemsize
    elements = literal_elements(data, f"bytes@{call.offset}", around, size)
    if elements is None:
        raise BadTensor("tensor.out-of-bounds", f"{name}: its bytes are not those of an array of shape {shape}"[:300])
    storage = elements.storage._replace(byteorder=element.byteorder)
    shape, strides = _laid_out(shape, order, axes)
    return placed(name, element.dtype, elements._replace(storage=storage), (0, shape, strides))


def scalar_of(call: Call) -> tuple[Scalar] | None:
    """The plain value, in a tuple, that ``scalar(dtype, bytes)`` makes; ``None`` when it makes none."""
    callee, args = call.callee, call.args
    if type(callee) is not Global or callee.name != "scalar" or callee.module not in _MULTIARRAY:
        return None
    element = _type_of(args[0]) if type(args) is tuple and len(args) == 2 else None
    if element is None or element.dtype is None or element.dtype.is_complex:
        return None
    elements = literal_elements(args[1], "scalar", Surroundings({}), element.dtype.itemsize)
    if elements is None or elements.storage.data is None:
        return None
    code = next(c for c in _FORMATS if _label(c) == element.letter)
    (value,) = struct.unpack(("<" if element.byteorder == "little" else ">") + code, elements.storage.data)
    return (value,)


def _label(code: str) -> str:
    kind = "b" if code == "?" else "i" if code in "bhiq" else "u" if code in "BHIQ" else "f"
    return f"{kind}{struct.calcsize('<' + code)}"


def _type_of(value: Value) -> _Type | None:
    """The element type that *value*, ``numpy.dtype(letters, align, copy)`` with its state, is."""
    if type(value) is not Call or type(value.callee) is not Global or type(value.args) is not tuple:
        return None
    if value.callee.module == "numpy.dtypes":
        letter: Value = _CLASSES.get(value.callee.name)
    else:
        letter = value.args[0] if value.callee.qualified == "numpy.dtype" and value.args else None
    if type(letter) is not str or not letter:
        return None
    order = letter[0] if letter[0] in "<>|=" else "="
    letter = letter.lstrip("<>|=") or "?"
    state = value.states[-1] if value.states else None
    if type(state) is tuple and len(state) > 4:
        order = state[1] if type(state[1]) is str else "="
        if state[2] is not None or state[3] is not None:  # a type of subarrays, or of fields
            return _Type("V", None, "little")
    dtype = DTYPE_BY_LABEL.get(_LABELS.get(letter, ""))
    return _Type(letter, dtype, "big" if order == ">" else "little")


def _laid_out(shape: tuple[int, ...], order: str, axes: Value) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides, in elements, of an array whose elements lie in *order*.

    Of order ``K`` with *axes*, the elements lie in C order of *shape*, whose axes are then exchanged.
    """
    if order == "F":
        return shape, _steps(shape)
    strides = _steps(shape[::-1])[::-1]
    if order == "K" and type(axes) is tuple and sorted(a for a in axes if is_count(a)) == list(range(len(shape))):
        return tuple(shape[a] for a in axes), tuple(strides[a] for a in axes)
    return shape, strides


def _steps(sizes: Iterable[int]) -> tuple[int, ...]:
    """Strides of axes of *sizes*, the first of which is the fastest."""
    steps: list[int] = []
    step = 1
    for size in sizes:
        steps.append(step)
        step *= max(1, size)
    return tuple(steps)
