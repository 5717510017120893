"""The pickle writer writes what CPython's own pickler does."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhub.samples.pickling import Call, Import, dumps
from modelhub.samples.weights import random_weight
from modelhub.tensors import DType

SCALARS = st.none() | st.booleans() | st.integers(-(1 << 80), 1 << 80) | st.floats(allow_nan=False) | st.binary()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(TEXTS, inner)
        | st.dictionaries(TEXTS, inner).map(OrderedDict)
    ),
)


@given(VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    """A pickle of plain data is that data again, whatever its nesting."""
    assert pickle.loads(dumps(value)) == value


@pytest.mark.parametrize("make", [dict, OrderedDict])
@pytest.mark.parametrize("size", [0, 1, 2, 256, 999, 1000, 1001, 2000, 2001])
def test_dicts_are_grouped_as_by_cpython(make: type[dict[str, int]], size: int) -> None:
    """The opcodes for a dict's items, in groups of a thousand, are byte for byte those of the pickle module."""
    value = make((f"key{i}", i) for i in range(size))
    assert dumps(value) == pickle.dumps(value, 2)


@pytest.mark.parametrize("size", [0, 1, 2, 999, 1000, 1001, 2000, 2001])
def test_lists_are_grouped_as_by_cpython(size: int) -> None:
    """The opcodes for a list's items are byte for byte those of the pickle module."""
    value = [float(i) for i in range(size)]
    assert dumps(value) == pickle.dumps(value, 2)


NUMBERS = [0, 255, 256, 65535, 65536, -1, -128, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**47, -(2**47), -(2**63)]
OTHERS = [True, None, 1.5, "", "text", "ünïcode", b"", b"\xff", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]


@pytest.mark.parametrize("value", [*NUMBERS, *OTHERS])
def test_values_are_written_as_by_cpython(value: Any) -> None:
    """Each sort of value gets byte for byte the opcodes that the pickle module gives it in protocol 2."""
    assert dumps(value) == pickle.dumps(value, 2)


def test_an_object_met_twice_is_one_object() -> None:
    """Sharing and cycles survive."""
    shared = ["shared"]
    cycle: list[Any] = [shared, shared]
    cycle.append(cycle)
    loaded = pickle.loads(dumps(cycle))
    assert loaded[0] is loaded[1]
    assert loaded[2] is loaded


def test_calls_make_objects() -> None:
    """A Call becomes what its callee makes, with items and state; an Import the thing it names."""
    state = {"note": "kept"}
    made = pickle.loads(dumps(Call(Import("collections", "OrderedDict"), pairs={"a": 1, "b": 2}, state=state)))
    assert made == OrderedDict(a=1, b=2)
    assert made.note == "kept"
    assert pickle.loads(dumps(Import("collections", "OrderedDict"))) is OrderedDict
    assert pickle.loads(dumps(Call(Import("builtins", "list"), new=True))) == []


def test_nothing_named_is_needed_to_write_it() -> None:
    """Classes that do not exist can be named."""
    data = dumps(Call(Import("no.such.module", "Thing"), (1,)))
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(data)


def test_what_comes_before_is_made_and_dropped() -> None:
    """A value may be preceded by calls whose results are gone when it is made."""
    assert pickle.loads(dumps({"a": 1}, before=[Call(Import("builtins", "list")), "dropped"])) == {"a": 1}


def test_unknown_values_are_refused() -> None:
    """Anything else, or a tensor where storages have no ids, is a TypeError."""
    with pytest.raises(TypeError, match="set"):
        dumps({1, 2})
    with pytest.raises(TypeError, match="persistent"):
        dumps(random_weight("w", DType.F32, (1,)))
