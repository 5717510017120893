"""safetensors files: a header that is believed only after it was checked, and the writer's side of the same header.

The rules are those of the reference implementation (safetensors 0.8, ``tensor.rs``) and, where that is laxer than the
format's own text, those of the text: duplicate keys and a header that does not begin with ``{`` are anomalies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from modelhub.anomalies import Anomaly
from modelhub.container import canonical_header
from modelhub.container.base import Container, Skipped
from modelhub.errors import Malformed
from modelhub.source import Source
from modelhub.tensors import DTYPE_BY_LABEL, DType, StateDict, StorageRef, TensorInfo

MAX_HEADER = 100_000_000
"""Longest header in bytes that the reference implementation accepts."""

_MAX_PUNCTUATION = 2_000_000  # of a header: 100 times that of the largest real ones; bounds memory and time
_MAX_TOLD = 20
_FIELDS = {"dtype", "shape", "data_offsets"}
_METADATA = "__metadata__"

HeaderEntry = tuple[str, DType, tuple[int, ...], int]
"""Name, element type, shape in elements, bytes."""

_WRITE_ORDER = (
    "U64 I64 F64 C64 F32 U32 I32 BF16 F16 U16 I16 F8_E5M2FNUZ F8_E4M3FNUZ F8_E8M0 F8_E4M3 F8_E5M2 I8 U8 "
    "F6_E3M2 F6_E2M3 F4 BOOL"
)
_RANK: Mapping[DType, int] = {DTYPE_BY_LABEL[label]: rank for rank, label in enumerate(_WRITE_ORDER.split())}


class _Refused(Exception):
    """The header cannot be believed."""

    def __init__(self, rule: str, message: str, offset: int | None = None) -> None:
        self.anomaly = Anomaly(rule, message, offset=offset)


def read_safetensors(source: Source) -> Container:
    """Open the safetensors file *source*; reads its header and nothing else.

    A file that is cut off, or has bytes too many, still has a ``state_dict`` from its header; one whose header
    contradicts itself has none.
    """
    anomalies: list[Anomaly] = []
    try:
        state_dict = _read(source, anomalies)
    except _Refused as refused:
        return Container(
            "safetensors",
            source.name,
            source,
            anomalies=(*anomalies, refused.anomaly),
            skipped=(Skipped("its header cannot be believed, so its tensors are not known"),),
        )
    return Container("safetensors", source.name, source, state_dict, anomalies=tuple(anomalies))


def _read(source: Source, anomalies: list[Anomaly]) -> StateDict:
    length = int.from_bytes(source.read_at(0, 8), "little")
    if not 2 <= length <= MAX_HEADER:
        raise _Refused(
            "safetensors.header-size", f"the header is said to have {length} bytes; at most {MAX_HEADER} are allowed", 0
        )
    if 8 + length > source.size:
        missing = 8 + length - source.size
        raise _Refused(
            "safetensors.truncated", f"the file ends inside its header: at least {missing} bytes are missing"
        )
    metadata, tensors, nbytes = _parsed(source.read_at(8, length), 8 + length, anomalies)
    if nbytes is None or 8 + length + nbytes != source.size:
        _check_tiling(tensors.values(), 8 + length, source.size, anomalies)
    return StateDict(tensors, metadata=metadata)


def _parsed(
    data: bytes, data_start: int, anomalies: list[Anomaly]
) -> tuple[dict[str, str], Mapping[str, TensorInfo], int | None]:
    """The metadata and the tensors, in the order of their bytes, that the header *data* states; and the bytes of all
    tensors, where it is known that they lie one after the other."""
    parted = canonical_header.part(data)
    if parted is not None and (quick := canonical_header.listed(data[parted.begin : parted.end])) is not None:
        return parted.metadata, quick.tensors(data_start), quick.nbytes
    header = _parse_header(data, anomalies)
    metadata = _metadata(header.pop(_METADATA, None), anomalies)
    tensors = sorted(_tensors(header, data_start), key=lambda t: (t.start, t.nbytes))
    return metadata, {tensor.name: tensor for tensor in tensors}, None


def _parse_header(data: bytes, anomalies: list[Anomaly]) -> dict[str, Any]:
    if sum(data.count(mark) for mark in (b",", b"{", b"[")) > _MAX_PUNCTUATION:
        raise _Refused("safetensors.limit", "the header has more parts than any model has tensors", 8)
    if not data.startswith(b"{"):
        anomalies.append(Anomaly("safetensors.header-start", "the header does not begin with '{'", offset=8))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Refused("safetensors.utf8", "the header is not valid UTF-8", 8 + error.start) from None
    twice: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice.extend(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        return found

    try:
        header = json.loads(text, object_pairs_hook=collect, parse_int=_count, parse_constant=_refuse_constant)
    except RecursionError:
        raise _Refused("safetensors.json", "the header is nested too deeply", 8) from None
    except ValueError as error:
        raise _Refused("safetensors.json", f"the header is not valid JSON: {error}"[:200], 8) from None
    if not isinstance(header, dict):
        raise _Refused("safetensors.json", "the header is not a JSON object", 8)
    if twice:
        raise _Refused("safetensors.duplicate-key", f"the header has the key {twice[0]!r:.100} more than once", 8)
    return header


def _count(text: str) -> int:
    """The number *text*; -1 for all with a sign, even -0, which is no count to the reference implementation."""
    return -1 if text.startswith("-") else int(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _metadata(value: Any, anomalies: list[Anomaly]) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        anomalies.append(Anomaly("safetensors.metadata", "__metadata__ is not an object", offset=8))
        return {}
    texts = {k: v for k, v in value.items() if isinstance(v, str) and _is_unicode(k) and _is_unicode(v)}
    if len(texts) != len(value):
        odd = next(k for k in value if k not in texts)
        anomalies.append(Anomaly("safetensors.metadata", f"the metadata value {odd!r:.100} is not text", offset=8))
    return texts


def _tensors(header: Mapping[str, Any], data_start: int) -> Iterator[TensorInfo]:
    for name, entry in header.items():
        shown = f"{name!r:.100}"
        if not _is_unicode(name):
            raise _Refused("safetensors.utf8", f"the tensor name {shown} is not valid text", 8)
        if not isinstance(entry, dict) or entry.keys() != _FIELDS:
            raise _Refused("safetensors.entry", f"the entry of {shown} is not a dtype, a shape and data_offsets", 8)
        dtype = DTYPE_BY_LABEL.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        if dtype is None or not dtype.storable:
            raise _Refused("safetensors.dtype", f"{shown} has the unknown element type {entry['dtype']!r:.40}", 8)
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not _is_counts(shape):
            raise _Refused("safetensors.shape", f"{shown} has the shape {shape!r:.80}", 8)
        if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise _Refused("safetensors.offsets", f"{shown} has the data_offsets {offsets!r:.80}", 8)
        begin, end = offsets
        bits = dtype.bits
        for size in shape:
            bits *= size
            if bits > 1 << 66:
                raise _Refused("safetensors.shape", f"{shown} has more elements than can be counted", 8)
        if bits != 8 * (end - begin):
            message = f"{shown} of shape {shape!r:.80} and type {dtype.label} cannot have {end - begin} bytes"
            raise _Refused("safetensors.size-mismatch", message, 8)
        yield TensorInfo(name, dtype, tuple(shape), StorageRef(name, data_start + begin, end - begin))


def _check_tiling(tensors: Iterable[TensorInfo], data_start: int, file_size: int, anomalies: list[Anomaly]) -> None:
    """The tensors, in order of their offsets, must cover the rest of the file without hole or overlap."""
    reached = data_start
    holes = 0
    for tensor in tensors:
        start = tensor.storage.start
        if start < reached:
            raise _Refused("safetensors.overlap", f"{tensor.name!r:.100} lies over the bytes of another tensor", start)
        if start > reached:
            holes += 1
            if holes <= _MAX_TOLD:
                message = f"{start - reached} bytes before {tensor.name!r:.100} belong to no tensor"
                anomalies.append(Anomaly("safetensors.hole", message, offset=reached))
        reached = start + tensor.storage.nbytes
    if reached > file_size:
        message = f"the file is cut off: {reached - file_size} bytes of {reached} are missing"
        anomalies.append(Anomaly("safetensors.truncated", message, offset=file_size))
    elif reached < file_size:
        message = f"{file_size - reached} bytes follow the last tensor"
        anomalies.append(Anomaly("safetensors.trailing-bytes", message, offset=reached))


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _is_unicode(text: str) -> bool:
    """Whether *text* has no lone surrogates, which JSON escapes allow and UTF-8 does not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def canonical_order(dtypes: Mapping[str, DType]) -> list[str]:
    """The names of *dtypes* in the order in which ``safetensors`` writes tensors: widest type first, then by name.

    Raises :class:`~modelhub.errors.Malformed` for an element type that safetensors does not have.
    """
    for name, dtype in dtypes.items():
        if dtype not in _RANK:
            raise Malformed(f"tensor {name!r:.100}: safetensors has no element type {dtype.label}")
    return sorted(dtypes, key=lambda name: (_RANK[dtypes[name]], name))


def encode_header(
    tensors: Iterable[HeaderEntry], metadata: Mapping[str, str] | None = None, *, align: int = 8
) -> bytes:
    """The first bytes of a safetensors file: length and JSON header, for *tensors* lying one after the other.

    With :func:`canonical_order` and at most one metadata pair the result is byte for byte what
    ``safetensors.torch.save_file`` writes; several pairs are written sorted by key, where that function's order is
    random. Its length, where the data section begins, is a multiple of *align*, which is one of 8. Raises
    :class:`~modelhub.errors.Malformed` for names that no reader would take: ``__metadata__``, doubles,
    lone surrogates; and when the header would be longer than :data:`MAX_HEADER`.
    """
    quote = json.encoder.encode_basestring
    parts: list[str] = []
    if metadata:
        pairs = (f"{quote(key)}:{quote(metadata[key])}" for key in sorted(metadata))
        parts.append(f'"{_METADATA}":{{{",".join(pairs)}}}')
    names = {_METADATA}
    begin = 0
    for name, dtype, shape, nbytes in tensors:
        if name in names:
            raise Malformed(f"tensor name {name!r:.100} cannot be written: it is reserved or there are two of it")
        names.add(name)
        sizes = ",".join(map(str, shape))
        end = begin + nbytes
        parts.append(f'{quote(name)}:{{"dtype":"{dtype.label}","shape":[{sizes}],"data_offsets":[{begin},{end}]}}')
        begin = end
    try:
        header = f"{{{','.join(parts)}}}".encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"a tensor name or metadata value is not valid text: {error.reason}") from error
    header += b" " * (-(8 + len(header)) % align)
    if len(header) > MAX_HEADER:
        raise Malformed(f"the header would have {len(header)} bytes; safetensors allows {MAX_HEADER}")
    return len(header).to_bytes(8, "little") + header
