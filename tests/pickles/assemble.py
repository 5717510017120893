"""Pickle programs put together opcode by opcode."""

from __future__ import annotations

import struct

from modelhub.pickles import Limits, Trace, trace_pickle
from modelhub.source import BytesSource


def trace(program: bytes, limits: Limits | None = None) -> Trace:
    """The trace of *program*, which is all of the source."""
    return trace_pickle(BytesSource("program.pkl", program), limits=limits or Limits())


def text(value: str) -> bytes:
    """BINUNICODE"""
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def imported(module: str, name: str) -> bytes:
    """GLOBAL"""
    return f"c{module}\n{name}\n".encode()


def called(module: str, name: str, args: bytes = b"") -> bytes:
    """GLOBAL, a tuple of *args*, REDUCE"""
    return imported(module, name) + b"(" + args + b"tR"
