"""Where an adapter's modules lie in a base.

Adapters name modules by their dotted names with underscores for dots, which cannot be undone; so the base's own names
are flattened instead, under every layout that adapters speak of (LDM's and SGM's, diffusers', those of the authors of
transformers and ComfyUI's), and a module is looked up among them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import NamedTuple

from modelhub.convert.layouts import CHECKPOINT, UNPLACED, Shapes, View, diffusers_views, to_ldm
from modelhub.errors import ConversionError
from modelhub.merge.base import Address, Kind, Part, Shape, Target
from modelhub.merge.blocks import block_of, block_of_transformer
from modelhub.merge.components import SECOND
from modelhub.merge.transformers import AUTHORS, Placed, is_transformer, placed, tensors_of

CHECKPOINT_ROOTS: Mapping[str, tuple[str, ...]] = {
    "model.diffusion_model.": ("denoiser",),
    "diffusion_model.": ("denoiser",),
    "net.": ("denoiser",),
    "cond_stage_model.transformer.": ("text_encoder",),
    "cond_stage_model.model.": ("text_encoder",),
    "conditioner.embedders.0.transformer.": ("text_encoder",),
    "conditioner.embedders.1.model.": ("text_encoder_2",),
    "conditioner.embedders.0.model.": ("text_encoder_2",),
    "text_encoders.clip_l.transformer.": ("text_encoder",),
    "text_encoders.clip_g.transformer.": ("text_encoder_2",),
    "text_encoders.t5xxl.transformer.": ("text_encoder_3", "text_encoder_2"),
}
"""Where components begin in a checkpoint. FLUX's T5 is the second encoder to OneTrainer and diffusers, and the third
to kohya; SD 3 has it third, and another second, which goes before; others have no encoder besides."""

_UNET = "input_blocks.0.0.weight"
"""A name that a UNet has in a file of its own."""

_DIFFUSERS_BLOCK = re.compile(r"(single_)?transformer_blocks\.")
_FOLDER_COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "unet": ("denoiser",),
    "transformer": ("denoiser",),
    "transformer_2": (SECOND,),
    "text_encoder": ("text_encoder",),
    "text_encoder_2": ("text_encoder_2", "text_encoder_3"),
    "text_encoder_3": ("text_encoder_3",),
}
_DENOISERS = tuple(root for root, components in CHECKPOINT_ROOTS.items() if components == ("denoiser",))
_TRANSFORMERS = ("transformer", "transformer_2", "unet")
"""Components of a folder that other layouts may call otherwise; motion modules are a UNet's."""

_Addressing = Callable[[str], Address]
_KINDS: Mapping[str, Kind] = {"weight": "weight", "scale": "weight", "bias": "bias"}
_ALIASES = (
    (re.compile(r"(.+_to_out)_0"), (r"\1",)),
    (re.compile(r"(.+_self_attn)_([qkv])_proj"), (r"\1_to_\2",)),
    (re.compile(r"(.+_self_attn)_out_proj"), (r"\1_to_out",)),
    (re.compile(r"(double_blocks_\d+)_img_attn_(qkv|proj)"), (r"\1_\g<2>1",)),
    (re.compile(r"(double_blocks_\d+)_txt_attn_(qkv|proj)"), (r"\1_\g<2>2",)),
    (re.compile(r"(single_blocks_\d+)_linear2"), (r"\1_proj",)),
    (re.compile(r"(single_blocks_\d+)_qkv"), (r"\1_linear1_qkv",)),
    (re.compile(r"img_in"), ("img_in_proj",)),
)
"""Other names of modules: diffusers' attention processors, XLabs' (``qkv1`` is of the image, ``qkv2`` of text), what
ComfyUI makes of XLabs' ``single_blocks``, and Open Model Initiative's of FLUX's first layer."""


class NamedModule(NamedTuple):
    """A module of a base that has a weight: *path* is its name in *component* with underscores, in the layout that is
    *native* to its architecture (LDM's, SGM's, FLUX's, SD 3's), or in diffusers'."""

    component: str
    path: str
    target: Target
    native: bool


class KeyMap:
    """The modules of a base by component and flattened name."""

    def __init__(self, *, flux: bool = False) -> None:
        """*flux*: the blocks are called as users of FLUX call them."""
        self._flux = flux
        self._targets: dict[tuple[str, str, Kind], Target] = {}
        self._blocks: dict[Address, str] = {}
        self._ambiguous: set[tuple[str, Kind]] = set()
        self.modules: list[NamedModule] = []

    def find(self, component: str | None, path: str, kind: Kind) -> Target | None:
        """Where the module *path* of *component* lies; without a component it is looked for in all of them."""
        if component is None:
            found = (self.find(each, path, kind) for each in ("denoiser", "text_encoder", "text_encoder_2"))
            return next((target for target in found if target is not None), None)
        return None if self.is_ambiguous(path, kind) else self._targets.get((component, path, kind))

    def is_ambiguous(self, path: str, kind: Kind) -> bool:
        """Whether *path* is one module of the denoiser to its authors, and another to diffusers."""
        return (path, kind) in self._ambiguous

    def first(self, component: str | None, paths: Iterable[str], kind: Kind) -> Target | None:
        """Where the first of *paths* lies that :meth:`find` finds."""
        found = (self.find(component, path, kind) for path in paths)
        return next((target for target in found if target is not None), None)

    def nearest(self, component: str | None, path: str, kind: Kind) -> tuple[str, ...]:
        """Up to two of the base's modules whose names are most like *path*."""
        known = [p for c, p, k in self._targets if k == kind and component in (None, c)]
        return tuple(get_close_matches(path, known, n=2, cutoff=0.75))

    def block(self, component: str, address: Address) -> str:
        """What users call the block that the tensor at *address*, of *component*, is in; empty where it is in none."""
        if component.startswith("text_encoder"):
            return ("CLIP" if component == "text_encoder" else "T5") if self._flux else "BASE"
        return self._blocks.get(address, "")

    @property
    def blocks(self) -> frozenset[str]:
        """The blocks that the base has, as users call them."""
        return frozenset(target.block for target in self._targets.values() if target.block)

    @property
    def components(self) -> frozenset[str]:
        """The components that the base has."""
        return frozenset(component for component, _, _ in self._targets)

    def _add(
        self,
        components: tuple[str, ...],
        name: str,
        shape: Shape,
        parts: tuple[Part, ...],
        *,
        transposed: bool = False,
        native: bool = False,
    ) -> Target | None:
        stem, _, leaf = name.rpartition(".")
        kind = _KINDS.get(leaf)
        if kind is None or not stem:
            return None
        if components == ("denoiser",) and ".motion_modules." in name:
            components = ("denoiser", "motion_module")
        block = self.block(components[0], parts[0].address)
        target = Target(shape, parts, transposed, block, components)
        path = stem.replace(".", "_")
        if kind == "weight":
            self.modules.append(NamedModule(components[0], path, target, native))
        names = [path]
        for pattern, others in _ALIASES:
            if (match := pattern.fullmatch(path)) is not None:
                names += [match.expand(other) for other in others]
        if components[0].startswith("text") and path.startswith(("text_model_", "encoder_", "embeddings_", "final_")):
            # transformers 5.6 and later leave text_model out, in bases as in what is trained on them
            names += [
                n.removeprefix("text_model_") if n.startswith("text_model_") else f"text_model_{n}" for n in names
            ]
        for each in names:
            self._name(each, kind, target)
        return target

    def _forget(self, component: str, path: str, kind: Kind, parts: tuple[Part, ...]) -> None:
        """Do not call anything of the *component* *path* if that is something else than *parts* to another layout."""
        if self._targets[component, path, kind].parts != parts:
            self._ambiguous.add((path, kind))

    def _name(self, path: str, kind: Kind, target: Target) -> None:
        """Call *target* *path* too, where nothing else is called so."""
        for component in target.components:
            self._targets.setdefault((component, path, kind), target)


def keymap_of_file(shapes: Shapes, *, denoiser: bool) -> KeyMap:
    """The modules of a single file with these names and *shapes*; *denoiser*: it is a UNet or transformer, which may be
    the file of a diffusers folder's component."""
    if not denoiser or not _is_bare(shapes) or _UNET in shapes:
        return keymap_of_checkpoint(shapes)
    component = "unet" if any(name.startswith("down_blocks.") for name in shapes) else "transformer"
    if component == "transformer" and is_transformer(shapes) and not any(map(_DIFFUSERS_BLOCK.match, shapes)):
        return keymap_of_checkpoint(shapes)
    return keymap_of_folder({component: shapes}, {(component, name): "" for name in shapes})


def _is_bare(shapes: Shapes) -> bool:
    """Whether names of these tensors begin as no component's of a checkpoint do."""
    return not any(name.startswith(root) for name in shapes for root in CHECKPOINT_ROOTS)


def keymap_of_checkpoint(shapes: Shapes) -> KeyMap:
    """The modules of a single file with these names and *shapes*."""
    flux = any(name.endswith("double_blocks.0.img_attn.qkv.weight") for name in shapes)
    made = KeyMap(flux=flux)
    roots = dict(CHECKPOINT_ROOTS)
    bare = _is_bare(shapes) and (_UNET in shapes or is_transformer(shapes))
    if bare:
        roots[""] = ("denoiser",)
    if any(name.startswith("text_encoders.clip_g.") for name in shapes):
        roots["text_encoders.t5xxl.transformer."] = ("text_encoder_3",)
    elif not any(name.startswith("text_encoders.clip_l.") for name in shapes):
        roots["text_encoders.t5xxl.transformer."] = ("text_encoder_3", "text_encoder_2", "text_encoder")
    for name in shapes:
        made._blocks[Address("", name)] = block_of(name, flux=flux)
    own = [(root, name) for name in shapes for root in roots if root and name.startswith(root)]
    own = own or [("", name) for name in shapes if bare]
    for root, name in own:
        whole = (_whole(Address("", name), shapes[name]),)
        made._add(roots[root], name.removeprefix(root), shapes[name], whole, native=True)
    prefix = "model.diffusion_model." if bare else ""
    try:
        components = diffusers_views({prefix + name: shape for name, shape in shapes.items()})
    except ConversionError:
        components = {}
    for component, tensors in components.items():
        for name, (view,) in tensors.items():
            address = Address("", view.name.removeprefix(prefix))
            shape = shapes[address.tensor]
            part = Part(address, view.rows or (0, shape[0] if shape else 1), 0)
            seen = _seen(view, shape)
            made._add(
                _FOLDER_COMPONENTS.get(component, (component,))[:1], name, seen, (part,), transposed=view.transposed
            )
    begins = next((each for each in _DENOISERS if any(name.startswith(each) for name in shapes)), "")
    if bare or begins:
        inner = {name.removeprefix(begins): shape for name, shape in shapes.items() if name.startswith(begins)}
        _add_layers(made, placed(inner), inner, lambda name: Address("", begins + name), ("denoiser",))
    return made


def keymap_of_folder(components: Mapping[str, Shapes], files: Mapping[tuple[str, str], str]) -> KeyMap:
    """The modules of a diffusers folder of these *components*; *files* says which file each tensor will be in."""
    joint = not any(name.startswith("single_transformer_blocks.") for name in components.get("transformer", {}))
    flux = "transformer" in components and not joint
    made = KeyMap(flux=flux)

    def address(component: str, name: str) -> Address:
        return Address(files[component, name], name)

    ldm: Mapping[str, tuple[View, ...]] = {}
    known = {
        name: shapes
        for name, shapes in components.items()
        if name in _FOLDER_COMPONENTS and not name.startswith("transformer")
    }
    if "unet" in components:
        try:
            ldm = to_ldm(known).components[CHECKPOINT]
        except ConversionError:
            ldm = {}
    for name, views in ldm.items():
        for view in views:
            made._blocks[address(view.component, view.name)] = block_of(name)
    layers = {name: list(placed(components[name])) for name in _TRANSFORMERS if name in components}
    renamed = {
        (name, rows.stem)
        for name, placed_layers in layers.items()
        for layer in placed_layers
        if layer.layout == AUTHORS
        for rows in layer.rows
    }
    for component, shapes in components.items():
        for name, shape in shapes.items():
            where = address(component, name)
            if component == "transformer":
                made._blocks[where] = block_of_transformer(name, joint=joint)
            if component in _FOLDER_COMPONENTS:
                names = _FOLDER_COMPONENTS[component]
                names = names[:1] if "text_encoder_3" in components else names
                native = component.startswith("transformer") and (component, name.rpartition(".")[0]) not in renamed
                made._add(names, name, shape, (_whole(where, shape),), native=native)
    for name, views in ldm.items():
        root = next((root for root in CHECKPOINT_ROOTS if name.startswith(root)), None)
        if root is None or any(view.component == UNPLACED for view in views):
            continue
        parts, first = [], 0
        for view in views:
            shape = components[view.component][view.name]
            rows = shape[0] if shape else 1
            parts.append(Part(address(view.component, view.name), (0, rows), first))
            first += rows
        seen = _seen(views[0], components[views[0].component][views[0].name])
        seen = (first, *seen[1:]) if len(views) > 1 else seen
        inner = name.removeprefix(root)
        made._add(CHECKPOINT_ROOTS[root], inner, seen, tuple(parts), transposed=views[0].transposed, native=True)
    for component, found in layers.items():
        _add_layers(made, found, components[component], partial(address, component), _FOLDER_COMPONENTS[component])
    return made


def _whole(address: Address, shape: Shape) -> Part:
    return Part(address, (0, shape[0] if shape else 1), 0)


def _seen(view: View, shape: Shape) -> Shape:
    if view.rows is not None:
        shape = (view.rows[1] - view.rows[0], *shape[1:])
    if view.transposed:
        shape = shape[::-1]
    return shape if view.shape is None else view.shape


def _add_layers(
    made: KeyMap, layers: Iterable[Placed], shapes: Shapes, address: _Addressing, components: tuple[str, ...]
) -> None:
    """The *layers* of a transformer whose tensors have *shapes*, under the names that other layouts have for them."""
    for layer in layers:
        stem = layer.rows[0].stem
        for name, kind in tensors_of(stem, shapes):
            ending = name.removeprefix(stem)
            lying = [shapes.get(rows.stem + ending) or (0,) for rows in layer.rows]
            if any(rows.end > shape[0] for rows, shape in zip(layer.rows, lying, strict=True)):
                continue
            parts = tuple(Part(address(rows.stem + ending), (rows.first, rows.end), rows.at) for rows in layer.rows)
            shape = (sum(rows.end - rows.first for rows in layer.rows), *lying[0][1:])
            target = made._add(components, f"{layer.name}.{kind}", shape, parts, native=layer.layout == AUTHORS)
            if target is not None and layer.numbered:
                made._name(layer.numbered.replace(".", "_"), kind, target)
            made._forget(components[0], layer.name.replace(".", "_"), kind, parts)
