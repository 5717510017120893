"""From the calls that make tensors, whatever they are called, to tensors.

Source of the signatures: torch 2.13 ``torch/_utils.py`` and ``torch/_tensor.py`` (``_rebuild_*``).
"""

from __future__ import annotations

from collections.abc import Mapping

from modelhub.pickles.arrays import array_of, makes_array
from modelhub.pickles.composite import composite_of, makes_composite
from modelhub.pickles.elements import REBUILDS, Surroundings, plain_tensor
from modelhub.pickles.values import Call, Global, Value
from modelhub.tensors import TensorInfo

_TYPED = frozenset({"_rebuild_from_type", "_rebuild_from_type_v2"})
_WRAPPERS = frozenset({"_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter", "Buffer"})
_MODULES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(REBUILDS | _WRAPPERS, ("torch._utils",)),
    **dict.fromkeys(_TYPED, ("torch._tensor", "torch.tensor")),
    **dict.fromkeys(("Parameter", "Buffer"), ("torch.nn.parameter",)),
}


def rebuilds_tensor(call: Call) -> str | None:
    """The name of torch's function that *call* calls, if it makes a tensor of a storage or wraps one."""
    callee = call.callee
    if (
        type(callee) is Global
        and callee.module in _MODULES.get(callee.name, ())
        and call.opcode in ("REDUCE", "NEWOBJ")
    ):
        return callee.name
    return None


def is_tensor(value: Value) -> bool:
    """Whether *value* is a tensor or an array, of a sort that is read or not."""
    return type(value) is Call and (
        rebuilds_tensor(value) is not None or makes_array(value) is not None or makes_composite(value) is not None
    )


def tensor_of(name: str, call: Call, around: Surroundings) -> TensorInfo | None:
    """The tensor that *call* would make, ``None`` when it cannot be told.

    Raises :class:`~modelhub.pickles.elements.BadTensor` when its numbers do not fit its storage,
    :class:`~modelhub.pickles.elements.Composite` when it is not made of the elements of one storage.
    """
    for _ in range(4):
        function, args = rebuilds_tensor(call), call.args
        if function is None:
            return array_of(name, call, around) if makes_array(call) else composite_of(name, call, around)
        if type(args) is not tuple:
            return None
        if function in REBUILDS:
            return plain_tensor(name, function, args, around)
        if function in _TYPED:
            if len(args) != 4 or type(args[0]) is not Global:
                return None
            call = Call(args[0], args[2], None, call.offset, "REDUCE")
        elif args and type(args[0]) is Call:
            call = args[0]
        else:
            given = around.given(args[0]) if args else None
            return None if given is None else given._replace(name=name)
    return None
