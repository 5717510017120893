"""What is asked of an adapter on a base: all of it is used, and the image is another with it."""

from __future__ import annotations

from collections.abc import Iterator

from modelhub.smoke.checks.base import Thresholds, Told, allowed_difference, check, counted
from modelhub.smoke.checks.picture import of_image, of_latents
from modelhub.smoke.spec import AdapterSpec, Check

_LENGTHS = (1e-3, 1e3)
"""Length of an embedding's vectors over that of words between which it can be one; trained ones are a few times as
long."""


def of_adapter(adapter: AdapterSpec, values: Told, thresholds: Thresholds) -> Iterator[Check]:
    """The checks of *adapter*, of which a worker told *values*; what the base does wrong by itself is not held against
    it."""
    yield _used(adapter)
    told = values.get("adapter")
    if told is None:
        return
    for name, what in (
        ("weights", "its modules make"),
        ("networks", "its layers have"),
        ("vectors", "its vectors have"),
        ("control", "its tensors have"),
    ):
        if name in told:
            yield counted("adapter.finite", told[name]["non_finite"], f"NaN or infinite values {what}:", "it is finite")
    yield from _by_kind(told, values)
    if "adapter_difference" not in values:
        return
    yield from _effect(values["adapter_difference"], str(values.get("device", "")))
    base = values["base"]
    own = list(of_latents(values["latents"], thresholds))
    before = {each.name for each in of_latents(base["latents"], thresholds) if each.outcome != "passed"}
    if "image" in values and "image" in base:
        own += of_image(values["image"])
        before |= {each.name for each in of_image(base["image"]) if each.outcome != "passed"}
    yield from (each for each in own if each.outcome == "passed" or each.name not in before)


def _used(adapter: AdapterSpec) -> Check:
    if not adapter.unmatched:
        return check("adapter.used", "passed", 0, "= 0", "all of it has a place in the base")
    name, reason = adapter.unmatched[0]
    others = f" (and {len(adapter.unmatched) - 1} more)" if len(adapter.unmatched) > 1 else ""
    sentence = f"{name!r:.100} has no place in the base: {reason:.120}{others}"
    return check("adapter.used", "suspect", len(adapter.unmatched), "= 0", sentence)


def _by_kind(told: Told, values: Told) -> Iterator[Check]:
    if "control" in told:
        for kind, words in (("missing", "there is no tensor"), ("unexpected", "no module has a place for")):
            yield counted(f"keys.{kind}", told["control"][kind], words, f"no tensors are {kind}")
    if values.get("drawing_difference") is not None:
        allowed, found = allowed_difference(str(values.get("device", ""))), values["drawing_difference"]
        words = "another drawing makes another image" if found > allowed else "the drawing makes no difference"
        yield check("adapter.drawing", "passed" if found > allowed else "failed", found, f"> {allowed:g}", words)
    if "weights" in told:
        weights = told["weights"]
        count = weights["at_zero"]
        words = f"at strength 0 it changes {count} tensors" if count else "at strength 0 the weights are the base's"
        yield check("adapter.strength-0", "failed" if count else "passed", count, "= 0", words)
        changed, relative = weights["changed"], weights["relative"]
        words = f"it changes {changed} of {weights['weights']} weights, by {relative or 0:.2%}"
        yield check("adapter.change", "passed" if changed else "failed", relative, "> 0", words)
    if "idle_difference" in values:
        allowed, idle = allowed_difference(str(values.get("device", ""))), values["idle_difference"]
        same = idle is not None and idle <= allowed
        words = "at strength 0 the image is the base's" if same else "at strength 0 the image is not the base's"
        yield check("adapter.strength-0", "passed" if same else "failed", idle, f"<= {allowed:g}", words)
    for encoder, length in told.get("vectors", {}).get("length", {}).items():
        low, high = _LENGTHS
        fits = length is not None and low <= length <= high
        number = told["vectors"]["count"][encoder]
        words = f"{number} vectors for the {encoder.replace('_', ' ')}, {length or 0:.3g} times as long as its words"
        yield check("adapter.vectors", "passed" if fits else "suspect", length, f"{low:g} to {high:g}", words)


def _effect(difference: float | None, device: str) -> Iterator[Check]:
    allowed = allowed_difference(device)
    if difference is None:
        return
    words = "the image is another with it" if difference > allowed else "the image is the same with it as without"
    yield check("adapter.effect", "passed" if difference > allowed else "failed", difference, f"> {allowed:g}", words)
