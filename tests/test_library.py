"""Intake: many files, each examined, recorded and, where it is a safe pickle, converted; nothing twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import modelhub.library
from modelhub.convert.content import content_digest
from modelhub.db import Catalog, Query
from modelhub.errors import NotFound, SourceError
from modelhub.library import IntakeOptions, IntakeResult, intake
from modelhub.samples import layouts
from tests.pickles.assemble import called

EVIL = b"\x80\x02" + called("os", "getcwd") + b"."


@pytest.fixture
def downloads(tmp_path):
    """A VAE as a pickle, a LoRA as safetensors, a malicious file and a broken one."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    torch.save({"state_dict": vae()}, folder / "colours.vae.pt")
    safetensors.torch.save_file(lora(), folder / "style.safetensors")
    (folder / "evil.ckpt").write_bytes(EVIL)
    (folder / "page.safetensors").write_bytes(b"<!DOCTYPE html><html></html>")
    return folder


def vae() -> dict[str, torch.Tensor]:
    return {name: torch.rand(shape) for name, (_, shape) in layouts.vae(width=0.1).items()}


def lora() -> dict[str, torch.Tensor]:
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    return {
        f"{stem}.lora_down.weight": torch.rand(4, 768),
        f"{stem}.lora_up.weight": torch.rand(320, 4),
        f"{stem}.alpha": torch.tensor(4.0),
    }


def take(catalog: Catalog, *paths: Path, **options: object) -> dict[str, IntakeResult]:
    results = list(intake([str(p) for p in paths], catalog, IntakeOptions(**options)))  # type: ignore[arg-type]
    assert len({result.path for result in results}) == len(results)
    return {os.path.basename(result.path): result for result in results}


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file's digest and modification time."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_main_job(catalog, downloads):
    """Downloads become judged, catalogued safetensors files, and the originals are not touched."""
    before = snapshot(downloads)
    results = take(catalog, downloads)
    assert {name: result.action for name, result in results.items()} == {
        "colours.vae.pt": "converted",
        "style.safetensors": "recorded",
        "evil.ckpt": "recorded",
        "page.safetensors": "recorded",
    }
    after = snapshot(downloads)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"colours.vae.safetensors"}
    converted = safetensors.torch.load_file(downloads / "colours.vae.safetensors")
    original = torch.load(downloads / "colours.vae.pt", weights_only=True)["state_dict"]
    assert converted.keys() == original.keys()
    assert all(torch.equal(converted[name], original[name]) for name in original)
    verdicts = {Path(entry.path).name: entry.verdict for entry in catalog.entries()}
    assert verdicts == {
        "colours.vae.pt": "safe",
        "colours.vae.safetensors": "safe",
        "style.safetensors": "safe",
        "evil.ckpt": "unsafe",
        "page.safetensors": "unknown",
    }


def test_lineage_is_recorded(catalog, downloads):
    """The converted file knows which bytes it came from, of what verdict, and the original knows it."""
    take(catalog, downloads)
    made = catalog.show(str(downloads / "colours.vae.safetensors"))
    (parent,) = made.parents
    assert parent.kind == "convert"
    assert parent.digest == hashlib.sha256((downloads / "colours.vae.pt").read_bytes()).hexdigest()
    assert (parent.params["source_verdict"], parent.params["salvaged"]) == ("safe", False)
    contents = {content_digest(downloads / f"colours.vae.{ending}").sha256 for ending in ("pt", "safetensors")}
    assert contents == {parent.params["content_sha256"]}
    assert [child.digest for child in catalog.show(str(downloads / "colours.vae.pt")).children] == [made.entry.digest]


def test_a_second_run_reads_and_writes_nothing(catalog, downloads, monkeypatch):
    """Unchanged files are recognised without opening them, and nothing is made twice."""
    take(catalog, downloads)
    before = snapshot(downloads)

    def refuse(path: object) -> None:
        raise AssertionError(f"{path} was opened again")

    monkeypatch.setattr(modelhub.library, "open_path", refuse)
    results = take(catalog, downloads)
    assert {result.action for result in results.values()} == {"unchanged"}
    assert len(results) == 5
    assert snapshot(downloads) == before
    assert results["evil.ckpt"].entry.verdict == "unsafe"
    assert results["colours.vae.pt"].target == str(downloads / "colours.vae.safetensors")


def test_names_that_are_numbers(tmp_path, catalog):
    """A file whose name is the number of another's record is found unchanged as any other."""
    for name in ("2.ckpt", "b.ckpt"):
        torch.save({"state_dict": vae()}, tmp_path / name)
        take(catalog, tmp_path / name, convert=False)
    assert take(catalog, tmp_path / "b.ckpt")["b.ckpt"].action == "converted"
    assert take(catalog, tmp_path / "b.ckpt")["b.ckpt"].action == "unchanged"


def test_a_removed_conversion_is_made_again(catalog, downloads):
    """A converted file that was deleted is converted anew; a replaced original is examined anew."""
    take(catalog, downloads)
    (downloads / "colours.vae.safetensors").unlink()
    assert take(catalog, downloads)["colours.vae.pt"].action == "converted"
    torch.save(vae(), downloads / "colours.vae.pt")
    result = take(catalog, downloads)["colours.vae.pt"]
    assert result.action == "converted"
    assert Path(result.target).name.startswith("colours.vae-")
    assert (downloads / "colours.vae.safetensors").exists()


def test_a_lost_catalog_converts_nothing_twice(tmp_path, catalog, downloads):
    """With a fresh catalog, a converted file that is already there, byte for byte, is taken as it is."""
    take(catalog, downloads)
    before = snapshot(downloads)
    with Catalog.open(str(tmp_path / "other.db")) as fresh:
        results = take(fresh, downloads)
        assert results["colours.vae.pt"].target == str(downloads / "colours.vae.safetensors")
        assert len(fresh.entries()) == 5
    assert snapshot(downloads) == before


def test_the_library_is_ordered_by_kind_and_architecture(tmp_path, catalog, downloads):
    """With a library, pickles are converted into it and safetensors are linked, each under its kind and architecture;
    nothing is added beside the originals, and a second run does nothing."""
    before = snapshot(downloads)
    library = tmp_path / "library"
    results = take(catalog, downloads, library=str(library))
    assert results["colours.vae.pt"].action == "converted"
    assert results["style.safetensors"].action in ("linked", "copied")
    assert {str(path.relative_to(library)) for path in library.rglob("*") if path.is_file()} == {
        "vae/unknown/colours.vae.safetensors",
        "lora/sd-1/style.safetensors",
    }
    assert snapshot(downloads) == before
    made = snapshot(library)
    again = take(catalog, downloads, library=str(library))
    assert {result.action for result in again.values()} == {"unchanged"}
    assert snapshot(library) == made
    inside = take(catalog, library, library=str(library))
    assert {result.action for result in inside.values()} == {"unchanged"}
    assert snapshot(library) == made


def test_a_library_on_another_file_system_gets_copies(tmp_path, catalog, downloads, monkeypatch):
    """Where hard links are impossible the file is copied, whole."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    result = take(catalog, downloads / "style.safetensors", library=str(tmp_path / "library"))["style.safetensors"]
    assert result.action == "copied"
    assert Path(result.target).read_bytes() == (downloads / "style.safetensors").read_bytes()
    assert not os.path.samefile(result.target, downloads / "style.safetensors")


def test_same_name_different_models_both_have_a_place(tmp_path, catalog, downloads):
    """Two different files of one name get two names in the library."""
    other = tmp_path / "other"
    other.mkdir()
    safetensors.torch.save_file(lora(), other / "style.safetensors")
    library = tmp_path / "library"
    first = take(catalog, downloads / "style.safetensors", library=str(library))["style.safetensors"]
    second = take(catalog, other / "style.safetensors", library=str(library))["style.safetensors"]
    assert first.target != second.target
    assert Path(second.target).read_bytes() == (other / "style.safetensors").read_bytes()
    assert len(catalog.entries(Query(kind="lora"))) == 2


def test_salvage_copies_tensors_of_unsafe_files_and_says_so(tmp_path, catalog):
    """With salvage an unsafe file's tensors are copied; the record says what the source was."""
    torch.save({"w": torch.arange(4.0), "network": torch.nn.Linear(2, 2)}, tmp_path / "net.pt")
    refused = take(catalog, tmp_path / "net.pt")["net.pt"]
    assert (refused.action, refused.target) == ("refused", None)
    salvaged = take(catalog, tmp_path / "net.pt", salvage=True)["net.pt"]
    assert salvaged.action == "salvaged"
    with safetensors.safe_open(salvaged.target, "pt") as made:
        assert torch.equal(made.get_tensor("w"), torch.arange(4.0))
        assert made.metadata()["modelhub.salvaged"] == "true"
    (parent,) = catalog.show(salvaged.target).parents
    assert (parent.params["source_verdict"], parent.params["salvaged"]) == ("unknown", True)
    assert take(catalog, tmp_path / "net.pt", salvage=True)["net.pt"].action == "unchanged"


def test_a_dry_run_writes_nothing(tmp_path, catalog, downloads):
    """A dry run says what would be done, and neither a file nor a record is made."""
    before = snapshot(tmp_path / "downloads")
    results = take(catalog, downloads, dry_run=True, library=str(tmp_path / "library"))
    assert results["colours.vae.pt"].action == "would convert"
    assert results["style.safetensors"].action == "would link"
    assert snapshot(downloads) == before
    assert not (tmp_path / "library").exists()
    assert not catalog.entries()


def test_without_conversion_files_are_only_recorded(catalog, downloads):
    """With conversion off, everything is judged and recorded and no file is made."""
    before = snapshot(downloads)
    results = take(catalog, downloads, convert=False)
    assert {result.action for result in results.values()} == {"recorded"}
    assert snapshot(downloads) == before
    assert len(catalog.entries()) == 4


def test_one_bad_file_does_not_stop_the_rest(tmp_path, catalog, downloads):
    """A missing path and an unreadable thing are results with an error, and the rest is taken in."""
    os.mkfifo(downloads / "pipe.pt")
    os.symlink(tmp_path / "nowhere", downloads / "dangling.pt")
    results = take(catalog, tmp_path / "missing.pt", downloads)
    assert isinstance(results["missing.pt"].error, NotFound)
    assert isinstance(results["pipe.pt"].error, SourceError)
    assert isinstance(results["dangling.pt"].error, SourceError)
    assert results["colours.vae.pt"].action == "converted"


def test_a_diffusers_folder_is_one_record(tmp_path, catalog):
    """A folder with a model index is taken in as one thing, and noticed when a file in it changes."""
    folder = tmp_path / "pipeline"
    (folder / "vae").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "X"]}')
    (folder / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    safetensors.torch.save_file(vae(), weights)
    (result,) = take(catalog, folder).values()
    assert result.action == "recorded"
    assert result.report.container == "diffusers-folder"
    assert take(catalog, folder)["pipeline"].action == "unchanged"
    safetensors.torch.save_file(vae(), weights)
    assert take(catalog, folder)["pipeline"].action == "recorded"


def test_progress_covers_every_byte(catalog, downloads):
    """What is announced for a file is what is then told, for reading and for writing."""
    announced: list[int] = []
    told: list[int] = []
    list(
        intake(
            [str(downloads)], catalog, progress=told.append, on_file=lambda path, size: announced.append(size)
        )
    )  # fmt: skip
    assert sum(told) == sum(announced) > 0


def test_a_full_disk_fails_one_file_and_loses_nothing(tmp_path, catalog, downloads, monkeypatch):
    """When a file cannot be written, it is a failed result, its record stays and a later run completes it."""

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        patch.setattr(os, "posix_fallocate", full)
        result = take(catalog, downloads)["colours.vae.pt"]
    assert result.action == "failed"
    assert "space" in str(result.error) or "full" in str(result.error)
    assert not list(downloads.glob("*.part")) and not list(downloads.glob(".*.part"))
    assert take(catalog, downloads)["colours.vae.pt"].action == "converted"


def test_a_folder_that_cannot_be_written_to_is_no_verdict(catalog, downloads, monkeypatch):
    """What cannot be converted where it lies is a failure with its verdict and record, as of any other file."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("modelhub.convert.target._create", refuse)
    result = take(catalog, downloads / "colours.vae.pt")["colours.vae.pt"]
    assert (result.action, result.report.verdict.label, result.entry.verdict) == ("failed", "safe", "safe")
    assert "read-only" in str(result.error)


def test_copies_of_one_file_are_one_record(tmp_path, catalog, downloads):
    """The same bytes at two paths are one record with two places."""
    shutil.copy(downloads / "style.safetensors", tmp_path / "copy.safetensors")
    take(catalog, downloads / "style.safetensors", tmp_path / "copy.safetensors")
    (entry,) = catalog.entries()
    assert len(catalog.show(str(entry.id)).locations) == 2


def test_an_embedding_of_several_tokens_becomes_several_records(tmp_path, catalog):
    """Each token's file is catalogued with its source, in a folder of the embedding's name; a second run makes none."""
    vectors = {token: torch.rand(2, 768) for token in ("cat", "dog")}
    source = tmp_path / "pets.pt"
    torch.save({"string_to_token": dict.fromkeys(vectors, 265), "string_to_param": vectors, "name": "pets"}, source)
    library = tmp_path / "library"
    result = take(catalog, source, library=str(library))["pets.pt"]
    folder = library / "embedding" / "sd-1" / "pets"
    assert (result.action, result.target) == ("converted", str(folder))
    assert {path.name for path in folder.iterdir()} == {"cat.safetensors", "dog.safetensors"}
    for token, tensor in vectors.items():
        assert torch.equal(safetensors.torch.load_file(folder / f"{token}.safetensors")["emb_params"], tensor)
    assert {Path(entry.path).name for entry in catalog.entries()} == {"pets.pt", "cat.safetensors", "dog.safetensors"}
    assert take(catalog, source, library=str(library))["pets.pt"].action == "unchanged"


def test_a_damaged_file_is_recorded_and_not_converted(catalog, tmp_path):
    """A byte that is not the one that was saved: the file has its record and report, no conversion, and a reason."""
    path = tmp_path / "m.pt"
    torch.save({"w": torch.full((1000,), 1.5)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((9,), 1.5).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    result = take(catalog, path)["m.pt"]
    assert (result.action, result.report.verdict.label, result.entry.verdict) == ("failed", "safe", "safe")
    assert "the bytes of tensor 'w' do not match the checksum" in str(result.error)
    assert [found.name for found in tmp_path.iterdir() if found.suffix == ".safetensors"] == []


@pytest.fixture
def pipeline(tmp_path):
    """A diffusers folder whose VAE is a pickle, as 2022 had it."""
    folder = tmp_path / "downloads" / "sd-v1.5"
    (folder / "vae").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    (folder / "model_index.json").write_text('{"_class_name": "X", "vae": ["diffusers", "AutoencoderKL"]}')
    (folder / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    torch.save(vae(), folder / "vae" / "diffusion_pytorch_model.bin")
    return folder


def test_a_folder_with_pickles_becomes_one_of_safetensors(tmp_path, catalog, pipeline):
    """Its .bin files are converted, the rest comes along, and there is one record for each folder; none twice."""
    before = snapshot(pipeline)
    (result,) = take(catalog, tmp_path / "downloads").values()
    made = pipeline.with_name("sd-v1.5-safetensors")
    assert (result.action, result.target) == ("converted", str(made))
    assert snapshot(pipeline) == before
    assert snapshot(made).keys() == {
        "model_index.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "tokenizer/merges.txt",
    }
    original = torch.load(pipeline / "vae/diffusion_pytorch_model.bin", weights_only=True)
    converted = safetensors.torch.load_file(made / "vae/diffusion_pytorch_model.safetensors")
    assert converted.keys() == original.keys()
    assert all(torch.equal(converted[name], original[name]) for name in original)
    assert {(entry.path, entry.kind) for entry in catalog.entries()} == {
        (str(pipeline), "checkpoint"),
        (str(made), "checkpoint"),
    }
    (parent,) = catalog.show(str(made)).parents
    assert (parent.kind, parent.digest) == ("convert", catalog.show(str(pipeline)).entry.digest)
    after = snapshot(tmp_path / "downloads")
    again = take(catalog, tmp_path / "downloads")
    assert {name: (each.action, each.target) for name, each in again.items()} == {
        "sd-v1.5": ("unchanged", str(made)),
        "sd-v1.5-safetensors": ("unchanged", None),
    }
    assert snapshot(tmp_path / "downloads") == after


def test_a_folder_is_put_into_the_library_whole(tmp_path, catalog, pipeline):
    """With a library it is converted into it, under its own name, and nothing is added beside the original."""
    library = tmp_path / "library"
    before = snapshot(tmp_path / "downloads")
    (result,) = take(catalog, pipeline, library=str(library), dry_run=True).values()
    assert (result.action, result.target) == ("would convert", str(library / "checkpoint/unknown/sd-v1.5"))
    assert not library.exists()
    (result,) = take(catalog, pipeline, library=str(library)).values()
    assert (result.action, result.target) == ("converted", str(library / "checkpoint/unknown/sd-v1.5"))
    assert snapshot(tmp_path / "downloads") == before
    assert take(catalog, pipeline, library=str(library))["sd-v1.5"].action == "unchanged"
    assert take(catalog, library, library=str(library))["sd-v1.5"].action == "unchanged"
    shutil.rmtree(result.target)
    assert take(catalog, pipeline, library=str(library))["sd-v1.5"].action == "converted"


@pytest.mark.parametrize("links", [True, False])
def test_a_folder_that_is_safetensors_is_linked_into_the_library(tmp_path, catalog, pipeline, monkeypatch, links):
    """Every file of it is hard-linked or else copied; it stays one record, which lies in two places."""
    weights = pipeline / "vae" / "diffusion_pytorch_model.bin"
    safetensors.torch.save_file(torch.load(weights), weights.with_suffix(".safetensors"))
    library = tmp_path / "library"

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        if not links:
            patch.setattr(os, "link", refuse)
        (result,) = take(catalog, pipeline, library=str(library)).values()
    target = library / "checkpoint/unknown/sd-v1.5"
    assert (result.action, result.target) == ("linked" if links else "copied", str(target))
    digests = {name: digest for name, (digest, _) in snapshot(target).items()}
    assert digests == {name: digest for name, (digest, _) in snapshot(pipeline).items()}
    assert os.path.samefile(target / "vae" / weights.name, weights) is links
    (entry,) = catalog.entries()
    assert {place.path for place in catalog.show(str(entry.id)).locations} == {str(pipeline), str(target)}
    assert take(catalog, pipeline, library=str(library))["sd-v1.5"].action == "unchanged"
    assert take(catalog, target, library=str(library))["sd-v1.5"].action == "unchanged"


def test_two_folders_of_one_name_both_have_a_place(tmp_path, catalog, pipeline):
    """The second one's name has a piece of its digest in it, after the whole name."""
    other = tmp_path / "other" / "sd-v1.5"
    shutil.copytree(pipeline, other)
    torch.save(vae(), other / "vae" / "diffusion_pytorch_model.bin")
    library = tmp_path / "library"
    first = take(catalog, pipeline, library=str(library))["sd-v1.5"]
    second = take(catalog, other, library=str(library))["sd-v1.5"]
    assert second.target == f"{first.target}-{second.entry.digest[:8]}"


def test_a_malicious_file_in_a_folder_is_a_refusal_of_all_of_it(catalog, pipeline):
    """Nothing is made of a folder that is not safe, unless its tensors are salvaged, which the copy says."""
    (pipeline / "vae" / "diffusion_pytorch_model.bin").unlink()
    torch.save({"w": torch.arange(4.0), "network": torch.nn.Linear(2, 2)}, pipeline / "vae/diffusion_pytorch_model.bin")
    refused = take(catalog, pipeline)["sd-v1.5"]
    assert (refused.action, refused.target) == ("refused", None)
    assert take(catalog, pipeline)["sd-v1.5"].action == "unchanged"
    salvaged = take(catalog, pipeline, salvage=True)["sd-v1.5"]
    assert salvaged.action == "salvaged"
    with safetensors.safe_open(f"{salvaged.target}/vae/diffusion_pytorch_model.safetensors", "pt") as made:
        assert torch.equal(made.get_tensor("w"), torch.arange(4.0))
        assert made.metadata()["modelhub.salvaged"] == "true"


def test_shards_and_adapters_in_folders_are_one_model_each(tmp_path, catalog):
    """A transformers model in shards and PEFT's adapter are each one record, converted whole."""
    shards, adapter = tmp_path / "downloads" / "bert", tmp_path / "downloads" / "style"
    shards.mkdir(parents=True)
    adapter.mkdir()
    names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    for number, name in enumerate(names):
        torch.save({f"layer.{number}.weight": torch.rand(3, 3)}, shards / name)
    places = {f"layer.{number}.weight": name for number, name in enumerate(names)}
    (shards / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (shards / "config.json").write_text("{}")
    stem = "base_model.model.transformer_blocks.0.attn.to_q"
    lora_a, lora_b = torch.rand(4, 3072), torch.rand(3072, 4)
    torch.save({f"{stem}.lora_A.weight": lora_a, f"{stem}.lora_B.weight": lora_b}, adapter / "adapter_model.bin")
    config = {"base_model_name_or_path": "black-forest-labs/FLUX.1-dev", "lora_alpha": 8, "peft_type": "LORA"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    library = tmp_path / "library"
    results = take(catalog, tmp_path / "downloads", library=str(library))
    assert {name: result.action for name, result in results.items()} == {"bert": "converted", "style": "converted"}
    assert snapshot(library).keys() == {
        "unknown/unknown/bert/config.json",
        "unknown/unknown/bert/model-00001-of-00002.safetensors",
        "unknown/unknown/bert/model-00002-of-00002.safetensors",
        "unknown/unknown/bert/model.safetensors.index.json",
        "lora/flux/style/adapter_config.json",
        "lora/flux/style/adapter_model.safetensors",
    }
    assert results["style"].identity.adapter.alpha == 8.0
