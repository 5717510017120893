"""Names and metadata are those that loaders of the converted file look for."""

from __future__ import annotations

import re

import pytest

from modelhub.convert.names import EMBEDDING_TENSOR, named_tensors, output_metadata
from modelhub.errors import ConversionError, LimitExceeded
from modelhub.source import BytesSource
from modelhub.tensors import DType, Leftover, StateDict, StorageRef, TensorInfo


def state_dict(*names: str, **scalars: object) -> StateDict:
    tensors = {n: TensorInfo(n, DType.F16, (2, 4), StorageRef(str(i), 64 * i, 16)) for i, n in enumerate(names)}
    return StateDict(tensors, scalars)


def named(found: StateDict, kind: str | None = None) -> tuple[dict[str, TensorInfo], tuple[Leftover, ...]]:
    """The tensors of the only file, and what is left behind."""
    (draft,) = named_tensors(found, BytesSource("f", b""), kind).values()
    return {name: made.pieces[0].tensor for name, made in draft.tensors.items()}, draft.leftovers


def test_checkpoint_keys_are_kept():
    """A checkpoint's tensors keep their names and their file order."""
    names = ("model.diffusion_model.out.2.weight", "cond_stage_model.x", "lora_unet_a.alpha", "", "ключ")
    tensors, left = named(state_dict(*names))
    assert tuple(tensors) == names
    assert left == ()


def test_an_a1111_embedding_becomes_emb_params():
    """The vectors of a trainer's embedding are the one tensor emb_params; name, step and checkpoint are metadata."""
    found = state_dict("string_to_param.*", name="style", step=499, sd_checkpoint=None, sd_checkpoint_name="v1-5")
    tensors, left = named(found, "embedding")
    metadata, left_values = output_metadata(found)
    assert list(tensors) == [EMBEDDING_TENSOR]
    assert tensors[EMBEDDING_TENSOR] is found["string_to_param.*"]
    assert metadata == {"format": "pt", "name": "style", "sd_checkpoint_name": "v1-5", "step": "499"}
    assert left == ()
    assert [item.path for item in left_values] == ["sd_checkpoint"]


def test_a_compvis_embedding_leaves_its_token_tensor_behind():
    """The original trainer's token is a tensor of an index into a vocabulary: it is reported, not kept."""
    tensors, left = named(state_dict("string_to_token.*", "string_to_param.*"))
    assert list(tensors) == [EMBEDDING_TENSOR]
    assert [item.path for item in left] == ["string_to_token.*"]


def test_an_embeddings_token_number_is_no_metadata():
    """A1111 writes {'*': 265} in every embedding: a placeholder, reported as left out."""
    metadata, left = output_metadata(StateDict({}, {"string_to_token.*": 265}))
    assert metadata == {"format": "pt"}
    assert [item.path for item in left] == ["string_to_token.*"]


def test_an_embedding_of_several_tokens_is_several_files():
    """A safetensors embedding has one tensor: each token gets a file called after it, and no two the same."""
    files = named_tensors(
        state_dict("string_to_param.<a b>", "string_to_param./a b/", "string_to_param.*", "string_to_token.*"),
        BytesSource("f", b""),
    )
    assert list(files) == ["a_b.safetensors", "a_b-2.safetensors", "token.safetensors"]
    assert [list(draft.tensors) for draft in files.values()] == [[EMBEDDING_TENSOR]] * 3
    assert files["token.safetensors"].tensors[EMBEDDING_TENSOR].pieces[0].tensor.name == "string_to_param.*"
    assert [item.path for draft in files.values() for item in draft.leftovers] == ["string_to_token.*"]


def test_tokens_that_look_alike_have_names_of_their_own():
    """Whatever the tokens: as many files as tokens, in time that does not depend on how their names collide."""
    tokens = [
        "a-3",
        "a",
        "A",
        "a ",
        "a-2",
        " a",
        "..",
        "",
        "a" * 300,
        "a" * 300 + "b",
        *(f"{' ' * n}x" for n in range(200)),
    ]
    files = named_tensors(state_dict(*(f"string_to_param.{token}" for token in tokens)), BytesSource("f", b""))
    assert len({name.casefold() for name in files}) == len(tokens)
    assert all(re.fullmatch(r"[\w.-]{1,120}\.safetensors", name) for name in files)


def test_an_embedding_of_thousands_of_tokens_is_a_limit():
    """Each would be a file: no trainer makes such a thing."""
    with pytest.raises(LimitExceeded, match="501 tokens"):
        named_tensors(state_dict(*(f"string_to_param.{n}" for n in range(501))), BytesSource("f", b""))


def test_a_prefix_of_data_parallel_training_is_taken_off_where_all_have_it():
    """module. is no part of a model; where only some names have it, it is."""
    tensors, _ = named(state_dict("module.a.weight", "module.b"))
    assert list(tensors) == ["a.weight", "b"]
    (draft,) = named_tensors(state_dict("module.a"), BytesSource("f", b"")).values()
    assert draft.notes == ("every tensor's name began with 'module.', which was taken off",)
    tensors, _ = named(state_dict("module.a.weight", "b"))
    assert list(tensors) == ["module.a.weight", "b"]
    tensors, _ = named(state_dict("module.a", "module."))
    assert list(tensors) == ["module.a", "module."]


def test_tensors_of_a_list_are_called_by_their_number():
    """cloneofsimo's first LoRAs are lists: what they belong to cannot be told, and the plan says so."""
    (draft,) = named_tensors(state_dict("0", "1", "2"), BytesSource("f", b"")).values()
    assert list(draft.tensors) == ["0", "1", "2"]
    assert "have no names" in draft.notes[0]


def test_a_hypernetworks_lists_are_metadata():
    """layer_structure is one value, as JSON; a list that is not whole stays as it is."""
    scalars = {"layer_structure.0": 1, "layer_structure.1": 2, "layer_structure.2": 1, "dropout_structure.1": 0.5}
    metadata, left = output_metadata(StateDict({}, scalars))
    assert metadata == {"format": "pt", "layer_structure": "[1, 2, 1]", "dropout_structure.1": "0.5"}
    assert left == ()


def test_a_safetensors_files_own_metadata_is_kept():
    """What a trainer wrote into the header is worth more than anything we could say; only the format is added."""
    found = StateDict({}, metadata={"ss_network_dim": "16", "modelhub.shared": "[]"})
    assert output_metadata(found)[0] == {"format": "pt", "modelhub.shared": "[]", "ss_network_dim": "16"}
    assert output_metadata(StateDict({}, metadata={"format": "mlx"}))[0] == {"format": "mlx"}


def test_only_embeddings_are_named_like_embeddings():
    """What was identified as something else keeps its names, even if one looks like an embedding's."""
    tensors, _ = named(state_dict("string_to_param.x", "string_to_param.y"), "checkpoint")
    assert list(tensors) == ["string_to_param.x", "string_to_param.y"]


@pytest.mark.parametrize("name", ["__metadata__", "a\ud800"])
def test_names_that_safetensors_cannot_hold_are_refused(name):
    """The reserved name and lone surrogates would make a file that no reader opens."""
    with pytest.raises(ConversionError, match="f: "):
        named(state_dict("ok", name))


def test_plain_values_become_text():
    """Metadata values are text: numbers as Python writes them, truth values in lower case, None a leftover."""
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
    assert [item.path for item in left] == ["none"]


def test_plain_values_cannot_pose_as_our_own_metadata():
    """A file's 'format' or 'modelhub.salvaged' does not become the output's: it is a leftover."""
    scalars = {"format": "tf", "modelhub.salvaged": "false", "\udcff": 1, "text": "\ud800", "long": "x" * 100_000}
    metadata, left = output_metadata(StateDict({}, scalars))
    assert metadata == {"format": "pt"}
    assert {item.path for item in left} == set(scalars)
