"""Deciding, before a byte is written, what a conversion will write."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from modelhub.container.base import Container
from modelhub.container.sniff import KINDS
from modelhub.container.storages import Storages
from modelhub.convert.arrange import output_file
from modelhub.convert.base import Assembly, ConversionPlan, Piece
from modelhub.convert.gather import extent, needs_gathering
from modelhub.convert.names import SHARED_KEY, output_metadata, output_tensors
from modelhub.convert.stream import can_negate
from modelhub.errors import (
    ConversionError,
    LimitExceeded,
    Malformed,
    NothingToConvert,
    Truncated,
    UnknownContainer,
    UnsupportedDtype,
    UnsupportedLayout,
)
from modelhub.tensors import StateDict, TensorInfo

if TYPE_CHECKING:
    from modelhub.identify import Identity

MAX_GROWTH = (64 << 20, 16)
"""The output has at most so many bytes, plus so many times the source's: expanded and shared tensors can claim more."""

_CONVERTED_KINDS = frozenset({"torch-zip", "torch-legacy", "torch-tar", "torchscript", "pickle", "numpy"})


def plan_conversion(
    container: Container, identity: Identity | None = None, *, metadata: Mapping[str, str] | None = None
) -> ConversionPlan:
    """What converting *container* to safetensors will write; reads nothing and writes nothing.

    The output holds every tensor of the state dict, in the order in which ``safetensors.torch.save_file`` would write
    them; without plain values or shared bytes in the source it is byte for byte that function's output with
    ``{"format": "pt"}``. Tensors that share bytes each get their own copy. Names and metadata are as
    :mod:`modelhub.convert.names` says; *metadata* is added to it. *identity*, where it is known, keeps a file that is
    no embedding from being named like one.

    Raises :class:`NothingToConvert` (no tensors, or safetensors already), :class:`UnsupportedDtype`,
    :class:`UnsupportedLayout`, :class:`Truncated`, :class:`Malformed`, :class:`LimitExceeded`,
    :class:`UnknownContainer` or plain :class:`ConversionError`, each naming the file and the tensor.
    """
    state_dict = _state_dict(container)
    kind = identity.kind if identity is not None else None
    tensors, left_tensors = output_tensors(state_dict, container.name, kind)
    kept, left_values = output_metadata(state_dict)
    _check(tensors, container)
    groups = _shared_groups(tensors)
    if groups:
        kept[SHARED_KEY] = json.dumps(groups, ensure_ascii=False, separators=(",", ":"))
    kept |= metadata or {}

    source = container.source
    assert source is not None
    storages = Storages(source)
    made = {key: Assembly(t.dtype, t.shape, (Piece(*storages.locate(t)),)) for key, t in tensors.items()}
    return ConversionPlan(
        source=container.name,
        outputs=(output_file("", made, kept),),
        leftovers=(*state_dict.leftovers, *left_tensors, *left_values),
        duplicated=groups,
        duplicated_bytes=sum(_duplicated_bytes([tensors[name] for name in group]) for group in groups),
    )


def _state_dict(container: Container) -> StateDict:
    """The tensors of *container*, if it is of a kind to convert and nothing is wrong with them."""
    name = container.name
    if container.source is None:
        raise ConversionError(f"{name}: a folder is not converted as a whole; name one of its files")
    for anomaly in container.anomalies:
        if anomaly.rule.endswith(".truncated"):
            raise Truncated(f"{name}: {anomaly.message}")
    if container.kind == "safetensors":
        raise NothingToConvert(f"{name}: it is safetensors already")
    arrays = container.kind == "zip" and container.state_dict is not None
    if container.kind not in _CONVERTED_KINDS and not arrays:
        raise UnknownContainer(f"{name}: {KINDS.get(container.kind, container.kind)} is not converted")
    for anomaly in container.anomalies:
        if anomaly.rule in _REFUSALS:
            raise _REFUSALS[anomaly.rule](f"{name}: {anomaly.message}")
        if anomaly.rule.startswith("tensor."):
            raise Malformed(f"{name}: {anomaly.message}")
    if container.state_dict is None:
        reason = container.skipped[0].reason if container.skipped else "its tensors cannot be told"
        raise Malformed(f"{name}: {reason}")
    _check_leftovers(container.state_dict, name)
    if not container.state_dict.tensors:
        raise NothingToConvert(f"{name}: there is no tensor in it")
    return container.state_dict


_REFUSALS: Mapping[str, type[ConversionError | LimitExceeded]] = {
    "tensor.dtype": UnsupportedDtype,
    "tensor.expansion": LimitExceeded,
    "tensor.limit": LimitExceeded,
    "tensor.many": LimitExceeded,
}
"""Errors for anomalies of tensors; for the other ones it is Malformed."""


def _check_leftovers(state_dict: StateDict, name: str) -> None:
    """Refuse a state dict with tensors that cannot be copied: leaving weights out would be a silent loss."""
    for left in state_dict.leftovers:
        if left.unread:
            reason = f"tensor {left.path!r:.100} is of a kind that cannot be copied: {left.description}"
            raise UnsupportedLayout(f"{name}: {reason}")


def _check(tensors: Mapping[str, TensorInfo], container: Container) -> None:
    """Refuse tensors whose values cannot be had from the bytes of the file."""
    assert container.source is not None
    size, name = container.source.size, container.name
    total = 0
    for key, tensor in tensors.items():
        which = f"{name}: tensor {key!r:.100}"
        storage = tensor.storage
        if not tensor.dtype.storable:
            raise UnsupportedDtype(f"{which} is of type {tensor.dtype.torch_name}, which safetensors does not have")
        if (tensor.neg and not can_negate(tensor.dtype)) or (tensor.conj and not tensor.dtype.is_complex):
            raise UnsupportedLayout(f"{which} of type {tensor.dtype.torch_name} is stored to be negated or conjugated")
        if tensor.numel * tensor.dtype.bits % 8 or (tensor.dtype.bits % 8 and needs_gathering(tensor)):
            raise UnsupportedLayout(f"{which} has elements of {tensor.dtype.bits} bits that fill no whole bytes")
        if tensor.offset < 0 or tensor.offset + extent(tensor) > storage.nbytes:
            raise Malformed(f"{which} reaches beyond its storage of {storage.nbytes} bytes")
        if tensor.nbytes and storage.end > size:
            missing = storage.end - size
            raise Truncated(f"{which} is cut off: at least {missing} bytes are missing")
        total += tensor.nbytes
    constant, factor = MAX_GROWTH
    if total > constant + factor * size:
        raise LimitExceeded(f"{name}: its {size:,} bytes would become {total:,}, more than {factor} times as many")


def _shared_groups(tensors: Mapping[str, TensorInfo]) -> tuple[tuple[str, ...], ...]:
    """Names of *tensors* that look at the same bytes, grouped."""
    by_file_name = {tensor.name: name for name, tensor in tensors.items()}
    groups = StateDict({tensor.name: tensor for tensor in tensors.values()}).shared_groups()
    return tuple(tuple(by_file_name[name] for name in group) for group in groups)


def _duplicated_bytes(tensors: Iterable[TensorInfo]) -> int:
    """Bytes that *tensors*, which overlap, take more in the output than the run they lie in."""
    tensors = tuple(tensors)
    first = min(tensor.offset for tensor in tensors)
    last = max(tensor.offset + extent(tensor) for tensor in tensors)
    return max(0, sum(tensor.nbytes for tensor in tensors) - (last - first))
