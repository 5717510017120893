"""Layouts as pure functions: each direction is the other's inverse, and nothing is lost without a word."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub.convert.layouts import CHECKPOINT, UNPLACED, Told, View, to_diffusers, to_ldm, viewed_shape
from modelhub.errors import ConversionError, UnsupportedLayout
from modelhub.samples.layouts import Architecture, ema_name
from tests.convert.layouts.build import (
    ARCHITECTURES,
    SMALL,
    Weights,
    assert_equal,
    carried_out,
    random_weights,
    see,
    shapes_of,
)


def there(weights: Weights, told: Told | None = None) -> dict[str, Weights]:
    """The folder that *weights* become, what has no place in it included."""
    layout = to_diffusers({name: tuple(tensor.shape) for name, tensor in weights.items()}, told)
    assert not layout.missing
    return carried_out(layout, {CHECKPOINT: weights}) | {UNPLACED: {name: weights[name] for _, name in layout.unused}}


def back(folder: dict[str, Weights]) -> Weights:
    layout = to_ldm({part: {name: tuple(t.shape) for name, t in tensors.items()} for part, tensors in folder.items()})
    assert not layout.missing
    assert not layout.unused
    return carried_out(layout, folder)[CHECKPOINT]


@pytest.mark.parametrize(
    ("architecture", "extras"),
    [(architecture, {}) for architecture in ARCHITECTURES]
    + [("sd-1", {"ema": True}), ("sdxl", {"v_prediction": True})],
    ids=[*ARCHITECTURES, "sd-1-averages", "sdxl-markers"],
)
def test_there_and_back_is_the_identity(architecture: Architecture, extras: dict[str, bool]) -> None:
    """A checkpoint laid out as a folder and back has its names, shapes and values again, averaged weights included."""
    weights = random_weights(shapes_of(architecture, width=SMALL, **extras))
    assert_equal(back(there(weights)), weights)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_full_size_there_and_back_is_the_identity(architecture: Architecture) -> None:
    """So do the names and shapes of the files that people have."""
    shapes = shapes_of(architecture, ema=True)
    layout = to_diffusers(shapes)
    folder = {
        part: {name: viewed_shape(views, shapes) for name, views in tensors.items()}
        for part, tensors in layout.components.items()
    } | {UNPLACED: {name: shapes[name] for _, name in layout.unused}}
    again = to_ldm(folder)
    assert not again.unused
    found = {n: viewed_shape(views, folder[views[0].component]) for n, views in again.components[CHECKPOINT].items()}
    assert found == shapes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_element_goes_to_one_place(architecture: Architecture) -> None:
    """No element of a placed tensor is used twice and none is left out."""
    shapes = shapes_of(architecture)
    layout = to_diffusers(shapes)
    rows: dict[str, list[tuple[int, int]]] = {}
    for tensors in layout.components.values():
        for views in tensors.values():
            for view in views:
                rows.setdefault(view.name, []).append(view.rows or (0, shapes[view.name][0]))
    for name, taken in rows.items():
        assert [0, *(end for _, end in sorted(taken))] == [*(first for first, _ in sorted(taken)), shapes[name][0]], (
            name
        )
    assert {name for _, name in layout.unused} | rows.keys() == shapes.keys()
    assert not rows.keys() & {name for _, name in layout.unused}


def test_what_has_no_place_is_reported() -> None:
    """Averaged weights, schedules, markers and strangers are named; nothing else is."""
    shapes = dict(shapes_of("sd-1", width=SMALL, ema=True)) | {"first_stage_model.loss.logvar": (), "stranger": (3,)}
    unused = {name for _, name in to_diffusers(shapes).unused}
    schedule = {name for name in shapes_of("sd-1", width=SMALL) if "." not in name}
    averaged = {name for name in shapes if name.startswith("model_ema.")}
    assert unused == schedule | averaged | {"first_stage_model.loss.logvar", "stranger"}
    assert ema_name("model.diffusion_model.out.2.bias") in unused


@pytest.mark.parametrize(
    "lost",
    [
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.input_blocks.4.0.skip_connection.bias",
        "model.diffusion_model.output_blocks.5.2.conv.bias",
        "first_stage_model.decoder.up.3.block.2.conv2.weight",
        "first_stage_model.quant_conv.bias",
        "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc2.bias",
    ],
)
def test_what_should_be_there_and_is_not_is_reported(lost: str) -> None:
    """A checkpoint that lacks a tensor of a component says which one."""
    shapes = {name: shape for name, shape in shapes_of("sd-1", width=SMALL).items() if name != lost}
    assert to_diffusers(shapes).missing == ((CHECKPOINT, lost),)


def test_a_folder_that_lacks_a_tensor_says_which() -> None:
    """Of three matrices that make one, the lost one is named, and the others are not used."""
    folder = there(random_weights(shapes_of("sdxl", width=SMALL)))
    lost = "text_model.encoder.layers.3.self_attn.k_proj.weight"
    shapes = {part: {n: tuple(t.shape) for n, t in tensors.items() if n != lost} for part, tensors in folder.items()}
    del folder["text_encoder"], shapes["text_encoder"]
    layout = to_ldm(shapes)
    assert layout.missing == (("text_encoder_2", lost),)
    assert ("text_encoder_2", lost.replace("k_proj", "q_proj")) in layout.unused


@pytest.mark.parametrize("part", ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."])
def test_one_component_alone_is_a_folder_of_one(part: str) -> None:
    """A checkpoint of only a UNet, a VAE or a text encoder becomes a folder that has only that, and comes back."""
    weights = {n: t for n, t in random_weights(shapes_of("sd-1", width=SMALL)).items() if n.startswith(part)}
    folder = there(weights)
    assert len(folder) == 2
    assert folder[UNPLACED] == {}
    assert_equal(back(folder), weights)


def test_an_old_text_encoder_gets_the_names_of_today() -> None:
    """NovelAI's checkpoints leave ``text_model.`` out, as folders by transformers 5.6 do: both are understood."""
    weights = random_weights(shapes_of("sd-1", width=SMALL))
    old = {name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in weights.items()}
    assert old.keys() != weights.keys()
    folder = there(old)
    assert_equal(folder["text_encoder"], there(weights)["text_encoder"])
    folder["text_encoder"] = {n.removeprefix("text_model."): t for n, t in folder["text_encoder"].items()}
    assert_equal(back(folder), weights)


def test_an_old_autoencoder_is_understood() -> None:
    """Folders of diffusers before 0.16 name the VAE's attention otherwise, with the same tensors."""
    weights = random_weights(shapes_of("sd-1", width=SMALL))
    folder = there(weights)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    pattern = re.compile(r"(?<=attentions\.0\.)(to_[qkv]|to_out\.0)")
    renamed = {pattern.sub(lambda found: older[found[0]], name): tensor for name, tensor in folder["vae"].items()}
    assert renamed.keys() != folder["vae"].keys()
    assert_equal(back(folder | {"vae": renamed}), weights)


def test_an_attention_that_is_matrices_already_is_kept() -> None:
    """Checkpoints whose VAE has matrices where others have 1x1 convolutions come out with the same matrices."""
    weights = random_weights(shapes_of("sd-1", width=SMALL))
    squeezed = {n: t.flatten(1) if ".attn_1." in n and t.dim() == 4 else t for n, t in weights.items()}
    assert_equal(there(squeezed)["vae"], there(weights)["vae"])


def test_a_projection_that_is_not_square_is_turned_both_ways() -> None:
    """OpenCLIP's projection goes from rows to columns, diffusers' from columns to rows."""
    shapes = dict(shapes_of("sdxl", width=SMALL))
    name = "conditioner.embedders.1.model.text_projection"
    shapes[name] = (6, 4)
    weights = random_weights(shapes)
    folder = there(weights)
    assert torch.equal(folder["text_encoder_2"]["text_projection.weight"], weights[name].T)
    assert_equal(back(folder), weights)


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"a": (1,)},
        {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (9, 3)},
        {
            name: (*shape[:-1], 999) if name.endswith(".attn2.to_k.weight") else shape
            for name, shape in shapes_of("sd-1").items()
        },
        {
            name: (320, 7, 3, 3) if name.endswith(".input_blocks.0.0.weight") else shape
            for name, shape in shapes_of("sd-2").items()
        },
        dict(shapes_of("sd-1", width=SMALL)) | dict(shapes_of("sd-2", width=SMALL)),
    ],
    ids=["empty", "stranger", "flux", "width", "channels", "two-encoders"],
)
def test_what_is_no_stable_diffusion_is_refused(shapes: dict[str, tuple[int, ...]]) -> None:
    """A model that diffusers has no such folder for is refused in one sentence."""
    with pytest.raises(ConversionError, match=r"\w"):
        to_diffusers(shapes)


@pytest.mark.parametrize("folder", [{}, {"transformer": {"a": (1,)}}, {"unet": {"a": (1,)}}])
def test_a_folder_without_stable_diffusion_is_refused(folder: dict[str, dict[str, tuple[int, ...]]]) -> None:
    """So is a folder without any of the components."""
    with pytest.raises(ConversionError, match="in the folder"):
        to_ldm(folder)


NAMES = sorted(set(shapes_of("sd-1", width=SMALL)) | set(shapes_of("sdxl", width=SMALL)))


@settings(max_examples=20)
@given(
    architecture=st.sampled_from(ARCHITECTURES),
    changed=st.dictionaries(st.sampled_from(NAMES), st.lists(st.integers(0, 8), max_size=5).map(tuple), max_size=8),
    lost=st.sets(st.sampled_from(NAMES), max_size=3),
)
def test_no_shapes_make_it_fail_otherwise(architecture, changed, lost) -> None:
    """Whatever names and shapes a file claims: a layout in which every tensor is accounted for, or a refusal."""
    shapes = dict(shapes_of(architecture, width=SMALL)) | changed
    shapes = {name: shape for name, shape in shapes.items() if name not in lost}
    try:
        layout = to_diffusers(shapes)
    except ConversionError:
        return
    seen = {view.name for tensors in layout.components.values() for views in tensors.values() for view in views}
    assert seen | {name for _, name in layout.unused} == shapes.keys()


@settings(max_examples=20)
@given(architecture=st.sampled_from(ARCHITECTURES), data=st.data())
def test_no_folder_makes_it_fail_otherwise(architecture, data) -> None:
    """Nor does any folder: a checkpoint in which every tensor is accounted for, or a refusal."""
    single = shapes_of(architecture, width=SMALL)
    folder = {
        part: {name: viewed_shape(views, single) for name, views in tensors.items()}
        for part, tensors in to_diffusers(single).components.items()
    }
    for _ in range(data.draw(st.integers(0, 4))):
        part = folder[data.draw(st.sampled_from(sorted(folder)))]
        name = data.draw(st.sampled_from(sorted(part)))
        shape = data.draw(st.none() | st.lists(st.integers(0, 8), max_size=5).map(tuple))
        if shape is None:
            del part[name]
        else:
            part[name] = shape
    try:
        layout = to_ldm(folder)
    except ConversionError:
        return
    views = {view for made in layout.components[CHECKPOINT].values() for view in made}
    seen = {(view.component, view.name) for view in views}
    assert seen | set(layout.unused) == {(part, name) for part, tensors in folder.items() for name in tensors}


@settings(max_examples=100)
@given(data=st.data())
def test_a_view_reads_what_it_says(data) -> None:
    """Rows, transposition and shape of any tensor, strided or not, read the elements that torch's operations give."""
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple))
    tensor = torch.arange(torch.Size(shape).numel() + 7, dtype=torch.float32)[7:].reshape(shape)
    if data.draw(st.booleans()):
        tensor = tensor.transpose(0, -1)
    expected = tensor
    rows = None
    if data.draw(st.booleans()):
        first = data.draw(st.integers(0, tensor.shape[0]))
        rows = (first, data.draw(st.integers(first, tensor.shape[0])))
        expected = expected[first : rows[1]]
    transposed = expected.dim() == 2 and data.draw(st.booleans())
    if transposed:
        expected = expected.T
    other = None
    if data.draw(st.booleans()):
        other = tuple(size for size in expected.shape if size != 1 or data.draw(st.booleans()))
        other = (*other, 1, 1) if data.draw(st.booleans()) else other
        expected = expected.reshape(other)
    found = see(View("", "t", rows, transposed, other), tensor)
    assert found.shape == expected.shape
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "view",
    [
        View("", "t", rows=(2, 4)),
        View("", "t", rows=(-1, 2)),
        View("", "t", shape=(2, 3)),
        View("", "t", transposed=True),
    ],
)
def test_a_view_that_does_not_fit_is_refused(view: View) -> None:
    """A tensor without the rows or dimensions that a view asks for is refused by name."""
    with pytest.raises(UnsupportedLayout, match="'t'"):
        see(view, torch.zeros(3, 2, 1))
