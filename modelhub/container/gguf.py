"""GGUF files: their header checked against the file's size, their chat templates looked at, their tensors listed.

Source of the layout: ggml's ``gguf.md`` (versions 2 and 3).
Loaders run a model's chat templates in Jinja; a template that reaches for Python's internals is how CVE-2024-34359 ran
code.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NoReturn

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, Skipped
from modelhub.container.ggml import BLOCKS, PLAIN
from modelhub.source import Source
from modelhub.tensors import BlockTensor, Leftover, Scalar, StateDict, StorageRef, TensorInfo

_WINDOW = 1 << 18
_MAX_HEADER = 256 << 20
_MAX_KEYS = 65_536
_MAX_TENSORS = 131_072
_MAX_ELEMENTS = 2_000_000
_MAX_NAME = 1 << 16
_MAX_KEPT = 4096
_MAX_TEMPLATE = 1 << 20
_MAX_DIMENSIONS = 4
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY, _BOOL = 8, 9, 7
_ESCAPE = re.compile(
    r"__\w+__|\|\s*attr\b|\battr\s*\(|\b(?:cycler|joiner|namespace|lipsum|url_for|get_flashed_messages|config|request)"
    r"\s*[.\[]\s*['\"]?_|\bimport\s+os\b|\bos\s*\.\s*(?:popen|system)|\bsubprocess\b|\bpopen\b"
    r"|\\x5f|\\u005f|\b_TemplateReference__|\{%-?\s*(?:include|import|from|extends)\b",
    re.IGNORECASE,
)
"""What a chat template needs to reach Python's internals, other files or the operating system, and never else."""


class _Refused(Exception):
    def __init__(self, anomaly: Anomaly) -> None:
        self.anomaly = anomaly


def read_gguf(source: Source) -> Container:
    """Open the GGUF file *source*; reads its header and nothing else.

    Quantised tensors have no element type here: they are told as leftovers, with where their blocks lie.
    """
    anomalies: list[Anomaly] = []
    try:
        state_dict = _Reading(source, anomalies).header()
    except _Refused as refused:
        anomalies.append(refused.anomaly)
        skipped = (Skipped("its header cannot be believed, so its tensors are not known"),)
        return Container("gguf", source.name, source, anomalies=tuple(anomalies), skipped=skipped)
    return Container("gguf", source.name, source, state_dict, anomalies=tuple(anomalies))


class _Reading:
    """A walk through one header, forward, in windows."""

    def __init__(self, source: Source, anomalies: list[Anomaly]) -> None:
        self.source = source
        self.anomalies = anomalies
        self.base = 0
        self.at = 4
        self.data = source.read_at(0, _WINDOW)
        self.elements = 0

    def refuse(self, rule: str, message: str) -> NoReturn:
        raise _Refused(Anomaly(rule, message, offset=self.at))

    def take(self, length: int) -> bytes:
        """The next *length* bytes of the header."""
        if self.at + length > min(self.source.size, _MAX_HEADER):
            rule = "gguf.truncated" if self.at + length > self.source.size else "gguf.limit"
            self.refuse(rule, f"the header asks for {length} bytes that are not there, or are more than any header has")
        begin = self.at - self.base
        if begin + length > len(self.data):
            self.base, begin = self.at, 0
            self.data = self.source.read_at(self.at, max(length, _WINDOW))
        self.at += length
        return self.data[begin : begin + length]

    def skip(self, length: int) -> None:
        if self.at + length > min(self.source.size, _MAX_HEADER):
            self.take(length)
        self.at += length
        if self.at - self.base > len(self.data):
            self.base, self.data = self.at, self.source.read_at(self.at, _WINDOW)

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def header(self) -> StateDict:
        version = self.number("<I")
        if version not in (2, 3):
            self.refuse("gguf.version", f"GGUF version {version:#x} is not one that is read here")
        tensors, keys = self.number("<Q"), self.number("<Q")
        if tensors > _MAX_TENSORS or keys > _MAX_KEYS:
            self.refuse("gguf.limit", f"the header announces {tensors} tensors and {keys} keys")
        scalars: dict[str, Scalar] = {}
        for _ in range(keys):
            key = self.text(_MAX_NAME)
            if key in scalars:
                self.anomalies.append(Anomaly("gguf.duplicate-key", f"the key {key!r:.100} is there twice"))
            scalars[key] = self.value(key, self.number("<I"))
        given = scalars.get("general.alignment", 32)
        alignment = given if type(given) is int else 0
        if alignment <= 0 or alignment % 8 or alignment > 1 << 20:
            self.refuse("gguf.alignment", f"the alignment of the tensors is {given!r:.40}")
        declared = [self.declaration() for _ in range(tensors)]
        start = (self.at + alignment - 1) // alignment * alignment
        return self.tensors(declared, start, alignment, scalars)

    def text(self, limit: int) -> str:
        length = self.number("<Q")
        if length > limit:
            self.refuse("gguf.limit", f"a name or text of {length} bytes")
        return self.take(length).decode("utf-8", "backslashreplace")

    def value(self, key: str, kind: int) -> Scalar:
        """One metadata value; arrays and long texts are looked at and not kept."""
        if kind == _STRING:
            templates = "chat_template" in key
            text = self.text(_MAX_TEMPLATE if templates else _MAX_HEADER)
            if templates:
                self.check_template(key, text)
            return text if len(text) <= _MAX_KEPT else None
        if kind == _ARRAY:
            self.array(key, 0)
            return None
        if kind not in _NUMBERS:
            self.refuse("gguf.type", f"the value of {key!r:.100} is of the unknown type {kind}")
        number = self.number(_NUMBERS[kind])
        return bool(number) if kind == _BOOL else number

    def array(self, key: str, depth: int) -> None:
        kind, count = self.number("<I"), self.number("<Q")
        if kind in _NUMBERS:
            self.skip(count * struct.calcsize(_NUMBERS[kind]))
            return
        self.elements += count
        if kind not in (_STRING, _ARRAY) or self.elements > _MAX_ELEMENTS or depth > 2:
            self.refuse("gguf.limit", f"the array {key!r:.100} is of an unknown type, or larger than any is")
        for _ in range(count):
            if kind == _ARRAY:
                self.array(key, depth + 1)
            elif "chat_template" in key:
                self.check_template(key, self.text(_MAX_TEMPLATE))
            else:
                self.skip(self.number("<Q"))

    def check_template(self, key: str, text: str) -> None:
        found = _ESCAPE.search(text)
        if found is not None:
            around = text[max(0, found.start() - 40) : found.end() + 60]
            message = f"the chat template {key!r:.100} reaches for Python's internals, which runs code where it is used"
            self.anomalies.append(Anomaly("gguf.template", message, offset=self.at, evidence=ascii(around)[:200]))

    def declaration(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape (slowest dimension first), ggml type and offset of one tensor."""
        name = self.text(_MAX_NAME)
        dimensions = self.number("<I")
        if dimensions > _MAX_DIMENSIONS:
            self.refuse("gguf.shape", f"{name!r:.100} has {dimensions} dimensions")
        shape = tuple(self.number("<Q") for _ in range(dimensions))[::-1]
        return name, shape, self.number("<I"), self.number("<Q")

    def tensors(
        self,
        declared: list[tuple[str, tuple[int, ...], int, int]],
        start: int,
        alignment: int,
        scalars: dict[str, Scalar],
    ) -> StateDict:
        """The tensors that *declared* says lie from *start* on, each in bounds and over no other."""
        found: dict[str, TensorInfo] = {}
        leftovers: list[Leftover] = []
        spans: list[tuple[int, int, str]] = []
        for name, shape, kind, offset in declared:
            nbytes = self.length(name, shape, kind)
            if offset % alignment:
                self.refuse("gguf.offsets", f"{name!r:.100} does not begin at a multiple of {alignment} bytes")
            spans.append((start + offset, start + offset + nbytes, name))
            storage = StorageRef(name, start + offset, nbytes)
            if kind in PLAIN:
                found[name] = TensorInfo(name, PLAIN[kind], shape, storage)
            else:
                what = f"a tensor of shape {shape} in quantised blocks of ggml's type {BLOCKS[kind].name}"
                structure = BlockTensor(BLOCKS[kind].name, shape, storage)
                leftovers.append(Leftover(name, what, unread=True, structure=structure))
        if len(found) + len({left.path for left in leftovers}) != len(declared):
            self.refuse("gguf.duplicate-key", "two tensors have one name")
        self.anomalies += _layout(self.source, spans, self.at, start, alignment)
        return StateDict(found, scalars, tuple(leftovers))

    def length(self, name: str, shape: tuple[int, ...], kind: int) -> int:
        numel = 1
        for size in shape:
            numel *= size
        if numel > 1 << 50:
            self.refuse("gguf.shape", f"{name!r:.100} has more elements than can be")
        if kind in PLAIN:
            return numel * PLAIN[kind].itemsize
        if kind not in BLOCKS:
            self.refuse("gguf.type", f"{name!r:.100} is of the unknown ggml type {kind}")
        block = BLOCKS[kind]
        if numel and (shape[-1] if shape else 1) % block.elements:
            self.refuse("gguf.shape", f"the rows of {name!r:.100} do not fill whole blocks")
        return numel // block.elements * block.nbytes


def _layout(
    source: Source, spans: list[tuple[int, int, str]], header: int, start: int, alignment: int
) -> Iterator[Anomaly]:
    """Whether tensors lie one after the other from *start* on, padded to *alignment*, up to the file's end; the
    padding, that after the *header* too, is zeros (``gguf.md``)."""
    size = source.size
    reached = start
    if _holds_something(source, header, start):
        yield Anomaly("gguf.hole", "the padding after the header is not zeros", offset=header)
    for begin, end, name in sorted(spans):
        if begin < reached:
            yield Anomaly("gguf.overlap", f"{name!r:.100} lies over the bytes of another tensor", offset=begin)
        elif begin - reached >= alignment:
            message = f"{begin - reached} bytes before {name!r:.100} belong to no tensor"
            yield Anomaly("gguf.hole", message, offset=reached)
        elif _holds_something(source, reached, begin):
            yield Anomaly("gguf.hole", f"the padding before {name!r:.100} is not zeros", offset=reached)
        reached = max(reached, end)
    if spans and reached > size:
        yield Anomaly("gguf.truncated", f"the file is cut off: {reached - size} bytes are missing", offset=size)
    elif size - reached >= alignment:
        yield Anomaly("gguf.trailing-bytes", f"{size - reached} bytes follow the last tensor", offset=reached)
    elif _holds_something(source, reached, size):
        yield Anomaly("gguf.trailing-bytes", "the padding after the last tensor is not zeros", offset=reached)


def _holds_something(source: Source, begin: int, end: int) -> bool:
    """Whether a byte of the padding from *begin* to *end* is not zero."""
    return end > begin and any(source.read_at(begin, end - begin))
