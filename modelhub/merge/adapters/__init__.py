"""The algorithms: one module each, with its formula, its tensors and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from modelhub.errors import MergeError
from modelhub.merge.adapters.base import Additive, Shape, Tensors, Update
from modelhub.merge.adapters.dora import Dora
from modelhub.merge.adapters.full import Difference, Replacement
from modelhub.merge.adapters.glora import Glora
from modelhub.merge.adapters.ia3 import Ia3
from modelhub.merge.adapters.loha import Loha
from modelhub.merge.adapters.lokr import Lokr
from modelhub.merge.adapters.lora import Lora
from modelhub.merge.adapters.oft import Oft
from modelhub.merge.adapters.peft_boft import PeftBoft
from modelhub.merge.adapters.peft_hra import PeftHra
from modelhub.merge.adapters.peft_oft import OldPeftOft, PeftOft

__all__ = ["ALGORITHMS", "Additive", "Update", "make_update"]

ALGORITHMS: Mapping[str, Callable[..., Update]] = {
    "lora": Lora,
    "loha": Loha,
    "lokr": Lokr,
    "full": Difference,
    "set": Replacement,
    "ia3": Ia3,
    "oft": Oft,
    "glora": Glora,
    "boft": PeftBoft,
    "hra": PeftHra,
    "peft-oft": PeftOft,
    "old-peft-oft": OldPeftOft,
}
"""Algorithm to what makes an update of a module's tensors by role, its alpha, the weight's shape, and what else the
algorithm has to know, by name."""


def make_update(
    algorithm: str,
    tensors: Tensors,
    alpha: float | None,
    shape: Shape,
    magnitudes: Tensor | None = None,
    *,
    peft: bool = False,
    settings: Mapping[str, float] | None = None,
) -> Update:
    """The update that a module makes of a weight of *shape*; with *magnitudes* (``dora_scale``) a DoRA.

    *settings* are what an adapter's configuration says, see :class:`modelhub.merge.base.AdapterModule`.

    Raises :class:`MergeError` where its tensors do not fit the weight, or each other.
    """
    try:
        update = ALGORITHMS[algorithm](tensors, alpha, shape, **(settings or {}))
    except (RuntimeError, KeyError, IndexError, TypeError) as error:  # torch's word for shapes that do not go together
        raise MergeError(f"its tensors do not make a {algorithm} module: {str(error).splitlines()[0]:.200}") from error
    if magnitudes is None:
        return update
    if not isinstance(update, Additive):
        raise MergeError(f"a {algorithm} module with magnitudes (DoRA) is not defined")
    return Dora(update, magnitudes, shape, peft=peft)
