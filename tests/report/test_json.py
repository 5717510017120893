"""JSON text."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from modelhub.report.json import dumps, identity_dict

TEXT = st.text(st.characters(codec=None, exclude_categories=()))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=10,
)


def _refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is not JSON")


@given(st.dictionaries(TEXT, VALUES))
def test_any_value_is_one_line_of_strict_ascii(value: dict[str, Any]) -> None:
    """Whatever a file contains, the JSON is ASCII on one line, strictly valid, and keeps all that JSON can say."""
    text = dumps(value)
    assert text.isascii()
    assert "\n" not in text
    assert json.loads(text, parse_constant=_refuse) == _without_infinities(value)
    assert json.loads(dumps(value, indent=True), parse_constant=_refuse) == json.loads(text)


def _without_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_infinities(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def test_a_number_too_long_to_print() -> None:
    """An integer of thousands of digits, which a hostile file can hold, is told by its size."""
    assert json.loads(dumps({"n": 1 << 100_000})) == {"n": "an integer of 100001 bits"}


def test_no_identity_has_the_same_fields() -> None:
    """A file of which nothing is known has all the fields of an identity, null or empty."""
    fields = identity_dict(None)
    assert {name for name, value in fields.items() if value is None} == {
        "kind",
        "architecture",
        "variant",
        "prediction_type",
        "precision",
        "adapter",
    }
    assert {name for name, value in fields.items() if value == []} == {"components", "evidence", "candidates"}
