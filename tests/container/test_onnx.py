"""ONNX models: told as not examined; tensor data that is read from outside the model's folder is told too."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.container.build import opened, rules


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def field(number: int, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return varint(number << 3 | 2) + varint(len(data)) + data


HEAD = b"\x08\x08" + field(2, b"pytorch")


def tensor(location: str) -> bytes:
    """A TensorProto with external data."""
    entries = {"location": location, "offset": "0", "length": "12"}
    external = [field(13, field(1, key.encode()), field(2, value.encode())) for key, value in entries.items()]
    return b"\x08\x03\x10\x01" + field(8, b"w") + b"".join(external) + b"\x70\x01"


def initializer(location: str) -> bytes:
    return HEAD + field(7, field(1, b""), field(5, tensor("ok.data")), field(5, tensor(location)))


def attribute(location: str) -> bytes:
    return HEAD + field(7, field(1, field(4, b"Constant"), field(5, field(1, b"value"), field(5, tensor(location)))))


@pytest.mark.parametrize("model", [initializer, attribute])
@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/etc/passwd", "a/../../b", "C:/x", "..\\x", "file:///etc/passwd"]
)
def test_data_outside_the_folder_is_told(model, path):
    """A path that leads out of the model's folder is told, wherever the tensor stands."""
    container = opened(model(path), "x.onnx")
    assert container.kind == "onnx"
    assert rules(container) == {"container.not-examined", "onnx.external-path"}
    assert container.skipped


@pytest.mark.parametrize("path", ["model.onnx.data", "weights/w..1", "a/b.bin"])
def test_data_beside_the_model_is_ordinary(path):
    """Data beside the model is how large models are stored."""
    assert rules(opened(initializer(path), "x.onnx")) == {"container.not-examined"}


@settings(max_examples=200)
@given(st.binary(max_size=100), st.integers(0, 60))
def test_no_bytes_make_it_raise(junk, at):
    """A damaged model opens as something, and is never taken for examined."""
    whole = initializer("w.data")
    assert opened(whole[: 11 + at] + junk + whole[11 + at :]).skipped
