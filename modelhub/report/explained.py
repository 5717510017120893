"""The pickles of a file as Python, beside the report that they are the evidence of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from modelhub.report.plain import Line, Span, line

if TYPE_CHECKING:
    from modelhub.scan.explain import Decompiled


def explained_lines(pickles: Iterable[Decompiled]) -> Iterator[Line]:
    """Each pickle's lines of Python behind the byte offsets in it that they come from."""
    for pickle in pickles:
        yield line(Span(f"    {pickle.member or 'the file'} as Python, by {pickle.by}:", "dim"))
        for offset, text in pickle.lines:
            yield line(Span(f"    {'' if offset is None else offset:>10}  ", "dim"), text)


def explained_dicts(pickles: Iterable[Decompiled]) -> list[dict[str, Any]]:
    """Each pickle with its member, whose reading it is, and its lines."""
    return [
        {
            "member": pickle.member,
            "by": pickle.by,
            "lines": [{"offset": offset, "python": text} for offset, text in pickle.lines],
        }
        for pickle in pickles
    ]
