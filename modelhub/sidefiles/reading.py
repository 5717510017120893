"""What one side file says: read as data, within limits. Whatever is wrong with it is a note."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import NamedTuple

from modelhub.errors import SourceError
from modelhub.sidefiles import a1111, civitai, lora_manager, modelspec, pictures, plain, rgthree, stability_matrix
from modelhub.sidefiles.base import Claims, ModelFile
from modelhub.sidefiles.fields import JSON
from modelhub.sidefiles.naming import PICTURES
from modelhub.source import open_local

LARGEST = 8 << 20
"""Bytes of a side file that are read, none of a larger one: with pictures inside they come to a few megabytes."""

_READERS: tuple[tuple[str, Callable[[JSON], bool], Callable[[JSON, ModelFile], Claims]], ...] = (
    ("a1111", a1111.is_it, a1111.read),
    ("lora-manager", lora_manager.is_it, lora_manager.read),
    ("rgthree", rgthree.is_it, rgthree.read),
    ("stability-matrix", stability_matrix.is_it, stability_matrix.read),
    ("swarmui", modelspec.is_it, modelspec.read),
    ("civitai", civitai.is_it, civitai.read),
    ("a1111", a1111.may_be_it, a1111.read),
)
"""How the dialects in JSON are told, whatever a file is called."""
_SILENT = "nothing in it is known to modelhub"


class Told(NamedTuple):
    """What a side file says: its dialect, by its content where its name would have it otherwise; the claims; what is
    wrong with it, in words; and its media type if it is a picture or film."""

    dialect: str
    claims: Claims = Claims()
    problem: str | None = None
    media_type: str | None = None


def read_side_file(path: str, dialect: str, file: ModelFile) -> Told:
    """What the side file *path*, of *dialect* by its name, says of the model *file*. Never raises for content."""
    try:
        with open_local(path) as source:
            if dialect in PICTURES:
                return _picture(source.read_at(0, pictures.NEEDED), dialect)
            if dialect == "page":
                return Told(dialect)
            if source.size > LARGEST:
                return Told(dialect, problem=f"it is larger than {LARGEST >> 20} MiB")
            data = source.read_at(0, LARGEST)
    except SourceError as error:
        return Told(dialect, problem=str(error))
    if not data.strip():
        return Told(dialect, problem="it is empty")
    return told_in(data, dialect, os.path.basename(path), file)


def told_in(data: bytes, dialect: str, name: str, file: ModelFile) -> Told:
    """What *data*, the content of a side file called *name*, says."""
    if dialect == "description":
        return Told(dialect, plain.description(_decoded(data)))
    if dialect == "checksum":
        claims = plain.checksum(_decoded(data), file.name)
        return Told(dialect, claims, None if claims.digests else "it has no SHA-256 of this file")
    if dialect == "configuration":
        return Told(dialect, plain.configuration(_decoded(data), name))
    try:
        parsed = json.loads(data, parse_constant=lambda _: None)  # NaN and the infinities are no JSON, and no facts
    except RecursionError:
        return Told(dialect, problem="it is nested too deeply")
    except ValueError:
        page = data.lstrip()[:1] == b"<"
        return Told(dialect, problem="it is a web page and not JSON" if page else "it is not JSON")
    if not isinstance(parsed, dict):
        return Told(dialect, problem="it is no JSON object")
    if dialect == "component-config":
        return Told(dialect, plain.component_config(parsed))
    for each, is_it, read in _READERS:
        if is_it(parsed):
            return Told(each, read(parsed, file))
    return Told(dialect, problem=_SILENT)


def _picture(head: bytes, dialect: str) -> Told:
    found = pictures.media_type(head)
    return Told(dialect, problem=None if found else "it is no picture or film", media_type=found)


def _decoded(data: bytes) -> str:
    """The text in *data*, which Windows' editors write in one of three ways."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")
