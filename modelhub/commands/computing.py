"""The options of the commands that compute weights."""

from __future__ import annotations

import functools
from typing import Any

import click

from modelhub.commands import Command


def computing(command: Command) -> Command:
    """Give *command* ``--dtype``, ``--exact`` and ``--stochastic-rounding``, joined as ``precision``.

    It is ``None`` where none of them is given.
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
    @functools.wraps(command)
    def run(*args: Any, dtype: Any, exact: bool, seed: int | None, **kwargs: Any) -> int:
        from modelhub.merge import Precision

        given = dtype is not None or exact or seed is not None
        return command(*args, precision=Precision(dtype or "keep", exact, seed) if given else None, **kwargs)

    return run
