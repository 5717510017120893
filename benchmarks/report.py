"""Results as Markdown."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table, its columns but the first aligned to the right."""
    lines = [list(columns), ["---"] + ["---:"] * (len(columns) - 1), *(list(row) for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.1 else f"{value * 1000:.0f} ms"


def megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f} MB"


def gigabytes(value: float) -> str:
    return f"{value / 1e9:.2f} GB"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"


def judged(met: bool) -> str:
    """Whether a target was reached, in a word."""
    return "met" if met else "NOT met"


def write(name: str, lines: Sequence[str]) -> str:
    """Write *lines* as the result *name*, show them, and return the file's path."""
    os.makedirs(RESULTS, exist_ok=True)
    path = os.path.join(RESULTS, name)
    text = "\n".join(lines) + "\n"
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    print(text)
    return path


COMPARISON = os.path.join(os.path.dirname(RESULTS), os.pardir, "docs", "comparison.md")


def embed(name: str, lines: Sequence[str], path: str = COMPARISON) -> None:
    """Put *lines* into the page at *path* between its marks ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Raises ``ValueError`` when the page lacks them.
    """
    with open(path, encoding="utf-8") as file:
        text = file.read()
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{path} has no place for {name}")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join([before + begin, "", *lines, "", end + after]))
