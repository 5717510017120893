"""What a model's test is to load, from names, shapes and the scan's verdict; or why it cannot be tested.

Only safetensors whose scan says ``safe`` are let through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modelhub.container import Container, open_path
from modelhub.errors import ConversionError, MissingExtra
from modelhub.identify import identify
from modelhub.identify.base import Identity
from modelhub.smoke.adapters import ADAPTERS, adapter_of
from modelhub.smoke.control import CONTROLS, control_of
from modelhub.smoke.flow_parts import FLOWS
from modelhub.smoke.parts import Incomplete, NotTestable, Parts, file_of, only_file, require_safe
from modelhub.smoke.spec import CLIP, UPSCALER, Check, Component, Settings, SmokeResult, SmokeSpec, TensorView
from modelhub.smoke.unet_parts import random_parts
from modelhub.smoke.whole_parts import MODELS, FindBase, base_parts, parts_of
from modelhub.vocabulary import WORDS

_STEPS = {"quick": 4, "standard": 20, "thorough": 20}
_COMPARED_PROMPTS = 2
_SEEDS = 3
_QUICK_SIZE = 256

_UPSCALER_SIZE = 512
_UPSCALERS = frozenset({"upscaler", "restorer"})
"""Kinds that make a picture of a picture, in spandrel's modules."""


def prepare(path: str, settings: Settings, find_base: FindBase = lambda _: None) -> SmokeSpec | SmokeResult:
    """The test of the model at *path*, or the result of one that cannot take place or has failed already.

    An adapter is put on what *find_base* answers, or else on random weights; a model that lacks parts has them from
    there. Raises
    :class:`~modelhub.errors.SourceError` when a file cannot be had, :class:`~modelhub.errors.MissingExtra` without the
    libraries that run it.
    """
    _require_libraries()
    with open_path(path) as container:
        identity = identify(container)
        try:
            require_safe(container)
            if identity.kind in ADAPTERS | CONTROLS:
                return _of_adapter(container, identity, settings, find_base)
            if identity.kind in _UPSCALERS:
                return _spec(path, identity, _upscaler(container), settings)
            if identity.kind not in MODELS:
                raise NotTestable(f"there is no test yet for {identity.kind or 'what was not recognised'}")
            parts, base = parts_of(container, identity, find_base)
            return replace(_spec(path, identity, parts, settings), base=base)
        except Incomplete as error:
            return _incomplete(path, identity, error.names)
        except (NotTestable, ConversionError) as error:
            reason = str(error).removeprefix(f"{path}: ")
        return SmokeResult(path, "not testable", reason, identity.kind, identity.architecture)


def missing_library() -> str | None:
    """The first library that running models needs and that is not installed."""
    from importlib.util import find_spec

    return next((name for name in ("torch", "diffusers", "transformers") if find_spec(name) is None), None)


def _require_libraries() -> None:
    missing = missing_library()
    if missing is not None:
        raise MissingExtra(missing, "smoke")


def _spec(path: str, identity: Identity, parts: Parts, settings: Settings) -> SmokeSpec:
    quick, thorough = settings.preset == "quick", settings.preset == "thorough"
    seed, steps = settings.first_seed, settings.steps or _STEPS[settings.preset]
    seeds = settings.seeds or tuple(seed + number for number in range(_SEEDS))
    return SmokeSpec(
        path=path,
        kind=identity.kind or "",
        architecture=identity.architecture,
        pipeline=parts.pipeline,
        files=parts.files,
        components=parts.components,
        scheduler=parts.scheduler,
        unused=parts.unused,
        steps=steps,
        size=settings.size or (_QUICK_SIZE if quick else parts.native),
        seed=seed,
        guidance=parts.guidance if settings.guidance is None else settings.guidance,
        prompts=settings.prompts if thorough else settings.prompts[:_COMPARED_PROMPTS],
        device=settings.device,
        dtype=settings.dtype,
        tokenizer=settings.tokenizer or _vocabulary(parts.components),
        image_to_image=not quick and (steps > 1 or parts.pipeline not in FLOWS.values()),
        negative=settings.negative,
        seeds=seeds if thorough and parts.pipeline else (),
        t5=parts.t5,
        left_out=parts.left_out,
    )


def _vocabulary(components: Mapping[str, Component]) -> str | None:
    """CLIP's own, where all text encoders of CLIP's among *components* have as many words."""
    encoders = [each for each in components.values() if each.config.get("model_type") == "clip_text_model"]
    return CLIP if encoders and all(each.config.get("vocab_size") == WORDS for each in encoders) else None


def _upscaler(container: Container) -> Parts:
    """An upscaler's one component, with all that is in the file."""
    from importlib.util import find_spec

    if find_spec("spandrel") is None:
        raise NotTestable("upscalers are run by spandrel, which is not installed: pip install 'modelhub[upscale]'")
    part = only_file(container)
    if part.state_dict is None:
        raise NotTestable("its tensors cannot be told")
    component = Component({}, {name: TensorView(0, name) for name in part.state_dict})
    return Parts("", (file_of(part),), {UPSCALER: component}, {}, {}, (), _UPSCALER_SIZE)


def _of_adapter(container: Container, identity: Identity, settings: Settings, find_base: FindBase) -> SmokeSpec:
    """The test of the adapter in *container* on a base of its architecture."""
    architecture = identity.architecture or next(iter(identity.candidates), None)
    if architecture is None:
        raise NotTestable("it is not known which models it is for")
    base = find_base(architecture)
    possible = (identity.architecture,) if identity.architecture else identity.candidates
    parts = random_parts(architecture) if base is None else base_parts(base, possible)
    file = only_file(container)
    adapter = (control_of if identity.kind in CONTROLS else adapter_of)(file, identity, parts)
    spec = _spec(container.name, identity, parts, settings)
    return replace(spec, files=(*parts.files, file_of(file)), adapter=adapter, base=base, unused=())


def _incomplete(path: str, identity: Identity, names: tuple[str, ...]) -> SmokeResult:
    """The result of a model that lacks tensors: it has failed before anything is loaded."""
    others = f" and {len(names) - 1} others" if len(names) > 1 else ""
    sentence = f"there is no tensor {names[0]!r:.150}{others}"
    check = Check("keys.missing", "failed", len(names), "= 0", sentence)
    facts = {"missing": list(names)}
    return SmokeResult(path, "failed", sentence, identity.kind, identity.architecture, (check,), facts=facts)
