"""What a model file is, by its bytes: the readers of every format, and the header that safetensors files begin with."""

from modelhub.container.base import Container, PickleProgram, Skipped
from modelhub.container.open import open_container
from modelhub.container.path import open_path
from modelhub.container.safetensors import MAX_HEADER, HeaderEntry, canonical_order, encode_header
from modelhub.container.sniff import KINDS

__all__ = [
    "KINDS",
    "MAX_HEADER",
    "Container",
    "HeaderEntry",
    "PickleProgram",
    "Skipped",
    "canonical_order",
    "encode_header",
    "open_container",
    "open_path",
]
