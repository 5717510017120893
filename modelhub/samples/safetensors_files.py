"""safetensors files, written from chunks as the torch files are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from modelhub.samples.weights import Weight


def write_safetensors(
    path: str | os.PathLike[str], weights: Mapping[str, Weight], metadata: Mapping[str, str] | None = None
) -> None:
    """Write *weights*, each contiguous and alone in its storage, to *path*; wide element types first, then by name.

    Raises ``ValueError`` for a weight that shares its storage or does not fill it.
    """
    names = sorted(weights, key=lambda name: (-weights[name].dtype.bits, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        weight = weights[name]
        begin, end = end, end + weight.storage.nbytes
        header[name] = {
            "dtype": weight.dtype.label,
            "shape": list(weight.shape),
            "data_offsets": [begin, end],
        }
    if len({id(weight.storage) for weight in weights.values()}) != len(weights):
        raise ValueError(f"{os.fspath(path)}: safetensors cannot hold weights that share a storage")
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            for chunk in weights[name].storage.chunks():
                file.write(chunk)
