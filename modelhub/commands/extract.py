"""``modelhub extract``: the difference of two models as a LoRA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import click

from modelhub.commands import making
from modelhub.commands.deriving import answer, digest_at, known_digests, named_target, progress_of, remember
from modelhub.commands.ranks import choosing_ranks
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.lowrank import Extraction, RankRule


@click.command("extract")
@click.argument("tuned", metavar="TUNED")
@click.argument("base", metavar="BASE")
@click.option("-o", "--output", "target", metavar="OUT", help="The safetensors file to write.")
@choosing_ranks(32)
@click.option(
    "--dtype", type=click.Choice(("fp16", "bf16", "fp32")), default="fp16", show_default=True, help="The factors' type."
)
@click.option("--exact", is_flag=True, help="Compute all singular values of each module, in float64: slow.")
@click.option("--allow-unmatched", is_flag=True, help="Leave out what TUNED lacks or has in another shape.")
@click.option("--salvage", is_flag=True, help="Take the tensors of files that are not SAFE as well.")
@click.option("--force", is_flag=True, help="Replace OUT if it is a file that exists.")
@click.option(
    "--catalog", metavar="URL", help="Write down in this catalog what OUT was made of; 'modelhub show' tells it."
)
@click.option("--dry-run", is_flag=True, help="Say what would be extracted, and write nothing.")
@making
def command(
    *,
    tuned: str,
    base: str,
    target: str | None,
    rule: RankRule,
    dtype: str,
    exact: bool,
    allow_unmatched: bool,
    salvage: bool,
    force: bool,
    catalog: str | None,
    dry_run: bool,
    sink: Sink,
) -> int:
    """Write the LoRA that makes the model TUNED of the model BASE, as nearly as its rank allows, to OUT.

    Both are checkpoints or diffusers folders of one architecture. The answer says how much of each module's change the
    LoRA has, and what changed that no LoRA has: norms, biases, embeddings.
    """
    from modelhub.lowrank import extract, plan_extract
    from modelhub.report.json import EXTRACT_SCHEMA
    from modelhub.report.lowrank import extract_plan_dict, extract_plan_lines, extraction_dict, extraction_lines

    factors = cast('Literal["fp16", "bf16", "fp32"]', dtype)
    if dry_run:
        with plan_extract(
            tuned, base, rule, dtype=factors, exact=exact, allow_unmatched=allow_unmatched, salvage=salvage
        ) as plan:
            return answer(sink, EXTRACT_SCHEMA, extract_plan_dict, extract_plan_lines, plan, target)
    with progress_of(tuned, sink) as progress:
        done = extract(
            tuned,
            base,
            rule,
            target=named_target(target),
            dtype=factors,
            exact=exact,
            allow_unmatched=allow_unmatched,
            salvage=salvage,
            force=force,
            known=known_digests((tuned, base), catalog, sink),
            progress=progress,
        )
    if catalog is not None:
        _remember(done, catalog, sink)
    return answer(sink, EXTRACT_SCHEMA, extraction_dict, extraction_lines, done)


def _remember(done: Extraction, catalog: str, sink: Sink) -> None:
    from modelhub.report.lowrank import rule_dict

    models = (("tuned", done.plan.tuned), ("base", done.plan.base))
    inputs = [(digest_at(path, done.digests[role]), role) for role, path in models]
    params = rule_dict(done.plan.rule) | {"exact": done.plan.exact}
    remember(
        "extract",
        target=done.conversion.target,
        inputs=inputs,
        params=params,
        read=done.read,
        catalog=catalog,
        sink=sink,
    )
