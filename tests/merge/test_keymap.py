"""Where modules lie: every name that adapters use, in every base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelhub.container import open_path
from modelhub.convert import ConversionOptions, convert
from modelhub.convert.layouts import diffusers_views
from modelhub.identify.adapter_names import modules_of
from modelhub.identify.names import Names
from modelhub.merge import merge
from modelhub.merge.blocks import block_of
from modelhub.merge.keymap import keymap_of_checkpoint, keymap_of_folder
from modelhub.samples.layouts import Architecture, Base, Dialect, checkpoint, lora
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.weights import random_weights
from tests.merge.build import base_weights

BASES: tuple[Architecture, ...] = ("sd-1", "sd-2", "sdxl", "sdxl-refiner")
COMPONENTS = {"unet": "denoiser", "text_encoder": "text_encoder", "text_encoder_2": "text_encoder_2"}


def shapes_of(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, (_, shape) in checkpoint(architecture).items()}


@pytest.mark.parametrize("dialect", ["kohya", "peft", "diffusers"])
@pytest.mark.parametrize("base", ["sd-1", "sd-2", "sdxl"])
def test_every_module_of_a_lora_has_its_place(base: Base, dialect: Dialect, tmp_path: Path) -> None:
    """At full size, every module that trainers change is found under every dialect's name, in the shape it has."""
    path = tmp_path / "lora.safetensors"
    write_safetensors(path, random_weights(lora(base, 1, dialect=dialect)))
    keymap = keymap_of_checkpoint(shapes_of(base))
    with open_path(path) as container:
        assert container.state_dict is not None
        modules = modules_of(Names(container.state_dict))
    assert len(modules) == {"sd-1": 264, "sd-2": 330, "sdxl": 986}[base]
    places = set()
    for module in modules:
        assert module.prefix is not None
        target = keymap.find(module.prefix.component, module.path, "weight")
        assert target is not None, module.name
        assert (target.shape[0], target.shape[1]) == (module.outputs, module.inputs), module.name
        places.add((target.parts[0].address, target.parts[0].rows))
    assert len(places) == len(modules)


@pytest.mark.parametrize("architecture", BASES)
def test_names_of_both_layouts_lead_to_the_same_rows(architecture: Architecture) -> None:
    """Each weight and bias of the UNet and the text encoders is found under its own and under diffusers' name, and the
    rows of a fused matrix are those that the converter cuts out of it."""
    shapes = shapes_of(architecture)
    keymap = keymap_of_checkpoint(shapes)
    found = 0
    for component, tensors in diffusers_views(shapes).items():
        if component not in COMPONENTS:
            continue
        for name, (view,) in tensors.items():
            stem, _, kind = name.rpartition(".")
            if kind not in ("weight", "bias"):
                continue
            target = keymap.find(COMPONENTS[component], stem.replace(".", "_"), kind)  # type: ignore[arg-type]
            assert target is not None, name
            (part,) = target.parts
            assert part.address.tensor == view.name
            assert part.rows == (view.rows or (0, shapes[view.name][0]))
            assert target.transposed == view.transposed
            found += 1
    assert found > 500
    for name in shapes:
        if name.startswith("model.diffusion_model."):
            stem, _, kind = name.removeprefix("model.diffusion_model.").rpartition(".")
            target = keymap.find("denoiser", stem.replace(".", "_"), kind)  # type: ignore[arg-type]
            assert target is not None and target.parts[0].address.tensor == name


@pytest.mark.parametrize("architecture", BASES)
def test_a_checkpoint_and_its_folder_merge_alike(architecture: Architecture, tmp_path: Path) -> None:
    """A difference for every weight and bias, named as diffusers names them, gives the same model whether it is merged
    into the checkpoint or into the folder that the converter makes of it, and so does one named as LDM does, on top."""
    base, folder = tmp_path / "base.safetensors", tmp_path / "folder"
    weights = base_weights(architecture)
    save_file(weights, base, {"format": "pt"})
    convert(base, folder, options=ConversionOptions(layout="diffusers"))
    generator = torch.Generator().manual_seed(1)
    differences, own = {}, {}
    for part, stem in (("unet", "lora_unet_"), ("text_encoder", "lora_te1_"), ("text_encoder_2", "lora_te2_")):
        for file in (folder / part).glob("*.safetensors") if (folder / part).is_dir() else ():
            for name, tensor in load_file(file).items():
                module, _, kind = name.rpartition(".")
                leaf = {"weight": "diff", "bias": "diff_b"}.get(kind)
                if leaf and "position" not in name:
                    values = torch.randn(tensor.shape, generator=generator)
                    differences[f"{stem}{module.replace('.', '_')}.{leaf}"] = values
    for name, tensor in weights.items():
        module, _, kind = name.removeprefix("model.diffusion_model.").rpartition(".")
        leaf = {"weight": "diff", "bias": "diff_b"}.get(kind)
        if leaf and name.startswith("model.diffusion_model."):
            own[f"lora_unet_{module.replace('.', '_')}.{leaf}"] = torch.randn(tensor.shape, generator=generator)
    adapters = []
    for name, adapter in {"differences": differences, "own": own}.items():
        save_file(adapter, tmp_path / f"{name}.safetensors")
        adapters.append(f"{tmp_path / name}.safetensors:0.5")
    merged, merged_folder, again = (tmp_path / kind for kind in ("file", "merged", "again"))
    done = merge(base, adapters, target=merged)
    merge(folder, adapters, target=merged_folder)
    convert(merged_folder, again, options=ConversionOptions(layout="ldm"))
    assert len(done.told) > 300
    left, right = load_file(merged), load_file(again)
    assert {name for name in left if not torch.equal(left[name], weights[name])} == {a.tensor for a in done.told}
    for name, tensor in right.items():
        assert torch.equal(tensor, left[name]), name


def test_blocks_are_called_as_users_call_them() -> None:
    """IN, M, OUT and their numbers, D and S of FLUX, J of SD 3."""
    assert block_of("model.diffusion_model.input_blocks.4.1.proj_in.weight") == "IN04"
    assert block_of("model.diffusion_model.middle_block.1.proj_in.weight") == "M00"
    assert block_of("model.diffusion_model.output_blocks.11.0.in_layers.0.weight") == "OUT11"
    assert block_of("double_blocks.7.img_attn.qkv.weight") == "D07"
    assert block_of("model.diffusion_model.single_blocks.37.linear1.weight") == "S37"
    assert block_of("model.diffusion_model.joint_blocks.3.x_block.attn.qkv.weight") == "J03"
    assert block_of("model.diffusion_model.time_embed.0.weight") == ""


FLUX = {
    "img_in.weight": (32, 8),
    "double_blocks.0.img_attn.qkv.weight": (96, 32),
    "double_blocks.0.img_attn.proj.weight": (32, 32),
    "double_blocks.0.txt_attn.qkv.weight": (96, 32),
    "double_blocks.0.txt_attn.qkv.bias": (96,),
    "single_blocks.0.linear1.weight": (224, 32),
    "single_blocks.0.linear2.weight": (32, 160),
    "final_layer.adaLN_modulation.1.weight": (64, 32),
}


@pytest.mark.parametrize("root", ["", "model.diffusion_model."])
@pytest.mark.parametrize(
    ("path", "tensor", "rows"),
    [
        ("transformer_blocks_0_attn_to_q", "double_blocks.0.img_attn.qkv", [(0, 32, 0)]),
        ("transformer_blocks_0_attn_to_v", "double_blocks.0.img_attn.qkv", [(64, 96, 0)]),
        ("transformer_blocks_0_attn_add_k_proj", "double_blocks.0.txt_attn.qkv", [(32, 64, 0)]),
        ("single_transformer_blocks_0_attn_to_k", "single_blocks.0.linear1", [(32, 64, 0)]),
        ("single_transformer_blocks_0_proj_mlp", "single_blocks.0.linear1", [(96, 224, 0)]),
        ("single_transformer_blocks_0_proj_out", "single_blocks.0.linear2", [(0, 32, 0)]),
        ("norm_out_linear", "final_layer.adaLN_modulation.1", [(32, 64, 0), (0, 32, 32)]),
        ("double_blocks_0_img_attn_qkv", "double_blocks.0.img_attn.qkv", [(0, 96, 0)]),
        ("double_blocks_0_qkv1", "double_blocks.0.img_attn.qkv", [(0, 96, 0)]),
        ("double_blocks_0_qkv2", "double_blocks.0.txt_attn.qkv", [(0, 96, 0)]),
        ("single_blocks_0_proj", "single_blocks.0.linear2", [(0, 32, 0)]),
    ],
)
def test_flux(root: str, path: str, tensor: str, rows: list[tuple[int, int, int]]) -> None:
    """diffusers' modules are rows of FLUX's fused matrices, and XLabs' names are known; scale and shift are swapped."""
    keymap = keymap_of_checkpoint({root + name: shape for name, shape in FLUX.items()})
    target = keymap.find("denoiser", path, "weight")
    assert target is not None
    assert {part.address.tensor for part in target.parts} == {f"{root}{tensor}.weight"}
    assert [(*part.rows, part.first) for part in target.parts] == rows


@pytest.mark.parametrize("shape", [(), (0,), (7,), (7, 0)])
def test_shapes_that_no_model_has_are_no_crash(shape: tuple[int, ...]) -> None:
    """Whatever shape one tensor of a checkpoint or of a folder has, the other modules have their places."""
    flux = {
        "img_in.weight": (4, 8),
        "double_blocks.0.img_attn.qkv.weight": (12, 4),
        "single_blocks.0.linear1.weight": (28, 4),
        "final_layer.adaLN_modulation.1.weight": (8, 4),
    }
    for name in flux:
        keymap = keymap_of_checkpoint({**flux, name: shape})
        for each in keymap.modules:
            for part in each.target.parts:
                whole = shape if part.address.tensor == name else flux[part.address.tensor]
                assert 0 <= part.rows[0] <= part.rows[1] <= (whole[0] if whole else 1)
    folder = {
        "x_embedder.weight": (4, 8),
        **{f"single_transformer_blocks.0.attn.to_{each}.weight": (4, 4) for each in "qkv"},
        "single_transformer_blocks.0.proj_mlp.weight": (16, 4),
        "norm_out.linear.weight": (8, 4),
    }
    for name in folder:
        components = {"transformer": {**folder, name: shape}}
        assert keymap_of_folder(components, {("transformer", each): "file" for each in folder}).modules


def test_numbers_of_blocks_that_are_none() -> None:
    """A name may say any number of a block, or none: it is in no block that users know."""
    long = "1" * 5000
    assert block_of(f"model.diffusion_model.input_blocks.{long}.0.weight") == ""
    names = [f"transformer_blocks.{each}.attn.to_q.weight" for each in (long, "x", "")]
    shapes = {"transformer": dict.fromkeys(names, (4, 4))}
    assert keymap_of_folder(shapes, {("transformer", name): "file" for name in names}).blocks == frozenset()
