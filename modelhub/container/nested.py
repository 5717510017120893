"""Files that a pickle hands to torch as bytes: ``torch.storage._load_from_bytes(bytes)``.

That is how tensors are pickled without ``torch.save``: each storage is a legacy checkpoint of its own. torch loads the
bytes as it would load a file, unpickling included, so they are opened as a file in the file (torch 2.13,
``torch/storage.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, PickleProgram, Skipped
from modelhub.container.nesting import Nesting, Part, open_inside
from modelhub.pickles import Blob, Call, Global, Value
from modelhub.source import BytesSource, Source


def follow_calls(source: Source, programs: Iterable[PickleProgram], nesting: Nesting) -> Iterator[Container]:
    """The files that *programs*, traced in *source*, hand to torch; what cannot be followed says so."""
    for program in programs:
        seen: set[int] = set()
        for call in program.trace.calls:
            if type(call.callee) is not Global or call.callee.qualified != "torch.storage._load_from_bytes":
                continue
            at = call.offset - program.origin
            member = f"bytes@{at}" if program.member is None else f"{program.member}!bytes@{at}"
            args = call.args
            data = args[0] if type(args) is tuple and len(args) == 1 and not call.kwargs else None
            if id(data) in seen:
                continue  # the same literal again
            seen.add(id(data))
            inner = _literal(source, data, member, nesting)
            if inner is not None:
                yield open_inside(inner, member, nesting, by_call=True)
                continue
            message = "bytes that torch would load are not written out in the pickle, or are too long to be decoded"
            odd = (Anomaly("pickle.nested-limit", message, member),)
            skipped = (Skipped("bytes that torch would load were not followed", member),)
            yield Container("unknown", member, source, anomalies=odd, skipped=skipped)


def _literal(source: Source, value: Value, name: str, nesting: Nesting) -> Source | None:
    """The bytes that *value* is: written out, or as protocol 2 spells them, ``_codecs.encode(text, 'latin1')``."""
    if type(value) is bytes:
        return BytesSource(name, value)
    if type(value) is Blob and value.kind != "str":
        return Part(source, name, value.start, value.nbytes)
    if type(value) is not Call or type(value.callee) is not Global or value.callee.qualified != "_codecs.encode":
        return None
    if type(value.args) is not tuple or len(value.args) != 2 or value.args[1] not in ("latin1", "latin-1"):
        return None
    text = value.args[0]
    try:
        if type(text) is str:
            return BytesSource(name, text.encode("latin-1"))
        if type(text) is Blob and text.kind == "str" and nesting.unpacks(text.nbytes):
            return BytesSource(name, source.read_at(text.start, text.nbytes).decode("utf-8").encode("latin-1"))
    except UnicodeError:
        pass
    return None
