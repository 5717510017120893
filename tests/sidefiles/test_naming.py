"""Which files stand beside which models."""

from __future__ import annotations

from modelhub.sidefiles.naming import Beside, beside, is_side_file_name


def test_whole_names() -> None:
    """Names contain dots: a side file is the model's whose whole name it has; the longest suffix tells."""
    models = ("m.safetensors", "m.v1.2.safetensors")
    names = (
        "m.v1.2.civitai.info",
        "m.civitai.info",
        "m.v1.json",
        "m.v1.2.metadata.json",
        "m.v1.2.preview.PNG",
        "m.jpg",
    )
    assert [(each.name, each.dialect, each.models) for each in beside(names, models)] == [
        ("m.v1.2.civitai.info", "civitai", ("m.v1.2.safetensors",)),
        ("m.civitai.info", "civitai", ("m.safetensors",)),
        ("m.v1.2.metadata.json", "lora-manager", ("m.v1.2.safetensors",)),
        ("m.v1.2.preview.PNG", "preview", ("m.v1.2.safetensors",)),
        ("m.jpg", "picture", ("m.safetensors",)),
    ]


def test_the_models_own_name_may_end_so() -> None:
    """Where only a model is there whose name ends in what another dialect appends, the file is that model's card."""
    assert list(beside(["x.metadata.json"], ["x.metadata.ckpt"])) == [
        Beside("x.metadata.json", "a1111", ("x.metadata.ckpt",))
    ]


def test_whole_file_names() -> None:
    """A side file may be named after the model's file name with its extension; then it is of that file alone."""
    models = ("m.safetensors", "m.ckpt")
    (found,) = beside(["m.safetensors.rgthree-info.json"], models)
    assert (found.dialect, found.models) == ("rgthree", ("m.safetensors",))
    (shared,) = beside(["m.json"], models)
    assert shared.models == models


def test_others() -> None:
    """Files of other kinds are not looked at."""
    assert not list(beside(["m", "m.exe", "n.json", "readme.md"], ["m.safetensors"]))
    assert not is_side_file_name("readme.md")
    assert is_side_file_name("m.JSON")
