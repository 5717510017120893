"""ControlNets and T2I-Adapters: the configurations that their shapes say build exactly what was published."""

from __future__ import annotations

import pytest

from modelhub.convert.layouts import to_controlnet, to_t2i_adapter
from modelhub.errors import ConversionError
from tests.identify.keylists import modules

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

PUBLISHED = [
    *(f"controlnet-{name}" for name in ("sd-1", "sd-2", "sdxl", "sdxl-mid", "sdxl-small")),
    *(f"t2i-adapter-{name}" for name in ("sd", "sd-light", "sdxl")),
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_module_is_the_published_one(name: str) -> None:
    """Every tensor has a place of its shape in the module that diffusers builds, and there is no other place."""
    shapes = modules()[name]
    steers = name.startswith("controlnet")
    layout = (to_controlnet if steers else to_t2i_adapter)(shapes)
    ((component, pieces),) = layout.components.items()
    assert (layout.unused, layout.missing, set(pieces)) == ((), (), set(shapes))
    with torch.device("meta"):
        kind = diffusers.ControlNetModel if steers else diffusers.T2IAdapter
        module = kind.from_config(dict(layout.configs[f"{component}/config.json"]))
    assert {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()} == dict(shapes)


def test_what_is_neither_is_refused() -> None:
    """Names without a hint's convolutions or an adapter's body are no such model."""
    for arranged in (to_controlnet, to_t2i_adapter):
        with pytest.raises(ConversionError, match="there is no"):
            arranged({"conv_in.weight": (320, 4, 3, 3)})
