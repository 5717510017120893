"""SD 3, SD 3.5 and FLUX.1: what is run of them, what they need, and that each fault is caught by its check."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from modelhub.convert.layouts import CHECKPOINT, Shape
from modelhub.errors import ConversionError
from modelhub.samples.autoencoder import autoencoder
from modelhub.samples.flows import FluxTransformer, JointTransformer, flux_transformer, joint_transformer, t5_encoder
from modelhub.samples.modules import Named
from modelhub.samples.runnable import Weights, save
from modelhub.samples.runnable_flows import CLIP_G, CLIP_L, T5, TRANSFORMER, healthy_flow, t5_tokenizer, vae_prefix
from modelhub.samples.text_encoders import CLIP_G as BIG
from modelhub.samples.text_encoders import CLIP_L as LARGE
from modelhub.samples.text_encoders import clip_text_model
from modelhub.smoke import Settings, SmokeResult, SmokeSpec, tokens
from modelhub.smoke.encoding import encoding_of
from modelhub.smoke.flow_parts import flow_components
from modelhub.smoke.loading import CannotLoad, Files, load, place_of, skeleton
from modelhub.smoke.parts import Incomplete, NotTestable, Opened
from modelhub.smoke.pipelines import pipeline_of
from modelhub.smoke.prepare import prepare
from modelhub.smoke.spec import TensorView
from modelhub.smoke.telling import Teller
from modelhub.smoke.tokens import tokenizer_for
from tests.smoke.course import carried_out, outcomes, unpassed
from tests.smoke.flows import as_folder

SETTINGS = Settings(device="cpu", dtype="fp32", size=64)
NEVER_RUN = "not testable"


def run(path: str, folder: Path, settings: Settings = SETTINGS, base: str | None = None) -> SmokeResult:
    spec = prepare(path, settings, lambda _: base)
    return spec if isinstance(spec, SmokeResult) else carried_out(spec, folder)


def file_of(weights: Weights, folder: Path, name: str = "model") -> str:
    return save(weights, folder / f"{name}.safetensors", torch.float32)


def test_sd_3_in_one_file_is_run_without_t5(tmp_path: Path) -> None:
    """A file has no tokenizer of T5, which SD 3 can do without: the result says that it was left out."""
    result = run(file_of(healthy_flow("sd-3"), tmp_path), tmp_path, replace(SETTINGS, size=128))
    assert (result.outcome, unpassed(result)) == ("passed", {}), result.sentence
    assert result.sentence == "it generates, without T5: its tokenizer is not there"
    assert result.facts["pipeline"] == "StableDiffusion3Pipeline"
    assert result.facts["guidance"] == 7.0
    assert {"transformer.probe", "sampling.guidance", "latents.deviation"} <= outcomes(result).keys()
    assert result.image is not None


@pytest.mark.usefixtures("plain_pictures")
@pytest.mark.parametrize("kind", ["sd-3.5", "flux-dev", "flux-schnell"])
def test_a_folder_with_all_parts_passes_every_check(tmp_path: Path, kind: str) -> None:
    """With T5 and its tokenizer SD 3.5, FLUX.1 dev and schnell generate; the transformer may lie in shards."""
    folder = as_folder(healthy_flow(kind), tmp_path / "model", shards=kind == "flux-dev")
    result = run(folder, tmp_path)
    assert (result.outcome, result.sentence, unpassed(result)) == ("passed", "it generates", {})
    guidance = {"sd-3.5": 7.0, "flux-dev": 3.5, "flux-schnell": 1.0}[kind]
    assert result.facts["guidance"] == guidance
    assert ("sampling.guidance" in outcomes(result)) == (kind != "flux-schnell")


@pytest.mark.parametrize("kind", ["sd-3", "flux-dev"])
def test_the_standard_preset_starts_from_a_picture_too(tmp_path: Path, kind: str) -> None:
    """Flows start from a picture as other models do."""
    folder = as_folder(healthy_flow(kind), tmp_path / "model")
    result = run(folder, tmp_path, replace(SETTINGS, preset="standard", steps=2))
    assert outcomes(result)["image-to-image.picture"] == "passed"
    assert unpassed(result).keys() <= {"transformer.probe"}


def test_flux_in_one_file_needs_the_tokenizer(tmp_path: Path) -> None:
    """FLUX.1 cannot do without T5: what is lacking is said, and what to do."""
    result = run(file_of(healthy_flow("flux-dev"), tmp_path), tmp_path)
    assert (result.outcome, result.sentence) == (
        NEVER_RUN,
        "it has no tokenizer of T5 (--base names a model that has)",
    )


@pytest.mark.usefixtures("plain_pictures")
@pytest.mark.parametrize("kind", ["sd-3", "flux-dev"])
def test_a_transformer_alone_is_run_with_the_parts_of_a_base(tmp_path: Path, kind: str) -> None:
    """What it lacks comes from the base, the transformer is its own: one of zeros is found out."""
    base = as_folder(healthy_flow(kind), tmp_path / "base")
    alone = {name: value for name, value in healthy_flow(kind).items() if name.startswith(TRANSFORMER)}
    bare = {name.removeprefix(TRANSFORMER): value for name, value in alone.items()}
    lost = run(file_of(bare, tmp_path), tmp_path)
    assert lost.outcome == NEVER_RUN
    assert lost.sentence.startswith("it has no VAE and no text encoder CLIP-L and no text encoder ")
    result = run(file_of(bare, tmp_path), tmp_path, base=base)
    assert (result.outcome, result.sentence, unpassed(result)) == ("passed", "it generates", {})
    assert (result.kind, result.facts["base"]) == ("diffusion-model", base)
    zeros = {name: torch.zeros_like(value) for name, value in bare.items()}
    found = unpassed(run(file_of(zeros, tmp_path), tmp_path, base=base))
    assert found["transformer.probe"] == "suspect"
    assert found["sampling.prompt"] == "failed"


def test_a_base_gives_the_tokenizer_alone(tmp_path: Path) -> None:
    """A file of FLUX.1 that has T5 needs nothing else of the base, and has none of its files."""
    base = as_folder(healthy_flow("flux-dev"), tmp_path / "base")
    spec = prepare(file_of(healthy_flow("flux-schnell"), tmp_path), SETTINGS, lambda _: base)
    assert isinstance(spec, SmokeSpec)
    assert (len(spec.files), spec.base) == (1, base)
    assert spec.t5 == str(tmp_path / "base" / "tokenizer_2" / "tokenizer.json")


def test_a_base_of_another_architecture_gives_nothing(tmp_path: Path) -> None:
    """The parts of SD 3 are none for FLUX.1."""
    base = file_of(healthy_flow("sd-3"), tmp_path, "base")
    result = run(file_of(healthy_flow("flux-dev", t5=False), tmp_path), tmp_path, base=base)
    assert (result.outcome, result.sentence) == (NEVER_RUN, f"it is for flux, and {base}, its base, is sd-3")


FAULTS: dict[str, tuple[str, Callable[[Weights], Any], tuple[str, str]]] = {
    "a NaN in the transformer": (
        "flux-dev",
        lambda weights: weights[f"{TRANSFORMER}single_blocks.0.linear1.bias"].fill_(torch.nan),
        ("weights.finite", "failed"),
    ),
    "a tensor that is not there": (
        "sd-3",
        lambda weights: weights.pop(f"{TRANSFORMER}joint_blocks.0.x_block.mlp.fc1.bias"),
        ("keys.missing", "failed"),
    ),
    "a tensor that nothing loads": (
        "sd-3",
        lambda weights: weights.update({f"{TRANSFORMER}joint_blocks.0.strange.weight": torch.ones(2)}),
        ("keys.unused", "suspect"),
    ),
    "a T5 that overflows": (
        "flux-schnell",
        lambda weights: weights[f"{T5}encoder.final_layer_norm.weight"].fill_(3e38),
        ("text.finite", "failed"),
    ),
    "a last layer whose halves are the other way round": (
        "sd-3",
        lambda weights: weights[f"{TRANSFORMER}final_layer.linear.weight"].copy_(
            -weights[f"{TRANSFORMER}final_layer.linear.weight"]
        ),
        ("transformer.probe", "suspect"),
    ),
    "guidance that is not heard": (
        "flux-dev",
        lambda weights: [weights[f"{TRANSFORMER}guidance_in.out_layer.{kind}"].zero_() for kind in ("weight", "bias")],
        ("sampling.guidance", "failed"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_caught(tmp_path: Path, fault: str) -> None:
    """Each is found by the check that it is for."""
    kind, spoil, (check, outcome) = FAULTS[fault]
    weights = healthy_flow(kind)
    spoil(weights)
    path = file_of(weights, tmp_path)
    result = run(as_folder(weights, tmp_path / "folder") if kind.startswith("flux") else path, tmp_path)
    assert unpassed(result)[check] == outcome, result.sentence


def test_sd_3_without_the_projection_of_its_text_encoder_fails(tmp_path: Path) -> None:
    """The pooled encoding of SD 3 needs it."""
    weights = healthy_flow("sd-3")
    del weights[f"{CLIP_L}text_projection.weight"]
    result = run(file_of(weights, tmp_path), tmp_path)
    assert (result.outcome, unpassed(result)) == ("failed", {"keys.missing": "failed"})
    assert f"{CLIP_L}text_projection.weight" in result.sentence


def test_a_transformer_without_a_tensor_that_tells_its_widths_fails(tmp_path: Path) -> None:
    """The tensor is called what it is called in the file."""
    weights = healthy_flow("flux-dev")
    del weights[f"{TRANSFORMER}txt_in.weight"]
    result = run(file_of(weights, tmp_path), tmp_path)
    assert (result.outcome, result.sentence) == ("failed", f"there is no tensor '{TRANSFORMER}txt_in.weight'")


@pytest.mark.parametrize("text", ["{", t5_tokenizer().replace('"w7": 10', '"w7": 9999')], ids=["broken", "another"])
def test_a_tokenizer_that_is_none_is_no_fault_of_the_model(tmp_path: Path, text: str) -> None:
    """One that is broken, or another model's, says nothing of this one."""
    folder = as_folder(healthy_flow("flux-schnell"), tmp_path / "model")
    Path(folder, "tokenizer_2", "tokenizer.json").write_text(text)
    with pytest.raises(CannotLoad, match="tokenizer"):
        run(folder, tmp_path, replace(SETTINGS, prompts=("w7 w8", "w9")))


class _Words:
    """A tokenizer as diffusers' pipelines take it, around one of ours."""

    model_max_length = 77
    added_tokens_encoder: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, tokenizer: Callable[[str], list[int]]) -> None:
        self._tokenizer = tokenizer

    def __call__(self, prompts: list[str], **_: Any) -> Any:
        return SimpleNamespace(input_ids=torch.tensor([self._tokenizer(each) for each in prompts]))

    def tokenize(self, text: str) -> list[str]:
        return text.split()


@pytest.mark.parametrize("kind", ["sd-3", "sd-3 without T5", "flux-dev"])
@torch.inference_mode()
def test_prompts_are_encoded_as_diffusers_does(tmp_path: Path, kind: str) -> None:
    """The encodings are bit for bit those of its pipelines."""
    spec = prepare(as_folder(healthy_flow(kind.split(maxsplit=1)[0]), tmp_path / "model"), SETTINGS)
    assert isinstance(spec, SmokeSpec)
    place = place_of("cpu", "fp32")
    with Teller(str(tmp_path / "told")) as teller:
        modules, _ = load(spec.components, Files(spec.files, place.device), place, teller)
    if kind.endswith("without T5"):
        del modules["text_encoder_3"]
    ours = encoding_of(spec, modules, place).encode("a red bicycle")
    pipeline = pipeline_of(spec.pipeline, modules, None)
    pipeline.tokenizer = _Words(tokenizer_for(modules["text_encoder"].config, None))
    assert spec.t5 is not None
    if kind.startswith("flux"):
        pipeline.tokenizer_2 = _Words(tokens.T5(spec.t5, 512))
        tokens_of_theirs, pooled, _ = pipeline.encode_prompt("a red bicycle")
    else:
        pipeline.tokenizer_2 = _Words(tokenizer_for(modules["text_encoder_2"].config, None))
        pipeline.tokenizer_3 = _Words(tokens.T5(spec.t5, 256))
        tokens_of_theirs, _, pooled, _ = pipeline.encode_prompt(
            "a red bicycle", None, None, do_classifier_free_guidance=False
        )
    assert torch.equal(ours.tokens, tokens_of_theirs)
    assert ours.pooled is not None
    assert torch.equal(ours.pooled, pooled)


def test_what_is_not_run_is_named(tmp_path: Path) -> None:
    """FLUX.1 fill takes more channels, and weights in scaled fp8 are not what they stand for."""
    fill = healthy_flow("flux-dev")
    fill[f"{TRANSFORMER}img_in.weight"] = torch.zeros(192, 384)
    assert run(file_of(fill, tmp_path), tmp_path).sentence == "there is no test yet for flux of the sort fill"
    scaled = healthy_flow("sd-3") | {f"{TRANSFORMER}scaled_fp8": torch.zeros(2)}
    assert "weights that are scaled" in run(file_of(scaled, tmp_path), tmp_path).sentence


def test_the_spec_crosses_as_json(tmp_path: Path) -> None:
    """What a worker is told is what was prepared, T5's tokenizer and halves that are swapped included."""
    spec = prepare(as_folder(healthy_flow("flux-dev"), tmp_path / "model"), SETTINGS)
    assert isinstance(spec, SmokeSpec)
    assert spec.t5 is not None
    assert SmokeSpec.from_json(spec.to_json()) == spec


def test_a_gpu_runs_t5_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """T5 overflows in fp16, which is what other models are run in."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert place_of("cuda", "auto", "FluxPipeline").dtype == torch.bfloat16
    assert place_of("cuda", "auto", "StableDiffusionPipeline").dtype == torch.float16


@pytest.mark.parametrize("kind", ["sd-3", "sd-3.5"])
def test_the_transformer_is_that_of_diffusers_own_converter(tmp_path: Path, kind: str) -> None:
    """Names and values are those that diffusers makes of the same file."""
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    path = file_of(healthy_flow(kind), tmp_path)
    spec = prepare(path, SETTINGS)
    assert isinstance(spec, SmokeSpec)
    files = Files(spec.files, torch.device("cpu"))
    ours = {name: files.see(view) for name, view in (spec.components["transformer"].tensors or {}).items()}
    own = {name: value for name, value in load_file(path).items() if name.startswith(TRANSFORMER)}
    theirs = convert_sd3_transformer_checkpoint_to_diffusers(own)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


FULL_SIZE: dict[str, tuple[str, Named]] = {
    "sd-3-medium": ("sd-3", joint_transformer(JointTransformer())),
    "sd-3.5-medium": ("sd-3", joint_transformer(JointTransformer(dual=13, normed=True, positions=384))),
    "sd-3.5-large": ("sd-3", joint_transformer(JointTransformer(heads=38, blocks=38, normed=True))),
    "flux-dev": ("flux", flux_transformer(FluxTransformer())),
    "flux-schnell": ("flux", flux_transformer(FluxTransformer(guided=False))),
}


@pytest.mark.parametrize("model", FULL_SIZE)
def test_every_tensor_of_a_published_model_has_its_place(model: str) -> None:
    """In full size, without memory for it: modules built from our configurations take every tensor, and lack none."""
    architecture, transformer = FULL_SIZE[model]
    named: dict[str, Shape] = {TRANSFORMER + name: shape for name, shape in transformer}
    named |= {vae_prefix(architecture) + name: shape for name, shape in autoencoder(1.0, 16)}
    named |= {T5 + name: shape for name, shape in t5_encoder()}
    for prefix, encoder in {CLIP_L: LARGE, **({CLIP_G: BIG} if architecture == "sd-3" else {})}.items():
        inner = dict(clip_text_model(encoder))
        named |= {prefix + name: shape for name, shape in inner.items() if not name.endswith("position_ids")}
        if architecture == "sd-3":
            named[f"{prefix}text_projection.weight"] = (encoder.width, encoder.width)
    found = Opened((), {CHECKPOINT: named}, {(CHECKPOINT, name): (0, name) for name in named})
    components, _ = flow_components(found, architecture)
    assert len(components) == (5 if architecture == "sd-3" else 4)
    used = set()
    for component in components.values():
        tensors = component.tensors or {}
        module = skeleton(component)
        own = module.state_dict().keys()
        bare = not any(name.startswith("text_model.") for name in own)
        weights = {
            name.removeprefix("text_model.") if bare else name: seen(view, named[view.name])
            for name, view in tensors.items()
        }
        module.load_state_dict(weights, strict=True, assign=True)
        used |= {view.name for view in tensors.values()}
    assert used == named.keys()


def seen(view: TensorView, shape: Shape) -> torch.Tensor:
    tensor = torch.empty(shape, device="meta")
    tensor = tensor if view.rows is None else tensor[view.rows[0] : view.rows[1]]
    return tensor if view.shape is None else tensor.reshape(view.shape)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["sd-3.5", "flux-dev"]),
    lost=st.sets(st.integers(0, 200), max_size=3),
    changed=st.dictionaries(st.integers(0, 200), st.lists(st.integers(0, 9), max_size=5), max_size=3),
)
@example(kind="sd-3.5", lost=set(), changed={1: [0]})
def test_no_shapes_make_it_raise(kind: str, lost: set[int], changed: dict[int, list[int]]) -> None:
    """Whatever is missing or of another shape, it is arranged, incomplete, or said why it is not tested."""
    named: dict[str, Shape] = {name: tuple(value.shape) for name, value in small(kind).items()}
    names = list(named)
    for number, shape in changed.items():
        named[names[number % len(names)]] = tuple(shape)
    for number in lost:
        named.pop(names[number % len(names)], None)
    found = Opened((), {CHECKPOINT: named}, {(CHECKPOINT, name): (0, name) for name in named})
    with suppress(NotTestable, Incomplete, ConversionError):
        flow_components(found, kind.partition("-")[0] if "flux" in kind else "sd-3")


@cache
def small(kind: str) -> Weights:
    return healthy_flow(kind)
