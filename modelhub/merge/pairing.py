"""Which tensors of two models are the same one, whatever prefixes their files give them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from modelhub.convert import Piece
from modelhub.errors import IncompatibleArchitecture, MergeError
from modelhub.merge.base import Address
from modelhub.merge.bases import Base
from modelhub.merge.keymap import CHECKPOINT_ROOTS

_VAE_ROOTS = ("first_stage_model.", "vae.")
_EMA_ROOT = "model_ema."
_FOLDER_PARTS = {
    "unet": "denoiser",
    "transformer": "denoiser",
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
    "text_encoder_3": "text_encoder_3",
    "vae": "vae",
}
_BOTH_LAYOUTS = frozenset({"sd-1", "sd-2", "sdxl", "sdxl-refiner"})
"""What ``convert --layout`` makes folders and checkpoints of."""

_BARE_KINDS = {"vae": "vae", "text-encoder": "text_encoder"}


class Place(NamedTuple):
    """A tensor by what it is: its component (empty: of none that is blended), and its name there."""

    component: str
    name: str


@dataclass(frozen=True, slots=True)
class Placed:
    """The tensors of a model by what they are."""

    base: Base
    pieces: Mapping[Place, Piece]
    addresses: Mapping[Place, Address]

    @property
    def components(self) -> frozenset[str]:
        """The components that there are tensors of."""
        return frozenset(place.component for place in self.pieces)


def at_odds(ours: str | None, theirs: str | None) -> bool:
    """Whether two models of these prediction types predict for certain something else, as far as both are known."""
    return bool(ours and theirs and set(theirs.split(" | ")).isdisjoint(ours.split(" | ")))


def check_alike(ours: Base, theirs: Base) -> None:
    """Raise :class:`IncompatibleArchitecture` for models of two architectures, and :class:`MergeError` for a checkpoint
    and a folder, whose tensors are others."""
    ours_name, theirs_name = ours.container.name, theirs.container.name
    one, other = ours.identity.architecture, theirs.identity.architecture
    if one and other and one != other:
        raise IncompatibleArchitecture(f"{theirs_name}: it is {other}, and {ours_name} is {one}")
    is_folder = ours.container.source is None
    if is_folder is (theirs.container.source is None):
        return
    hint = "name both as files, or both as folders"
    if (one or other) in _BOTH_LAYOUTS:
        layout, made = ("diffusers", "a folder") if is_folder else ("ldm", "a checkpoint")
        hint = f"modelhub convert {shlex.quote(theirs_name)} --layout {layout} -o ... makes {made} of it"
    is_what = "a folder and the other is a file" if is_folder else "a file and the other is a folder"
    raise MergeError(f"{theirs_name}: one model ({ours_name}) is {is_what}", hint=hint)


def spoken(component: str) -> str:
    """What people call a *component*."""
    return "VAE" if component == "vae" else component.replace("_", " ")


def placed(base: Base) -> Placed:
    """The tensors of *base* by their places."""
    folder = base.container.source is None
    bare = not folder and not any(_root(address.tensor) for address in base.pieces)
    whole = _BARE_KINDS.get(base.identity.kind or "", "denoiser") if bare else ""
    found: dict[Place, Address] = {}
    for address in base.pieces:
        if address.tensor in base.scaled.beside:
            place = Place("", address.tensor)
        elif folder:
            place = _in(_FOLDER_PARTS.get(address.file.partition("/")[0], ""), address.tensor)
        else:
            place = _in_checkpoint(address.tensor, whole)
        found.setdefault(place, address)
    return Placed(base, {place: base.pieces[address] for place, address in found.items()}, found)


def _root(name: str) -> str:
    roots = (*CHECKPOINT_ROOTS, *_VAE_ROOTS, _EMA_ROOT)
    return next((root for root in roots if name.startswith(root)), "")


def _in_checkpoint(name: str, whole: str) -> Place:
    root = _root(name)
    if root in CHECKPOINT_ROOTS:
        return _in(CHECKPOINT_ROOTS[root][0], name.removeprefix(root))
    if root in _VAE_ROOTS:
        return Place("vae", name.removeprefix(root))
    return _in(whole if not root else "", name)


def _in(component: str, name: str) -> Place:
    if component.startswith("text_encoder"):
        name = name.removeprefix(
            "text_model."
        )  # which the first checkpoints, and transformers 5.6 and later, leave out
    return Place(component, name)
