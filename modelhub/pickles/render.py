"""Traced values as Python-like text, for people."""

from __future__ import annotations

from modelhub.pickles.values import PLAIN, Blob, Call, Dict, Global, Persistent, SetOf, Value

_DEPTH = 4
_WIDTH = 8


def render(value: Value, limit: int = 200) -> str:
    """*value* as one line of printable ASCII in the manner of Python source, at most *limit* characters long."""
    text = _render(value, _DEPTH)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _render(value: Value, depth: int) -> str:
    if type(value) is Global:
        return ascii(value.qualified)[1:-1][:200]
    if type(value) is str or type(value) is bytes:
        return ascii(value[:200]) + ("..." if len(value) > 200 else "")
    if value is None or type(value) in (bool, float):
        return repr(value)
    if type(value) is int:
        return repr(value) if value.bit_length() < 256 else "<large integer>"
    if depth == 0 or value is PLAIN:
        return "..."
    if type(value) is Call:
        args = value.args if type(value.args) is tuple else (value.args,)
        return f"{_render(value.callee, depth - 1)}({_several(args, depth)})"
    if type(value) is tuple:
        return f"({_several(value, depth)}{',' if len(value) == 1 else ''})"
    if type(value) is list:
        return f"[{_several(value, depth)}]"
    if type(value) is SetOf:
        return "{" + _several(value.items, depth) + "}"
    if type(value) is Dict:
        pairs = [f"{_render(k, depth - 1)}: {_render(v, depth - 1)}" for k, v in value.pairs[:_WIDTH]]
        return "{" + ", ".join(pairs) + (", ..." if len(value.pairs) > _WIDTH else "") + "}"
    if type(value) is Persistent:
        return f"persistent_load({_render(value.pid, depth - 1)})"
    if type(value) is Blob:
        return f"<{value.nbytes} bytes of {value.kind}>"
    return "<unknown>"


def _several(values: list[Value] | tuple[Value, ...], depth: int) -> str:
    shown = ", ".join(_render(v, depth - 1) for v in values[:_WIDTH])
    return shown + (", ..." if len(values) > _WIDTH else "")
