"""Records of the catalog for people. They come as the plain objects that their JSON form is, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelhub.report.plain import Column, Line, Span, Table, byte_size, fields, line, shortened
from modelhub.report.scanned import SHOWN_FINDINGS, verdict_span

Plain = Mapping[str, Any]

_SHOWN_RUNS = 3
_STATES = {"quarantined": "in quarantine", "offline": "offline", "gone": "gone"}
"""What is said of records whose bytes are not where the user would look for them."""


def entry_table(entries: Sequence[Plain], verbosity: int = 0) -> Table:
    """One row per record, with what is wrong where anything is; with ``-v`` also where it lies."""
    columns = [
        Column("id", right=True),
        Column("verdict"),
        Column("kind"),
        Column("architecture"),
        Column("precision"),
        Column("size", right=True),
        Column("name", wraps=True),
        Column("tags", wraps=True),
    ]
    extra = {
        "rating": any(entry["rating"] is not None for entry in entries),
        "problem": any(entry["problem"] for entry in entries),
        "path": verbosity > 0,
    }
    shown = [name for name, wanted in extra.items() if wanted]
    columns += [Column(name, wraps=True) for name in shown]
    return Table(tuple(columns), tuple(_entry_row(entry, shown) for entry in entries))


def _entry_row(entry: Plain, extra: Sequence[str]) -> Line:
    rating = "" if entry["rating"] is None else f"{entry['rating']} of 5"
    last = {"rating": rating, "problem": entry["problem"] or "", "path": entry["path"] or "gone"}
    state = _STATES.get(entry["state"])
    architecture = " ".join(part for part in (entry["architecture"], entry["variant"]) if part)
    return line(
        str(entry["id"]),
        _verdict(entry),
        entry["kind"] or "-",
        architecture or "-",
        entry["precision"] or "-",
        byte_size(entry["size"]),
        f"{entry['name']} ({state})" if state is not None else entry["name"],
        ", ".join(entry["tags"]),
        *(last[name] for name in extra),
    )


def _verdict(entry: Plain) -> Span:
    return verdict_span(entry["verdict"]) if entry["verdict"] is not None else Span("not scanned", "dim")


def detail_lines(detail: Plain, verbosity: int = 0) -> Iterator[Line]:
    """Everything about one record; evidence and long metadata in full with ``-v``."""
    entry = detail["entry"]
    identified = detail["identification"] or {
        "candidates": (),
        "components": (),
        "tensor_count": None,
        "parameter_count": None,
        "evidence": (),
    }
    limit = 4000 if verbosity > 0 else 100
    yield line(Span(entry["name"], "bold"), Span(f"  #{entry['id']}", "dim"))
    yield line("  ", _verdict(entry))
    if detail["problem"]:
        yield line("  ", Span("problem  ", "unknown"), detail["problem"])
    yield from fields(
        [
            ("kind", entry["kind"]),
            ("architecture", entry["architecture"] or " or ".join(identified["candidates"]) or None),
            ("variant", entry["variant"]),
            ("prediction type", entry["prediction_type"]),
            ("precision", entry["precision"]),
            ("components", ", ".join(identified["components"]) or None),
            ("container", entry["container"]),
            ("tensors", _number(identified["tensor_count"])),
            ("parameters", _number(identified["parameter_count"])),
            ("size", f"{byte_size(entry['size'])} ({entry['size']:,} bytes)"),
            ("sha256", entry["digest"] or "not computed yet"),
            *(_digest(each) for each in detail["digests"] if each["origin"] == "computed"),
            ("rating", None if entry["rating"] is None else f"{entry['rating']} of 5"),
            ("tags", ", ".join(entry["tags"]) or None),
            ("collections", ", ".join(detail["collections"]) or None),
            ("trigger words", ", ".join(detail["triggers"]) or None),
            ("notes", detail["notes"] or None),
            ("added", entry["added"]),
        ]
    )
    for place in detail["locations"]:
        state = place["state"] if place["state"] != "live" else "told by its header" if not place["proven"] else ""
        gone = f"  ({state} since {place['ended']})" if place["ended"] else f"  ({state})" if state else ""
        yield line("  ", Span("at  ", "dim"), place["path"], Span(gone, "dim"))
    for came in detail["downloads"]:
        yield _download(came)
    for version in detail["versions"]:
        yield _version(version)
    for preview in detail["previews"]:
        ended = f", last seen before {preview['ended']}" if preview["ended"] else ""
        yield line("  ", Span("preview  ", "dim"), preview["path"], Span(f"  ({preview['media_type']}{ended})", "dim"))
    for claim in detail["claims"]:
        yield from _claim(claim, limit)
    for text in detail["disagreements"]:
        yield line("  ", Span("contradiction  ", "suspicious"), text)
    for name, value in detail["overrides"].items():
        yield line("  ", Span("set by you  ", "dim"), f"{name} = {value or 'nothing'}")
    yield from _findings(detail["findings"], verbosity)
    for run in detail["smoke_runs"][: None if verbosity > 0 else _SHOWN_RUNS]:
        accepted = ", accepted" if run["accepted"] else ""
        image = f", {run['image_path']}" if run["image_path"] else ""
        said = Span(f"  ({run['added']}, modelhub {run['version']}{accepted}{image})", "dim")
        yield line("  ", Span("smoke test  ", "dim"), f"{run['outcome']}: {run['sentence']}", said)
    yield from _parents(detail["parents"], 1)
    for relative in detail["children"]:
        yield _relation("made into", relative)
    if verbosity > 0:
        for item in identified["evidence"]:
            yield line(Span(f"  {item['fact']} = {item['value']}: {item['detail']} ({item['by']})", "dim"))
    if detail["metadata"]:
        yield line(Span("  metadata", "dim"))
        yield from fields(((shortened(k, 60), shortened(v, limit)) for k, v in detail["metadata"].items()), 4)


def _digest(known: Plain) -> tuple[str, str]:
    """A digest as people know it: of AutoV1 they use the first eight digits."""
    name, value = known["algorithm"], known["value"]
    return name, value[:8] if name == "autov1" else value


def _download(came: Plain) -> Line:
    asked = f", asked for {came['asked']}" if came["asked"] else ""
    salvaged = ", its tensors alone" if came["salvaged"] else ""
    return line("  ", Span("from  ", "dim"), came["address"], Span(f"  ({came['added']}{asked}{salvaged})", "dim"))


def _version(entry: Plain) -> Line:
    told = " ".join(part for part in (entry["precision"], entry["container"], byte_size(entry["size"])) if part)
    where = entry["path"] if entry["state"] == "live" else f"{entry['path'] or entry['name']} ({entry['state']})"
    return line("  ", Span("also  ", "dim"), f"#{entry['id']} ", _verdict(entry), f"  {told}  ", where)


_CLAIMED = {
    "name": "name",
    "version": "version",
    "base_model": "base model",
    "kind": "kind",
    "prediction_type": "prediction type",
    "creator": "creator",
    "licence": "licence",
    "nsfw": "nsfw",
    "favourite": "favourite",
    "triggers": "trigger words",
    "negative": "negative",
    "weight": "weight",
    "tags": "tags",
    "description": "description",
    "notes": "notes",
    "url": "page",
    "digests": "digests",
    "dated": "dated",
}
"""What is shown of a claim, and what it is called."""


def _claim(claim: Plain, limit: int) -> Iterator[Line]:
    """What a side file or the header says, which decides nothing."""
    at = claim["changed"] or (claim["read"] if claim["address"] else None)
    when = f", {at}" if at else ""
    ended = f", not beside it since {claim['ended']}" if claim["ended"] else ""
    where = claim["path"] or claim["address"] or "in its header"
    yield line("  ", Span("claimed  ", "dim"), where, Span(f"  ({claim['origin']}{when}{ended})", "dim"))
    if claim["problem"]:
        yield line("    ", Span("problem  ", "unknown"), claim["problem"])
    said = ((label, _said(claim["facts"].get(name))) for name, label in _CLAIMED.items())
    extra = ((name.replace("_", " "), _said(value)) for name, value in claim["extra"].items())
    yield from fields(((label, shortened(text, limit)) for label, text in (*said, *extra) if text), 4)


def _said(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return ", ".join(f"{name} {item}" for name, item in value.items())
        case list() | tuple():
            return ", ".join(str(item["name"] if isinstance(item, Mapping) else item) for item in value)
        case _:
            return " ".join(str(value).split())


def _findings(findings: Sequence[Plain], verbosity: int) -> Iterator[Line]:
    limit = len(findings) if verbosity > 0 else SHOWN_FINDINGS
    for finding in findings[:limit]:
        where = f"{finding['member']}: " if finding["member"] else ""
        yield line("  ", Span("finding  ", "dim"), f"{finding['severity']}  {where}{finding['message']}")
    if len(findings) > limit:
        yield line(Span(f"  … and {len(findings) - limit:,} more findings (-v shows all)", "dim"))


def _parents(relatives: Sequence[Plain], generation: int) -> Iterator[Line]:
    for relative in relatives:
        yield _relation("made from", relative, generation)
        yield from _parents(relative["parents"], generation + 1)


def _relation(word: str, relative: Plain, generation: int = 1) -> Line:
    name = relative["name"] or "a file that the catalog has not seen"
    role = f", as {relative['role']}" if relative["role"] else ""
    step = f"  ({relative['kind']}{role}, modelhub {relative['version']}, sha256 {relative['digest'][:12]})"
    return line("  " * generation, Span(f"{word}  ", "dim"), name, Span(step, "dim"))


def _number(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"
