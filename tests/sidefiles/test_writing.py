"""The same facts in another dialect."""

from __future__ import annotations

import json

import pytest

from modelhub.sidefiles import Claims, ModelFile
from modelhub.sidefiles.reading import told_in
from modelhub.sidefiles.writing import SUFFIXES, Subject, is_ours, written

SUBJECT = Subject("/models/loras/harbour.v1.safetensors", "harbour.v1.safetensors", 1536, 1.5e9, "sdxl")
FACTS = Claims(
    name="Häfen <1>",
    version="v1",
    base_model="SDXL 1.0",
    kind="LORA",
    nsfw=False,
    favourite=True,
    creator="someone",
    triggers=("harbour at dusk", "watercolour"),
    negative="cars",
    weight=0.75,
    tags=("style", "boats"),
    description="Boats.\nAnd water.",
    notes="works best at night",
    model_id=4384,
    version_id=128713,
    url="https://civitai.com/models/4384?modelVersionId=128713",
    digests=(("sha256", "ab" * 32), ("autov3", "cd" * 32)),
    dated="2026-01-01T00:00:00Z",
)
LACKS = {
    "civitai": {"notes", "negative", "weight", "favourite"},
    "a1111": {"name", "version", "kind", "nsfw", "favourite", "creator", "tags", "dated", "digests"},
    "lora-manager": {"negative"},
}
"""What a dialect has no place for."""


@pytest.mark.parametrize("dialect", SUFFIXES)
def test_round_trip(dialect: str) -> None:
    """What was written reads as the same facts, but for those that the dialect has no place for."""
    data = written(dialect, FACTS, SUBJECT)
    told = told_in(data, dialect, "x", ModelFile(SUBJECT.name, SUBJECT.size))
    assert (told.dialect, told.problem) == (dialect, None)
    expected = {name: value for name, value in FACTS.as_dict().items() if name not in LACKS[dialect]}
    found = told.claims.as_dict()
    if dialect == "a1111":
        assert (found.pop("base_model"), found.pop("digests")) == ("SDXL", {"sha256": "ab" * 32})
        del expected["base_model"]
    assert found == expected


@pytest.mark.parametrize("dialect", SUFFIXES)
def test_of_nothing(dialect: str) -> None:
    """A model of which nothing is known makes a file that claims nothing but its file's name."""
    subject = Subject("/m/x.ckpt", "x.ckpt", None, 0.0, None)
    told = told_in(written(dialect, Claims(), subject), dialect, "x", ModelFile("x.ckpt"))
    assert told.problem is None
    assert told.claims.as_dict() in ({}, {"name": "x", "favourite": False})


def test_ours() -> None:
    """A file is ours as long as nobody has changed anything in it but its layout."""
    data = written("a1111", FACTS, SUBJECT)
    assert is_ours(data)
    parsed = json.loads(data)
    assert is_ours(json.dumps(parsed, indent=4, sort_keys=True).encode())
    assert not is_ours(json.dumps({**parsed, "notes": "mine"}).encode())
    for other in (b"", b"[]", b"{}", b'{"modelhub": 1}', b'{"modelhub": {"written": null}}', b"[" * 100_000):
        assert not is_ours(other)
