"""Two models side by side: what each made of the same prompt and seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from modelhub.report.plain import Line, Span, line
from modelhub.report.smoke_page import comparison_page, write_text
from modelhub.report.smoked import OUTCOME_STYLES, result_dict
from modelhub.smoke import Pair


def pair_lines(pair: Pair) -> Iterator[Line]:
    """The prompt, what came of each model, and how alike their images are."""
    yield line(Span(pair.prompt, "bold"), Span(f"  seed {pair.seed}", "dim"))
    for result in (pair.first, pair.second):
        yield line(
            "    ", Span(f"{result.outcome:<14}", OUTCOME_STYLES[result.outcome]), f"{result.path}: {result.sentence}"
        )
    yield line("    ", words_of(pair))


def words_of(pair: Pair) -> str:
    """How alike the images are, in words."""
    if pair.alike is None:
        return "there are not two images to compare"
    bits, ssim = pair.alike["bits"], pair.alike["ssim"]
    same = f", structural similarity {ssim:.3f}" if ssim is not None else ""
    return f"difference: {bits} of 64 bits of the hash{same}"


def pair_dict(pair: Pair) -> dict[str, Any]:
    """A pair as a plain object."""
    return {
        "prompt": pair.prompt,
        "seed": pair.seed,
        "first": result_dict(pair.first),
        "second": result_dict(pair.second),
        "alike": None if pair.alike is None else dict(pair.alike),
    }


def write_page(path: str, pairs: Sequence[Pair]) -> None:
    """Write the page of *pairs* to *path*; see :func:`modelhub.report.smoke_page.write_text`."""
    rows = [(f"{pair.prompt} (seed {pair.seed})", words_of(pair), (pair.first, pair.second)) for pair in pairs]
    write_text(path, comparison_page(rows))
