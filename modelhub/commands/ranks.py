"""The options of the commands that choose ranks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from modelhub.commands import Command


def choosing_ranks(rank: int) -> Callable[[Command], Command]:
    """Give a command ``--rank``, ``--conv-rank`` and ``--dynamic``, joined as ``rule``; *rank* is the default."""

    def decorate(command: Command) -> Command:
        @click.option(
            "--rank", type=click.IntRange(min=1), default=rank, show_default=True, help="The rank, or the most."
        )
        @click.option(
            "--conv-rank", type=click.IntRange(min=1), help="That of convolutions with a kernel. [default: the same]"
        )
        @click.option(
            "--dynamic",
            metavar="RULE",
            help="A rank for each module: sv_fro=0.9 (the share of the Frobenius norm), sv_ratio=20 (singular values "
            "larger than a 20th of the first) or sv_cumulative=0.9 (the share of their sum).",
        )
        @functools.wraps(command)
        def run(*args: Any, rank: int, conv_rank: int | None, dynamic: str | None, **kwargs: Any) -> int:
            from modelhub.lowrank import RankRule, dynamic_rank

            rule = RankRule(rank, conv_rank, dynamic_rank(dynamic) if dynamic is not None else None)
            return command(*args, rule=rule, **kwargs)

        return run

    return decorate
