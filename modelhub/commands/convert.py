"""``modelhub convert``: a checkpoint becomes safetensors, changed on the way as asked for."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from modelhub.commands import ExitCode, Outcome, making
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.batch import BatchRequest
    from modelhub.convert import ConversionOptions


@click.command("convert")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="[DST]", required=False)
@click.option("-o", "--output", metavar="DST", help="The same as DST, after SRC.")
@click.option(
    "--dtype",
    "dtypes",
    metavar="[PART=]TYPE",
    multiple=True,
    help="Cast weights to fp16, bf16 or fp32 (keep: do not); PART is unet, vae, te or a tensor's name with wildcards. "
    "May be given several times, the last one that fits a tensor counts: --dtype fp16 --dtype vae=fp32.",
)
@click.option("--prune", is_flag=True, help="Leave out what no loader uses: averaged weights, losses, optimizer state.")
@click.option(
    "--ema",
    type=click.Choice(("keep", "drop", "use")),
    help="Averaged weights (EMA): keep or drop them, or use them in place of the trained ones. "
    "[default: keep; drop with --prune]",
)
@click.option("--include", metavar="NAME", multiple=True, help="Keep only tensors of this name, with wildcards.")
@click.option("--exclude", metavar="NAME", multiple=True, help="Leave out tensors of this name, with wildcards.")
@click.option("--components", metavar="LIST", help="Write only these parts, each into its own file: unet,vae,te.")
@click.option("--fix-vae", metavar="FILE", help="Put the VAE of FILE, a VAE or a checkpoint, into the checkpoint.")
@click.option("--add-metadata", "pairs", metavar="KEY=VALUE", multiple=True, help="Add a pair to the header.")
@click.option("--modelspec", is_flag=True, help="Describe the model in the header by ModelSpec 1.0.1.")
@click.option("--dense", is_flag=True, help="Write sparse and quantised tensors with all their elements.")
@click.option("--dedupe-shared", is_flag=True, help="Write a tensor that has several names once, under the first.")
@click.option(
    "--align",
    type=click.Choice(("64", "4096")),
    help="Begin tensors at multiples of so many bytes; without it the file is what save_file writes.",
)
@click.option("--max-shard-size", metavar="SIZE", help="Write several files of at most SIZE (5GB) and an index.")
@click.option(
    "--layout",
    type=click.Choice(("ldm", "diffusers")),
    help="Make a checkpoint of SD 1, SD 2 or SDXL a diffusers folder, or such a folder a checkpoint (ldm).",
)
@click.option(
    "--tokenizer",
    metavar="DIR",
    help="Give a diffusers folder the tokenizer in DIR: vocab.json, merges.txt. [default: CLIP's own]",
)
@click.option(
    "--in-place", is_flag=True, help="Rewrite a .safetensors file under its own name, once the new one is verified."
)
@click.option("--delete-source", is_flag=True, help="Delete SRC once the output is verified.")
@click.option("--digests", is_flag=True, help="Compute the SHA-256 of SRC and of what is written, in the same pass.")
@click.option("--receipt", is_flag=True, help="Write OUT.receipt.json, with which 'modelhub verify' checks OUT later.")
@click.option(
    "-r", "--recursive", is_flag=True, help="Convert every checkpoint below the folder SRC, into DST or beside it."
)
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Files at a time, with -r. [default: 2]")
@click.option("--force", is_flag=True, help="Replace DST if it is a file that exists.")
@click.option("--salvage", is_flag=True, help="Copy the tensors of a file that is not SAFE as well.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@making
def command(
    *,
    source: str,
    target: str | None,
    output: str | None,
    fix_vae: str | None,
    tokenizer: str | None,
    in_place: bool,
    delete_source: bool,
    digests: bool,
    receipt: bool,
    recursive: bool,
    jobs: int | None,
    force: bool,
    salvage: bool,
    dry_run: bool,
    sink: Sink,
    **changes: Any,
) -> int:
    """Copy the tensors of SRC into the safetensors file DST (default: beside SRC, under its name).

    SRC may also be a diffusers folder, or that of one model in shards: DST is then a new folder, as for everything that
    becomes several files. Nothing of SRC is executed, and only --in-place and --delete-source touch it. The copy is
    verified: every tensor's bytes are compared with the source before DST appears.
    """
    if target is not None and output is not None:
        raise click.UsageError("Name DST once: after SRC, or with -o.")
    target = target if output is None else output
    options = _options(**changes)
    if recursive:
        if fix_vae is not None or tokenizer is not None or in_place:
            raise click.UsageError("--fix-vae, --tokenizer and --in-place are for one file.")
        from modelhub.batch import BatchRequest

        request = BatchRequest(options, receipt, digests, delete_source, force, salvage, dry_run)
        return _convert_all(source, target, request, jobs or 2, sink)
    if jobs is not None:
        raise click.UsageError("--jobs is for several files: say --recursive too.")
    from modelhub.convert import Conversion, convert, default_target

    with sink.progress() as bar:
        if bar is not None:
            bar.begin_file(source)
        done = convert(
            source,
            target,
            options=options,
            fix_vae=fix_vae,
            tokenizer=tokenizer,
            in_place=in_place,
            delete_source=delete_source,
            digests=digests,
            receipt=receipt,
            force=force,
            salvage=salvage,
            dry_run=dry_run,
            progress=bar.advance if bar else None,
        )
    plan = done.plan if isinstance(done, Conversion) else done
    written = source if in_place else default_target(source, target, folder=plan.is_folder)
    if sink.machine:
        from modelhub.report.json import CONVERT_SCHEMA, conversion_dict, plan_dict

        sink.add(conversion_dict(done) if isinstance(done, Conversion) else plan_dict(done, written))
        sink.document(CONVERT_SCHEMA, "reports", complete=True)
    else:
        from modelhub.report.converted import conversion_lines, plan_lines

        if isinstance(done, Conversion):
            sink.lines(conversion_lines(done, sink.verbosity))
        else:
            sink.lines(plan_lines(done, written, sink.verbosity))
    return ExitCode.OK


def _convert_all(source: str, target: str | None, request: BatchRequest, jobs: int, sink: Sink) -> int:
    """Convert what *source* leads to, tell *sink* of each file as it is done, and sum up."""
    from modelhub.batch import convert_all
    from modelhub.report.batch import batch_dict, batch_lines, tally, verdict_of
    from modelhub.scan.findings import Verdict

    counts: Counter[str] = Counter()
    outcome = Outcome(Verdict.SUSPICIOUS)
    with sink.progress() as bar:
        if bar is not None:
            bar.begin("several files at once", None)
        progress = bar.advance if bar else None
        with closing(convert_all(source, target, request, jobs=jobs, progress=progress)) as results:
            for result in results:
                counts[result.action] += 1
                outcome.add(verdict_of(result), complete=result.action not in ("failed", "refused"))
                if sink.machine:
                    sink.add(batch_dict(result))
                elif result.action != "left alone" or sink.verbosity > 0:
                    sink.lines(batch_lines(result))
                if result.error is not None and result.action == "failed":
                    sink.trace(result.error)
    if sink.machine:
        from modelhub.report.json import CONVERT_SCHEMA

        sink.document(CONVERT_SCHEMA, "reports", complete=outcome.complete)
    sink.note(tally(counts) if counts else "nothing to convert: no model file was found there")
    return outcome.exit_code


def _options(
    *,
    dtypes: tuple[str, ...],
    prune: bool,
    ema: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    components: str | None,
    pairs: tuple[str, ...],
    modelspec: bool,
    dense: bool,
    dedupe_shared: bool,
    align: str | None,
    max_shard_size: str | None,
    layout: str | None,
) -> ConversionOptions:
    from modelhub.convert import ConversionOptions, byte_count, dtype_rule, metadata_pair

    return ConversionOptions(
        dtypes=tuple(map(dtype_rule, dtypes)),
        ema=cast('Literal["keep", "drop", "use"] | None', ema),
        prune=prune,
        include=include,
        exclude=exclude,
        components=tuple(word.strip() for word in components.split(",")) if components is not None else (),
        metadata=dict(map(metadata_pair, pairs)),
        modelspec=modelspec,
        dense=dense,
        dedupe_shared=dedupe_shared,
        align=None if align is None else int(align),
        max_shard_size=None if max_shard_size is None else byte_count(max_shard_size),
        layout=cast('Literal["ldm", "diffusers"] | None', layout),
    )
