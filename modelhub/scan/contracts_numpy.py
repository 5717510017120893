"""What numpy's names may be called with, and what state may be given to what they made.

numpy trusts the state that it is given: an element type whose flags say "these are objects" turns plain bytes into
pointers. So a state is only fulfilled when it says what numpy itself would have written for that element type (numpy
2.4, ``arraydescr_reduce`` and ``array_setstate``).
"""

from __future__ import annotations

from modelhub.pickles import Call, Dict, Global, Value
from modelhub.pickles.declaration import is_count
from modelhub.scan.values import arguments, counts_of, is_bytes, is_call_of, is_shape, length_of, product

_FIXED = {name: int(name[1:]) for name in "b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 f16 c8 c16 c32 M8 m8".split()}
_CLASSES = {
    "BoolDType": "b1",
    "Int8DType": "i1",
    "Int16DType": "i2",
    "Int32DType": "i4",
    "Int64DType": "i8",
    "UInt8DType": "u1",
    "Float16DType": "f2",
    "Float32DType": "f4",
    "Float64DType": "f8",
}
_ARRAYS = frozenset(
    """numpy.ndarray numpy.matrix numpy.matrixlib.defmatrix.matrix numpy.recarray numpy.rec.recarray
    numpy.core.records.recarray""".split()
)
_RECORDS = frozenset({"numpy.record", "numpy.rec.record", "numpy.core.records.record"})
_WRAPPED = frozenset({"subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"})
_OBJECT = "O8"
_OBJECT_FLAGS = 63  # NPY_OBJECT_DTYPE_FLAGS
_TEXT_FLAGS = (0, 8)  # none, or NPY_NEEDS_INIT
_RECORD_FLAGS = 0x8 | 0x10 | 0x80  # NPY_NEEDS_INIT, NPY_NEEDS_PYAPI, NPY_ALIGNED_STRUCT: none for objects


def numpy_dtype(call: Call) -> str | None:
    """``numpy.dtype('f8', False, True)``."""
    args = arguments(call, 1, 3)
    known = args is not None and (_width(args[0]) is not None or _is_record_class(args[0]))
    if args is not None and known and all(type(flag) in (bool, int) for flag in args[1:]):
        return None
    return "it is not the spelling of a numpy element type"


def numpy_scalar(call: Call) -> str | None:
    """``scalar(dtype, bytes)``."""
    args = arguments(call, 2, 2)
    if args is not None and _letter(args[0]) not in (None, _OBJECT) and is_bytes(args[1]):
        return None
    return "it is not the spelling of a numpy scalar"


def numpy_array(call: Call) -> str | None:
    """``_reconstruct(ndarray, (0,), b'b')``."""
    args = arguments(call, 3, 3)
    if args is not None:
        kind, shape, letter = args
        if type(kind) is Global and kind.qualified in _ARRAYS and shape == (0,) and is_bytes(letter):
            return None
    return "it is not the spelling of a numpy array"


def numpy_buffer(call: Call) -> str | None:
    """``_frombuffer(bytes, dtype, shape, order[, axes])``, protocol 5's spelling of an array."""
    args = arguments(call, 4, 5)
    if args is not None:
        data, dtype, shape, order = args[:4]
        axes = args[4] if len(args) == 5 else None
        known = is_bytes(data) and _letter(dtype) not in (None, _OBJECT) and is_shape(shape)
        if known and type(order) is str and order in ("C", "F", "K") and (axes is None or is_shape(axes)):
            return None
    return "it is not the spelling of a numpy array"


def numpy_dtype_state(state: Value, target: Call) -> str | None:
    """``(3, '<', None, None, None, size, alignment, flags)``; a date's is version 4 with its unit as a ninth part."""
    wrong = "its state is not that of a numpy element type"
    letter = _letter(target)
    if letter is None or type(state) is not tuple or not 8 <= len(state) <= 9:
        return wrong
    version, order, base, names, fields, size, alignment, flags = state[:8]
    if letter[0] == "V" and (base, names) != (None, None):
        return None if len(state) == 8 and _is_record(state, _width(letter) or 0) else wrong
    if version not in (3, 4) or order not in ("<", ">", "|", "=") or (base, names, fields) != (None, None, None):
        return wrong
    if not all(type(number) is int for number in (version, size, alignment, flags)):
        return wrong
    if len(state) == 9 and not (letter[0] in "Mm" and _is_unit(state[8])):
        return wrong
    if letter == _OBJECT:
        fits = (size, alignment, flags) == (-1, -1, _OBJECT_FLAGS)
    elif letter in _FIXED:
        fits = (size, alignment, flags) == (-1, -1, 0)
    else:
        fits = size == _width(letter) and alignment in (1, 4) and flags in _TEXT_FLAGS
    return None if fits else wrong


def _is_record(state: tuple[Value, ...], width: int) -> bool:
    """``(3, '|', None, names, {name: (type, offset)}, size, alignment, flags)``, every field inside the record; or
    ``(3, '|', (type, shape), None, None, ...)``, a small array as one element."""
    version, order, base, names, fields, size, alignment, flags = state
    if (version, order) != (3, "|") or size != width or not (is_count(alignment) and 0 < alignment <= 16):
        return False
    if type(flags) is not int or flags & ~_RECORD_FLAGS:
        return False
    if base is not None:
        return names is None and fields is None and _is_small_array(base, width)
    if type(names) is not tuple or type(fields) is not Dict or len(names) != len(fields.pairs):
        return False
    for name, (key, field) in zip(names, fields.pairs, strict=True):
        if type(name) is not str or key != name or type(field) is not tuple or len(field) != 2:
            return False
        inner, offset = field
        if not is_count(offset) or offset + (_field_width(inner) or width + 1) > width:
            return False
    return True


def _field_width(dtype: Value) -> int | None:
    """Bytes of a record's field: of plain elements, or a small array of them, but no further record."""
    letter = _letter(dtype)
    if letter is None or letter == _OBJECT:
        return None
    width = _width(letter) or 0
    if letter[0] != "V" or not dtype.states:
        return width
    state = dtype.states[0]
    small = len(dtype.states) == 1 and type(state) is tuple and len(state) == 8 and _is_small_array(state[2], width)
    return width if small else None


def _is_small_array(base: Value, width: int) -> bool:
    """``(type, shape)`` of plain elements that fill *width* bytes."""
    if type(base) is not tuple or len(base) != 2:
        return False
    letter, counts = _letter(base[0]), counts_of(base[1])
    plain = letter is not None and letter != _OBJECT and letter[0] != "V"
    return plain and counts is not None and (_width(letter) or 0) * product(counts) == width


def numpy_array_state(state: Value, target: Call) -> str | None:
    """``(1, shape, dtype, fortran order, bytes or list of objects)``, as many as the shape asks for."""
    wrong = "its state is not that of a numpy array"
    if type(state) is not tuple or len(state) != 5:
        return wrong
    version, shape, dtype, fortran, data = state
    counts, letter = counts_of(shape), _letter(dtype)
    if type(version) is not int or version != 1 or counts is None or letter is None or type(fortran) not in (bool, int):
        return wrong
    if letter == _OBJECT:
        return None if type(data) is list and len(data) == product(counts) else wrong
    length = length_of(data) if is_bytes(data) else -1
    return None if length is None or length == product(counts) * (_width(letter) or 0) else wrong


def joblib_wrapper(state: Value, target: Call) -> str | None:
    """``NumpyArrayWrapper``'s attributes (joblib 1.6, ``numpy_pickle.py``): an array of plain elements, given once.

    The array's bytes are found by the same attributes, in :mod:`modelhub.container.joblib`.
    """
    wrong = "its state is not that of the wrapper of an array"
    if type(state) is not Dict or len(target.states) != 1 or not all(type(key) is str for key, _ in state.pairs):
        return wrong
    given = dict(state.pairs)
    kind, letter = given.get("subclass"), _letter(given.get("dtype"))
    if len(given) != len(state.pairs) or not given.keys() <= _WRAPPED or letter in (None, _OBJECT):
        return wrong
    plain = type(kind) is Global and kind.qualified == "numpy.ndarray" and is_shape(given.get("shape"))
    flags = type(given.get("allow_mmap")) is bool and type(given.get("numpy_array_alignment_bytes")) is int
    order = given.get("order")
    return None if plain and flags and type(order) is str and order in ("C", "F") else wrong


def _width(letter: Value) -> int | None:
    """Bytes of one element of the type that *letter* names (``'f8'``), ``None`` when it names none."""
    if type(letter) is not str:
        return None
    if letter == _OBJECT or letter in _FIXED:
        return _FIXED.get(letter, 8)
    count = letter[1:]
    if letter[:1] in ("S", "U", "V") and count.isascii() and count.isdecimal() and len(count) < 10:
        return int(count) * (4 if letter[0] == "U" else 1)
    return None


def _letter(dtype: Value) -> str | None:
    """The letter of an element type made by ``numpy.dtype(letter)`` or by one of ``numpy.dtypes``' classes."""
    if type(dtype) is not Call or type(dtype.callee) is not Global:
        return None
    if dtype.callee.module == "numpy.dtypes":
        return _CLASSES.get(dtype.callee.name)
    if not is_call_of(dtype, ("numpy", "dtype")) or type(dtype.args) is not tuple or not dtype.args:
        return None
    letter = dtype.args[0]
    if _is_record_class(letter):
        state = dtype.states[0] if len(dtype.states) == 1 else None
        size = state[5] if type(state) is tuple and len(state) == 8 else None
        return f"V{size}" if type(size) is int and 0 <= size < 1 << 30 else None
    return letter if _width(letter) is not None else None


def _is_record_class(value: Value) -> bool:
    """Whether *value* is the class of records whose fields are attributes: ``dtype(numpy.record)``."""
    return type(value) is Global and value.qualified in _RECORDS


def _is_unit(value: Value) -> bool:
    """``(None, (b'ns', 1, 1, 1))``, with ``{}`` for ``None`` in older files: the unit of a date's element type."""
    if type(value) is not tuple or len(value) != 2:
        return False
    metadata, unit = value
    if metadata is not None and not (type(metadata) is Dict and not metadata.pairs):
        return False
    return type(unit) is tuple and len(unit) == 4 and is_bytes(unit[0]) and all(map(is_count, unit[1:]))
