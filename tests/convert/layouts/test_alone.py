"""Autoencoders and text encoders that lie alone, under the names of either layout."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub.convert.layouts import Shape, to_autoencoder, to_diffusers, to_text_encoder
from modelhub.errors import ConversionError
from modelhub.samples.autoencoder import autoencoder
from modelhub.samples.text_encoders import CLIP_G, CLIP_L, TextEncoder, clip_text_model, open_clip


@pytest.mark.parametrize("latents", [4, 16])
def test_both_layouts_of_an_autoencoder_are_arranged_alike(latents: int) -> None:
    """LDM's names become diffusers', which stay, and the configuration says whether there are 1x1 convolutions."""
    shapes = dict(autoencoder(0.25, latents))
    layout = to_autoencoder(shapes)
    assert (layout.missing, layout.unused) == ((), ())
    names = layout.components["vae"]
    own = {key: view.shape or shapes[view.name] for key, (view,) in names.items()}
    again = to_autoencoder(own)
    assert (again.missing, again.unused) == ((), ())
    assert again.components["vae"].keys() == names.keys()
    config = again.configs["vae/config.json"]
    assert config == layout.configs["vae/config.json"]
    assert (config["latent_channels"], config.get("use_quant_conv", True)) == (latents, latents == 4)


def test_four_channels_have_convolutions_behind_them() -> None:
    """Only the autoencoders of 16 channels go without; one that keeps them has them."""
    lost = {name: shape for name, shape in autoencoder(0.25) if "quant_conv" not in name}
    assert len(to_autoencoder(lost).missing) == 4
    kept = dict(autoencoder(0.25, 16)) | {"quant_conv.weight": (32, 32, 1, 1), "quant_conv.bias": (32,)}
    assert {name for _, name in to_autoencoder(kept).missing} == {"post_quant_conv.weight", "post_quant_conv.bias"}


@pytest.mark.parametrize("encoder", [CLIP_L, CLIP_G])
def test_openclips_names_become_those_of_transformers(encoder: TextEncoder) -> None:
    """Either way it has the tensors and the configuration of what transformers saves."""
    opened = to_text_encoder(dict(open_clip(encoder)))
    own = dict(clip_text_model(encoder)) | {"text_projection.weight": (encoder.width, encoder.width)}
    saved = to_text_encoder(own)
    assert (opened.missing, saved.missing, saved.unused) == ((), (), ())
    positions = {"text_model.embeddings.position_ids"}
    assert opened.components["text_encoder"].keys() == saved.components["text_encoder"].keys() - positions
    assert opened.configs == saved.configs
    assert saved.configs["text_encoder/config.json"]["num_hidden_layers"] == encoder.layers


def test_an_autoencoder_is_that_of_a_checkpoint() -> None:
    """It is arranged as the checkpoint that it is a part of."""
    shapes = dict(autoencoder(0.25))
    whole = to_diffusers({f"first_stage_model.{name}": shape for name, shape in shapes.items()})
    assert whole.components["vae"].keys() == to_autoencoder(shapes).components["vae"].keys()


def test_what_is_none_is_refused() -> None:
    """Neither is guessed of other names."""
    for arrange in (to_autoencoder, to_text_encoder):
        with pytest.raises(ConversionError, match="there is no"):
            arrange({"weight": (3, 3)})


@settings(max_examples=60, deadline=None)
@given(
    which=st.sampled_from(["vae", "clip", "open_clip"]),
    lost=st.sets(st.integers(0, 300), max_size=3),
    changed=st.dictionaries(st.integers(0, 300), st.lists(st.integers(0, 9), max_size=5), max_size=3),
)
def test_no_shapes_make_it_raise_anything_else(which: str, lost: set[int], changed: dict[int, list[int]]) -> None:
    """Whatever is missing or of another shape, it is arranged or refused."""
    small = TextEncoder(64, 2)
    named = {"vae": autoencoder(0.1), "clip": clip_text_model(small), "open_clip": open_clip(small)}[which]
    shapes: dict[str, Shape] = dict(named)
    names = list(shapes)
    for number, shape in changed.items():
        shapes[names[number % len(names)]] = tuple(shape)
    for number in lost:
        shapes.pop(names[number % len(names)], None)
    with suppress(ConversionError):
        (to_autoencoder if which == "vae" else to_text_encoder)(shapes)
