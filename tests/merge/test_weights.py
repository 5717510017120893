"""How strengths and recipes are written and read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhub.errors import SettingsError
from modelhub.merge import (
    AdapterUse,
    Precision,
    Recipe,
    RecipeAdapter,
    Weights,
    adapter_use,
    read_recipe,
    written_recipe,
)
from modelhub.merge.recipe import parsed_recipe
from modelhub.merge.weights import ROWS, strength_of


@pytest.mark.parametrize(
    ("text", "use"),
    [
        ("a.pt", AdapterUse("a.pt")),
        ("a.pt:0.8", AdapterUse("a.pt", Weights(0.8))),
        ("a.pt:-1", AdapterUse("a.pt", Weights(-1.0))),
        ("a.pt:unet=1,te=0.4", AdapterUse("a.pt", Weights(1.0, {"denoiser": 1.0, "text_encoders": 0.4}))),
        ("a.pt:0.5,te2=0,IN04=0.25", AdapterUse("a.pt", Weights(0.5, {"text_encoder_2": 0.0}, {"IN04": 0.25}))),
        ("a.pt:*attn2*=0.5", AdapterUse("a.pt", Weights(1.0, {}, {}, {"*attn2*": 0.5}))),
        (r"C:\\models\\a.pt", AdapterUse(r"C:\\models\\a.pt")),
        (r"C:\\a.pt:0.5", AdapterUse(r"C:\\a.pt", Weights(0.5))),
    ],
)
def test_adapters_as_people_name_them(text: str, use: AdapterUse) -> None:
    """A file, and behind a colon a number and the weights of parts; a drive's colon is none of that."""
    assert adapter_use(text) == use


def test_rows_of_blocks() -> None:
    """A row gives each of its blocks a weight, and the UNet's others none; its length says which blocks those are."""
    use = adapter_use("a.pt:lbw=" + "/".join(["1"] * 16 + ["0.5"]))
    assert use.weights.blocks["OUT11"] == 0.5
    assert use.weights.blocks["BASE"] == 1.0
    assert use.weights.blocks["IN00"] == use.weights.blocks["OUT02"] == 0.0  # which a row of 17 does not name
    assert {count: len(names) for count, names in ROWS.items()} == {12: 12, 17: 17, 20: 20, 26: 26, 61: 61}
    for names in ROWS.values():
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "text",
    "a:1,2x a:unett=1 a:lbw=1/2/3 a:nan=1 a:unet=nan a:unet=inf a:IN4=1 a:1,0.5 a:te=1,te=0 a:unet=1,transformer=0 "
    "a:0.5,".split(),
)
def test_what_is_no_weight(text: str) -> None:
    """Words and numbers that mean nothing are an error, and so are two weights of the same."""
    with pytest.raises(SettingsError):
        adapter_use(text)


def test_the_blocks_of_flux() -> None:
    """A row of 61 is FLUX's: both encoders apart, what lies before the blocks and behind; BASE is both encoders."""
    row = adapter_use("a.pt:lbw=" + "/".join(map(str, range(61)))).weights
    assert strength_of(row, ("text_encoder",), "CLIP", "x") == 0
    assert strength_of(row, ("text_encoder_2",), "T5", "x") == 1
    assert [row.blocks[name] for name in ("IN", "D00", "D18", "S00", "S37", "OUT")] == [2, 3, 21, 22, 59, 60]
    t5 = ("text_encoder_3", "text_encoder_3", "text_encoder_2")  # to kohya, and what the base's is called
    assert strength_of(Weights(1.0, {"text_encoder_2": 0.5}), t5, "T5", "x") == 0.5
    assert strength_of(Weights(1.0, {"text_encoder_2": 0.5, "text_encoder_3": 0.25}), t5, "T5", "x") == 0.25
    both = Weights(1.0, {}, {"BASE": 0.5, "T5": 0.25})
    assert strength_of(both, ("text_encoder",), "CLIP", "x") == 0.5
    assert strength_of(both, ("text_encoder_2",), "T5", "x") == 0.25


def test_strengths_multiply() -> None:
    """Component, block and the last pattern that fits are factors of the whole."""
    weights = Weights(0.5, {"denoiser": 2.0, "text_encoders": 0.1}, {"IN04": 3.0}, {"*to_q*": 7.0, "*attn2*": 5.0})
    assert strength_of(weights, ("denoiser",), "IN04", "x.attn1.to_q.weight") == 0.5 * 2 * 3 * 7
    assert strength_of(weights, ("denoiser",), "M00", "x.attn2.to_q.weight") == 0.5 * 2 * 5
    assert strength_of(weights, ("text_encoder_2",), "BASE", "y") == 0.5 * 0.1


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/\\"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)
NUMBERS = st.floats(-1e5, 1e5)


@given(
    NAMES,
    st.lists(
        st.tuples(NAMES, NUMBERS, st.dictionaries(st.sampled_from(["unet", "te", "te2", "IN04", "*a b*"]), NUMBERS)),
        min_size=1,
    ),
    st.sampled_from(["keep", "fp16", "bf16", "fp32"]),
    st.none() | st.integers(0, 2**31),
)
def test_recipes_are_read_as_they_were_written(base, adapters, dtype, seed) -> None:
    """Whatever names files have, a recipe written and read is the same recipe."""
    from modelhub.merge.weights import weights

    uses = tuple(RecipeAdapter(AdapterUse(name, weights(value, named)), "0" * 64) for name, value, named in adapters)
    recipe = Recipe(base, uses, Precision(dtype, False, seed), {base: "1" * 64})
    assert parsed_recipe(written_recipe(recipe).encode(), "", "recipe") == recipe


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_what_is_no_recipe_is_an_error(data: bytes) -> None:
    """Any bytes are either a recipe or an error in words."""
    with pytest.raises(SettingsError):
        parsed_recipe(data, "", "recipe")


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ('[[adapter]]\npath = "a"\nwieght = 0.5', "an adapter in a recipe has no 'wieght'"),
        ('sha265 = "0"', "the base in a recipe has no 'sha265'"),
        ('[[adapter]]\npath = "a"\nweight = nan', "nan is no weight"),
        ('[[adapter]]\npath = "a"\n[adapter.weights]\nte = 1e9', "1000000000.0 is no weight"),
        ('[[adapter]]\npath = "a"\nweight = true', "'weight' of an adapter in a recipe is a number"),
        ('[[adapter]]\npath = "a"\nblocks = [true]', "recipe: True is no weight"),
        ('[[adapter]]\npath = "a"\nweights = [1]', "'weights' of an adapter in a recipe is a table"),
        ("[[adapter]]\npath = 3", "'path' of an adapter in a recipe is a text"),
        ("[[adapter]]\nweight = 1", "an adapter in a recipe has a path"),
        ('[adapter]\npath = "a"', "a recipe has one or more [[adapter]]"),
        ("", "a recipe has one or more [[adapter]]"),
        ('sha256 = "0"', "'sha256' of the base in a recipe is a table"),
        ("[more]", "a recipe has no 'more'"),
    ],
)
def test_what_a_recipe_cannot_say_is_an_error(after: str, told: str) -> None:
    """A misspelt key, or a number that is no weight, is an error and not another merge."""
    with pytest.raises(SettingsError, match=re.escape(told)):
        parsed_recipe(f'schema = "modelhub.recipe/1"\n[base]\npath = "b"\n{after}'.encode(), "", "recipe")
    for head in ('exact = "no"', "seed = true"):
        with pytest.raises(SettingsError, match="true or false, and seed an integer"):
            parsed_recipe(f'schema = "modelhub.recipe/1"\n{head}\n[base]\npath = "b"'.encode(), "", "recipe")
    with pytest.raises(SettingsError, match="the base in a recipe is a table"):
        parsed_recipe(b'schema = "modelhub.recipe/1"\nbase = "b"', "", "recipe")


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    """A recipe can be moved together with its files."""
    recipe = Recipe(str(tmp_path / "a" / "base.ckpt"), (RecipeAdapter(AdapterUse(str(tmp_path / "l.pt"))),))
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "out.recipe.toml"
    path.write_text(written_recipe(recipe, str(tmp_path / "a")))
    assert 'path = "base.ckpt"' in path.read_text()
    assert Path(read_recipe(str(path)).adapters[0].use.path).resolve() == (tmp_path / "l.pt").resolve()
