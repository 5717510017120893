"""Where bytes come from: a :class:`Source` is a named, sized run of bytes that can be read at any offset."""

from modelhub.source.address import Traffic, at_hand, is_distant, is_remote, shown_address, traffic_of
from modelhub.source.base import FileStat, Source
from modelhub.source.digest import Digest, digest_of
from modelhub.source.local import LocalSource, open_local
from modelhub.source.memory import BytesSource
from modelhub.source.resolve import MODEL_EXTENSIONS, Found, find_sources, is_one_model, names_one_model

__all__ = [
    "MODEL_EXTENSIONS",
    "BytesSource",
    "Digest",
    "FileStat",
    "Found",
    "LocalSource",
    "Source",
    "Traffic",
    "at_hand",
    "digest_of",
    "find_sources",
    "is_distant",
    "is_one_model",
    "is_remote",
    "names_one_model",
    "open_local",
    "shown_address",
    "traffic_of",
]
