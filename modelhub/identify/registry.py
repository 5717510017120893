"""What is known of model families: data, read from ``signatures/*.toml``.

A signature file describes one sort of component::

    component = "vae"                       # what Identity.components calls it
    kind = "vae"                            # what a file holding nothing else is
    roots = ["first_stage_model.", ""]      # where its names may begin; "text_encoders.*." matches any one part
    doubted_by = ["/lm_head.weight"]        # optional: beside one of these, what is not surely told is but a candidate

    [[signature]]                           # the first that fits below a root decides
    has = ["decoder.conv_in.weight"]        # all of these names are there
    lacks = ["quantize."]                   # and none of these
    shape."decoder.conv_in.weight" = ["*", 16, "..."]   # "*" any size, [a, b] one of them, "..." any more
    architecture = "flux"                   # or candidates = [...] when this much cannot decide
    because = "16 latent channels"          # the words of its evidence

    [[variant]]                             # the first that fits where a signature of this file did
    of = ["sd-1", "sd-2"]                   # optional: only of these architectures
    variant = "inpaint"
    shape."input_blocks.0.0.weight|conv_in.weight" = ["*", 9, "..."]

An entry of ``has``, ``lacks`` or ``shape`` is a name below the root, or several with ``|`` between (any of them will
do); one that ends in ``.`` or ``*`` is the beginning of names, one that begins with ``/`` leaves the root out.
``kind``, ``component``, ``variant``, ``prediction_type`` and ``confidence`` may stand in a signature too.
"""

from __future__ import annotations

import os.path
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from modelhub.identify.base import Evidence
from modelhub.identify.names import Names
from modelhub.tensors import TensorInfo

_FOLDER = os.path.join(os.path.dirname(__file__), "signatures")
FAMILIES: Mapping[str, frozenset[str]] = {
    "control": frozenset(),
    "unet": frozenset(),
    "transformer": frozenset({"unet"}),
    "vae": frozenset(),
    "text_encoder": frozenset(),
    "extra": frozenset(),
    "upscaler": frozenset({"control", "unet", "transformer", "vae", "text_encoder", "extra"}),
}
"""Signature files in the order asked, and after a find in which others each need not be asked (or even read).

A model's kind is that of its first component in this order that has one.
"""

Size = int | frozenset[int] | None
"""One dimension of a shape rule: exactly this, one of these, or any."""


@dataclass(frozen=True, slots=True)
class ShapeRule:
    """The sizes that a tensor (the first found of ``names``) must have; ``open_ended`` allows further dimensions."""

    names: tuple[str, ...]
    sizes: tuple[Size, ...]
    open_ended: bool

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether *shape* has the sizes asked for."""
        if len(shape) < len(self.sizes) or (len(shape) > len(self.sizes) and not self.open_ended):
            return False
        return all(
            rule is None or (size in rule if isinstance(rule, frozenset) else size == rule)
            for rule, size in zip(self.sizes, shape, strict=False)
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What made a signature fit: the deciding name, its tensor when its shape had a say, or that it is absent."""

    name: str
    tensor: TensorInfo | None = None
    absent: bool = False

    def evidence(self, fact: str, value: str, because: str, confidence: str = "high") -> Evidence:
        """The evidence that *fact* is *value*, in words."""
        name = self.name + "*" if self.name.endswith(".") else self.name
        if self.tensor is not None:
            by, detail = "shape", f"{name} is {list(self.tensor.shape)}"
        else:
            by, detail = "key", f"there is no {name}" if self.absent else f"there is {name}"
        return Evidence(fact, value, by, f"{detail}: {because}" if because else detail, confidence)


@dataclass(frozen=True, slots=True)
class Signature:
    """Conditions on names and shapes, and what follows when all of them hold (see the module's docstring)."""

    has: tuple[tuple[str, ...], ...] = ()
    lacks: tuple[str, ...] = ()
    shape: tuple[ShapeRule, ...] = ()
    of: tuple[str, ...] = ()
    kind: str | None = None
    component: str | None = None
    architecture: str | None = None
    candidates: tuple[str, ...] = ()
    variant: str | None = None
    prediction_type: str | None = None
    because: str = ""
    confidence: str = "high"

    @property
    def needed(self) -> tuple[str, ...]:
        """Entries of which there must be one; ``"*"``, which every name fits, where none is asked for."""
        return self.has[0] if self.has else self.shape[0].names if self.shape else ("*",)

    def match(self, names: Names, root: str) -> Seen | None:
        """What made it fit below *root*, or ``None``."""
        seen: Seen | None = None
        for alternatives in self.has:
            for each in alternatives:
                if found := names.find(root, each):
                    break
            else:
                return None
            seen = seen or Seen(found)
        for rule in self.shape:
            found = next((name for each in rule.names if (name := names.find(root, each))), None)
            tensor = names.tensors.get(found) if found else None
            if found is None or tensor is None or not rule.fits(names.shape(found)):
                return None
            if seen is None or seen.tensor is None:
                seen = Seen(found, tensor)
        if any(names.find(root, each) for each in self.lacks):
            return None
        return seen or Seen(root + self.lacks[0], absent=True)


@dataclass(frozen=True, slots=True)
class Family:
    """The signatures and variants of one sort of component.

    Of ``names`` and ``beginnings`` there must be one, below a root, where a signature is to fit there.
    """

    component: str
    kind: str | None
    roots: tuple[str, ...]
    doubted_by: tuple[str, ...]
    signatures: tuple[Signature, ...]
    variants: tuple[Signature, ...]
    names: tuple[str, ...]
    beginnings: tuple[str, ...]

    def may_fit(self, names: Names, root: str) -> bool:
        """Whether a signature may fit below *root*; for most files that hold no such component the answer is no."""
        if not names.tensors.keys().isdisjoint(map(root.__add__, self.names) if root else self.names):
            return True
        return any(names.find(root, each) for each in self.beginnings)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What is known of an architecture as a whole.

    ``claimed_as`` are the beginnings, without case and punctuation, of what metadata call it; ``prediction_type`` is
    what its models predict when nothing says otherwise, ``confidence`` and ``because`` how sure that is and why;
    ``undecided`` are the types between which nothing decides then.
    """

    name: str
    claimed_as: tuple[str, ...] = ()
    pipelines: tuple[str, ...] = ()
    prediction_type: str | None = None
    undecided: tuple[str, ...] = ()
    confidence: str = "medium"
    because: str = ""


@cache
def family(name: str) -> Family:
    """The family that ``signatures/<name>.toml`` describes."""
    table = read_table(name)
    signatures = tuple(_signature(each) for each in table["signature"])
    needed = dict.fromkeys(entry for each in signatures for entry in each.needed)
    return Family(
        component=table["component"],
        kind=table.get("kind"),
        roots=tuple(table["roots"]),
        doubted_by=tuple(table.get("doubted_by", ())),
        signatures=signatures,
        variants=tuple(_signature(each) for each in table.get("variant", ())),
        names=tuple(entry for entry in needed if entry.strip("./*") == entry),
        beginnings=tuple(entry for entry in needed if entry.strip("./*") != entry),
    )


@cache
def architectures() -> Mapping[str, Architecture]:
    """Every architecture by name, in the order in which candidates are listed."""
    tables = read_table("architectures")["architecture"]
    return {table["name"]: Architecture(**_frozen(table)) for table in tables}


def in_order(names: set[str] | frozenset[str] | tuple[str, ...]) -> tuple[str, ...]:
    """*names* of architectures, sorted as :func:`architectures` lists them."""
    order = {name: position for position, name in enumerate(architectures())}
    return tuple(sorted(names, key=lambda name: (order.get(name, len(order)), name)))


def read_table(name: str) -> dict[str, Any]:
    """``signatures/<name>.toml`` as it stands."""
    with open(os.path.join(_FOLDER, name + ".toml"), "rb") as file:
        return tomllib.load(file)


def _signature(table: dict[str, Any]) -> Signature:
    fields = _frozen(table)
    fields["has"] = tuple(tuple(entry.split("|")) for entry in table.get("has", ()))
    fields["lacks"] = tuple(name for entry in table.get("lacks", ()) for name in entry.split("|"))
    fields["shape"] = tuple(_shape_rule(key, sizes) for key, sizes in table.get("shape", {}).items())
    return Signature(**fields)


def _shape_rule(key: str, sizes: list[Any]) -> ShapeRule:
    open_ended = sizes[-1] == "..."
    exact = sizes[:-1] if open_ended else sizes
    return ShapeRule(
        tuple(key.split("|")),
        tuple(None if size == "*" else frozenset(size) if isinstance(size, list) else size for size in exact),
        open_ended,
    )


def _frozen(table: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
