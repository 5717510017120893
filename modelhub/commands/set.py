"""``modelhub set``: facts that the user knows better than the files."""

from __future__ import annotations

from difflib import get_close_matches

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import answer_entries, catalog_option, open_catalog
from modelhub.report.sink import Sink


@click.command("set")
@click.argument("selector", metavar="RECORD")
@click.argument("facts", metavar="NAME=VALUE...", nargs=-1, required=True)
@catalog_option
@reporting
def command(*, selector: str, facts: tuple[str, ...], catalog: str | None, sink: Sink) -> int:
    """Set facts of RECORD (see 'modelhub show'), whatever its files say, now and when they are identified again.

    NAME is kind, architecture, variant, prediction_type, precision, name, rating (0 to 5) or notes. NAME= says that
    there is none; 'modelhub unset' lets the files speak again.
    """
    pairs = {}
    for fact in facts:
        name, equals, value = fact.partition("=")
        if not equals:
            raise click.UsageError(f"{fact}: write it as NAME=VALUE.", ctx=click.get_current_context())
        pairs[name.strip().replace("-", "_")] = value.strip() or None
    notes = pairs.pop("notes", "")
    with open_catalog(catalog, sink) as opened:
        entry = opened.set(selector, pairs)
        if notes != "":
            entry = opened.note(f"#{entry.id}", notes or "")
    answer_entries([entry], sink)
    for name, text in pairs.items():
        if text is not None and (meant := _meant(name, text)) is not None:
            sink.note(f"{name} is {text} now; did you mean {meant}?")
    return ExitCode.OK


_PREDICTION_TYPES = ("epsilon", "v_prediction", "flow", "edm")
_LIKE = 0.7
"""How alike a misspelling is to what is meant: ``sd15`` is to ``sd-1``, a kind that has no folder to none of those that
have."""


def _meant(name: str, value: str) -> str | None:
    """What *value* is a misspelling of, if it is one: any text may be set, for no rule knows every model."""
    from modelhub.identify.registry import architectures
    from modelhub.organising.folders import COMFYUI

    known = {"kind": COMFYUI, "architecture": architectures(), "prediction_type": _PREDICTION_TYPES}.get(name, ())
    if value in known:
        return None
    longer = [each for each in known if each.startswith(value.lower())]
    return next(iter(longer or get_close_matches(value.lower(), list(known), n=1, cutoff=_LIKE)), None)
