"""Choosing one record, and what users write on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelhub.errors import CatalogError, Conflict
from tests.db.conftest import Shelf, digest


def test_every_way_to_name_a_record(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is chosen by id, exact name, absolute or relative path, and the beginning of its digest."""
    path = str(tmp_path / "some model.ckpt")
    shelf.put("/m/other.ckpt", "B")
    entry = shelf.put(path, "A")
    monkeypatch.chdir(tmp_path)
    whole = digest("A").sha256
    ways = [str(entry.id), "some model", path, "some model.ckpt", os.path.join(".", "some model.ckpt")]
    ways += [whole, whole[:6], whole[:9].upper(), f"sha256:{whole}", f"sha256:{whole[:6]}"]
    for selector in ways:
        assert shelf.catalog.show(selector).entry == entry, selector


def test_file_names_tell_a_conversion_from_its_source(shelf: Shelf) -> None:
    """Two files that differ in the extension alone share a name; each is chosen by its whole file name, exactly."""
    source, target = shelf.put("/m/Dream_1.ckpt"), shelf.put("/m/Dream_1.safetensors")
    shelf.put("/m/dreamX1.ckpt")
    assert shelf.catalog.show("Dream_1.ckpt").entry == source
    assert shelf.catalog.show("Dream_1.safetensors").entry == target
    with pytest.raises(Conflict, match="2 records"):
        shelf.catalog.show("Dream_1")
    for selector in ("dream_1.ckpt", "1.ckpt", "%.ckpt"):
        with pytest.raises(Conflict, match="no record"):
            shelf.catalog.show(selector)


def test_the_name_of_a_copy(shelf: Shelf) -> None:
    """Of copies each file's name selects their record, though only one of them gave it its name."""
    entry = shelf.put("/m/first.ckpt", "A")
    shelf.put("/n/second v1.2.ckpt", "A")
    assert shelf.catalog.show("second v1.2").entry.id == entry.id
    assert shelf.catalog.tag("second v1.2", ["copy"]).id == entry.id
    for selector in ("second v1", "second", "cond v1.2"):
        with pytest.raises(Conflict):
            shelf.catalog.show(selector)


def test_nothing_fits(shelf: Shelf) -> None:
    """What fits no record is a conflict that says so and offers what is near."""
    shelf.put("/m/Dream Shaper 8.ckpt")
    for selector in ("nothing", "99", "/m/none.ckpt", "abcdef0", "", "\0", "\udc80", "9" * 30, "x" * 5000):
        with pytest.raises(Conflict):
            shelf.catalog.show(selector)
    with pytest.raises(Conflict) as caught:
        shelf.catalog.show("shaper")
    assert "Dream Shaper 8" in str(caught.value.hint)


def test_short_digests_do_not_select(shelf: Shelf) -> None:
    """Five digits of a digest are too few to mean it."""
    entry = shelf.put("/m/a.ckpt")
    with pytest.raises(Conflict):
        shelf.catalog.show(entry.digest[:5])


def test_several_fit(shelf: Shelf) -> None:
    """A name that two records have is a conflict that names both, and changes neither."""
    first, second = shelf.put("/m/one/a.ckpt"), shelf.put("/m/two/a.ckpt")
    with pytest.raises(Conflict) as caught:
        shelf.catalog.tag("a", ["tag"])
    for part in ("2 records", first.digest[:12], second.digest[:12], "/m/one/a.ckpt", "/m/two/a.ckpt"):
        assert part in str(caught.value)
    assert [entry.tags for entry in shelf.catalog.entries()] == [(), ()]
    assert shelf.catalog.show("/m/two/a.ckpt").entry == second


def test_a_name_that_reads_as_an_id(shelf: Shelf) -> None:
    """A record whose name is another's id is not guessed at."""
    first = shelf.put("/m/first.ckpt")
    shelf.put(f"/m/{first.id}.ckpt")
    with pytest.raises(Conflict):
        shelf.catalog.show(str(first.id))


def test_many_fit(shelf: Shelf) -> None:
    """A conflict among many names some and counts the rest."""
    for number in range(25):
        shelf.put(f"/m/{number}/same.ckpt")
    with pytest.raises(Conflict, match=r"25 records fit: .* and 15 more"):
        shelf.catalog.show("same")


def test_what_is_there_goes_before_what_is_gone(shelf: Shelf) -> None:
    """A name means the record whose bytes are there; the replaced one of the same name is chosen by its digest."""
    old = shelf.put("/m/a.ckpt", "old")
    new = shelf.put("/m/a.ckpt", "new")
    assert shelf.catalog.show("a").entry == new
    assert shelf.catalog.show(old.digest).entry.id == old.id


def test_tags(shelf: Shelf) -> None:
    """Tags are added once, in lower case with single spaces, come out sorted, and are taken away again."""
    shelf.put("/m/a.ckpt")
    assert shelf.catalog.tag("a", ["Style", "anime  Girl", "style "]).tags == ("anime girl", "style")
    assert shelf.catalog.tag("a", ["style"]).tags == ("anime girl", "style")
    assert shelf.catalog.untag("a", ["STYLE", "never there"]).tags == ("anime girl",)
    assert shelf.catalog.show("a").entry.tags == ("anime girl",)


@pytest.mark.parametrize("tag", ["", "  ", "x" * 300])
def test_unusable_tags(shelf: Shelf, tag: str) -> None:
    """A tag is some text, and not a long one; with one refused, none is added."""
    shelf.put("/m/a.ckpt")
    with pytest.raises(CatalogError, match="tag"):
        shelf.catalog.tag("a", ["good", tag])
    assert shelf.catalog.show("a").entry.tags == ()


def test_notes(shelf: Shelf) -> None:
    """Notes are kept as written, replaced by the next, and cleared by nothing."""
    shelf.put("/m/a.ckpt")
    for text in ("first\nline", "second", ""):
        shelf.catalog.note("a", text)
        assert shelf.catalog.show("a").notes == text
