"""The model that is merged into: its tensors and their places, and the plan of writing it, whatever form it has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

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
from modelhub.merge.keymap import KeyMap, keymap_of_checkpoint, keymap_of_folder
from modelhub.source import Source
from modelhub.tensors import DType

_STALE = frozenset({"modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash"})
"""Metadata that says what the weights' bytes are: of other weights it is not true."""


_COMPUTABLE = frozenset({DType.F16, DType.BF16, DType.F32, DType.F64, DType.F8_E4M3, DType.F8_E5M2})
_SCALES = (".scale_weight", ".weight_scale", ".weight_scale_inv")


@dataclass(frozen=True, slots=True)
class Base:
    """An open base: its tensors, each a piece, by where they will be, its metadata, and the map of its modules.

    ``groups`` are the weights of a folder (:class:`~modelhub.convert.folder_files.Shards`' paths) by output file,
    ``files`` the sources of the weights by their relative names.
    """

    container: Container
    identity: Identity
    pieces: Mapping[Address, Piece]
    metadata: Mapping[str, str]
    keymap: KeyMap
    groups: Mapping[str, str]
    files: Mapping[str, Source]
    _draft: Draft | None
    _beside: FolderFiles

    def check_computable(self, addresses: Iterable[Address]) -> None:
        """Raise :class:`MergeError` where the numbers of one of the tensors at *addresses* cannot be computed with."""
        for address in addresses:
            tensor = self.pieces[address].tensor
            name = f"{self.container.name}: tensor {address.tensor!r:.100}"
            if tensor.dtype not in _COMPUTABLE:
                raise MergeError(f"{name} is of type {tensor.dtype.label}, which nothing is merged into")
            if tensor.dtype.bits == 8:
                stem = address.tensor.rpartition(".")[0]
                if any(Address(address.file, stem + each) in self.pieces for each in _SCALES):
                    hint = "dequantise the base first"
                    raise MergeError(
                        f"{name} is quantised with a scale of its own, which is not merged into", hint=hint
                    )

    def plan(self, precision: Precision, changed: Iterable[Address], metadata: Mapping[str, str]) -> ConversionPlan:
        """How it is written with the tensors *changed* in the type that *precision* asks for, and more *metadata*."""
        options = NO_OPTIONS
        if precision.dtype != "keep":
            options = ConversionOptions(dtypes=(dtype_rule(precision.dtype),))
        if self._draft is None:
            groups = frozenset(self.groups[address.file] for address in changed)
            return plan_folder(self.container, options, metadata, self._beside, groups)
        draft = cast(self._draft, options.dtypes, part_of_kind(self.identity.kind)) if options.dtypes else self._draft
        kept = {key: value for key, value in self.metadata.items() if key not in _STALE}
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
        raise MergeError(f"{container.name}: a {identity.kind} is no base to merge into")
    metadata, _ = output_metadata(state_dict)
    pieces = {Address("", name): _only(made.pieces) for name, made in draft.tensors.items()}
    keymap = keymap_of_checkpoint({name: made.shape for name, made in draft.tensors.items()})
    files = {os.path.basename(container.name): container.source}
    return Base(container, identity, pieces, metadata, keymap, {}, files, draft, FolderFiles())


def _folder(container: Container, identity: Identity, stack: ExitStack) -> Base:
    groups, _ = weight_groups(container)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    where: dict[tuple[str, str], str] = {}
    pieces: dict[Address, Piece] = {}
    of_file: dict[str, str] = {}
    files: dict[str, Source] = {}
    agreed: dict[str, str] = {}
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
            for name, made in draft.tensors.items():
                shapes[component][name] = made.shape
                where[component, name] = path
                pieces[Address(path, name)] = _only(made.pieces)
    if not shapes.keys() & {"unet", "transformer", "text_encoder", "text_encoder_2"}:
        raise MergeError(f"{container.name}: there is no model in it that adapters are made for")
    keymap = keymap_of_folder(shapes, where)
    beside = open_beside(container, stack)
    return Base(container, identity, pieces, agreed, keymap, of_file, files, None, beside)


def _only(pieces: tuple[Piece, ...]) -> Piece:
    (piece,) = pieces
    return piece
