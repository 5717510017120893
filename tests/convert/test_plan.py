"""A plan says everything that will be written, or why nothing can be."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from modelhub.anomalies import Anomaly
from modelhub.container import Container
from modelhub.convert import SHARED_KEY, plan_conversion
from modelhub.errors import (
    LimitExceeded,
    Malformed,
    NothingToConvert,
    Truncated,
    UnknownContainer,
    UnsupportedDtype,
    UnsupportedLayout,
)
from modelhub.identify.base import Identity
from modelhub.source import BytesSource
from modelhub.tensors import DType, Leftover, StateDict, StorageRef, TensorInfo

STORAGE = StorageRef("0", 100, 64)
WEIGHT = TensorInfo("w", DType.F32, (4, 4), STORAGE)


def container(*tensors: TensorInfo, kind: str = "torch-zip", **facts) -> Container:
    source = BytesSource("m.ckpt", bytes(1000))
    return Container(kind, source.name, source, StateDict({t.name: t for t in tensors}, **facts))


def header_of(plan) -> dict:
    return json.loads(plan.outputs[0].header[8:])


def test_tensors_stand_in_the_order_in_which_the_library_writes_them():
    """Widest element type first, then by name, tiling the data section from 0 to its end."""
    storage = StorageRef("0", 0, 900)
    plan = plan_conversion(
        container(
            TensorInfo("b", DType.F16, (3,), storage),
            TensorInfo("a", DType.F16, (2, 2), storage, 10),
            TensorInfo("z", DType.I64, (), storage, 100),
            TensorInfo("m", DType.BOOL, (5,), storage, 200),
        )
    )
    assert [(p.name, p.begin, p.end) for p in plan.tensors] == [("z", 0, 8), ("a", 8, 16), ("b", 16, 22), ("m", 22, 27)]
    assert plan.size == len(plan.outputs[0].header) + 27
    assert len(plan.outputs[0].header) % 8 == 0
    header = header_of(plan)
    assert header["a"] == {"dtype": "F16", "shape": [2, 2], "data_offsets": [8, 16]}
    assert header["z"]["shape"] == []


def test_metadata_always_names_the_format():
    """transformers and diffusers refuse a file without {"format": "pt"}."""
    plan = plan_conversion(container(WEIGHT), metadata={"modelhub.salvaged": "true"})
    assert plan.outputs[0].metadata == header_of(plan)["__metadata__"] == {"format": "pt", "modelhub.salvaged": "true"}


def test_scalars_and_leftovers_are_told():
    """Plain values go into the metadata, everything else is listed by name."""
    left = Leftover("optimizer_states", "a list of 1")
    plan = plan_conversion(container(WEIGHT, scalars={"global_step": 7}, leftovers=(left,)))
    assert plan.outputs[0].metadata["global_step"] == "7"
    assert plan.leftovers == (left,)


def test_shared_bytes_are_copied_for_every_name():
    """safetensors cannot alias: each name gets its bytes, and the plan and metadata say which were shared."""
    part = WEIGHT._replace(name="part", shape=(4,), offset=16)
    apart = WEIGHT._replace(name="apart", storage=StorageRef("1", 200, 64))
    plan = plan_conversion(container(WEIGHT, WEIGHT._replace(name="tied"), part, apart))
    assert len(plan.duplicated) == 1
    assert set(plan.duplicated[0]) == {"w", "tied", "part"}
    assert plan.duplicated_bytes == 64 + 16
    assert [set(group) for group in json.loads(plan.outputs[0].metadata[SHARED_KEY])] == [{"w", "tied", "part"}]
    assert plan.size == len(plan.outputs[0].header) + 3 * 64 + 16


def test_disjoint_parts_of_a_storage_are_not_shared():
    """Two slices beside each other share a storage but no byte."""
    low = WEIGHT._replace(name="low", shape=(2, 4))
    high = WEIGHT._replace(name="high", shape=(2, 4), offset=32)
    plan = plan_conversion(container(low, high))
    assert plan.duplicated == ()
    assert SHARED_KEY not in plan.outputs[0].metadata


def test_an_embedding_is_planned_under_its_loaders_name():
    """The one tensor of string_to_param is called emb_params, unless the file was identified as something else."""
    vectors = WEIGHT._replace(name="string_to_param.*")
    assert plan_conversion(container(vectors)).tensors[0].name == "emb_params"
    assert plan_conversion(container(vectors), Identity(kind="vae")).tensors[0].name == "string_to_param.*"


@pytest.mark.parametrize(
    ("tensor", "error", "words"),
    [
        (WEIGHT._replace(dtype=DType.C128, shape=(4,)), UnsupportedDtype, "complex128"),
        (WEIGHT._replace(dtype=DType.QI8), UnsupportedDtype, "qint8"),
        (WEIGHT._replace(conj=True), UnsupportedLayout, "conjugated"),
        (WEIGHT._replace(dtype=DType.BOOL, neg=True), UnsupportedLayout, "negated"),
        (WEIGHT._replace(dtype=DType.F4, shape=(3,)), UnsupportedLayout, "4 bits"),
        (WEIGHT._replace(dtype=DType.F4, shape=(4, 2), strides=(1, 4)), UnsupportedLayout, "4 bits"),
        (WEIGHT._replace(offset=4), Malformed, "beyond its storage"),
        (WEIGHT._replace(offset=-4), Malformed, "beyond its storage"),
        (WEIGHT._replace(strides=(4, 5)), Malformed, "beyond its storage"),
        (WEIGHT._replace(storage=STORAGE._replace(start=990)), Truncated, "54 bytes are missing"),
        (WEIGHT._replace(shape=(1 << 40, 4), strides=(0, 1)), LimitExceeded, "more than 16 times"),
    ],
)
def test_a_tensor_that_cannot_be_copied_is_refused_by_name(tensor, error, words):
    """Each refusal is one sentence with the file, the tensor where it is one, and the reason."""
    with pytest.raises(error, match=words) as caught:
        plan_conversion(container(WEIGHT._replace(name="fine"), tensor))
    assert str(caught.value).startswith("m.ckpt: ")
    assert "'w'" in str(caught.value) or error is LimitExceeded


def test_tensors_to_be_gathered_are_planned():
    """Transposed, expanded and big-endian tensors have a place in the output of their contiguous size."""
    big = STORAGE._replace(byteorder="big")
    plan = plan_conversion(
        container(
            WEIGHT._replace(name="transposed", strides=(1, 4)),
            WEIGHT._replace(name="expanded", shape=(8, 4), strides=(0, 1)),
            WEIGHT._replace(name="big", storage=big),
        )
    )
    assert {p.name: p.end - p.begin for p in plan.tensors} == {"transposed": 64, "expanded": 128, "big": 64}


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ("zip.truncated", Truncated),
        ("legacy.truncated", Truncated),
        ("tensor.out-of-bounds", Malformed),
        ("tensor.name-collision", Malformed),
        ("tensor.dtype", UnsupportedDtype),
        ("tensor.expansion", LimitExceeded),
    ],
)
def test_what_the_reader_found_wrong_with_the_tensors_stops_the_plan(rule, error):
    """A truncated file, or tensors left out because of their geometry, would be a silently incomplete conversion."""
    broken = replace(container(WEIGHT), anomalies=(Anomaly(rule, "the reason"),))
    with pytest.raises(error, match=r"m\.ckpt: the reason"):
        plan_conversion(broken)


def test_other_oddities_do_not_stop_the_plan():
    """Oddities that do not touch tensors are the scan's business."""
    odd = replace(container(WEIGHT), anomalies=(Anomaly("zip.comment", "a comment"),))
    assert len(plan_conversion(odd).tensors) == 1


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"kind": "safetensors"}, NothingToConvert, "safetensors already"),
        ({"kind": "onnx"}, UnknownContainer, "an ONNX model is not converted"),
        ({"kind": "html"}, UnknownContainer, "an HTML or XML page is not"),
        ({"state_dict": None}, Malformed, "cannot be told"),
        ({"state_dict": StateDict({})}, NothingToConvert, "no tensor"),
        ({"source": None, "kind": "diffusers-folder"}, NothingToConvert, "no weights"),
    ],
)
def test_a_file_without_tensors_to_convert_is_refused(changes, error, words):
    """safetensors itself, other formats, an empty checkpoint and a folder each get their own sentence."""
    with pytest.raises(error, match=words) as caught:
        plan_conversion(replace(container(WEIGHT), **changes))
    assert str(caught.value).startswith("m.ckpt: ")


@pytest.mark.parametrize("kind", ["gzip", "xz", "lz4", "zstd", "zip", "tar", "7z"])
def test_what_is_packed_is_to_be_unpacked_first(kind):
    """A checkpoint in a compressed file or an archive is refused, and people are told to unpack it."""
    with pytest.raises(UnknownContainer, match="is not converted") as caught:
        plan_conversion(replace(container(WEIGHT), kind=kind, state_dict=None))
    assert caught.value.hint == "unpack it, and convert what is in it"
