"""Names and metadata are those that loaders of the converted file look for."""

from __future__ import annotations

import pytest

from modelhub.convert.names import EMBEDDING_TENSOR, output_metadata, output_tensors
from modelhub.errors import ConversionError
from modelhub.tensors import DType, StateDict, StorageRef, TensorInfo


def state_dict(*names: str, **scalars: object) -> StateDict:
    tensors = {n: TensorInfo(n, DType.F16, (2, 4), StorageRef(str(i), 64 * i, 16)) for i, n in enumerate(names)}
    return StateDict(tensors, scalars)


def test_checkpoint_keys_are_kept():
    """A checkpoint's tensors keep their names and their file order."""
    names = ("model.diffusion_model.out.2.weight", "cond_stage_model.x", "lora_unet_a.alpha", "", "ключ")
    tensors, left = output_tensors(state_dict(*names), "f")
    assert tuple(tensors) == names
    assert left == ()


def test_an_a1111_embedding_becomes_emb_params():
    """The vectors of a trainer's embedding are the one tensor emb_params; name, step and checkpoint are metadata."""
    found = state_dict("string_to_param.*", name="style", step=499, sd_checkpoint=None, sd_checkpoint_name="v1-5")
    tensors, left = output_tensors(found, "f", "embedding")
    metadata, left_values = output_metadata(found)
    assert list(tensors) == [EMBEDDING_TENSOR]
    assert tensors[EMBEDDING_TENSOR] is found["string_to_param.*"]
    assert metadata == {"format": "pt", "name": "style", "sd_checkpoint_name": "v1-5", "step": "499"}
    assert left == left_values == ()


def test_a_compvis_embedding_leaves_its_token_tensor_behind():
    """The original trainer's token is a tensor of an index into a vocabulary: it is reported, not kept."""
    tensors, left = output_tensors(state_dict("string_to_token.*", "string_to_param.*"), "f")
    assert list(tensors) == [EMBEDDING_TENSOR]
    assert [item.path for item in left] == ["string_to_token.*"]


def test_an_embeddings_token_number_is_no_metadata():
    """A1111 writes {'*': 265} in every embedding: a placeholder, reported as left out."""
    metadata, left = output_metadata(StateDict({}, {"string_to_token.*": 265}))
    assert metadata == {"format": "pt"}
    assert [item.path for item in left] == ["string_to_token.*"]


def test_an_embedding_of_several_tokens_is_refused():
    """A safetensors embedding has one tensor, so that a file of several tokens cannot be one."""
    with pytest.raises(ConversionError, match=r"f: an embedding of 2 tokens \('a', 'b'\)"):
        output_tensors(state_dict("string_to_param.a", "string_to_param.b"), "f")


def test_only_embeddings_are_named_like_embeddings():
    """What was identified as something else keeps its names, even if one looks like an embedding's."""
    tensors, _ = output_tensors(state_dict("string_to_param.x", "string_to_param.y"), "f", "checkpoint")
    assert list(tensors) == ["string_to_param.x", "string_to_param.y"]


@pytest.mark.parametrize("name", ["__metadata__", "a\ud800"])
def test_names_that_safetensors_cannot_hold_are_refused(name):
    """The reserved name and lone surrogates would make a file that no reader opens."""
    with pytest.raises(ConversionError, match="f: "):
        output_tensors(state_dict("ok", name), "f")


def test_plain_values_become_text():
    """Metadata values are text: numbers as Python writes them, truth values in lower case, None left out."""
    metadata, left = output_metadata(
        StateDict({}, {"global_step": 840000, "lr": 1e-05, "use_dropout": True, "note": "a b", "none": None})
    )
    assert metadata == {
        "format": "pt",
        "global_step": "840000",
        "lr": "1e-05",
        "note": "a b",
        "use_dropout": "true",
    }
    assert left == ()


def test_plain_values_cannot_pose_as_our_own_metadata():
    """A file's 'format' or 'modelhub.salvaged' does not become the output's: it is a leftover."""
    scalars = {"format": "tf", "modelhub.salvaged": "false", "\udcff": 1, "text": "\ud800", "long": "x" * 100_000}
    metadata, left = output_metadata(StateDict({}, scalars))
    assert metadata == {"format": "pt"}
    assert {item.path for item in left} == set(scalars)
