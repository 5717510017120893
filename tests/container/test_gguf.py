"""GGUF files: every number of the header is checked, chat templates are looked at, plain tensors are listed."""

from __future__ import annotations

import struct

import gguf as package
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.container.build import opened, rules, same_tensors

Q4_0 = 2
F32 = 0


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, offset)


def gguf(pairs: list[bytes], tensors: list[bytes], data: bytes, version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs + tensors)
    return head + bytes(-len(head) % 32) + data


PAIRS = [
    pair("general.architecture", 8, text("sd1")),
    pair("general.quantization_version", 4, struct.pack("<I", 2)),
    pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3) + text("a") + text("bc") + text("")),
    pair("tokenizer.ggml.scores", 9, struct.pack("<IQ3f", 6, 3, 0, 1, 2)),
    pair("general.flag", 7, b"\1"),
    pair("tokenizer.chat_template", 8, text("{% for m in messages %}{{ m['role'] + m.content }}{% endfor %}")),
]
DATA = struct.pack("<6f", *range(6)) + bytes(8) + bytes(18 * 4)
TENSORS = [tensor("w", (2, 3), F32, 0), tensor("q", (4, 32), Q4_0, 32)]
SOUND = gguf(PAIRS, TENSORS, DATA)
LONE = gguf([], [tensor("w", (8,), F32, 0)], bytes(32))


def test_a_sound_file_is_examined():
    """Header and tensors within bounds: nothing is odd, plain tensors are known, quantised ones told by name."""
    container = opened(SOUND, "x.gguf")
    assert (container.kind, container.anomalies, container.skipped) == ("gguf", (), ())
    assert same_tensors(SOUND, container, {"w": torch.arange(6.0).reshape(2, 3)})
    assert [left.path for left in container.state_dict.leftovers] == ["q"]
    assert container.state_dict.scalars["general.architecture"] == "sd1"
    assert container.state_dict.scalars["general.flag"] is True


@pytest.mark.parametrize(
    "template",
    [
        "{{ ().__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id') }}",
        "{{ self._TemplateReference__context }}",
        "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
        "{% include '/etc/passwd' %}",
        "{{ x.append(subprocess) }}",
    ],
)
def test_templates_that_reach_out_are_told(template):
    """A chat template with what only an escape from Jinja needs is told, under any of the keys that hold templates."""
    for key in ("tokenizer.chat_template", "tokenizer.chat_template.tool_use"):
        container = opened(gguf([pair(key, 8, text(template))], [], b""))
        assert rules(container) == {"gguf.template"}
        assert container.anomalies[0].evidence
    listed = pair("x.chat_templates", 9, struct.pack("<IQ", 8, 1) + text(template))
    assert rules(opened(gguf([listed], [], b""))) == {"gguf.template"}


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (SOUND[:-1], "gguf.truncated"),
        (SOUND[:70], "gguf.truncated"),
        (SOUND + bytes(64), "gguf.trailing-bytes"),
        (gguf(PAIRS, TENSORS, DATA, version=1), "gguf.version"),
        (gguf(PAIRS, TENSORS, DATA, version=0x03000000), "gguf.version"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "gguf.limit"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "gguf.limit"),
        (gguf([text("k") + struct.pack("<IQ", 8, 1 << 63)], [], b""), "gguf.limit"),
        (gguf([pair("k", 9, struct.pack("<IQ", 4, 1 << 62))], [], b""), "gguf.truncated"),
        (gguf([pair("k", 9, struct.pack("<IQ", 9, 1 << 62))], [], b""), "gguf.limit"),
        (gguf([pair("k", 77, b"")], [], b""), "gguf.type"),
        (gguf([PAIRS[0], PAIRS[0]], [], b""), "gguf.duplicate-key"),
        (gguf([pair("general.alignment", 4, struct.pack("<I", 0))], [], b""), "gguf.alignment"),
        (gguf([], [tensor("w", (1 << 30, 1 << 30, 1 << 30), F32, 0)], b""), "gguf.shape"),
        (gguf([], [tensor("w", (1, 31), Q4_0, 0)], bytes(32)), "gguf.shape"),
        (gguf([], [tensor("w", (1,), 250, 0)], bytes(32)), "gguf.type"),
        (gguf([], [tensor("w", (1,), F32, 1)], bytes(32)), "gguf.offsets"),
        (gguf([], [tensor("w", (8,), F32, 0), tensor("v", (8,), F32, 0)], bytes(32)), "gguf.overlap"),
        (gguf([], [tensor("w", (8,), F32, 64)], bytes(96)), "gguf.hole"),
        (SOUND.replace(struct.pack("<f", 5) + bytes(8), struct.pack("<f", 5) + bytes(7) + b"."), "gguf.hole"),
        (gguf([], [tensor("w", (1,), F32, 0)], bytes(4) + b"N."), "gguf.trailing-bytes"),
        (LONE[:-33] + b"." + LONE[-32:], "gguf.hole"),
        (gguf([], [tensor("w", (8,), F32, 0), tensor("w", (8,), F32, 32)], bytes(64)), "gguf.duplicate-key"),
    ],
)
def test_no_number_is_believed_unchecked(data, rule):
    """Counts, lengths, shapes and offsets that the file does not bear out are told, whatever they are."""
    assert rule in rules(opened(data, "x.gguf"))


@settings(max_examples=200)
@given(st.integers(0, len(SOUND) - 1), st.binary(min_size=1, max_size=8))
def test_no_damage_makes_it_raise(at, junk):
    """A damaged header opens as something."""
    data = SOUND[:at] + junk + SOUND[at + len(junk) :]
    container = opened(data)
    for info in (container.state_dict or {}).values():
        assert container.anomalies or info.start + info.nbytes <= len(data)


def test_files_by_ggufs_own_writer(tmp_path):
    """Plain tensors are where they lie, in the order of dimensions that numpy and torch have; blocks are described."""
    values = {name: np.arange(3 * 64, dtype=name).reshape(3, 64) for name in ("f4", "f2", "f8", "i1", "i2", "i4", "i8")}
    writer = package.GGUFWriter(tmp_path / "m.gguf", "sd1")
    writer.add_uint32("sd1.block_count", 4)
    writer.add_array("sd1.names", ["a", "b"])
    for name, array in values.items():
        writer.add_tensor(name, array)
    whole = np.random.default_rng(1).standard_normal((4, 256), np.float32)
    kinds = [package.GGMLQuantizationType[name] for name in ("Q4_0", "Q5_1", "Q8_0")]
    packed = {kind.name: package.quants.quantize(whole, kind) for kind in kinds}
    for kind in kinds:
        writer.add_tensor(kind.name, packed[kind.name], raw_dtype=kind)
    brain = package.quants.quantize(whole, package.GGMLQuantizationType.BF16)
    writer.add_tensor("bf16", brain, raw_dtype=package.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = (tmp_path / "m.gguf").read_bytes()
    container = opened(data, "m.gguf")
    assert container.anomalies == ()
    expected = {name: torch.from_numpy(array) for name, array in values.items()}
    expected["bf16"] = torch.frombuffer(bytearray(brain.tobytes()), dtype=torch.bfloat16).reshape(4, 256)
    assert same_tensors(data, container, expected)
    assert {left.path for left in container.state_dict.leftovers} == set(packed)
    for left in container.state_dict.leftovers:
        block = left.structure
        assert (block.kind, block.shape, left.unread) == (left.path, (4, 256), True)
        assert data[block.storage.start : block.storage.end] == packed[left.path].tobytes()
