"""A receipt says what was made of which bytes, and is what an output is checked against later."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from modelhub.convert import ConversionOptions, DTypeRule, convert, receipt_path
from modelhub.convert.options import NO_OPTIONS, read_options, written_options
from modelhub.convert.recheck import recheck
from modelhub.errors import Malformed, NoSpace, NotFound, SettingsError, WouldOverwrite
from modelhub.tensors import DType


@pytest.fixture
def source(tmp_path):
    base = torch.randn(30, 20)
    weights = {"a": base, "b": base, "turned": torch.randn(8, 6).T, "half": torch.randn(9).half()}
    path = tmp_path / "m.ckpt"
    torch.save({"state_dict": weights, "callbacks": {"x": object}, "epoch": 2}, path)
    return path


@pytest.fixture
def receipt(source, tmp_path):
    convert(source, tmp_path / "m.safetensors", receipt=True, salvage=True)
    return json.loads((tmp_path / "m.safetensors.receipt.json").read_bytes())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_it_names_the_bytes_of_both_sides(source, tmp_path, receipt):
    """Source, output, and every tensor of the output have their SHA-256 in it."""
    target = tmp_path / "m.safetensors"
    assert receipt["schema"] == "modelhub.receipt/1"
    assert [each["sha256"] for each in receipt["sources"]] == [sha256(source.read_bytes())]
    (file,) = receipt["files"]
    assert (file["path"], file["sha256"]) == ("", sha256(target.read_bytes()))
    for tensor in file["tensors"]:
        data = target.read_bytes()[tensor["begin"] : tensor["end"]]
        assert tensor["sha256"] == sha256(data)
        assert data == load_file(target)[tensor["name"]].view(torch.uint8).numpy().tobytes()


def test_it_maps_every_tensor_to_the_source(source, tmp_path, receipt):
    """A piece is a range of the source: what is copied as it lies has its bytes there, what is not says how it lies."""
    data = source.read_bytes()
    tensors = {tensor["name"]: tensor for tensor in receipt["files"][0]["tensors"]}
    for name in ("a", "b", "half"):
        (piece,) = tensors[name]["pieces"]
        assert sha256(data[piece["start"] :][: piece["nbytes"]]) == tensors[name]["sha256"]
        assert piece.keys() == {"source", "start", "nbytes"}
    (piece,) = tensors["turned"]["pieces"]
    assert (piece["dtype"], piece["shape"], piece["strides"]) == ("F32", [6, 8], [1, 6])


def test_it_says_what_was_left_out_and_shared(receipt):
    """Leftovers, groups of names that shared bytes, salvage, options and versions stand in it."""
    assert any(item["path"].startswith("callbacks") for item in receipt["leftovers"])
    assert receipt["shared"] == [["a", "b"]]
    assert receipt["salvaged"] is (receipt["files"][0]["metadata"].get("modelhub.salvaged") == "true")
    assert receipt["options"] == {}
    assert receipt["versions"].keys() == {"modelhub", "safetensors"}


def test_the_same_conversion_has_the_same_receipt(source, tmp_path, receipt):
    """No time and no folder stands in a receipt."""
    (tmp_path / "elsewhere").mkdir()
    convert(source, tmp_path / "elsewhere" / "n.safetensors", receipt=True, salvage=True)
    assert json.loads((tmp_path / "elsewhere" / "n.safetensors.receipt.json").read_bytes()) == receipt


def test_a_file_that_is_no_receipt_is_not_replaced(source, tmp_path):
    """What somebody else keeps under the receipt's name stays, and nothing is converted."""
    (tmp_path / "m.safetensors.receipt.json").write_text("{}")
    with pytest.raises(WouldOverwrite, match="is no receipt"):
        convert(source, tmp_path / "m.safetensors", receipt=True, salvage=True)
    assert not (tmp_path / "m.safetensors").exists()


def test_what_is_as_it_was_is_verified(source, tmp_path, receipt):
    """Nothing differs with the receipt, with the source, or with both."""
    target = tmp_path / "m.safetensors"
    assert recheck(target).differences == ()
    assert recheck(target, source).differences == ()
    os.remove(receipt_path(str(target)))
    assert recheck(target, source).differences == ()


@pytest.mark.parametrize("with_source", [False, True])
@pytest.mark.parametrize("with_receipt", [False, True])
def test_a_changed_tensor_is_named(source, tmp_path, receipt, with_source, with_receipt):
    """One bit turned over in the output is one sentence that names the tensor."""
    if not (with_source or with_receipt):
        return
    target = tmp_path / "m.safetensors"
    half = next(tensor for tensor in receipt["files"][0]["tensors"] if tensor["name"] == "half")
    data = bytearray(target.read_bytes())
    data[half["begin"]] ^= 1
    target.write_bytes(data)
    if not with_receipt:
        os.remove(receipt_path(str(target)))
    (sentence,) = recheck(target, source if with_source else None).differences
    assert sentence.startswith(f"{target}: the bytes of tensor 'half' are not those in the ")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: {**t, "half": t["half"].float()}, "tensor 'half' has another type or shape"),
        (lambda t: {k: v for k, v in t.items() if k != "a"}, "tensor 'a' is not there"),
        (lambda t: {**t, "more": torch.zeros(1)}, "tensor 'more' is not in the receipt"),
        (lambda t: t, "its header was changed; its tensors are those in the receipt"),
    ],
)
def test_every_other_change_is_told_as_what_it_is(tmp_path, receipt, change, sentence):
    """A type, a missing tensor, a tensor too many and a header are told apart."""
    target = tmp_path / "m.safetensors"
    save_file(change(load_file(target)), target, {"title": "changed"})
    (found,) = recheck(target).differences
    assert sentence in found


def test_a_file_that_was_cut_off_is_not_verified(tmp_path, receipt):
    """Whatever is missing is told, without a failure."""
    target = tmp_path / "m.safetensors"
    os.truncate(target, target.stat().st_size - 10)
    assert recheck(target).differences
    os.truncate(target, 5)
    assert recheck(target).differences


def test_another_source_is_not_the_one_of_the_receipt(source, tmp_path, receipt):
    """A source whose bytes are not those that the receipt names is told."""
    data = bytearray(source.read_bytes())
    at = data.rindex(b"serialization_id")
    data[at + 30] ^= 1
    source.write_bytes(data)
    (sentence,) = recheck(tmp_path / "m.safetensors", source).differences
    assert sentence == f"{source}: it is not a source that the receipt names"


def test_a_conversion_with_options_is_repeated_with_them(tmp_path):
    """The receipt knows the options: with them and the source the header and each cast value are checked."""
    source, target = tmp_path / "m.pt", tmp_path / "m.safetensors"
    torch.save({"w": torch.randn(50, 40), "norm": torch.randn(4)}, source)
    options = ConversionOptions((DTypeRule("*", DType.F16), DTypeRule("*norm*", None)), metadata={"k": "v"}, align=64)
    convert(source, target, options=options, receipt=True)
    assert recheck(target, source).differences == ()
    os.remove(receipt_path(str(target)))
    assert any("is F16 [50, 40], in the source F32" in found for found in recheck(target, source).differences)


def test_a_folder_has_one_receipt(tmp_path):
    """Several files, and those written as they are, are checked together."""
    source, target = tmp_path / "m.pt", tmp_path / "shards"
    torch.save({f"w{i}": torch.randn(100) for i in range(5)}, source)
    convert(source, target, options=ConversionOptions(max_shard_size=800), receipt=True)
    assert recheck(target, source).differences == ()
    (target / "model.safetensors.index.json").write_text("{}")
    os.remove(target / "model-00002-of-00003.safetensors")
    assert [each.rpartition(": ")[2] for each in recheck(target).differences] == ["it is not there", "it was changed"]


def test_without_receipt_and_source_there_is_nothing_to_say(tmp_path):
    """Neither given: an error, not a verdict."""
    save_file({"w": torch.zeros(1)}, tmp_path / "m.safetensors")
    with pytest.raises(SettingsError, match="there is no receipt"):
        recheck(tmp_path / "m.safetensors")
    with pytest.raises(NotFound):
        recheck(tmp_path / "gone.safetensors")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from("schema options sources files plain salvaged tensors path sha256 name dtypes".split()),
            inner | st.just("modelhub.receipt/1"),
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_no_receipt_is_believed_before_it_is_understood(tmp_path_factory, value):
    """Whatever stands in a receipt: an answer, or one sentence that it is none."""
    folder = tmp_path_factory.mktemp("receipts")
    save_file({"w": torch.zeros(1)}, folder / "m.safetensors")
    value = {"schema": "modelhub.receipt/1", **value} if isinstance(value, dict) else value
    (folder / "r.json").write_text(json.dumps(value))
    with suppress(Malformed):
        assert recheck(folder / "m.safetensors", receipt=folder / "r.json").differences is not None


@pytest.mark.parametrize("path", ["../m.safetensors", "/etc/passwd", "a/../../b", "a\\b"])
def test_a_receipt_does_not_lead_elsewhere(tmp_path, receipt, path):
    """The files of a receipt lie below its output."""
    receipt["files"][0]["path"] = path
    (tmp_path / "r.json").write_text(json.dumps(receipt))
    with pytest.raises(Malformed, match="it is no receipt"):
        recheck(tmp_path / "m.safetensors", receipt=tmp_path / "r.json")


@pytest.mark.parametrize(
    "options",
    [
        NO_OPTIONS,
        ConversionOptions(
            dtypes=(DTypeRule("vae", DType.F32),),
            ema="use",
            prune=True,
            include=("*.weight",),
            exclude=("*norm*", "x"),
            components=("unet", "vae"),
            metadata={"a": "b"},
            modelspec=True,
        ),
        ConversionOptions(align=4096, max_shard_size=5, layout="ldm", dense=True, dedupe_shared=True),
    ],
)
def test_options_are_read_as_they_were_written(options):
    """Every option goes into a receipt and comes back."""
    assert read_options(json.loads(json.dumps(written_options(options)))) == options


def test_a_name_that_was_left_out_for_another_of_the_same_tensor_is_found(tmp_path):
    """Converters that write a tied tensor once say in the metadata which name it has; its bytes are compared."""
    tied = torch.randn(4, 4)
    torch.save({"head": tied, "embed": tied, "bias": torch.zeros(4)}, tmp_path / "m.pt")
    model = {"embed": tied, "bias": torch.zeros(4)}
    save_file(model, tmp_path / "one.safetensors", {"format": "pt", "head": "embed"})
    assert recheck(tmp_path / "one.safetensors", tmp_path / "m.pt").differences == ()
    save_file(model, tmp_path / "other.safetensors", {"format": "pt", "head": "bias"})
    (sentence,) = recheck(tmp_path / "other.safetensors", tmp_path / "m.pt").differences
    assert "tensor 'head' is F32 [4], in the source F32 [4, 4]" in sentence


def test_a_receipt_that_cannot_be_written_takes_nothing_away(source, tmp_path, monkeypatch):
    """The output stays, its source too, and the hint says so."""

    def fail(*_):
        raise NoSpace("receipt: no space left for it")

    monkeypatch.setattr("modelhub.convert.write_receipt", fail)
    target = tmp_path / "new.safetensors"
    with pytest.raises(NoSpace) as caught:
        convert(source, target, receipt=True, delete_source=True)
    assert caught.value.hint == f"{target} itself is there, and verified"
    assert target.exists() and source.exists()
