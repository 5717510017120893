"""A folder of model files becomes the same folder with safetensors files, which its libraries load."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelhub.convert import ConversionOptions, convert, dtype_rule
from modelhub.errors import ConversionError, NothingToConvert, UnsafeModelError, WouldOverwrite

BIN = "pytorch_model.bin"


def weights(*names: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(len(names))
    return {name: torch.randn(6, 5) for name in names}


def save(weights: dict[str, torch.Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(weights, path, {"format": "pt"})
    else:
        torch.save(weights, path)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def same(path: Path, expected: dict[str, torch.Tensor]) -> bool:
    found = load_file(path)
    return found.keys() == expected.keys() and all(torch.equal(found[k], t) for k, t in expected.items())


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A diffusers folder as 2022 had it: .bin files, configurations, a vocabulary."""
    folder = tmp_path / "sd"
    save(weights("conv_in.weight", "conv_out.bias"), folder / "unet" / "diffusion_pytorch_model.bin")
    save(weights("decoder.conv_in.weight"), folder / "vae" / "diffusion_pytorch_model.bin")
    save(weights("text_model.final_layer_norm.weight"), folder / "text_encoder" / BIN)
    for name in ("unet", "vae", "text_encoder"):
        (folder / name / "config.json").write_text('{"_class_name": "X"}')
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text('{"a</w>": 0}')
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


def test_a_pipelines_weights_become_safetensors_and_the_rest_stays(pipeline):
    """Every component gets the file that its library looks for first; all other files are the same."""
    done = convert(pipeline)
    made = Path(done.target)
    assert made == pipeline.with_name("sd-safetensors")
    assert files(made) == {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    }
    assert same(
        made / "unet/diffusion_pytorch_model.safetensors", torch.load(pipeline / "unet/diffusion_pytorch_model.bin")
    )
    assert same(made / "text_encoder/model.safetensors", torch.load(pipeline / "text_encoder" / BIN))
    for name in ("model_index.json", "tokenizer/vocab.json", "vae/config.json"):
        assert (made / name).read_bytes() == (pipeline / name).read_bytes()
    assert done.plan.leftovers == ()


def test_the_folder_is_as_save_file_would_have_written_it(pipeline, tmp_path):
    """Each file is byte for byte the library's own."""
    save_file(torch.load(pipeline / "text_encoder" / BIN), tmp_path / "reference", {"format": "pt"})
    made = Path(convert(pipeline, tmp_path / "out").target)
    assert (made / "text_encoder/model.safetensors").read_bytes() == (tmp_path / "reference").read_bytes()


def test_the_same_weights_twice_are_written_once(pipeline):
    """Where safetensors are there already they are copied as they are and the .bin beside them is left out."""
    own = {"other": torch.ones(3)}
    save(own, pipeline / "vae/diffusion_pytorch_model.safetensors")
    done = convert(pipeline)
    copied = Path(done.target) / "vae/diffusion_pytorch_model.safetensors"
    assert copied.read_bytes() == (pipeline / "vae/diffusion_pytorch_model.safetensors").read_bytes()
    assert [item.path for item in done.plan.leftovers] == ["vae/diffusion_pytorch_model.bin"]


def test_shards_of_a_variant_keep_its_name(pipeline):
    """diffusers looks for diffusion_pytorch_model.safetensors.index.fp16.json for variant="fp16"."""
    unet = pipeline / "unet"
    (unet / "diffusion_pytorch_model.bin").unlink()
    shards = [f"diffusion_pytorch_model.fp16-0000{n}-of-00002.bin" for n in (1, 2)]
    for number, name in enumerate(shards):
        save(weights(f"conv.{number}"), unet / name)
    places = {f"conv.{number}": name for number, name in enumerate(shards)}
    index = unet / "diffusion_pytorch_model.bin.index.fp16.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    made = Path(convert(pipeline).target)
    written = json.loads((made / "unet/diffusion_pytorch_model.safetensors.index.fp16.json").read_text())
    assert written["weight_map"] == {key: name.replace(".bin", ".safetensors") for key, name in places.items()}
    assert {path for path in files(made) if path.startswith("unet/")} == {
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        *(f"unet/{name}".replace(".bin", ".safetensors") for name in shards),
    }
    one = Path(convert(pipeline, f"{pipeline}-one", options=ConversionOptions(max_shard_size=1)).target)
    assert (one / "unet/diffusion_pytorch_model.safetensors.index.fp16.json").is_file()


def test_variants_keep_their_names(pipeline):
    """diffusers loads diffusion_pytorch_model.fp16.safetensors for variant="fp16"."""
    save(weights("conv_in.weight"), pipeline / "unet/diffusion_pytorch_model.fp16.bin")
    save(weights("text_model.x"), pipeline / "text_encoder/pytorch_model.fp16.bin")
    made = files(Path(convert(pipeline).target))
    assert {"unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16.safetensors"} <= made


def test_code_and_leftovers_of_training_are_listed_and_not_copied(pipeline):
    """Python files, optimizer states and other runtimes' models do not come along silently, nor at all."""
    (pipeline / "unet" / "custom.py").write_text("raise SystemExit")
    save({"state": torch.ones(3)}, pipeline / "optimizer.bin")
    (pipeline / "unet" / "model.onnx").write_bytes(b"\x08\x07\x12\x04test")
    done = convert(pipeline, salvage=True)
    assert {item.path for item in done.plan.leftovers} == {"unet/custom.py", "optimizer.bin", "unet/model.onnx"}
    assert not {"unet/custom.py", "optimizer.bin", "optimizer.safetensors"} & files(Path(done.target))


def test_a_cast_is_for_the_component(pipeline):
    """--dtype vae=fp16 names a part of the pipeline."""
    done = convert(pipeline, options=ConversionOptions(dtypes=(dtype_rule("fp16"), dtype_rule("te=fp32"))))
    types = {
        path.parent.name: {t.dtype for t in load_file(path).values()}
        for path in Path(done.target).rglob("*.safetensors")
    }
    assert types == {"unet": {torch.float16}, "vae": {torch.float16}, "text_encoder": {torch.float32}}


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A transformers model in two shards with their index."""
    folder = tmp_path / "t5"
    shards = {
        "pytorch_model-00001-of-00002.bin": weights("a", "b"),
        "pytorch_model-00002-of-00002.bin": weights("c", "d", "e"),
    }
    for name, tensors in shards.items():
        save(tensors, folder / name)
    index = {"metadata": {"total_size": 600}, "weight_map": {k: name for name, ts in shards.items() for k in ts}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    return folder


def test_shards_stay_shards_with_an_index_of_their_new_names(sharded):
    """pytorch_model-00001-of-00002.bin becomes model-00001-of-00002.safetensors, and the index says so."""
    made = Path(convert(sharded).target)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert files(made) == {*shards, "model.safetensors.index.json", "config.json"}
    index = json.loads((made / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 600},
        "weight_map": {"a": shards[0], "b": shards[0], "c": shards[1], "d": shards[1], "e": shards[1]},
    }
    for old, new in zip(sorted(sharded.glob("*.bin")), shards, strict=True):
        assert same(made / new, torch.load(old))


def test_shards_can_be_put_together_or_cut_anew(sharded, tmp_path):
    """--max-shard-size is a limit for the new files, however many the old ones were."""
    whole = {k: t for path in sorted(sharded.glob("*.bin")) for k, t in torch.load(path).items()}
    made = Path(convert(sharded, tmp_path / "one", options=ConversionOptions(max_shard_size=10_000)).target)
    assert files(made) == {"model.safetensors", "config.json"}
    assert same(made / "model.safetensors", whole)
    made = Path(convert(sharded, tmp_path / "many", options=ConversionOptions(max_shard_size=120)).target)
    assert len(list(made.glob("model-*-of-00005.safetensors"))) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "pytorch_model-00002-of-00002.bin").unlink(), "which is not there"),
        (lambda f: save(weights("c"), f / "pytorch_model-00002-of-00002.bin"), "names 'd' in"),
        (lambda f: save(weights("a", "c", "d", "e"), f / "pytorch_model-00002-of-00002.bin"), "'a' is both in"),
        (lambda f: (f / "pytorch_model.bin.index.json").write_text("{}"), "names no files"),
    ],
)
def test_incomplete_shards_are_refused(sharded, change, words):
    """A model that lacks a shard or a tensor would load with random weights: an error that says what is missing."""
    change(sharded)
    with pytest.raises(ConversionError) as caught:
        convert(sharded)
    assert words in str(caught.value)
    assert os.listdir(sharded.parent) == [sharded.name]


def test_a_folder_that_is_safetensors_already_is_refused_unless_something_changes(tmp_path):
    """Nothing to convert; a cast is something."""
    folder = tmp_path / "m"
    save(weights("a"), folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    with pytest.raises(NothingToConvert, match="safetensors already"):
        convert(folder)
    made = Path(convert(folder, options=ConversionOptions(dtypes=(dtype_rule("fp16"),))).target)
    assert load_file(made / "model.safetensors")["a"].dtype == torch.float16


def test_an_unsafe_file_in_it_refuses_the_folder(pipeline, tmp_path):
    """One component that runs code is enough; salvaged, its tensors' bytes are copied and nothing is run."""

    class Malicious:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({**weights("decoder.x"), "x": Malicious()}, pipeline / "vae/diffusion_pytorch_model.bin")
    with pytest.raises(UnsafeModelError):
        convert(pipeline)
    done = convert(pipeline, salvage=True)
    assert done.plan.outputs[0].metadata["modelhub.salvaged"] == "true"
    assert same(Path(done.target) / "vae/diffusion_pytorch_model.safetensors", weights("decoder.x"))
    assert not (tmp_path / "ran").exists()


def test_what_is_for_single_files_is_refused(pipeline):
    """Averages and parts are matters of checkpoints; a folder's source is never deleted."""
    for options in (ConversionOptions(prune=True), ConversionOptions(components=("vae",))):
        with pytest.raises(ConversionError, match="are for single files"):
            convert(pipeline, options=options)
    with pytest.raises(ConversionError, match="single file"):
        convert(pipeline, fix_vae=pipeline / "vae/diffusion_pytorch_model.bin")
    with pytest.raises(ConversionError, match="not deleted"):
        convert(pipeline, delete_source=True)
    (pipeline.parent / "sd-safetensors").mkdir()
    (pipeline.parent / "sd-safetensors" / "mine").touch()
    with pytest.raises(WouldOverwrite):
        convert(pipeline, force=True)


def test_transformers_loads_what_was_written(tmp_path):
    """A model saved by transformers in shards, converted, loads with the same weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=40
    )
    model = transformers.CLIPTextModel(config)
    folder = tmp_path / "clip"
    config.save_pretrained(folder)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    names = sorted(state)
    index = {"metadata": {}, "weight_map": {}}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: state[name] for name in part}, folder / file)
        index["weight_map"] |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    done = convert(folder)
    again = transformers.CLIPTextModel.from_pretrained(done.target, local_files_only=True, use_safetensors=True)
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize("file", ["../outside.bin", "/etc/passwd", "", ".", "config.json", 7, None, ["a"]])
def test_an_index_cannot_lead_out_of_the_folder(sharded, file):
    """Only the folder's own files of weights are shards, whatever an index names."""
    save(weights("c"), sharded.parent / "outside.bin")
    path = sharded / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"weight_map": index["weight_map"] | {"c": file}}))
    with pytest.raises(ConversionError, match="which is not there"):
        convert(sharded, salvage=True)
    assert not (sharded.parent / "t5-safetensors").exists()


def test_links_that_lead_out_of_the_folder_are_not_followed(pipeline, tmp_path):
    """A vocabulary that is a link to something private is left out and listed, even when salvaging."""
    (tmp_path / "private.json").write_text('{"key": "secret"}')
    (pipeline / "tokenizer" / "special.json").symlink_to(tmp_path / "private.json")
    with pytest.raises(UnsafeModelError):
        convert(pipeline)
    done = convert(pipeline, salvage=True)
    assert "tokenizer/special.json" not in files(Path(done.target))
    assert "tokenizer/special.json" in {item.path for item in done.plan.leftovers}


def test_a_configuration_says_the_type_that_its_weights_were_cast_to(pipeline):
    """transformers loads weights as the type that config.json says: what was cast as a whole is told there."""
    config = pipeline / "text_encoder" / "config.json"
    config.write_text('{"architectures": ["CLIPTextModel"], "torch_dtype": "float32", "vocab_size": 1}')
    (pipeline / "vae" / "config.json").write_text('{"torch_dtype": "float32"}')
    rules = tuple(map(dtype_rule, ("fp16", "vae=keep")))
    done = convert(pipeline, options=ConversionOptions(dtypes=rules))
    made = Path(done.target)
    told = json.loads((made / "text_encoder" / "config.json").read_text())
    assert told == json.loads(config.read_text()) | {"torch_dtype": "float16"}
    assert list(told) == ["architectures", "torch_dtype", "vocab_size"]
    assert "text_encoder/config.json: torch_dtype is float16 now" in done.plan.notes
    for name in ("vae", "unet"):
        assert (made / name / "config.json").read_bytes() == (pipeline / name / "config.json").read_bytes()


def test_a_configuration_of_weights_of_two_types_stays(pipeline):
    """Where some weights are kept wider, no one type is that of all."""
    config = pipeline / "text_encoder" / "config.json"
    config.write_text('{"torch_dtype": "float32"}')
    save(weights("a.weight", "norm.weight"), pipeline / "text_encoder" / BIN)
    rules = tuple(map(dtype_rule, ("fp16", "*norm*=fp32")))
    done = convert(pipeline, options=ConversionOptions(dtypes=rules))
    assert (Path(done.target) / "text_encoder" / "config.json").read_bytes() == config.read_bytes()
