"""A user's own prompts: what the file may say, and what goes before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelhub.errors import Malformed, NotFound
from modelhub.smoke import PROMPTS, Settings
from modelhub.smoke.prompts import with_prompts


def read(text: str, settings: Settings | None = None) -> Settings:
    Path("prompts.toml").write_text(text)
    return with_prompts(settings or Settings(), "prompts.toml")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_file_says_how_models_are_sampled() -> None:
    """Prompts, the negative one, seeds, guidance, steps and size are taken; what is not said stays as it was."""
    found = read(
        'prompts = ["a", "b", "c"]\nnegative = "blurry"\nseeds = [3, 1]\nguidance = 5\nsteps = 30\nsize = 768\n'
    )
    assert (found.prompts, found.negative, found.seeds) == (("a", "b", "c"), "blurry", (3, 1))
    assert (found.guidance, found.steps, found.size, found.preset) == (5, 30, 768, "quick")
    assert read('negative = "x"').prompts == PROMPTS


def test_an_option_goes_before_the_file() -> None:
    """Steps, size and seed of the command line are not overruled; with a seed of one's own there are no others."""
    found = read("steps = 30\nsize = 768\nseeds = [3, 1]", Settings(steps=2, size=64, seed=9))
    assert (found.steps, found.size, found.seed, found.seeds) == (2, 64, 9, ())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('prompt = ["a", "b"]', "there is no 'prompt'; the nearest is 'prompts'"),
        ("guidence = 3", "there is no 'guidence'; the nearest is 'guidance'"),
        ('prompts = ["a"]', "prompts is ['a'], not a list of 2 to 16 different texts"),
        ('prompts = ["a", "a"]', "not a list of 2 to 16 different texts"),
        ('prompts = ["a", 1]', "not a list of 2 to 16 different texts"),
        ('prompts = ["a", " "]', "not a list of 2 to 16 different texts"),
        ("prompts = 3", "not a list of 2 to 16 different texts"),
        ("seeds = [-1]", "not a list of 1 to 16 different whole numbers from 0"),
        ("seeds = [true]", "not a list of 1 to 16 different whole numbers from 0"),
        ("seeds = [[1]]", "not a list of 1 to 16 different whole numbers from 0"),
        ("guidance = nan", "guidance is nan, not a number from 0 to 50"),
        ("guidance = 1" + "0" * 400, "not a number from 0 to 50"),
        ("guidance = true", "not a number from 0 to 50"),
        ("steps = 0", "not a whole number from 1 to 150"),
        ("size = 100", "size is 100, not a multiple of 64 from 64 to 2048"),
        ("negative = 3", "negative is 3, not a text"),
        ("steps = ", "not a file of prompts"),
    ],
)
def test_what_is_not_known_or_makes_no_sense_is_refused(text: str, told: str) -> None:
    """Nothing of a file that says something else is taken: the message names the field and what it may be."""
    with pytest.raises(Malformed) as caught:
        read(text)
    assert told in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_said() -> None:
    """Neither is a crash."""
    with pytest.raises(NotFound, match=r"no\.toml: no such file of prompts"):
        with_prompts(Settings(), "no.toml")
    Path("bytes.toml").write_bytes(b"\xff\xfe" * 10)
    with pytest.raises(Malformed, match="not a file of prompts"):
        with_prompts(Settings(), "bytes.toml")
