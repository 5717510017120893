"""What the measurements of a test say of the model: one check for each, with its threshold, and an outcome for all.

``failed`` is what no usable model does: tensors are missing or not numbers, the image is black or one colour, the
prompt changes nothing. ``suspect`` is what good models have not been seen to do, by thresholds that were set on drawn
pictures, small trained networks and randomly initialised ones, unless :mod:`~modelhub.smoke.calibration` measured them.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelhub.smoke.checks.adapter import of_adapter
from modelhub.smoke.checks.base import Thresholds, Told, check
from modelhub.smoke.checks.model import of_load, of_probe, of_reach, of_text, of_unused, of_vae
from modelhub.smoke.checks.picture import (
    of_clip,
    of_differences,
    of_grid,
    of_image,
    of_image_to_image,
    of_latents,
    of_lost_reference,
    of_reference,
)
from modelhub.smoke.checks.upscaler import of_upscaler
from modelhub.smoke.run import Measured
from modelhub.smoke.spec import UPSCALER, Check, SmokeResult, SmokeSpec


def judge(spec: SmokeSpec, measured: Measured, thresholds: Thresholds | None = None) -> SmokeResult:
    """The result of *spec*'s test, of which the worker left *measured*, by *thresholds* (``None``: our own)."""
    thresholds = thresholds or Thresholds()
    checks = tuple(_checks(spec, measured, thresholds))
    values = measured.values
    fault = measured.end if not measured.testable else _fault_of_base(spec, measured, thresholds)
    if fault is None and not any(each.outcome == "failed" for each in checks) and not _is_whole(spec, values):
        checks += (check("worker", "failed", None, "measures", "it was not run to its end"),)
    outcome, sentence = ("not testable", fault) if fault is not None else _upshot(spec, checks)
    facts = {name: values[name] for name in _FACTS if name in values}
    if spec.no_clip and spec.pipeline:
        facts["clip"] = spec.no_clip
    return SmokeResult(
        spec.path,
        outcome,  # type: ignore[arg-type]
        sentence,
        spec.kind,
        spec.architecture,
        checks,
        measured.image,
        measured.grid,
        values.get("seconds", {}),
        values.get("host_memory"),
        values.get("device_memory"),
        facts | {"unused": list(spec.unused), "thresholds": thresholds.origin} | asked(spec),
        asked(spec),
    )


_FACTS = (
    "device",
    "dtype",
    "versions",
    "load",
    "probe",
    "latents",
    "vae",
    "differences",
    "reference",
    "upscaler",
    "clip",
)


def asked(spec: SmokeSpec) -> dict[str, object]:
    """What was asked for: two tests of which this is the same can be compared."""
    names = ("pipeline", "steps", "size", "seed", "guidance", "prompts")
    told: dict[str, object] = {"size": spec.size}
    if spec.pipeline:
        told = {name: getattr(spec, name) for name in names}
        told |= {"prompts": list(spec.prompts), "tokenizer": spec.tokenizer or "stand-in"}
        told |= {"negative": spec.negative} if spec.negative else {}
        told |= {"seeds": list(spec.seeds)} if spec.seeds else {}
        told |= {"left_out": spec.left_out} if spec.left_out else {}
    if spec.adapter is None:
        return told | {"base": spec.base} if spec.base is not None else told
    return told | {"base": spec.base or "random weights"}


def _fault_of_base(spec: SmokeSpec, measured: Measured, thresholds: Thresholds) -> str | None:
    """Why an adapter cannot be tried on its base; ``None`` where it can, or it is no adapter."""
    values = measured.values
    if spec.adapter is None:
        return None
    if measured.end is not None:
        return None if "base" in values else f"its base fails: {measured.end}"
    wrong = [check for check in of_load(values["load"]) if check.outcome != "passed"] if "load" in values else []
    if "base" in values:
        wrong += [check for check in of_latents(values["base"]["latents"], thresholds) if check.outcome == "failed"]
    return f"its base fails: {wrong[0].sentence}" if wrong else None


def _is_whole(spec: SmokeSpec, values: Told) -> bool:
    """Whether what the test ends with was measured."""
    if spec.seeds and "grid" not in values:
        return False
    if spec.adapter is not None:
        return values.get("adapter_difference") is not None and "image" in values
    if spec.pipeline:
        return "image" in values and "differences" in values
    if UPSCALER in spec.components:
        return "psnr" in values.get("upscaler", {})
    if "vae" not in spec.components:
        return "text" in values
    return "psnr" in values.get("vae", {})


def _upshot(spec: SmokeSpec, checks: tuple[Check, ...]) -> tuple[str, str]:
    for outcome in ("failed", "suspect"):
        told = [check.sentence for check in checks if check.outcome == outcome]
        if told:
            more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
            return outcome, told[0] + more
    if spec.adapter is not None:
        return "passed", f"it works on {'its base' if spec.base is not None else 'a base of random weights'}"
    if UPSCALER in spec.components:
        return "passed", "it gives pictures back"
    if not spec.pipeline:
        return "passed", "it decodes" if "vae" in spec.components else "it tells prompts apart"
    return "passed", "it generates" + (f", {spec.left_out}" if spec.left_out else "")


def _checks(spec: SmokeSpec, measured: Measured, thresholds: Thresholds) -> Iterator[Check]:
    values = measured.values
    if measured.end is not None and measured.testable:
        yield Check("worker", "failed", None, "ends", measured.end)
    if "reference" in values and spec.reference is not None:
        yield from of_reference(values["reference"])
    if "reference_lost" in values and spec.reference is not None:
        yield from of_lost_reference(values["reference_lost"])
    if isinstance(values.get("clip"), dict):
        yield from of_clip(values["clip"])
    if "grid" in values:
        yield from of_grid(values["grid"], str(values.get("device", "")))
    if spec.adapter is not None:
        yield from of_adapter(spec.adapter, values, thresholds)
        return
    yield from of_unused(spec)
    for name, checks in (  # causes before what comes of them, since the first that is not passed is the sentence
        ("load", of_load),
        ("upscaler", of_upscaler),
        ("vae", lambda told: of_vae(told, thresholds)),
        ("vae_reach", lambda reach: of_reach(reach, bool(spec.components["vae"].config.get("force_upcast")))),
        ("vae_overflows", lambda _: of_reach(None, bool(spec.components["vae"].config.get("force_upcast")))),
        ("text", of_text),
        ("probe", lambda told: of_probe(told, str(spec.scheduler["prediction_type"]), thresholds)),
        ("latents", lambda told: of_latents(told, thresholds)),
        ("image", of_image),
    ):
        if name in values:
            yield from checks(values[name])
    if "differences" in values:
        yield from of_differences(values["differences"], str(values.get("device", "")))
    if "image_to_image" in values:
        yield from of_image_to_image(values["image_to_image"], str(values.get("device", "")))
