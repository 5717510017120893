"""Textual inversions and hypernetworks: kinds that are known by the form of their few names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from modelhub.identify.base import Evidence, Identity
from modelhub.identify.names import Names
from modelhub.identify.registry import in_order
from modelhub.tensors import StateDict, TensorInfo

_CLIP_L, _CLIP_H, _CLIP_G, _T5_XXL = 768, 1024, 1280, 4096
"""Widths of the text encoders' token embeddings, and so of a vector that stands for a token."""

_WIDTHS = {
    _CLIP_L: ("sd-1", "sdxl"),
    _CLIP_H: ("sd-2",),
    _CLIP_G: ("sdxl", "sdxl-refiner"),
}
"""A 768 wide vector may be SD 1's, or the half of an SDXL one that diffusers keeps in a file of its own."""

_NAMED = {
    "clip_l": (_CLIP_L, frozenset({"sdxl", "sd-3", "flux"})),
    "clip_g": (_CLIP_G, frozenset({"sdxl", "sdxl-refiner", "cascade", "sd-3"})),
    "t5xxl": (_T5_XXL, frozenset({"sd-3", "flux"})),
    "t5": (_T5_XXL, frozenset({"sd-3", "flux"})),
    "text_encoders_0": (_CLIP_L, frozenset({"sd-1", "sdxl"})),
    "text_encoders_1": (_CLIP_G, frozenset({"sdxl"})),
}
"""Names of vectors for one of several text encoders, as ComfyUI and sd-scripts write them, OneTrainer, and diffusers'
advanced training wrote them at first."""

_BEHIND = "_out"
"""Ends OneTrainer's names of vectors that stand in place of the encoder's outputs and not of its inputs."""

_OF_A_MODULE = re.compile(r"(?<!\d)\.|\.(weight|bias)$|^(weight|bias|\d+)$")
"""What tokens do not look like, whose names have dots within numbers alone (``v1.5``)."""

_MOST_TOKENS = 16
_MOST_VECTORS = 256

_HYPERNETWORK_WIDTHS = {768: "sd-1", 1024: "sd-2", 2048: "sdxl"}
_HYPERNETWORK_NAME = re.compile(r"(320|640|768|1024|1280|2048)\.[01]\.linear(\.\d+|\d*)\.(weight|bias)")
"""A1111's ``{width: (for keys, for values)}``; ``linear1`` and ``linear2`` before it had ``layer_structure``."""


def identify_embedding(names: Names) -> Identity | None:
    """A textual inversion in any of the forms that programs write, or ``None``."""
    tensors = names.tensors
    if found := [name for name in tensors if name.startswith("string_to_param.")]:
        return _single_encoder(tensors[found[0]], found[0], "the name that A1111 keeps vectors under")
    if "emb_params" in tensors:
        return _single_encoder(tensors["emb_params"], "emb_params", "the name that sd-scripts keeps vectors under")
    if named := [name for name in _NAMED if _has_vectors(tensors, name)]:
        return _named_encoders(named)
    return _tokens(names)


def _has_vectors(tensors: Mapping[str, TensorInfo], name: str) -> bool:
    """Whether there are vectors for the text encoder that *name* means, before it or behind."""
    found = (tensors.get(name), tensors.get(name + _BEHIND))
    return any(tensor is not None and _width(tensor) == _NAMED[name][0] for tensor in found)


def _single_encoder(tensor: TensorInfo, name: str, because: str) -> Identity | None:
    """Forms that were only ever used for models with a single text encoder: a width of 768 is SD 1's."""
    width = _width(tensor)
    if width is None:
        return None
    kind = Evidence("kind", "embedding", "key", f"there is {name}: {because}")
    detail = f"{name} is {list(tensor.shape)}: vectors {width} wide"
    if width == _CLIP_L:
        detail += ", in a form for models with one text encoder"
        evidence = (kind, Evidence("architecture", "sd-1", "shape", detail, "medium"))
        return Identity("embedding", "sd-1", evidence=evidence)
    return _left_open(kind, _WIDTHS.get(width, ()), "shape", detail)


def _named_encoders(named: list[str]) -> Identity:
    possible = frozenset.intersection(*(_NAMED[name][1] for name in named))
    if {"clip_l", "clip_g"} == set(named):
        possible = frozenset({"sdxl"})  # SD 3 embeddings carry T5's vectors too
    kind = Evidence("kind", "embedding", "key", f"vectors for text encoders: {', '.join(named)}")
    detail = f"vectors for {' and '.join(named)}" + (" only" if len(named) == 1 else "")
    return _left_open(kind, in_order(possible), "key", detail)


def _tokens(names: Names) -> Identity | None:
    """diffusers' form: each name is a token, each tensor its vector or vectors."""
    tensors = names.tensors
    if not 0 < len(tensors) <= _MOST_TOKENS:
        return None
    widths = {_width(tensor) for tensor in tensors.values()}
    if len(widths) != 1 or (width := widths.pop()) not in _WIDTHS:
        return None
    bracketed = all(name.startswith("<") and name.endswith(">") for name in tensors)
    if not bracketed and any(map(_OF_A_MODULE.search, tensors)):
        return None
    token, tensor = next(iter(tensors.items()))
    kind = Evidence(
        "kind",
        "embedding",
        "structure",
        f"all it holds is vectors by token, such as {token[:80]!r}",
        "high" if bracketed else "medium",
    )
    detail = f"{token[:80]!r} is {list(tensor.shape)}: vectors {width} wide"
    return _left_open(kind, _WIDTHS[width], "shape", detail)


def _left_open(kind: Evidence, possible: tuple[str, ...], by: str, detail: str) -> Identity:
    if not possible:
        return Identity("embedding", evidence=(kind,))
    evidence = (kind, Evidence("architecture", " | ".join(possible), by, detail))
    if len(possible) == 1:
        return Identity("embedding", possible[0], evidence=evidence)
    return Identity("embedding", evidence=evidence, candidates=possible)


def _width(tensor: TensorInfo) -> int | None:
    """Elements of one vector of a ``[width]`` or ``[vectors, width]`` tensor of floating point numbers."""
    if not tensor.dtype.is_float or len(tensor.shape) not in {1, 2}:
        return None
    if len(tensor.shape) == 2 and not 0 < tensor.shape[0] <= _MOST_VECTORS:
        return None
    return tensor.shape[-1]


def identify_hypernetwork(names: Names, state_dict: StateDict) -> Identity | None:
    """An A1111 hypernetwork, or ``None``: layers by attention width, one pair for keys and values each."""
    layers = [name for name in names.tensors if re.match(r"\d+\.[01]\.linear", name)]
    known = [match[1] for name in layers if (match := _HYPERNETWORK_NAME.fullmatch(name))]
    if not known or 2 * len(known) < len(names.tensors):
        return None
    widths = sorted({int(width) for width in known})
    evidence = [
        Evidence(
            "kind",
            "hypernetwork",
            "structure",
            f"layers for attention widths {', '.join(map(str, widths))}, such as {layers[0]}",
        )
    ]
    if activation := state_dict.scalars.get("activation_func"):
        evidence.append(Evidence("kind", "hypernetwork", "structure", f"activation_func is {str(activation)[:40]!r}"))
    possible = [name for width, name in _HYPERNETWORK_WIDTHS.items() if width in widths]
    detail = f"its widths {', '.join(map(str, widths))}"
    if len(possible) == 1:
        detail += " include the text width of one architecture"
        evidence.append(Evidence("architecture", possible[0], "key", detail))
        return Identity("hypernetwork", possible[0], evidence=tuple(evidence))
    candidates = tuple(possible) or tuple(_HYPERNETWORK_WIDTHS.values())
    return Identity("hypernetwork", evidence=tuple(evidence), candidates=candidates)
