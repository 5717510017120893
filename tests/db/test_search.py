"""Listing: filters, words, order."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from modelhub.db import SORTS, Catalog, Query, bulk, full_text
from modelhub.db.full_text import INDEXED
from modelhub.db.search import VERDICTS
from modelhub.errors import CatalogError
from modelhub.identify.base import Identity
from modelhub.scan.findings import Verdict
from tests.db.conftest import CHECKPOINT, EVAL, LORA, NOTHING, Shelf, digest, report


def names(shelf: Shelf, query: Query) -> list[str]:
    return [entry.name for entry in shelf.catalog.entries(query)]


def stock(shelf: Shelf) -> Shelf:
    shelf.put("/m/lora/Anime.safetensors", identity=LORA)
    shelf.put("/m/sd/base.ckpt", identity=CHECKPOINT, scan=report(Verdict.UNSAFE, EVAL, container="torch-zip"))
    shelf.put("/m/sd/odd.bin", identity=NOTHING, scan=report(Verdict.UNKNOWN, container=None))
    shelf.catalog.tag("Anime", ["style", "Best Of"])
    shelf.catalog.tag("base", ["style"])
    return shelf


@pytest.fixture(scope="module")
def stocked(shared_url: str) -> Iterator[Shelf]:
    """Records that are listed, and not changed."""
    with Catalog.open(shared_url) as catalog:
        yield stock(Shelf(catalog))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), ["Anime", "base", "odd"]),
        (Query(kind="lora"), ["Anime"]),
        (Query(kind=("lora", "checkpoint")), ["Anime", "base"]),
        (Query(kind=()), ["Anime", "base", "odd"]),
        (Query(architecture="sd-1"), ["base"]),
        (Query(verdict="unsafe"), ["base"]),
        (Query(verdict=("unsafe", "unknown")), ["base", "odd"]),
        (Query(container="safetensors"), ["Anime"]),
        (Query(tag="style"), ["Anime", "base"]),
        (Query(tag=("STYLE", " best  of ")), ["Anime"]),
        (Query(tag="styl"), []),
        (Query(kind="lora", verdict="unsafe"), []),
        (Query(text="anime", kind="lora"), ["Anime"]),
        (Query(kind="vae"), []),
    ],
)
def test_filters(stocked: Shelf, query: Query, expected: list[str]) -> None:
    """Each filter keeps the records that have the value; several filters, and several tags, must all hold."""
    assert names(stocked, query) == expected


def test_digest_filter(stocked: Shelf) -> None:
    """The beginning of a digest, of any length and case, keeps the records whose digest begins so."""
    whole = digest("/m/sd/odd.bin").sha256
    for prefix in (whole, whole[:7].upper(), f"sha256:{whole[:12]}"):
        assert names(stocked, Query(digest=prefix)) == ["odd"]
    assert len(names(stocked, Query(digest=whole[0]))) >= 1
    with pytest.raises(CatalogError):
        stocked.catalog.entries(Query(digest="xyz"))


@pytest.mark.parametrize("sort", [sign + key for key in SORTS for sign in ("", "-")])
def test_every_order_lists_everything(stocked: Shelf, sort: str) -> None:
    """Every order lists the same records, those without the value included."""
    assert sorted(names(stocked, Query(sort=sort))) == ["Anime", "base", "odd"]


def test_orders(stocked: Shelf) -> None:
    """Names sort without case, verdicts from safe to unsafe, additions by time."""
    assert names(stocked, Query(sort="-name")) == ["odd", "base", "Anime"]
    assert names(stocked, Query(sort="verdict")) == ["Anime", "odd", "base"]
    assert names(stocked, Query(sort="-added")) == ["odd", "base", "Anime"]
    assert names(stocked, Query(sort="-kind")) == ["Anime", "base", "odd"]
    with pytest.raises(CatalogError, match="name, added"):
        stocked.catalog.entries(Query(sort="beauty"))


def test_verdicts_are_the_scanners() -> None:
    """The order of verdicts is that of the scanner's own words."""
    assert tuple(verdict.label for verdict in sorted(Verdict)) == VERDICTS


def test_a_verdict_that_is_none(stocked: Shelf) -> None:
    """A misspelt verdict is refused with the list of verdicts, not answered with an empty list."""
    with pytest.raises(CatalogError, match="safe, unknown, suspicious, unsafe"):
        stocked.catalog.entries(Query(verdict="malicious"))


def test_limit_and_offset(stocked: Shelf) -> None:
    """A page is cut from the ordered list; numbers that cannot be counted to are refused."""
    assert names(stocked, Query(limit=2)) == ["Anime", "base"]
    assert names(stocked, Query(limit=2, offset=2)) == ["odd"]
    assert names(stocked, Query(offset=1)) == ["base", "odd"]
    assert names(stocked, Query(limit=0)) == []
    for query in (Query(limit=-1), Query(offset=-1), Query(limit=2**70), Query(offset=2**70)):
        with pytest.raises(CatalogError, match="from 0 on"):
            stocked.catalog.entries(query)


def test_text_looks_everywhere(shelf: Shelf) -> None:
    """A word is found in the name, a path, a tag, the notes, a metadata key or value, and a trigger word;
    in what people write within any other word, in metadata at a word's beginning."""
    shelf.put("/alpha/beta.safetensors", name="Gamma", metadata={"delta.key": "epsilon value"})
    shelf.put("/other/place.safetensors", name="else")
    shelf.catalog.tag("Gamma", ["zeta"])
    shelf.catalog.note("Gamma", "eta is good")
    for word in ("alpha", "BETA", "gamma", "delta.key", "epsil", "value", "zeta", "eta", "alpha GOOD zeta"):
        assert names(shelf, Query(text=word)) == ["Gamma"], word
    assert names(shelf, Query(text="alpha place")) == []
    assert names(shelf, Query(text='alpha, "eta is good", value')) == ["Gamma"]
    for part, found in (("lph", ["Gamma"]), ("psilon", [])):
        assert names(shelf, Query(text=part)) == found, part
    assert names(shelf, Query(text="  ")) == ["else", "Gamma"]


def test_text_follows_changes(shelf: Shelf) -> None:
    """Tags taken away, notes rewritten and paths replaced are found no more."""
    shelf.put("/alpha/a.ckpt", "A")
    shelf.catalog.tag("a", ["beta"])
    shelf.catalog.note("a", "gamma")
    shelf.catalog.untag("a", ["beta"])
    shelf.catalog.note("a", "delta")
    shelf.put("/other/b.ckpt", "A")
    shelf.put("/alpha/a.ckpt", "B", name="second")
    found = {word: names(shelf, Query(text=word)) for word in ("beta", "gamma", "delta", "other", "alpha")}
    assert found == {"beta": [], "gamma": [], "delta": ["a"], "other": ["a"], "alpha": ["second"]}


@pytest.mark.parametrize("word", ["%", "_", "/%", "\\", "'", '"', "50%_off/", "[a-z]", "*", "?"])
def test_text_is_no_pattern(shelf: Shelf, word: str) -> None:
    """Characters that mean something in SQL patterns or strings mean themselves."""
    shelf.put("plain.safetensors", metadata={"note": "nothing special"})
    shelf.put("special.safetensors", metadata={"note": f"x{word}y"})
    assert names(shelf, Query(text=word)) == ["special"]


def test_text_ignores_case_and_spelling_in_every_script(shelf: Shelf) -> None:
    """Case is ignored beyond ASCII, and composed and decomposed letters (as macOS names files) are one."""
    shelf.put("/m/Scho\u0308nheit ЁЛКА straße.ckpt", name="x")
    for word in ("schönheit", "SCHÖNHEIT", "ёлка", "STRASSE", "straße"):
        assert names(shelf, Query(text=word)) == ["x"], word


def test_huge_metadata_is_kept_and_found(shelf: Shelf) -> None:
    """A header's megabyte of tag counts is stored whole, and its last word is found."""
    counts = json.dumps({"set": {f"tag {number}": number for number in range(60_000)} | {"the very last": 1}})
    assert 1 << 20 < len(counts) < INDEXED
    shelf.put("/m/a.safetensors", metadata={"ss_tag_frequency": counts})
    assert shelf.catalog.show("a").metadata == {"ss_tag_frequency": counts}
    assert names(shelf, Query(text="very last")) == ["a"]


def test_tags_are_found_however_json_spells_them(shelf: Shelf) -> None:
    """Tag counts written with escapes, as kohya's trainer writes them, are found by their letters."""
    shelf.put("/m/a.safetensors", metadata={"ss_tag_frequency": json.dumps({"set": {"黒髪 ロング": 3}})})
    assert names(shelf, Query(text="黒髪")) == ["a"]


def test_search_has_bounds(shelf: Shelf) -> None:
    """A search that a database would refuse is refused in words."""
    shelf.put("/m/a.safetensors", identity=Identity())
    for text in ("x" * 100_000, " ".join(f"word{number}" for number in range(2000))):
        with pytest.raises(CatalogError, match="up to"):
            shelf.catalog.entries(Query(text=text))


def test_more_records_than_one_condition_takes(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags arrive with every record of a list longer than what is asked for in one condition."""
    monkeypatch.setattr(bulk, "_VALUES", 5)
    for number in range(12):
        shelf.put(f"/m/{number:03}.ckpt")
    for name in ("000", "011"):
        shelf.catalog.tag(f"/m/{name}.ckpt", [f"tag-{name}"])
    entries = shelf.catalog.entries()
    assert len(entries) == 12
    assert (entries[0].tags, entries[1].tags, entries[-1].tags) == (("tag-000",), (), ("tag-011",))


def test_words_with_signs(shelf: Shelf) -> None:
    """A word with signs in it is found whole: what merely has its parts is not, in however many files they are."""
    shelf.put("/m/a.safetensors", metadata={"module": "networks.lora", "other": "harbour7-42"})
    shelf.put("/m/b.safetensors", metadata={"module": "networks lora", "other": "harbour7 42"})
    shelf.put("/m/c.safetensors", metadata={"module": "xnetworks.lora", "other": "harbour7-4"})
    for word in ("networks.lora", "networks.lo", "harbour7-42"):
        assert names(shelf, Query(text=word)) == ["a"], word
    assert names(shelf, Query(text="harbour7-4")) == ["a", "c"]
    assert names(shelf, Query(text="7-42")) == ["a"]


def test_words_with_signs_in_many_files(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes no difference whether the files with the parts are few or many."""
    monkeypatch.setattr(full_text, "_FEW", 1)
    test_words_with_signs(shelf)


def test_accents_make_other_words(shelf: Shelf) -> None:
    """A letter with an accent is another letter, in names and in metadata."""
    shelf.put("/m/a.safetensors", metadata={"note": "café"})
    shelf.put("/m/b.safetensors", metadata={"note": "cafe"})
    assert names(shelf, Query(text="cafe")) == ["b"]
    assert names(shelf, Query(text="café")) == names(shelf, Query(text="CAFÉ")) == ["a"]
    assert names(shelf, Query(text="caf")) == ["a", "b"]


def test_orders_of_what_is_gone(shelf: Shelf) -> None:
    """Records without a place come first in the order of paths, and are left out where they are not asked for."""
    stock(shelf)
    shelf.put("/m/sd/base.ckpt", "other bytes", identity=LORA, name="second")
    assert names(shelf, Query(sort="path")) == ["Anime", "second", "odd"]
    assert names(shelf, Query(sort="path", gone=True)) == ["base", "Anime", "second", "odd"]
    assert names(shelf, Query(sort="-path", gone=True)) == ["odd", "second", "Anime", "base"]
    shelf.catalog.rate("odd", 4)
    assert names(shelf, Query(sort="-rating", limit=1)) == ["odd"]


SAID = ["x1", "ax", "lo-fi", "q\u00e9z", "\u6c34\u5f69", "zebra", "b" * 200 + "q", "semi;", "V2", "w\u00e9", "x\x01y"]
"""Names with letters that few or many of them have, at their ends, before other letters than Latin ones."""


@pytest.mark.parametrize("many", [False, True])
def test_short_words_are_found_within_others(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, many: bool) -> None:
    """Words of one and two letters are found anywhere in what people write, be they rare or in most records."""
    if many:
        monkeypatch.setattr(full_text, "_FEW", 1)
        monkeypatch.setattr(full_text, "_OFTEN", 0)
    monkeypatch.setattr(full_text, "_MOST_PARTS", 3 if many else 2000)
    for number, name in enumerate(SAID):
        shelf.put(f"{number}{name}", f"bytes {number}", name=name)
    for word in "x q v2 x1 1 i ; -f i; \u00e9 \u00e9z \u6c34 \u6c34\u5f69 w bq ra xx".split():
        expected = sorted(
            (name for number, name in enumerate(SAID) if word in f"{number}{name}".lower()), key=str.lower
        )
        assert sorted(names(shelf, Query(text=word)), key=str.lower) == expected, word
        assert names(shelf, Query(text=word, sort="-size")) == names(shelf, Query(text=word)), word


def test_a_record_is_listed_by_its_first_path(shelf: Shelf) -> None:
    """Of the places where bytes lie the first in order counts, and each record is listed once."""
    for path, data in (("/m/c", "A"), ("/m/a", "A"), ("/m/b", "B"), ("/m/d", "B"), ("/m/aa", "C")):
        shelf.put(path, data, name=data)
    assert names(shelf, Query(sort="path")) == ["A", "C", "B"]
    assert names(shelf, Query(sort="-path")) == ["B", "C", "A"]
    assert names(shelf, Query(sort="path", limit=1, offset=1)) == ["C"]
    assert names(shelf, Query(sort="path", text="B")) == ["B"]
