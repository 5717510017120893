"""What each dialect claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelhub.sidefiles import Claims, ModelFile
from modelhub.sidefiles.modelspec import claimed_in_header
from modelhub.sidefiles.reading import read_side_file, told_in
from tests.sidefiles import build
from tests.sidefiles.build import FILE, NAME, SHA256, packed

PAGE = "https://civitai.com/models/4384?modelVersionId=128713"
STATED = {
    "autov1": "7d3a4c1b",
    "autov2": SHA256[:10],
    "autov3": "abcdef012345",
    "sha256": SHA256,
    "crc32": "1a2b3c4d",
    "blake3": "bb" * 32,
}
CIVITAI = Claims(
    name="Harbour Style",
    version="v1.2",
    base_model="SDXL 1.0",
    kind="LORA",
    creator="someone",
    licence="no credit needed; merges may not be shared; commercial use: Image, Rent",
    nsfw=False,
    triggers=("harbour at dusk", "water, colour"),
    tags=("style", "boats"),
    description="Harbours\nBoats & water.",
    model_id=4384,
    version_id=128713,
    url=PAGE,
    digests=tuple(STATED.items()),
    dated="2025-12-18T09:16:12.062Z",
)


def said(data: object, dialect: str, file: ModelFile = FILE) -> Claims:
    told = told_in(packed(data), dialect, "side file", file)
    assert (told.problem, told.dialect) == (None, dialect)
    return told.claims


def test_civitai() -> None:
    """What Civitai's API says of a version is claimed, with the digests of the file that has the model's name."""
    assert said(build.CIVITAI, "civitai") == CIVITAI


@pytest.mark.parametrize(
    ("file", "found"),
    [
        (ModelFile("renamed.safetensors", FILE.size), True),
        (ModelFile("renamed.safetensors", 5), False),
        (ModelFile("renamed.ckpt", None, alone=False), False),
    ],
)
def test_civitai_digests_are_of_one_file(file: ModelFile, found: bool) -> None:
    """A renamed model is told by its size; where it might be any of several files no digest is claimed."""
    assert bool(said(build.CIVITAI, "civitai", file).digests) == found


def test_civitai_model() -> None:
    """Of a whole model with several versions the one is meant that has the file."""
    other = {"id": 5, "name": "v1.0", "trainedWords": ["old"], "baseModel": "SD 1.5", "files": []}
    model = {**build.CIVITAI["model"], "id": 4384, "modelVersions": [other, build.CIVITAI]}
    assert said(model, "civitai") == CIVITAI
    undecided = said(model, "civitai", ModelFile("other.safetensors", 1))
    assert (undecided.name, undecided.version, undecided.triggers) == ("Harbour Style", None, ())


def test_a1111() -> None:
    """The web UI's card; its activation text is taken phrase by phrase, but where brackets hold phrases together."""
    assert said(build.A1111, "a1111") == Claims(
        base_model="SDXL",
        triggers=("harbour at dusk", "watercolour"),
        negative="cars",
        weight=0.8,
        description="Boats & water.",
        notes="works best at night",
    )
    assert said({"activation text": "(a, b:1.2), c"}, "a1111").triggers == ("(a, b:1.2), c",)
    assert said({"sd version": "Unknown", "preferred weight": 0, "notes": " "}, "a1111") == Claims()
    downloaded = said({**build.A1111, "modelId": 4384, "modelVersionId": 128713, "sha256": SHA256.upper()}, "a1111")
    assert (downloaded.url, downloaded.digests) == (PAGE, (("sha256", SHA256),))


def test_lora_manager() -> None:
    """LoRA Manager's own fields come before those that it has from Civitai."""
    claims = said(build.LORA_MANAGER, "lora-manager")
    assert (claims.tags, claims.favourite, claims.weight) == (("style", "night"), True, 0.7)
    assert (claims.notes, claims.description) == ("works best at night", "Boats.")
    assert (claims.triggers, claims.version_id, claims.creator) == (CIVITAI.triggers, 128713, "someone")
    assert dict(claims.digests) == STATED
    alone = {**build.LORA_MANAGER, "civitai": {}, "base_model": "Unknown", "sha256": ""}
    assert said(alone, "lora-manager").as_dict().keys() == {
        "name", "favourite", "weight", "tags", "description", "notes",
    }  # fmt: skip


def test_lora_manager_names_its_file() -> None:
    """Of two models with one name, the digest is of the one that the side file names."""
    data = {**build.LORA_MANAGER, "civitai": {}}
    assert said(data, "lora-manager", ModelFile(f"{NAME}.safetensors", 1, alone=False)).digests
    assert not said(data, "lora-manager", ModelFile(f"{NAME}.ckpt", 1, alone=False)).digests


def test_stability_matrix() -> None:
    """Stability Matrix's fields, the title that the user gave before the model's name."""
    assert said(build.STABILITY_MATRIX, "stability-matrix") == Claims(
        name="My harbour",
        version="v1.2",
        base_model="SDXL 1.0",
        kind="LORA",
        creator="someone",
        nsfw=False,
        triggers=("harbour at dusk",),
        tags=("style",),
        description="Boats.",
        model_id=4384,
        version_id=128713,
        url=PAGE,
        digests=(("sha256", SHA256), ("crc32", "1a2b3c4d"), ("blake3", "bb" * 32)),
        dated="2025-09-01T10:00:00.0000000+00:00",
    )


def test_swarmui() -> None:
    """ModelSpec's fields, beside the model as in its header; the digest is of the data area."""
    assert said(build.SWARMUI, "swarmui") == Claims(
        name="Harbour Style",
        base_model="stable-diffusion-xl-v1-base/lora",
        prediction_type="epsilon",
        creator="someone",
        licence="CC-BY-4.0",
        triggers=("harbour at dusk",),
        tags=("style", "boats"),
        description="Boats.",
        notes="works best at night",
        digests=(("autov3", "cd" * 32),),
        dated="2025-09-01",
    )


def test_rgthree() -> None:
    """Words of Civitai and of the user are triggers, those that were only counted in the header are not."""
    claims = said(build.RGTHREE, "rgthree")
    assert claims.triggers == ("harbour at dusk", "mine")
    assert (claims.name, claims.weight, claims.notes) == ("Harbour Style - v1.2", 0.9, "works best at night")
    assert (claims.url, dict(claims.digests)["sha256"]) == (PAGE, SHA256)


@pytest.mark.parametrize(
    ("dialect", "content", "expected"),
    [
        ("description", b"\xef\xbb\xbf Boats.\n", Claims(description="Boats.")),
        ("description", "\ufeffBoats.".encode("utf-16-le"), Claims(description="Boats.")),
        ("checksum", f"{SHA256.upper()}\n".encode(), Claims(digests=(("sha256", SHA256),))),
        ("checksum", f"{'0' * 64}  b.ckpt\n{SHA256} *./{FILE.name}\n".encode(), Claims(digests=(("sha256", SHA256),))),
        ("configuration", b"model:\n  params:\n    parameterization: \"v\"\n", Claims(prediction_type="v_prediction")),
        (
            "component-config",
            b'{"_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon"}',
            Claims(kind="EulerDiscreteScheduler", prediction_type="epsilon"),
        ),
    ],
)  # fmt: skip
def test_plain_files(dialect: str, content: bytes, expected: Claims) -> None:
    """Descriptions in any of the three encodings that Windows writes, checksums, configurations."""
    told = told_in(content, dialect, "harbour.yaml", FILE)
    assert (told.claims, told.problem) == (expected, None)


@pytest.mark.parametrize("dialect", ["civitai", "lora-manager", "stability-matrix", "swarmui", "rgthree"])
def test_misnamed(dialect: str) -> None:
    """A file that is called NAME.json is told by its fields, and so is any other that is not what it is called."""
    data: dict[str, Any] = getattr(build, dialect.upper().replace("-", "_"))
    for name in ("a1111", "civitai"):
        told = told_in(packed(data), name, "x.json", FILE)
        assert (told.dialect, told.problem) == (dialect, None)
        assert told.claims.name


def test_pictures(tmp_path: Path) -> None:
    """A picture is told by its first bytes, whatever it is called, and what is none has a note."""
    path = tmp_path / "m.png"
    for content, expected in (
        (build.PNG, "image/png"),
        (build.WEBP, "image/webp"),
        (build.MP4, "video/mp4"),
        (b"GIF89a" + bytes(40), "image/gif"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "image/jpeg"),
        (b"<!DOCTYPE html>", None),
        (b"", None),
    ):
        path.write_bytes(content)
        told = read_side_file(str(path), "preview", FILE)
        assert told.media_type == expected
        assert (told.problem is None) == (expected is not None)


def test_header() -> None:
    """What trainers write into the header is claimed in the same words."""
    claims = claimed_in_header(
        {"ss_output_name": "harbour", "ss_base_model_version": "sdxl_base_v1-0", "modelspec.tags": "a, b", "other": "x"}
    )
    assert claims == Claims(name="harbour", base_model="sdxl_base_v1-0", tags=("a", "b"))
    assert claimed_in_header({}) == Claims()
