"""``modelhub inspect``: container, identity, precision, tensors, metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import click

from modelhub.commands import (
    ExitCode,
    cache_at,
    each_source,
    hf_cache_option,
    paths_unless,
    reason_of,
    reporting,
    target_of,
)
from modelhub.report.plain import line
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.container import Container
    from modelhub.source import Digest


@click.command("inspect")
@paths_unless("hf_cache")
@hf_cache_option
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--explain", is_flag=True, help="Say what decided each fact, and why not the runner-up.")
@click.option(
    "--content-digest", is_flag=True, help="Read all tensors for the digest that a model has in whatever file it lies."
)
@reporting
def command(
    *,
    paths: Sequence[str],
    hf_cache: str | None,
    tensors: bool,
    explain: bool,
    content_digest: bool,
    sink: Sink,
) -> int:
    """Say which model each PATH is: container, kind, architecture, precision, tensors, metadata.

    A folder that is one model (a pipeline, a component, shards, a PEFT adapter) is told as one, with what of it is
    missing.
    No tensor is read, but for its digest, and - is standard input. Ends with 0 when the tensors of every file could be
    told, else with 2.
    """
    understood = 0
    asked = 0
    cache = cache_at(hf_cache)
    wanted = _Wanted(tensors, explain, content_digest)
    for path, barred in each_source(paths, addresses=True, cache=cache):
        asked += 1
        name = cache.address_of(path) if cache is not None else path
        understood += _fail(path, name, barred, sink) if barred else _inspect(path, name, wanted, sink)
    if sink.machine:
        from modelhub.report.json import INSPECT_SCHEMA

        sink.document(INSPECT_SCHEMA, "reports", complete=0 < understood == asked)
    if not asked:
        sink.note("nothing to inspect: no model file was found there")
    return ExitCode.OK if 0 < understood == asked else ExitCode.INCOMPLETE


class _Wanted(NamedTuple):
    """What is to be told of each model beside what it is."""

    tensors: bool
    explain: bool
    content_digest: bool


def _inspect(path: str, name: str, wanted: _Wanted, sink: Sink) -> bool:
    """Add what *path* is, called *name*, to the answer; whether its tensors could be told."""
    from modelhub import verbs
    from modelhub.report import inspected

    try:
        target = target_of(path)
        inspection = verbs.inspect(target, explain=wanted.explain)
        content = _content_digest(target) if wanted.content_digest else None
    except Exception as error:
        return _fail(path, name, error, sink)
    if name != path:
        inspection = inspection._replace(container=replace(inspection.container, name=name))
    if sink.machine:
        found = inspected.inspect_dict(inspection, tensors=wanted.tensors, explain=wanted.explain)
        sink.add(found if content is None else {**found, "content_digest": {"sha256": content.sha256}})
    else:
        sink.lines(inspected.inspect_lines(inspection, sink.verbosity, explain=wanted.explain))
        if content is not None:
            sink.lines([line(f"  content digest  {content}")])
        if wanted.tensors:
            sink.table(inspected.tensor_table(inspection))
    return inspection.problem is None


def _content_digest(target: str | Container) -> Digest:
    from modelhub.convert import content

    return content.content_digest(target) if isinstance(target, str) else content.content_digest_of(target)


def _fail(path: str, name: str, error: Exception, sink: Sink) -> bool:
    from modelhub.report import inspected
    from modelhub.source import shown_address

    sink.trace(error)
    reason, name = reason_of(error, shown_address(path)), shown_address(name)
    if sink.machine:
        sink.add(inspected.failed_dict(name, reason))
    else:
        sink.lines(inspected.failed_lines(name, reason))
    return False
