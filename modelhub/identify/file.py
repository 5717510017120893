"""One file's tensors: every recogniser in turn, then what metadata and element types add.

Training code leaves what it wraps a model in before its names (``pipe.dit.``, ``generator_ema.``, ``net_g.``). Where
no recogniser knows the names, and all of them begin with the same part, they are asked again without it.
"""

from __future__ import annotations

from dataclasses import replace

from modelhub.identify.base import Identity
from modelhub.identify.claims import weigh_claims
from modelhub.identify.names import Names
from modelhub.identify.precision import precision_of
from modelhub.identify.probe import Probe
from modelhub.identify.side_file import Told
from modelhub.identify.structure import identify_structure
from modelhub.tensors import StateDict

_MOST_WRAPPERS = 3
"""Parts that all names begin with, at most, that are left out."""


def identify_state_dict(state_dict: StateDict, probe: Probe | None = None, beside: Told | None = None) -> Identity:
    """Which model the tensors of *state_dict* are. Never raises for content.

    *probe* is asked for single numbers (a LoRA's alphas) and one bias of an SD 2 UNet only. Without it those stay
    unknown, unless the tensors carry their own bytes. *beside* is what a configuration beside the file says.
    """
    probe = probe or Probe()
    names = Names(state_dict)
    identity = identify_structure(names, state_dict, probe, beside)
    if identity is None:
        from modelhub.identify.adapters import identify_adapter
        from modelhub.identify.embeddings import identify_embedding, identify_hypernetwork

        identity = (
            identify_adapter(names, state_dict, probe)
            or identify_hypernetwork(names, state_dict)
            or identify_embedding(names)
            or _part(names)
            or _without_what_all_begin_with(names, state_dict, probe, beside)
            or Identity()
        )
    stated = state_dict.scalars.get("general.architecture")  # GGUF keeps it among its values
    claims = {"general.architecture": stated, **state_dict.metadata} if isinstance(stated, str) else state_dict.metadata
    identity = weigh_claims(identity, claims)
    if precision := precision_of(state_dict, names.ends):
        identity = replace(identity, precision=precision.value, evidence=(*identity.evidence, precision))
    return identity


def _without_what_all_begin_with(
    names: Names, state_dict: StateDict, probe: Probe, beside: Told | None
) -> Identity | None:
    """What the tensors are below the parts that all their names begin with; ``None`` where there is no such part."""
    tensors = names.tensors
    for _ in range(_MOST_WRAPPERS):
        first = next(iter(tensors), "")
        wrapper = first[: first.find(".") + 1]
        if not wrapper or not all(name.startswith(wrapper) for name in tensors):
            return None
        tensors = {name[len(wrapper) :]: tensor for name, tensor in tensors.items()}
        inner = replace(state_dict, tensors=tensors, leftovers=())
        bare = Names(inner)
        if (identity := identify_structure(bare, inner, probe, beside) or _part(bare)) is not None:
            return identity
    return None


def _part(names: Names) -> Identity | None:
    if not names.tensors:
        return None
    from modelhub.identify.partial import identify_partial

    return identify_partial(names)
