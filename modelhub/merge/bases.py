"""The model that is merged into: its tensors and their places, and the plan of writing it, whatever form it has."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from modelhub.container import Container
from modelhub.convert import ConversionOptions, ConversionPlan, Piece
from modelhub.convert.arrange import arranged
from modelhub.convert.base import Draft
from modelhub.convert.casting import cast
from modelhub.convert.components import part_of_kind
from modelhub.convert.convertible import convertible
from modelhub.convert.folder_files import FolderFiles, drafts_of, open_beside, weight_groups
from modelhub.convert.folder_plan import plan_folder
from modelhub.convert.names import named_tensors, output_metadata
from modelhub.convert.options import NO_OPTIONS, dtype_rule
from modelhub.errors import MergeError
from modelhub.identify import Identity
from modelhub.merge.base import Address, Precision
from modelhub.merge.keymap import KeyMap, keymap_of_file, keymap_of_folder
from modelhub.merge.scaled import NO_SCALES, ScaledWeights, numbers_of, plain, scaled_weights, without_layers
from modelhub.source import Source
from modelhub.tensors import DType

_STALE = frozenset({"modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash"})
"""Metadata that says what the weights' bytes are: of other weights it is not true."""


_DENOISERS = frozenset({"diffusion-model", "motion-module"})
"""Kinds of files that are a denoiser, or a part of one, and nothing else."""

_COMPUTABLE = frozenset({DType.F16, DType.BF16, DType.F32, DType.F64, DType.F8_E4M3, DType.F8_E5M2})

_PACKED = frozenset({"nf4", "fp4", "svdquant", "torchao", "bnb-int8", "gptq", "sdnq", "quanto"})
"""Precisions, as identification calls them, of weights that are packed into tensors of other shapes or names."""


@dataclass(frozen=True, slots=True)
class Base:
    """An open base: its tensors, each a piece, by where they will be, its metadata, and the map of its modules.

    ``groups`` are the weights of a folder (:class:`~modelhub.convert.folder_files.Shards`' paths) by output file,
    ``files`` the sources of the weights by their relative names. Weights of eight bits that have scales, ``scaled``,
    are among the pieces as the numbers that they stand for; why others cannot be read is in ``refused``.
    """

    container: Container
    identity: Identity
    pieces: Mapping[Address, Piece]
    metadata: Mapping[str, str]
    keymap: KeyMap
    groups: Mapping[str, str]
    files: Mapping[str, Source]
    scaled: ScaledWeights
    refused: Mapping[Address, str]
    _draft: Draft | None
    _beside: FolderFiles

    @property
    def packing(self) -> str:
        """How its weights are packed, so that they are no tensors of their own; empty where they are not."""
        precision = self.identity.precision or ""
        return precision if precision in _PACKED else ""

    def check_computable(self, addresses: Iterable[Address]) -> None:
        """Raise :class:`MergeError` where the numbers of one of the tensors at *addresses* cannot be computed with."""
        for address in addresses:
            tensor = self.pieces[address].tensor
            if (reason := self.refused.get(address)) is not None:
                hint = "take the model that it was quantised from"
                raise MergeError(
                    f"{self.container.name}: tensor {address.tensor!r:.100} is {reason}, which is not computed with",
                    hint=hint,
                )
            if tensor.dtype not in _COMPUTABLE:
                packed = f" ({self.packing})" if self.packing else ""
                raise MergeError(
                    f"{self.container.name}: tensor {address.tensor!r:.100} is of type {tensor.dtype.label}{packed}, "
                    "which nothing is merged into"
                )

    def rescaled(self, precision: Precision, changed: Iterable[Address]) -> Mapping[Address, Address]:
        """The scales of the tensors *changed* that are written as codes again, and the tensors they belong to."""
        if precision.dtype != "keep":
            return {}
        found = ((address, self.scaled.scales.get(address.tensor)) for address in changed)
        return {Address(address.file, scale): address for address, scale in found if scale is not None}

    def told_of_eight_bits(self, precision: Precision, changed: Collection[Address]) -> Iterator[str]:
        """Sentences on what rounding to types of eight bits does to the tensors *changed*."""
        if precision.dtype != "keep":
            return
        if scaled := len(self.rescaled(precision, changed)):
            yield (
                f"weights of eight bits with scales: {scaled:,}; they are rounded to codes again, which loses small "
                "changes; a scale that they outgrow is doubled"
            )
        types = {self.pieces[address].tensor.dtype for address in changed}
        if narrow := sorted(dtype.label for dtype in types if dtype.bits == 8):
            yield f"weights are rounded to {', '.join(narrow)} without a scale, which loses small changes"

    def plan(self, precision: Precision, changed: Iterable[Address], metadata: Mapping[str, str]) -> ConversionPlan:
        """How it is written with the tensors *changed* in the type that *precision* asks for, and more *metadata*."""
        options = NO_OPTIONS
        if precision.dtype != "keep":
            options = ConversionOptions(dtypes=(dtype_rule(precision.dtype),))
        if self._draft is None:
            groups = frozenset(self.groups[address.file] for address in changed)
            return plan_folder(self.container, options, metadata, self._beside, groups)
        kept = {key: value for key, value in self.metadata.items() if key not in _STALE}
        draft = self._draft
        if options.dtypes:
            for tensor, reason in self.scaled.refused.items():
                which = f"{self.container.name}: tensor {tensor!r:.100}"
                raise MergeError(f"{which} is {reason}, which is not cast", hint="leave out --dtype")
            draft = cast(plain(draft, self.scaled), options.dtypes, part_of_kind(self.identity.kind))
            kept = without_layers(kept, self.scaled.known)
        else:
            numbers = {a.tensor: (self.pieces[a],) for a in changed if a.tensor in self.scaled.known}
            draft = draft.changed(
                {name: replace(made, pieces=numbers.get(name, made.pieces)) for name, made in draft.tensors.items()}
            )
        return arranged(self.container.name, {"": draft}, kept | dict(metadata), NO_OPTIONS)


def open_base(container: Container, identity: Identity, stack: ExitStack) -> Base:
    """The base in *container*, good until *stack* is closed.

    Raises :class:`MergeError` for what nothing can be merged into, and what reading it as a conversion's source raises.
    """
    if container.source is None:
        return _folder(container, identity, stack)
    state_dict = convertible(container)
    draft, *others = named_tensors(state_dict, container.source, identity.kind).values()
    if others or identity.kind in ("lora", "embedding", "hypernetwork"):
        raise MergeError(f"{container.name}: it is no model, but of the kind {identity.kind}")
    metadata, _ = output_metadata(state_dict)
    pieces = {Address("", name): _only(made.pieces) for name, made in draft.tensors.items()}
    scaled = scaled_weights(draft.tensors, metadata)
    pieces |= {Address("", name): numbers_of(name, each) for name, each in scaled.known.items()}
    refused = {Address("", name): reason for name, reason in scaled.refused.items()}
    shapes = {name: made.shape for name, made in draft.tensors.items()}
    keymap = keymap_of_file(shapes, denoiser=identity.kind in _DENOISERS)
    files = {os.path.basename(container.name): container.source}
    return Base(container, identity, pieces, metadata, keymap, {}, files, scaled, refused, draft, FolderFiles())


def _folder(container: Container, identity: Identity, stack: ExitStack) -> Base:
    groups, _ = weight_groups(container)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    where: dict[tuple[str, str], str] = {}
    pieces: dict[Address, Piece] = {}
    of_file: dict[str, str] = {}
    files: dict[str, Source] = {}
    agreed: dict[str, str] = {}
    refused: dict[Address, str] = {}
    for shards in groups:
        component = shards.path.partition("/")[0]
        if component in shapes:
            raise MergeError(f"{container.name}: {component} is there in several variants", hint="leave one of them")
        shapes[component] = {}
        drafts, metadata, _ = drafts_of(container, shards)
        agreed |= metadata
        for file in shards.files:
            source = container.parts[file].source
            assert source is not None
            files[file] = source
        for path, draft in drafts.items():
            of_file[path] = shards.path
            quantised = scaled_weights(draft.tensors, metadata)
            refused |= {Address(path, name): reason for name, reason in quantised.refused.items()}
            refused |= {Address(path, name): "quantised, in a folder" for name in quantised.known}
            for name, made in draft.tensors.items():
                shapes[component][name] = made.shape
                where[component, name] = path
                pieces[Address(path, name)] = _only(made.pieces)
    if not shapes.keys() & {"unet", "transformer", "text_encoder", "text_encoder_2"}:
        hint = "name the folder of the whole model, or the file in it"
        raise MergeError(f"{container.name}: there is no model in it that adapters are made for", hint=hint)
    keymap = keymap_of_folder(shapes, where)
    beside = open_beside(container, stack)
    return Base(container, identity, pieces, agreed, keymap, of_file, files, NO_SCALES, refused, None, beside)


def _only(pieces: tuple[Piece, ...]) -> Piece:
    (piece,) = pieces
    return piece
