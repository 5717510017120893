"""Records that are one artifact share what the user wrote, and collections hold artifacts."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelhub.db import Catalog, Detail, Query
from modelhub.errors import CatalogError, Conflict
from tests.db.conftest import CHECKPOINT, LORA, NOTHING, Shelf, digest


def written(detail: Detail) -> tuple[object, ...]:
    return detail.entry.tags, detail.notes, detail.entry.rating, detail.collections


@pytest.fixture
def pair(shelf: Shelf) -> Catalog:
    """Two records, a and b, each with a tag, a note and a collection; b has a rating."""
    catalog = shelf.catalog
    for name in ("a", "b"):
        shelf.put(f"/m/{name}.safetensors")
        catalog.tag(name, [f"tag {name}"])
        catalog.note(name, f"note {name}")
        catalog.collections.create(f"all {name}")
        catalog.collections.add(f"all {name}", [name])
    catalog.rate("b", 4)
    return catalog


BOTH = (("tag a", "tag b"), "note a\n\nnote b", 4, ("all a", "all b"))


def test_grouped(pair: Catalog) -> None:
    """What was written on either holds for both, and what is written on one holds for the other."""
    entries = pair.artifacts.group(["a", "b"])
    assert [entry.name for entry in entries] == ["a", "b"]
    assert written(pair.show("a")) == written(pair.show("b")) == BOTH
    assert [version.name for version in pair.show("a").versions] == ["b"]
    pair.tag("b", ["both"])
    pair.rate("a", 1)
    pair.note("b", "new")
    assert written(pair.show("a")) == (("both", "tag a", "tag b"), "new", 1, ("all a", "all b"))
    for query in (Query(tag="both"), Query(text="both new"), Query(collection="ALL  a"), Query(tag=("tag a", "tag b"))):
        assert [entry.name for entry in pair.entries(query)] == ["a", "b"]
    assert [entry.rating for entry in pair.entries(Query(sort="rating"))] == [1, 1]


def test_parted(pair: Catalog) -> None:
    """A record that is taken out keeps a copy of everything, and so do those that it leaves."""
    pair.artifacts.group(["a", "b"])
    pair.artifacts.part(["a"])
    assert written(pair.show("a")) == written(pair.show("b")) == BOTH
    assert pair.show("a").versions == pair.show("b").versions == ()
    pair.untag("a", ["tag b"])
    assert pair.show("b").entry.tags == ("tag a", "tag b")


def test_one_is_no_group(pair: Catalog) -> None:
    """An artifact of several records takes two, and one record named twice is one."""
    with pytest.raises(CatalogError, match="two records"):
        pair.artifacts.group(["a", "#1"])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_nothing_written_is_ever_lost(steps: list[tuple[bool, int, int]]) -> None:
    """However records are grouped and parted, each still has the tag, the note and the collection it had."""
    with Catalog.open("sqlite://") as catalog:
        shelf = Shelf(catalog)
        catalog.collections.create("c")
        for number in range(5):
            shelf.put(f"/m/{number}.safetensors", name=f"r{number}")
            catalog.tag(f"r{number}", [f"t{number}"])
            catalog.note(f"r{number}", f"n{number}")
        catalog.collections.add("c", ["r0"])
        groups = [{number} for number in range(5)]
        for is_join, one, other in steps:
            if is_join and one != other:
                catalog.artifacts.group([f"r{one}", f"r{other}"])
                (first, second) = (next(g for g in groups if n in g) for n in (one, other))
                if first is not second:
                    groups.remove(second)
                    first |= second
            elif not is_join:
                catalog.artifacts.part([f"r{one}"])
                next(g for g in groups if one in g).discard(one)
                groups = [g for g in groups if g] + [{one}]
        for number in range(5):
            detail = catalog.show(f"r{number}")
            assert f"t{number}" in detail.entry.tags
            assert f"n{number}" in detail.notes
            versions = {int(version.name[1:]) for version in detail.versions}
            assert versions | {number} == next(group for group in groups if number in group)
        assert catalog.show("r0").collections == ("c",)
        assert catalog.upkeep.faults() == []


def test_what_was_converted_is_one(shelf: Shelf) -> None:
    """A checkpoint and what it was converted to are one artifact; what was merged from it is not."""
    shelf.put("/m/a.ckpt", "A")
    shelf.put("/m/a.safetensors", "B")
    shelf.put("/m/merged.safetensors", "C")
    shelf.catalog.tag("a.ckpt", ["mine"])
    for kind, output in (("convert", "B"), ("merge", "C")):
        shelf.catalog.derive(kind, output=digest(output), inputs=[(digest("A"), "source")], params={}, version="v1")
    assert shelf.catalog.show("a.safetensors").entry.tags == ("mine",)
    assert shelf.catalog.show("merged").entry.tags == ()
    assert shelf.catalog.rate("a", 3).path == "/m/a.safetensors"
    with pytest.raises(Conflict, match="2 records fit"):
        shelf.catalog.set("a", {"architecture": "sdxl"})


def test_a_step_told_again_does_not_group_again(shelf: Shelf) -> None:
    """What the user has taken apart stays so when the same conversion is recorded once more."""
    for data in ("A", "B"):
        shelf.put(f"/m/{data}.safetensors", data)
    for _ in range(2):
        shelf.catalog.derive("convert", output=digest("B"), inputs=[(digest("A"), "source")], params={}, version="v1")
        shelf.catalog.artifacts.part(["B"])
    assert shelf.catalog.show("A").versions == ()


@pytest.mark.parametrize(("identity", "is_version"), [(LORA, True), (NOTHING, True), (CHECKPOINT, False)])
def test_replaced(shelf: Shelf, identity: object, is_version: bool) -> None:
    """What takes a path is a version of what was there, unless it is of another kind; so says a record, as a sync."""
    shelf.put("/m/a.safetensors", "old")
    shelf.catalog.tag("a", ["mine"])
    shelf.put("/m/a.safetensors", "new", identity=identity)  # type: ignore[arg-type]
    detail = shelf.catalog.show("/m/a.safetensors")
    assert detail.entry.tags == (("mine",) if is_version else ())
    assert [version.state for version in detail.versions] == (["gone"] if is_version else [])
    assert bool(shelf.catalog.entries(Query(text="mine"))) is is_version


def test_replaced_by_what_is_known(shelf: Shelf) -> None:
    """Bytes with a record of their own stay what they are when they are copied over another file."""
    shelf.put("/m/a.safetensors", "A")
    shelf.put("/m/b.safetensors", "B")
    shelf.catalog.tag("a", ["mine"])
    shelf.put("/m/a.safetensors", "B")
    assert shelf.catalog.show("b").entry.tags == ()


@pytest.mark.parametrize("name", ["", " ", "x" * 256, "a\x1b[31m", "a\u202eb", "a\0b"])
def test_names_that_are_none(catalog: Catalog, name: str) -> None:
    """A collection's name can be seen, and read on any terminal."""
    with pytest.raises(CatalogError, match="name is 1 to 255"):
        catalog.collections.create(name)


def test_collections(pair: Catalog) -> None:
    """Collections are told apart without case, hold each artifact once, and go without their records."""
    with pytest.raises(Conflict, match="of this name"):
        pair.collections.create("All  A")
    pair.collections.create("Ünï")
    assert [(each.name, each.size) for each in pair.collections.all()] == [("all a", 1), ("all b", 1), ("Ünï", 0)]
    assert pair.collections.add("ÜNÏ", ["a", "b", "a"]) == 2
    assert pair.collections.add("Ünï", ["a"]) == 0
    with pytest.raises(Conflict, match="no record"):
        pair.collections.remove("Ünï", ["a", "nobody"])
    assert pair.collections.remove("Ünï", ["a"]) == 1
    assert [entry.name for entry in pair.entries(Query(collection="ünï"))] == ["b"]
    assert pair.entries(Query(collection=("all a", "all b"))) == []
    assert pair.collections.delete("ünï").size == 1
    assert len(pair.entries()) == 2
    with pytest.raises(Conflict, match="no such collection"):
        pair.entries(Query(collection="ünï"))
