"""Bytes that are written out in a pickle, as a storage: where they lie, or themselves.

Protocols 3 to 5 write bytes as they are; protocols up to 2 as text of as many characters, which
``_codecs.encode(text, 'latin1')`` turns into bytes; Python 2 as a string. Short literals were kept by the machine.
"""

from __future__ import annotations

from modelhub.pickles.values import Blob, Call, Global, Value
from modelhub.source import Source
from modelhub.tensors import Packing, StorageRef


def literal_storage(
    value: Value, key: str, size: int | None = None, unpacked: Source | None = None
) -> StorageRef | None:
    """The bytes that *value* is, as the storage *key*; ``None`` when it is not bytes, or not *size* of them.

    Of long text only bounds of the size can be told: without a *size* the storage has the most that there can be.
    *unpacked* is what was traced, where literals do not lie in the file itself.
    """
    encoded = _encoded_text(value)
    text = type(encoded) in (str, Blob) and encoded is not value
    literal = encoded if text else value
    if type(literal) is str:
        try:
            literal = literal.encode("latin-1")
        except UnicodeEncodeError:
            return None
    elif type(literal) is Blob and unpacked is not None:
        data = unpacked.read_at(literal.start, literal.nbytes)
        try:
            literal = data.decode("utf-8").encode("latin-1") if text else data
        except UnicodeError:
            return None
    if type(literal) is bytes:
        return None if size not in (None, len(literal)) else StorageRef(key, 0, len(literal), data=literal)
    if type(literal) is not Blob or (literal.kind == "str") != text:
        return None
    if not text:
        return None if size not in (None, literal.nbytes) else StorageRef(key, literal.start, literal.nbytes)
    if size is not None and not (literal.nbytes + 1) // 2 <= size <= literal.nbytes:
        return None
    packing = Packing("text", literal.nbytes)
    return StorageRef(key, literal.start, literal.nbytes if size is None else size, packing=packing)


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
