"""The package's public names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import modelhub
from modelhub.container import open_path
from modelhub.errors import NotFound
from modelhub.scan import Verdict

Make = Callable[..., None]


def test_every_public_name_is_there() -> None:
    """Each name in ``__all__`` can be had, and no other name is made up."""
    for name in modelhub.__all__:
        assert getattr(modelhub, name) is not None
    assert set(modelhub.__all__) <= set(dir(modelhub))
    with pytest.raises(AttributeError, match="no attribute 'scann'"):
        _ = modelhub.scann


def test_verbs_take_paths_and_containers(make: Make) -> None:
    """scan, identify and inspect take a path, a path object or an open container."""
    make("safe.pt")
    assert modelhub.scan("safe.pt").verdict is Verdict.SAFE
    assert modelhub.scan(Path("safe.pt")).digest is not None
    assert modelhub.identify("safe.pt").precision == "mixed"
    assert modelhub.inspect("safe.pt").problem is None
    with open_path("safe.pt") as container:
        assert modelhub.scan(container).verdict is Verdict.SAFE
        assert modelhub.identify(container).precision == "mixed"
        assert len(list(modelhub.inspect(container).tensors())) == 2
    with pytest.raises(NotFound):
        modelhub.scan("missing.pt")


def test_a_verb_is_also_its_package(make: Make) -> None:
    """``modelhub.convert`` can be called, and is the package with everything about converting at the same time."""
    make("safe.pt")
    conversion = modelhub.convert("safe.pt", "out.safetensors")
    assert Path("out.safetensors").is_file()
    import modelhub.convert as package

    assert isinstance(conversion, package.Conversion)
    assert package is modelhub.convert  # type: ignore[comparison-overlap]
