"""Where bytes came from, what is claimed of them on the network, and what lies in quarantine."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelhub.db import Catalog, Download, Query
from modelhub.errors import Conflict
from modelhub.scan.findings import Verdict
from modelhub.syncing import add_library, sync
from tests.db.conftest import LORA, Shelf, digest, report, stat

CAME = Download("hf://org/harbour@c0ffee/a.safetensors", None, ({"path": "a.safetensors", "size": 100},), False, "v1")


def test_shown_and_found(catalog: Catalog, shelf: Shelf) -> None:
    """Where bytes came from is shown with its date and found by its address, and is there once for one place."""
    shelf.put("/m/a.safetensors")
    for _ in range(2):
        catalog.origins.put_download(digest("/m/a.safetensors"), CAME)
    [came] = catalog.show("a.safetensors").downloads
    assert (came.address, came.asked, came.files) == (CAME.address, None, CAME.files)
    assert came.added
    assert [entry.name for entry in catalog.entries(Query(text="org/harbour"))] == ["a"]


def test_claims_decide_nothing(catalog: Catalog, shelf: Shelf) -> None:
    """Claims from the network are found and shown with their origin; what contradicts the bytes is told."""
    shelf.put("/m/a.safetensors")
    said = {
        "base_model": "runwayml/stable-diffusion-v1-5",
        "triggers": ["at dusk"],
        "licence": "openrail",
        "digests": {"sha256": "ab" * 32},
    }
    catalog.origins.put_claims(digest("/m/a.safetensors"), "huggingface", "hf://o/r@c", said, {"gated": "auto"})
    shown = catalog.show("a.safetensors")
    assert shown.entry.architecture == "sdxl"
    [claim] = shown.claims
    assert (claim.origin, claim.address, claim.facts, claim.extra) == (
        "huggingface",
        "hf://o/r@c",
        said,
        {"gated": "auto"},
    )
    assert claim.read
    assert len(shown.disagreements) == 2
    assert "claims that it is for runwayml/stable-diffusion-v1-5 (sd-1), but it is sdxl" in shown.disagreements[1]
    assert shown.entry.triggers == ("at dusk",)
    for words in ("openrail", "dusk", "runwayml"):
        assert catalog.entries(Query(text=words)), words
    catalog.origins.put_claims(digest("/m/a.safetensors"), "huggingface", "hf://o/r@d", {"licence": "mit"}, {})
    assert [claim.facts for claim in catalog.show("a").claims] == [{"licence": "mit"}]
    assert not catalog.entries(Query(text="openrail"))
    assert not catalog.show("a").disagreements


def test_what_is_claimed_survives_a_sync(catalog: Catalog, tmp_path: Path) -> None:
    """Digests that a place on the network claims are not lost when the side files of the model are read again."""
    from tests.syncing.files import lora, put

    put(tmp_path / "m" / "a.safetensors", lora(1))
    put(tmp_path / "m" / "a.json", b'{"description": "x"}')
    add_library(catalog, str(tmp_path / "m"))
    sync(catalog, processes=1)
    place = catalog.digests.to_compute(None)[0]
    catalog.digests.put(place, {"sha256": digest("a").sha256}, [])
    catalog.origins.put_claims(digest("a"), "civitai", "https://c/1", {"digests": {"crc32": "01234567"}}, {})
    put(tmp_path / "m" / "a.json", b'{"description": "other words"}', mtime=2 * 10**18)
    sync(catalog, processes=1)
    assert [each.source for each in catalog.show("a").digests if each.origin == "claimed"] == ["civitai"]


def test_quarantine_is_a_state(catalog: Catalog, tmp_path: Path) -> None:
    """What lies in quarantine says so, is no file of the library around it, and is live once it was let in."""
    folder = tmp_path / "m"
    lying = folder / ".modelhub-quarantine" / "a.ckpt"
    lying.parent.mkdir(parents=True)
    lying.write_bytes(b"x")
    add_library(catalog, str(folder))

    def record(path: Path, *, is_quarantined: bool) -> str:
        seen = stat(str(path))
        bad = report(Verdict.UNSAFE)
        options = {"tensor_count": 1, "parameter_count": 1, "metadata": {}, "version": "v1"}
        return catalog.record(seen, digest("a"), bad, LORA, is_quarantined=is_quarantined, **options).state

    assert record(lying, is_quarantined=True) == "quarantined"
    sync(catalog, processes=1)
    assert catalog.show("a.ckpt").entry.state == "quarantined"
    lying.rename(folder / "a.ckpt")
    assert record(folder / "a.ckpt", is_quarantined=False) == "live"
    assert [place.state for place in catalog.show("a").locations] == ["live", "moved"]


def test_what_was_removed_from_quarantine(catalog: Catalog, shelf: Shelf, tmp_path: Path) -> None:
    """A file that somebody removed from quarantine is gone, once it is looked for; others stay, and so do those on a
    disk that is not plugged in."""
    (tmp_path / "b.ckpt").write_bytes(b"x")
    here = tmp_path.stat().st_dev
    for name, device in (("a", here), ("b", here), ("c", here + 1)):
        catalog.record(
            stat(str(tmp_path / "quarantine" / f"{name}.ckpt" if name != "b" else tmp_path / "b.ckpt"), dev=device),
            digest(name),
            report(Verdict.UNSAFE),
            LORA,
            tensor_count=1,
            parameter_count=1,
            metadata={},
            version="v1",
            is_quarantined=True,
        )
    catalog.origins.forget_quarantined()
    states = [catalog.show(each).entry.state for each in ("a", "b", "c")]
    assert states == ["gone", "quarantined", "quarantined"]


def test_what_came_from_the_network(catalog: Catalog, shelf: Shelf) -> None:
    """All records that were downloaded and are there, or those of the artifacts that are named."""
    shelf.put("/m/a.ckpt", "A")
    shelf.put("/m/a.safetensors", "B")
    shelf.put("/m/c.safetensors", "C")
    catalog.derive("convert", output=digest("B"), inputs=[(digest("A"), "source")], params={}, version="v1")
    catalog.origins.put_download(digest("A"), CAME)
    [found] = catalog.origins.downloaded([])
    assert (found.entry.path, found.is_folder, found.download.address) == ("/m/a.ckpt", False, CAME.address)
    assert catalog.origins.downloaded(["a.safetensors"]) == [found]
    assert catalog.origins.downloaded(["c"]) == []
    with pytest.raises(Conflict):
        catalog.origins.downloaded(["nothing"])
