"""Adapters put on the modules of a base, and taken off again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention

from modelhub.merge.adapters import make_update
from modelhub.smoke.loading import Files
from modelhub.smoke.spec import AdapterSpec, Layer, Networks, TensorView, WeightChange

_ON_THE_CPU = frozenset({"oft", "peft-oft", "old-peft-oft", "boft", "hra"})
"""Algorithms that make matrices of their own, there."""

_ACTIVATIONS: Mapping[str, Callable[[], torch.nn.Module]] = {
    "relu": torch.nn.ReLU,
    "leakyrelu": torch.nn.LeakyReLU,
    "elu": torch.nn.ELU,
    "swish": torch.nn.Hardswish,
    "tanh": torch.nn.Tanh,
    "sigmoid": torch.nn.Sigmoid,
}
"""Under their names in AUTOMATIC1111's ``hypernetwork.py``; the others are torch's classes in lower case."""


class Adapted:
    """The *modules* of a base that *adapter* can be put on.

    ``vectors`` are those of an embedding by encoder, which are for whoever encodes a prompt; ``told`` is what was
    measured of ``weights``, ``networks`` and ``vectors``, whichever it has.
    """

    def __init__(self, modules: Mapping[str, Any], adapter: AdapterSpec, files: Files) -> None:
        self.vectors = {name: files.see(view).float() for name, view in adapter.vectors.items()}
        self.told: dict[str, dict[str, Any]] = {}
        self._merged = Merged(modules, adapter.changes, files) if adapter.changes else None
        self._attached = Attached(modules["unet"], adapter.networks, files) if adapter.networks else None
        if self.vectors:
            self.told["vectors"] = _vectors_told(modules, self.vectors)
        if self._merged is not None:
            self.told["weights"] = self._merged.told
        if self._attached is not None:
            self.told["networks"] = self._attached.told

    @contextmanager
    def on(self, strength: float = 1.0) -> Iterator[None]:
        """Within it, the modules have the merged weights (unless *strength* is 0) and the networks before them."""
        with ExitStack() as stack:
            if self._merged is not None and strength:
                stack.enter_context(self._merged.on())
            if self._attached is not None:
                stack.enter_context(self._attached.on(strength))
            yield


def _vectors_told(modules: Mapping[str, Any], vectors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """How many vectors there are in each encoder, and how long they are beside those of its words."""
    bad = [name for name, each in vectors.items() if not torch.isfinite(each).all()]
    words = {name: modules[name].get_input_embeddings().weight.float().norm(dim=-1).mean() for name in vectors}
    return {
        "count": {name: len(each) for name, each in vectors.items()},
        "length": {name: float(each.norm(dim=-1).mean() / words[name]) for name, each in vectors.items()},
        "non_finite": {"count": len(bad), "names": bad},
    }


class Merged:
    """The weights of *modules* with *changes*, each computed in fp32 and rounded to the base's type.

    ``told`` says how many modules of the adapter there are; how many weights of the base they change; ``relative``, the
    length of the change over that of the weights; how many weights are other than the base's at strength 0; and the
    first names of modules that make values that are not finite.
    """

    def __init__(self, modules: Mapping[str, Any], changes: tuple[WeightChange, ...], files: Files) -> None:
        self._files = files
        weight = change = 0.0
        at_zero, bad, changed = 0, [], 0
        by_tensor: dict[tuple[str, str], list[WeightChange]] = {}
        for each in changes:
            by_tensor.setdefault((each.component, each.tensor), []).append(each)
        parameters = {name: dict(module.named_parameters()) for name, module in modules.items()}
        self._made: dict[torch.nn.Parameter, torch.Tensor] = {}
        for (component, tensor), own in by_tensor.items():
            known = parameters[component]
            parameter = known[tensor if tensor in known else tensor.removeprefix("text_model.")]
            before = parameter.detach().float()
            after, zero = before.clone(), before.clone()
            for each in own:
                self._apply(each, after, 1.0)
                self._apply(each, zero, 0.0)
            if not torch.isfinite(after).all():
                bad += [each.module for each in own]
            at_zero += not torch.equal(zero.to(parameter.dtype), parameter)
            made = after.to(parameter.dtype)
            changed += not torch.equal(made, parameter)
            self._made[parameter] = made
            weight += float(torch.linalg.vector_norm(before)) ** 2
            change += float(torch.linalg.vector_norm(after - before)) ** 2
        self.told = {
            "modules": len({each.module for each in changes}),
            "weights": len(by_tensor),
            "changed": changed,
            "relative": (change / weight) ** 0.5 if weight else change**0.5,
            "at_zero": at_zero,
            "non_finite": {"count": len(bad), "names": bad[:20]},
        }

    def _apply(self, each: WeightChange, weight: torch.Tensor, strength: float) -> None:
        rows = weight[each.rows[0] : each.rows[1]] if weight.dim() else weight
        place = "cpu" if each.algorithm in _ON_THE_CPU else weight.device
        seen = (rows.t() if each.transposed else rows).to(place).reshape(-1, *each.shape[1:]).clone()
        tensors = {role: self._see(view, place) for role, view in each.tensors.items()}
        scale = None if each.magnitudes is None else self._see(each.magnitudes, place)
        update = make_update(
            each.algorithm, tensors, each.alpha, each.shape, scale, peft=each.peft, settings=each.settings
        )
        merged = update.apply(seen, each.first, strength * each.factor)
        rows.copy_(merged.t() if each.transposed else merged.reshape(rows.shape))

    def _see(self, view: TensorView, place: Any) -> torch.Tensor:
        return self._files.see(view).to(place, torch.float32)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within it, the modules have the merged weights."""
        originals = {parameter: parameter.data for parameter in self._made}
        try:
            for parameter, made in self._made.items():
                parameter.data = made
            yield
        finally:
            for parameter, data in originals.items():
                parameter.data = data


class Attached:
    """A hypernetwork's *networks*, made for the element type and the device of *unet*.

    What an attention takes for its keys and values, ``x``, becomes ``x + strength * network(x)`` where there is a
    network for its width, in self-attention as in cross-attention: AUTOMATIC1111's ``apply_single_hypernetwork``.
    """

    def __init__(self, unet: Any, networks: tuple[Networks, ...], files: Files) -> None:
        like = next(unet.parameters())
        self._networks = {
            each.width: tuple(
                _network(layers, files).to(like.device, like.dtype) for layers in (each.keys, each.values)
            )
            for each in networks
        }
        self._attentions = [module for module in unet.modules() if isinstance(module, Attention)]
        tensors = [tensor for pair in self._networks.values() for each in pair for tensor in each.parameters()]
        bad = sum(not torch.isfinite(tensor).all() for tensor in tensors)
        self.told = {"non_finite": {"count": bad, "names": ["a layer"] * min(bad, 1)}}

    @contextmanager
    def on(self, strength: float = 1.0) -> Iterator[None]:
        """Within it, the attentions have the networks before them."""
        hooks = []
        try:
            for attention in self._attentions:
                pair = self._networks.get(attention.to_k.in_features)
                if pair is not None:
                    for layer, network in zip((attention.to_k, attention.to_v), pair, strict=True):
                        hooks.append(layer.register_forward_pre_hook(_adding(network, strength)))
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _adding(network: torch.nn.Module, strength: float) -> Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]:
    def add(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0] + network(inputs[0]) * strength, *inputs[1:])

    return add


def _network(layers: tuple[Layer, ...], files: Files) -> torch.nn.Sequential:
    return torch.nn.Sequential(*(_layer(each, files) for each in layers))


def _layer(layer: Layer, files: Files) -> torch.nn.Module:
    if layer.kind not in ("linear", "norm"):
        made = _ACTIVATIONS.get(layer.kind)
        return made() if made is not None else _torch_activation(layer.kind)
    weights = {name: files.see(view) for name, view in layer.tensors.items()}
    shape = weights["weight"].shape
    with torch.device("meta"):
        module: torch.nn.Module = (
            torch.nn.Linear(shape[1], shape[0], bias="bias" in weights)
            if layer.kind == "linear"
            else torch.nn.LayerNorm(shape[0], bias="bias" in weights)
        )
    module.load_state_dict(weights, assign=True)
    return module.requires_grad_(False)


def _torch_activation(name: str) -> torch.nn.Module:
    classes = {
        key.lower(): value for key, value in vars(torch.nn.modules.activation).items() if isinstance(value, type)
    }
    made: torch.nn.Module = classes[name]()
    return made
