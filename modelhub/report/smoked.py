"""Smoke tests, for people and for programs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from modelhub.errors import SourceError
from modelhub.report.plain import Line, Span, Style, byte_size, line
from modelhub.smoke import Calibration, SmokeResult, Thresholds

OUTCOME_STYLES: Mapping[str, Style] = {
    "passed": "safe",
    "suspect": "suspicious",
    "failed": "unsafe",
    "not testable": "unknown",
}


def result_lines(result: SmokeResult, verbosity: int = 0) -> Iterator[Line]:
    """One line for the outcome and one for why; with *verbosity* every check, else those that were not passed."""
    facts = " ".join(filter(None, (result.kind, result.architecture)))
    style = OUTCOME_STYLES[result.outcome]
    yield line(
        Span(f"{result.outcome:<14}", style), Span(result.path, "bold"), Span(f"  {facts}" if facts else "", "dim")
    )
    yield line("    ", result.sentence)
    for check in result.checks:
        if verbosity > 0 or check.outcome != "passed":
            value = "" if check.value is None else f"{check.value:.4g}, "
            yield line(
                "    ",
                Span(f"{check.outcome:<8}", OUTCOME_STYLES[check.outcome]),
                f"{check.name}  ",
                Span(f"{value}wanted {check.threshold}: {check.sentence}", "dim"),
            )
    if verbosity > 0 and isinstance(result.facts.get("clip"), str):
        yield line("    ", Span(f"clip.score  {result.facts['clip']}", "dim"))
    cost = cost_of(result)
    if cost:
        yield line(Span(f"    {cost}", "dim"))


def cost_of(result: SmokeResult) -> str:
    """Seconds, peak memory, device and tokenizer in words; empty for a test that did not take place."""
    if not result.seconds:
        return ""
    parts = [f"{sum(result.seconds.values()):.1f} s"]
    if result.host_memory is not None:
        parts.append(f"{byte_size(result.host_memory)} of memory")
    if result.device_memory is not None:
        parts.append(f"{byte_size(result.device_memory)} on the device")
    parts += [str(result.facts[name]) for name in ("device", "dtype") if name in result.facts]
    if "steps" in result.facts:
        parts.append(f"{result.facts['steps']} steps at {result.facts['size']} px")
        parts.append(f"tokenizer: {result.facts['tokenizer']}")
    if result.facts.get("thresholds", Thresholds().origin) != Thresholds().origin:
        parts.append(f"thresholds {result.facts['thresholds']}")
    return ", ".join(parts)


def calibration_lines(calibrations: Mapping[str, Calibration], path: str) -> Iterator[str]:
    """What was calibrated, and where it is written down."""
    for architecture, each in calibrations.items():
        low, high = each.deviation
        yield (
            f"{architecture}, by {len(each.models)} of these models: suspect are a UNet's error from {each.probe:g}, "
            f"a deviation of latents outside {low:g} to {high:g}, a VAE below {each.psnr:g} dB"
        )
    yield f"written to {path}: later tests are judged by it"


def result_dict(result: SmokeResult) -> dict[str, Any]:
    """A result as a plain object; of its images the digests and sizes in bytes."""
    return {
        "path": result.path,
        "outcome": result.outcome,
        "sentence": result.sentence,
        "kind": result.kind,
        "architecture": result.architecture,
        "checks": [asdict(check) for check in result.checks],
        "image": _image_dict(result.image),
        "grid": _image_dict(result.grid),
        "seconds": dict(result.seconds),
        "host_memory": result.host_memory,
        "device_memory": result.device_memory,
        "facts": dict(result.facts),
    }


def _image_dict(image: bytes | None) -> dict[str, Any] | None:
    return None if image is None else {"sha256": hashlib.sha256(image).hexdigest(), "nbytes": len(image)}


def keep_images(result: SmokeResult, folder: str, number: int) -> None:
    """Write the images of the run's result *number* into *folder*, named after the model.

    Raises :class:`~modelhub.errors.SourceError` where that cannot be done.
    """
    stem = os.path.splitext(os.path.basename(os.path.normpath(result.path)))[0]
    for image, mark in ((result.image, ""), (result.grid, "-grid")):
        if image is None:
            continue
        path = os.path.join(folder, f"{number:03}-{stem}{mark}.png")
        try:
            os.makedirs(folder, exist_ok=True)
            with open(path, "wb") as file:
                file.write(image)
        except OSError as error:
            raise SourceError(f"{path}: the image cannot be written there: {error.strerror}") from error
