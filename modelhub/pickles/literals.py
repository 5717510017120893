"""Bytes that are written out in a pickle, as a storage: where they lie, or themselves.

Protocols 3 to 5 write bytes as they are; protocols up to 2 as text of as many characters, which
``_codecs.encode(text, 'latin1')`` turns into bytes; Python 2 as a string. Short literals were kept by the machine.
"""

from __future__ import annotations

from modelhub.pickles.elements import Composite, Elements, Surroundings
from modelhub.pickles.values import Blob, Call, Global, Value
from modelhub.tensors import Packing, StorageRef


def literal_elements(value: Value, key: str, around: Surroundings, size: int | None = None) -> Elements | None:
    """The bytes that *value* is, in the storage *key*; ``None`` when it is not bytes, or not *size* of them.

    Of long text only bounds of the size can be told: without a *size* there are the most that there can be. Raises
    :class:`Composite` for long text in a pickle that is itself packed.
    """
    text = _encoded_text(value)
    if type(text) is Blob and text.kind == "str":
        return _long_text(text, key, around, size)
    found: Elements | None
    if type(value) is Blob and value.kind != "str":
        found = _in_pickle(value, key, around)
    else:
        data = value if type(value) is bytes else _short_text(value if type(value) is str else text, around)
        found = None if data is None else _whole(StorageRef(key, 0, len(data), data=data))
    return found if found is None or size in (None, found.nbytes) else None


def _whole(storage: StorageRef) -> Elements:
    return Elements(None, storage, 0, storage.nbytes)


def _in_pickle(literal: Blob, key: str, around: Surroundings) -> Elements:
    """Bytes that stand in the pickle as they are."""
    if around.unpacked is not None:
        return Elements(None, around.unpacked, literal.start, literal.nbytes)
    return _whole(StorageRef(key, literal.start, literal.nbytes))


def _short_text(text: Value, around: Surroundings) -> bytes | None:
    """The bytes whose numbers are the characters of *text*."""
    if type(text) is not str:
        return None
    if id(text) not in around.encoded:
        try:
            around.encoded[id(text)] = text.encode("latin-1")
        except UnicodeEncodeError:
            around.encoded[id(text)] = None
    return around.encoded[id(text)]


def _long_text(literal: Blob, key: str, around: Surroundings, size: int | None) -> Elements | None:
    if around.unpacked is not None:
        raise Composite("bytes that are written as text in a compressed pickle")
    if size is not None and not (literal.nbytes + 1) // 2 <= size <= literal.nbytes:
        return None
    packing = Packing("text", literal.nbytes)
    return _whole(StorageRef(key, literal.start, literal.nbytes if size is None else size, packing=packing))


def _encoded_text(value: Value) -> Value:
    """The text of ``_codecs.encode(text, 'latin1')``, which is how bytes travel in protocols up to 2."""
    if type(value) is not Call or type(value.callee) is not Global or value.opcode != "REDUCE" or value.kwargs:
        return None
    args = value.args if type(value.args) is tuple else ()
    if value.callee.qualified == "_codecs.encode" and len(args) == 2 and args[1] in ("latin1", "latin-1"):
        return args[0]
    if value.callee.qualified in ("__builtin__.bytes", "builtins.bytes") and not args:
        return ""
    return None
