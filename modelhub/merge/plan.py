"""Deciding, before a byte is written, what every module of every adapter will change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import prod

from modelhub.container import Container, open_path
from modelhub.convert.names import SALVAGED_KEY
from modelhub.errors import IncompatibleArchitecture, MergeError, UnmatchedKeys
from modelhub.identify import Identity, identify
from modelhub.identify.base import RARER
from modelhub.merge.base import (
    AdapterModule,
    AdapterUse,
    Address,
    Change,
    MergePlan,
    PlannedAdapter,
    Recipe,
    RecipeAdapter,
    Target,
    Unmatched,
)
from modelhub.merge.bases import Base, open_base
from modelhub.merge.components import SECOND
from modelhub.merge.digesting import Digesting
from modelhub.merge.fitting import Taken, misfit
from modelhub.merge.lineage import placeholder, with_older
from modelhub.merge.modules import adapter_modules
from modelhub.merge.pairing import at_odds
from modelhub.merge.peft import adapter_file
from modelhub.merge.recipe import RECIPE_KEY, merged_digests, written_recipe
from modelhub.merge.weights import strength_of, without_use

Judge = Callable[[Container], bool]

_SHOWN = 5
_MANY = 16
"""Modules of an adapter, at least, of which what identification tells is believed where all of them fit."""

_ORDERED = frozenset({"oft", "peft-oft", "old-peft-oft", "boft", "hra", "glora", "ia3", "set"})
"""Algorithms whose change depends on the weight that they find."""


def open_merge(
    recipe: Recipe,
    stack: ExitStack,
    *,
    judge: Judge,
    digesting: Digesting,
    ahead: bool = False,
    allow_unmatched: bool = False,
    again: bool = False,
    matched: Callable[[], object] = lambda: None,
) -> MergePlan:
    """The plan of *recipe*: its adapters, in their order, merged into its base; good until *stack* is closed.

    *judge* says whether a file is safe, or raises. *digesting* computes the digests of the adapters, and *ahead* of
    their being asked for those of the base's files too. With *allow_unmatched*, modules that have no place or the wrong
    shape are left out and listed; with *again*, an adapter that the base was merged with before may be merged once
    more. *matched* is called once all modules have their places: what is left is waiting for the adapters' digests.

    Raises :class:`UnmatchedKeys` or :class:`IncompatibleArchitecture` for modules without a place,
    :class:`MergeError` for what cannot be merged, and what opening, judging and converting the files raises.
    """
    how, base_path = recipe.precision, recipe.base
    container = stack.enter_context(open_path(base_path))
    opened = [stack.enter_context(open_path(adapter_file(each.use.path))) for each in recipe.adapters]
    safe = judge(container)
    for each in opened:
        safe = judge(each) and safe
        if each.source is not None:
            digesting.begin(each.source)
    base = open_base(container, identify(container), stack)
    for source in base.files.values() if ahead else ():
        digesting.begin(source)
    before = merged_digests(base.metadata)
    adapters: list[PlannedAdapter] = []
    changes: dict[Address, list[Change]] = {}
    unmatched: list[Unmatched] = []
    for number, (wanted, adapter) in enumerate(zip(recipe.adapters, opened, strict=True)):
        use = wanted.use
        planned, missing = _adapter(number, use, adapter, base, changes)
        if wanted.sha256 is not None and wanted.sha256 != digesting.of(planned.source):
            raise MergeError(f"{use.path}: it is not the adapter of the recipe, whose SHA-256 is {wanted.sha256}")
        if not allow_unmatched and (missing or planned.foreign):
            raise _refusal(use.path, planned, missing, base)
        if not planned.matched and not planned.skipped:
            raise UnmatchedKeys(f"{use.path}: none of its modules has a place in {base_path}")
        adapters.append(planned)
        unmatched += missing
    base.check_computable(changes)
    matched()
    adapters = [replace(planned, sha256=digesting.of(planned.source)) for planned in adapters]
    for planned in adapters:
        if planned.sha256 in before and not again:
            hint = "--again merges it once more"
            raise MergeError(f"{base_path}: it was merged with {planned.use.path} before", hint=hint)
    files = [(name, source) for name, source in base.files.items()]
    pending = tuple((source, placeholder(number)) for number, (_, source) in enumerate(files))
    told = Recipe(
        base_path,
        tuple(RecipeAdapter(each.use, each.sha256) for each in adapters),
        how,
        {name: mark for (name, _), (_, mark) in zip(files, pending, strict=True)},
    )
    added = with_older(base.metadata, RECIPE_KEY, written_recipe(told))
    if not safe:
        added[SALVAGED_KEY] = "true"
    conversion = base.plan(how, changes, added)
    return MergePlan(
        base_path,
        conversion,
        tuple(adapters),
        {address: tuple(each) for address, each in changes.items()},
        tuple(unmatched),
        told,
        pending,
        how,
        (*_notes(adapters, changes, base), *base.told_of_eight_bits(how, changes)),
        base.rescaled(how, changes),
    )


def _adapter(
    number: int,
    use: AdapterUse,
    container: Container,
    base: Base,
    changes: dict[Address, list[Change]],
) -> tuple[PlannedAdapter, list[Unmatched]]:
    """Add what the adapter in *container* changes to *changes*; also what of it has no place."""
    if container.source is None:
        raise MergeError(f"{use.path}: a folder is no adapter", hint="name the file in it")
    found = adapter_modules(container)
    if not found.modules and not found.refused:
        raise MergeError(f"{use.path}: it is no LoRA or relative of one")
    missing = [*found.refused, *(_told(each, base) for each in found.left)]
    matched: set[str] = set()
    skipped: set[str] = set()
    denoising = placeless = 0
    taken = Taken()
    algorithms: Counter[str] = Counter()
    for module in found.modules:
        target = base.keymap.first(module.component, module.paths, module.kind)
        if target is None and module.optional:
            continue
        if target is None:
            placeless += 1
            near = base.keymap.nearest(module.component, module.paths[-1], module.kind) if len(missing) < _SHOWN else ()
            missing.append(Unmatched(use.path, module.name, _why_not(module, base), near))
            continue
        reason = misfit(module, target)
        if reason is not None:
            placeless += 1
            base.check_computable(part.address for part in target.parts)  # packed weights have other shapes
            missing.append(Unmatched(use.path, module.name, reason))
            continue
        reason = taken.take(module.name, target)
        if reason is not None:
            missing.append(Unmatched(use.path, module.name, reason))
            continue
        denoising += target.components[0] in ("denoiser", SECOND)
        applied = _changes(number, use, module, target)
        (matched if applied else skipped).add(module.name)
        algorithms[f"{module.algorithm}{' (DoRA)' if module.magnitudes is not None else ''}"] += not module.optional
        for address, change in applied:
            changes.setdefault(address, []).append(change)
    identity = identify(container)
    architecture = identity.architecture or " or ".join(identity.candidates) or None
    planned = PlannedAdapter(
        use,
        container.source,
        architecture,
        dict(algorithms),
        len(matched),
        len(skipped),
        (*found.notes, *_unlike(identity, base.identity)),
        _is_for_another(identity, base.identity.architecture, fits=denoising > placeless),
    )
    return planned, missing


def _unlike(adapter: Identity, base: Identity) -> Iterable[str]:
    """What the *adapter* says of the model that it was trained on, and the *base* is not."""
    theirs, ours = adapter.prediction_type, base.prediction_type
    if at_odds(ours, theirs):
        yield f"it was trained to predict {theirs}, and the base predicts {ours}: what comes of that seldom works"


def _changes(number: int, use: AdapterUse, module: AdapterModule, target: Target) -> list[tuple[Address, Change]]:
    """The changes of *module*, one for each part of *target*; none where the strength is 0."""
    made = []
    components = target.components if module.component is None else (module.component, *target.components)
    components = (*components, "denoiser") if SECOND in components else components
    for part in target.parts:
        strength = module.factor * strength_of(use.weights, components, target.block, part.address.tensor)
        if strength:
            change = Change(number, module, strength, target.shape, part.rows, part.first, target.transposed)
            made.append((part.address, change))
    return made


def _told(left: Unmatched, base: Base) -> Unmatched:
    """*left*, a tensor of no module; of one that the base has too it is said what it is."""
    names = {Address("", f"{root}{left.name}") for root in ("", "model.diffusion_model.")}
    if names.isdisjoint(base.pieces):
        return left
    reason = "it stands for a whole tensor of the base, as in FLUX's control LoRAs, which is not merged"
    return replace(left, reason=reason)


def _why_not(module: AdapterModule, base: Base) -> str:
    if module.foreign:
        return f"it is of {module.foreign!r:.60}, which is no component of a base"
    if module.component == SECOND and SECOND not in base.keymap.components:
        return "it is for the second of two transformers, and the base has one"
    if module.component is not None and module.component not in base.keymap.components:
        word = module.component.replace("_", " ")
        return f"the base has no {word}"
    if any(base.keymap.is_ambiguous(path, module.kind) for path in module.paths):
        return "it is one module under the names of the model's authors, and another under diffusers'"
    kind = "" if module.kind == "weight" else f" with a {module.kind}"
    packed = f", and is quantised ({base.packing})" if base.packing else ""
    return f"the base has no such module{kind}{packed}"


def _is_for_another(adapter: Identity, base: str | None, *, fits: bool) -> bool:
    """Whether an *adapter* is for none of the architectures that the *base* is, as far as both are known; *fits*: most
    of its modules have places in the base's denoiser.

    That others have places there says nothing: many models have the same text encoders. Where most fit it is still for
    another if it has many, of which something better than their names alone rules the base out (a whole LoRA of
    FLUX.1's attention fits into HunyuanVideo, which has the same and some blocks more), but not if the base is a rarer
    model that has all of them.
    """
    theirs = (adapter.architecture,) if adapter.architecture else adapter.candidates
    if not theirs or base is None or base in theirs:
        return False
    steps = [step for step in adapter.evidence if step.fact == "architecture"]
    rarer = any(step.detail == RARER and base in step.value.split(" | ") for step in steps)
    sure = any(step.confidence != "low" and base not in step.value.split(" | ") for step in steps) and not rarer
    return not fits or (sure and adapter.adapter is not None and adapter.adapter.modules >= _MANY)


def _refusal(path: str, planned: PlannedAdapter, missing: Sequence[Unmatched], base: Base) -> MergeError:
    if planned.foreign:
        lost = f": {len(missing):,} of its modules have no place there, as {missing[0].name}" if missing else ""
        return IncompatibleArchitecture(
            f"{path}: it is an adapter for {planned.architecture}, and the base is {base.identity.architecture}{lost}",
            hint="--allow-unmatched merges what fits all the same",
        )
    first = missing[0]
    near = f"; nearest: {', '.join(first.nearest)}" if first.nearest else ""
    more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
    return UnmatchedKeys(
        f"{path}: {first.name}: {first.reason}{near}{more}",
        hint="--dry-run --allow-unmatched lists them; --allow-unmatched merges the others",
    )


def _notes(adapters: Sequence[PlannedAdapter], changes: dict[Address, list[Change]], base: Base) -> Iterable[str]:
    ordered = {c.module.algorithm for each in changes.values() for c in each if len(each) > 1 and _depends(c.module)}
    if ordered:
        told = ", ".join(sorted(ordered))
        yield f"the order of the adapters matters ({told} depend on the weights they find): it is the one given"
    if any(change.module.magnitudes is not None for each in changes.values() for change in each):
        yield "the strength s of a DoRA is that of W + s (D - W), so that 0 is the base"
    if any(_turns_patches(change) for each in changes.values() for change in each):
        yield "PEFT's OFT of convolutions is merged as PEFT merges it, which is not what PEFT computes without merging"
    if SECOND in base.keymap.components and not any(address.file.startswith("transformer_2/") for address in changes):
        yield "the base's second transformer stays as it is: no adapter says that it is for it (transformer_2.)"
    if any(address.tensor.startswith("model_ema.") for address in base.pieces):
        yield "the base's averaged weights (EMA) are not merged into; convert --ema drop takes them out"
    for each in adapters:
        yield from (f"{each.use.path}: {note}" for note in each.notes)
        if each.skipped:
            yield f"{each.use.path}: modules at strength 0, which change nothing: {each.skipped:,}"
        tensors = [address.tensor for address in base.pieces]
        if nowhere := without_use(each.use.weights, tensors, base.keymap.blocks, base.keymap.components):
            yield f"{each.use.path}: weights of what the base has not: {', '.join(nowhere):.200}"


def _turns_patches(change: Change) -> bool:
    """Whether it is an OFT of PEFT from 0.16 on of a convolution with a kernel. Unmerged, PEFT turns the patches of the
    input and adds up what overlaps (``OFTRotationModule.forward``), which no kernel of that size does."""
    return "triangles" in change.module.tensors and prod(change.shape[2:]) > 1


def _depends(module: AdapterModule) -> bool:
    return module.algorithm in _ORDERED or module.magnitudes is not None
