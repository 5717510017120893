"""Headers written as usual are read by a quicker way, which says what the reader of JSON says or nothing at all."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub.anomalies import Anomaly
from modelhub.container import canonical_header, safetensors
from modelhub.container.base import Container
from modelhub.tensors import DTYPE_BY_LABEL
from tests.container.build import opened

NAMES = st.sampled_from(
    ["a", "a.weight", "b", "", "__metadata__", 'q"', "back\\slash", "\u00e9", "\x01", "\u0661", "\U0001f600", "a,b:{}"]
)
METADATA = st.dictionaries(
    st.sampled_from(["format", "", "\u00e9", 'a"}', "__metadata__", "\ud800", "\\"]),
    st.sampled_from(["pt", "", '{"a":{"b":1}}', "\ud83d", "\U0001f600", "\x00", "},", 5, None, {"k": "v"}, ["x"]]),
    max_size=3,
)
EMPTY = st.sampled_from(["{}", "[]", "null", '""', "0"])
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 3),
        st.sampled_from(
            [
                *(
                    b"",
                    b" ",
                    b",",
                    b'"',
                    b"{",
                    b"}",
                    b"[",
                    b"]",
                    b"0",
                    b"-",
                    b"1e2",
                    b"9" * 19,
                    b"\\u0061",
                    b"\\",
                    b"\xc3",
                ),
                b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},',
                b'"dtype":"U8",',
                b"null",
                b'"__metadata__":{},',
            ]
        ),
    ),
    max_size=2,
)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """Headers much like real ones, with a few things wrong."""
    entries: list[str] = []
    at = 0
    for name in draw(st.lists(NAMES, max_size=4)):
        label = draw(st.sampled_from(["U8", "F16", "F4", "F6_E2M3", "C128", "f16", "X"]))
        shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 8, 1 << 62, -1]), max_size=3))
        bits = DTYPE_BY_LABEL[label].bits if label in DTYPE_BY_LABEL else 8
        for size in shape:
            bits *= size
        end = at + max(0, bits // 8) + draw(st.sampled_from([0, 0, 0, 0, 1]))
        fields = f'"dtype":"{label}","shape":{json.dumps(shape, separators=(",", ":"))},"data_offsets":[{at},{end}]'
        entries.append(f"{json.dumps(name, ensure_ascii=draw(st.booleans()))}:{{{fields}}}")
        at = end
    metadata = draw(st.none() | METADATA)
    if metadata is not None:
        text = json.dumps(metadata, separators=(",", ":"), ensure_ascii=True) if metadata else draw(EMPTY)
        entries.insert(draw(st.sampled_from([0, 0, 0, len(entries)])), f'"__metadata__":{text}')
    if draw(st.booleans()):
        entries.reverse()
    data = ("{" + ",".join(entries) + "}").encode() + b" " * draw(st.integers(0, 3))
    for where, width, text in draw(EDITS):
        place = int(where * len(data))
        data = data[:place] + text + data[place + width :]
    return data


def told(header: bytes) -> tuple[object, ...]:
    found: Container = opened(len(header).to_bytes(8, "little") + header + bytes(16), "m.safetensors")
    state_dict = found.state_dict
    tensors = None if state_dict is None else list(state_dict.tensors.items())
    return tensors, state_dict and dict(state_dict.metadata), found.anomalies, found.skipped


@settings(max_examples=600)
@given(headers())
def test_the_quick_way_says_what_the_full_reader_says(header: bytes) -> None:
    """Whatever a header is, its tensors, metadata and everything wrong with it are those that JSON's reader finds."""
    quickly = told(header)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canonical_header, "part", lambda _: None)
        assert told(header) == quickly


def test_headers_are_digested_in_parts() -> None:
    """Two headers have one digest where they are equal, byte for byte, and the list's own need not be made again."""
    first = b'{"__metadata__":{"a":"b"},"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}  '
    others = [first.replace(b'"b"', b'"c"'), first.replace(b'"t"', b'"u"'), first[:-1], first + b" ", first[:-3]]
    prints = {canonical_header.print_of(each, canonical_header.part(each)) for each in [first, *others]}
    assert len(prints) == 6
    parted = canonical_header.part(first)
    assert parted is not None
    listing = hashlib.sha256(first[parted.begin : parted.end]).digest()
    assert canonical_header.print_of(first, parted, listing) in prints
    whole = hashlib.sha256(len(first).to_bytes(8, "little") + first).hexdigest()
    assert canonical_header.print_of(first, None) == whole


def test_what_the_library_writes_goes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header as the reference implementation writes it is not read as JSON at all, escapes in its metadata or not."""
    monkeypatch.setattr(safetensors, "_parse_header", None)
    metadata = {"title": '"\u00e9" \\ }', "ss_tag_frequency": '{"a":{"b, c":3}}'}
    tensors = [("a.weight", DTYPE_BY_LABEL["F16"], (2, 3), 12), ("b", DTYPE_BY_LABEL["F32"], (), 4)]
    for said in ({}, metadata):
        data = safetensors.encode_header(tensors, said) + bytes(16)
        found = opened(data, "m.safetensors")
        assert found.state_dict is not None and dict(found.state_dict.metadata) == said
        assert [(t.name, t.shape, t.start - len(data) + 16) for t in found.state_dict.values()] == [
            ("a.weight", (2, 3), 0),
            ("b", (), 12),
        ]
        assert not found.anomalies


def test_a_listing_is_read_to_its_last_character() -> None:
    """What stands between, before or after the entries of a listing is not overlooked."""
    entry = b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    assert canonical_header.listed(entry + b"}")
    for odd in (b"x" + entry + b"}", entry + b",}", entry + b" }", entry, entry + b"}}", entry + entry + b"}", b""):
        assert canonical_header.listed(odd) is None


def test_entries_need_not_be_in_the_order_of_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that lists its tensors by name, wherever their bytes lie, goes the quick way too."""
    monkeypatch.setattr(safetensors, "_parse_header", None)
    text = '{"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    found = opened(len(text).to_bytes(8, "little") + text.encode() + bytes(3), "m.safetensors")
    assert found.state_dict is not None and not found.anomalies
    assert [(t.name, t.start - 8 - len(text), t.nbytes) for t in found.state_dict.values()] == [
        ("b", 0, 1),
        ("a", 1, 2),
    ]


def test_quotes_alone_are_no_listing() -> None:
    """A listing of nothing but quotes is not taken apart into millions of pieces."""
    assert canonical_header.listed(b'"' * (1 << 20) + b"]}}") is None


def test_what_the_other_reader_refuses_for_its_size_is_refused() -> None:
    """Two million commas are too many in one shape, and in one name, whoever would read them first."""
    many = 2_000_001
    for name, shape in (("a", "0" + ",0" * many), ("," * many, "0")):
        text = f'{{"{name}":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,0]}}}}'
        found = opened(len(text).to_bytes(8, "little") + text.encode(), "m.safetensors")
        assert [anomaly.rule for anomaly in found.anomalies] == ["safetensors.limit"]


def test_nothing_long_is_kept() -> None:
    """Names and shapes that are kept as read once are short: a process that reads thousands of files stays small."""
    for name, shape in (("a", "0" + ",0" * 400), ("a" * 600, "0")):
        text = f'"{name}":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,0]}}}}'
        found = canonical_header.listed(text.encode())
        assert found is not None and list(found.names) == [name]
    assert max(map(len, [*canonical_header._known_names, *canonical_header._known_forms])) < 600


def test_anomalies_are_told_of_either_way() -> None:
    """A hole between two tensors is seen in a header that is read the quick way."""
    text = '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}'
    anomalies: tuple[Anomaly, ...] = opened(
        len(text).to_bytes(8, "little") + text.encode() + bytes(4), "m.safetensors"
    ).anomalies
    assert [anomaly.rule for anomaly in anomalies] == ["safetensors.hole"]
