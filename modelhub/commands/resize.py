"""``modelhub resize``: a LoRA of a smaller rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import click

from modelhub.commands import ExitCode, merging
from modelhub.commands.ranks import choosing_ranks
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.lowrank import RankRule, Resizing


@click.command("resize")
@click.argument("lora", metavar="LORA")
@click.option("-o", "--output", "target", metavar="OUT", required=True, help="The safetensors file to write.")
@choosing_ranks(16)
@click.option("--dtype", type=click.Choice(("fp16", "bf16", "fp32")), help="The factors' type. [default: LORA's]")
@click.option("--salvage", is_flag=True, help="Take the tensors of files that are not SAFE as well.")
@click.option("--force", is_flag=True, help="Replace OUT if it is a file that exists.")
@click.option(
    "--catalog", metavar="URL", help="Write down in this catalog what OUT was made of; 'modelhub show' tells it."
)
@click.option("--dry-run", is_flag=True, help="Say what would be resized, and write nothing.")
@merging
def command(
    *,
    lora: str,
    target: str,
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

    factors = cast('Literal["fp16", "bf16", "fp32"] | None', dtype)
    if dry_run:
        with plan_resize(lora, rule, dtype=factors, salvage=salvage) as plan:
            if sink.machine:
                from modelhub.report.lowrank import resize_plan_dict

                _answer(sink, resize_plan_dict(plan, target))
            else:
                from modelhub.report.lowrank import resize_plan_lines

                sink.lines(resize_plan_lines(plan, target, sink.verbosity))
        return ExitCode.OK
    with sink.progress() as bar:
        if bar is not None:
            bar.begin_file(lora)
        progress = bar.advance if bar else None
        done = resize(lora, rule, target=target, dtype=factors, salvage=salvage, force=force, progress=progress)
    if catalog is not None:
        _remember(done, catalog, sink)
    if sink.machine:
        from modelhub.report.lowrank import resizing_dict

        _answer(sink, resizing_dict(done))
    else:
        from modelhub.report.lowrank import resizing_lines

        sink.lines(resizing_lines(done, sink.verbosity))
    return ExitCode.OK


def _remember(done: Resizing, catalog: str, sink: Sink) -> None:
    from modelhub.commands.deriving import remember
    from modelhub.report.lowrank import rule_dict
    from modelhub.source import Digest

    inputs = [(Digest(done.sha256), "adapter")]
    params = rule_dict(done.plan.rule)
    remember("resize", target=done.conversion.target, inputs=inputs, params=params, catalog=catalog, sink=sink)


def _answer(sink: Sink, value: dict[str, object]) -> None:
    from modelhub.report.json import RESIZE_SCHEMA

    sink.add(value)
    sink.document(RESIZE_SCHEMA, "reports", complete=True)
