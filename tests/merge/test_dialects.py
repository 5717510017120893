"""Every spelling in which trainers name the modules of FLUX and SD 3, against the rows that the published converters
give them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from modelhub.identify.adapter_names import read_stem
from modelhub.merge.base import Shape, Target
from modelhub.merge.keymap import KeyMap, keymap_of_checkpoint, keymap_of_folder

HIDDEN, MLP = 32, 128
ROOT = "model.diffusion_model."
Rows = list[tuple[int, int]]
Names = Mapping[str, tuple[str, Rows | None]]
"""By a module's name, the native one that it is a part of and its rows there; ``None``: all."""

DOTTED = (
    "transformer.",
    "base_model.model.",
    "base_model.model.transformer.",
    "transformer.base_model.model.",
    "diffusion_model.",
    "model.diffusion_model.",
    "",
)
FLAT = ("lora_unet_", "lora_transformer_", "lycoris_", "lycoris_unet_")


def flux() -> dict[str, Shape]:
    """FLUX's own modules with two blocks of either sort, and their shapes."""
    shapes: dict[str, Shape] = {"img_in": (HIDDEN, 64), "txt_in": (HIDDEN, 96)}
    for name, width in (("time_in", 16), ("vector_in", 24), ("guidance_in", 16)):
        shapes |= {f"{name}.in_layer": (HIDDEN, width), f"{name}.out_layer": (HIDDEN, HIDDEN)}
    shapes |= {"final_layer.linear": (64, HIDDEN), "final_layer.adaLN_modulation.1": (2 * HIDDEN, HIDDEN)}
    for i in range(2):
        for stream in (f"double_blocks.{i}.img", f"double_blocks.{i}.txt"):
            shapes |= {f"{stream}_mod.lin": (6 * HIDDEN, HIDDEN), f"{stream}_attn.qkv": (3 * HIDDEN, HIDDEN)}
            shapes |= {f"{stream}_attn.proj": (HIDDEN, HIDDEN)}
            shapes |= {f"{stream}_mlp.0": (MLP, HIDDEN), f"{stream}_mlp.2": (HIDDEN, MLP)}
        single = f"single_blocks.{i}"
        shapes |= {f"{single}.linear1": (3 * HIDDEN + MLP, HIDDEN), f"{single}.linear2": (HIDDEN, HIDDEN + MLP)}
        shapes |= {f"{single}.modulation.lin": (3 * HIDDEN, HIDDEN)}
    return shapes


def flux_in_diffusers() -> Names:
    """As ``scripts/convert_flux_to_diffusers.py`` cuts FLUX up."""
    names: dict[str, tuple[str, Rows | None]] = {
        "x_embedder": ("img_in", None),
        "context_embedder": ("txt_in", None),
        "proj_out": ("final_layer.linear", None),
        "norm_out.linear": ("final_layer.adaLN_modulation.1", _swapped()),
    }
    embedders = {"timestep": "time_in", "text": "vector_in", "guidance": "guidance_in"}
    for theirs, ours in embedders.items():
        names[f"time_text_embed.{theirs}_embedder.linear_1"] = (f"{ours}.in_layer", None)
        names[f"time_text_embed.{theirs}_embedder.linear_2"] = (f"{ours}.out_layer", None)
    for i in range(2):
        block, single = f"transformer_blocks.{i}", f"single_transformer_blocks.{i}"
        for number, each in enumerate("qkv"):
            names[f"{block}.attn.to_{each}"] = (f"double_blocks.{i}.img_attn.qkv", _third(number))
            names[f"{block}.attn.add_{each}_proj"] = (f"double_blocks.{i}.txt_attn.qkv", _third(number))
            names[f"{single}.attn.to_{each}"] = (f"single_blocks.{i}.linear1", _third(number))
        names[f"{single}.proj_mlp"] = (f"single_blocks.{i}.linear1", [(3 * HIDDEN, 3 * HIDDEN + MLP)])
        names[f"{single}.proj_out"] = (f"single_blocks.{i}.linear2", None)
        names[f"{single}.norm.linear"] = (f"single_blocks.{i}.modulation.lin", None)
        whole = {
            "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj", "norm1.linear": "img_mod.lin",
            "norm1_context.linear": "txt_mod.lin", "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
            "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
        }  # fmt: skip
        names |= {f"{block}.{theirs}": (f"double_blocks.{i}.{ours}", None) for theirs, ours in whole.items()}
    return names


def sd3() -> dict[str, Shape]:
    """SD 3.5 medium's own modules with two blocks, of which the first has a second attention, and their shapes."""
    shapes: dict[str, Shape] = {"x_embedder.proj": (HIDDEN, 16, 2, 2), "context_embedder": (HIDDEN, 96)}
    for name, width in (("t_embedder", 16), ("y_embedder", 24)):
        shapes |= {f"{name}.mlp.0": (HIDDEN, width), f"{name}.mlp.2": (HIDDEN, HIDDEN)}
    shapes |= {"final_layer.linear": (64, HIDDEN), "final_layer.adaLN_modulation.1": (2 * HIDDEN, HIDDEN)}
    for i, image, context in ((0, 9, 6), (1, 6, 2)):
        for stream, chunks in ((f"joint_blocks.{i}.x_block", image), (f"joint_blocks.{i}.context_block", context)):
            shapes |= {f"{stream}.attn.qkv": (3 * HIDDEN, HIDDEN)}
            shapes |= {f"{stream}.adaLN_modulation.1": (chunks * HIDDEN, HIDDEN)}
            if chunks > 2:
                shapes |= {f"{stream}.attn.proj": (HIDDEN, HIDDEN)}
                shapes |= {f"{stream}.mlp.fc1": (MLP, HIDDEN), f"{stream}.mlp.fc2": (HIDDEN, MLP)}
            if chunks > 6:
                shapes |= {f"{stream}.attn2.qkv": (3 * HIDDEN, HIDDEN), f"{stream}.attn2.proj": (HIDDEN, HIDDEN)}
    return shapes


def sd3_in_diffusers() -> Names:
    """As ``scripts/convert_sd3_to_diffusers.py`` cuts SD 3.5 medium up."""
    names: dict[str, tuple[str, Rows | None]] = {
        "pos_embed.proj": ("x_embedder.proj", None),
        "context_embedder": ("context_embedder", None),
        "proj_out": ("final_layer.linear", None),
        "norm_out.linear": ("final_layer.adaLN_modulation.1", _swapped()),
        "transformer_blocks.0.norm1_context.linear": ("joint_blocks.0.context_block.adaLN_modulation.1", None),
        "transformer_blocks.1.norm1_context.linear": ("joint_blocks.1.context_block.adaLN_modulation.1", _swapped()),
        "transformer_blocks.0.attn2.to_out.0": ("joint_blocks.0.x_block.attn2.proj", None),
        "transformer_blocks.0.attn.to_add_out": ("joint_blocks.0.context_block.attn.proj", None),
        "transformer_blocks.0.ff_context.net.0.proj": ("joint_blocks.0.context_block.mlp.fc1", None),
        "transformer_blocks.0.ff_context.net.2": ("joint_blocks.0.context_block.mlp.fc2", None),
    }
    for theirs, ours in {"timestep": "t_embedder", "text": "y_embedder"}.items():
        names[f"time_text_embed.{theirs}_embedder.linear_1"] = (f"{ours}.mlp.0", None)
        names[f"time_text_embed.{theirs}_embedder.linear_2"] = (f"{ours}.mlp.2", None)
    for number, each in enumerate("qkv"):
        names[f"transformer_blocks.0.attn2.to_{each}"] = ("joint_blocks.0.x_block.attn2.qkv", _third(number))
    for i in range(2):
        block, image = f"transformer_blocks.{i}", f"joint_blocks.{i}.x_block"
        for number, each in enumerate("qkv"):
            names[f"{block}.attn.to_{each}"] = (f"{image}.attn.qkv", _third(number))
            names[f"{block}.attn.add_{each}_proj"] = (f"joint_blocks.{i}.context_block.attn.qkv", _third(number))
        names[f"{block}.attn.to_out.0"] = (f"{image}.attn.proj", None)
        names[f"{block}.norm1.linear"] = (f"{image}.adaLN_modulation.1", None)
        names[f"{block}.ff.net.0.proj"] = (f"{image}.mlp.fc1", None)
        names[f"{block}.ff.net.2"] = (f"{image}.mlp.fc2", None)
    return names


def _third(number: int) -> Rows:
    return [(number * HIDDEN, (number + 1) * HIDDEN)]


def _swapped() -> Rows:
    return [(HIDDEN, 2 * HIDDEN), (0, HIDDEN)]


XLABS: Names = {
    "double_blocks.1.processor.qkv1": ("double_blocks.1.img_attn.qkv", None),
    "double_blocks.1.processor.qkv2": ("double_blocks.1.txt_attn.qkv", None),
    "double_blocks.1.processor.proj1": ("double_blocks.1.img_attn.proj", None),
    "double_blocks.1.processor.proj2": ("double_blocks.1.txt_attn.proj", None),
    "single_blocks.1.processor.qkv": ("single_blocks.1.linear1", [(0, 3 * HIDDEN)]),
    "single_blocks.1.processor.proj": ("single_blocks.1.linear2", None),
    "diffusion_model.single_blocks.1.linear1_qkv": ("single_blocks.1.linear1", [(0, 3 * HIDDEN)]),
}
"""Without the ``_lora`` that stands before the number in a file."""

MODELS = {"flux": (flux, flux_in_diffusers), "sd-3": (sd3, sd3_in_diffusers)}


@pytest.mark.parametrize("root", ["", ROOT])
@pytest.mark.parametrize("model", MODELS)
def test_every_spelling_leads_to_its_rows(model: str, root: str) -> None:
    """Dotted or with underscores, in the model's own names or diffusers', behind whatever trainers write first."""
    shapes, in_diffusers = (make() for make in MODELS[model])
    keymap = keymap_of_checkpoint({f"{root}{name}.weight": shape for name, shape in shapes.items()})
    names: dict[str, tuple[str, Rows | None]] = {name: (name, None) for name in shapes} | dict(in_diffusers)
    for name, (native, rows) in names.items():
        expected = rows or [(0, shapes[native][0])]
        for spelling in (*(f"{p}{name}" for p in DOTTED), *(f"{p}{name.replace('.', '_')}" for p in FLAT)):
            target = _find(keymap, spelling)
            assert {part.address.tensor for part in target.parts} == {f"{root}{native}.weight"}, spelling
            assert [part.rows for part in target.parts] == expected, spelling
            assert target.shape == (sum(b - a for a, b in expected), *shapes[native][1:]), spelling


def test_xlabs_names_lead_to_their_rows() -> None:
    """Those of the double blocks, and of the single ones, whose qkv is a part of a matrix."""
    shapes = flux()
    keymap = keymap_of_checkpoint({f"{name}.weight": shape for name, shape in shapes.items()})
    for spelling, (native, rows) in XLABS.items():
        (part,) = _find(keymap, spelling).parts
        assert part.address.tensor == f"{native}.weight"
        assert [part.rows] == (rows or [(0, shapes[native][0])])


@pytest.mark.parametrize("model", MODELS)
def test_native_names_are_shared_out_in_a_folder(model: str) -> None:
    """In a folder the fused modules, and XLabs' qkv, are diffusers' matrices one after the other."""
    shapes, in_diffusers = (make() for make in MODELS[model])
    theirs: dict[str, Shape] = {}
    for name, (native, rows) in in_diffusers.items():
        height = sum(b - a for a, b in rows) if rows else shapes[native][0]
        theirs[f"{name}.weight"] = (height, *shapes[native][1:])
    keymap = keymap_of_folder({"transformer": theirs}, {("transformer", name): "file" for name in theirs})
    wanted: dict[str, tuple[str, Rows | None]] = {name: (name, None) for name in shapes}
    wanted |= dict(XLABS) if model == "flux" else {}
    for spelling, (native, rows) in wanted.items():
        first, last = rows[0] if rows else (0, shapes[native][0])
        covered = []
        for part in _find(keymap, spelling).parts:
            name = part.address.tensor.removesuffix(".weight")
            assert in_diffusers[name][0] == native, spelling
            assert part.rows[1] - part.rows[0] <= theirs[part.address.tensor][0]
            covered += [part.first + n for n in range(part.rows[1] - part.rows[0])]
            (begin, _), *swapped = in_diffusers[name][1] or [(0, 0)]
            assert swapped or part.first == begin - first, spelling
        assert sorted(covered) == list(range(last - first)), spelling


def _find(keymap: KeyMap, spelling: str) -> Target:
    prefix, path = read_stem(spelling)
    assert prefix is None or prefix.component == "denoiser", spelling
    target = keymap.find(None if prefix is None else "denoiser", path, "weight")
    assert target is not None, spelling
    return target
