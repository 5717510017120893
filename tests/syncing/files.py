"""Small model files, each unlike the others, and the catalog that follows them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from modelhub.container.safetensors import encode_header
from modelhub.db import Catalog
from modelhub.samples import layouts
from modelhub.tensors import DTYPE_BY_LABEL, DType

F16 = DTYPE_BY_LABEL["F16"]
STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def lora(number: int, *, metadata: bool = True, width: int = 4) -> bytes:
    """A LoRA for SD 1; *number* stands in its header or, without *metadata*, in its last bytes alone."""
    tensors = [
        (f"{STEM}.lora_down.weight", F16, (width, 768), width * 768 * 2),
        (f"{STEM}.lora_up.weight", F16, (320, width), 320 * width * 2),
    ]
    head = encode_header(tensors, {"ss_output_name": f"model {number:09}"} if metadata else {"format": "pt"})
    size = sum(nbytes for *_, nbytes in tensors)
    return head + b"\0" * (size - 16) + number.to_bytes(16, "little")


def vae(number: int = 0) -> bytes:
    """A small VAE; *number* stands in its header."""
    return zeros(layouts.vae(width=1 / 64, dtype=F16), {"title": f"vae {number}"})


def zeros(layout: Mapping[str, tuple[DType, tuple[int, ...]]], metadata: dict[str, str]) -> bytes:
    """A safetensors file whose tensors are all zeros."""
    tensors = [(name, dtype, shape, math.prod(shape) * dtype.bits // 8) for name, (dtype, shape) in layout.items()]
    return encode_header(tensors, metadata) + b"\0" * sum(nbytes for *_, nbytes in tensors)


def put(path: Path, data: bytes, mtime: int | None = None) -> None:
    """Write *data* to *path*, with the time *mtime* in nanoseconds if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if mtime is not None:
        os.utime(path, ns=(mtime, mtime))


def tags_by_path(catalog: Catalog) -> dict[str, tuple[str, ...]]:
    """The tags of what lies at each live path."""
    return {
        place.path: entry.tags
        for entry in catalog.entries()
        for place in catalog.show(f"#{entry.id}").locations
        if place.ended is None
    }
