"""Real files: a checkpoint becomes a folder that diffusers loads, and the folder the same checkpoint again."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from modelhub.container import open_path
from modelhub.convert import Conversion, ConversionOptions, ConversionPlan, convert, dtype_rule
from modelhub.convert.folder_files import weight_groups
from modelhub.convert.folders import component_weights
from modelhub.convert.names import FORMAT
from modelhub.convert.relayout import UNPLACED_FILE
from modelhub.errors import ConversionError, NotFound, NothingToConvert, UnsupportedLayout
from modelhub.samples.layouts import Architecture, checkpoint
from modelhub.tensors import DType
from tests.cli.run import modelhub
from tests.convert.layouts.build import ARCHITECTURES, SMALL, Weights, assert_equal

TORCH = {DType.F16: torch.float16, DType.F32: torch.float32, DType.I64: torch.int64, DType.I32: torch.int32}


def weights_of(architecture: Architecture, **options) -> Weights:
    """Random weights of the types that real files have."""
    generator = torch.Generator().manual_seed(7)
    made = {}
    for name, (dtype, shape) in checkpoint(architecture, width=SMALL, **options).items():
        made[name] = torch.randint(-9, 9, shape, generator=generator).to(TORCH[dtype])
    return made


FOLDER = ConversionOptions(layout="diffusers")
CHECKPOINT = ConversionOptions(layout="ldm")


def lay_out(source: Path, target: Path, tokenizer: Path | None = None) -> ConversionPlan:
    done = convert(source, target, options=FOLDER, tokenizer=tokenizer)
    assert isinstance(done, Conversion)
    return done.plan


def put_together(source: Path, target: Path) -> ConversionPlan:
    done = convert(source, target, options=CHECKPOINT)
    assert isinstance(done, Conversion)
    return done.plan


def save_without(path: Path, *names: str) -> None:
    weights = load_file(path)
    save_file({name: tensor for name, tensor in weights.items() if name not in names}, path, FORMAT)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SD 1 checkpoint in torch's format, and the folder it becomes beside it."""
    path = tmp_path_factory.mktemp("sd1") / "sd1.ckpt"
    torch.save({"state_dict": weights_of("sd-1")}, path)
    lay_out(path, path.with_suffix(""))
    return path


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_comes_back_byte_for_byte(architecture: Architecture, tmp_path: Path) -> None:
    """A safetensors checkpoint made a folder and a checkpoint again is the same file, metadata and all."""
    source, folder, again = tmp_path / "a.safetensors", tmp_path / "a", tmp_path / "b.safetensors"
    ema = architecture == "sd-2"
    with_metadata = tmp_path / "first.safetensors"
    save_file(weights_of(architecture, ema=ema), with_metadata, FORMAT)
    convert(with_metadata, source, options=ConversionOptions(metadata={"author": "somebody", "license": "none"}))
    plan = lay_out(source, folder)
    assert any("tokenizer" in note for note in plan.notes)
    back = put_together(folder, again)
    assert all(left.path.endswith(".json") for left in back.leftovers)
    assert again.read_bytes() == source.read_bytes()


def test_diffusers_and_transformers_load_the_folder(tmp_path: Path) -> None:
    """The components load without a missing or unexpected key, and the pipeline with a tokenizer given to it."""
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 32, 64, 64), cross_attention_dim=768, attention_head_dim=8
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    config = transformers.CLIPTextConfig(
        hidden_size=768, intermediate_size=32, num_hidden_layers=2, num_attention_heads=12, vocab_size=50
    )
    text = transformers.CLIPTextModel(config)
    made = {"unet": unet, "vae": vae, "text_encoder": text}
    for name, module in made.items():
        module.half().save_pretrained(tmp_path / "first" / name)
    (tmp_path / "first" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    put_together(tmp_path / "first", tmp_path / "single.safetensors")
    lay_out(tmp_path / "single.safetensors", tmp_path / "second")

    for name, module in made.items():
        loaded, told = type(module).from_pretrained(tmp_path / "second" / name, output_loading_info=True)
        assert not any(told.values()), (name, told)
        for key, tensor in module.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor.to(loaded.dtype)), key
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "second", tokenizer=None)
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    assert type(pipeline.scheduler).__name__ == "PNDMScheduler"


def test_a_folder_with_a_tokenizer_is_a_whole_pipeline(sd1: Path, tmp_path: Path) -> None:
    """With a tokenizer's vocabulary the folder has it, with the settings that CLIP's tokenizer needs."""
    transformers = pytest.importorskip("transformers")
    vocabulary = tmp_path / "theirs" / "tokenizer"
    vocabulary.mkdir(parents=True)
    words = ["!", "a", "b</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    (vocabulary / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (vocabulary / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    plan = lay_out(sd1, tmp_path / "folder", vocabulary.parent)
    assert not any("tokenizer" in note for note in plan.notes)
    index = json.loads((tmp_path / "folder" / "model_index.json").read_text())
    assert index["tokenizer"] == ["transformers", "CLIPTokenizer"]
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "folder" / "tokenizer")
    assert tokenizer.model_max_length == 77
    assert tokenizer("ab")["input_ids"] == [4, 3, 5]
    assert tokenizer.pad_token == "<|endoftext|>"
    with pytest.raises(NotFound, match=r"vocab\.json"):
        lay_out(sd1, tmp_path / "other", tmp_path)
    with pytest.raises(ConversionError, match="only a checkpoint that becomes a folder"):
        convert(sd1, tmp_path / "other.safetensors", tokenizer=vocabulary)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "theirs"]


@pytest.mark.parametrize("architecture", ["sd-1", "sd-2", "sdxl"])
def test_a_folder_has_clips_own_tokenizers(architecture: Architecture, tmp_path: Path) -> None:
    """Of encoders with as many words as CLIP has; the folder is whole then, and becomes the same checkpoint again."""
    transformers = pytest.importorskip("transformers")
    weights = weights_of(architecture)
    for name, tensor in weights.items():
        if name.endswith("token_embedding.weight"):
            weights[name] = torch.ones(49_408, tensor.shape[1]).half()
    save_file(weights, tmp_path / "a.safetensors", FORMAT)
    plan = lay_out(tmp_path / "a.safetensors", tmp_path / "a")
    assert not any("tokenizer" in note for note in plan.notes)
    index = json.loads((tmp_path / "a" / "model_index.json").read_text())
    parts = [part for part in index if part.startswith("tokenizer")]
    assert parts == (["tokenizer", "tokenizer_2"] if architecture == "sdxl" else ["tokenizer"])
    for part in parts:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "a" / part)
        assert tokenizer("a horse")["input_ids"] == [49406, 320, 4558, 49407]
        assert tokenizer.pad_token == ("<|endoftext|>" if part == "tokenizer" and architecture != "sd-2" else "!")
    put_together(tmp_path / "a", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_the_scheduler_is_that_of_what_the_model_predicts(tmp_path: Path) -> None:
    """v-prediction, its SDXL markers and zero terminal SNR reach the scheduler's configuration."""
    scheduler = Path("scheduler") / "scheduler_config.json"
    save_file(weights_of("sd-2"), tmp_path / "v.safetensors", {"modelspec.prediction_type": "v"})
    lay_out(tmp_path / "v.safetensors", tmp_path / "v")
    config = json.loads((tmp_path / "v" / scheduler).read_text())
    assert (config["_class_name"], config["prediction_type"]) == ("DDIMScheduler", "v_prediction")
    assert json.loads((tmp_path / "v" / "unet" / "config.json").read_text())["upcast_attention"] is True
    save_file(weights_of("sdxl", v_prediction=True), tmp_path / "xl.safetensors")
    lay_out(tmp_path / "xl.safetensors", tmp_path / "xl")
    config = json.loads((tmp_path / "xl" / scheduler).read_text())
    assert (config["prediction_type"], config["rescale_betas_zero_snr"]) == ("v_prediction", True)
    assert config["timestep_spacing"] == "trailing"


def test_parts_that_have_to_be_given_are_named(tmp_path: Path) -> None:
    """A depth model's estimator is in no checkpoint in a form that diffusers takes, and a tokenizer in none at all."""
    weights = weights_of("sd-2")
    weights["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(320, 5, 3, 3, dtype=torch.float16)
    weights["depth_model.model.pretrained.model.cls_token"] = torch.zeros(1, 1, 4)
    save_file(weights, tmp_path / "a.safetensors", FORMAT)
    plan = lay_out(tmp_path / "a.safetensors", tmp_path / "a")
    assert any("tokenizer, depth_estimator, feature_extractor; --tokenizer" in note for note in plan.notes), plan.notes
    index = json.loads((tmp_path / "a" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionDepth2ImgPipeline"
    assert index["depth_estimator"] == [None, None]
    put_together(tmp_path / "a", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_averaged_weights_can_be_the_ones_laid_out(tmp_path: Path) -> None:
    """With the averaged weights in use the UNet is the one that diffusers extracts from the same checkpoint."""
    files = pytest.importorskip("diffusers.loaders.single_file_utils")
    weights = weights_of("sd-1", ema=True)
    torch.save({"state_dict": weights}, tmp_path / "a.ckpt")
    convert(tmp_path / "a.ckpt", tmp_path / "a", options=ConversionOptions(layout="diffusers", ema="use"))
    config = json.loads((tmp_path / "a" / "unet" / "config.json").read_text())
    expected = files.convert_ldm_unet_checkpoint(dict(weights), config, extract_ema=True)
    assert_equal(load_file(tmp_path / "a" / "unet" / "diffusion_pytorch_model.safetensors"), expected)
    assert not any(name.startswith("model_ema.") for name in load_file(tmp_path / "a" / UNPLACED_FILE))


@functools.cache
def sdxl() -> Weights:
    return weights_of("sdxl")


VAE, CLIP, OPEN_CLIP = "first_stage_model.", "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."


@settings(max_examples=6)
@given(
    parts=st.sampled_from([(VAE,), (CLIP, OPEN_CLIP), (VAE, CLIP, OPEN_CLIP)]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn]),
    form=st.sampled_from(["zip", "legacy", "safetensors"]),
    stored=st.randoms(use_true_random=False),
)
def test_however_a_file_stores_its_tensors_they_come_back(parts, dtype, form, stored) -> None:
    """Turned, cut out of larger ones, of any type, in any format: there and back is the same."""
    if form == "legacy" and dtype is torch.float8_e4m3fn:  # which did not exist then
        form = "zip"
    chosen = {name: t for name, t in sdxl().items() if name.startswith(parts)}
    weights = {name: t.to(dtype) if t.is_floating_point() else t for name, t in chosen.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        if form == "safetensors":
            save_file(weights, path / "a.safetensors", FORMAT)
        else:
            odd = {name: stored_oddly(tensor, stored.randrange(4)) for name, tensor in weights.items()}
            torch.save({"state_dict": odd}, path / "a.ckpt", _use_new_zipfile_serialization=form == "zip")
        lay_out(next(path.glob("a.*")), path / "folder")
        put_together(path / "folder", path / "b.safetensors")
        found = load_file(path / "b.safetensors")
        assert sorted(found) == sorted(weights)
        for name, tensor in weights.items():
            assert found[name].dtype is tensor.dtype
            assert torch.equal(found[name].float(), tensor.float()), name


def stored_oddly(tensor: torch.Tensor, way: int) -> torch.Tensor:
    """The same values as *tensor*'s, lying otherwise in their storage."""
    raw = tensor.view(torch.uint8) if tensor.dtype is torch.float8_e4m3fn and tensor.dim() else tensor
    if way == 1 and tensor.dim() > 1:
        raw = raw.transpose(0, 1).contiguous().transpose(0, 1)
    elif way == 2 and tensor.dim():
        raw = torch.cat([raw, raw, raw])[len(raw) : 2 * len(raw)]
    elif way == 3 and tensor.dim() > 1:
        raw = torch.cat([raw, raw], dim=1)[:, : raw.shape[1]]
    return raw.view(tensor.dtype) if raw.dtype is not tensor.dtype else raw


def test_the_statistics_of_playground_reach_the_vae(tmp_path: Path) -> None:
    """The means and deviations that Playground 2.5 has as tensors are numbers in its VAE's configuration."""
    weights = weights_of("sdxl")
    weights["edm_mean"] = torch.tensor([-1.5, 1.875, -1.375, 2.5]).reshape(1, 4, 1, 1)
    weights["edm_std"] = torch.tensor([8.5, 5.875, 6.5, 5.25]).reshape(1, 4, 1, 1)
    save_file(weights, tmp_path / "a.safetensors")
    lay_out(tmp_path / "a.safetensors", tmp_path / "a")
    config = json.loads((tmp_path / "a" / "vae" / "config.json").read_text())
    assert config["latents_mean"] == [-1.5, 1.875, -1.375, 2.5]
    assert config["latents_std"] == [8.5, 5.875, 6.5, 5.25]
    assert config["scaling_factor"] == 0.5


def test_an_incomplete_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    """What the folder would lack is named, and nothing is written."""
    source, lost = tmp_path / "a.safetensors", "model.diffusion_model.out.2.bias"
    save_file({name: tensor for name, tensor in weights_of("sd-1").items() if name != lost}, source)
    with pytest.raises(ConversionError, match=r"a\.safetensors.*incomplete.*model\.diffusion_model\.out\.2\.bias"):
        lay_out(source, tmp_path / "a")
    assert list(tmp_path.iterdir()) == [source]


def test_a_unet_with_more_than_diffusers_knows_is_refused(tmp_path: Path) -> None:
    """A UNet with modules that diffusers' has not would not be the same model there."""
    more = {"model.diffusion_model.input_blocks.1.1.time_mixer.mix_factor": torch.zeros(1)}
    save_file(weights_of("sd-1") | more, tmp_path / "a.safetensors")
    with pytest.raises(ConversionError, match=r"a\.safetensors.*time_mixer"):
        lay_out(tmp_path / "a.safetensors", tmp_path / "a")


def test_a_folder_whose_unet_has_more_is_refused(tmp_path: Path) -> None:
    """So is the way back: a latent consistency model's UNet has a tensor that no checkpoint's has."""
    prefix = "model.diffusion_model."
    save_file({n: t for n, t in weights_of("sd-1").items() if n.startswith(prefix)}, tmp_path / "a.safetensors")
    lay_out(tmp_path / "a.safetensors", tmp_path / "a")
    path = tmp_path / "a" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path) | {"time_embedding.cond_proj.weight": torch.zeros(6, 6)}, path)
    with pytest.raises(ConversionError, match=r"checkpoint has no place for .*time_embedding\.cond_proj\.weight"):
        put_together(tmp_path / "a", tmp_path / "b.safetensors")


def test_a_folder_of_sd2_from_elsewhere_says_what_is_not_there(tmp_path: Path) -> None:
    """Published folders of SD 2 lack the layer that is never run: the checkpoint says that it does, too."""
    save_file(weights_of("sd-2"), tmp_path / "a.safetensors")
    lay_out(tmp_path / "a.safetensors", tmp_path / "a")
    assert not any("last layer" in note for note in put_together(tmp_path / "a", tmp_path / "b.safetensors").notes)
    (tmp_path / "a" / UNPLACED_FILE).unlink()
    assert any("last layer" in note for note in put_together(tmp_path / "a", tmp_path / "c.safetensors").notes)


def test_parts_of_different_types_do_not_become_one(tmp_path: Path) -> None:
    """Query, key and value of different element types are not put into one matrix in silence."""
    save_file(weights_of("sdxl"), tmp_path / "a.safetensors")
    lay_out(tmp_path / "a.safetensors", tmp_path / "a")
    path = tmp_path / "a" / "text_encoder_2" / "model.safetensors"
    weights = load_file(path)
    weights["text_model.encoder.layers.1.self_attn.k_proj.weight"] = torch.zeros(26, 26)
    save_file(weights, path)
    with pytest.raises(UnsupportedLayout, match="F16, F32"):
        put_together(tmp_path / "a", tmp_path / "b.safetensors")


def test_other_changes_go_with_it(sd1: Path, tmp_path: Path) -> None:
    """Casts, pruning and shards work on the way to a folder, and the shards of a folder become one checkpoint."""
    options = ConversionOptions(layout="diffusers", dtypes=(dtype_rule("vae=fp32"),), max_shard_size=200_000)
    convert(sd1, tmp_path / "a", options=options)
    assert {t.dtype for t in load_file(tmp_path / "a" / "vae" / "diffusion_pytorch_model.safetensors").values()} == {
        torch.float32
    }
    assert len(list((tmp_path / "a" / "unet").glob("diffusion_pytorch_model-*-of-*.safetensors"))) > 1
    assert (tmp_path / "a" / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    put_together(tmp_path / "a", tmp_path / "b.safetensors")
    weights, found = weights_of("sd-1"), load_file(tmp_path / "b.safetensors")
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        wanted = tensor.float() if name.startswith("first_stage_model.") else tensor
        assert found[name].dtype == wanted.dtype
        assert torch.equal(found[name], wanted), name


def test_a_unet_alone_is_understood(tmp_path: Path) -> None:
    """A UNet's own file, without the prefix it has in a checkpoint, becomes a folder with only that."""
    prefix = "model.diffusion_model."
    weights = {n.removeprefix(prefix): t for n, t in weights_of("sdxl").items() if n.startswith(prefix)}
    save_file(weights, tmp_path / "a.safetensors", FORMAT)
    lay_out(tmp_path / "a.safetensors", tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["model_index.json", "scheduler", "unet"]
    put_together(tmp_path / "a", tmp_path / "b.safetensors")
    found = load_file(tmp_path / "b.safetensors")
    assert found.keys() == {prefix + name for name in weights}


def test_a_vae_alone_is_understood_both_ways(tmp_path: Path) -> None:
    """A VAE's own file becomes a folder with only that, and diffusers' VAE file a checkpoint's VAE file."""
    prefix = "first_stage_model."
    weights = {n.removeprefix(prefix): t for n, t in weights_of("sd-1").items() if n.startswith(prefix)}
    save_file(weights, tmp_path / "a.safetensors", FORMAT)
    lay_out(tmp_path / "a.safetensors", tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["model_index.json", "scheduler", "vae"]
    put_together(tmp_path / "a" / "vae" / "diffusion_pytorch_model.safetensors", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_what_is_laid_out_so_already_is_left_alone(sd1: Path, tmp_path: Path) -> None:
    """A folder that is to be a folder, and a checkpoint that is to be one, are nothing to convert."""
    with pytest.raises(NothingToConvert):
        lay_out(sd1.with_suffix(""), tmp_path / "b")
    put_together(sd1.with_suffix(""), tmp_path / "b.safetensors")
    with pytest.raises(NothingToConvert):
        put_together(tmp_path / "b.safetensors", tmp_path / "c.safetensors")


def test_what_a_checkpoint_has_no_place_for_is_listed(sd1: Path, tmp_path: Path) -> None:
    """Files of the folder that do not go into the checkpoint are named, its own leftovers' file is not one of them."""
    folder = tmp_path / "a"
    lay_out(sd1, folder)
    (folder / "safety_checker").mkdir()
    save_file({"concept_embeds": torch.zeros(2)}, folder / "safety_checker" / "model.safetensors")
    plan = put_together(folder, tmp_path / "b.safetensors")
    left = {item.path for item in plan.leftovers}
    assert "safety_checker/model.safetensors" in left
    assert {"model_index.json", "unet/config.json"} <= left
    assert UNPLACED_FILE not in left
    save_without(folder / "vae" / "diffusion_pytorch_model.safetensors", "decoder.conv_out.bias")
    with pytest.raises(ConversionError, match=r"decoder\.conv_out\.bias.* of vae"):
        put_together(folder, tmp_path / "c.safetensors")


def test_the_files_that_diffusers_loads_are_chosen(tmp_path: Path) -> None:
    """Safetensors come before pickles, plain names before variants, and shards are taken together."""
    unet = tmp_path / "unet"
    unet.mkdir()
    (tmp_path / "model_index.json").write_text("{}")

    def chosen() -> tuple[str, ...]:
        with open_path(tmp_path) as container:
            found = component_weights(weight_groups(container)[0], "folder").get("unet")
            return found.files if found is not None else ()

    assert chosen() == ()
    stem = "diffusion_pytorch_model"
    save_file({"a": torch.zeros(1)}, unet / f"{stem}.fp16.safetensors")
    assert chosen() == (f"unet/{stem}.fp16.safetensors",)
    torch.save({"a": torch.zeros(1)}, unet / f"{stem}.bin")
    assert chosen() == (f"unet/{stem}.bin",)
    shards = [f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = unet / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    save_file({"a": torch.zeros(1)}, unet / shards[0])
    with pytest.raises(ConversionError, match=shards[1]):
        chosen()
    save_file({"b": torch.zeros(1)}, unet / shards[1])
    assert chosen() == tuple(f"unet/{shard}" for shard in shards)


def test_several_variants_alone_are_not_chosen_between(tmp_path: Path) -> None:
    """Where there are only variants, and two of them, neither is taken in silence."""
    (tmp_path / "vae").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    for variant in ("ema", "fp16"):
        save_file({"a": torch.zeros(1)}, tmp_path / "vae" / f"diffusion_pytorch_model.{variant}.safetensors")
    with open_path(tmp_path) as container, pytest.raises(ConversionError, match="several variants"):
        component_weights(weight_groups(container)[0], "folder")


def test_the_command_line_goes_both_ways(tmp_path: Path) -> None:
    """``--layout`` names each file of the folder, says what is kept where, and by default writes beside the source."""
    source = tmp_path / "model.safetensors"
    save_file(weights_of("sd-1"), source, FORMAT)
    dry = modelhub("convert", str(source), "--layout", "diffusers", "--dry-run")
    assert (dry.code, list(tmp_path.iterdir())) == (0, [source])
    ran = modelhub("convert", str(source), "--layout", "diffusers")
    assert ran.code == 0, ran.err
    assert "laid out as a diffusers folder: text_encoder, unet, vae" in ran.out
    assert "kept in unplaced.safetensors: 12" in ran.out
    found = {path.relative_to(source.with_suffix("")) for path in source.with_suffix("").rglob("*") if path.is_file()}
    assert all(str(path) in ran.out for path in found)
    ran = modelhub("convert", str(source.with_suffix("")), "--layout", "ldm", str(tmp_path / "again.safetensors"))
    assert ran.code == 0, ran.err
    assert (tmp_path / "again.safetensors").read_bytes() == source.read_bytes()
    source.with_suffix("").rename(tmp_path / "other")
    assert modelhub("convert", str(tmp_path / "other"), "--layout", "ldm").code == 0
    assert (tmp_path / "other.safetensors").read_bytes() == source.read_bytes()
    ran = modelhub("convert", str(source), "--layout", "diffusers", "--components", "unet", str(tmp_path / "b"))
    assert (ran.code, "leave out --components" in ran.err) == (2, True)
