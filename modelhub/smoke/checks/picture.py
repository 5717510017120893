"""What is asked of latents and images, whatever made them."""

from __future__ import annotations

from collections.abc import Iterator

from modelhub.smoke.checks.base import Thresholds, Told, allowed_difference, check, finite
from modelhub.smoke.spec import Check

FLAT = 0.02
"""Standard deviation of the luminance (0 to 1) below which an image shows nothing."""

DARK_SHARE = 0.98
"""Share of black, or white, pixels from which on an image shows nothing."""

SATURATED_SHARE = 0.5
"""Share of values at the end of their range from which on an image is burnt: wrong guidance, noise or VAE."""

NOISE = {"autocorrelation": 0.3, "patchiness": 0.3, "bits": 19.0}
"""An image of noise is below the first two and above the third: none of 19 natural pictures, gravel and grass among
them, was; random networks are."""

SAME_BITS, OTHER_BITS, SAME_SSIM = 6, 16, 0.95
"""Bits of a difference hash that differ between an image and the same, saved or computed elsewhere, and between
different ones; the structural similarity that ComfyUI's own image tests ask for."""


def of_latents(steps: list[Told], thresholds: Thresholds) -> Iterator[Check]:
    for number, step in enumerate(steps, 1):
        if step["non_finite"]:
            yield finite("latents.finite", step["non_finite"], f"what step {number} of {len(steps)} makes")
            return
    yield finite("latents.finite", 0, "what every step makes")
    low, high = thresholds.deviation
    deviation = steps[-1]["deviation"]
    fits = deviation is not None and low <= deviation <= high
    words = "the latents have the deviation that a VAE is made for"
    if not fits:
        words = f"the latents have a deviation of {deviation or float('inf'):.3g}, far from 1"
    yield check("latents.deviation", "passed" if fits else "suspect", deviation, f"{low:g} to {high:g}", words)


def of_image(image: Told) -> Iterator[Check]:
    yield finite("image.finite", image["non_finite"], "the image")
    if image["non_finite"]:
        return
    flat = image["deviation"] < FLAT
    words = "the image is of one colour" if flat else "the image shows something"
    yield check("image.flat", "failed" if flat else "passed", image["deviation"], f">= {FLAT:g}", words)
    for kind in ("black", "white"):
        share = image[kind]
        words = f"the image is {kind}" if share >= DARK_SHARE else f"the image is not {kind}"
        outcome = "failed" if share >= DARK_SHARE else "passed"
        yield check(f"image.{kind}", outcome, share, f"< {DARK_SHARE:g}", words)
    burnt = image["saturated"] >= SATURATED_SHARE
    words = "most of the image is at the end of its range" if burnt else "the image is not burnt"
    outcome = "suspect" if burnt else "passed"
    yield check("image.saturated", outcome, image["saturated"], f"< {SATURATED_SHARE:g}", words)
    noise = (
        image["autocorrelation"] < NOISE["autocorrelation"]
        and image["patchiness"] < NOISE["patchiness"]
        and image["bits"] > NOISE["bits"]
    )
    words = "the image looks like noise" if noise else "the image does not look like noise"
    threshold = " or ".join(f"{name} {'<=' if name == 'bits' else '>='} {value:g}" for name, value in NOISE.items())
    yield check("image.noise", "suspect" if noise else "passed", image["autocorrelation"], threshold, words)


def of_image_to_image(told: Told, device: str) -> Iterator[Check]:
    """Whether sampling from a picture, with most of its noise, makes numbers, and others from another picture."""
    bad = told["latents"][-1]["non_finite"]
    yield finite("image-to-image.finite", bad, "what is made of a picture")
    if not bad and told["difference"] is not None:
        allowed, found = allowed_difference(device), told["difference"]
        words = "another picture makes a difference" if found > allowed else "the picture makes no difference"
        outcome = "passed" if found > allowed else "failed"
        yield check("image-to-image.picture", outcome, found, f"> {allowed:g}", words)


def of_reference(alike: Told) -> Iterator[Check]:
    """Whether the image is still the one that was accepted."""
    bits, ssim = alike["bits"], alike["ssim"]
    same = bits <= SAME_BITS and (ssim is None or ssim >= SAME_SSIM)
    outcome = "passed" if same else "failed" if bits >= OTHER_BITS else "suspect"
    words = "the image is the accepted one"
    if not same:
        words = f"the image is not the accepted one: {bits} of 64 bits differ" + (f", SSIM {ssim:.2f}" if ssim else "")
    yield check("image.reference", outcome, bits, f"<= {SAME_BITS} and SSIM >= {SAME_SSIM:g}", words)


def of_lost_reference(why: str) -> Iterator[Check]:
    words = f"the accepted image cannot be read: {why:.200}"
    yield check("image.reference", "suspect", None, f"<= {SAME_BITS} and SSIM >= {SAME_SSIM:g}", words)


def of_differences(differences: Told, device: str) -> Iterator[Check]:
    allowed = allowed_difference(device)
    repeated = differences["repetition"]
    same = repeated is not None and repeated <= allowed
    words = "the same seed gives the same image" if same else "the same seed gives another image"
    threshold = f"<= {allowed:g}" if allowed else "= 0"
    yield check("sampling.repetition", "passed" if same else "failed", repeated, threshold, words)
    for name, what in (("other_prompt", "prompt"), ("no_guidance", "guidance"), ("other_picture", "picture")):
        if name not in differences:
            continue
        difference = differences[name]
        matters = difference is not None and difference > allowed
        words = f"the {what} makes a difference" if matters else f"the {what} makes no difference"
        outcome = "passed" if matters else "failed"
        yield check(f"sampling.{what}", outcome, difference, f"> {allowed:g}", words)


def of_clip(told: Told) -> Iterator[Check]:
    """Whether the image shows its own prompt rather than the other one, as a CLIP model sees it."""
    own, other = told["prompt"], told["other"]
    fits = own is not None and other is not None and own > other
    words = "the image fits its prompt better than another one"
    if not fits:
        words = "the image fits another prompt as well as its own, or better"
    yield check("clip.score", "passed" if fits else "suspect", own, f"> {other or 0:.3f}, the other prompt's", words)


def of_grid(grid: Told, device: str) -> Iterator[Check]:
    """Whether each of the images of the grid shows something, and each prompt and each seed another thing."""
    bad: list[tuple[str, str]] = []
    for cell in grid["images"]:
        wrong = [each for each in of_image(cell) if each.outcome == "failed"]
        if wrong:
            bad.append((wrong[0].sentence, f"{cell['prompt']!r:.60}, seed {cell['seed']}"))
    count = len(grid["images"])
    words = f"all {count} images show something"
    if bad:
        words = f"{bad[0][0]} at {bad[0][1]} ({len(bad)} of {count})"
    yield check("grid.images", "failed" if bad else "passed", len(bad), "= 0", words)
    allowed = allowed_difference(device)
    for name in ("seeds", "prompts"):
        found = grid[name]
        if found is None:  # there is one of them, or an image is not finite
            continue
        differ = found > allowed
        words = f"all {name} make images of their own" if differ else f"two {name} make the same image"
        yield check(f"grid.{name}", "passed" if differ else "failed", found, f"> {allowed:g}", words)
