"""Whatever text a file or its name holds, the catalog stores it and answers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelhub.container.base import Skipped
from modelhub.db import Catalog, Query
from modelhub.db.text import path_of, plain, storable, stored_path
from modelhub.db.triggers import trigger_words
from modelhub.errors import CatalogError
from modelhub.identify.base import Adapter, Evidence, Identity
from modelhub.scan.findings import Confidence, Finding, Location, Severity, Verdict
from tests.conftest import BACKENDS
from tests.db.conftest import Shelf, digest, report, stat

# Everything that a Python text can hold, with what databases, patterns and escapes trip over made likely.
TEXT = st.text(st.characters() | st.sampled_from("\0\udc80\ud800\\u%_/'\"0cd\u0300\ufdfa"), max_size=30)
PATHS = TEXT.map(lambda text: "/m/" + text)
BROAD = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=BACKENDS)
def shelf(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    """One catalog, in memory or on a server, for all examples."""
    url = request.getfixturevalue("server").catalog() if request.param == "postgresql" else "sqlite://"
    with Catalog.open(url) as catalog:
        yield Shelf(catalog)


@BROAD
@given(path=PATHS, text=TEXT, metadata=st.dictionaries(TEXT, TEXT, max_size=4), number=st.integers() | st.just(2**64))
def test_any_text_is_recorded_and_shown(
    shelf: Shelf, path: str, text: str, metadata: dict[str, str], number: int
) -> None:
    """Hostile names, findings, evidence and metadata are stored, shown, and are JSON that every reader takes."""
    found = Finding(text, Severity.HIGH, Confidence.LOW, text, Location(text, number), text)
    identity = Identity(
        kind=text,
        architecture=text,
        components=(text,),
        adapter=Adapter(text, {text: 1}, 1, alpha=float("nan"), alphas={float("inf"): 1}, targets=(text,)),
        evidence=(Evidence(text, text, text, text),),
        candidates=(text,),
    )
    scan = report(Verdict.UNSAFE, found, container=text, skipped=(Skipped(text, text),))
    entry = shelf.put(path, path + text + repr(metadata), identity, scan, metadata=metadata)
    detail = shelf.catalog.show(f"sha256:{entry.digest}")
    assert entry.path == path
    assert path in [place.path for place in detail.locations]
    assert detail.metadata == {storable(key): storable(value) for key, value in metadata.items()}
    assert detail.findings[0].message == storable(text)
    assert shelf.catalog.unchanged(stat(path), "p1", "v1") == entry
    json.dumps(detail.as_dict(), allow_nan=False)
    json.dumps({**detail.as_dict(), "locations": (), "entry": None}, ensure_ascii=False).encode()


@BROAD
@given(path=PATHS, note=TEXT, tag=TEXT, value=TEXT)
def test_any_text_is_found_again(shelf: Shelf, path: str, note: str, tag: str, value: str) -> None:
    """Every part of every word of the path, the notes, the tags and the metadata finds its record."""
    entry = shelf.put(path, "found" + path + value, metadata={"key": value})
    shelf.catalog.note(entry.digest, note)
    if tag.split():
        tags = shelf.catalog.tag(entry.digest, [tag, tag]).tags
        assert len(tags) >= 1
        assert shelf.catalog.tag(entry.digest, [tag]).tags == tags
    for word in f"{path} {note} {tag} {value}".split():
        query = Query(text=word, digest=entry.digest)
        assert len(shelf.catalog.entries(query)) == 1, word


@BROAD
@given(selector=TEXT)
def test_any_selector_is_answered(shelf: Shelf, selector: str) -> None:
    """Any text asked for is a record or a catalog error."""
    shelf.put("/n/fixed.ckpt")
    for ask in (shelf.catalog.show, lambda text: shelf.catalog.entries(Query(text=text, digest=text, tag=text))):
        try:
            ask(selector)
        except CatalogError as error:
            assert str(error)


@given(first=PATHS, second=PATHS)
def test_stored_paths_are_reversible(first: str, second: str) -> None:
    """A stored path is text that every database holds and is that path's alone."""
    assert path_of(stored_path(first)) == first
    assert (stored_path(first) == stored_path(second)) == (first == second)
    assert "\0" not in stored_path(first)
    stored_path(first).encode()


@pytest.mark.parametrize("path", ["/m/a.ckpt", "C:\\models\\ubuntu\\a.ckpt", "/m/é.ckpt"])
def test_ordinary_paths_are_stored_as_they_are(path: str) -> None:
    """Nothing is escaped in the paths that people have."""
    assert stored_path(path) == path


def test_a_long_run_of_combining_marks_is_quick(shelf: Shelf) -> None:
    """A megabyte of combining marks, whose normalisation would take hours, is recorded and found at once."""
    marks = "a" + "\u0301\u0327" * 500_000
    shelf.put("/m/marks.ckpt", metadata={"note": marks})
    assert [entry.name for entry in shelf.catalog.entries(Query(text="\u0301\u0327\u0301\u0327"))] == ["marks"]


def test_unlimited_numbers(shelf: Shelf) -> None:
    """A header that claims more elements than 64 bits count is recorded with the count unknown."""
    shelf.catalog.record(
        stat("/m/claims.ckpt"),
        digest("claims"),
        report(),
        Identity(),
        tensor_count=1,
        parameter_count=10**5000,
        metadata={},
        version="v1",
    )
    assert shelf.catalog.show("claims").identification.parameter_count is None


def test_very_long_texts(shelf: Shelf) -> None:
    """Names are cut at 255 characters; a path of any length is found by itself."""
    path = "/m" + "/x" * 2000 + "/" + "n" * 400 + ".ckpt"
    entry = shelf.put(path)
    assert entry.name == "n" * 255
    assert shelf.catalog.show(path).entry == entry


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", "null", "3", '{"a": 1}', '{"a": {"b": "c"}}', "[" * 100_000, '{"a": {"b": ' + "9" * 5000 + "}}"],
)
def test_tag_counts_that_are_none(text: str) -> None:
    """Tag counts that are not what a trainer writes give no trigger words and no error."""
    assert trigger_words({"ss_tag_frequency": text}) == ()


def test_trigger_words() -> None:
    """Stated phrases come first, then counted tags, the commonest over all data sets first; each once."""
    counts = {"1_a": {"girl": 3, "hat": 2, "x": 1}, "2_b": {" hat": 4, "magic": 9}}
    metadata = {"ss_tag_frequency": json.dumps(counts), "modelspec.trigger_phrase": "magic"}
    assert trigger_words(metadata) == ("magic", "hat", "girl", "x")


def test_plain_values() -> None:
    """Values become what JSON has, sets in a stable order."""
    assert plain({"b": {3, 1}, 2: (None, True, 1.5, float("inf"), Verdict.SAFE), "p": Skipped("r")}) == {
        "b": [1, 3],
        "2": [None, True, 1.5, "inf", 0],
        "p": {"reason": "r", "member": None},
    }
