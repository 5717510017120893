"""Modules built from our own configurations and filled from safetensors files, every tensor accounted for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    T2IAdapter,
    UNet2DConditionModel,
)
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from modelhub.smoke.spec import Component, TensorFile, TensorView
from modelhub.smoke.telling import Teller

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_WITH_T5 = frozenset({"FluxPipeline", "StableDiffusion3Pipeline"})
_TOLD = 20


class NoDevice(Exception):
    """The device that was asked for is not there."""


class CannotLoad(Exception):
    """A file is not what its scan saw."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where modules run, and in which element type."""

    device: torch.device
    dtype: torch.dtype


@dataclass(slots=True)
class Account:
    """What became of the tensors: how many were *loaded*, the names of those that the module *missing* has no value
    for, that it has no place for (*unexpected*), and that are not finite."""

    loaded: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    non_finite: tuple[str, ...] = ()


def place_of(device: str, dtype: str, pipeline: str = "") -> Place:
    """The device and element type for the words of :class:`~modelhub.smoke.spec.Settings`.

    A CPU computes in bf16 if it has instructions for it, else in fp32: in fp16 it takes a hundred times as long.
    Another device computes in fp16, but a *pipeline* with T5, which overflows in it, in bf16. Raises
    :class:`NoDevice`.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise NoDevice("there is no CUDA device")
    number = device.partition(":")[2]
    if number and int(number) >= torch.cuda.device_count():
        raise NoDevice(f"there is no {device}: there are {torch.cuda.device_count()} CUDA devices")
    if device == "mps" and not torch.backends.mps.is_available():
        raise NoDevice("there is no MPS device")
    chosen = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    if dtype != "auto":
        return Place(chosen, _DTYPES[dtype])
    if chosen.type != "cpu":
        return Place(chosen, torch.bfloat16 if pipeline in _WITH_T5 else torch.float16)
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return Place(chosen, torch.bfloat16 if has_bf16 else torch.float32)


class Files:
    """The tensors of a test's files, mapped and not read before they are asked for, on *device*.

    What is asked for goes from the mapped file to another device than the CPU at once, as it is: it is cast there, and
    this process has no copy of it.
    """

    def __init__(self, files: tuple[TensorFile, ...], device: torch.device) -> None:
        for file in files:
            _check_unchanged(file)
        self._in_memory = device.type == "cpu"
        try:
            self._open = [safe_open(file.path, framework="pt", device=str(device)) for file in files]
        except SafetensorError as error:
            raise CannotLoad(f"safetensors does not open it: {error}") from error

    def see(self, view: TensorView) -> torch.Tensor:
        """The tensor that *view* sees; on a CPU it shares the file's memory."""
        tensor: torch.Tensor = self._open[view.file].get_tensor(view.name)
        if view.rows is not None:
            rows = tensor[view.rows[0] : view.rows[1]]
            tensor = rows if self._in_memory else rows.clone()  # so that the others do not stay there with it
        if view.swapped:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if view.transposed:
            tensor = tensor.T
        return tensor if view.shape is None else tensor.reshape(view.shape)


def _check_unchanged(file: TensorFile) -> None:
    try:
        now = os.stat(file.path)
    except OSError as error:
        raise CannotLoad(f"{file.path}: it is gone since it was scanned: {error.strerror}") from error
    if (now.st_size, now.st_mtime_ns, now.st_ino) != (file.size, file.mtime_ns, file.inode):
        raise CannotLoad(f"{file.path}: it changed since it was scanned")


def load(
    components: Mapping[str, Component], files: Files, place: Place, teller: Teller
) -> tuple[dict[str, Any], dict[str, Account]]:
    """The modules of *components* by name, in evaluation mode, and the account of each one's tensors."""
    teller.stage("building")
    modules = {name: skeleton(component) for name, component in components.items()}
    teller.stage("loading")
    accounts: dict[str, Account] = {}
    for name, module in modules.items():
        accounts[name] = fill(module, components[name].tensors, files, place)
        module.eval().requires_grad_(False)
    return modules, accounts


def load_component(component: Component, files: Files, place: Place) -> tuple[Any, Account]:
    """The module that *component* is, in evaluation mode, and the account of its tensors."""
    module = skeleton(component)
    account = fill(module, component.tensors, files, place)
    return module.eval().requires_grad_(False), account


_OF_DIFFUSERS: Mapping[str, Any] = {
    each.__name__: each
    for each in (
        AutoencoderKL,
        ControlNetModel,
        FluxTransformer2DModel,
        SD3Transformer2DModel,
        T2IAdapter,
        UNet2DConditionModel,
    )
}
_OF_TRANSFORMERS: Mapping[str, tuple[Any, Any]] = {
    "CLIPTextModel": (CLIPTextModel, CLIPTextConfig),
    "CLIPTextModelWithProjection": (CLIPTextModelWithProjection, CLIPTextConfig),
    "T5EncoderModel": (T5EncoderModel, T5Config),
}
"""The classes that our own configurations name."""


def skeleton(component: Component) -> Any:
    """The module without memory for its weights. The classes are ours, whatever a configuration says."""
    config: dict[str, Any] = dict(component.config)
    with torch.device("meta"):
        if "_class_name" in config:
            return _OF_DIFFUSERS[config["_class_name"]].from_config(config)
        ((architecture,), told) = config.pop("architectures"), config
        module, configuration = _OF_TRANSFORMERS[architecture]
        return module(configuration(**told))


def fill(module: Any, tensors: Mapping[str, TensorView] | None, files: Files, place: Place) -> Account:
    """Let *tensors* of *files* (``None``: random ones) be the weights of *module* at *place*, and account for them."""
    if tensors is None:
        return _fill_randomly(module, place)
    expected = module.state_dict().keys()
    bare = not any(name.startswith("text_model.") for name in expected)
    weights: dict[str, torch.Tensor] = {}
    finite: list[torch.Tensor] = []
    names: list[str] = []
    for name, view in tensors.items():
        if name.endswith(".position_ids"):
            continue
        tensor = files.see(view)
        made = tensor.to(place.dtype)
        as_it_lies = tensor.is_floating_point() and tensor.element_size() > 1
        finite.append(torch.isfinite(tensor if as_it_lies else made).all())
        names.append(view.name)
        weights[name.removeprefix("text_model.") if bare else name] = made.contiguous()
    told = torch.stack(finite).tolist() if finite else []  # the device is waited for once
    non_finite = [name for name, fine in zip(names, told, strict=True) if not fine]
    found = module.load_state_dict(weights, strict=False, assign=True)
    _number_positions(module, place)
    return Account(
        loaded=len(weights) - len(found.unexpected_keys),
        missing=tuple(dict.fromkeys((*found.missing_keys, *_on_meta(module)))),
        unexpected=tuple(found.unexpected_keys),
        non_finite=tuple(non_finite),
    )


def _fill_randomly(module: Any, place: Place) -> Account:
    """Give *module* the weights of a network that was never trained, always the same."""
    generator = torch.Generator(place.device).manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    for name, empty in module.state_dict().items():
        made = torch.empty(empty.shape, device=place.device, dtype=place.dtype)
        if empty.dim() > 1:
            weights[name] = made.normal_(0, math.prod(empty.shape[1:]) ** -0.5, generator=generator)
        else:
            weights[name] = made.fill_(1.0 if name.endswith("weight") else 0.0)
    module.load_state_dict(weights, assign=True)
    _number_positions(module, place)
    return Account(loaded=len(weights), missing=tuple(_on_meta(module)))


def _number_positions(module: torch.nn.Module, place: Place) -> None:
    """Give buffers that no file holds their values: the positions of a text encoder, counted from 0."""
    for each in module.modules():
        for name, buffer in list(each.named_buffers(recurse=False)):
            if buffer.is_meta and name == "position_ids":
                each.register_buffer(
                    name, torch.arange(buffer.shape[-1], device=place.device).expand(1, -1), persistent=False
                )


def _on_meta(module: torch.nn.Module) -> Iterator[str]:
    """Names of parameters and buffers of *module* that have no values."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            yield name


def account_dict(accounts: Mapping[str, Account]) -> dict[str, Any]:
    """The accounts of all modules together; of each list of names the first ones, and how many there are."""
    told: dict[str, Any] = {"loaded": sum(each.loaded for each in accounts.values())}
    for kind in ("missing", "unexpected", "non_finite"):
        names = [f"{component}/{name}" for component, each in accounts.items() for name in getattr(each, kind)]
        told[kind] = {"count": len(names), "names": names[:_TOLD]}
    return told
