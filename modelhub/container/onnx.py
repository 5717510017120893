"""ONNX models: not examined, except for the paths of tensor data outside the file.

A tensor can name another file that its data is read from, relative to the model's folder; a path that leads out of it
made loaders read any file (CVE-2022-25882, CVE-2024-27318, CVE-2025-51480). Field numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, Skipped
from modelhub.source import Source

_MAX_FIELDS = 200_000
_MAX_VARINT = 10
_MAX_PATH = 4096
_GRAPH, _NODE, _INITIALIZER, _ATTRIBUTE, _TENSOR, _EXTERNAL = 7, 1, 5, 5, 5, 13
_PATHS = ((_GRAPH, _INITIALIZER, _EXTERNAL), (_GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _EXTERNAL))
"""The ways from the model to what a tensor says of its external data."""
_LEADS_OUT = re.compile(r"^/|^[A-Za-z]:|\\|(?:^|/)\.\.(?:/|$)|^\w+://|\0")


def read_onnx(source: Source) -> Container:
    """Open an ONNX model: told as not examined, with the external data that leads out of its folder."""
    message = "an ONNX model, whose operators are not examined"
    anomalies = [Anomaly("container.not-examined", message)]
    walk = _Walk(source)
    for route in _PATHS:
        for start, end in walk.follow(0, source.size, route):
            key, value = walk.entry(start, end)
            if key == "location" and _LEADS_OUT.search(value):
                message = "tensor data is read from a path that leads out of the model's folder"
                anomalies.append(Anomaly("onnx.external-path", message, offset=start, evidence=ascii(value)[:200]))
    return Container("onnx", source.name, source, anomalies=tuple(anomalies), skipped=(Skipped(message),))


class _Walk:
    """A walk through protobuf messages that looks at no more than so many fields."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.left = _MAX_FIELDS

    def follow(self, start: int, end: int, route: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """Where the messages are that *route*, one field number after another, leads to."""
        for number, wire, begin, stop in self.fields(start, end):
            if number == route[0] and wire == 2:
                if len(route) == 1:
                    yield begin, stop
                else:
                    yield from self.follow(begin, stop, route[1:])

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number, wire type, begin and end of each field's value; stops at what is no field."""
        while start < end and self.left > 0:
            self.left -= 1
            head = self.source.read_at(start, min(2 * _MAX_VARINT, end - start))
            tag, at = _varint(head, 0)
            wire = tag & 7
            if wire == 0:
                _, after = _varint(head, at)
                begin, stop = start + at, start + after
            elif wire == 2:
                length, after = _varint(head, at)
                begin, stop = start + after, start + after + length
            elif wire in (1, 5):
                begin, stop = start + at, start + at + (8 if wire == 1 else 4)
            else:
                return
            if at < 1 or stop > end or stop <= start:
                return
            yield tag >> 3, wire, begin, stop
            start = stop

    def entry(self, start: int, end: int) -> tuple[str, str]:
        """A key and its value, as text."""
        texts = {1: "", 2: ""}
        for number, wire, begin, stop in self.fields(start, end):
            if number in texts and wire == 2:
                raw = self.source.read_at(begin, min(_MAX_PATH, stop - begin))
                texts[number] = raw.decode("utf-8", "backslashreplace")
        return texts[1], texts[2]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at *at* and the offset behind it; an offset of 0 when there is none."""
    value = 0
    for index, byte in enumerate(data[at : at + _MAX_VARINT]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    return 0, 0
