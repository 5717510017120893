"""An image of every prompt at every seed, on one sheet: a row for each prompt, a column for each seed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import torch

from modelhub.smoke import images
from modelhub.smoke.course import Course, difference
from modelhub.smoke.sampling import Sampler, statistics
from modelhub.smoke.steering import Steering

_SIDE = 256
"""Pixels of an image on the sheet."""


def try_grid(
    course: Course,
    sampler: Sampler,
    *,
    picture: torch.Tensor | None = None,
    vectors: Mapping[str, torch.Tensor] | None = None,
    steering: Steering | None = None,
) -> None:
    """Sample each of the spec's prompts at each of its seeds, and tell what each looks like, and how far the latents
    are apart of two seeds and of two prompts at least.

    *picture* is what the pipeline starts from, if it is one that does, *vectors* an embedding's that stand before the
    words, *steering* what steers it.
    """
    spec = course.spec
    if not spec.seeds:
        return
    course.teller.stage("making the grid")
    latents: dict[tuple[int, int], torch.Tensor] = {}
    cells: list[dict[str, Any]] = []
    sheet = np.zeros((len(spec.prompts) * _SIDE, len(spec.seeds) * _SIDE, 3), np.float32)
    for row, text in enumerate(spec.prompts):
        prompt = sampler.encode(text, vectors)
        empty = sampler.empty(prompt)
        for column, seed in enumerate(spec.seeds):
            made = sampler.sample(
                prompt, empty, guidance=spec.guidance, picture=picture, seed=seed, steering=steering
            ).latents
            latents[row, column] = made.float().cpu()
            decoded = course.decoded(made)
            told: dict[str, Any] = {"prompt": text, "seed": seed, "non_finite": statistics(decoded)["non_finite"]}
            if not told["non_finite"]:
                found = np.clip(decoded[0].permute(1, 2, 0).cpu().numpy(), 0, 1)
                told |= images.measure(found, len(images.png(found)))
                sheet[row * _SIDE : (row + 1) * _SIDE, column * _SIDE : (column + 1) * _SIDE] = images.small(
                    found, _SIDE
                )
            cells.append(told)
    course.keep_grid(course.png(sheet, sheet=True))
    course.teller.tell(grid={"images": cells, "seeds": _least(latents, 1), "prompts": _least(latents, 0)})


def _least(latents: Mapping[tuple[int, int], torch.Tensor], axis: int) -> float | None:
    """The least difference of two latents that are in other places along *axis* alone; ``None`` where there are not
    two."""
    pairs = [
        difference(latents[one], latents[other])
        for one, other in combinations(latents, 2)
        if one[1 - axis] == other[1 - axis]
    ]
    return min(pairs, default=None)
