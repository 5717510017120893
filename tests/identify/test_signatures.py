"""The signature files themselves."""

from __future__ import annotations

import json
import os

import pytest

from modelhub.identify import adapter_names, registry
from modelhub.identify.layers import layers
from modelhub.identify.registry import FAMILIES, Signature, architectures, family, in_order, read_table
from tests.identify.keylists.layers import TARGET, table

MODELS = [name for name in FAMILIES if name != "upscaler"]


def signatures() -> list[tuple[str, Signature]]:
    return [(name, each) for name in FAMILIES for each in (*family(name).signatures, *family(name).variants)]


def test_every_file_is_read() -> None:
    """Each signature file is known to the registry: none lies about unread."""
    folder = os.path.join(os.path.dirname(registry.__file__), "signatures")
    files = {name.removesuffix(".toml") for name in os.listdir(folder) if name.endswith(".toml")}
    assert files == {*FAMILIES, "architectures", "adapters"}


def test_every_signature_asks_for_something() -> None:
    """A signature without conditions would fit everything."""
    for name, each in signatures():
        assert each.has or each.shape or (each.lacks and each in family(name).variants), (name, each)


@pytest.mark.parametrize("name", ["unet", "transformer", "vae", "text_encoder"])
def test_models_are_told_by_whole_names(name: str) -> None:
    """Beginnings of names alone must not decide: a LoRA's names begin as its model's do."""
    for each in family(name).signatures:
        whole = [all(not entry.endswith((".", "*")) for entry in alternatives) for alternatives in each.has]
        assert each.shape or any(whole), each


@pytest.mark.parametrize("name", MODELS)
def test_architectures_are_known(name: str) -> None:
    """Every architecture that a signature names is in the list of architectures, and so has its place in it."""
    for each in (*family(name).signatures, *family(name).variants):
        for architecture in (each.architecture, *each.candidates, *each.of):
            assert architecture is None or architecture in architectures(), each
        assert not (each.architecture and each.candidates), each


def test_evidence_has_words() -> None:
    """Every signature and rule says why it decides, and how surely."""
    for _, each in signatures():
        assert each.because, each
        assert each.confidence in {"high", "medium", "low"}


def test_layers_are_those_of_the_models() -> None:
    """``layers.json`` is what the models' own names give, and speaks of known architectures."""
    with open(TARGET, encoding="utf-8") as file:
        assert json.load(file) == table()
    for each in layers().tables:
        assert set(each.architectures) <= set(architectures())


def test_beginnings_of_adapters() -> None:
    """Each beginning of names with candidates says why, and names known architectures."""
    for prefix in adapter_names._tables().prefixes:
        assert set(prefix.candidates) <= set(architectures())
        assert bool(prefix.candidates) == bool(prefix.because), prefix


def test_earlier_beginnings_do_not_hide_later_ones() -> None:
    """The first beginning that fits decides, so none may begin as an earlier one does."""
    begins = [prefix.begins for prefix in adapter_names._tables().prefixes]
    for position, each in enumerate(begins):
        assert not any(each.startswith(earlier) for earlier in begins[:position]), each


def test_unknown_fields_are_refused() -> None:
    """A misspelt field of a signature is an error and not silently nothing."""
    table = read_table("vae")["signature"][0]
    with pytest.raises(TypeError):
        registry._signature({**table, "achitecture": "sdxl"})


def test_candidates_are_in_the_order_of_the_list() -> None:
    """Candidates are listed in one order, whatever order they were found in."""
    assert in_order(("flux", "sdxl", "sd-1")) == ("sd-1", "sdxl", "flux")
