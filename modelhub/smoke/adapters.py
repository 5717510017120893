"""What an adapter does to a base, told without torch: which weights a LoRA changes, which encoders an embedding has
vectors for, which networks a hypernetwork is."""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelhub.container import Container
from modelhub.identify.base import Identity
from modelhub.merge.base import AdapterModule, Target
from modelhub.merge.fitting import Taken, misfit
from modelhub.merge.keymap import KeyMap, keymap_of_folder
from modelhub.merge.modules import adapter_modules
from modelhub.smoke.parts import NotTestable, Parts, Shapes
from modelhub.smoke.spec import AdapterSpec, Layer, Networks, TensorView, WeightChange
from modelhub.tensors import StateDict

ADAPTERS = frozenset({"lora", "embedding", "hypernetwork"})
"""Kinds that are put on a base."""

_TOKENS = "text_model.embeddings.token_embedding.weight"
_ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
"""Text encoders by the names of an embedding's vectors, as ComfyUI and sd-scripts write them."""

_STEP = re.compile(r"(\d{3,4})\.([01])\.linear\.?(\d+)\.(weight|bias)")
_ACTIVATIONS = frozenset({"linear", "relu", "leakyrelu", "elu", "swish", "tanh", "sigmoid"})
"""Those that AUTOMATIC1111's ``hypernetwork.py`` gives names of its own, the others being torch's classes."""

_TORCH_ACTIVATIONS = frozenset(
    """celu gelu hardshrink hardsigmoid hardswish hardtanh logsigmoid mish relu6 selu silu softplus softshrink softsign
    tanhshrink""".split()
)


def adapter_of(container: Container, identity: Identity, base: Parts) -> AdapterSpec:
    """What the adapter in *container* does to *base*; its file comes after the base's.

    Raises :class:`NotTestable` for one that is not understood, or of which nothing has a place in the base.
    """
    state_dict, file = container.state_dict, len(base.files)
    if container.source is None or state_dict is None:
        raise NotTestable("its tensors cannot be told")
    match identity.kind:
        case "lora":
            return _lora(container, base.shapes, file)
        case "embedding":
            return _embedding(state_dict, base.shapes, file)
        case _:
            return _hypernetwork(state_dict, base.shapes, file)


def _lora(container: Container, shapes: Shapes, file: int) -> AdapterSpec:
    places = {(component, name): component for component, named in shapes.items() for name in named}
    keymap = keymap_of_folder(shapes, places)
    found = adapter_modules(container)
    unmatched = [(each.name, each.reason) for each in found.unmatched]
    changes: list[WeightChange] = []
    taken = Taken()
    for module in found.modules:
        target = keymap.first(module.component, module.paths, module.kind)
        if target is None and module.optional:
            continue
        if target is None:
            reason: str | None = _why_not(module, keymap)
        else:
            reason = misfit(module, target) or taken.take(module.name, target)
        if target is None or reason is not None:
            unmatched.append((module.name, str(reason)))
        else:
            changes += _changes(module, target, file)
    if not changes:
        name, reason = unmatched[0] if unmatched else ("it", "there is nothing in it")
        raise NotTestable(f"none of its modules has a place in the base: {name!r:.100}: {reason}")
    return AdapterSpec(changes=tuple(changes), unmatched=tuple(unmatched))


def _why_not(module: AdapterModule, keymap: KeyMap) -> str:
    if module.component is not None and module.component not in keymap.components:
        return f"the base has no {module.component.replace('_', ' ')}"
    return "the base has no such module"


def _changes(module: AdapterModule, target: Target, file: int) -> Iterator[WeightChange]:
    for part in target.parts:
        yield WeightChange(
            module.name,
            part.address.file,
            part.address.tensor,
            part.rows,
            part.first,
            target.shape,
            target.transposed,
            module.algorithm,
            {role: TensorView(file, piece.tensor.name) for role, piece in module.tensors.items()},
            module.alpha,
            None if module.magnitudes is None else TensorView(file, module.magnitudes.tensor.name),
            module.peft,
            module.factor,
            module.settings,
        )


def _embedding(state_dict: StateDict, shapes: Shapes, file: int) -> AdapterSpec:
    """The vectors for each text encoder: by name, or by width where they have no name that says it."""
    widths = {name: named[_TOKENS][1] for name, named in shapes.items() if _TOKENS in named}
    vectors: dict[str, TensorView] = {}
    unmatched: list[tuple[str, str]] = []
    for name, tensor in state_dict.items():
        fitting = [each for each, width in widths.items() if tensor.shape[-1:] == (width,)]
        encoder = _ENCODERS.get(name) or next(iter(fitting), None)
        if encoder not in fitting:
            unmatched.append((name, f"the base has no text encoder for vectors {tensor.shape[-1:]} wide"))
        elif encoder in vectors:
            unmatched.append((name, "it is a second token, and one is tried"))
        else:
            vectors[encoder] = TensorView(file, name, shape=(tensor.numel // tensor.shape[-1], tensor.shape[-1]))
    if not vectors:
        raise NotTestable("none of its vectors fits a text encoder of the base")
    return AdapterSpec(vectors=vectors, unmatched=tuple(unmatched))


def _hypernetwork(state_dict: StateDict, shapes: Shapes, file: int) -> AdapterSpec:
    """The networks by width, put together as AUTOMATIC1111's ``hypernetwork.py`` does.

    They are linear layers, after each but the last (with ``activate_output`` after all) the activation, then the
    normalisation if there is one.
    """
    steps: dict[tuple[int, int], dict[int, dict[str, str]]] = {}
    unmatched: list[tuple[str, str]] = []
    widths = {shape[1] for name, shape in shapes["unet"].items() if name.endswith((".to_k.weight", ".to_v.weight"))}
    for name in state_dict:
        match = _STEP.fullmatch(name)
        if match is None:
            unmatched.append((name, "it is no layer of a hypernetwork"))
        elif int(match[1]) not in widths:
            unmatched.append((name, f"no attention of the base takes what is {match[1]} wide"))
        else:
            found = steps.setdefault((int(match[1]), int(match[2])), {})
            found.setdefault(int(match[3]), {})[match[4]] = name
    if not steps:
        raise NotTestable("none of its networks has a place in the base")
    said = {**state_dict.scalars, **state_dict.metadata}
    activation = str(said.get("activation_func") or "linear").lower()
    if activation not in _ACTIVATIONS | _TORCH_ACTIVATIONS:
        raise NotTestable(f"its activation {activation!r:.40} is not known")
    at_end = str(said.get("activate_output", "false")).lower() == "true"

    def network(width: int, which: int) -> tuple[Layer, ...]:
        if (width, which) not in steps:
            raise NotTestable(f"it has no network {which} for what is {width} wide")
        numbered = sorted(steps[width, which].items())
        return tuple(_layers([tensors for _, tensors in numbered], state_dict, file, activation, at_end=at_end))

    return AdapterSpec(
        networks=tuple(
            Networks(width, network(width, 0), network(width, 1)) for width in sorted({w for w, _ in steps})
        ),
        unmatched=tuple(unmatched),
    )


def _layers(
    numbered: list[dict[str, str]], state_dict: StateDict, file: int, activation: str, *, at_end: bool
) -> Iterator[Layer]:
    for names in numbered:
        if "weight" not in names:
            raise NotTestable(f"its layer {next(iter(names.values()))!r:.80} has no weight")
    linear = [i for i, names in enumerate(numbered) if len(state_dict[names["weight"]].shape) == 2]
    for i, names in enumerate(numbered):
        yield Layer("linear" if i in linear else "norm", {leaf: TensorView(file, name) for leaf, name in names.items()})
        if i in linear and activation != "linear" and (at_end or i != linear[-1]):
            yield Layer(activation)
