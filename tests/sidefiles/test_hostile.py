"""Side files come with downloads: whatever is in them is data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub.sidefiles import Claims
from modelhub.sidefiles.fields import LONGEST_TEXT, MOST, without_markup
from modelhub.sidefiles.naming import beside
from modelhub.sidefiles.reading import LARGEST, read_side_file, told_in
from tests.sidefiles import build
from tests.sidefiles.build import FILE, packed

DIALECTS = ("civitai", "a1111", "lora-manager", "stability-matrix", "swarmui", "rgthree", "component-config")
REAL = (
    build.CIVITAI, build.A1111, build.LORA_MANAGER, build.STABILITY_MATRIX, build.SWARMUI, build.RGTHREE,
)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def keys_of(data: Any) -> set[str]:
    if isinstance(data, dict):
        return set(data) | {key for value in data.values() for key in keys_of(value)}
    return {key for value in data for key in keys_of(value)} if isinstance(data, list) else set()


KEYS = sorted({key for data in REAL for key in keys_of(data)})


def check(claims: Claims) -> None:
    """Claims are of their types, bounded, and survive being stored."""
    assert Claims.of(json.loads(json.dumps(claims.as_dict()))) == claims
    assert len(claims.triggers) <= MOST
    assert len(claims.tags) <= MOST
    texts = [claims.name, claims.version, claims.base_model, claims.kind, claims.creator, claims.url, claims.dated]
    assert all(value is None or (isinstance(value, str) and 0 < len(value) <= 255) for value in texts)
    assert claims.description is None or len(claims.description) <= LONGEST_TEXT
    assert all(isinstance(value, int | None) for value in (claims.model_id, claims.version_id))


@settings(max_examples=150)
@given(st.sampled_from(DIALECTS), st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=12))
def test_wrong_types(dialect: str, data: dict[str, Any]) -> None:
    """Known fields with values of any type make no reader fail, and no claim of another type."""
    check(told_in(packed(data), dialect, "m.json", FILE).claims)


@settings(max_examples=150)
@given(st.sampled_from(DIALECTS), st.sampled_from(REAL), st.data())
def test_one_value_replaced(dialect: str, real: dict[str, Any], data: st.DataObject) -> None:
    """A real file in which any one value, at any depth, is replaced by anything is read all the same."""
    changed = json.loads(json.dumps(real))
    where: Any = changed
    while True:
        key = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
        if not where[key] or not isinstance(where[key], dict | list) or data.draw(st.booleans()):
            break
        where = where[key]
    where[key] = data.draw(ANYTHING)
    check(told_in(packed(changed), dialect, "m.json", FILE).claims)


@settings(max_examples=100)
@given(st.sampled_from((*DIALECTS, "description", "checksum", "configuration")), st.binary(max_size=200))
def test_any_bytes(dialect: str, content: bytes) -> None:
    """Bytes that are nothing at all are a note, or a text."""
    check(told_in(content, dialect, "m.json", FILE).claims)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[" * 1_000_000, "nested too deeply"),
        (b'{"a":' * 1_000_000, "nested too deeply"),
        (b'{"activation text": 1' + b"0" * 100_000 + b"}", "not JSON"),
        (b'{"notes": "\xff\xfe"}', "not JSON"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"  ", "empty"),
        (b'["a"]', "no JSON object"),
        (b'{"unheard": "of"}', "nothing in it"),
    ],
)
def test_not_what_it_says(tmp_path: Path, content: bytes, problem: str) -> None:
    """What is nested to no end, of numbers without end, no text, no JSON or no card is a note that says so."""
    path = tmp_path / "m.json"
    path.write_bytes(content)
    told = read_side_file(str(path), "a1111", FILE)
    assert problem in (told.problem or "")
    assert told.claims == Claims()


def test_sizes(tmp_path: Path) -> None:
    """A gigabyte is not read; a page saved beside a model is not opened up; a file that is gone is a note."""
    path = tmp_path / "m.json"
    path.write_bytes(b"{")
    os.truncate(path, 1 << 30)
    assert f"larger than {LARGEST >> 20} MiB" in (read_side_file(str(path), "civitai", FILE).problem or "")
    assert read_side_file(str(path), "page", FILE).problem is None
    assert read_side_file(str(tmp_path / "none.json"), "a1111", FILE).problem is not None
    assert read_side_file(str(tmp_path), "a1111", FILE).problem is not None


def test_numbers() -> None:
    """NaN, the infinities and numbers of any size are no weights and no ids."""
    for value in ("NaN", "-Infinity", "1e999", "1" + "0" * 300, '"1e999"', "true", "[]"):
        content = b'{"preferred weight": %b, "modelId": %b}' % (value.encode(), value.encode())
        claims = told_in(content, "a1111", "m.json", FILE).claims
        assert (claims.weight, claims.model_id) == (None, None), value


def test_endless_lists() -> None:
    """Of endless lists the beginning is taken, of endless texts too."""
    data = {**build.CIVITAI, "trainedWords": [f"w{n}" * 2000 for n in range(3000)], "baseModel": "x" * 10_000}
    claims = told_in(packed(data), "civitai", "m.json", FILE).claims
    assert (len(claims.triggers), len(claims.triggers[0]), len(claims.base_model or "")) == (MOST, 1000, 255)


@pytest.mark.parametrize("sign", ["<", "<a", "<!--", "&", "</p", "<p ", "<script>"])
def test_markup_without_end(sign: str) -> None:
    """Markup made to be slow to read is read in linear time."""
    assert without_markup(sign * (LONGEST_TEXT // len(sign))) is not None or sign == "<script>"


@settings(max_examples=200)
@given(st.lists(st.text(max_size=30) | st.sampled_from(("../m.json", "m.json", "m..json", ".json", "m.PNG"))))
def test_any_names(names: list[str]) -> None:
    """Whatever files are called, only those named after a model stand beside one, in its own folder."""
    models = ("m.safetensors", ".safetensors", "a.b.ckpt")
    for found in beside(names, models):
        assert found.name in names
        assert set(found.models) <= set(models)
        assert any(found.name.startswith(os.path.splitext(model)[0]) for model in found.models)
        assert "/" not in found.name
