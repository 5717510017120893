"""Which model a file is, told from names, shapes, a few bytes and metadata; nothing is loaded."""

from __future__ import annotations

from modelhub.container.base import Container
from modelhub.identify.base import Adapter, Evidence, Identity
from modelhub.identify.file import identify_state_dict
from modelhub.identify.observation import Observation, observe, restored, stored
from modelhub.identify.probe import numbers
from modelhub.identify.rules import rules_version

__all__ = [
    "Adapter",
    "Evidence",
    "Identity",
    "Observation",
    "identify",
    "identify_observation",
    "identify_state_dict",
    "numbers",
    "observe",
    "restored",
    "rules_version",
    "stored",
]


def identify(container: Container) -> Identity:
    """Which model *container* is; facts that cannot be told stay ``None``. Never raises for content."""
    return identify_observation(observe(container))


def identify_observation(observation: Observation) -> Identity:
    """Which model *observation* is of; what it reads for that is then among the observation's numbers.

    A file is known by its tensors, a diffusers folder by its configurations and the tensors of its parts.
    """
    if observation.is_folder:
        from modelhub.identify.folder import identify_folder

        return identify_folder(observation)
    state_dict, probe = observation.files[""]
    return identify_state_dict(state_dict, probe, observation.beside)
