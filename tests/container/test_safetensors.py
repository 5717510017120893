"""safetensors files: what a good one says, what is wrong with bad ones, and the header of ours."""

from __future__ import annotations

import json
import struct
import time

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub.container.safetensors import canonical_order, encode_header
from modelhub.errors import Malformed
from modelhub.tensors import DTYPE_BY_TORCH, DType
from tests.container.build import opened, rules, same_tensors

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.float16, torch.bfloat16, torch.int32,
    torch.uint32, torch.float32, torch.float64, torch.int64, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.complex64,
]  # fmt: skip


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    made = {f"t.{i}": torch.randint(0, 2, (3, i + 1)).to(d) for i, d in enumerate(DTYPES)}
    return {**made, 'ünï "q" \\ \t\x01\x7f': torch.randn(2), "scalar": torch.tensor(1.5), "none": torch.empty(0, 4)}


def file_of(header: object, data: bytes = b"", pad: str = "") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += pad.encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, dtype: str = "U8", shape: object = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def test_reads_what_the_library_writes():
    """Every tensor of every element type is found where the library put it, in file order, with the metadata."""
    data = safetensors.torch.save(tensors(), {"format": "pt", "ss_tag": "a\nb"})
    container = opened(data, "model.safetensors")
    assert container.kind == "safetensors"
    assert container.anomalies == () and container.skipped == ()
    state_dict = container.state_dict
    assert state_dict is not None
    assert state_dict.metadata == {"format": "pt", "ss_tag": "a\nb"}
    starts = [info.start for info in state_dict.values()]
    assert starts == sorted(starts)
    assert same_tensors(data, container, {name: tensors()[name] for name in state_dict})
    assert all(info.storage.key == name for name, info in state_dict.items())


def test_f4_elements_are_counted_singly():
    """Four-bit elements have a shape in elements and half as many bytes."""
    container = opened(file_of({"a": entry(0, 4, "F4", [8])}, b"abcd"))
    assert container.anomalies == ()
    assert container.state_dict["a"].nbytes == 4


def header_like_library(sd: dict[str, torch.Tensor], metadata: dict[str, str] | None) -> bytes:
    order = canonical_order({name: DTYPE_BY_TORCH[str(t.dtype).removeprefix("torch.")] for name, t in sd.items()})
    entries = [
        (name, DTYPE_BY_TORCH[str(sd[name].dtype).removeprefix("torch.")], tuple(sd[name].shape), sd[name].nbytes)
        for name in order
    ]
    return encode_header(entries, metadata)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {'k"\n': "é\x1f"}])
def test_header_is_byte_identical_to_the_librarys(metadata):
    """Our header for the same tensors and metadata is the very one that safetensors writes."""
    data = safetensors.torch.save(tensors(), metadata)
    header = header_like_library(tensors(), metadata)
    assert data.startswith(header)
    assert len(header) == 8 + struct.unpack("<Q", data[:8])[0]


NAMES = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name != "__metadata__")


@settings(max_examples=150)
@given(st.dictionaries(NAMES, st.sampled_from(DTYPES), max_size=6))
def test_header_is_byte_identical_for_any_names(kinds):
    """Names of any text are ordered and escaped as safetensors does it."""
    sd = {name: torch.zeros(2, dtype=dtype) for name, dtype in kinds.items()}
    assert safetensors.torch.save(sd, {"format": "pt"}).startswith(header_like_library(sd, {"format": "pt"}))


def test_header_is_deterministic_with_several_metadata_pairs():
    """Several metadata pairs are written sorted by key, and read back."""
    one = encode_header([("a", DType.U8, (1,), 1)], {"b": "2", "a": "1", "format": "pt"})
    two = encode_header([("a", DType.U8, (1,), 1)], {"format": "pt", "a": "1", "b": "2"})
    assert one == two
    assert dict(opened(one + b"x").state_dict.metadata) == {"a": "1", "b": "2", "format": "pt"}


@pytest.mark.parametrize("names", [["__metadata__"], ["a", "a"], ["\ud800"]])
def test_names_that_no_reader_takes_are_refused(names):
    """Reserved, repeated and unencodable names raise instead of making a file that cannot be read."""
    with pytest.raises(Malformed):
        encode_header([(name, DType.U8, (1,), 1) for name in names])


def test_unstorable_types_are_refused():
    """An element type that safetensors lacks has no place in its order."""
    with pytest.raises(Malformed, match="C128"):
        canonical_order({"a": DType.C128})


def test_truncated_file_says_exactly_how_much_is_missing():
    """A download that was cut off has its names and shapes, and the number of missing bytes."""
    data = safetensors.torch.save(tensors())
    container = opened(data[:-7], "cut.safetensors")
    assert rules(container) == {"safetensors.truncated"}
    assert "7 bytes" in container.anomalies[0].message
    assert set(container.state_dict) == set(tensors())


def test_file_cut_inside_its_header():
    """A file that ends in its header has no tensors, and says so."""
    data = safetensors.torch.save(tensors())
    container = opened(data[:100])
    assert rules(container) == {"safetensors.truncated"}
    assert container.state_dict is None and container.skipped


HUGE = "1" + "0" * 5000
TWO = {"a": entry(0, 2), "b": entry(2, 4)}


def text(*entries: str, name: str = "a") -> bytes:
    """A header of the entries as written, all under one name."""
    return ("{" + ",".join(f'"{name}":{{{fields}}}' for fields in entries) + "}").encode()


ONE = '"dtype":"U8","shape":[1],"data_offsets":[0,1]'
REFUSED = {
    "no header": (struct.pack("<Q", 0) + b"{}", "header-size"),
    "header of 2^40": (struct.pack("<Q", 1 << 40) + b'{"a":1}' * 10, "header-size"),
    "not JSON": (file_of(b'{"a":}'), "json"),
    "entry is a list": (file_of({"a": [1]}), "entry"),
    "NULs after the header": (file_of(b"{}\0\0\0\0"), "json"),
    "bad UTF-8": (file_of(b'{"\xff":1}'), "utf8"),
    "lone surrogate": (file_of(text(ONE, name="\\ud800"), b"x"), "utf8"),
    "name twice": (file_of(text(ONE, ONE), b"x"), "duplicate-key"),
    "field twice": (file_of(text('"dtype":"I8",' + ONE), b"x"), "duplicate-key"),
    "deep nesting": (file_of(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), "json"),
    "huge integer": (file_of(text(ONE.replace("[1]", f"[{HUGE}]")), b"x"), "json"),
    "minus zero": (file_of(text(ONE.replace("[0,", "[-0,")), b"x"), "offsets"),
    "NaN": (file_of(b'{"a":NaN}'), "json"),
    "overlap": (file_of({"a": entry(0, 4), "b": entry(2, 6)}, b"abcdef"), "overlap"),
    "size": (file_of({"a": entry(0, 4, "F32", [2])}, b"abcd"), "size-mismatch"),
    "unknown type": (file_of({"a": entry(0, 16, "C128", [1])}, b"0" * 16), "dtype"),
    "type is a list": (file_of({"a": {**entry(0, 1), "dtype": ["U8"]}}, b"0"), "dtype"),
    "negative shape": (file_of({"a": entry(0, 1, "U8", [-1])}, b"0"), "shape"),
    "truth in shape": (file_of({"a": entry(0, 1, "U8", [True])}, b"0"), "shape"),
    "fraction in offsets": (file_of({"a": {**entry(0, 1), "data_offsets": [0, 1.0]}}, b"0"), "offsets"),
    "offsets reversed": (file_of({"a": {**entry(0, 1), "data_offsets": [1, 0]}}, b"0"), "offsets"),
    "shape overflows": (file_of({"a": entry(0, 1, "U8", [1 << 62, 1 << 62])}, b"0"), "shape"),
    "half a byte": (file_of({"a": entry(0, 1, "F4", [3])}, b"0"), "size-mismatch"),
    "unknown field": (file_of({"a": {**entry(0, 1), "x": 1}}, b"0"), "entry"),
    "too many parts": (file_of(b'{"a":[' + b"0," * 2_100_000 + b"0]}"), "limit"),
}
TOLD = {
    "trailing-bytes": (file_of(TWO, b"abcdX"), "trailing-bytes"),
    "hole": (file_of({"a": entry(0, 2), "b": entry(3, 5)}, b"abXcd"), "hole"),
    "metadata-number": (file_of({"__metadata__": {"k": 1}, **TWO}, b"abcd"), "metadata"),
    "metadata-list": (file_of({"__metadata__": [], **TWO}, b"abcd"), "metadata"),
    "leading-space": (file_of(b"  " + json.dumps(TWO).encode(), b"abcd"), "header-start"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_headers_that_cannot_be_believed(name):
    """A header that contradicts itself or its format is refused by name, fast, and gives no tensors."""
    data, rule = REFUSED[name]
    begun = time.monotonic()
    container = opened(data, "x.safetensors")
    assert time.monotonic() - begun < 3
    assert container.kind == "safetensors"
    assert f"safetensors.{rule}" in rules(container)
    assert container.state_dict is None
    assert container.skipped


@pytest.mark.parametrize("name", TOLD)
def test_oddities_that_leave_the_tensors_readable(name):
    """A file that strays from the format without contradicting itself is told, and its tensors are known."""
    data, rule = TOLD[name]
    container = opened(data, "x.safetensors")
    assert rules(container) == {f"safetensors.{rule}"}
    assert set(container.state_dict) == {"a", "b"}


@pytest.mark.parametrize("name", [*REFUSED, *TOLD])
def test_whatever_the_library_rejects_is_an_anomaly(name):
    """Nothing that the reference implementation rejects passes here without an anomaly."""
    data, _ = {**REFUSED, **TOLD}[name]
    try:
        safetensors.deserialize(data)
    except Exception:
        assert opened(data).anomalies


HEADER = safetensors.torch.save({"a": torch.zeros(3), "b": torch.zeros(2, dtype=torch.float16)}, {"format": "pt"})


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(HEADER) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_no_mutation_is_accepted_that_the_library_rejects(changes):
    """For any damaged bytes: no exception, and never a clean bill where the reference implementation refuses."""
    data = bytearray(HEADER)
    for at, value in changes:
        data[at] = value
    container = opened(bytes(data), "x.safetensors")
    try:
        safetensors.deserialize(bytes(data))
    except Exception:
        assert container.anomalies
