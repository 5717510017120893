"""``modelhub merge``: LoRAs and their relatives become a part of a model's weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from modelhub.commands import making
from modelhub.commands.computing import computing
from modelhub.commands.deriving import answer, digest_at, known_digests, named_target, progress_of, remember
from modelhub.errors import RecipeNotWritten
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.merge import Merge, Precision


@click.command("merge")
@click.argument("base", metavar="[BASE]", required=False)
@click.option(
    "--lora",
    "loras",
    metavar="FILE[:WEIGHTS]",
    multiple=True,
    help="An adapter and how strongly it is applied: A.safetensors:0.8, or A.safetensors:unet=1,te=0.4,IN04=0.5, or "
    "a row of block weights, A.safetensors:lbw=1/0/0.5/... May be given several times.",
)
@click.option(
    "-o", "--output", "target", metavar="OUT", help="The file or folder to write. [with --recipe: what FILE names]"
)
@click.option("--recipe", metavar="FILE", help="Merge what FILE says, a recipe as it is written beside each output.")
@computing
@click.option("--allow-unmatched", is_flag=True, help="Leave out modules that have no place in BASE, and list them.")
@click.option("--again", is_flag=True, help="Merge an adapter that BASE was merged with before once more.")
@click.option("--salvage", is_flag=True, help="Take the tensors of files that are not SAFE as well.")
@click.option("--force", is_flag=True, help="Replace OUT if it is a file that exists.")
@click.option(
    "--catalog", metavar="URL", help="Write down in this catalog what OUT was made of; 'modelhub show' tells it."
)
@click.option("--dry-run", is_flag=True, help="Say what would be merged into what, and write nothing.")
@making
def command(
    *,
    base: str | None,
    loras: tuple[str, ...],
    target: str | None,
    recipe: str | None,
    precision: Precision | None,
    allow_unmatched: bool,
    again: bool,
    salvage: bool,
    verify_tensors: int,
    device: str,
    force: bool,
    catalog: str | None,
    dry_run: bool,
    sink: Sink,
) -> int:
    """Merge adapters into the checkpoint or diffusers folder BASE, in the order given, and write OUT.

    Nothing of BASE or of an adapter is executed, and neither is changed. What no adapter changes is copied byte for
    byte. A module that has no place in BASE is an error. OUT.recipe.toml says what was merged.
    """
    from modelhub.merge import (
        Precision,
        Recipe,
        RecipeAdapter,
        adapter_file,
        adapter_use,
        merge,
        plan_merge,
        read_recipe,
    )
    from modelhub.report.json import MERGE_SCHEMA
    from modelhub.report.merged import merge_dict, merge_lines, plan_dict, plan_lines

    if recipe is not None:
        if base is not None or loras:
            raise click.UsageError("--recipe says what is merged; leave out BASE and --lora.")
        if precision is not None:
            raise click.UsageError("--recipe says how it is computed; leave out --dtype and the like.")
        wanted = read_recipe(recipe)
    else:
        if base is None or not loras:
            raise click.UsageError("Missing BASE or --lora (or --recipe).")
        wanted = Recipe(base, tuple(RecipeAdapter(adapter_use(each)) for each in loras), precision or Precision())
    if dry_run:
        with plan_merge(wanted, allow_unmatched=allow_unmatched, again=again, salvage=salvage) as plan:
            return answer(sink, MERGE_SCHEMA, plan_dict, plan_lines, plan, target or wanted.output)
    try:
        with progress_of(wanted.base, sink) as progress:
            done = merge(
                wanted,
                target=named_target(target, wanted.output),
                allow_unmatched=allow_unmatched,
                again=again,
                salvage=salvage,
                force=force,
                verify_tensors=verify_tensors,
                device=device,
                known=known_digests(
                    [wanted.base, *(adapter_file(each.use.path) for each in wanted.adapters)], catalog, sink
                ),
                progress=progress,
            )
    except RecipeNotWritten as error:
        if catalog is not None:
            _remember(error.done, catalog, sink)
        raise
    if catalog is not None:
        _remember(done, catalog, sink)
    return answer(sink, MERGE_SCHEMA, merge_dict, merge_lines, done)


def _remember(done: Merge, catalog: str, sink: Sink) -> None:
    """Write the step down in *catalog*: which bytes the output was made of, in which roles and how."""
    from modelhub.merge import written_recipe
    from modelhub.source import Digest

    inputs = [(digest_at(done.plan.base, done.digests), "base")]
    inputs += [(Digest(each.sha256), f"adapter {number}") for number, each in enumerate(done.plan.adapters, 1)]
    params = {"recipe": written_recipe(replace(done.plan.recipe, digests=done.digests))}
    remember(
        "merge", target=done.conversion.target, inputs=inputs, params=params, read=done.read, catalog=catalog, sink=sink
    )
