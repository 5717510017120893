"""``modelhub blend``: one checkpoint of two or three."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from modelhub.commands import making
from modelhub.commands.computing import computing
from modelhub.commands.deriving import answer, digest_at, known_digests, named_target, progress_of, remember
from modelhub.errors import RecipeNotWritten
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.blend import Blend
    from modelhub.merge import Precision


@click.command("blend")
@click.argument("models", metavar="A B [C]", nargs=-1)
@click.option(
    "--method",
    type=click.Choice(("weighted", "sum-twice", "add-difference", "train-difference", "slerp")),
    help="weighted: (1 - alpha) A + alpha B, with C (1 - alpha - beta) A + alpha B + beta C; sum-twice: "
    "(1 - beta) ((1 - alpha) A + alpha B) + beta C; add-difference: A + alpha (B - C); train-difference: the same, "
    "weaker where A is like B; slerp: alpha of the arc from A to B. [default: weighted]",
)
@click.option(
    "--alpha", metavar="RATIOS", help="0.3, or with parts' own: 0.3,te=0,IN04=1,vae=0,'*attn2*=0.5'. [default: 0.5]"
)
@click.option("--beta", metavar="RATIOS", help="The same for C. [default: 0]")
@click.option(
    "--block-weights",
    "blocks",
    metavar="ROW",
    help="Alpha of each block: a row of 12, 17, 20, 26 or 61, or IN04=0.5,M00=1,...",
)
@click.option(
    "-o", "--output", "target", metavar="OUT", help="The file or folder to write. [with --recipe: what FILE names]"
)
@click.option("--recipe", metavar="FILE", help="Blend what FILE says, a recipe as it is written beside each output.")
@computing
@click.option("--allow-unmatched", is_flag=True, help="Keep A's tensors where B or C has none or another shape.")
@click.option("--salvage", is_flag=True, help="Take the tensors of files that are not SAFE as well.")
@click.option("--force", is_flag=True, help="Replace OUT if it is a file that exists.")
@click.option(
    "--catalog", metavar="URL", help="Write down in this catalog what OUT was made of; 'modelhub show' tells it."
)
@click.option("--dry-run", is_flag=True, help="Say what would be blended, and write nothing.")
@making
def command(
    *,
    models: tuple[str, ...],
    method: str | None,
    alpha: str | None,
    beta: str | None,
    blocks: str | None,
    target: str | None,
    recipe: str | None,
    precision: Precision | None,
    allow_unmatched: bool,
    salvage: bool,
    verify_tensors: int,
    device: str,
    force: bool,
    catalog: str | None,
    dry_run: bool,
    sink: Sink,
) -> int:
    """Blend the checkpoints or diffusers folders A, B and perhaps C, of one architecture, and write OUT.

    OUT has A's tensors, types, layout and metadata. What of them is a weight of the UNet or transformer, the text
    encoders or the VAE is blended; all else is copied byte for byte. OUT.recipe.toml says what was blended.
    """
    from modelhub.blend import BlendRecipe, MethodName, blend, parsed_ratios, plan_blend, read_blend, with_blocks
    from modelhub.merge import Precision, Weights
    from modelhub.report.blended import blend_dict, blend_lines, plan_dict, plan_lines
    from modelhub.report.json import BLEND_SCHEMA

    if recipe is not None:
        if models or any(each is not None for each in (method, alpha, beta, blocks)):
            raise click.UsageError("--recipe says what is blended; leave out the models, the method and the ratios.")
        if precision is not None:
            raise click.UsageError("--recipe says how it is computed; leave out --dtype and the like.")
        wanted = read_blend(recipe)
    else:
        if len(models) not in (2, 3):
            raise click.UsageError("Two or three models are blended: A B [C] (or --recipe).")
        first = parsed_ratios(alpha) if alpha is not None else Weights(0.5)
        first = with_blocks(first, blocks) if blocks is not None else first
        second = parsed_ratios(beta) if beta is not None else Weights(0.0)
        wanted = BlendRecipe(cast("MethodName", method or "weighted"), models, first, second, precision or Precision())
    if dry_run:
        with plan_blend(wanted, allow_unmatched=allow_unmatched, salvage=salvage) as plan:
            return answer(sink, BLEND_SCHEMA, plan_dict, plan_lines, plan, target or wanted.output)
    try:
        with progress_of(wanted.models[0], sink) as progress:
            done = blend(
                wanted,
                target=named_target(target, wanted.output),
                allow_unmatched=allow_unmatched,
                salvage=salvage,
                force=force,
                verify_tensors=verify_tensors,
                device=device,
                known=known_digests(wanted.models, catalog, sink),
                progress=progress,
            )
    except RecipeNotWritten as error:
        if catalog is not None:
            _remember(error.done, catalog, sink)
        raise
    if catalog is not None:
        _remember(done, catalog, sink)
    return answer(sink, BLEND_SCHEMA, blend_dict, blend_lines, done)


def _remember(done: Blend, catalog: str, sink: Sink) -> None:
    from modelhub.blend import written_blend

    roles = ("model A", "model B", "model C")
    inputs = [
        (digest_at(path, digests), role)
        for path, digests, role in zip(done.recipe.models, done.recipe.digests, roles, strict=False)
    ]
    params = {"recipe": written_blend(done.recipe)}
    remember(
        "blend", target=done.conversion.target, inputs=inputs, params=params, read=done.read, catalog=catalog, sink=sink
    )
