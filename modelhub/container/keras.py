"""Keras models: not examined, except for code that their configuration names or brings along.

A ``Lambda`` layer holds marshalled bytecode, and a configuration may name any function of any module, which Keras then
imports and calls (CVE-2024-3660, CVE-2025-1550, CVE-2025-8747, CVE-2025-9906). Keras 3 keeps it as ``config.json`` in a
zip archive, Keras 2 as an attribute of an HDF5 file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, Skipped
from modelhub.source import Source

MAX_CONFIG = 4 << 20
"""Bytes of a configuration that are read."""

_CODE = frozenset({"Lambda", "__lambda__", "function"})
_HOMES = frozenset({"keras", "keras_core", "keras_cv", "keras_hub", "keras_nlp", "tensorflow", "tf_keras"})
_IN_TEXT = re.compile(rb'"class_name"\s*:\s*"(?:Lambda|__lambda__|function)"')
_LOOKED_AT = 64 << 20
_CHUNK = 1 << 20
_OVERLAP = 64
_MESSAGE = "a Keras model whose configuration brings code along, or names code to run"


def read_hdf5(source: Source) -> Container:
    """Open an HDF5 file: told as not examined, with the code that a Keras model's configuration in it has."""
    message = "an HDF5 file, which is not examined"
    anomalies = [Anomaly("container.not-examined", message)]
    tail = b""
    for start in range(0, min(source.size, _LOOKED_AT), _CHUNK):
        data = tail + source.read_at(start, _CHUNK)
        found = _IN_TEXT.search(data)
        if found is not None:
            offset = start - len(tail) + found.start()
            evidence = data[found.start() : found.start() + 80].decode("ascii", "backslashreplace")
            anomalies.append(Anomaly("container.keras-code", _MESSAGE, offset=offset, evidence=evidence))
            break
        tail = data[-_OVERLAP:]
    return Container("hdf5", source.name, source, anomalies=tuple(anomalies), skipped=(Skipped(message),))


def code_in_config(text: bytes, member: str) -> Iterator[Anomaly]:
    """What code the ``config.json`` *text* of a Keras 3 archive names, at most one of it."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        return  # Keras cannot read it either; the archive is not examined
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            module, name = value.get("module"), value.get("class_name")
            foreign = isinstance(module, str) and module.partition(".")[0] not in _HOMES and "class_name" in value
            if foreign or (isinstance(name, str) and name in _CODE):
                yield Anomaly("container.keras-code", _MESSAGE, member, evidence=f"{module!r:.80}: {name!r:.80}")
                return
            waiting += value.values()
