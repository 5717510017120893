"""Checking an output later: against its receipt, against its source, or both.

The receipt says which bytes were written; where they are others, the SHA-256 that it has of each tensor tells which.
With the source the conversion is planned again, and every tensor compared with what it was made of.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from modelhub.container.safetensors import read_safetensors
from modelhub.convert.background import block_buffer
from modelhub.convert.base import inside
from modelhub.convert.content import sha256_of
from modelhub.convert.opening import Path, open_plan
from modelhub.convert.options import NO_OPTIONS, read_options
from modelhub.convert.receipt import RECEIPT_SCHEMA, receipt_path
from modelhub.convert.verify import differences, verify
from modelhub.errors import Malformed, NotFound, SettingsError, VerificationFailed
from modelhub.source import LocalSource, digest_of, open_local

Progress = Callable[[int], None]

_AGAINST = "--source names the file that it was made of, --receipt a receipt that lies elsewhere"

MAX_RECEIPT = 256 << 20
"""Bytes of the longest receipt that is read."""


@dataclass(frozen=True, slots=True)
class Recheck:
    """What checking *target* came to: one sentence for each difference, none where it is what it should be.

    ``receipt`` and ``source`` are what it was checked against, ``None`` where there was none.
    """

    target: str
    receipt: str | None
    source: str | None
    differences: tuple[str, ...]


def recheck(
    target: Path,
    source: Path | None = None,
    *,
    receipt: Path | None = None,
    fix_vae: Path | None = None,
    tokenizer: Path | None = None,
    progress: Progress | None = None,
) -> Recheck:
    """Check the file or folder *target* against its *receipt* (default: the one beside it) and its *source*.

    Without a receipt every tensor is compared with the source's, converted without options. With both, the source must
    be the one that the receipt names, and converting it as the receipt says must give the same. *fix_vae* and
    *tokenizer* are what else the conversion read. *progress* is told bytes as they are read of *target*.

    Raises :class:`SettingsError` where there is neither receipt nor source, :class:`Malformed` for a file that is no
    receipt, :class:`NotFound`, and what planning the conversion raises.
    """
    path = os.fspath(target)
    if not os.path.lexists(path):
        raise NotFound(f"{path}: no such file or folder")
    named = os.fspath(receipt) if receipt is not None else receipt_path(path)
    written = _read_receipt(named) if receipt is not None or os.path.lexists(named) else None
    if written is None and source is None:
        raise SettingsError(f"{path}: there is no receipt {named}", hint=_AGAINST)
    found: list[str] = []
    if written is not None:
        found += _against_receipt(path, written, progress)
    if source is not None:
        with ExitStack() as stack:
            options = read_options(written["options"]) if written is not None else NO_OPTIONS
            salvaged = written is not None and bool(written["salvaged"])
            _, plan = open_plan(
                source,
                stack,
                options,
                fix_vae=fix_vae,
                tokenizer=tokenizer,
                judge=lambda _: not salvaged,
                anew=written is None,
            )
            if written is None:
                found += differences(plan, path, progress=progress)
            else:
                known = {each["sha256"] for each in written["sources"]}
                for read in plan.sources():
                    if isinstance(read, LocalSource) and digest_of(read).sha256 not in known:
                        found.append(f"{read.name}: it is not a source that the receipt names")
                if not found:
                    try:
                        verify(plan, path, progress=progress)
                    except VerificationFailed as error:
                        found.append(str(error))
    return Recheck(
        path, named if written is not None else None, None if source is None else os.fspath(source), tuple(found)
    )


def _against_receipt(target: str, receipt: Mapping[str, Any], progress: Progress | None) -> Iterator[str]:
    for file in receipt["files"] + receipt["plain"]:
        path = inside(target, file["path"])
        if not os.path.isfile(path):
            yield f"{path}: it is not there"
            continue
        with open_local(path) as written:
            if digest_of(written, progress).sha256 != file["sha256"]:
                yield from _tensors_that_differ(written, file) if "tensors" in file else (f"{path}: it was changed",)


def _tensors_that_differ(written: LocalSource, file: Mapping[str, Any]) -> Iterator[str]:
    """What in *written* is not as *file*, its entry in the receipt, says: something is."""
    container = read_safetensors(written)
    if container.state_dict is None:
        yield f"{written.name}: {container.anomalies[0].message}"
        return
    sound = True
    buffer = block_buffer()
    for tensor in file["tensors"]:
        name = tensor["name"]
        found = container.state_dict.get(name)
        if found is None:
            yield f"{written.name}: tensor {name!r:.100} is not there"
        elif (found.dtype.label, list(found.shape)) != (tensor["dtype"], tensor["shape"]):
            yield f"{written.name}: tensor {name!r:.100} has another type or shape than in the receipt"
        elif found.start + found.nbytes > written.size:
            yield f"{written.name}: tensor {name!r:.100} is cut off"
        elif sha256_of(written, found, buffer) != tensor["sha256"]:
            yield f"{written.name}: the bytes of tensor {name!r:.100} are not those in the receipt"
        else:
            continue
        sound = False
    for name in container.state_dict.keys() - {tensor["name"] for tensor in file["tensors"]}:
        sound = False
        yield f"{written.name}: tensor {name!r:.100} is not in the receipt"
    if sound:
        yield f"{written.name}: its header was changed; its tensors are those in the receipt"


_TENSOR = {"name": str, "dtype": str, "shape": list, "sha256": str}
_FILE = {"path": str, "sha256": str}


def _read_receipt(path: str) -> dict[str, Any]:
    """The receipt *path*, every field that is used of the type that it has. Raises :class:`Malformed`."""
    with open_local(path) as source:
        if source.size > MAX_RECEIPT:
            raise Malformed(f"{path}: it is too large to be a receipt: {source.size:,} bytes")
        data = source.read_at(0, source.size)
    try:
        receipt: dict[str, Any] = json.loads(data)
        if receipt["schema"] != RECEIPT_SCHEMA:
            raise Malformed(f"{path}: it is a receipt of another kind: {receipt['schema']!r:.60}")
        read_options(receipt["options"])
        sound = all(type(each["sha256"]) is str for each in receipt["sources"]) and type(receipt["salvaged"]) is bool
        for file in receipt["files"]:
            sound = sound and all(_has(tensor, _TENSOR) for tensor in file["tensors"])
        sound = sound and all(_has(file, _FILE) for file in receipt["files"] + receipt["plain"])
        names = [file["path"] for file in receipt["files"] + receipt["plain"]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, SettingsError) as error:
        raise Malformed(f"{path}: it is no receipt: {error}"[:300]) from error
    if not sound or any(name.startswith("/") or "\\" in name or ".." in name.split("/") for name in names):
        raise Malformed(f"{path}: it is no receipt: a field is not what it may be")
    return receipt


def _has(value: Any, types: Mapping[str, type]) -> bool:
    return all(type(value[key]) is kind for key, kind in types.items())
