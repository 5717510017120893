"""The options of the commands that compute weights."""

from __future__ import annotations

import functools
from typing import Any

import click

from modelhub.commands import Command


def computing(command: Command) -> Command:
    """Give *command* ``--dtype``, ``--exact`` and ``--stochastic-rounding``, joined as ``precision``, ``--verify`` and
    ``--device``.

    ``precision`` is ``None`` where none of the three is given.
    """

    @click.option(
        "--dtype",
        type=click.Choice(("keep", "fp16", "bf16", "fp32")),
        help="The type of the output's weights. [default: keep]",
    )
    @click.option("--exact", is_flag=True, help="Compute in float64 instead of float32.")
    @click.option(
        "--stochastic-rounding",
        "seed",
        metavar="SEED",
        type=int,
        help="Round to one of both neighbours at random, the nearer the likelier, so that small changes are not lost.",
    )
    @click.option(
        "--verify",
        "verify_tensors",
        metavar="N",
        type=click.IntRange(min=0),
        default=0,
        help="Compute N of the changed tensors again, in float64, and compare them with what was written.",
    )
    @click.option("--device", default="cpu", show_default=True, help="What computes: cpu, cuda, cuda:1.")
    @functools.wraps(command)
    def run(*args: Any, dtype: Any, exact: bool, seed: int | None, **kwargs: Any) -> int:
        from modelhub.merge import Precision

        given = dtype is not None or exact or seed is not None
        return command(*args, precision=Precision(dtype or "keep", exact, seed) if given else None, **kwargs)

    return run
