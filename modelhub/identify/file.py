"""One file's tensors: every recogniser in turn, then what metadata and element types add.

Training code leaves what it wraps a model in before its names (``pipe.dit.``, ``generator_ema.``, ``net_g.``). Where
no recogniser knows the names, and all of them begin with the same part, they are asked again without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from modelhub.identify.base import Evidence, Identity
from modelhub.identify.claims import weigh_claims
from modelhub.identify.names import Names
from modelhub.identify.precision import precision_of
from modelhub.identify.probe import Probe
from modelhub.identify.side_file import Told
from modelhub.identify.structure import identify_structure
from modelhub.tensors import StateDict

_MOST_WRAPPERS = 3
"""Parts that all names begin with, at most, that are left out."""

_BESIDE = frozenset({"checkpoint", "vae", "text-encoder"})
_DENOISER = "model.diffusion_model."
_DENOISERS = frozenset({"unet", "transformer"})
"""What a file is taken for by its other components alone, what a denoiser's names begin with there, and its names."""


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
            or _in_part(names, state_dict, probe, beside)
            or Identity()
        )
    elif identity.kind in _BESIDE and _DENOISER in names.prefixes and _DENOISERS.isdisjoint(identity.components):
        identity = _with_part_of_denoiser(identity, names)
    stated = state_dict.scalars.get("general.architecture")  # GGUF keeps it among its values
    claims = {"general.architecture": stated, **state_dict.metadata} if isinstance(stated, str) else state_dict.metadata
    identity = weigh_claims(identity, claims)
    if precision := precision_of(state_dict, names.ends):
        identity = replace(identity, precision=precision.value, evidence=(*identity.evidence, precision))
    return identity


def _in_part(names: Names, state_dict: StateDict, probe: Probe, beside: Told | None) -> Identity | None:
    """What the tensors are below the parts that all their names begin with, else of which model they are a part."""
    if not names.tensors:
        return None
    from modelhub.identify.partial import identify_partial

    levels = [names]
    for inner in _below_what_all_begin_with(state_dict, names):
        levels.append(Names(inner))
        if (identity := identify_structure(levels[-1], inner, probe, beside)) is not None:
            return identity
    return next(filter(None, map(identify_partial, levels)), None)


def _below_what_all_begin_with(state_dict: StateDict, names: Names) -> Iterator[StateDict]:
    """*state_dict* without one, two and three of the parts that all *names* begin with."""
    tensors = names.tensors
    for _ in range(_MOST_WRAPPERS):
        first = next(iter(tensors))
        wrapper = first[: first.find(".") + 1]
        if not wrapper or not all(name.startswith(wrapper) for name in tensors):
            return
        tensors = {name[len(wrapper) :]: tensor for name, tensor in tensors.items()}
        yield replace(state_dict, tensors=tensors, leftovers=())


def _with_part_of_denoiser(identity: Identity, names: Names) -> Identity:
    """*identity* of a checkpoint's other components, with what is there of its denoiser where that lacks its ends."""
    from modelhub.identify.partial import identify_partial

    inner = {name: tensor for name, tensor in names.tensors.items() if name.startswith(_DENOISER)}
    part = identify_partial(Names(StateDict(inner)))
    if part is None:
        return identity
    kind = Evidence("kind", "checkpoint", "structure", "a part of a diffusion model with what it needs", "medium")
    return replace(
        identity,
        kind="checkpoint",
        architecture=part.architecture,
        variant=part.variant,
        evidence=(kind, *(each for each in (*part.evidence, *identity.evidence) if each.fact != "kind")),
        candidates=part.candidates,
    )
