"""What is asked of an upscaler: it loads, makes pictures of the right size, and gives back what was made smaller."""

from __future__ import annotations

import math
from collections.abc import Iterator

from modelhub.smoke.checks.base import Told, check, counted, finite
from modelhub.smoke.spec import Check

PSNR_FAILED, PSNR_SUSPECT = 15.0, 20.0
"""dB. Made four times as large, photographs have 24.6 by their nearest pixels, 26.0 by bicubic interpolation and 25.2
and more by the network of SRGAN, which is tuned for looks (Ledig et al. 2017, table 2: Set14, BSD100); what is drawn
has more, a random network less than 10."""


def of_upscaler(told: Told) -> Iterator[Check]:
    if "error" in told:
        yield check("upscaler.load", "failed", None, "loads", f"it does not load: {told['error']}")
        return
    yield check("upscaler.load", "passed", told["loaded"], "loads", f"all of it is loaded, as {told['network']}")
    yield counted("weights.finite", told["non_finite"], "NaN or infinite values are in", "its tensors are finite")
    if "size" not in told:
        return
    yield finite("image.finite", told["not_finite"], "what it makes of a picture")
    size, wanted = told["size"], told["expected"]
    words = f"what it makes is {told['scale']} times as large"
    if size != wanted:
        words = f"what it makes is {size[1]} x {size[0]}, and should be {wanted[1]} x {wanted[0]}"
    yield check("upscaler.size", "passed" if size == wanted else "failed", size[0], f"= {wanted[0]}", words)
    if "psnr" in told:
        psnr = told["psnr"] if told["psnr"] is not None else math.inf
        outcome = "failed" if psnr < PSNR_FAILED else "suspect" if psnr < PSNR_SUSPECT else "passed"
        words = (
            f"it gives pictures back at {psnr:.1f} dB, where the nearest pixels have {told['plain'] or math.inf:.1f}"
        )
        threshold = f">= {PSNR_SUSPECT:g} dB, failed below {PSNR_FAILED:g}"
        yield check("upscaler.psnr", outcome, told["psnr"], threshold, words)
