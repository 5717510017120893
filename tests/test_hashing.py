"""Hashing the catalog's files."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelhub import hashing
from modelhub.convert import ConversionOptions, convert, dtype_rule
from modelhub.db import Catalog, Query, ToHash
from modelhub.hashing import hash_files
from modelhub.samples import layouts
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.torch_files import write_torch_legacy, write_torch_zip
from modelhub.samples.weights import random_weights
from modelhub.source.digests import Digested
from modelhub.syncing import add_library, sync
from modelhub.tensors import DType
from tests.cli.run import modelhub
from tests.syncing.files import lora, put


@pytest.fixture
def models(tmp_path: Path, catalog: Catalog) -> Path:
    folder = tmp_path / "models"
    for number in range(3):
        put(folder / f"m{number}.safetensors", lora(number))
    add_library(catalog, str(folder))
    sync(catalog)
    return folder


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(catalog: Catalog, prefix: str) -> list[str]:
    return [entry.name for entry in catalog.entries(Query(digest=prefix))]


def test_all(catalog: Catalog, models: Path) -> None:
    """Every file gets its digests, each beginning of each finds it, and a second run reads nothing."""
    assert len(list(hash_files(catalog))) == 3
    entry = catalog.show("m1").entry
    assert entry.digest == digest(models / "m1.safetensors")
    digests = {each.algorithm: each.value for each in catalog.show("m1").digests}
    for prefix in (entry.digest[:10], entry.digest.upper(), f"autov2:{entry.digest[:10]}", digests["autov3"][:12]):
        assert names(catalog, prefix) == ["m1"]
    for prefix in (digests["crc32"], f"crc32:{digests['crc32']}", f"tensors:{digests['tensors'][:20]}"):
        assert "m1" in names(catalog, prefix)
    assert names(catalog, f"crc32:{entry.digest[:10]}") == []
    assert catalog.show(digests["autov3"][:12]).entry == entry
    assert list(hash_files(catalog)) == []


def test_a_folder_is_read_once(catalog: Catalog, models: Path) -> None:
    """A folder that is one model has a SHA-256 and no other digest; once it has that, it is not read again."""
    put(models / "pipe" / "model_index.json", b'{"_class_name": "StableDiffusionPipeline"}')
    put(models / "pipe" / "unet" / "diffusion_pytorch_model.safetensors", lora(9))
    sync(catalog)
    assert len(list(hash_files(catalog))) == 4
    assert catalog.show("pipe").entry.digest is not None
    assert list(hash_files(catalog)) == list(hash_files(catalog, components=True))[3:] == []


def test_only_what_is_asked_for(catalog: Catalog, models: Path) -> None:
    """With records named, theirs alone are read."""
    assert [os.path.basename(each.path) for each in hash_files(catalog, ["m2"])] == ["m2.safetensors"]
    assert [entry.digest is None for entry in catalog.entries()] == [True, True, False]


def test_interrupted(catalog: Catalog, models: Path) -> None:
    """What was hashed before an interruption is not hashed again."""
    next(iter(hash_files(catalog)))
    assert len(list(hash_files(catalog))) == 2


def test_copies_become_one_record(catalog: Catalog, models: Path) -> None:
    """Copies are two records until somebody reads them; then one, with the tags, notes and places of both."""
    shutil.copy(models / "m1.safetensors", models / "copy.safetensors")
    sync(catalog)
    catalog.tag("m1", ["tag-a"])
    catalog.tag("copy", ["tag-b"])
    catalog.note("m1", "first")
    catalog.note("copy", "second")
    assert len(catalog.entries()) == 4
    list(hash_files(catalog))
    assert len(catalog.entries()) == 3
    (entry,) = catalog.entries(Query(tag=("tag-a", "tag-b")))
    detail = catalog.show(f"#{entry.id}")
    assert set(detail.notes.split("\n\n")) == {"first", "second"}
    assert len(detail.locations) == 2
    for word in ("first", "second", "tag-a", "tag-b", "copy.safe"):
        assert [each.id for each in catalog.entries(Query(text=word))] == [entry.id], word
    assert sync(catalog).counts == {"unchanged": 4}


def test_the_same_header_and_other_bytes(catalog: Catalog, models: Path) -> None:
    """Bytes taken for the same by their header are read, and become a record of their own where they differ."""
    path = models / "merge.safetensors"
    data = bytearray(lora(1, metadata=False))
    put(path, bytes(data))
    sync(catalog)
    list(hash_files(catalog))
    catalog.tag("merge", ["mine"])
    first = digest(path)
    data[len(data) // 4] ^= 1  # neither in the header nor where samples are taken
    put(path, bytes(data))
    assert sync(catalog).counts["touched"] == 1
    assert catalog.show(str(path)).entry.digest == first
    assert [hashed.path for hashed in hash_files(catalog)] == [str(path)]
    assert catalog.show(str(path)).entry.digest == digest(path) != first
    assert catalog.show(str(path)).entry.kind == "lora"
    old = catalog.show(first).entry
    assert (old.state, old.tags) == ("gone", ("mine",))


def test_the_same_header_and_the_same_bytes(catalog: Catalog, models: Path) -> None:
    """Bytes taken for the same by their header are proven when they are read."""
    list(hash_files(catalog))
    os.utime(models / "m1.safetensors", ns=(5, 5))
    sync(catalog)
    assert not catalog.show("m1").locations[0].proven
    assert len(list(hash_files(catalog))) == 1
    assert catalog.show("m1").locations[0].proven
    assert list(hash_files(catalog)) == []


def test_a_file_that_has_changed_is_left(catalog: Catalog, models: Path) -> None:
    """A file that is not what the last sync saw is left to the next one."""
    put(models / "m1.safetensors", lora(9) + b"more")
    errors = [hashed.error for hashed in hash_files(catalog) if hashed.error]
    assert len(errors) == 1
    assert "library sync" in str(errors[0].hint)
    assert catalog.show("m1").entry.digest is None


def test_one_model_in_three_containers(catalog: Catalog, tmp_path: Path) -> None:
    """The same tensors have the same digest as a torch zip, as a legacy file and as safetensors with any header."""
    weights = random_weights(layouts.lora("sd-1", rank=1), seed=1)
    folder = tmp_path / "m"
    folder.mkdir()
    write_torch_zip(folder / "zip.pt", weights)
    write_torch_legacy(folder / "legacy.pt", weights)
    write_safetensors(folder / "plain.safetensors", weights)
    write_safetensors(folder / "named.safetensors", weights, {"modelspec.title": "A title"})
    add_library(catalog, str(folder))
    sync(catalog)
    list(hash_files(catalog))
    digests = {
        entry.name: {each.algorithm: each.value for each in catalog.show(f"#{entry.id}").digests}
        for entry in catalog.entries()
    }
    assert len({each["tensors"] for each in digests.values()}) == 1
    assert digests["plain"]["autov3"] == digests["named"]["autov3"] != digests["zip"]["autov3"]


def test_claims_are_not_believed(catalog: Catalog, tmp_path: Path) -> None:
    """A digest that metadata claims finds its record, is never taken for computed, and is contradicted in words."""
    weights = random_weights(layouts.lora("sd-1", rank=1), seed=1)
    folder = tmp_path / "m"
    folder.mkdir()
    write_safetensors(folder / "plain.safetensors", weights)
    data = (folder / "plain.safetensors").read_bytes()
    right = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    write_safetensors(folder / "right.safetensors", weights, {"sshs_model_hash": right})
    write_safetensors(folder / "wrong.safetensors", weights, {"modelspec.hash_sha256": "0x" + "ab" * 32})
    add_library(catalog, str(folder))
    sync(catalog)
    assert names(catalog, "abababab") == ["wrong"]
    assert catalog.show("wrong").entry.digest is None
    assert catalog.show("wrong").disagreements == ()
    list(hash_files(catalog))
    assert catalog.show("right").disagreements == ()
    (said,) = catalog.show("wrong").disagreements
    assert "modelspec.hash_sha256 claims autov3 abab" in said
    assert right in said


def test_command(models: Path, catalog: Catalog, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``modelhub hash`` takes records or --all, and answers with each file's digests."""
    monkeypatch.setenv("MODELHUB_CATALOG", url)
    assert modelhub("hash").code == 2
    ran = modelhub("hash", "m0", "--format", "json")
    (file,) = ran.json()["files"]
    assert (ran.code, file["digests"]["sha256"]) == (0, digest(models / "m0.safetensors"))
    assert modelhub("hash", "--all").out.count("\n") == 2
    autov2 = digest(models / "m2.safetensors")[:10]
    assert [entry["name"] for entry in modelhub("list", "--digest", autov2, "--format", "jsonl").json_lines()] == ["m2"]


def test_digests_that_are_shown(catalog: Catalog, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``modelhub show`` has the eight digits of AutoV1 that people know, its JSON form all of them."""
    monkeypatch.setenv("MODELHUB_CATALOG", url)
    put(tmp_path / "m" / "wide.safetensors", lora(1, width=600))
    add_library(catalog, str(tmp_path / "m"))
    sync(catalog)
    assert modelhub("hash", "wide").code == 0
    digests = modelhub("show", "wide", "--format", "jsonl").json_lines()[0]["digests"]
    (autov1,) = (each["value"] for each in digests if each["algorithm"] == "autov1")
    assert (len(autov1), autov1[:8] in modelhub("show", "wide").out, autov1[:9] in modelhub("show", "wide").out) == (
        64,
        True,
        False,
    )


def test_duplicates(catalog: Catalog, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies and the same tensors in other containers are told, with what they cost; links are not, nor is a guess."""
    weights = random_weights(layouts.lora("sd-1", rank=1), seed=1)
    folder = tmp_path / "m"
    folder.mkdir()
    write_safetensors(folder / "a.safetensors", weights)
    write_torch_zip(folder / "a.pt", weights)
    shutil.copy(folder / "a.safetensors", folder / "copy.safetensors")
    os.link(folder / "a.safetensors", folder / "hard.safetensors")
    put(folder / "other.safetensors", lora(1))
    os.link(folder / "other.safetensors", folder / "link.safetensors")
    add_library(catalog, str(folder))
    sync(catalog)
    assert catalog.duplicates() == ([], 4)
    list(hash_files(catalog))
    groups, unknown = catalog.duplicates()
    found = {group.kind: ([os.path.basename(path) for path in group.paths], group.extra_bytes) for group in groups}
    assert unknown == 0
    assert found == {
        "same bytes": (
            ["a.safetensors", "copy.safetensors", "hard.safetensors"],
            (folder / "a.safetensors").stat().st_size,
        ),
        "same tensors": (["a.pt", "a.safetensors"], (folder / "a.pt").stat().st_size),
    }
    monkeypatch.setenv("MODELHUB_CATALOG", url)
    document = modelhub("duplicates", "--format", "json").json()
    assert (len(document["groups"]), document["not_hashed"]) == (2, 0)
    assert "same tensors" in modelhub("duplicates").out


@pytest.mark.parametrize(("readers", "together"), [(1, 1), (3, 3)])
def test_readers_of_a_disk(
    catalog: Catalog, models: Path, monkeypatch: pytest.MonkeyPatch, readers: int, together: int
) -> None:
    """A disk that spins is read by one reader, another by as many as it bears, at the same time."""
    at_once = threading.Barrier(together, timeout=20)
    reading: list[str] = []
    most = []

    def digests(place: ToHash, *_: object) -> Digested:
        reading.append(place.stat.path)
        most.append(len(reading))
        at_once.wait()
        reading.remove(place.stat.path)
        return Digested({"sha256": digest(Path(place.stat.path))}, ())

    monkeypatch.setattr(hashing, "_read", digests)
    monkeypatch.setattr(hashing, "disk_of", lambda _: SimpleNamespace(name="disk", readers=readers))
    assert len(list(hash_files(catalog))) == 3
    assert max(most) == together
    assert all(entry.digest for entry in catalog.entries())


def test_disks_are_read_beside_one_another(catalog: Catalog, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files on two disks that spin are read at the same time, one of each."""
    both = threading.Barrier(3, timeout=20)
    real = hashing._read

    def digests(place: ToHash, progress: hashing.Progress | None, components: bool) -> Digested:
        both.wait()
        return real(place, progress, components)

    numbers = iter("abc")
    monkeypatch.setattr(hashing, "_read", digests)
    monkeypatch.setattr(hashing, "disk_of", lambda _: SimpleNamespace(name=next(numbers), readers=1))
    started = []
    found = list(hash_files(catalog, on_start=lambda files, nbytes: started.append((files, nbytes))))
    assert [each.error for each in found] == [None] * 3
    assert started == [(3, sum((models / f"m{number}.safetensors").stat().st_size for number in range(3)))]


def test_left_in_the_middle(catalog: Catalog, models: Path) -> None:
    """Whoever stops listening ends the readers, and what has not been told is not written down."""
    found = hash_files(catalog)
    next(found)
    found.close()
    assert not [thread for thread in threading.enumerate() if "_read" in thread.name]
    assert sum(entry.digest is not None for entry in catalog.entries()) == 1
    assert len(list(hash_files(catalog))) == 2


def test_a_fault_of_ours_is_not_hidden(catalog: Catalog, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong in a reader beside the file's own faults is raised where it is waited for."""

    def digests(*_: object) -> Digested:
        raise ZeroDivisionError

    monkeypatch.setattr(hashing, "_read", digests)
    with pytest.raises(ZeroDivisionError):
        list(hash_files(catalog))


def test_shared_components(catalog: Catalog, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VAE that lies in two checkpoints, and alone in a pickle under bare names, is one; what it costs is said."""
    folder = tmp_path / "library"
    folder.mkdir()
    vae = random_weights(layouts.vae(width=1 / 64, dtype=DType.F16), seed=9)
    for number in range(2):
        weights = random_weights(layouts.checkpoint("sd-1", width=1 / 64), seed=number)
        weights |= {f"first_stage_model.{name}": weight for name, weight in vae.items()}
        write_safetensors(folder / f"c{number}.safetensors", weights)
    write_torch_zip(folder / "vae.pt", {"state_dict": vae})
    write_torch_zip(
        folder / "c0.ckpt", {"state_dict": random_weights(layouts.checkpoint("sd-1", width=1 / 64), seed=7)}
    )
    monkeypatch.setenv("MODELHUB_CATALOG", url)
    add_library(catalog, str(folder))
    sync(catalog)
    assert modelhub("hash", "--all").code == 0
    assert catalog.duplicates()[0] == []
    assert "4 files read" in modelhub("hash", "--all", "--components").err
    assert modelhub("hash", "--all", "--components").err == "0 files read\n"
    (group,) = modelhub("duplicates", "--format", "json").json()["groups"]
    size = sum(weight.storage.nbytes for weight in vae.values())
    assert group == {
        "kind": "same component",
        "component": "vae",
        "paths": [str(folder / name) for name in ("c0.safetensors", "c1.safetensors", "vae.pt")],
        "extra_bytes": 2 * size,
    }
    assert "same component (vae)" in modelhub("duplicates").out


@pytest.mark.parametrize("ema", [False, True])
def test_fp16_twins(catalog: Catalog, tmp_path: Path, ema: bool) -> None:
    """A file that is another's rounded to fp16 is its twin, whatever its container, and with or without the averaged
    weights of the wider one; one with a single other value is none."""
    folder = tmp_path / "library"
    folder.mkdir()
    weights = random_weights(layouts.checkpoint("sd-1", width=1 / 64, ema=ema, dtype=DType.F32), seed=1)
    write_torch_legacy(folder / "wide.ckpt", {"state_dict": weights})
    options = ConversionOptions(dtypes=(dtype_rule("fp16"),), prune=True)
    convert(folder / "wide.ckpt", folder / "half.safetensors", options=options)
    other = bytearray((folder / "half.safetensors").read_bytes())
    other[-1] ^= 1
    (folder / "other.safetensors").write_bytes(other)
    add_library(catalog, str(folder))
    sync(catalog)
    for hashed in hash_files(catalog, components=True):
        assert hashed.error is None
    twins = [group for group in catalog.duplicates()[0] if group.kind == "fp16 twin"]
    assert [group.paths for group in twins] == [(str(folder / "wide.ckpt"), str(folder / "half.safetensors"))]


def test_components_of_bytes_that_become_one(catalog: Catalog, models: Path) -> None:
    """Two contents that turn out to be the same bytes have one set of components."""
    assert len(list(hash_files(catalog, components=True))) == 3
    put(models / "copy.safetensors", lora(1))
    sync(catalog)
    assert [hashed.error for hashed in hash_files(catalog, components=True)] == [None]
    assert [group.kind for group in catalog.duplicates()[0]] == ["same bytes"]
