"""Real files: a checkpoint becomes a folder that diffusers loads, and the folder the same checkpoint again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelhub.container import Container, open_path
from modelhub.container.storages import Storages
from modelhub.convert import Assembly, ConversionPlan, Piece, execute
from modelhub.convert.arrange import output_file
from modelhub.convert.folder_weights import weight_files
from modelhub.convert.layouts import UNPLACED
from modelhub.convert.names import FORMAT
from modelhub.convert.relayout import UNPLACED_FILE, Relaid, as_checkpoint, as_folder
from modelhub.convert.tokenizers import open_vocabulary
from modelhub.errors import ConversionError, NotFound, UnsupportedLayout
from modelhub.samples.layouts import Architecture, checkpoint
from modelhub.tensors import DType
from tests.convert.layouts.build import ARCHITECTURES, SMALL, Weights

TORCH = {DType.F16: torch.float16, DType.F32: torch.float32, DType.I64: torch.int64, DType.I32: torch.int32}


def weights_of(architecture: Architecture, **options) -> Weights:
    """Random weights of the types that real files have."""
    generator = torch.Generator().manual_seed(7)
    made = {}
    for name, (dtype, shape) in checkpoint(architecture, width=SMALL, **options).items():
        made[name] = torch.randint(-9, 9, shape, generator=generator).to(TORCH[dtype])
    return made


def tensors_in(part: Container) -> dict[str, Assembly]:
    assert part.source is not None
    assert part.state_dict is not None
    storages = Storages(part.source)
    return {k: Assembly(t.dtype, t.shape, (Piece(*storages.locate(t)),)) for k, t in part.state_dict.items()}


def write(relaid: Relaid, source: str, target: Path) -> None:
    outputs = tuple(output_file(path, tensors, FORMAT) for path, tensors in relaid.files.items())
    execute(ConversionPlan(source, outputs, relaid.plain), target)


def lay_out(source: Path, target: Path, vocabulary: Path | None = None, prediction: str | None = None) -> Relaid:
    with ExitStack() as stack:
        container = stack.enter_context(open_path(source))
        files = open_vocabulary(vocabulary, stack) if vocabulary else None
        relaid = as_folder(tensors_in(container), source.name, prediction, files)
        write(relaid, source.name, target)
    return relaid


def components_of(folder: Container) -> Mapping[str, Mapping[str, Assembly]]:
    found = {
        component: {name: made for path in paths for name, made in tensors_in(folder.parts[path]).items()}
        for component, paths in weight_files(folder).items()
    }
    if UNPLACED_FILE in folder.parts:
        found[UNPLACED] = tensors_in(folder.parts[UNPLACED_FILE])
    return found


def put_together(source: Path, target: Path) -> Relaid:
    with open_path(source) as folder:
        relaid = as_checkpoint(components_of(folder), source.name)
        write(relaid, source.name, target)
    return relaid


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SD 1 checkpoint in torch's format, and the folder it becomes beside it."""
    path = tmp_path_factory.mktemp("sd1") / "sd1.ckpt"
    torch.save({"state_dict": weights_of("sd-1")}, path)
    lay_out(path, path.with_suffix(""))
    return path


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_comes_back_byte_for_byte(architecture: Architecture, tmp_path: Path) -> None:
    """A safetensors checkpoint made a folder and a checkpoint again is the same file."""
    source, folder, again = tmp_path / "a.safetensors", tmp_path / "a", tmp_path / "b.safetensors"
    save_file(weights_of(architecture, ema=architecture == "sd-2"), source, FORMAT)
    relaid = lay_out(source, folder)
    assert any("tokenizer" in note for note in relaid.notes)
    back = put_together(folder, again)
    assert back.leftovers == ()
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
    relaid = lay_out(sd1, tmp_path / "folder", vocabulary.parent)
    assert not any("tokenizer" in note for note in relaid.notes)
    index = json.loads((tmp_path / "folder" / "model_index.json").read_text())
    assert index["tokenizer"] == ["transformers", "CLIPTokenizer"]
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "folder" / "tokenizer")
    assert tokenizer.model_max_length == 77
    assert tokenizer("ab")["input_ids"] == [4, 3, 5]
    assert tokenizer.pad_token == "<|endoftext|>"
    with ExitStack() as stack, pytest.raises(NotFound, match=r"vocab\.json"):
        open_vocabulary(sd1.parent, stack)


def test_the_scheduler_is_that_of_what_the_model_predicts(tmp_path: Path) -> None:
    """v-prediction, its SDXL markers and zero terminal SNR reach the scheduler's configuration."""
    scheduler = Path("scheduler") / "scheduler_config.json"
    save_file(weights_of("sd-2"), tmp_path / "v.safetensors")
    lay_out(tmp_path / "v.safetensors", tmp_path / "v", prediction="v_prediction")
    config = json.loads((tmp_path / "v" / scheduler).read_text())
    assert (config["_class_name"], config["prediction_type"]) == ("DDIMScheduler", "v_prediction")
    assert json.loads((tmp_path / "v" / "unet" / "config.json").read_text())["upcast_attention"] is True
    save_file(weights_of("sdxl", v_prediction=True), tmp_path / "xl.safetensors")
    lay_out(tmp_path / "xl.safetensors", tmp_path / "xl")
    config = json.loads((tmp_path / "xl" / scheduler).read_text())
    assert (config["prediction_type"], config["rescale_betas_zero_snr"]) == ("v_prediction", True)
    assert config["timestep_spacing"] == "trailing"


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


def test_an_incomplete_checkpoint_is_refused_by_name(sd1: Path) -> None:
    """What the folder would lack is named."""
    lost = "model.diffusion_model.out.2.bias"
    with open_path(sd1) as container:
        tensors = {name: made for name, made in tensors_in(container).items() if name != lost}
        with pytest.raises(ConversionError, match=r"sd1\.ckpt.*incomplete.*model\.diffusion_model\.out\.2\.bias"):
            as_folder(tensors, sd1.name)


def test_a_unet_with_more_than_diffusers_knows_is_refused(sd1: Path) -> None:
    """A UNet with modules that diffusers' has not would not be the same model there."""
    with open_path(sd1) as container:
        tensors = tensors_in(container)
        tensors["model.diffusion_model.input_blocks.1.1.time_mixer.mix_factor"] = tensors["betas"]
        with pytest.raises(ConversionError, match=r"sd1\.ckpt.*time_mixer"):
            as_folder(tensors, sd1.name)


def test_parts_of_different_types_do_not_become_one(tmp_path: Path) -> None:
    """Query, key and value of different element types are not put into one matrix in silence."""
    save_file(weights_of("sdxl"), tmp_path / "a.safetensors")
    lay_out(tmp_path / "a.safetensors", tmp_path / "a")
    path = tmp_path / "a" / "text_encoder_2" / "model.safetensors"
    weights = load_file(path)
    weights["text_model.encoder.layers.1.self_attn.k_proj.weight"] = torch.zeros(26, 26)
    save_file(weights, path)
    with open_path(tmp_path / "a") as folder, pytest.raises(UnsupportedLayout, match="F16, F32") as raised:
        as_checkpoint(components_of(folder), "a")
    assert raised.value.hint is not None


def names_in(folder: Path) -> set[str]:
    with open_path(folder) as container:
        return {name for tensors in components_of(container).values() for name in tensors}


def test_the_files_that_diffusers_loads_are_chosen(sd1: Path, tmp_path: Path) -> None:
    """Whole files come before shards, safetensors before pickles, plain names before variants."""
    unet = tmp_path / "unet"
    unet.mkdir()
    (tmp_path / "model_index.json").write_text("{}")

    def chosen() -> tuple[str, ...]:
        with open_path(tmp_path) as container:
            return weight_files(container).get("unet", ())

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
    assert names_in(tmp_path) == {"a", "b"}
    save_file({"a": torch.zeros(1)}, unet / f"{stem}.safetensors")
    assert chosen() == (f"unet/{stem}.safetensors",)


def test_several_variants_alone_are_not_chosen_between(tmp_path: Path) -> None:
    """Where there are only variants, and two of them, neither is taken in silence."""
    (tmp_path / "vae").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    for variant in ("ema", "fp16"):
        save_file({"a": torch.zeros(1)}, tmp_path / "vae" / f"diffusion_pytorch_model.{variant}.safetensors")
    with open_path(tmp_path) as container, pytest.raises(ConversionError, match="several variants"):
        weight_files(container)
