"""Textual inversions and hypernetworks, and what is taken for them elsewhere."""

from __future__ import annotations

import pytest

from modelhub.identify import identify_state_dict
from modelhub.samples.layouts import embedding, hypernetwork
from modelhub.tensors import DType
from tests.identify.build import Shape, known, reasons, state_dict


@pytest.mark.parametrize("architecture", ["sd-1", "sd-2", "sdxl"])
def test_safetensors_embedding(architecture: str) -> None:
    """Embeddings as sd-scripts writes them are known by the width of their vectors."""
    identity = known(embedding(architecture))  # type: ignore[arg-type]
    assert (identity.kind, identity.architecture, identity.candidates) == ("embedding", architecture, ())
    assert identity.prediction_type is None


@pytest.mark.parametrize("name", ["string_to_param.*", "string_to_param._parameters.*", "string_to_param.a token"])
@pytest.mark.parametrize("shape", [(768,), (1, 768), (12, 768)])
def test_a1111_embedding(name: str, shape: Shape) -> None:
    """A1111's ``.pt`` embeddings are known by the name under which they keep their vectors."""
    identity = known({name: shape})
    assert (identity.kind, identity.architecture) == ("embedding", "sd-1")


@pytest.mark.parametrize(
    ("width", "architecture", "candidates"),
    [(768, None, ("sd-1", "sdxl")), (1024, "sd-2", ()), (1280, None, ("sdxl", "sdxl-refiner"))],
)
@pytest.mark.parametrize(("token", "confidence"), [("<my-cat>", "high"), ("my cat", "medium")])
def test_diffusers_embedding(
    token: str, confidence: str, width: int, architecture: str | None, candidates: tuple[str, ...]
) -> None:
    """diffusers keeps a vector under its token; 768 may be SD 1's or half of an SDXL embedding."""
    for shape in ((width,), (3, width)):
        identity = known({token: shape}, dtype=DType.F32)
        assert (identity.kind, identity.architecture, identity.candidates) == ("embedding", architecture, candidates)
        assert reasons(identity, "kind")[0].confidence == confidence


@pytest.mark.parametrize(
    ("shapes", "architecture", "candidates"),
    [
        ({"clip_l": (4, 768), "clip_g": (4, 1280)}, "sdxl", ()),
        ({"clip_l": (4, 768)}, None, ("sdxl", "sd-3", "flux")),
        ({"clip_g": (4, 1280)}, None, ("sdxl", "sdxl-refiner", "cascade", "sd-3")),
        ({"clip_l": (4, 768), "clip_g": (4, 1280), "t5xxl": (4, 4096)}, "sd-3", ()),
    ],
)
def test_embedding_for_several_encoders(
    shapes: dict[str, Shape], architecture: str | None, candidates: tuple[str, ...]
) -> None:
    """Vectors for CLIP L and G together are SDXL's; one half alone leaves candidates."""
    identity = known(shapes)
    assert (identity.kind, identity.architecture, identity.candidates) == ("embedding", architecture, candidates)


@pytest.mark.parametrize(
    "shapes",
    [
        {"lora_unet_x.lora_down.weight": (4, 768), "lora_unet_x.lora_up.weight": (768, 4)},
        {f"lora_te_text_model_encoder_layers_{i}_mlp_fc1.lora_down.weight": (1, 768) for i in range(4)},
    ],
)
def test_tiny_lora_is_no_embedding(shapes: dict[str, Shape]) -> None:
    """Fewer than ten tensors 768 wide do not make an embedding of a LoRA."""
    assert known(shapes).kind == "lora"


@pytest.mark.parametrize(
    "shapes",
    [
        {"weight": (10, 768)},
        {"layer.bias": (768,)},
        {"0": (768,)},
        {"token": (768, 768)},
        {"token": (700,)},
        {"token": ()},
        {"string_to_param.*": ()},
        {"one": (768,), "two": (1280,)},
    ],
)
def test_vectors_of_something_else(shapes: dict[str, Shape]) -> None:
    """Parameters of ordinary layers, matrices and odd widths are no embeddings."""
    assert known(shapes).kind is None


def test_integers_are_no_vectors() -> None:
    """Token vectors are floating point numbers."""
    assert known({"<token>": (768,)}, dtype=DType.I64).kind is None


def flat(widths: tuple[int, ...]) -> dict[str, Shape]:
    """A hypernetwork as its nested dicts are flattened."""
    return {
        f"{width}.{index}.{name}": shape
        for width, pair in hypernetwork(widths).items()
        for index, module in enumerate(pair)
        for name, (_, shape) in module.items()
    }


@pytest.mark.parametrize(
    ("widths", "architecture", "candidates"),
    [
        ((320, 640, 768, 1280), "sd-1", ()),
        ((320, 640, 1024, 1280), "sd-2", ()),
        ((768,), "sd-1", ()),
        ((320, 640, 1280), None, ("sd-1", "sd-2", "sdxl")),
        ((768, 1024), None, ("sd-1", "sd-2")),
    ],
)
def test_hypernetwork(widths: tuple[int, ...], architecture: str | None, candidates: tuple[str, ...]) -> None:
    """A hypernetwork is told by its widths; those that all architectures have leave them all open."""
    contents = {name: (DType.F32, shape) for name, shape in flat(widths).items()}
    identity = identify_state_dict(state_dict(contents, scalars={"activation_func": "relu", "step": 5000}))
    assert (identity.kind, identity.architecture, identity.candidates) == ("hypernetwork", architecture, candidates)
    assert identity.precision == "fp32"
    assert any("relu" in each.detail for each in identity.evidence)


def test_hypernetwork_of_the_first_days() -> None:
    """Before layers were configurable they were called ``linear1`` and ``linear2``."""
    shapes = {
        f"768.{index}.linear{layer}.{leaf}": shape
        for index in (0, 1)
        for layer, size in ((1, (1536, 768)), (2, (768, 1536)))
        for leaf, shape in (("weight", size), ("bias", size[:1]))
    }
    identity = known(shapes)
    assert (identity.kind, identity.architecture) == ("hypernetwork", "sd-1")


def test_other_numbered_names() -> None:
    """Numbers that are no attention widths make no hypernetwork."""
    assert known({"1.0.linear.0.weight": (8, 8), "2.0.linear.0.weight": (8, 8)}).kind is None
