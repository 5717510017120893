"""A source's checksums are compared while it is copied: a flipped byte is an error that names its tensor."""

from __future__ import annotations

import builtins
import hashlib
import io
import json
import zipfile
import zlib

import numpy as np
import pytest
import torch

from modelhub.convert.crc32 import fastest_crc32
from modelhub.errors import ChangedDuringRead, Malformed
from tests.cli.run import modelhub
from tests.convert.conftest import run


def flip(path, data: bytes) -> None:
    """Turn one bit over in the middle of where *data* lies in the file."""
    whole = bytearray(path.read_bytes())
    at = bytes(whole).index(data) + len(data) // 2
    whole[at] ^= 1
    path.write_bytes(whole)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_sound_source_says_so(checkpoint, tmp_path):
    """Every storage of a torch zip that is read has a checksum, and it matches."""
    (source,) = run(checkpoint, tmp_path / "m.safetensors").sources
    assert (source.matched, source.unverifiable, source.digest) == (24, 0, None)


def test_a_flipped_bit_names_its_tensor(checkpoint, tmp_path):
    """torch loads a damaged file without a word; here no target appears, and the sentence says which tensor it is."""
    weights = torch.load(checkpoint)["state_dict"]
    flip(checkpoint, raw(weights["layer.7.weight"]))
    assert not torch.equal(torch.load(checkpoint)["state_dict"]["layer.7.weight"], weights["layer.7.weight"])
    with pytest.raises(Malformed, match=r"the bytes of tensor 'layer\.7\.weight' do not match the checksum"):
        run(checkpoint, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_every_damaged_tensor_counts(checkpoint, tmp_path):
    """Several damaged tensors are named, the first few of many."""
    weights = torch.load(checkpoint)["state_dict"]
    for number in range(5):
        flip(checkpoint, raw(weights[f"layer.{number}.weight"]))
    with pytest.raises(Malformed, match=r"tensors 'layer\.0\.weight', 'layer\.1\.weight', 'layer\.2\.weight' and 2 m"):
        run(checkpoint, tmp_path / "m.safetensors")


def test_storages_that_are_left_out_are_counted_or_read(tmp_path):
    """What nothing of the output lies in is not read unless the whole source is; damage there is told, and no error."""
    state = torch.arange(500.0)
    torch.save({"state_dict": {"w": torch.ones(1000)}, "optimizer_states": [{"exp_avg": state}]}, tmp_path / "m.pt")
    (source,) = run(tmp_path / "m.pt", tmp_path / "a.safetensors").sources
    assert (source.counts, source.damaged) == ({"matched": 1, "unverifiable": 0, "unread": 1}, ())
    ran = modelhub("convert", str(tmp_path / "m.pt"), str(tmp_path / "b.safetensors"))
    assert "1 checksum of the source, all matching; of what is left out, 1 storage not read" in ran.out
    (source,) = run(tmp_path / "m.pt", tmp_path / "c.safetensors", digests=True).sources
    assert (source.counts, source.damaged) == ({"matched": 1, "unverifiable": 0, "unread": 0}, ())
    flip(tmp_path / "m.pt", raw(state))
    ran = modelhub("convert", str(tmp_path / "m.pt"), str(tmp_path / "d.safetensors"), "--receipt")
    assert ran.code == 0
    assert "1 checksum of the source, all matching; damaged, but left out: m/data/1" in ran.out
    (told,) = json.loads((tmp_path / "d.safetensors.receipt.json").read_bytes())["sources"]
    assert told["damaged"] == ["m/data/1"]
    whole = hashlib.sha256((tmp_path / "m.pt").read_bytes()).hexdigest()
    assert told["sha256"] == whole


def test_the_whole_storage_is_checked(tmp_path):
    """A checksum is of a whole storage: a view of a part, or one whose elements are moved, is checked by all of it."""
    base = torch.randn(64, 64)
    torch.save({"view": base[3:5], "turned": torch.randn(50, 70).T}, tmp_path / "m.pt")
    (source,) = run(tmp_path / "m.pt", tmp_path / "m.safetensors").sources
    assert source.matched == 2
    flip(tmp_path / "m.pt", raw(base[60]))
    with pytest.raises(Malformed, match="tensor 'view'"):
        run(tmp_path / "m.pt", tmp_path / "n.safetensors")


def test_a_packed_storage_is_checked_to_its_end(tmp_path):
    """A storage that has to be unpacked is checked by all of it, though its beginning is all that is copied."""
    path = tmp_path / "m.pt"
    base = torch.arange(5 << 20, dtype=torch.int32)
    torch.save({"w": base[:10]}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        for each in plain.infolist():
            packed.writestr(each.filename, plain.read(each), zipfile.ZIP_DEFLATED, compresslevel=0)
    (source,) = run(path, tmp_path / "m.safetensors").sources
    assert (source.matched, source.unverifiable) == (1, 0)
    flip(path, raw(base[3 << 20 : (3 << 20) + 4]))
    with pytest.raises(Malformed, match="tensor 'w' do not match the checksum"):
        run(path, tmp_path / "n.safetensors")


def test_an_array_of_an_npz_is_checked_with_its_header(tmp_path):
    """A stored .npz has a checksum of each member, of which the array is all but the first bytes."""
    array = np.arange(1000, dtype="<f4")
    np.savez(tmp_path / "x.npz", a=array, b=np.ones(3))
    flip(tmp_path / "x.npz", array[500:].tobytes())
    with pytest.raises(Malformed, match="tensor 'a' do not match the checksum"):
        run(tmp_path / "x.npz", tmp_path / "x.safetensors")


def test_tied_tensors_are_named_together(tmp_path):
    """All names of a damaged storage are told."""
    base = torch.randn(64)
    torch.save({"a": base, "b": base}, tmp_path / "m.pt")
    flip(tmp_path / "m.pt", raw(base))
    with pytest.raises(Malformed, match="tensors 'a', 'b'"):
        run(tmp_path / "m.pt", tmp_path / "m.safetensors")


@pytest.mark.parametrize("written", ["legacy", "zip without checksums", "safetensors"])
def test_where_there_are_no_checksums_nothing_is_claimed(tmp_path, written):
    """torch before 1.6 wrote no checksums, and torch can be told to write none: integrity is then unverifiable."""
    path = tmp_path / "m.pt"
    weights = {"a": torch.randn(8), "b": torch.randn(8)}
    if written == "zip without checksums":
        torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights, path, _use_new_zipfile_serialization=written != "legacy")
    finally:
        torch.serialization.set_crc32_options(True)
    options = []
    if written == "safetensors":
        run(path, tmp_path / "n.safetensors")
        path, options = tmp_path / "n.safetensors", ["--dtype", "fp16"]
    ran = modelhub("convert", str(path), str(tmp_path / "out.safetensors"), *options)
    assert ran.code == 0, ran.err
    assert "integrity unverifiable: the source has no checksums" in ran.out


def test_compressed_storages_count(tmp_path):
    """A checkpoint that was packed again has its checksums compared where it is unpacked."""
    packed = tmp_path / "packed.pt"
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    (source,) = run(packed, tmp_path / "m.safetensors").sources
    assert (source.matched, source.unverifiable) == (1, 0)


def test_digests_are_those_of_the_files(checkpoint, tmp_path):
    """--digests gives the SHA-256 of the source and of the output, as any other program would compute them."""
    target = tmp_path / "m.safetensors"
    ran = modelhub("convert", "--digests", "--format", "json", str(checkpoint), str(target))
    (report,) = ran.json()["reports"]
    (source,), (made,) = report["sources"], report["digests"]
    assert source["digest"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert made["digest"]["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert source["checksums"] == {"matched": 24, "unverifiable": 0, "unread": 0}


def test_the_digest_of_a_source_with_views_is_that_of_the_file(tmp_path):
    """Gaps, views and what lies after the last storage are all of them part of the source's digest."""
    base = torch.randn(100, 100)
    torch.save({"a": base[1], "b": base.T, "c": torch.arange(5), "d": base[40:]}, tmp_path / "m.pt")
    done = run(tmp_path / "m.pt", tmp_path / "m.safetensors", digests=True)
    assert done.sources[0].digest.sha256 == hashlib.sha256((tmp_path / "m.pt").read_bytes()).hexdigest()


def test_a_source_that_is_still_being_written_is_not_called_damaged(checkpoint, tmp_path):
    """A change while it is read is told as what it is, though the checksum does not match either."""
    last = raw(torch.load(checkpoint)["state_dict"]["layer.23.weight"])

    def change(_count: int) -> None:
        if checkpoint.read_bytes().count(last):
            flip(checkpoint, last)

    with pytest.raises(ChangedDuringRead):
        run(checkpoint, tmp_path / "m.safetensors", progress=change)


def test_without_the_extra_zlib_computes(monkeypatch, checkpoint, tmp_path):
    """The fast library is optional, and computes the same."""
    with_it = fastest_crc32()
    real = builtins.__import__

    def refuse(name, *rest, **options):
        if name.startswith("isal"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert fastest_crc32() is zlib.crc32
    data = memoryview(b"123456789")
    assert with_it(data, 0) == zlib.crc32(data) == 0xCBF43926
    assert run(checkpoint, tmp_path / "m.safetensors").sources[0].matched == 24
