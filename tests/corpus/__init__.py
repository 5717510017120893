"""A corpus of model files with labels: what scanners have been tricked with, and what people keep.

:func:`build` writes it; tests judge it, and benchmarks have other scanners judge it. All bytes are put together by our
own code, from random weights and from opcodes; no payload would do harm if it ran (at worst it runs ``true``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tests.corpus import broken, containers, programs, world
from tests.corpus.item import Item

Label = Literal["malicious", "benign", "broken"]


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One file: where it is, what a scanner should say of it, and why it is there.

    ``malicious``: some loader would run what the file's author chose, or be lied to or exhausted by it; it must be
    flagged. ``benign``: what people legitimately keep; it must not be. ``broken``: cannot be loaded, was not meant to
    be, or cannot be proven; calling it safe is wrong, calling it malware is, too. ``attack`` is the class of attack
    (or the sort of benign or broken file), or the advisory's id; ``what`` says it in a few words.
    """

    path: str
    label: Label
    attack: str
    what: str


def build(directory: str | os.PathLike[str]) -> list[CorpusFile]:
    """Write the corpus, some hundred small files, below *directory* and say what is in it.

    The files lie in one folder per label and attack. Two runs give the same bytes and the same names.
    """
    files: list[CorpusFile] = []
    for number, (label, item) in enumerate(items()):
        folder = os.path.join(os.fspath(directory), label, _slug(item.attack))
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"{number:03}-{_slug(item.what)}{item.extension}")
        with open(path, "wb") as file:
            file.write(item.data)
        files.append(CorpusFile(path, label, item.attack, item.what))
    return files


def items() -> Iterator[tuple[Label, Item]]:
    """Every file of the corpus as bytes, with its label."""
    for source in (
        programs.protocol_items,
        programs.gadget_items,
        programs.trick_items,
        containers.zip_items,
        containers.legacy_items,
        containers.other_items,
    ):
        for item in source():
            yield "malicious", item
    for source in (
        world.torch_items,
        world.twin_items,
        world.other_items,
        world.nested_items,
        world.plain_items,
        world.safetensors_items,
    ):
        for item in source():
            yield "benign", item
    for item in broken.broken_items():
        yield "broken", item


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:48].lower() or "item"
