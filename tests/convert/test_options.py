"""What a conversion changes on the way is what was asked for, exactly, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modelhub.container import open_path
from modelhub.convert import (
    Conversion,
    ConversionOptions,
    byte_count,
    convert,
    dtype_rule,
    metadata_pair,
    plan_conversion,
)
from modelhub.errors import ConversionError, NothingToConvert, SettingsError, UnsafeModelError, WouldOverwrite
from modelhub.identify import Identity
from modelhub.tensors import DType

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TE = "cond_stage_model.transformer.text_model."


def checkpoint() -> dict[str, torch.Tensor]:
    """The skeleton of a training checkpoint of SD 1: some tensors of each part, with their real names."""
    torch.manual_seed(3)
    unet = {
        f"{UNET}input_blocks.0.0.weight": torch.randn(8, 4, 3, 3),
        f"{UNET}input_blocks.1.0.in_layers.0.weight": torch.randn(8),
        f"{UNET}out.2.bias": torch.randn(4),
    }
    averaged = {f"model_ema.{name[6:].replace('.', '')}": tensor + 1 for name, tensor in unet.items()}
    return {
        **unet,
        **averaged,
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(7, dtype=torch.int32),
        f"{VAE}decoder.conv_in.weight": torch.randn(8, 4, 3, 3),
        f"{VAE}encoder.norm_out.bias": torch.randn(8),
        f"{VAE}quant_conv.weight": torch.randn(8, 8, 1, 1),
        f"{VAE}loss.logvar": torch.randn(1),
        f"{TE}embeddings.position_ids": torch.arange(77)[None],
        f"{TE}final_layer_norm.weight": torch.randn(8),
        "betas": torch.linspace(0.001, 0.01, 10),
        "alphas_cumprod": torch.linspace(0.9, 0.1, 10, dtype=torch.float64),
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.save({"state_dict": checkpoint(), "global_step": 5}, tmp_path / "m.ckpt")
    return tmp_path / "m.ckpt"


def converted(source: Path, target: Path | None = None, **options) -> dict[str, torch.Tensor]:
    """The tensors that converting with *options* gives."""
    done = convert(source, target or source.parent / "out.safetensors", options=ConversionOptions(**options))
    assert isinstance(done, Conversion)
    return load_file(done.target)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[k].dtype == t.dtype and torch.equal(found[k], t) for k, t in expected.items()
    )


def test_weights_are_cast_and_the_rest_is_left_alone(source):
    """--dtype fp16: floating point weights as torch's .half(), integers and the noise schedule as they were."""
    kept = {"betas", "alphas_cumprod", "model_ema.decay"}
    expected = {k: t.half() if t.is_floating_point() and k not in kept else t for k, t in checkpoint().items()}
    assert same(converted(source, dtypes=(dtype_rule("fp16"),)), expected)


def test_scales_of_quantised_weights_are_left_alone(tmp_path):
    """Weights of eight bits are codes, and stay so; what they are multiplied with keeps every bit, too."""
    tensors = {
        "a.weight": torch.ones(2, 2).to(torch.float8_e4m3fn),
        "a.bias": torch.ones(2),
        **{f"a.{name}": torch.tensor([1.2345e-7]) for name in ("scale_weight", "weight_scale", "scale_input")},
        "b.weight.absmax": torch.tensor([1.2345e-7]),
    }
    save_file(tensors, tmp_path / "m.safetensors")
    expected = {name: tensor.half() if name == "a.bias" else tensor for name, tensor in tensors.items()}
    found = converted(tmp_path / "m.safetensors", tmp_path / "out.safetensors", dtypes=(dtype_rule("fp16"),))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype is tensor.dtype and torch.equal(found[name].float(), tensor.float())


@pytest.mark.parametrize(("word", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_last_rule_that_fits_decides(source, word, dtype):
    """Components and wildcards refine a rule for everything; keep leaves the source's own type."""
    rules = (word, "vae=fp32", "*norm*=keep", "*.out.2.*=fp32")
    found = converted(source, dtypes=tuple(map(dtype_rule, rules)))
    assert found[f"{UNET}input_blocks.0.0.weight"].dtype == dtype
    assert found[f"{VAE}decoder.conv_in.weight"].dtype == torch.float32
    assert found[f"{TE}final_layer_norm.weight"].dtype == torch.float32
    assert found[f"{UNET}out.2.bias"].dtype == torch.float32


@pytest.mark.parametrize(("kind", "dtype"), [("vae", DType.F16), ("checkpoint", DType.F32)])
def test_a_vaes_own_file_is_all_vae(tmp_path, kind, dtype):
    """In the file of one part the names have no prefix: its identity says what it is."""
    torch.save({"decoder.conv_in.weight": torch.ones(2)}, tmp_path / "v.vae.pt")
    with open_path(tmp_path / "v.vae.pt") as container:
        plan = plan_conversion(container, Identity(kind), ConversionOptions(dtypes=(dtype_rule("vae=fp16"),)))
        assert [tensor.dtype for tensor in plan.tensors] == [dtype]


def test_a_weight_out_of_range_stops_the_conversion(tmp_path):
    """Nothing is written, and the sentence names the tensor."""
    torch.save({"a": torch.ones(3), "b.weight": torch.tensor([1.0, 1e6])}, tmp_path / "m.pt")
    with pytest.raises(ConversionError, match=r"tensor 'b\.weight' has the value 1e\+06"):
        converted(tmp_path / "m.pt", dtypes=(dtype_rule("fp16"),))
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


def test_averaged_weights_are_kept_dropped_or_used(source):
    """Use puts each averaged weight where the trained one was; nothing of the average is left otherwise."""
    whole = checkpoint()
    without = {k: t for k, t in whole.items() if not k.startswith("model_ema.")}
    assert same(converted(source, source.parent / "keep.safetensors", ema="keep"), whole)
    assert same(converted(source, source.parent / "drop.safetensors", ema="drop"), without)
    used = {k: t + 1 if k.startswith(UNET) else t for k, t in without.items()}
    assert same(converted(source, source.parent / "use.safetensors", ema="use"), used)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda w: w.pop("model_ema.diffusion_modelout2bias"),
            r"'model\.diffusion_model\.out\.2\.bias' has no averaged",
        ),
        (lambda w: w.update({"model_ema.diffusion_modelout2bias": torch.ones(5)}), "of another shape"),
        (lambda w: [w.pop(k) for k in list(w) if k.startswith("model_ema")], "no averaged weights"),
    ],
)
def test_incomplete_averages_are_not_used(tmp_path, change, words):
    """A UNet that is half averaged, half not, is no model."""
    weights = checkpoint()
    change(weights)
    torch.save(weights, tmp_path / "m.ckpt")
    with pytest.raises(ConversionError, match=words):
        converted(tmp_path / "m.ckpt", ema="use")


def test_pruning_leaves_what_loaders_use(source):
    """Averages and losses go, and each is listed; --ema keep still keeps the averages."""
    done = convert(source, options=ConversionOptions(prune=True), dry_run=True)
    names = {tensor.name for tensor in done.tensors}
    gone = {k for k in checkpoint() if k.startswith("model_ema.")} | {f"{VAE}loss.logvar"}
    assert names == checkpoint().keys() - gone
    assert gone <= {item.path for item in done.leftovers}
    assert any("pruned: 1 tensors under first_stage_model.loss." in note for note in done.notes)
    kept = convert(source, options=ConversionOptions(prune=True, ema="keep"), dry_run=True)
    assert {t.name for t in kept.tensors} == checkpoint().keys() - {f"{VAE}loss.logvar"}


def test_tensors_are_chosen_by_name(source):
    """Wildcards keep and leave out, what is left out is listed, and one that fits nothing is an error."""
    norms = {k: t for k, t in checkpoint().items() if "norm" in k}
    found = converted(source, include=("*norm*", "betas"), exclude=("betas",))
    assert same(found, norms)
    plan = convert(source, options=ConversionOptions(exclude=("*.loss.*",)), dry_run=True)
    assert [item.path for item in plan.leftovers] == [f"{VAE}loss.logvar"]
    with pytest.raises(ConversionError, match=r"no tensor's name fits '\*nrom\*'"):
        converted(source, exclude=("*nrom*",))
    with pytest.raises(NothingToConvert, match="no tensor would be left"):
        converted(source, exclude=("*",))


def test_components_become_files_of_their_own(source):
    """Each part lies in its own file, under the names that loaders of parts expect; the rest is listed."""
    done = convert(source, source.parent / "parts", options=ConversionOptions(components=("unet", "vae", "te")))
    parts = {path.name: load_file(path) for path in Path(done.target).iterdir()}
    for file, prefix in (("unet", UNET), ("vae", VAE), ("te", "cond_stage_model.transformer.")):
        expected = {k.removeprefix(prefix): t for k, t in checkpoint().items() if k.startswith(prefix)}
        assert same(parts.pop(f"{file}.safetensors"), expected)
    assert not parts
    assert {"betas", "model_ema.decay"} <= {item.path for item in done.plan.leftovers}


def test_one_component_is_one_file(source):
    """It needs no folder."""
    found = converted(source, components=("vae",), dtypes=(dtype_rule("vae=fp16"),))
    assert found.keys() == {k.removeprefix(VAE) for k in checkpoint() if k.startswith(VAE)}
    assert found["decoder.conv_in.weight"].dtype == torch.float16


@pytest.mark.parametrize(
    ("components", "words"),
    [(("vea",), "'vea' is no component"), (("controlnet",), "its parts are ema, te, unet, vae")],
)
def test_a_component_that_is_not_there_is_refused(source, components, words):
    """With the parts that are."""
    with pytest.raises(ConversionError) as caught:
        converted(source, components=components)
    assert words in str(caught.value)


@pytest.mark.parametrize("form", ["vae.pt", "safetensors", "checkpoint"])
def test_a_vae_is_swapped_in(source, form):
    """From a VAE's own pickle or safetensors file, or from another checkpoint; all other tensors are untouched."""
    vae = {k.removeprefix(VAE): t.half() + 1 for k, t in checkpoint().items() if k.startswith(VAE) and "loss" not in k}
    path = source.parent / f"v.{form}"
    if form == "safetensors":
        save_file(vae, path)
    elif form == "vae.pt":
        torch.save({"state_dict": vae | {"loss.logvar": torch.ones(1)}}, path)
    else:
        torch.save({**checkpoint(), **{VAE + k: t for k, t in vae.items()}}, path)
    done = convert(source, fix_vae=path)
    expected = {k: t for k, t in checkpoint().items() if not k.startswith(VAE)} | {VAE + k: t for k, t in vae.items()}
    found = load_file(done.target)
    if form == "checkpoint":
        expected[f"{VAE}loss.logvar"] = checkpoint()[f"{VAE}loss.logvar"]
    assert same(found, expected)
    assert any(f"the VAE is that of {path}" in note for note in done.plan.notes)


@pytest.mark.parametrize(
    ("vae", "words"),
    [
        ({"decoder.conv_in.weight": torch.ones(8, 4, 3, 3)}, "it has no 'first_stage_model.encoder.norm_out.bias'"),
        ({"decoder.conv_in.weight": torch.ones(2, 4, 3, 3)}, "has the shape (2, 4, 3, 3), not (8, 4, 3, 3)"),
        ({"decoder.up_blocks.0.x": torch.ones(2), "decoder.conv_in.weight": torch.ones(1)}, "no VAE with the names"),
        ({"unrelated": torch.ones(2)}, "no VAE with the names"),
    ],
)
def test_a_vae_that_does_not_fit_is_refused(source, vae, words):
    """Missing names, other shapes and files without a VAE are told, and nothing is written."""
    torch.save(vae, source.parent / "v.pt")
    with pytest.raises(ConversionError) as caught:
        convert(source, fix_vae=source.parent / "v.pt")
    assert words in str(caught.value)


def test_an_unsafe_vae_is_refused(source):
    """The other file is judged like the source, and never run."""
    marker = source.parent / "ran"

    class Malicious:
        def __reduce__(self):
            return exec, (f"open({str(marker)!r}, 'w')",)

    torch.save({"decoder.conv_in.weight": torch.ones(1), "x": Malicious()}, source.parent / "v.pt")
    with pytest.raises(UnsafeModelError, match=r"v\.pt: not converted"):
        convert(source, fix_vae=source.parent / "v.pt")
    assert not marker.exists()


def test_metadata_can_be_added_and_kept(tmp_path):
    """Pairs are added to the header; a safetensors file keeps its own."""
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", {"format": "pt", "ss_tag": "x"})
    done = convert(
        tmp_path / "a.safetensors", tmp_path / "b.safetensors", options=ConversionOptions(metadata={"note": "é=1"})
    )
    with safe_open(done.target, "pt") as file:
        assert file.metadata() == {"format": "pt", "ss_tag": "x", "note": "é=1"}


def test_tensors_of_several_names_are_written_once(tmp_path):
    """The same view is written once, its other names are metadata; what merely overlaps is written whole."""
    base = torch.randn(4, 6)
    torch.save({"b": base, "a": base, "t": base.T, "part": base[:2], "own": torch.ones(3)}, tmp_path / "m.pt")
    done = convert(tmp_path / "m.pt", options=ConversionOptions(dedupe_shared=True))
    found = load_file(done.target)
    assert same(found, {"a": base, "t": base.T.contiguous(), "part": base[:2], "own": torch.ones(3)})
    metadata = done.plan.outputs[0].metadata
    assert metadata["b"] == "a"
    assert [set(group) for group in json.loads(metadata["modelhub.shared"])] == [{"a", "b", "t", "part"}]


def test_a_removed_name_is_no_fact_of_the_file(tmp_path):
    """A tensor that is called format does not take the place of the format, which loaders ask for."""
    weight = torch.randn(3)
    torch.save({"a": weight, "format": weight}, tmp_path / "m.pt")
    done = convert(tmp_path / "m.pt", options=ConversionOptions(dedupe_shared=True))
    assert load_file(done.target).keys() == {"a"}
    assert done.plan.outputs[0].metadata["format"] == "pt"


@pytest.mark.parametrize("align", [64, 4096])
def test_aligned_tensors_begin_at_multiples(tmp_path, align):
    """Every tensor of a multiple of the alignment begins at one; no element type is misaligned; values are the same."""
    torch.manual_seed(1)
    weights = {f"w{n}": torch.randn(n * 32) for n in (1, 3, 32, 64, 77, 128)}
    weights |= {"ids": torch.arange(77), "byte": torch.ones(3, dtype=torch.uint8), "h": torch.ones(5).half()}
    weights |= {"empty": torch.ones(0)}
    torch.save(weights, tmp_path / "m.pt")
    done = convert(tmp_path / "m.pt", options=ConversionOptions(align=align))
    (output,) = done.plan.outputs
    assert len(output.header) % align == 0
    for tensor in output.tensors:
        start = len(output.header) + tensor.begin
        assert start % tensor.dtype.itemsize == 0
        if tensor.nbytes % align == 0:
            assert start % align == 0
    assert same(load_file(done.target), weights)


def test_shards_have_an_index_as_transformers_reads_it(tmp_path):
    """No file is larger than asked for unless one tensor is, and the index says where each tensor is."""
    torch.manual_seed(2)
    weights = {f"w{n:02}": torch.randn(100) for n in range(10)} | {"large": torch.randn(600)}
    torch.save(weights, tmp_path / "m.pt")
    done = convert(tmp_path / "m.pt", options=ConversionOptions(max_shard_size=1000))
    folder = Path(done.target)
    assert folder == tmp_path / "m"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 1600 * 4}
    shards = {name: load_file(folder / name) for name in sorted(set(index["weight_map"].values()))}
    assert list(shards) == [f"model-{n:05}-of-00006.safetensors" for n in range(1, 7)]
    assert {p.name for p in folder.iterdir()} == {*shards, "model.safetensors.index.json"}
    for name, tensor in weights.items():
        assert torch.equal(shards[index["weight_map"][name]][name], tensor)
    for shard in shards.values():
        assert sum(t.nbytes for t in shard.values()) <= 1000 or len(shard) == 1


def test_what_fits_into_one_shard_is_one_file(source):
    """A limit that is not reached changes nothing."""
    plain = convert(source, source.parent / "a.safetensors")
    limited = convert(source, source.parent / "b.safetensors", options=ConversionOptions(max_shard_size=1 << 30))
    assert Path(plain.target).read_bytes() == Path(limited.target).read_bytes()


def test_the_same_options_give_the_same_bytes(source):
    """With every change at once, two conversions do not differ in a bit."""
    options = ConversionOptions(
        dtypes=(dtype_rule("fp16"),), prune=True, align=64, metadata={"b": "1", "a": "2"}, dedupe_shared=True
    )
    files = [convert(source, source.parent / f"{n}.safetensors", options=options).target for n in "ab"]
    assert Path(files[0]).read_bytes() == Path(files[1]).read_bytes()


def test_a_safetensors_file_is_rewritten_where_something_changes(tmp_path):
    """A cast is a change; asking for what is already there is not."""
    weights = {"a.weight": torch.randn(5, 3), "b": torch.arange(4)}
    path = tmp_path / "m.safetensors"
    save_file(weights, path, {"format": "pt", "k": "v"})
    found = converted(path, dtypes=(dtype_rule("fp16"),))
    assert same(found, {"a.weight": weights["a.weight"].half(), "b": weights["b"]})
    with pytest.raises(NothingToConvert, match="safetensors already"):
        convert(path, tmp_path / "n.safetensors")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(NothingToConvert, match="already what was asked for"):
        converted(path, dtypes=(dtype_rule("fp32"),), prune=True)


def test_in_place_replaces_the_source_with_the_verified_file(tmp_path):
    """The file keeps its name; without --in-place it is refused as a target."""
    weights = {"a.weight": torch.randn(5, 3)}
    path = tmp_path / "m.safetensors"
    save_file(weights, path)
    options = ConversionOptions(dtypes=(dtype_rule("fp16"),))
    with pytest.raises(WouldOverwrite, match="the source itself") as caught:
        convert(path, options=options)
    assert "--in-place" in caught.value.hint
    done = convert(path, options=options, in_place=True)
    assert done.target == str(path)
    assert same(load_file(path), {"a.weight": weights["a.weight"].half()})
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    """A cache's file that a link leads to is somebody else's: in place the link makes way, and the report says so."""
    blob, path = tmp_path / "blob", tmp_path / "m.safetensors"
    save_file({"w": torch.ones(4)}, blob)
    before = blob.read_bytes()
    path.symlink_to(blob)
    options = ConversionOptions(dtypes=(dtype_rule("fp16"),))
    done = convert(path, options=options, in_place=True)
    assert f"{path} is a link: what it leads to, {blob}, stays as it was" in done.plan.notes
    assert load_file(path)["w"].dtype is torch.float16
    assert not path.is_symlink()
    assert blob.read_bytes() == before


def test_in_place_keeps_the_source_when_something_goes_wrong(tmp_path):
    """A weight that cannot be cast, found in the middle of the work, leaves the file as it was."""
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.randn(5), "b": torch.tensor([1e6])}, path)
    before = path.read_bytes()
    with pytest.raises(ConversionError, match="out of range"):
        convert(path, options=ConversionOptions(dtypes=(dtype_rule("fp16"),)), in_place=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_in_place_leaves_no_source_to_delete(tmp_path):
    """What is asked for twice, in two ways that cannot both be meant, is refused."""
    save_file({"a": torch.randn(5)}, tmp_path / "m.safetensors")
    with pytest.raises(ConversionError, match="nothing to delete"):
        options = ConversionOptions(dtypes=(dtype_rule("fp16"),))
        convert(tmp_path / "m.safetensors", options=options, in_place=True, delete_source=True)


def test_a_pattern_that_fits_nothing_is_told(source):
    """A misspelt part of --dtype changes nothing, and the report says so."""
    with open_path(source) as container:
        rules = (dtype_rule("fp16"), dtype_rule("vea=fp32"), dtype_rule("vae=fp32"))
        notes = plan_conversion(container, None, ConversionOptions(dtypes=rules)).notes
    assert [note for note in notes if note.startswith("--dtype")] == ["--dtype: no tensor is, or is in, 'vea'"]


def test_a_pickle_is_not_rewritten_in_place(source):
    """Its name would be wrong; --delete-source says what is meant."""
    with pytest.raises(ConversionError, match=r"only a \.safetensors file") as caught:
        convert(source, in_place=True)
    assert "--delete-source" in caught.value.hint
    assert source.exists()


def test_the_source_is_deleted_only_when_asked_and_only_afterwards(source):
    """A conversion that fails keeps it, one that is only planned too."""
    with pytest.raises(ConversionError):
        convert(source, options=ConversionOptions(components=("controlnet",)), delete_source=True)
    convert(source, delete_source=True, dry_run=True)
    assert source.exists()
    done = convert(source, delete_source=True)
    assert not source.exists()
    assert same(load_file(done.target), checkpoint())


@pytest.mark.parametrize("text", ["fp8", "=fp16", "vae=", "vae=half", ""])
def test_a_rule_that_is_none_is_refused(text):
    """With what can be written."""
    with pytest.raises(SettingsError) as caught:
        dtype_rule(text)
    assert "fp16" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "count"),
    [("5GB", 5 * 10**9), ("500MiB", 500 << 20), ("1000", 1000), ("1.5 gb", 1_500_000_000), ("2kb", 2000), ("7B", 7)],
)
def test_sizes_have_units(text, count):
    """Decimal ones as transformers has them, binary ones with an i."""
    assert byte_count(text) == count


@pytest.mark.parametrize("text", ["", "GB", "0", "-1GB", "5XB", "5GB5"])
def test_a_size_that_is_none_is_refused(text):
    """A wrong word is no guess."""
    with pytest.raises(SettingsError):
        byte_count(text)


@pytest.mark.parametrize("text", ["novalue", "=x", "format=tf", "modelhub.salvaged=false"])
def test_metadata_that_cannot_be_added_is_refused(text):
    """Neither what has no key nor what loaders or modelhub rely on."""
    with pytest.raises(SettingsError):
        metadata_pair(text)
