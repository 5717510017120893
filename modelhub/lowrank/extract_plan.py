"""Deciding which modules of a tuned model are made a LoRA of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from modelhub.container import Container, open_path
from modelhub.convert import Piece
from modelhub.errors import MergeError, UnmatchedKeys
from modelhub.identify import identify
from modelhub.lowrank.base import Difference, ExtractedModule, ExtractPlan, FactorType, RankRule
from modelhub.merge import Address, Unmatched
from modelhub.merge.bases import Base, open_base
from modelhub.merge.keymap import NamedModule
from modelhub.merge.pairing import Placed, at_odds, check_alike, placed, spoken
from modelhub.tensors import DType

_FLOATS = frozenset({DType.F16, DType.BF16, DType.F32, DType.F64})
_ONE_ENCODER = frozenset({"sd-1", "sd-2"})
_TABLES = ("token_embedding", "position_embedding", "shared", "relative_attention_bias")
"""Parts of the names of tables in text encoders, which no LoRA is made of."""

_NETWORKS = {
    **dict.fromkeys(("sd-1", "sd-2", "sdxl", "sdxl-refiner"), "networks.lora"),
    **dict.fromkeys(("flux", "chroma"), "networks.lora_flux"),
    "sd-3": "networks.lora_sd3",
}
"""What sd-scripts calls what trains LoRAs of these names in ``ss_network_module`` (``networks/lora.py``,
``networks/lora_flux.py``, ``networks/lora_sd3.py``)."""

_VERSIONS = {"sd-1": "sd_v1", "sd-2": "sd_v2", "sdxl": "sdxl_base_v1-0", "flux": "flux1"}
"""What sd-scripts calls architectures in ``ss_base_model_version`` (``library/sdxl_model_util.py``, ``model_util.py``,
``flux_utils.py``)."""


def open_extract(
    tuned_path: str,
    base_path: str,
    stack: ExitStack,
    *,
    judge: Callable[[Container], bool],
    rule: RankRule,
    dtype: FactorType,
    exact: bool = False,
    allow_unmatched: bool = False,
) -> ExtractPlan:
    """The plan of extracting what *tuned_path* has and *base_path* has not; good until *stack* is closed.

    *judge* says whether a file is safe, or raises. Raises :class:`IncompatibleArchitecture`, :class:`UnmatchedKeys` for
    modules that the tuned model lacks or has in another shape, and :class:`MergeError`.
    """
    tuned_file, base_file = (stack.enter_context(open_path(path)) for path in (tuned_path, base_path))
    safe = judge(tuned_file) and judge(base_file)
    tuned, base = (open_base(each, identify(each), stack) for each in (tuned_file, base_file))
    check_alike(base, tuned)
    here, there = placed(base), placed(tuned)
    places = {address: place for place, address in here.addresses.items()}
    modules: list[ExtractedModule] = []
    unmatched: list[Unmatched] = []
    covered: set[Address] = set()
    for name, found in _named(base):
        parts = []
        for part in found.target.parts:
            piece, other = base.pieces[part.address], there.pieces.get(places[part.address])
            reason = _unlike(piece, other)
            if reason or other is None:
                unmatched.append(Unmatched(tuned_path, part.address.tensor, reason))
                break
            parts.append(Difference(other, piece, part.rows))
            covered.add(part.address)
        else:
            modules.append(ExtractedModule(name, found.target.shape, tuple(parts), found.target.transposed))
    if unmatched and not allow_unmatched:
        first, more = unmatched[0], f" (and {len(unmatched) - 1:,} more)" if len(unmatched) > 1 else ""
        hint = "--allow-unmatched extracts the others"
        raise UnmatchedKeys(f"{tuned_path}: tensor {first.name!r:.100}: {first.reason}{more}", hint=hint)
    if not modules:
        raise MergeError(f"{tuned_path}: there is nothing in both models that a LoRA is made of")
    base.check_computable(covered)
    tuned.check_computable(there.addresses[places[address]] for address in covered)
    others = _others(here, there, covered)
    metadata = _metadata(base, rule)
    return ExtractPlan(
        tuned_path,
        base_path,
        tuple(modules),
        {address: pair for address, pair in others.items() if places[address].component != "vae"},
        {address: pair for address, pair in others.items() if places[address].component == "vae"},
        tuple(unmatched),
        rule,
        dtype,
        {"tuned": tuned.files, "base": base.files},
        metadata,
        exact=exact,
        salvaged=not safe,
        notes=tuple(_notes(here, there)),
    )


def _named(base: Base) -> Iterator[tuple[str, NamedModule]]:
    """The modules that a LoRA is made of, under the names that sd-scripts gives them, each tensor's rows once."""
    architecture = base.identity.architecture or ""
    foreign = {each.component for each in base.keymap.modules if not each.native}
    taken: set[tuple[Address, tuple[int, int]]] = set()
    for each in base.keymap.modules:
        encoder = each.component.startswith("text_encoder")
        native = each.component not in foreign if encoder else architecture not in _ONE_ENCODER
        if not (encoder or each.component == "denoiser") or each.native is not native:
            continue
        shape = each.target.shape
        if len(shape) not in (2, 4) or 0 in shape or (encoder and any(table in each.path for table in _TABLES)):
            continue
        rows = {(part.address, part.rows) for part in each.target.parts}
        if not taken & rows:
            taken |= rows
            yield _name(each, architecture), each


def _name(module: NamedModule, architecture: str) -> str:
    if module.component == "denoiser":
        return f"lora_unet_{module.path}"
    number = module.component.removeprefix("text_encoder").removeprefix("_") or "1"
    path = module.path
    if path.startswith(("encoder_layers_", "final_layer_norm")):  # transformers 5.6 and later leave text_model out
        path = f"text_model_{path}"
    return f"lora_te{'' if architecture in _ONE_ENCODER else number}_{path}"


def _unlike(piece: Piece, other: Piece | None) -> str:
    """Why *other* cannot be compared with *piece*; empty where it can."""
    if other is None:
        return "the tuned model has no such tensor"
    if other.tensor.shape != piece.tensor.shape:
        return f"it is {list(other.tensor.shape)} in the tuned model, and {list(piece.tensor.shape)} in the base"
    return ""


def _others(here: Placed, there: Placed, covered: set[Address]) -> dict[Address, tuple[Piece, Piece]]:
    """What is no module's weight and may have changed all the same: tuned and base."""
    found = {}
    for place, address in here.addresses.items():
        piece, other = here.pieces[place], there.pieces.get(place)
        if address in covered or other is None or other.tensor.shape != piece.tensor.shape:
            continue
        if place.component and {piece.tensor.dtype, other.tensor.dtype} <= _FLOATS:
            found[address] = (other, piece)
    return found


def _notes(here: Placed, there: Placed) -> Iterator[str]:
    """What the tuned model, *there*, has and the base, *here*, has not."""
    tuned, base = there.base.container.name, here.base.container.name
    for component in sorted(there.components - here.components - {""}):
        yield f"{tuned} has {spoken(component)}, which {base} has not: it is left out"
    known = here.components - {"", "vae"}
    more = [
        address.tensor
        for place, address in there.addresses.items()
        if place.component in known and place not in here.pieces and there.pieces[place].tensor.dtype in _FLOATS
    ]
    if more:
        yield f"tensors that {base} has not, which are left out: {len(more):,}, as {more[0]:.100}"
    theirs, ours = there.base.identity.prediction_type, here.base.identity.prediction_type
    if at_odds(ours, theirs):
        yield f"{tuned} predicts {theirs}, and {base} {ours}: a LoRA does not say that"


def _metadata(base: Base, rule: RankRule) -> dict[str, str]:
    """What sd-scripts' own extraction writes down, and what its readers look for."""
    architecture = base.identity.architecture or ""
    made = {
        "ss_v2": str(architecture == "sd-2"),
        "ss_sd_model_name": os.path.basename(base.container.name.rstrip(os.sep)),
    }
    if architecture in _NETWORKS:
        made["ss_network_module"] = _NETWORKS[architecture]
    if architecture in _VERSIONS:
        made["ss_base_model_version"] = _VERSIONS[architecture]
    if rule.conv_rank is not None:
        made["ss_network_args"] = json.dumps({"conv_dim": rule.conv_rank, "conv_alpha": rule.conv_rank})
    return made
