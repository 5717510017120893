"""Every kind of file comes out under the names that its loaders look for, with its facts in the metadata."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from modelhub.convert import Conversion, ConversionOptions, convert
from modelhub.errors import Malformed
from tests.convert.layouts.test_relayout import weights_of


def converted(value: object, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str], Conversion]:
    """What torch.save(*value*) becomes: tensors, metadata, and the conversion."""
    torch.save(value, path)
    done = convert(path)
    assert isinstance(done, Conversion)
    with safe_open(done.target, "pt") as file:
        return load_file(done.target), file.metadata(), done


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[k], t) for k, t in expected.items())


def test_an_embedding_of_several_tokens_is_a_folder_of_embeddings(tmp_path):
    """A1111 asserts that an embedding has one tensor: each token's is a file that it loads."""
    vectors = {"<cat toy>": torch.randn(2, 768), "*": torch.randn(1, 768)}
    torch.save(
        {"string_to_token": dict.fromkeys(vectors, 265), "string_to_param": vectors, "step": 9}, tmp_path / "e.pt"
    )
    done = convert(tmp_path / "e.pt")
    folder = tmp_path / "e"
    assert done.target == str(folder)
    assert {path.name for path in folder.iterdir()} == {"cat_toy.safetensors", "token.safetensors"}
    assert same(load_file(folder / "cat_toy.safetensors"), {"emb_params": vectors["<cat toy>"]})
    assert same(load_file(folder / "token.safetensors"), {"emb_params": vectors["*"]})
    assert all(output.metadata["step"] == "9" for output in done.plan.outputs)
    assert any("'<cat toy>' is cat_toy.safetensors" in note for note in done.plan.notes)


@pytest.mark.parametrize("shape", [(768,), (3, 768)])
def test_a_diffusers_embedding_keeps_its_token_and_its_dimensions(tmp_path, shape):
    """The key is the trigger word, and a single vector stays one-dimensional."""
    embedding = {"<style>": torch.randn(shape)}
    found, metadata, _ = converted(embedding, tmp_path / "learned_embeds.bin")
    assert same(found, embedding)
    assert metadata == {"format": "pt"}


def test_an_sdxl_embedding_keeps_both_encoders(tmp_path):
    """clip_l and clip_g are what every loader asks for."""
    pair = {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)}
    assert same(converted(pair, tmp_path / "xl.pt")[0], pair)


def test_what_a_tensor_has_beside_its_elements_is_told(tmp_path):
    """Attributes of tensors and parameters are not kept, and not passed over either."""
    plain, parameter = torch.ones(2), torch.nn.Parameter(torch.zeros(2))
    plain.note, parameter.scale = "trained on cats", torch.ones(1)
    found, _, done = converted({"plain": plain, "again": plain, "parameter": parameter}, tmp_path / "m.pt")
    assert same(found, {"plain": plain, "again": plain, "parameter": parameter})
    assert {left.path: left.description for left in done.plan.leftovers} == {
        "plain.note": "an attribute of the tensor: 'trained on cats'",
        "parameter.scale": "an attribute of the tensor: a tensor made by torch._utils._rebuild_tensor_v2",
    }


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("first", [True, False])
def test_a_sparse_tensor_takes_no_other_tensors_name(tmp_path, first):
    """Two tensors whose paths are one name are an error, whichever sorts they are of, also with --dense."""
    nested, flat = torch.eye(2).to_sparse(), torch.ones(2)
    nested, flat = (nested, flat) if first else (flat, nested)
    torch.save({"a": {"b": nested}, "a.b": flat}, tmp_path / "m.pt")
    with pytest.raises(Malformed, match=r"two tensors have the name 'a\.b'"):
        convert(tmp_path / "m.pt", options=ConversionOptions(dense=True), salvage=True)


def test_a_hypernetwork_can_be_put_together_again(tmp_path):
    """SIZE.0 are the keys' layers and SIZE.1 the values'; all that A1111 saves beside them is metadata."""
    layers = {size: tuple({"linear.0.weight": torch.randn(size, size)} for _ in range(2)) for size in (320, 640)}
    facts = {
        "step": 7,
        "name": "hn",
        "layer_structure": [1, 2, 1],
        "activation_func": "relu",
        "is_layer_norm": False,
        "weight_initialization": "Normal",
        "use_dropout": False,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
        "activate_output": True,
        "last_layer_dropout": False,
        "dropout_structure": [0, 0.5, 0],
    }
    found, metadata, done = converted({**layers, **facts}, tmp_path / "hn.pt")
    again: dict[int, list[dict[str, torch.Tensor]]] = {}
    for name, tensor in found.items():
        size, which, key = name.split(".", 2)
        again.setdefault(int(size), [{}, {}])[int(which)][key] = tensor
    assert again.keys() == layers.keys()
    assert all(same(again[size][i], layers[size][i]) for size in layers for i in (0, 1))
    assert any("modelhub restore" in note for note in done.plan.notes)
    assert metadata == {
        "format": "pt",
        "step": "7",
        "name": "hn",
        "layer_structure": "[1, 2, 1]",
        "activation_func": "relu",
        "is_layer_norm": "false",
        "weight_initialization": "Normal",
        "use_dropout": "false",
        "activate_output": "true",
        "last_layer_dropout": "false",
        "dropout_structure": "[0, 0.5, 0]",
    }
    assert {item.path for item in done.plan.leftovers} == {"sd_checkpoint", "sd_checkpoint_name"}


def test_a_list_of_tensors_is_numbered_and_that_is_said(tmp_path):
    """cloneofsimo's first LoRAs are lists of ups and downs; what they belong to is not in the file."""
    tensors = [torch.randn(8, 4), torch.randn(4, 8), torch.randn(8, 4)]
    found, _, done = converted(tensors, tmp_path / "lora.pt")
    assert same(found, {str(n): tensor for n, tensor in enumerate(tensors)})
    assert any("have no names" in note for note in done.plan.notes)


def test_a_kohya_lora_keeps_its_names(tmp_path):
    """Names with underscores for dots are the kohya dialect's own."""
    lora = {
        "lora_unet_down_blocks_0.lora_down.weight": torch.randn(4, 320),
        "lora_unet_down_blocks_0.lora_up.weight": torch.randn(320, 4),
        "lora_unet_down_blocks_0.alpha": torch.tensor(4.0),
    }
    assert same(converted(lora, tmp_path / "l.pt")[0], lora)


def test_of_averaged_and_last_weights_the_averaged_are_taken(tmp_path):
    """An upscaler's file often has both: the choice is told, and what was not chosen is listed."""
    averaged = {"conv_first.weight": torch.randn(4, 3, 3, 3)}
    last = {"conv_first.weight": torch.randn(4, 3, 3, 3)}
    found, _, done = converted({"params": last, "params_ema": averaged}, tmp_path / "esrgan.pth")
    assert same(found, averaged)
    assert [item.path for item in done.plan.leftovers] == ["params"]
    assert any("params_ema" in note for note in done.plan.notes)


def test_a_data_parallel_networks_prefix_is_taken_off(tmp_path):
    """module. is the wrapper's and not the network's."""
    weights = {"a.weight": torch.randn(3), "b.bias": torch.randn(2)}
    found, _, done = converted({"state_dict": {f"module.{k}": t for k, t in weights.items()}}, tmp_path / "m.pth")
    assert same(found, weights)
    assert any("module." in note for note in done.plan.notes)


def test_a_state_dict_that_holds_itself_is_read_once(tmp_path):
    """NovelAI's leaked file has its state_dict in its state_dict: its tensors are the outer ones."""
    weights = {"model.diffusion_model.out.2.bias": torch.randn(4)}
    inner = dict(weights)
    inner["state_dict"] = inner
    assert same(converted({"state_dict": inner}, tmp_path / "nai.ckpt")[0], weights)


def test_everything_beside_the_tensors_is_accounted_for(tmp_path):
    """Each leaf of a training checkpoint is a tensor, a pair of the metadata, or listed as left out."""
    checkpoint = {
        "state_dict": {"a.weight": torch.randn(2, 2)},
        "epoch": 3,
        "note": "x",
        "nothing": None,
        "optimizer_states": [{"state": {0: torch.randn(2, 2)}}],
        "hyper_parameters": {"lr": 0.1},
        "token": b"bytes",
    }
    _, metadata, done = converted(checkpoint, tmp_path / "m.ckpt")
    told = {item.path.split(".")[0] for item in done.plan.leftovers} | {key.split(".")[0] for key in metadata}
    assert checkpoint.keys() - {"state_dict"} <= told


def test_a_vae_in_diffusers_names_can_be_put_into_a_checkpoint(tmp_path):
    """--fix-vae takes the file of a diffusers folder as well: its tensors get the single file's names and shapes."""
    first, second = weights_of("sd-1"), weights_of("sd-1")
    for name, tensor in second.items():
        if name.startswith("first_stage_model."):
            second[name] = tensor + 1
    torch.save(first, tmp_path / "a.ckpt")
    torch.save(second, tmp_path / "b.ckpt")
    convert(tmp_path / "b.ckpt", tmp_path / "b", options=ConversionOptions(layout="diffusers"))
    done = convert(tmp_path / "a.ckpt", fix_vae=tmp_path / "b/vae/diffusion_pytorch_model.safetensors")
    expected = {k: second[k] if k.startswith("first_stage_model.") else t for k, t in first.items()}
    assert same(load_file(done.target), expected)
