"""A CLIP model of the user's own says how well an image shows its prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from modelhub.samples.runnable import VOCABULARY, healthy, save
from modelhub.smoke import Limits, NotTestable, Settings, SmokeSpec, clip_of, judge
from modelhub.smoke.loading import place_of
from modelhub.smoke.prepare import prepare
from modelhub.smoke.run import Measured
from modelhub.smoke.scoring import Scorer
from modelhub.smoke.spec import CLIP
from modelhub.trials import Trials
from tests.smoke.course import carried_out, outcomes, unpassed
from tests.smoke.test_checks import MODEL, spec_of

SETTINGS = Settings(device="cpu", dtype="fp32", size=64)
TEXTS = ["a red bicycle", "a mountain lake"]


def clip_weights(width: int = 128) -> dict[str, torch.Tensor]:
    """A small CLIP model with both towers, never trained."""
    tower = {"hidden_size": width, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": width // 64}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=tower | {"vocab_size": VOCABULARY},
        vision_config=tower | {"patch_size": 16, "image_size": 64},
        projection_dim=32,
    )
    return {name: value.detach().clone() for name, value in CLIPModel(config).state_dict().items()}


@pytest.fixture
def vocabulary(tmp_path: Path) -> str:
    letters = [chr(code) + end for code in range(97, 123) for end in ("", "</w>")]
    words = [*letters, *(f"x{number}" for number in range(VOCABULARY - 2 - len(letters)))]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    return str(tmp_path)


def test_the_score_is_the_cosine_of_both_encodings(tmp_path: Path, vocabulary: str) -> None:
    """It is what transformers' own model makes of the same tokens and pixels, and other words have another."""
    path = save(clip_weights(), tmp_path / "clip.safetensors", torch.float32)
    with torch.inference_mode():
        scorer = Scorer(clip_of(path), vocabulary, place_of("cpu", "fp32"))
        grey = np.full((64, 64, 3), 0.5, np.float32)
        found = scorer.scores(grey, TEXTS)
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
        spread = torch.tensor([0.26862954, 0.26130258, 0.27577711])
        pixels = ((0.5 - mean) / spread)[None, :, None, None].expand(1, 3, 64, 64)
        made = (
            scorer._model(
                input_ids=torch.tensor([scorer._tokenizer(text) for text in TEXTS]), pixel_values=pixels
            ).logits_per_image
            / scorer._model.logit_scale.exp()
        )
    assert found == pytest.approx(made[0].tolist(), abs=1e-5)
    assert found[0] != found[1]
    assert all(-1 <= score <= 1 for score in found)


def test_a_models_image_is_scored(tmp_path: Path, vocabulary: str) -> None:
    """The score of the image with its prompt is a check of the test; a CLIP model that is not whole is told instead."""
    spec = prepare(
        save(healthy("sd-1"), tmp_path / "model.safetensors", torch.float32), replace(SETTINGS, tokenizer=vocabulary)
    )
    assert isinstance(spec, SmokeSpec)
    weights = clip_weights()
    clip = clip_of(save(weights, tmp_path / "clip.safetensors", torch.float32))
    result = carried_out(replace(spec, clip=clip), tmp_path)
    assert "clip.score" in outcomes(result)
    assert result.facts["clip"]["model"] == "clip.safetensors"  # type: ignore[index]
    del weights["vision_model.post_layernorm.weight"]
    clip = clip_of(save(weights, tmp_path / "half.safetensors", torch.float32))
    result = carried_out(replace(spec, clip=clip), tmp_path)
    assert "clip.score" not in outcomes(result)
    assert result.outcome in ("passed", "suspect")
    assert "it has no usable 'vision_model.post_layernorm.weight'" in str(result.facts["clip"])


def test_a_clip_model_that_cannot_be_run_is_no_fault_of_the_model(tmp_path: Path, vocabulary: str) -> None:
    """Of a tensor that does not fit, or words that it has no tokens for, the score's absence is all that is told."""
    spec = prepare(
        save(healthy("sd-1"), tmp_path / "model.safetensors", torch.float32), replace(SETTINGS, tokenizer=vocabulary)
    )
    assert isinstance(spec, SmokeSpec)
    odd, few = clip_weights(), clip_weights()
    odd["vision_model.post_layernorm.weight"] = torch.ones(3)
    few["text_model.embeddings.token_embedding.weight"] = torch.ones(2, 128)
    for weights in (odd, few):
        clip = clip_of(save(weights, tmp_path / "clip.safetensors", torch.float32))
        result = carried_out(replace(spec, clip=clip), tmp_path)
        assert result.outcome in ("passed", "suspect"), result.sentence
        assert str(result.facts["clip"]).startswith("not measured: ")


def test_a_clip_model_of_odd_shapes_is_none(tmp_path: Path) -> None:
    """A table of words that is no table is said, and no crash."""
    for name in ("text_model.embeddings.token_embedding.weight", "vision_model.embeddings.patch_embedding.weight"):
        for shape in ((5,), (0, 0), (4, 4, 0, 0)):
            weights = clip_weights() | {name: torch.ones(shape)}
            with pytest.raises(NotTestable, match="it is no CLIP model: its tensor"):
                clip_of(save(weights, tmp_path / "clip.safetensors", torch.float32))


def test_a_model_with_clips_words_is_given_clips_vocabulary(tmp_path: Path) -> None:
    """Its prompts are tokens that it was taught; a model of other words has the stand-in, unless a folder is named."""
    weights = healthy("sd-1")
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    few = prepare(save(weights, tmp_path / "few.safetensors", torch.float16), SETTINGS)
    weights[name] = torch.randn(49_408, weights[name].shape[1], generator=torch.Generator().manual_seed(1)) * 0.02
    path = save(weights, tmp_path / "all.safetensors", torch.float16)
    spec = prepare(path, SETTINGS)
    assert isinstance(few, SmokeSpec)
    assert isinstance(spec, SmokeSpec)
    assert (few.tokenizer, spec.tokenizer) == (None, CLIP)
    result = carried_out(spec, tmp_path)
    assert (result.outcome, result.facts["tokenizer"]) == ("passed", "CLIP"), result.sentence
    other = prepare(path, replace(SETTINGS, tokenizer=str(tmp_path)))
    assert isinstance(other, SmokeSpec)
    assert other.tokenizer == str(tmp_path)


@pytest.mark.parametrize(("own", "other", "found"), [(0.3, 0.2, {}), (0.2, 0.2, {"clip.score": "suspect"})])
def test_an_image_that_fits_another_prompt_better_is_suspect(own: float, other: float, found: dict[str, str]) -> None:
    """The two prompts of the test are held against each other: no threshold is needed."""
    values = MODEL | {"clip": {"prompt": own, "other": other, "model": "clip"}}
    assert unpassed(judge(spec_of("checkpoint"), Measured(values))) == found


def test_without_a_clip_model_it_is_said_that_nothing_is_measured(tmp_path: Path, vocabulary: str) -> None:
    """None in the catalog, one that is named and is none, one of other words: each is a reason, and no fault."""
    path = save(healthy("sd-1"), tmp_path / "model.safetensors")
    with Trials(None, SETTINGS, Limits()) as trials:
        assert trials._scorer(CLIP)[1] == "not measured: the catalog has no CLIP model with both towers (--clip)"
    with Trials(None, SETTINGS, Limits(), clip=path) as trials:
        assert "it is no CLIP model with both towers" in trials._scorer(CLIP)[1]
    clip = save(clip_weights(), tmp_path / "clip.safetensors", torch.float32)
    with Trials(None, SETTINGS, Limits(), clip=clip) as trials:
        assert f"it has {VOCABULARY} words, and not CLIP's 49408 (--tokenizer)" in trials._scorer(CLIP)[1]
        assert trials._scorer(vocabulary)[0] is not None
    result = judge(replace(spec_of("checkpoint"), no_clip="not measured: x"), Measured(MODEL))
    assert result.facts["clip"] == "not measured: x"
    with pytest.raises(NotTestable, match="no CLIP model with both towers"):
        clip_of(path)
