"""Keras models: not examined, but code in their configuration is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelhub.scan import Verdict, scan
from tests.container.build import Part, build_zip, opened, rules

HDF5 = b"\x89HDF\r\n\x1a\n"
LAMBDA = {"class_name": "Lambda", "config": {"function": ["4wEAAAAA", None, None]}}
GADGETS = {
    "lambda layer": LAMBDA,
    "lambda": {"class_name": "__lambda__", "config": {"code": "4wEAAAAA"}},
    "function of a module": {"module": "builtins", "class_name": "function", "config": "exec"},
    "class of a module": {"module": "subprocess", "class_name": "Popen", "config": {"args": "true"}},
    "function of keras": {"module": "keras.utils", "class_name": "function", "config": "get_file"},
}
DTYPE = {"module": "keras", "class_name": "DTypePolicy"}
PLAIN = {"module": "keras.layers", "class_name": "Dense", "config": {"dtype": DTYPE}}


def model(layer: Any) -> dict[str, Any]:
    return {"module": "keras", "class_name": "Sequential", "config": {"layers": [PLAIN, layer]}}


def keras(config: bytes, method: int = 8) -> bytes:
    return build_zip(
        [
            Part("metadata.json", b"{}", method=method),
            Part("config.json", config, method=method),
            Part("model.weights.h5", HDF5 + bytes(20)),
        ]
    )


@pytest.mark.parametrize("layer", GADGETS.values(), ids=GADGETS)
def test_code_in_a_configuration_is_told(layer):
    """A layer that holds code, or names what Keras would import and call, is never called merely unknown."""
    for text in (json.dumps(model(layer)), json.dumps(model(layer)).replace("Lambda", "\\u004cambda")):
        container = opened(keras(text.encode()), "m.keras")
        assert "container.keras-code" in rules(container)
        assert scan(container).verdict >= Verdict.SUSPICIOUS


def test_models_without_code_are_unknown():
    """A model of Keras' own layers is not examined, and no more is said against it."""
    for config in (json.dumps(model(PLAIN)).encode(), b"[" * 100_000, b"\xff", b"{}"):
        container = opened(keras(config), "m.keras")
        assert rules(container) == {"container.not-examined"}
        assert scan(container).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("before", [50, (1 << 20) - 20])
def test_code_in_hdf5_is_told(before):
    """The configuration that Keras 2 keeps in an HDF5 file is searched, wherever it lies."""
    text = json.dumps(model(LAMBDA)).encode()
    container = opened(HDF5 + bytes(before) + text + bytes(50), "m.h5")
    assert rules(container) == {"container.not-examined", "container.keras-code"}
    odd = next(odd for odd in container.anomalies if odd.rule == "container.keras-code")
    assert odd.offset == len(HDF5) + before + text.index(b'"class_name": "Lambda"')
    assert rules(opened(HDF5 + bytes(before) + json.dumps(model(PLAIN)).encode())) == {"container.not-examined"}
