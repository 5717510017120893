"""From arguments to files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelhub.errors import NotFound, SourceError
from modelhub.source import Found, find_sources


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _write(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")


def _found(*arguments: str, every_file: bool = False) -> list[str]:
    return [
        f"error {found.path}" if isinstance(found, SourceError) else found.path
        for found in find_sources(arguments, every_file=every_file)
    ]


def test_a_folder_is_walked_by_extension_and_on_demand_for_every_file() -> None:
    """A walk takes up models by their extension, in any case; with every_file all, saying which are unexpected."""
    _write("lib/a.PT", "lib/b.txt", "lib/nameless", "lib/deep/c.safetensors", "lib/.hidden/d.pt", "lib/.git/e.pt")
    assert _found("lib") == ["lib/a.PT", "lib/deep/c.safetensors"]
    assert _found("lib", every_file=True) == ["lib/a.PT", "lib/b.txt", "lib/nameless", "lib/deep/c.safetensors"]
    unexpected = [f.path for f in find_sources(["lib"], every_file=True) if isinstance(f, Found) and not f.expected]
    assert unexpected == ["lib/b.txt", "lib/nameless"]


def test_a_named_file_needs_no_extension() -> None:
    """A file that is named is taken and expected, whatever it is called; what is not there is an error in its place."""
    _write("picture.png", "z.pt")
    found = list(find_sources(["picture.png", "gone.pt", "none*.pt", "z.*"]))
    assert found[0] == Found("picture.png")
    assert isinstance(found[1], NotFound) and found[1].path == "gone.pt"
    assert isinstance(found[2], NotFound) and found[2].path == "none*.pt"
    assert found[3] == Found("z.pt")


def test_each_file_once() -> None:
    """Overlapping arguments, links and patterns lead to each file once, by its own name where it has one there."""
    _write("lib/a.pt", "lib/sub/b.pt", "other/c.pt")
    os.symlink("a.pt", "lib/0-link.pt")
    os.symlink("../../other/c.pt", "lib/sub/link.pt")
    os.symlink("lib", "alias")
    assert _found("lib/a.pt", "lib", "alias", "lib/sub", "*/*.pt", "other") == [
        "lib/a.pt",
        "lib/sub/b.pt",
        "lib/sub/link.pt",
    ]
    assert _found("lib") == ["lib/a.pt", "lib/sub/b.pt", "lib/sub/link.pt"]
    assert _found("lib", "lib/0-link.pt") == ["lib/a.pt", "lib/sub/b.pt", "lib/sub/link.pt"]


def test_links_that_a_walk_must_not_lose() -> None:
    """A link to nothing, and one to a file that the walk itself leaves out, are taken up."""
    _write("lib/weights.odd")
    os.symlink("gone.pt", "lib/dangling.pt")
    os.symlink("weights.odd", "lib/named.pt")
    os.symlink(".", "lib/loop")
    assert _found("lib") == ["lib/dangling.pt", "lib/named.pt"]


def test_a_cache_of_the_hub_goes_by_its_names() -> None:
    """In a Hugging Face cache the nameless blobs are reached through the links that name them, and only there."""
    _write("hub/models--x/blobs/0123", "hub/models--x/refs/main", "blobs/model.pt")
    Path("hub/models--x/snapshots/abc").mkdir(parents=True)
    os.symlink("../../blobs/0123", "hub/models--x/snapshots/abc/model.pt")
    expected = [
        found for found in find_sources(["hub"], every_file=True) if isinstance(found, Found) and found.expected
    ]
    assert [found.path for found in expected] == ["hub/models--x/snapshots/abc/model.pt"]
    assert "hub/models--x/blobs/0123" not in _found("hub", every_file=True)
    assert "./blobs/model.pt" in _found(".")


def test_a_diffusers_folder_is_one_thing() -> None:
    """A folder with a model_index.json is one thing, and nothing below it is another."""
    _write("lib/pipe/model_index.json", "lib/pipe/unet/model.safetensors", "lib/z.pt")
    assert list(find_sources(["lib"])) == [Found("lib/z.pt"), Found("lib/pipe", is_folder=True)]


FOLDERS = {
    "sharded": ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"),
    "variant": ("model-00001-of-00001.fp16.bin", "model.bin.index.fp16.json", "other.pt"),
    "peft": ("adapter_config.json", "adapter_model.bin", "README.md"),
    "component": ("config.json", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_one_model_is_one_thing(name: str) -> None:
    """Shards with their index, PEFT's adapter and a component with its configuration are each one model."""
    _write(*(f"lib/{name}/{file}" for file in FOLDERS[name]))
    assert list(find_sources(["lib"])) == [Found(f"lib/{name}", is_folder=True)]


@pytest.mark.parametrize(
    "files",
    [
        ("config.json", "model.safetensors", "photo-real.safetensors"),
        ("config.json", "tokenizer.json"),
        ("adapter_config.json", "adapter_model.bin", "training_args.bin"),
        (*FOLDERS["peft"], "checkpoint-500/adapter_model.bin"),
        (*FOLDERS["sharded"], "original/consolidated.pth"),
    ],
)
def test_a_folder_of_several_models_is_walked(files: tuple[str, ...]) -> None:
    """Where other weights or folders lie beside them, every file is looked at for itself."""
    _write(*(f"lib/{file}" for file in files))
    assert not any(found.is_folder for found in find_sources(["lib"]) if isinstance(found, Found))


@pytest.mark.skipif(os.name == "nt", reason="paths are shorter there")
def test_folders_as_deep_as_can_be() -> None:
    """Folders nested deeper than Python's recursion limit are walked to the longest path that the system takes."""
    here = os.getcwd()
    depth = 0
    while depth < 1500:
        os.mkdir("d")
        os.chdir("d")
        depth += 1
    _write("x.pt")
    os.chdir(here)
    assert _found("d") == ["/".join(["d"] * depth) + "/x.pt"]
    for _ in range(depth):
        os.chdir("d")
    os.unlink("x.pt")
    for _ in range(depth):
        os.chdir("..")
        os.rmdir("d")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is unreadable to this user")
def test_a_folder_that_may_not_be_read() -> None:
    """A folder without read permission is an error in its place, and the rest goes on."""
    _write("lib/closed/a.pt", "lib/open/b.pt")
    os.chmod("lib/closed", 0)
    try:
        assert _found("lib") == ["error lib/closed", "lib/open/b.pt"]
    finally:
        os.chmod("lib/closed", 0o700)


def test_walking_is_lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file comes before the second folder is looked at, so a huge library needs no list of its files."""
    _write("lib/a/1.pt", "lib/b/2.pt")
    scanned: list[str] = []
    real = os.scandir

    def scandir(path: str) -> object:
        scanned.append(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    sources = find_sources(["lib"])
    assert next(sources) == Found("lib/a/1.pt")
    assert scanned == ["lib", "lib/a"]
