"""Syncing: the catalog follows what happens to the files."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from pathlib import Path

import pytest

import modelhub.syncing.readers
import modelhub.syncing.structures
from modelhub.container import canonical_header
from modelhub.db import Catalog, Query, Seen
from modelhub.errors import Conflict, SourceError
from modelhub.hashing import hash_files
from modelhub.library import IntakeOptions, intake
from modelhub.syncing import SyncReport, add_library, sync
from modelhub.syncing.compare import Comparison, look_among
from tests.syncing.files import lora, put, tags_by_path, vae


@pytest.fixture
def models(tmp_path: Path, catalog: Catalog) -> Path:
    """A library with three LoRAs, synced, each tagged with its number."""
    folder = tmp_path / "models"
    for number in range(3):
        put(folder / "sub" / f"m{number}.safetensors", lora(number), mtime=10**18 + number)
    add_library(catalog, str(folder))
    sync(catalog)
    for number in range(3):
        catalog.tag(f"m{number}.safetensors", [f"tag {number}"])
        catalog.note(f"m{number}.safetensors", f"note {number}")
    return folder


def counts(report: SyncReport) -> dict[str, int]:
    return {kind: number for kind, number in report.counts.items() if number}


def test_first_sync_identifies_without_hashing(catalog: Catalog, models: Path) -> None:
    """Each file becomes a record that says what its header says; nothing is claimed of bytes that nobody read."""
    entry = catalog.show("m0.safetensors").entry
    assert (entry.kind, entry.architecture, entry.container) == ("lora", "sd-1", "safetensors")
    assert (entry.digest, entry.verdict, entry.state) == (None, None, "live")
    assert catalog.show("m0.safetensors").metadata == {"ss_output_name": "model 000000000"}
    assert [each.name for each in catalog.entries(Query(text="000000002"))] == ["m2"]


def test_nothing_changed(catalog: Catalog, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second sync opens no file and writes nothing."""
    monkeypatch.setattr(os, "open", None)
    assert counts(sync(catalog)) == {"unchanged": 3}


def test_moved_and_renamed(catalog: Catalog, models: Path) -> None:
    """A file moved and renamed at once is the record that it was."""
    os.makedirs(models / "elsewhere")
    os.rename(models / "sub" / "m1.safetensors", models / "elsewhere" / "new name.safetensors")
    report = sync(catalog)
    assert counts(report) == {"unchanged": 2, "moved": 1}
    assert tags_by_path(catalog)[str(models / "elsewhere" / "new name.safetensors")] == ("tag 1",)
    assert report.changes[0].previous == str(models / "sub" / "m1.safetensors")


def test_swapped(catalog: Catalog, models: Path) -> None:
    """Two files that take each other's name take their records with them."""
    one, two, aside = (models / "sub" / f"{name}.safetensors" for name in ("m1", "m2", "aside"))
    os.rename(one, aside)
    os.rename(two, one)
    os.rename(aside, two)
    assert counts(sync(catalog)) == {"unchanged": 1, "moved": 2}
    tags = tags_by_path(catalog)
    assert (tags[str(one)], tags[str(two)]) == (("tag 2",), ("tag 1",))


def test_moved_to_another_disk(catalog: Catalog, models: Path, tmp_path: Path) -> None:
    """A copy that keeps the time, its original removed, is told by its header, and said not to be proven."""
    other = tmp_path / "other"
    other.mkdir()
    add_library(catalog, str(other))
    shutil.copy2(models / "sub" / "m1.safetensors", other / "m1.safetensors")
    os.unlink(models / "sub" / "m1.safetensors")
    assert counts(sync(catalog)) == {"unchanged": 2, "moved": 1}
    assert tags_by_path(catalog)[str(other / "m1.safetensors")] == ("tag 1",)
    (place, *_) = catalog.show("m1").locations
    assert (place.path, place.proven) == (str(other / "m1.safetensors"), False)


def test_replaced(catalog: Catalog, models: Path) -> None:
    """Other bytes under the same name are another record, a version of the same artifact: both have what was written
    on it, and each keeps its own bytes."""
    put(models / "sub" / "m1.safetensors", lora(77))
    assert counts(sync(catalog)) == {"unchanged": 2, "replaced": 1}
    assert tags_by_path(catalog)[str(models / "sub" / "m1.safetensors")] == ("tag 1",)
    (old,) = (entry for entry in catalog.entries(Query(gone=True)) if entry.state == "gone")
    assert (old.tags, catalog.show(str(old.id)).notes) == (("tag 1",), "note 1")
    new = catalog.show("m1")
    assert (new.notes, [version.id for version in new.versions]) == ("note 1", [old.id])
    assert new.metadata == {"ss_output_name": "model 000000077"}
    assert {entry.id for entry in catalog.entries(Query(text="note"))} >= {new.entry.id}


def test_replaced_by_another_model(catalog: Catalog, models: Path) -> None:
    """What takes the path of a file of another kind has only its name in common with it, and nothing of its notes."""
    put(models / "sub" / "m1.safetensors", vae())
    assert counts(sync(catalog)) == {"unchanged": 2, "replaced": 1}
    new = catalog.show("m1")
    assert (new.entry.kind, new.entry.tags, new.notes, new.versions) == ("vae", (), "", ())


def test_replaced_by_bytes_with_the_same_header(catalog: Catalog, models: Path) -> None:
    """Another merge by the same tool, of equal size and header, is not taken for the same."""
    put(models / "merge.safetensors", lora(1, metadata=False))
    sync(catalog)
    put(models / "merge.safetensors", lora(2, metadata=False))
    assert counts(sync(catalog)) == {"unchanged": 3, "replaced": 1}


def test_replaced_bytes_return(catalog: Catalog, models: Path) -> None:
    """Bytes that others had taken the place of are known again where they turn up, with their tags and notes."""
    path = models / "sub" / "m1.safetensors"
    put(path, lora(8), mtime=10**18 + 8)
    sync(catalog)
    put(models / "other" / "m1.safetensors", lora(1), mtime=10**18 + 1)
    assert counts(sync(catalog)) == {"unchanged": 3, "returned": 1}
    detail = catalog.show(str(models / "other" / "m1.safetensors"))
    assert (detail.entry.tags, detail.notes) == (("tag 1",), "note 1")


def test_touched(catalog: Catalog, models: Path) -> None:
    """A new time on what looks the same keeps the record, and takes the proof from it."""
    os.utime(models / "sub" / "m1.safetensors", ns=(5, 5))
    assert counts(sync(catalog)) == {"unchanged": 2, "touched": 1}
    assert tags_by_path(catalog)[str(models / "sub" / "m1.safetensors")] == ("tag 1",)
    assert not catalog.show("m1").locations[0].proven
    assert counts(sync(catalog)) == {"unchanged": 3}


def test_headers_digested_whole(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog from before headers were digested in parts knows its files again when they are touched, moved or go
    on."""
    folder = tmp_path / "models"
    for number in range(3):
        put(folder / f"m{number}.safetensors", lora(number), mtime=10**18 + number)
    put(folder / "rest.safetensors", lora(3)[:-100])
    add_library(catalog, str(folder))
    with monkeypatch.context() as patch:
        in_parts = canonical_header.print_of
        for room in (canonical_header, modelhub.syncing.structures):
            patch.setattr(room, "print_of", lambda header, *_: in_parts(header, None))
        assert counts(sync(catalog)) == {"added": 4}
    os.utime(folder / "m0.safetensors", ns=(5, 5))
    os.unlink(folder / "m1.safetensors")
    put(folder / "elsewhere" / "m1.safetensors", lora(1), mtime=10**18 + 1)
    os.unlink(folder / "rest.safetensors")
    put(folder / "rest.safetensors", lora(3))
    assert counts(sync(catalog)) == {"unchanged": 1, "touched": 1, "moved": 1, "grown": 1}


def test_vanished_and_returned(catalog: Catalog, models: Path) -> None:
    """What is gone keeps its record, and has its place again when it returns, wherever that is."""
    path = models / "sub" / "m1.safetensors"
    os.unlink(path)
    assert counts(sync(catalog)) == {"unchanged": 2, "vanished": 1}
    assert [entry.name for entry in catalog.entries()] == ["m0", "m2"]
    put(models / "back" / "m1.safetensors", lora(1), mtime=10**18 + 1)
    assert counts(sync(catalog)) == {"unchanged": 2, "returned": 1}
    assert tags_by_path(catalog)[str(models / "back" / "m1.safetensors")] == ("tag 1",)


def test_fetched_again(catalog: Catalog, models: Path) -> None:
    """What is downloaded again to the same place, with another time, is the record that it was."""
    path = models / "sub" / "m1.safetensors"
    os.unlink(path)
    sync(catalog)
    put(path, lora(1))
    assert counts(sync(catalog)) == {"unchanged": 2, "returned": 1}
    assert tags_by_path(catalog)[str(path)] == ("tag 1",)


def test_two_candidates_are_told_and_not_guessed(catalog: Catalog, models: Path) -> None:
    """Where either of two lost files may have come back, the file is new, and both are named."""
    for folder in ("a", "b"):
        put(models / folder / "same.safetensors", lora(9), mtime=10**18)
    sync(catalog)
    put(models / "c" / "same.safetensors", lora(9), mtime=10**18)
    for folder in ("a", "b"):
        os.unlink(models / folder / "same.safetensors")
    report = sync(catalog)
    assert counts(report) == {"unchanged": 3, "added": 1, "vanished": 2}
    ((path, candidates),) = report.unclear
    assert path == str(models / "c" / "same.safetensors")
    assert set(candidates) == {str(models / folder / "same.safetensors") for folder in ("a", "b")}


def test_unplugged(catalog: Catalog, models: Path, tmp_path: Path) -> None:
    """A library whose folder is gone, or is an empty mount point, is offline: nothing is missing, and all returns."""
    away = tmp_path / "away"
    os.rename(models, away)
    for mount_point in (False, True):
        if mount_point:
            models.mkdir()
        report = sync(catalog)
        assert counts(report) == {"offline": 3}
        assert report.offline == (str(models),)
        assert [entry.state for entry in catalog.entries()] == ["offline"] * 3
        assert not catalog.libraries.all()[0].online
    models.rmdir()
    os.rename(away, models)
    assert counts(sync(catalog)) == {"returned": 3}
    assert [entry.state for entry in catalog.entries()] == ["live"] * 3
    assert set(tags_by_path(catalog).values()) == {("tag 0",), ("tag 1",), ("tag 2",)}


@pytest.mark.parametrize("is_known_to_be_away", [False, True])
@pytest.mark.parametrize("has_mount_point", [False, True])
def test_plugged_in_elsewhere(
    catalog: Catalog, models: Path, tmp_path: Path, is_known_to_be_away: bool, has_mount_point: bool
) -> None:
    """Files of a library that is not there are known where they turn up, with the inodes that they had: the disk was
    plugged in elsewhere, or the folder renamed, be there an empty folder in its place or not."""
    os.rename(models, tmp_path / "elsewhere")
    if has_mount_point:
        models.mkdir()
    if is_known_to_be_away:
        sync(catalog)
    add_library(catalog, str(tmp_path / "elsewhere"))
    report = sync(catalog, [] if is_known_to_be_away else [str(tmp_path / "elsewhere")])
    assert counts(report) == {"moved": 3}
    assert report.elsewhere == ((str(models),) if is_known_to_be_away else ())
    tags = {str(tmp_path / "elsewhere" / "sub" / f"m{number}.safetensors"): (f"tag {number}",) for number in range(3)}
    assert tags_by_path(catalog) == tags
    assert all(catalog.show(path).locations[0].proven for path in tags)
    assert sync(catalog).elsewhere == (() if has_mount_point else (str(models),))  # an empty folder has nothing to lose
    catalog.libraries.remove(str(models))
    assert counts(sync(catalog)) == {"unchanged": 3}
    assert tags_by_path(catalog) == tags


def test_another_disk_with_the_same_inodes_proves_nothing(catalog: Catalog, models: Path, tmp_path: Path) -> None:
    """A file system that makes inodes up gives a copy of a folder the ones of the original."""
    os.rename(models, tmp_path / "elsewhere")
    places = catalog.libraries.known(catalog.libraries.all())
    path = tmp_path / "elsewhere" / "sub" / "m0.safetensors"
    found = path.stat()
    result = Comparison(new=[Seen(str(path), found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino, 2)])
    look_among([place._replace(dev=place.dev + 1) for place in places], result, {})
    (move,) = result.moved
    assert (Path(move.known.path).name, move.kind, move.proven) == ("m0.safetensors", "moved", False)


def test_a_copy_of_what_is_away(catalog: Catalog, models: Path, tmp_path: Path) -> None:
    """Copies of files whose disk is away are further places of their records, not proven; all are there when it is."""
    copy = tmp_path / "copy"
    shutil.copytree(models, copy)
    os.rename(models, tmp_path / "away")
    add_library(catalog, str(copy))
    report = sync(catalog)
    assert (counts(report), report.elsewhere) == ({"linked": 3, "offline": 3}, (str(models),))
    assert {entry.state for entry in catalog.entries()} == {"live"}
    assert not catalog.show("m1").locations[0].proven
    assert counts(sync(catalog)) == {"unchanged": 3, "offline": 3}
    os.rename(tmp_path / "away", models)
    assert counts(sync(catalog)) == {"unchanged": 3, "returned": 3}
    folders = (models, copy)
    tags = {str(each / "sub" / f"m{number}.safetensors"): (f"tag {number}",) for number in range(3) for each in folders}
    assert tags_by_path(catalog) == tags


def test_a_copy_of_what_is_away_is_not_the_same(catalog: Catalog, models: Path, tmp_path: Path) -> None:
    """What was read of a copy is not said of what was away: both are read, and told apart where they differ."""
    path, copy = models / "sub" / "m1.safetensors", tmp_path / "copy" / "sub" / "m1.safetensors"
    shutil.copytree(models, tmp_path / "copy")
    with open(copy, "r+b") as file:
        file.seek(-6000, os.SEEK_END)
        file.write(b"other")
    os.utime(copy, ns=(10**18 + 1, 10**18 + 1))
    os.rename(models, tmp_path / "away")
    add_library(catalog, str(tmp_path / "copy"))
    assert counts(sync(catalog)) == {"linked": 3, "offline": 3}
    assert len(list(hash_files(catalog))) == 3
    os.rename(tmp_path / "away", models)
    sync(catalog)
    assert len(list(hash_files(catalog))) == 3
    entries = {each: catalog.show(str(each)).entry for each in (path, copy)}
    assert {each: entry.digest for each, entry in entries.items()} == {
        each: hashlib.sha256(each.read_bytes()).hexdigest() for each in (path, copy)
    }
    assert list(hash_files(catalog)) == []


def test_two_copies_of_what_is_away(catalog: Catalog, models: Path, tmp_path: Path) -> None:
    """Where either of two files may be the one that is away, both are new, and that is said, unless one of them has
    the path that it had in its library."""
    for name in ("a", "b"):
        shutil.copytree(models / "sub", tmp_path / "copies" / name)
    os.rename(models, tmp_path / "away")
    add_library(catalog, str(tmp_path / "copies"))
    report = sync(catalog)
    assert counts(report) == {"added": 6, "offline": 3}
    assert len(report.unclear) == 6
    assert report.elsewhere == ()
    shutil.copytree(tmp_path / "copies" / "a", tmp_path / "third" / "sub", copy_function=shutil.copyfile)
    add_library(catalog, str(tmp_path / "third"))
    report = sync(catalog)
    assert counts(report) == {"linked": 3, "offline": 3, "unchanged": 6}
    assert not report.unclear
    assert tags_by_path(catalog)[str(tmp_path / "third" / "sub" / "m1.safetensors")] == ("tag 1",)


def test_a_record_is_called_after_its_file(catalog: Catalog, models: Path) -> None:
    """A renamed file's record has the new name, unless the user gave it one."""
    catalog.set("m2", {"name": "mine"})
    for number in range(3):
        os.rename(models / "sub" / f"m{number}.safetensors", models / f"renamed {number}.v2.safetensors")
    assert counts(sync(catalog)) == {"moved": 3}
    assert [entry.name for entry in catalog.entries()] == ["mine", "renamed 0.v2", "renamed 1.v2"]
    assert catalog.show("renamed 1.v2").entry.tags == ("tag 1",)
    assert [entry.name for entry in catalog.entries(Query(text="renamed"))] == ["mine", "renamed 0.v2", "renamed 1.v2"]


@pytest.mark.parametrize("in_place", [True, False])
def test_a_download_from_its_beginning_on(catalog: Catalog, models: Path, in_place: bool) -> None:
    """An empty file that becomes a part of a header, then of the tensors, then whole, is one record all the time."""
    whole, path = lora(5), models / "five.safetensors"
    for length in (0, 100, len(whole) - 1000, len(whole)):
        put(path if in_place else models / "five.part", whole[:length])
        if not in_place:
            os.replace(models / "five.part", path)
        found = counts(sync(catalog))
        if length == 0:
            catalog.tag("five", ["mine"])
        elif in_place:
            assert found == {"unchanged": 3, "grown": 1}
    assert catalog.show("five").entry.tags == ("mine",)
    assert catalog.show("five").problem is None
    assert not in_place or len(catalog.entries(Query(gone=True))) == 4


@pytest.mark.parametrize("is_hashed", [False, True])
def test_a_download_that_reserves_its_size(catalog: Catalog, models: Path, is_hashed: bool) -> None:
    """What aria2 is at has its whole size from the beginning: it is broken until what stands beside it is gone."""
    whole, path, mark = lora(5), models / "five.safetensors", models / "five.safetensors.aria2"
    put(path, whole[:-8000] + bytes(8000), mtime=10**18)
    put(mark, b"x")
    sync(catalog)
    catalog.tag("five", ["mine"])
    assert [(entry.name, entry.problem) for entry in catalog.entries(Query(broken=True))] == [
        ("five", "a download that has not ended: five.safetensors.aria2 is beside it")
    ]
    assert counts(sync(catalog)) == {"unchanged": 4}
    with open(path, "r+b") as file:
        file.write(whole)
    assert counts(sync(catalog)) == {"unchanged": 3, "grown": 1}
    if is_hashed:
        assert len(list(hash_files(catalog, ["five"]))) == 1
    digest = catalog.show("five").entry.digest
    mark.unlink()
    assert counts(sync(catalog)) == {"unchanged": 3, "grown": 1}
    entry = catalog.show("five").entry
    assert (entry.problem, entry.tags, entry.digest) == (None, ("mine",), digest)
    assert counts(sync(catalog)) == {"unchanged": 4}
    assert len(catalog.entries(Query(gone=True))) == 4


def test_emptied_is_not_unplugged(catalog: Catalog, models: Path) -> None:
    """The same folder with nothing left in it has been emptied."""
    shutil.rmtree(models / "sub")
    assert counts(sync(catalog)) == {"vanished": 3}


def test_a_closed_folder_keeps_its_files(catalog: Catalog, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that may not be listed says nothing about its files."""
    real = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    report = sync(catalog)
    assert counts(report) == {}
    assert [unread.path for unread in report.unread] == [str(models / "sub")]
    assert len(catalog.entries()) == 3


def test_links(catalog: Catalog, models: Path, tmp_path: Path) -> None:
    """Hard and symbolic links are further places of one record; a folder behind a link is looked into once."""
    os.link(models / "sub" / "m0.safetensors", models / "hard.safetensors")
    os.symlink(models / "sub" / "m1.safetensors", models / "soft.safetensors")
    elsewhere = tmp_path / "elsewhere"
    put(elsewhere / "m3.safetensors", lora(3))
    for name in ("one", "two"):
        os.symlink(elsewhere, models / name)
    os.symlink(models, elsewhere / "loop")
    assert counts(sync(catalog)) == {"unchanged": 3, "linked": 2, "added": 1}
    assert len(catalog.show("m0").locations) == 2
    assert counts(sync(catalog)) == {"unchanged": 6}
    shutil.rmtree(elsewhere)
    assert counts(sync(catalog))["unchanged"] == 5


def test_links_to_files_that_are_new(catalog: Catalog, tmp_path: Path) -> None:
    """Several links to one file, as the Hugging Face cache has them, are one record with several places."""
    repo = tmp_path / "hub" / "models--someone--model"
    put(repo / "blobs" / "abc", lora(1))
    (repo / "refs").mkdir()
    for revision in ("r1", "r2"):
        (repo / "snapshots" / revision).mkdir(parents=True)
        os.symlink("../../blobs/abc", repo / "snapshots" / revision / "model.safetensors")
    assert add_library(catalog, str(tmp_path / "hub")).dialect == "hf-cache"
    assert counts(sync(catalog)) == {"added": 1, "linked": 1}
    (entry,) = catalog.entries()
    assert len(catalog.show(str(entry.id)).locations) == 2


def test_links_not_followed(catalog: Catalog, tmp_path: Path) -> None:
    """A library that does not follow links sees neither linked files nor linked folders."""
    put(tmp_path / "far" / "m1.safetensors", lora(1))
    (tmp_path / "near").mkdir()
    os.symlink(tmp_path / "far", tmp_path / "near" / "folder")
    os.symlink(tmp_path / "far" / "m1.safetensors", tmp_path / "near" / "file.safetensors")
    add_library(catalog, str(tmp_path / "near"), follow_links=False)
    assert counts(sync(catalog)) == {}


def test_a_dangling_link_is_offline(catalog: Catalog, tmp_path: Path) -> None:
    """A link whose target's disk is away still says that the file is there."""
    put(tmp_path / "disk" / "m1.safetensors", lora(1))
    (tmp_path / "near").mkdir()
    os.symlink(tmp_path / "disk" / "m1.safetensors", tmp_path / "near" / "m1.safetensors")
    add_library(catalog, str(tmp_path / "near"))
    sync(catalog)
    os.rename(tmp_path / "disk", tmp_path / "unplugged")
    assert counts(sync(catalog)) == {"offline": 1}
    assert counts(sync(catalog)) == {}
    os.rename(tmp_path / "unplugged", tmp_path / "disk")
    assert counts(sync(catalog)) == {"returned": 1}


def test_a_download_that_goes_on(catalog: Catalog, models: Path) -> None:
    """A file that was cut off and has grown is the same record, whole now."""
    whole = lora(5)
    path = models / "five.safetensors"
    put(path, whole[: len(whole) // 2])
    sync(catalog)
    catalog.tag("five", ["wanted"])
    assert "cut off" in str(catalog.show("five").problem)
    with open(path, "ab") as file:
        file.write(whole[len(whole) // 2 :])
    assert counts(sync(catalog)) == {"unchanged": 3, "grown": 1}
    detail = catalog.show("five")
    assert (detail.problem, detail.entry.tags, detail.entry.size) == (None, ("wanted",), len(whole))


def test_broken_files_are_rows(catalog: Catalog, models: Path) -> None:
    """An error page, an LFS pointer and an empty file are records with a reason, and stop nothing."""
    put(models / "page.safetensors", b"<!DOCTYPE html><html><title>404</title></html>")
    put(models / "pointer.ckpt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    put(models / "empty.safetensors", b"")
    assert counts(sync(catalog)) == {"unchanged": 3, "added": 3}
    assert "HTML" in str(catalog.show("page").problem)
    assert "git lfs pull" in str(catalog.show("pointer").problem)
    assert catalog.show("empty").problem == "the file is empty"


def test_libraries_do_not_overlap(catalog: Catalog, models: Path) -> None:
    """A folder in a library, or around one, cannot be another; nor can what is no folder."""
    for path in (models, models / "sub", models.parent):
        with pytest.raises(Conflict):
            add_library(catalog, str(path))
    for path in (models / "sub" / "m1.safetensors", models / "none"):
        with pytest.raises(SourceError):
            add_library(catalog, str(path))


def test_removed_and_added_elsewhere(catalog: Catalog, models: Path, tmp_path: Path) -> None:
    """A library that is no longer followed leaves its records; found again at another place they are known."""
    catalog.libraries.remove(str(models))
    assert catalog.entries() == []
    os.rename(models, tmp_path / "renamed")
    add_library(catalog, str(tmp_path / "renamed"))
    assert counts(sync(catalog)) == {"returned": 3}
    assert set(tags_by_path(catalog).values()) == {("tag 0",), ("tag 1",), ("tag 2",)}


def test_many_processes_say_what_one_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers read by several processes give the catalog that one process gives."""
    monkeypatch.setattr(modelhub.syncing.readers, "_WORTH_IT", 1)
    for number in range(40):
        put(tmp_path / "m" / f"m{number}.safetensors", lora(number, width=1 + number % 3))
    said = []
    for processes in (1, 3):
        with Catalog.open(str(tmp_path / f"{processes}.db")) as catalog:
            add_library(catalog, str(tmp_path / "m"))
            assert counts(sync(catalog, processes=processes)) == {"added": 40}
            details = [catalog.show(entry.name + ".safetensors") for entry in catalog.entries()]
            said.append([(each.entry.name, each.entry.kind, each.metadata, each.identification) for each in details])
    strip = [[(name, kind, meta, ident.evidence) for name, kind, meta, ident in each] for each in said]
    assert strip[0] == strip[1]


def test_a_process_that_dies_takes_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, catalog: Catalog) -> None:
    """A reader that is killed by a file costs that file; all others are read."""
    real = modelhub.syncing.readers.Reader.read

    def deadly(self, file):  # type: ignore[no-untyped-def]
        if file.path.endswith("7.safetensors"):
            os._exit(3)
        return real(self, file)

    monkeypatch.setattr(modelhub.syncing.readers.Reader, "read", deadly)
    monkeypatch.setattr(modelhub.syncing.readers, "_WORTH_IT", 1)
    # Other tests' libraries may have left threads behind, and with those about nothing is forked.
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    for number in range(30):
        put(tmp_path / "m" / f"m{number}.safetensors", lora(number))
    add_library(catalog, str(tmp_path / "m"))
    report = sync(catalog, processes=2)
    assert counts(report) == {"added": 27}
    names = {os.path.basename(unread.path) for unread in report.unread}
    assert names == {"m7.safetensors", "m17.safetensors", "m27.safetensors"}


@pytest.mark.parametrize("first", ["webui", "comfy"])
def test_folders_that_two_libraries_lead_to(tmp_path: Path, catalog: Catalog, first: str) -> None:
    """What ComfyUI's settings name of another library is that library's, whichever is followed first and whichever is
    synced; what both lead to and neither holds is of the first. Nothing of it is told twice, or again and again."""
    webui, comfy, other, shared = (tmp_path / name for name in ("webui", "comfy", "other", "shared"))
    put(webui / "models" / "Stable-diffusion" / "a.safetensors", lora(1))
    put(webui / "models" / "Lora" / "b.safetensors", lora(2))
    put(comfy / "models" / "loras" / "c.safetensors", lora(3))
    put(shared / "d.safetensors", lora(4))
    for folder in (comfy, other):
        named = f"web:\n  base_path: {webui}/models\n  loras: Lora\nmine:\n  base_path: {shared}\n  loras: ./\n"
        put(folder / "extra_model_paths.yaml", named.encode())
    libraries = (webui, comfy) if first == "webui" else (comfy, webui)
    for folder in (*libraries, other):
        add_library(catalog, str(folder))
        sync(catalog, [str(folder)])
        catalog.tag("b.safetensors", [folder.name])
    counts = {os.path.basename(each.path): dict(each.counts) for each in catalog.libraries.all()}
    assert counts == {"webui": {"live": 2}, "comfy": {"live": 2}, "other": {}}
    assert catalog.show("b.safetensors").entry.tags == ("comfy", "other", "webui")
    assert len(catalog.entries()) == 4
    for libraries_synced in ([], [str(comfy)], [str(webui)], [str(other)], []):
        report = sync(catalog, libraries_synced)
        assert {kind for kind, number in report.counts.items() if number} <= {"unchanged"}
    assert catalog.upkeep.faults() == []


def test_places_to_which_the_library_does_not_lead(tmp_path: Path, catalog: Catalog) -> None:
    """What another library leads to in the folder of one that does not look there stays the other's, and live."""
    webui, comfy = tmp_path / "webui", tmp_path / "comfy"
    put(webui / "models" / "Stable-diffusion" / "a.safetensors", lora(1))
    put(webui / "outputs" / "trained" / "b.safetensors", lora(2))
    put(comfy / "extra_model_paths.yaml", f"web:\n  base_path: {webui}/outputs\n  loras: trained\n".encode())
    for folder in (webui, comfy):
        add_library(catalog, str(folder))
    for libraries in ([], [str(webui)], [str(comfy)]):
        sync(catalog, libraries)
        assert {entry.name: entry.state for entry in catalog.entries()} == {"a": "live", "b": "live"}
    assert {kind for _, change in catalog.libraries.changes(10) for kind in [change.kind]} == {"added"}


def test_what_a_library_that_is_away_led_to(tmp_path: Path, catalog: Catalog) -> None:
    """With a library goes out of sight what it led to elsewhere; what another one leads to as well is that one's."""
    shared, also = tmp_path / "shared", tmp_path / "also"
    for number, folder in enumerate((shared, also)):
        put(folder / f"m{number}.safetensors", lora(number))
    for name, folders in (("first", (shared, also)), ("second", (also,))):
        named = "".join(f"s{number}:\n  base_path: {each}\n  loras: ./\n" for number, each in enumerate(folders))
        put(tmp_path / name / "extra_model_paths.yaml", named.encode())
        add_library(catalog, str(tmp_path / name))
    assert counts(sync(catalog)) == {"added": 2}
    catalog.tag("m1", ["mine"])
    os.rename(tmp_path / "first", tmp_path / "away")
    sync(catalog)
    assert {entry.name: (entry.state, entry.tags) for entry in catalog.entries(Query(gone=True))} == {
        "m0": ("offline", ()),
        "m1": ("live", ("mine",)),
    }
    os.rename(tmp_path / "away", tmp_path / "first")
    sync(catalog)
    assert {entry.name: (entry.state, entry.tags) for entry in catalog.entries(Query(gone=True))} == {
        "m0": ("live", ()),
        "m1": ("live", ("mine",)),
    }
    assert catalog.upkeep.faults() == []


@pytest.mark.parametrize("before", ["taken in", "another library's"])
def test_what_a_library_comes_to_lead_to(tmp_path: Path, catalog: Catalog, before: str) -> None:
    """What the catalog knows of a file keeps belonging to it when a library comes to lead to it, outside its folder;
    what stands beside it is told once."""
    comfy, other, shared = tmp_path / "comfy", tmp_path / "other", tmp_path / "shared"
    put(shared / "a.safetensors", lora(1))
    put(shared / "a.json", b'{"description": "said"}')
    named = f"mine:\n  base_path: {shared}\n  loras: ./\n".encode()
    (comfy / "models").mkdir(parents=True)
    add_library(catalog, str(comfy), dialect="comfyui")
    if before == "taken in":
        list(intake([str(shared)], catalog, IntakeOptions(convert=False)))
    else:
        put(other / "extra_model_paths.yaml", named)
        add_library(catalog, str(other))
        sync(catalog)
    catalog.tag("a", ["mine"])
    put(comfy / "extra_model_paths.yaml", named)
    for libraries in ([str(comfy)], []):
        assert counts(sync(catalog, libraries)) == {"unchanged": 1}
        assert [entry.tags for entry in catalog.entries(Query(gone=True))] == [("mine",)]
        assert [each.path for each in catalog.show("a").claims if each.path] == [str(shared / "a.json")]
    assert {os.path.basename(each.path) for each in catalog.libraries.all() if each.counts} == {"comfy"}
    assert catalog.upkeep.faults() == []


@pytest.mark.filterwarnings("error")
def test_no_library_is_followed(catalog: Catalog) -> None:
    """A sync of nothing is nothing."""
    assert counts(sync(catalog)) == {}
