"""What the corpus is made of."""

from __future__ import annotations

from dataclasses import dataclass

from tests.pickles.assemble import called, text

EVIL = called("os", "system", text("true"))
"""The payload of most files: a shell command that does nothing, by the best known name of all."""

PROGRAM = b"\x80\x02" + EVIL + b"."


@dataclass(frozen=True, slots=True)
class Item:
    """The bytes of one file, its class and what it is; *extension* is what its name ends in."""

    attack: str
    what: str
    data: bytes
    extension: str = ".pkl"
