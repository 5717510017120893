"""CLIP's vocabulary, as it was published, and where it is used."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from modelhub import vocabulary

HORSE = [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 49407]
"""The ids of "a photo of an astronaut riding a horse"."""

PUBLISHED = {  # of tokenizer/ in the folder of Stable Diffusion 1.5
    "vocab.json": "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349",
    "merges.txt": "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
}


def test_it_is_the_published_one() -> None:
    """Its files have the digests of those that everybody has."""
    assert {name: hashlib.sha256(data).hexdigest() for name, data in vocabulary.as_files().items()} == PUBLISHED
    assert len(vocabulary.ids()) == vocabulary.WORDS
    assert len(vocabulary.merges()) == 48_894


def test_a_prompt_has_the_ids_that_clip_was_taught() -> None:
    """Case does not count; what is shorter than CLIP's 77 places is filled up with the end, or OpenCLIP's 0."""
    pytest.importorskip("transformers")
    from types import SimpleNamespace

    from modelhub.smoke.spec import CLIP
    from modelhub.smoke.tokens import tokenizer_for

    for activation, padding in (("quick_gelu", 49407), ("gelu", 0)):
        config = SimpleNamespace(hidden_act=activation, max_position_embeddings=77, vocab_size=49408)
        ids = tokenizer_for(config, CLIP)("A photo of an astronaut riding a HORSE")
        assert ids == HORSE + [padding] * 67


def test_a_tokenizer_of_its_files_is_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for name, data in vocabulary.as_files().items():
        (tmp_path / name).write_bytes(data)
    assert json.loads((tmp_path / "vocab.json").read_bytes()) == vocabulary.ids()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    assert tokenizer("a photo of an astronaut riding a horse")["input_ids"] == HORSE
