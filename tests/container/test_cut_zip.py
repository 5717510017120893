"""What is said of a checkpoint that was cut off: to the byte, from what is there of it."""

from __future__ import annotations

import io
import os
import re

import pytest
import torch
import torch.utils.serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub.container import open_path
from modelhub.samples.torch_files import write_torch_zip
from modelhub.samples.weights import random_weight
from modelhub.tensors import DType
from tests.container.build import opened, rules, saved

SIZES = [0, 1, 3, 7, 100, 4096, 5, 65, 2, 33, 11, 1000]  # more than ten: 10 comes before 2 as text


def told(data: bytes) -> tuple[int, int, int, int]:
    """Bytes missing, of how many; storages complete, of how many."""
    container = opened(data, "m.ckpt")
    assert container.kind == "torch-zip" and rules(container) == {"zip.truncated"}
    (odd,) = container.anomalies
    missing = re.fullmatch(r"the file is cut off: (\d+) bytes of (\d+) are missing", odd.message)
    complete = re.fullmatch(r"(\d+) of (\d+) storages are complete", odd.evidence)
    return (*map(int, missing.groups()), *map(int, complete.groups()))


def of(tmp_path, since: str, root: str | None) -> bytes:
    """A checkpoint in the layout of torch *since* a version."""
    weights = {f"layer.{i}": random_weight(str(i), DType.F16, (n,)) for i, n in enumerate(SIZES)}
    write_torch_zip(tmp_path / "m.ckpt", weights, since=since, root=root)
    return (tmp_path / "m.ckpt").read_bytes()


@pytest.mark.parametrize("root", ["archive", "modèle"])
@pytest.mark.parametrize("since", ["1.6", "2.1", "2.13"])
def test_every_layout_of_torch(tmp_path, since, root):
    """Wherever the cut is, once the first storage has begun, the whole size is known, and how many are complete."""
    data = of(tmp_path, since, root)
    whole = opened(data)
    assert whole.anomalies == ()
    ends = [tensor.storage.end for tensor in whole.state_dict.values()]
    first = min(tensor.storage.start for tensor in whole.state_dict.values())
    for cut in [*range(first, first + 300, 7), *range(first + 300, len(data), 101), len(data) - 1]:
        missing, size, complete, count = told(data[:cut])
        assert (missing, size) == (len(data) - cut, len(data))
        assert (complete, count) == (sum(end <= cut for end in ends), len(SIZES))


def test_the_layout_of_torch_2_1_is_torchs_own(tmp_path):
    """Records that torch's own writer is given in the order of torch 2.1 lie where that layout has them."""
    data = of(tmp_path, "2.1", "archive")
    container = opened(data)
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    program = container.pickles[0].trace
    writer.write_record("data.pkl", data[program.start : program.end], program.end - program.start)
    writer.write_record("byteorder", b"little", 6)
    storages = {t.storage.key: data[t.storage.start : t.storage.end] for t in container.state_dict.values()}
    for key in sorted(storages):
        writer.write_record(f"data/{key}", storages[key], len(storages[key]))
    writer.write_end_of_file()
    theirs = buffer.getvalue()
    assert len(theirs) == len(data)
    assert told(theirs[:-500])[:2] == (500, len(data))


@pytest.mark.parametrize("alignment", [1, 64, 4096])
@pytest.mark.parametrize("crc", [True, False])
def test_what_torch_writes(alignment, crc):
    """Files by this torch, with other alignments and without checksums."""
    config = torch.utils.serialization.config.save
    before = config.storage_alignment, config.compute_crc32
    config.storage_alignment, config.compute_crc32 = alignment, crc
    try:
        data = saved({f"w{i}": torch.randn(n) for i, n in enumerate(SIZES)})
    finally:
        config.storage_alignment, config.compute_crc32 = before
    for cut in (len(data) - 1, len(data) - 900, len(data) // 2):
        assert told(data[:cut])[:2] == (len(data) - cut, len(data))


def test_zip64(tmp_path):
    """Storages of more than 4 GiB, and members behind them, have longer headers, entries and descriptors."""
    with torch.serialization.skip_data():
        tensors = {"big": torch.empty(1 << 32, dtype=torch.uint8), "small": torch.empty(10), "next": torch.empty(20)}
        torch.save(tensors, tmp_path / "m.pt")
    size = (tmp_path / "m.pt").stat().st_size
    for cut in (size - 100, size - 1200, 3 << 30):
        os.truncate(tmp_path / "m.pt", cut)
        with open_path(tmp_path / "m.pt") as container:
            assert container.anomalies[0].message == f"the file is cut off: {size - cut} bytes of {size} are missing"


def test_before_the_first_storage_only_a_bound_is_told(tmp_path):
    """Which members follow the pickle depends on the version, which cannot be told before one is there."""
    data = of(tmp_path, "2.13", "archive")
    end = opened(data).pickles[0].trace.end
    container = opened(data[: end + 20], "m.ckpt")
    found = re.fullmatch(r"the file is cut off: at least (\d+) bytes are missing", container.anomalies[0].message)
    assert 0 < int(found[1]) <= len(data) - end - 20
    assert len(container.state_dict) == len(SIZES)


@settings(max_examples=60)
@given(st.data())
def test_no_damage_makes_it_raise(tmp_path_factory, data):
    """Whatever bytes behind the first four, which make it an archive, are changed: it opens and says that it is cut
    off."""
    whole = of(tmp_path_factory.mktemp("cut"), data.draw(st.sampled_from(["1.6", "2.1", "2.13"])), "archive")
    cut = bytearray(whole[: data.draw(st.integers(100, len(whole) - 800))])
    for _ in range(data.draw(st.integers(1, 5))):
        cut[data.draw(st.integers(4, min(len(cut) - 1, 4000)))] = data.draw(st.integers(0, 255))
    container = opened(bytes(cut), "m.ckpt")
    assert container.anomalies
