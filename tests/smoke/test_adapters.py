"""LoRAs, embeddings and hypernetworks on a base: what each of them must do, and what is made of one that does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modelhub.samples.runnable import Weights, from_picture, healthy, save, shapes
from modelhub.smoke import PROMPTS, Settings, SmokeResult, unet_parts
from modelhub.smoke.kept import Kept
from modelhub.smoke.prepare import prepare
from modelhub.smoke.spec import SmokeSpec
from tests.smoke.adapters import adapter, hypernetwork, modules
from tests.smoke.course import carried_out, outcomes, said_in, unpassed

SETTINGS = Settings(device="cpu", dtype="fp32", size=64)
Tried = Callable[..., SmokeResult]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        kind: save(healthy(kind), folder / f"{kind}.safetensors", torch.float32) for kind in ("sd-1", "sd-2", "sdxl")
    }


@pytest.fixture(scope="module")
def kept() -> Kept:
    """What a worker has of the adapter before: each base is loaded and sampled with alone once."""
    return Kept()


@pytest.fixture
def tried(tmp_path: Path, bases: dict[str, str], kept: Kept) -> Tried:
    def run(weights: Weights, base: str | None = "sd-1", metadata: dict[str, str] | None = None) -> SmokeResult:
        path = tmp_path / "adapter.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path, metadata)
        spec = prepare(str(path), SETTINGS, lambda _: bases.get(base or ""))
        return spec if isinstance(spec, SmokeResult) else carried_out(spec, tmp_path, kept)

    return run


def value(result: SmokeResult, name: str) -> float | None:
    return next(check.value for check in result.checks if check.name == name)


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr", "dora", "oft", "boft", "ia3"])
def test_an_adapter_of_every_sort_passes(tried: Tried, algorithm: str) -> None:
    """Each is used whole, changes the image, and leaves the base as it is at strength 0, whichever diffusers knows."""
    result = tried(adapter("sd-1", algorithm))
    assert (result.outcome, unpassed(result)) == ("passed", {}), result.sentence
    assert result.sentence == "it works on its base"
    assert {"adapter.used", "adapter.effect", "adapter.strength-0", "adapter.change"} <= outcomes(result).keys()
    assert value(result, "adapter.effect") > 0  # type: ignore[operator]
    assert result.image is not None


@pytest.mark.parametrize("architecture", ["sd-2", "sdxl"])
def test_a_lora_reaches_every_text_encoder(tried: Tried, architecture: str) -> None:
    """In SD 2 and SDXL, too, all modules are used, those of OpenCLIP's fused matrices among them."""
    result = tried(adapter(architecture), architecture)
    assert (result.outcome, unpassed(result)) == ("passed", {}), result.sentence


def test_a_lora_that_does_nothing_fails(tried: Tried) -> None:
    """Zeros load everywhere and change nothing: no loader says so, the test does."""
    weights = {name: t * 0 if "lora_up" in name else t for name, t in adapter().items()}
    assert unpassed(tried(weights)) == {"adapter.change": "failed", "adapter.effect": "failed"}


def test_a_lora_with_a_value_that_is_no_number_fails(tried: Tried) -> None:
    """The module is named, and nothing is sampled with it."""
    weights = adapter()
    name = next(iter(modules("sd-1")))
    weights[f"{name}.lora_up.weight"][0, 0] = torch.nan
    result = tried(weights)
    assert outcomes(result)["adapter.finite"] == "failed"
    assert name in result.sentence
    assert result.image is None


def test_a_lora_with_modules_of_no_use_is_suspect(tried: Tried) -> None:
    """What has no place in the base is named, with the reason; the rest is tried."""
    weights = adapter()
    weights["lora_unet_down_blocks_7_attentions_0_proj_in.lora_up.weight"] = torch.ones(4, 2)
    weights["lora_unet_down_blocks_7_attentions_0_proj_in.lora_down.weight"] = torch.ones(2, 4)
    result = tried(weights)
    assert unpassed(result) == {"adapter.used": "suspect"}
    assert "lora_unet_down_blocks_7_attentions_0_proj_in" in result.sentence


def test_an_adapter_for_another_architecture_is_not_tried(tried: Tried) -> None:
    """A base that it is not for says nothing of an adapter."""
    result = tried(adapter("sdxl"), "sd-1")
    assert result.outcome == "not testable"
    assert result.sentence.startswith("it is for sdxl, and ")


def test_without_a_base_it_is_tried_on_random_weights(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of its architecture that was never trained still shows that it loads and changes something."""
    monkeypatch.setattr(unet_parts, "random_shapes", shapes)
    result = tried(adapter(), None)
    assert (result.outcome, result.sentence) == ("passed", "it works on a base of random weights")
    assert result.facts["base"] == "random weights"


def test_a_random_base_has_the_shapes_of_published_models() -> None:
    """Adapters of full size fit it."""
    for kind in ("sd-1", "sd-2", "sdxl"):
        found = unet_parts.random_parts(kind)
        assert found.components["unet"].tensors is None
        assert found.shapes["unet"]["conv_in.weight"] == (320, 4, 3, 3)


@pytest.mark.parametrize("width", [768, 1024], ids=["sd-1", "sd-2"])
def test_an_embedding_passes(tried: Tried, width: int) -> None:
    """Its vectors stand in the prompt, and make another image of it."""
    result = tried(
        {"emb_params": torch.randn(3, width, generator=torch.Generator().manual_seed(1))},
        {768: "sd-1", 1024: "sd-2"}[width],
    )
    assert (result.outcome, unpassed(result)) == ("passed", {}), result.sentence
    assert "3 vectors for the text encoder" in str(result.checks)


def test_an_embedding_of_two_encoders_passes(tried: Tried) -> None:
    """SDXL's embeddings have vectors for each of its text encoders, and both are used."""
    generator = torch.Generator().manual_seed(1)
    pair = {"clip_l": torch.randn(2, 768, generator=generator), "clip_g": torch.randn(2, 1280, generator=generator)}
    result = tried(pair, "sdxl")
    assert (result.outcome, unpassed(result)) == ("passed", {}), result.sentence
    assert [check.name for check in result.checks].count("adapter.vectors") == 2


def test_an_embedding_of_nothing_is_suspect(tried: Tried) -> None:
    """Vectors without length are no words."""
    assert unpassed(tried({"emb_params": torch.zeros(2, 768)})) == {"adapter.vectors": "suspect"}


def test_an_embedding_that_is_no_number_fails(tried: Tried) -> None:
    """It would make every image black."""
    assert outcomes(tried({"emb_params": torch.full((2, 768), torch.nan)}))["adapter.finite"] == "failed"


@pytest.mark.parametrize("norm", [False, True])
def test_a_hypernetwork_passes(tried: Tried, norm: bool) -> None:
    """It stands before the keys and values of attentions of its width, and at strength 0 it is not there."""
    said = {"layer_structure": "[1, 2, 1]", "activation_func": "relu", "is_layer_norm": str(norm).lower()}
    result = tried(hypernetwork(norm=norm, size=0.02), metadata=said)
    assert (result.outcome, unpassed(result)) == ("passed", {}), result.sentence
    assert value(result, "adapter.strength-0") == 0


def test_a_hypernetwork_that_does_nothing_fails(tried: Tried) -> None:
    """Networks of zeros leave the image as it is."""
    assert unpassed(tried(hypernetwork(size=0.0))) == {"adapter.effect": "failed"}


@pytest.mark.parametrize("lost", [0, 1])
def test_half_a_hypernetwork_is_not_tried(tried: Tried, lost: int) -> None:
    """Of the two networks of a width, that for the keys and that for the values, neither can be done without."""
    result = tried({name: t for name, t in hypernetwork().items() if not name.startswith(f"768.{lost}.")})
    sentence = f"it has no network {lost} for what is 768 wide"
    assert (result.outcome, result.sentence) == ("not testable", sentence)


def test_a_hypernetwork_computes_what_its_definition_says(tmp_path: Path) -> None:
    """``x + W2 relu(W1 x + b1) + b2``, the last layer without activation, as AUTOMATIC1111's web UI has it."""
    from modelhub.smoke.applying import _network
    from modelhub.smoke.loading import Files

    weights = hypernetwork()
    path = tmp_path / "net.safetensors"
    save_file(weights, path, {"activation_func": "relu", "layer_structure": "[1, 2, 1]"})
    save(healthy("sd-1"), tmp_path / "base.safetensors")
    spec = prepare(str(path), SETTINGS, lambda _: str(tmp_path / "base.safetensors"))
    assert isinstance(spec, SmokeSpec)
    assert spec.adapter is not None
    (networks,) = spec.adapter.networks
    x = torch.randn(5, 768, generator=torch.Generator().manual_seed(2))
    first, second = (weights[f"768.0.linear.{i}.weight"] for i in (0, 2))
    expected = torch.relu(x @ first.T + weights["768.0.linear.0.bias"]) @ second.T + weights["768.0.linear.2.bias"]
    assert torch.allclose(_network(networks.keys, Files(spec.files, torch.device("cpu")))(x), expected, atol=1e-4)


def test_a_base_that_fails_says_nothing_of_the_adapter(tmp_path: Path, tried: Tried) -> None:
    """A fault of the base is told as one."""
    weights = healthy("sd-1")
    weights["model.diffusion_model.out.2.bias"][0] = torch.nan
    base = save(weights, tmp_path / "broken.safetensors", torch.float32)
    save_file(adapter(), tmp_path / "lora.safetensors")
    spec = prepare(str(tmp_path / "lora.safetensors"), SETTINGS, lambda _: base)
    assert isinstance(spec, SmokeSpec)
    result = carried_out(spec, tmp_path)
    assert result.outcome == "not testable"
    assert result.sentence.startswith("its base fails: NaN or infinite values are in")


@pytest.mark.parametrize("weights", [adapter(), {"emb_params": torch.randn(3, 768)}], ids=["lora", "embedding"])
def test_a_base_that_starts_from_a_picture_is_given_one(tmp_path: Path, weights: Weights) -> None:
    """An adapter is tried on a model for inpainting as on any other of its architecture."""
    base = save(from_picture("sd-1", 9), tmp_path / "inpainting.safetensors", torch.float32)
    save_file(weights, tmp_path / "adapter.safetensors")
    settings = replace(SETTINGS, preset="thorough", steps=1, prompts=PROMPTS[:2], seeds=(0, 1))
    spec = prepare(str(tmp_path / "adapter.safetensors"), settings, lambda _: base)
    assert isinstance(spec, SmokeSpec)
    assert spec.pipeline == "StableDiffusionInpaintPipeline"
    result = carried_out(spec, tmp_path)
    assert outcomes(result)["adapter.effect"] == "passed", result.sentence
    assert "grid.images" in outcomes(result)
    made = "Steps: 1, CFG scale: 7.0, Seed: {}, Size: 64x64, Model: adapter.safetensors, Tokenizer: stand-in"
    assert said_in(result.image) == f"{PROMPTS[0]}\n{made.format(0)}"
    assert said_in(result.grid) == f"{PROMPTS[0]}\n{PROMPTS[1]}\n{made.format('0 1')}"


def test_a_base_is_loaded_once_for_many_adapters(tmp_path: Path, bases: dict[str, str]) -> None:
    """The next adapter finds the base as it was, and is told the same as if it had been the first."""
    kept = Kept()
    specs = []
    for algorithm in ("dora", "lora"):
        path = tmp_path / f"{algorithm}.safetensors"
        save_file(adapter("sd-1", algorithm), path)
        spec = prepare(str(path), SETTINGS, lambda _: bases["sd-1"])
        assert isinstance(spec, SmokeSpec)
        specs.append(spec)
    first = carried_out(specs[0], tmp_path, kept)
    second = carried_out(specs[1], tmp_path, kept)
    assert first.outcome == second.outcome == "passed"
    assert second.checks == carried_out(specs[1], tmp_path).checks
    assert "sampling with the base alone" in second.seconds
    assert len(kept.alone) == 1
