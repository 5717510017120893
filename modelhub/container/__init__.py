"""What a model file is, by its bytes: the readers of every format, each imported when there is such a file."""

from modelhub.container.base import Container, PickleProgram, Skipped
from modelhub.container.open import open_container
from modelhub.container.path import open_anywhere, open_path
from modelhub.container.sniff import KINDS

__all__ = [
    "KINDS",
    "Container",
    "PickleProgram",
    "Skipped",
    "open_anywhere",
    "open_container",
    "open_path",
]
