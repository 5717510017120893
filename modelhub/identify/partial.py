"""Parts of models: a shard, some blocks, a model without its ends. No signature fits, but the layers are known ones."""

from __future__ import annotations

from modelhub.identify.base import Evidence, Identity
from modelhub.identify.layers import fits, layers
from modelhub.identify.modules import form_of
from modelhub.identify.names import Names
from modelhub.identify.narrowing import Told, narrowed, told
from modelhub.identify.registry import family

_FEWEST = 8
"""Layers, at least, that a part must have in common with a model."""

_SHARE = 0.9
"""Of all its matrices, the share that must be layers of one model: other models are built of some of the same."""

_TEXT_ENCODERS = ("text_model_", "encoder_block_")


def identify_partial(names: Names) -> Identity | None:
    """Which model the tensors are a part of; ``None`` unless most matrices are, by name and sizes, layers of one."""
    roots = [root for root in names.roots((*family("unet").roots, *family("text_encoder").roots)) if root]
    matrices = [
        told(name, _path(name, roots), None, form_of({("full", "diff"): tensor.shape}))
        for name, tensor in names.tensors.items()
        if name.endswith(".weight") and len(tensor.shape) in {2, 4, 5}
    ]
    known = [module for module in matrices if _is_known(module)]
    if len(known) < _FEWEST or len(known) < _SHARE * len(matrices):
        return None
    if any(layers().places(module.path) and not _is_known(module) for module in matrices):
        return None  # a layer of a known name and of other sizes: another model
    left = narrowed(known)
    architecture = left.architecture
    is_text = 2 * sum(module.path.startswith(_TEXT_ENCODERS) for module in known) > len(known)
    kind = "text-encoder" if is_text else "diffusion-model"
    detail = f"{len(known)} of {len(matrices)} matrices are layers of one, of which the ends are not there"
    return Identity(
        kind=kind,
        architecture=architecture,
        variant=left.variant if architecture else None,
        components=("text_encoder",) if is_text else (),
        evidence=(Evidence("kind", kind, "structure", detail, "medium"), *left.evidence),
        candidates=() if architecture else left.architectures,
    )


def _path(name: str, roots: list[str]) -> str:
    root = max((root for root in roots if name.startswith(root)), key=len, default="")
    return name[len(root) : -len(".weight")].replace(".", "_")


def _is_known(module: Told) -> bool:
    outputs, inputs = module.form.outputs, module.form.inputs
    return any(fits(place, outputs, inputs, None) for place in layers().places(module.path))
