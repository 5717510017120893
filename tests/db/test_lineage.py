"""Which bytes were made of which."""

from __future__ import annotations

from modelhub.db import Relative
from tests.db.conftest import Shelf, digest, dump


def convert(shelf: Shelf, source: str, target: str, version: str = "v1", **params: object) -> None:
    inputs = [(digest(source), "source")]
    shelf.catalog.derive("convert", output=digest(target), inputs=inputs, params=params, version=version)


def test_conversion_is_remembered(shelf: Shelf) -> None:
    """What a file was converted to is found by its digest, with the paths where the result lies now."""
    shelf.put("/m/a.ckpt", "A")
    shelf.put("/m/a.safetensors", "B")
    convert(shelf, "A", "B", source_verdict="safe", salvaged=False)
    (step,) = shelf.catalog.derived_from(digest("A"))
    assert (step.kind, step.output, step.version) == ("convert", digest("B").sha256, "v1")
    assert step.inputs == ((digest("A").sha256, "source"),)
    assert step.params == {"source_verdict": "safe", "salvaged": False}
    assert step.paths == ("/m/a.safetensors",)
    assert shelf.catalog.derived_from(digest("B")) == []
    assert shelf.catalog.derived_from(digest("A"), "merge") == []
    assert shelf.catalog.derived_from(digest("A"), version="v2") == []


def test_lost_output_has_no_path(shelf: Shelf) -> None:
    """A result whose path holds other bytes now is still known, but lies nowhere."""
    shelf.put("/m/a.safetensors", "B")
    convert(shelf, "A", "B")
    shelf.put("/m/a.safetensors", "C")
    assert [step.paths for step in shelf.catalog.derived_from(digest("A"))] == [()]


def test_same_step_twice(shelf: Shelf, url: str) -> None:
    """A step recorded again changes nothing; another version, other parameters or another output are other steps."""
    convert(shelf, "A", "B", x=1, y=2)
    before = dump(url)
    convert(shelf, "A", "B", y=2, x=1)
    assert dump(url) == before
    convert(shelf, "A", "B", "v2", x=1, y=2)
    convert(shelf, "A", "B", x=2, y=2)
    convert(shelf, "A", "C", x=1, y=2)
    assert len(shelf.catalog.derived_from(digest("A"))) == 4


def test_newest_step_comes_first(shelf: Shelf) -> None:
    """Several conversions of the same bytes come with the last one first."""
    for target in ("B", "C"):
        convert(shelf, "A", target)
    assert [step.output for step in shelf.catalog.derived_from(digest("A"))] == [digest("C").sha256, digest("B").sha256]


def test_relatives_are_shown_both_ways(shelf: Shelf) -> None:
    """A record shows what it was made of, in order, and what was made of it, seen by the catalog or not."""
    shelf.put("/m/base.ckpt", "A")
    shelf.put("/m/mix.safetensors", "M")
    inputs = [(digest("A"), "base"), (digest("?"), "secondary"), (digest("A"), "again")]
    shelf.catalog.derive("merge", output=digest("M"), inputs=inputs, params={"weight": 0.5}, version="v3")
    (added,) = {parent.added for parent in shelf.catalog.show("mix").parents}
    facts = {"kind": "merge", "params": {"weight": 0.5}, "version": "v3", "added": added}
    assert shelf.catalog.show("mix").parents == (
        Relative(digest=digest("A").sha256, name="base", role="base", **facts),  # type: ignore[arg-type]
        Relative(digest=digest("?").sha256, name=None, role="secondary", **facts),  # type: ignore[arg-type]
        Relative(digest=digest("A").sha256, name="base", role="again", **facts),  # type: ignore[arg-type]
    )
    children = shelf.catalog.show("base").children
    assert [(child.name, child.role) for child in children] == [("mix", "base"), ("mix", "again")]
    assert shelf.catalog.show("mix").children == shelf.catalog.show("base").parents == ()


def test_lineage_is_of_bytes(shelf: Shelf) -> None:
    """A file replaced at its path does not inherit what was made of the bytes before."""
    shelf.put("/m/a.ckpt", "A")
    convert(shelf, "A", "B")
    shelf.put("/m/a.ckpt", "other")
    assert shelf.catalog.show("/m/a.ckpt").children == ()
