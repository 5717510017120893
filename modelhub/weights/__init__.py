"""The weights of a file as arrays, without loading the file: what stands in for ``torch.load``.

The file is judged first, and what is not safe is refused. Then each storage's bytes are read from where they lie into
the memory that its arrays will have, and the arrays are made over that memory as the file describes them: same element
types, shapes and strides, and tensors that share bytes in the file share them in memory. Nothing is unpickled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from modelhub.container.sniff import KINDS
from modelhub.convert.gather import extent
from modelhub.errors import (
    Malformed,
    MissingExtra,
    Truncated,
    UnknownContainer,
    UnsafeModelError,
    UnsupportedDtype,
    UnsupportedLayout,
)
from modelhub.tensors import TensorInfo
from modelhub.verbs import Target, _opened
from modelhub.weights.reading import Maker, read_arrays

if TYPE_CHECKING:
    import numpy as np
    import torch

    from modelhub.container import Container
    from modelhub.scan import Policy, ScanReport

__all__ = ["load_state_dict"]

_KINDS = frozenset(
    {"safetensors", "torch-zip", "torch-legacy", "torch-tar", "torchscript", "pickle", "numpy", "zip", "gguf"}
)


@overload
def load_state_dict(
    target: Target, *, framework: Literal["np"], salvage: bool = ..., policy: Policy | None = ...
) -> dict[str, np.ndarray[Any, Any]]: ...
@overload
def load_state_dict(
    target: Target, *, framework: Literal["pt"], salvage: bool = ..., policy: Policy | None = ...
) -> dict[str, torch.Tensor]: ...
@overload
def load_state_dict(
    target: Target, *, framework: None = ..., salvage: bool = ..., policy: Policy | None = ...
) -> dict[str, Any]: ...
def load_state_dict(
    target: Target,
    *,
    framework: Literal["np", "pt"] | None = None,
    salvage: bool = False,
    policy: Policy | None = None,
) -> dict[str, Any]:
    """The tensors of the checkpoint or safetensors file *target* by name, in the file's order, in memory of the CPU.

    *target* is a path, a binary file object (from its present position on) or an open container.
    *framework* is ``"pt"`` for torch tensors, ``"np"`` for numpy arrays, ``None`` for torch where it is installed and
    numpy otherwise. *salvage* also gives the tensors of a file whose verdict is not SAFE, which is as safe: only
    bytes of tensors are read.

    Names are those that ``modelhub inspect --tensors`` lists: a wrapper such as ``state_dict`` is taken off, and
    nested dicts are joined by dots. Parameters come as plain tensors. Values beside the tensors are not among them;
    :attr:`modelhub.Inspection.metadata` has those.

    numpy has no bfloat16, no floats of 8 or 4 bits and no complex of 32: these are widened to float32 (complex64),
    which keeps every value exactly. Conjugated or negated views are numpy arrays of their own.

    Raises :class:`UnsafeModelError` for a file that is not safe, :class:`MissingExtra` where the framework is not
    installed, :class:`UnsupportedDtype` and :class:`UnsupportedLayout` for tensors that it cannot hold or that are not
    read (a state dict that lacks some of its weights would be worse than none), :class:`Truncated`,
    :class:`Malformed`, :class:`UnknownContainer`, :class:`LimitExceeded`, or a :class:`~modelhub.errors.SourceError`.
    """
    from modelhub.scan import Verdict, scan

    maker = _maker(framework)
    with _opened(target) as container:
        report = scan(container, policy)
        if report.verdict > Verdict.UNKNOWN and not salvage:
            raise _refusal(report)
        tensors = _tensors(container, maker)
        if report.verdict is not Verdict.SAFE and not salvage:
            raise _refusal(report)
        assert container.source is not None  # a folder's tensors are refused
        arrays = read_arrays(tensors, container.source, maker)
        check = getattr(container.source, "check_unchanged", None)
        if check is not None:
            check()
        return arrays


def _maker(framework: str | None) -> Maker:
    if framework not in (None, "np", "pt"):
        raise ValueError(f"framework must be 'np', 'pt' or None, not {framework!r}")
    if framework != "np":
        try:
            from modelhub.weights.torch_arrays import TorchMaker

            return TorchMaker()
        except ImportError:
            if framework == "pt":
                raise MissingExtra("torch", "torch") from None
    try:
        from modelhub.weights.numpy_arrays import NumPyMaker

        return NumPyMaker()
    except ImportError:
        raise MissingExtra("numpy" if framework else "neither torch nor numpy", "torch") from None


def _refusal(report: ScanReport) -> UnsafeModelError:
    reasons = [finding.message for finding in report.findings if finding.severity.verdict is report.verdict]
    reasons += [skip.reason for skip in report.coverage.skipped]
    return UnsafeModelError(
        f"{report.path}: not loaded, because it is {report.verdict.label}: {reasons[0]}",
        report,
        hint="salvage=True reads only its tensors' bytes, which is safe to do",
    )


def _tensors(container: Container, maker: Maker) -> tuple[TensorInfo, ...]:
    """Every tensor of *container*, if all of them are there to be read and *maker* has arrays for them."""
    name, source = container.name, container.source
    if source is None:
        raise UnknownContainer(f"{name}: a folder is not loaded as a whole; name one of its files")
    for anomaly in container.anomalies:
        if anomaly.rule.endswith(".truncated"):
            raise Truncated(f"{name}: {anomaly.message}" + (f"; {anomaly.evidence}" if anomaly.evidence else ""))
    if container.kind not in _KINDS or (container.kind == "zip" and container.state_dict is None):
        raise UnknownContainer(f"{name}: {KINDS.get(container.kind, container.kind)} is not read for its tensors")
    for anomaly in container.anomalies:
        if anomaly.rule == "tensor.dtype":
            raise UnsupportedDtype(f"{name}: {anomaly.message}")
        if anomaly.rule.startswith("tensor.") and anomaly.rule != "tensor.expansion":  # a view takes no memory
            raise Malformed(f"{name}: {anomaly.message}")
    if container.state_dict is None:
        reason = container.skipped[0].reason if container.skipped else "its tensors cannot be told"
        raise Malformed(f"{name}: {reason}")
    for left in container.state_dict.leftovers:
        if left.unread:
            reason = f"tensor {left.path!r:.100} is of a kind that is not read: {left.description}"
            raise UnsupportedLayout(f"{name}: {reason}")
    for tensor in container.state_dict.values():
        which, storage = f"{name}: tensor {tensor.name!r:.100}", tensor.storage
        if not maker.holds(tensor):
            raise UnsupportedDtype(f"{which} is of type {tensor.dtype.label}, which {maker.framework} does not have")
        if tensor.nbytes and not 0 <= tensor.offset <= storage.nbytes - extent(tensor):
            raise Malformed(f"{which} reaches beyond its storage of {storage.nbytes} bytes")
        if tensor.nbytes and storage.end > source.size:
            missing = storage.end - source.size
            raise Truncated(f"{which} is cut off: at least {missing} bytes are missing")
    return tuple(container.state_dict.values())
