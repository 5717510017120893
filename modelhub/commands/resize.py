"""``modelhub resize``: a LoRA of a smaller rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import click

from modelhub.commands import making
from modelhub.commands.deriving import answer, named_target, progress_of, remember
from modelhub.commands.ranks import choosing_ranks
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.lowrank import RankRule, Resizing


@click.command("resize")
@click.argument("lora", metavar="LORA")
@click.option("-o", "--output", "target", metavar="OUT", help="The safetensors file to write.")
@choosing_ranks(16)
@click.option("--dtype", type=click.Choice(("fp16", "bf16", "fp32")), help="The factors' type. [default: LORA's]")
@click.option("--salvage", is_flag=True, help="Take the tensors of files that are not SAFE as well.")
@click.option("--force", is_flag=True, help="Replace OUT if it is a file that exists.")
@click.option(
    "--catalog", metavar="URL", help="Write down in this catalog what OUT was made of; 'modelhub show' tells it."
)
@click.option("--dry-run", is_flag=True, help="Say what would be resized, and write nothing.")
@making
def command(
    *,
    lora: str,
    target: str | None,
    rule: RankRule,
    dtype: str | None,
    salvage: bool,
    force: bool,
    catalog: str | None,
    dry_run: bool,
    sink: Sink,
) -> int:
    """Write LORA with another rank, as strong as it was, to OUT, and say how much of it is left.

    Modules of LoRA and LoCon are resized; what a file has of other algorithms is copied.
    """
    from modelhub.lowrank import plan_resize, resize
    from modelhub.report.json import RESIZE_SCHEMA
    from modelhub.report.lowrank import resize_plan_dict, resize_plan_lines, resizing_dict, resizing_lines

    factors = cast('Literal["fp16", "bf16", "fp32"] | None', dtype)
    if dry_run:
        with plan_resize(lora, rule, dtype=factors, salvage=salvage) as plan:
            return answer(sink, RESIZE_SCHEMA, resize_plan_dict, resize_plan_lines, plan, target)
    with progress_of(lora, sink) as progress:
        done = resize(
            lora, rule, target=named_target(target), dtype=factors, salvage=salvage, force=force, progress=progress
        )
    if catalog is not None:
        _remember(done, catalog, sink)
    return answer(sink, RESIZE_SCHEMA, resizing_dict, resizing_lines, done)


def _remember(done: Resizing, catalog: str, sink: Sink) -> None:
    from modelhub.report.lowrank import rule_dict
    from modelhub.source import Digest

    inputs = [(Digest(done.sha256), "adapter")]
    params = rule_dict(done.plan.rule)
    remember("resize", target=done.conversion.target, inputs=inputs, params=params, catalog=catalog, sink=sink)
