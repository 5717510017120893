"""Why a file is not something else."""

from __future__ import annotations

import pytest

from modelhub.identify import Observation, identify_observation
from modelhub.identify.near import NearMiss, near_misses
from modelhub.identify.probe import Probe
from modelhub.samples.layouts import Layout, checkpoint, lora
from tests.identify.build import layout, state_dict
from tests.identify.keylists import modules


def missed(contents: Layout) -> tuple[NearMiss, ...]:
    observation = Observation({"": (state_dict(contents), Probe())})
    return near_misses(observation, identify_observation(observation))


def test_the_sister_architecture() -> None:
    """SD 2 came nearest to an SD 1 checkpoint; the width of its text is what it is not."""
    [nearest, *_] = missed(checkpoint("sd-1"))
    assert nearest.value == "sd-2, unet"
    assert "is [320, 768], not [*, 1024]" in nearest.detail
    assert nearest.held == nearest.conditions - 1


def test_an_adapter() -> None:
    """Of an SDXL LoRA it is said which layer SD 1 has not, or has of another size."""
    misses = {miss.value: miss for miss in missed(lora("sdxl", 4, text_encoder=False))}
    assert "sdxl" not in misses
    assert 0 < misses["sd-1"].held < misses["sd-1"].conditions
    assert "lora_unet_" in misses["sd-1"].detail


@pytest.mark.parametrize("name", ["transformer-flux-dev", "vae-sd", "text-clip-l", "controlnet-sdxl", "other-bert"])
def test_never_the_answer_itself(name: str) -> None:
    """What the file is, is not among what it is not, and each miss says what is wrong."""
    contents = layout(modules()[name])
    observation = Observation({"": (state_dict(contents), Probe())})
    identity = identify_observation(observation)
    for miss in near_misses(observation, identity):
        assert miss.held < miss.conditions
        assert miss.detail
        assert miss.value.split(", ")[0] != identity.architecture or identity.variant not in miss.value.split(", ")


def test_nothing() -> None:
    """An empty file is near to nothing."""
    assert missed({}) == ()
