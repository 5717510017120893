"""What can be converted, and why the rest cannot: every refusal before a byte is written."""

from __future__ import annotations

from collections.abc import Mapping

from modelhub.container.base import Container
from modelhub.container.sniff import COMPRESSED, KINDS
from modelhub.convert.base import Assembly, file_of
from modelhub.convert.dense import can_be_dense
from modelhub.convert.gather import extent, needs_gathering
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

MAX_GROWTH = (64 << 20, 16)
"""The output has at most so many bytes, plus so many times the source's: expanded and shared tensors can claim more."""

CONVERTED_KINDS = frozenset({"torch-zip", "torch-legacy", "torch-tar", "torchscript", "pickle", "numpy", "gguf"})
"""Kinds of container whose tensors become safetensors; safetensors itself can be rewritten."""

_WRAPPERS = COMPRESSED | {"7z", "tar", "zip"}

_REFUSALS: Mapping[str, type[ConversionError | LimitExceeded]] = {
    "tensor.dtype": UnsupportedDtype,
    "tensor.expansion": LimitExceeded,
    "tensor.limit": LimitExceeded,
    "tensor.many": LimitExceeded,
}
"""Errors for anomalies of tensors; for the other ones it is Malformed."""


_AGAIN = "download it again"

_SAVE_AGAIN = "nothing is left out silently: where the file was made, save it without this, or as a plain tensor"

_INSTEAD: Mapping[str, str] = {
    "empty": _AGAIN,
    "html": "download the file itself: what was saved is a page that tells of it, or of an error",
    "git-lfs-pointer": "fetch the file that it stands for: git lfs pull, or its download button",
}
"""What to do about kinds that are no model at all."""


def convertible(container: Container, *, dense: bool = False) -> StateDict:
    """The tensors of *container*, if it is of a kind to convert and nothing is wrong with them.

    *dense*: tensors of which the file holds less than their elements may be among the leftovers.

    Raises :class:`NothingToConvert`, :class:`UnknownContainer`, :class:`Truncated`, :class:`Malformed`,
    :class:`LimitExceeded`, :class:`UnsupportedDtype` or :class:`UnsupportedLayout`, each naming the file.
    """
    name = container.name
    for anomaly in container.anomalies:
        if anomaly.rule.endswith(".truncated"):
            told = f"; {anomaly.evidence}" if anomaly.evidence else ""
            raise Truncated(f"{name}: {anomaly.message}{told}", hint=_AGAIN)
    arrays = container.kind == "zip" and container.state_dict is not None
    if container.kind not in CONVERTED_KINDS and container.kind != "safetensors" and not arrays:
        hint = "unpack it, and convert what is in it" if container.kind in _WRAPPERS else _INSTEAD.get(container.kind)
        raise UnknownContainer(f"{name}: {KINDS.get(container.kind, container.kind)} is not converted", hint=hint)
    for anomaly in container.anomalies:
        if anomaly.rule in _REFUSALS:
            raise _REFUSALS[anomaly.rule](f"{name}: {anomaly.message}")
        if anomaly.rule.startswith("tensor."):
            raise Malformed(f"{name}: {anomaly.message}")
    state_dict = container.state_dict
    if state_dict is None:
        for anomaly in (odd for program in container.pickles for odd in program.trace.anomalies):
            raise (LimitExceeded if anomaly.rule == "pickle.limit" else Malformed)(f"{name}: {anomaly.message}")
        reason = container.skipped[0].reason if container.skipped else "its tensors cannot be told"
        raise Malformed(f"{name}: {reason}")
    for left in state_dict.leftovers:
        if left.unread and not (dense and can_be_dense(left)):  # leaving weights out would be a silent loss
            reason = f"tensor {left.path!r:.100} is of a kind that cannot be copied: {left.description}"
            hint = "convert --dense writes it with all its elements" if can_be_dense(left) else _SAVE_AGAIN
            raise UnsupportedLayout(f"{name}: {reason}", hint=hint)
    if not state_dict.tensors and not (dense and any(map(can_be_dense, state_dict.leftovers))):
        raise NothingToConvert(f"{name}: there is no tensor in it")
    size = container.source.size if container.source is not None else 0
    for key, tensor in state_dict.items():
        if tensor.nbytes and tensor.storage.end > size:
            missing = tensor.storage.end - size
            message = f"{name}: tensor {key!r:.100} is cut off: at least {missing} bytes are missing"
            raise Truncated(message, hint=_AGAIN)
    return state_dict


def check_tensors(tensors: Mapping[str, Assembly], name: str) -> None:
    """Refuse tensors of the output whose values cannot be had from the bytes of their files.

    Raises :class:`UnsupportedDtype`, :class:`UnsupportedLayout` or :class:`Malformed`, each naming the file and the
    tensor, and :class:`LimitExceeded` where all of them take many times the bytes of the files.
    """
    total = 0
    sizes: dict[int, int] = {}
    for key, made in tensors.items():
        for piece in made.pieces:
            _check(piece.tensor, f"{piece.source.name}: tensor {key!r:.100}")
            file = file_of(piece.source)
            sizes[id(file)] = file.size
        total += made.nbytes
    size = sum(sizes.values())
    constant, factor = MAX_GROWTH
    if total > constant + factor * size:
        raise LimitExceeded(f"{name}: its {size:,} bytes would become {total:,}, more than {factor} times as many")


def _check(tensor: TensorInfo, which: str) -> None:
    storage = tensor.storage
    if not tensor.dtype.storable:
        message = f"{which} is of type {tensor.dtype.torch_name}, which safetensors does not have"
        raise UnsupportedDtype(message, hint="--exclude NAME leaves a tensor out")
    if (tensor.neg and not can_negate(tensor.dtype)) or (tensor.conj and not tensor.dtype.is_complex):
        raise UnsupportedLayout(f"{which} of type {tensor.dtype.torch_name} is stored to be negated or conjugated")
    if tensor.numel * tensor.dtype.bits % 8 or (tensor.dtype.bits % 8 and needs_gathering(tensor)):
        raise UnsupportedLayout(f"{which} has elements of {tensor.dtype.bits} bits that fill no whole bytes")
    if tensor.offset < 0 or tensor.offset + extent(tensor) > storage.nbytes:
        raise Malformed(f"{which} reaches beyond its storage of {storage.nbytes} bytes")
