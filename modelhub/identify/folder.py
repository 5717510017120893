"""Diffusers folders: the pipeline's configuration, and the tensors of its components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modelhub.container.shards import components_of
from modelhub.identify.base import Evidence, Identity
from modelhub.identify.file import identify_state_dict
from modelhub.identify.names import last_parts
from modelhub.identify.observation import Observation
from modelhub.identify.precision import precision_of
from modelhub.identify.probe import Probe
from modelhub.identify.registry import architectures, in_order
from modelhub.tensors import StateDict, TensorInfo

_INDEX = "model_index.json"
_DENOISERS = ("unet", "transformer", "prior", "decoder")
"""Components that a pipeline's architecture is that of, the first that is there."""

_CONTEXT_WIDTHS = {768: "sd-1", 1024: "sd-2", 1280: "sdxl-refiner", 2048: "sdxl"}
"""``cross_attention_dim`` in a UNet's configuration."""


def identify_folder(folder: Observation) -> Identity:
    """Which model a diffusers *folder* is.

    Its kind is ``checkpoint``: it serves where a single file of that kind does. The architecture is that of the
    denoiser's tensors; where those cannot be told, of its configuration or of the pipeline's class. The scheduler's
    configuration says the prediction type.
    """
    weights = _weights(folder)
    index = folder.configs.get(_INDEX)
    if index is None:
        return _one_model(weights)

    pipeline = _text(index.get("_class_name"))
    evidence = [Evidence("kind", "checkpoint", "structure", f"{_INDEX} names the pipeline {pipeline or '?'}")]
    components = components_of(index)
    evidence += [Evidence("components", name, "metadata", f"{_INDEX} lists {name}") for name in components]

    denoiser = _denoiser(folder, components, weights)
    evidence += [each for each in denoiser.evidence if each.fact in {"architecture", "variant"}]
    told = _prediction_type(folder)
    if told is None:
        told = next((each for each in denoiser.evidence if each.fact == "prediction_type"), None)
    if told:
        evidence.append(told)
    everything = _all(weights)
    precision = precision_of(everything, last_parts(everything))
    if precision:
        evidence.append(precision)
    identity = Identity(
        kind="checkpoint",
        architecture=denoiser.architecture,
        variant=denoiser.variant,
        prediction_type=told.value if told else None,
        precision=precision.value if precision else None,
        components=components,
        evidence=tuple(evidence),
        candidates=denoiser.candidates,
    )
    return identity if identity.architecture else _by_pipeline(identity, pipeline)


def _one_model(weights: Mapping[str, tuple[StateDict, Probe | None]]) -> Identity:
    """A folder of one model, its shards joined: its own files count, or those of the only folder in it."""
    if "" not in weights and len(weights) != 1:
        return Identity()
    return identify_state_dict(*(weights.get("") or next(iter(weights.values()))))


def _weights(folder: Observation) -> dict[str, tuple[StateDict, Probe | None]]:
    """The tensors below each subfolder, shards joined, and what probes the one file they are in if it is only one.

    Where a folder has the same tensors twice (another precision, another format), the first file's count.
    """
    grouped: dict[str, list[tuple[StateDict, Probe]]] = {}
    for relative, file in folder.files.items():
        grouped.setdefault(relative.rpartition("/")[0], []).append(file)
    joined: dict[str, tuple[StateDict, Probe | None]] = {}
    for name, files in grouped.items():
        tensors: dict[str, TensorInfo] = {}
        probes: list[Probe] = []
        for state_dict, probe in files:
            new = {key: tensor for key, tensor in state_dict.items() if key not in tensors}
            if new:
                probes.append(probe)
                tensors |= new
        leftovers = tuple(left for state_dict, _ in files for left in state_dict.leftovers)
        metadata = {key: value for state_dict, _ in files for key, value in state_dict.metadata.items()}
        joined[name] = (StateDict(tensors, {}, leftovers, metadata), probes[0] if len(probes) == 1 else None)
    return joined


def _all(weights: Mapping[str, tuple[StateDict, Probe | None]]) -> StateDict:
    """The tensors of every component, each below its own name."""
    tensors = {
        f"{name}.{key}": tensor for name, (state_dict, _) in weights.items() for key, tensor in state_dict.items()
    }
    return StateDict(tensors, leftovers=tuple(left for each, _ in weights.values() for left in each.leftovers))


def _denoiser(
    folder: Observation, components: tuple[str, ...], weights: Mapping[str, tuple[StateDict, Probe | None]]
) -> Identity:
    for name in _DENOISERS:
        if name not in components:
            continue
        identity = Identity()
        if name in weights:
            identity = identify_state_dict(*weights[name])
        return identity if identity.architecture else _by_config(identity, folder, name)
    return Identity()


def _by_config(identity: Identity, folder: Observation, name: str) -> Identity:
    width = folder.configs.get(f"{name}/config.json", {}).get("cross_attention_dim")
    known = _CONTEXT_WIDTHS.get(width) if isinstance(width, int) and name == "unet" else None
    if known is None:
        return identity
    detail = f"{name}/config.json: cross_attention_dim is {width}"
    evidence = Evidence("architecture", known, "metadata", detail, "medium")
    return replace(identity, architecture=known, candidates=(), evidence=(*identity.evidence, evidence))


def _by_pipeline(identity: Identity, pipeline: str) -> Identity:
    fitting = {
        (len(beginning), known.name)
        for known in architectures().values()
        for beginning in known.pipelines
        if pipeline.startswith(beginning)
    }
    if not fitting:
        return identity
    longest = max(fitting)[0]
    names = in_order(tuple(name for length, name in fitting if length == longest))
    detail = f"{_INDEX}: the pipeline is {pipeline}"
    evidence = Evidence("architecture", " | ".join(names), "metadata", detail, "medium")
    return replace(
        identity,
        architecture=names[0] if len(names) == 1 else None,
        candidates=() if len(names) == 1 else names,
        evidence=(*identity.evidence, evidence),
    )


def _prediction_type(folder: Observation) -> Evidence | None:
    config = folder.configs.get("scheduler/scheduler_config.json", {})
    scheduler = _text(config.get("_class_name"))
    value = "flow" if scheduler.startswith("FlowMatch") else _text(config.get("prediction_type"))
    if not value:
        return None
    detail = f"scheduler/scheduler_config.json: {scheduler or 'the scheduler'} with {value}"
    return Evidence("prediction_type", value, "metadata", detail)


def _text(value: object) -> str:
    return value[:80] if isinstance(value, str) else ""
