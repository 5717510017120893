"""Names that are fit for every file system, whatever is put into them."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhub.errors import SettingsError
from modelhub.organising.naming import FIELDS, Template, folded, safe_name

ANY = st.text(st.characters() | st.sampled_from("./\\:*? \udcff"), max_size=300)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../etc/passwd", "-..-etc-passwd"),
        ("..", "_"),
        ("", "_"),
        (" .hidden", "hidden"),
        ("CON", "_CON"),
        ("aux.v1", "_aux.v1"),
        ("lpt1 .x", "_lpt1 .x"),
        ("console", "console"),
        ("a<b>:c|d?*", "a-b--c-d--"),
        ("ends with dots. .", "ends with dots"),
        ("line\nbreak\x1b[0m\u202e", "line-break-[0m-"),
        ("e\u0301", "\u00e9"),
        ("x" * 300, "x" * 255),
        ("\u00fc" * 200, "\u00fc" * 127),
    ],
)
def test_safe_name(name: str, expected: str) -> None:
    """What would be a path, a device, a hidden file, or too long, is none."""
    assert safe_name(name) == expected


@given(ANY, st.integers(1, 255))
def test_any_name(name: str, room: int) -> None:
    """Every text becomes one name of at most as many bytes as there are, and stays as it is the second time."""
    made = safe_name(name, room)
    assert made
    assert made not in (".", "..")
    assert not set(made) & set('/\\:*?<>|"\0')
    assert len(os.fsencode(made)) <= room
    assert made[0] != "."
    assert made[-1] not in ". "
    if room == 255:
        assert safe_name(made) == made


@given(st.dictionaries(st.sampled_from(FIELDS), ANY | st.none()))
def test_no_fact_leads_out(facts: dict[str, str | None]) -> None:
    """Whatever the facts are, a path has the template's number of parts at most, and each is a plain name."""
    try:
        parts = Template("{kind}/{architecture}-{variant}/{precision}/{name}").render(facts)
    except KeyError:
        assert not facts.get("name")
        return
    assert 2 <= len(parts) <= 4
    assert all(part == safe_name(part) for part in parts)


def test_what_is_not_known() -> None:
    """Kind and architecture have a folder for what is not known, other parts are left out."""
    template = Template("{kind}/{architecture}/{precision}/{variant}-{prediction_type}/{name}")
    assert template.render({"name": "a", "kind": "vae"}) == ("vae", "unknown", "a")
    assert template.render({"name": "a", "kind": "vae", "variant": "x"}) == ("vae", "unknown", "x", "a")


@pytest.mark.parametrize(
    "text", ["/{name}", "../{name}", "a//{name}", "{nobody}/{name}", "{kind}", "{name!r}", "{name:9}", "{", "~/{name}"]
)
def test_templates_that_are_none(text: str) -> None:
    """A template is a path inside the library that tells files apart."""
    with pytest.raises(SettingsError):
        Template(text)


def test_folded() -> None:
    """Names that one file system holds for the same are the same."""
    assert folded("Stra\u00dfe/E\u0301") == folded("STRASSE/\u00e9")
