"""Which tensors of two models are the same one, whatever prefixes their files give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from modelhub.convert import Piece
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
