"""Deciding, before a byte is written, what of each model goes into which tensor of a blend."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from modelhub.blend.base import TAKES, Blended, BlendPlan, BlendRecipe
from modelhub.blend.ratios import WORDS, edge_block, ratio_of
from modelhub.blend.recipe import BLEND_KEY, written_blend
from modelhub.container import Container, open_path
from modelhub.convert import SALVAGED_KEY, Piece
from modelhub.errors import IncompatibleArchitecture, MergeError, UnmatchedKeys
from modelhub.identify import identify
from modelhub.merge import RECIPE_KEY, Address, Unmatched, Weights
from modelhub.merge.bases import Base, open_base
from modelhub.merge.lineage import numbered, placeholder, said, with_older
from modelhub.merge.pairing import Place, Placed, at_odds, check_alike, placed, spoken
from modelhub.merge.weights import without_use
from modelhub.source import Source
from modelhub.tensors import DType, TensorInfo

Judge = Callable[[Container], bool]

_FLOATS = frozenset({DType.F16, DType.BF16, DType.F32, DType.F64, DType.F8_E4M3, DType.F8_E5M2})
_CONV_IN = frozenset({"input_blocks.0.0.weight", "conv_in.weight"})
_LATENTS = 4
"""Input channels of the first convolution of a model that does nothing but denoise. What inpainting (9), pix2pix (8)
and depth (5) models have behind them is theirs alone; A1111's and supermerger's rule."""


def open_blend(recipe: BlendRecipe, stack: ExitStack, *, judge: Judge, allow_unmatched: bool = False) -> BlendPlan:
    """The plan of *recipe*; good until *stack* is closed. *judge* says whether a file is safe, or raises.

    With *allow_unmatched*, tensors that not all models have stay as A has them, and are listed.

    Raises :class:`IncompatibleArchitecture`, :class:`UnmatchedKeys`, :class:`MergeError` for what cannot be blended,
    and what opening, judging and converting the files raises.
    """
    if len(recipe.models) not in TAKES[recipe.method]:
        wanted = " or ".join(map(str, TAKES[recipe.method]))
        raise MergeError(f"{recipe.method} blends {wanted} models, not {len(recipe.models)}")
    if not recipe.uses_beta and recipe.beta != Weights(0.0):
        raise MergeError(f"{recipe.method} of {len(recipe.models)} models has no beta", hint="leave out beta")
    containers = [stack.enter_context(open_path(path)) for path in recipe.models]
    safe = all(list(map(judge, containers)))  # each is judged, and an unsafe one raises
    models = [placed(open_base(each, identify(each), stack)) for each in containers]
    first = models[0].base
    for other in models[1:]:
        check_alike(first, other.base)
    changes: dict[Address, Blended] = {}
    unmatched: list[Unmatched] = []
    blocks = first.keymap.blocks
    for place, piece in models[0].pieces.items():
        if not _is_blended(place, piece.tensor):
            continue
        others = _others(place, piece.tensor, models[1:], unmatched)
        if others is not None:
            made = _blended(recipe, first, place, models[0].addresses[place], others, blocks=blocks)
            if made is not None:
                changes[models[0].addresses[place]] = made
    unmatched += _left_out(models)
    if unmatched and not allow_unmatched:
        raise _refusal(unmatched)
    if not changes:
        raise MergeError(f"{recipe.models[0]}: nothing would change: no ratio is other than 0, or nothing is shared")
    _check_computable(models, changes)
    digests, pending = _pending([each.base for each in models])
    told = replace(recipe, digests=digests)
    added = _lineage([each.base.metadata for each in models], written_blend(told))
    if not safe:
        added[SALVAGED_KEY] = "true"
    return BlendPlan(
        first.plan(recipe.precision, changes, added),
        changes,
        told,
        pending,
        tuple(unmatched),
        (*_notes(models, changes, recipe), *first.told_of_eight_bits(recipe.precision, changes)),
        first.rescaled(recipe.precision, changes),
    )


def _lineage(metadata: Sequence[Mapping[str, str]], text: str) -> dict[str, str]:
    """What is added to the first of *metadata*, A's: the recipe *text*, and the recipes that the others came from."""
    first, *others = metadata
    added = with_older(first, BLEND_KEY, text)
    for key in (BLEND_KEY, RECIPE_KEY):
        added |= numbered({**first, **added}, key, [each for other in others for each in said(other, key)])
    return added


def _is_blended(place: Place, tensor: TensorInfo) -> bool:
    return bool(place.component) and tensor.dtype in _FLOATS and bool(tensor.shape)


def _others(
    place: Place, tensor: TensorInfo, others: Sequence[Placed], unmatched: list[Unmatched]
) -> tuple[Piece, ...] | None:
    """The tensor of each of the *others*; ``None`` where one has it not, which is told unless all of it lacks there."""
    found: list[Piece] = []
    for other in others:
        name = other.base.container.name
        piece = other.pieces.get(place)
        if piece is None:
            if place.component in other.components:
                unmatched.append(Unmatched(name, place.name, "it has no such tensor, and A has"))
            return None
        shape = piece.tensor.shape
        if not _is_blended(place, piece.tensor):
            unmatched.append(Unmatched(name, place.name, f"it is of type {piece.tensor.dtype.label} there"))
            return None
        if shape != tensor.shape and not _has_latents_in_common(place, tensor.shape, shape, name):
            unmatched.append(Unmatched(name, place.name, f"it is {list(shape)} there, and {list(tensor.shape)} in A"))
            return None
        found.append(piece)
    return tuple(found)


def _has_latents_in_common(place: Place, ours: tuple[int, ...], theirs: tuple[int, ...], name: str) -> bool:
    """Whether both are first convolutions that differ in what lies behind the latents' channels."""
    if place.name not in _CONV_IN or len(ours) != 4 or ours[:1] + ours[2:] != theirs[:1] + theirs[2:]:
        return False
    if theirs[1] > ours[1]:
        hint = "make it A: blend IN OTHER ..."
        raise IncompatibleArchitecture(
            f"{name}: its first convolution has {theirs[1]} input channels and A's has {ours[1]}: "
            "an inpainting model or its like must be A",
            hint=hint,
        )
    return theirs[1] == _LATENTS


def _blended(
    recipe: BlendRecipe,
    base: Base,
    place: Place,
    address: Address,
    others: tuple[Piece, ...],
    *,
    blocks: Collection[str],
) -> Blended | None:
    """How the tensor at *address* changes, of a *base* with these *blocks*; ``None`` where it does not."""
    block = base.keymap.block(place.component, address)
    if not block and place.component == "denoiser":
        block = edge_block(place.name, blocks)
    alpha, beta = (ratio_of(each, place.component, block, address.tensor) for each in (recipe.alpha, recipe.beta))
    if not alpha and not (beta and recipe.uses_beta):
        return None
    columns = None
    if any(piece.tensor.shape != base.pieces[address].tensor.shape for piece in others):  # see _has_latents_in_common
        columns = min(piece.tensor.shape[1] for piece in others)
    return Blended(others, alpha, beta, columns)


def _left_out(models: Sequence[Placed]) -> Iterator[Unmatched]:
    """What the others have and A has not, of components that A has."""
    for other in models[1:]:
        for place, piece in other.pieces.items():
            lacks = place not in models[0].pieces and place.component in models[0].components
            if lacks and _is_blended(place, piece.tensor):
                yield Unmatched(other.base.container.name, place.name, "A has no such tensor")


def _refusal(unmatched: Sequence[Unmatched]) -> MergeError:
    first = unmatched[0]
    more = f" (and {len(unmatched) - 1:,} more)" if len(unmatched) > 1 else ""
    return UnmatchedKeys(
        f"{first.adapter}: tensor {first.name!r:.100}: {first.reason}{more}",
        hint="--allow-unmatched keeps what A has in their places; with --dry-run it lists them",
    )


def _check_computable(models: Sequence[Placed], changes: dict[Address, Blended]) -> None:
    blended = [place for place, address in models[0].addresses.items() if address in changes]
    for each in models:
        each.base.check_computable(each.addresses[place] for place in blended)


def _pending(bases: Sequence[Base]) -> tuple[tuple[dict[str, str], ...], tuple[tuple[Source, str], ...]]:
    """What stands for the digest of each model's files, by name and by file."""
    digests: list[dict[str, str]] = []
    pending: list[tuple[Source, str]] = []
    for base in bases:
        marks = {}
        for name, source in base.files.items():
            marks[name] = placeholder(len(pending))
            pending.append((source, marks[name]))
        digests.append(marks)
    return tuple(digests), tuple(pending)


def _notes(models: Sequence[Placed], changes: dict[Address, Blended], recipe: BlendRecipe) -> Iterator[str]:
    first = models[0].base
    tensors = [address.tensor for address in first.pieces]
    for word, ratios in (("alpha", recipe.alpha), ("beta", recipe.beta)):
        if nowhere := without_use(ratios, tensors, first.keymap.blocks, models[0].components, WORDS):
            yield f"{word} of what A has not: {', '.join(nowhere):.200}"
    for other in models[1:]:
        name = other.base.container.name
        for component in sorted(models[0].components - other.components - {""}):
            yield f"{name} has no {spoken(component)}: A's stays as it is"
        for component in sorted(other.components - models[0].components - {""}):
            yield f"{name} has {spoken(component)}, which A has not: it is left out"
        if at_odds(first.identity.prediction_type, theirs := other.base.identity.prediction_type):
            ours = first.identity.prediction_type
            yield f"{name} predicts {theirs}, and A {ours}: what is blended of such models seldom works"
    if any(address.tensor.startswith("model_ema.") for address in first.pieces):
        yield "A's averaged weights (EMA) are not blended; convert --ema drop takes them out"
    for address, change in changes.items():
        if change.columns is not None:
            yield f"of {address.tensor} only the first {change.columns} input channels are blended, as B has no others"
