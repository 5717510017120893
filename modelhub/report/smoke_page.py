"""Smoke tests as one page of HTML that needs no other file: images, checks, numbers."""

from __future__ import annotations

import base64
import html
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from modelhub.errors import SourceError
from modelhub.report.plain import visible
from modelhub.report.sink import ReplacingFile
from modelhub.report.smoked import cost_of
from modelhub.smoke import Check, SmokeResult

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--passed:#2a7d3f;--suspect:#a86a00;--failed:#b3261e;--none:#6b6b6b}
body{display:flex;flex-direction:column}h1{order:-5}.tally{order:-4}
article.failed{order:-3}article.suspect{order:-2}article.none{order:-1}
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}
article{display:grid;grid-template-columns:16rem 1fr;gap:1.25rem;border-top:1px solid var(--line);padding:1.25rem 0}
img{width:100%;image-rendering:auto;border-radius:4px;background:#8882}
h2{font-size:1rem;margin:0;overflow-wrap:anywhere}p{margin:.3rem 0}
.passed{--tone:var(--passed)}.suspect{--tone:var(--suspect)}.failed{--tone:var(--failed)}.none{--tone:var(--none)}
b{color:var(--tone)}small{color:var(--none)}
table{border-collapse:collapse;font-size:.85rem;margin-top:.5rem}
td,th{text-align:left;vertical-align:top;padding:.1rem .8rem .1rem 0}
th{font-weight:normal;color:var(--none)}.number{text-align:right;font-variant-numeric:tabular-nums}
details{margin-top:.5rem;font-size:.85rem}summary{color:var(--passed);cursor:pointer}
section{border-top:1px solid var(--line);padding:1.25rem 0}figure{margin:0}
article figure{grid-column:1/-1;max-width:48rem}ol{margin:0;padding-left:1.4rem}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1.25rem}
@media(prefers-color-scheme:dark){:root{--passed:#6cc07f;--suspect:#e0a13c;--failed:#f2867e;--none:#9a9a9a}}
@media(max-width:40rem){article{grid-template-columns:1fr}}
"""

_HEAD = "<tr><th>check<th>outcome<th>what was seen<th class=number>value<th>wanted</tr>"
_WORST_FIRST = ("failed", "suspect", "not testable", "passed")


class Page:
    """The page of results that come one after the other, at *path* in place of what was there; the worst come first.

    What is added is there at once, whatever comes next, and is not held here. A context manager: leaving it adds how
    many results there are of each outcome. Raises :class:`~modelhub.errors.SourceError` where it cannot be written, and
    :class:`~modelhub.errors.WouldOverwrite` for what looks like a model.
    """

    def __init__(self, path: str) -> None:
        write_text(path, _begin("Smoke tests"))
        self._path = path
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        tally = ", ".join(f"{self._counts[each]} {each}" for each in _WORST_FIRST if self._counts[each])
        self._append(f"<p class=tally>{tally}</p>\n")

    def add(self, result: SmokeResult) -> None:
        self._counts[result.outcome] += 1
        self._append(_article(result))

    def _append(self, text: str) -> None:
        try:
            with open(self._path, "a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
                file.write(text)
        except OSError as error:
            raise SourceError(f"{self._path}: the page cannot be written there: {error.strerror}") from error


def write_text(path: str, texts: Iterable[str]) -> None:
    """Write *texts* to *path*, in place of what was there, whole or not at all; raises what :class:`Page` does."""
    file = ReplacingFile(path)
    try:
        for text in texts:
            file.write(text)
    except BaseException:
        file.discard()
        raise
    file.commit()


def comparison_page(rows: Sequence[tuple[str, str, tuple[SmokeResult, SmokeResult]]]) -> Iterator[str]:
    """A page of pairs of results, each with a heading and with words of how alike they are."""
    yield from _begin("Comparison")
    for heading, words, results in rows:
        cells = "".join(
            f"<figure class={_mark(result)}>{_image(result)}<figcaption>{_text(os.path.basename(result.path))} "
            f"<b>{result.outcome}</b><br><small>{_text(result.sentence)}</small></figcaption></figure>"
            for result in results
        )
        yield f"<section><h2>{_text(heading)}</h2><p>{_text(words)}</p><div class=pair>{cells}</div></section>\n"


def _begin(title: str) -> Iterator[str]:
    yield "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\n"
    yield f"<title>{title}</title><style>{_STYLE}</style>\n<h1>{title}</h1>\n"


def _mark(result: SmokeResult) -> str:
    return result.outcome if result.outcome != "not testable" else "none"


def _article(result: SmokeResult) -> str:
    facts = " ".join(filter(None, (result.kind, result.architecture)))
    return (
        f"<article class={_mark(result)}><div>{_image(result)}</div><div><h2>{_text(result.path)}</h2>"
        f"<p><b>{result.outcome}</b> <small>{_text(facts)}</small></p><p>{_text(result.sentence)}</p>"
        f"<p><small>{_text(cost_of(result))}</small></p>{_checks(result)}</div>{_grid(result)}</article>\n"
    )


def _checks(result: SmokeResult) -> str:
    """The checks that were not passed, the failed ones first, and to be unfolded those that were, and the stages."""
    passed = [check for check in result.checks if check.outcome == "passed"]
    others = [check for check in result.checks if check.outcome != "passed"]
    shown = "".join(map(_row, sorted(others, key=lambda check: _WORST_FIRST.index(check.outcome))))
    folded = "".join(map(_row, passed))
    not_scored = result.facts.get("clip")
    if isinstance(not_scored, str):
        folded += f"<tr class=none><td>clip.score<td><td>{_text(not_scored)}<td><td></tr>"
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.seconds.items())
    made = f"<table>{_HEAD}{shown}</table>" if shown else ""
    if folded:
        made += f"<details><summary>passed checks: {len(passed)}</summary><table>{_HEAD}{folded}</table>"
        made += f"<p><small>{_text(stages)}</small></p></details>"
    return made


def _image(result: SmokeResult) -> str:
    if result.image is None:
        return "<small>no image</small>"
    return f"<img alt='what the model made' src='{_address(result.image)}'>"


def _grid(result: SmokeResult) -> str:
    if result.grid is None:
        return ""
    prompts, seeds = result.asked.get("prompts", ()), result.asked.get("seeds", ())
    rows = "".join(f"<li>{_text(str(prompt))}" for prompt in prompts)  # type: ignore[attr-defined]
    columns = ", ".join(map(str, seeds))  # type: ignore[call-overload]
    return (
        f"<figure><img alt='every prompt at every seed' src='{_address(result.grid)}'>"
        f"<figcaption><small>rows:<ol>{rows}</ol>columns: seeds {columns}</small></figcaption></figure>"
    )


def _address(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _row(check: Check) -> str:
    value = "" if check.value is None else f"{check.value:.4g}"
    return (
        f"<tr class={check.outcome}><td>{_text(check.name)}<td><b>{check.outcome}</b><td>{_text(check.sentence)}"
        f"<td class=number>{value}<td>{_text(check.threshold)}</tr>"
    )


def _text(text: str) -> str:
    """*text* from an untrusted file as text of HTML."""
    return html.escape(visible(text))
