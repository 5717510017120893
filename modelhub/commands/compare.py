"""``modelhub compare``: what two models make of the same prompts and seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.testing import catalog_for_tests, path_of, running
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.smoke import Limits, Settings


@click.command("compare")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--prompt",
    "prompts",
    metavar="TEXT",
    multiple=True,
    help="Draw this; may be repeated. [default: --prompts, or two]",
)
@click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True, help="Seeds for each prompt.")
@running
@click.option("--page", metavar="FILE", help="Write a page with the images side by side to FILE.")
@reporting
def command(
    *,
    first: str,
    second: str,
    prompts: tuple[str, ...],
    seeds: int,
    settings: Settings,
    limits: Limits,
    base: str | None,
    catalog: str | None,
    page: str | None,
    sink: Sink,
) -> int:
    """Run A and B, files, folders or records, on the same prompts and noise, and tell how alike the images are.

    Both are tested as 'modelhub smoke' does. Alike are images by their difference hash (bits of 64 that differ) and
    their structural similarity (SSIM, 1 for equal ones). Ends with 0 when there is an image of both for every prompt
    and seed, else with 2.
    """
    from modelhub.report import compared
    from modelhub.smoke import PROMPTS
    from modelhub.trials import Trials, compare

    asked = [
        replace(settings, prompts=(text, PROMPTS[text == PROMPTS[0]]), seed=settings.first_seed + number)
        for text in prompts or settings.prompts[: None if settings.prompts != PROMPTS else 2]
        for number in range(seeds)
    ]
    if page is not None:
        compared.write_page(page, [])
    with catalog_for_tests(catalog, sink, needed=False) as opened:
        paths = [path_of(each, opened) for each in (first, second)]
        chosen = base if base is None else path_of(base, opened)
        with Trials(opened, settings, limits, base=chosen, keeps=False) as trials:
            pairs = compare(trials, paths[0], paths[1], asked)
    if page is not None:
        compared.write_page(page, pairs)
    if sink.machine:
        from modelhub.report.json import COMPARE_SCHEMA

        for pair in pairs:
            sink.add(compared.pair_dict(pair))
        sink.document(COMPARE_SCHEMA, "pairs", complete=all(pair.alike for pair in pairs))
    else:
        for pair in pairs:
            sink.lines(compared.pair_lines(pair))
    return ExitCode.OK if all(pair.alike for pair in pairs) else ExitCode.INCOMPLETE
