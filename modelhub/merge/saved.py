"""Whole tensors that PEFT saves beside an adapter: modules that were trained as they are, and biases.

``modules_to_save`` are ends of the names of modules, whose tensors replace the base's; where ``bias`` is ``all`` or of
the algorithm alone (``lora_only``), biases do. Source: PEFT ``utils/other.py`` (``_set_trainable``),
``utils/save_and_load.py`` (``get_peft_model_state_dict``).
"""

from __future__ import annotations

from collections.abc import Callable

from modelhub.convert import Piece
from modelhub.identify.adapter_names import read_stem
from modelhub.merge.base import AdapterModule, Kind
from modelhub.merge.components import component_of
from modelhub.merge.peft import PEFT_ROOT, Configuration
from modelhub.tensors import TensorInfo

_KINDS: dict[str, Kind] = {"weight": "weight", "bias": "bias"}


def saved_module(
    tensor: TensorInfo, configuration: Configuration, piece: Callable[[TensorInfo, str], Piece]
) -> AdapterModule | None:
    """The replacement that *tensor*, which is of no module of the adapter, is by its *configuration*; ``None``: none.

    Raises what *piece* raises.
    """
    stem, _, leaf = tensor.name.rpartition(".")
    kind = _KINDS.get(leaf)
    if kind is None or not tensor.name.startswith(PEFT_ROOT):
        return None
    stem = stem.removesuffix(".base_layer")
    if not configuration.is_saved(stem.removeprefix(PEFT_ROOT), kind):
        return None
    prefix, _ = read_stem(stem)
    path = stem.removeprefix(PEFT_ROOT)
    if prefix is not None and not prefix.keep:
        path = path.removeprefix(prefix.begins)
    return AdapterModule(
        stem, component_of(prefix), (path.replace(".", "_"),), kind, "set", {"set": piece(tensor, "set")}
    )
