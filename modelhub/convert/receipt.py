"""The receipt of a conversion: what was made of which bytes, how, and what of them went where.

``OUT.receipt.json`` lies beside the output and stays true without it: with the receipt alone the output can be checked
(:mod:`modelhub.convert.recheck`), with the source as well the conversion itself. It holds no times and no folders, so
that the same conversion has the same receipt. Its fields:

* ``schema``, ``versions`` (of modelhub and safetensors), ``options`` (those that differ from the default);
* ``sources``: name, size, SHA-256, and how many of its checksums were compared, how many storages have none, and
  which of those that nothing of the output lies in are ``damaged``;
* ``salvaged``: whether a source was not judged safe;
* ``files``: path below the output (empty: the output itself), size, SHA-256, content digest, metadata, and its tensors:
  name, element type, shape, SHA-256, place (bytes from the start of the file) and ``pieces``, the source ranges that it
  is made of. A piece that is not copied as it lies says how it does: element type, strides, byte order and so on;
* ``plain``: the files that were written as they are; ``leftovers``: what was left out, and why; ``notes``: what was
  done beyond copying; ``shared``: the names that shared bytes in the source and have their own in the output.
"""

from __future__ import annotations

import json
import os
from typing import Any

from modelhub import __version__
from modelhub.convert.base import Conversion, ConversionPlan, Piece, PlannedTensor, file_of, inside
from modelhub.convert.gather import extent
from modelhub.convert.names import SALVAGED_KEY
from modelhub.convert.options import NO_OPTIONS, ConversionOptions, written_options
from modelhub.convert.stream import lies_ready
from modelhub.convert.target import write_file
from modelhub.errors import WouldOverwrite
from modelhub.source import LocalSource, digest_of, open_local

RECEIPT_SCHEMA = "modelhub.receipt/1"


def receipt_path(target: str) -> str:
    """Where the receipt of the file or folder *target* lies."""
    return f"{target.rstrip(os.sep)}.receipt.json"


def check_receipt_target(target: str) -> None:
    """Refuse to replace a file at the receipt's place that is no receipt."""
    path = receipt_path(target)
    if os.path.lexists(path) and not _is_receipt(path):
        raise WouldOverwrite(f"{path}: exists, and is no receipt", hint="move it away, or leave out --receipt")


def write_receipt(conversion: Conversion, options: ConversionOptions = NO_OPTIONS) -> str:
    """Write the receipt of *conversion*, which has tensor digests, and return its path; an older one is replaced."""
    path = receipt_path(conversion.target)
    data = json.dumps(receipt_of(conversion, options), ensure_ascii=True, indent=1).encode() + b"\n"
    write_file(path, data, force=True)
    return path


def receipt_of(conversion: Conversion, options: ConversionOptions = NO_OPTIONS) -> dict[str, Any]:
    """The receipt of *conversion*, made with *options* and tensor digests, as JSON values."""
    from importlib.metadata import version

    plan = conversion.plan
    read = {id(file_of(piece.source)) for tensor in plan.tensors for piece in tensor.pieces}
    sources = [s for s in conversion.sources if id(s.source) in read or isinstance(s.source, LocalSource)]
    files = [id(each.source) for each in sources]
    made = {each.path: each for each in conversion.digests}
    return {
        "schema": RECEIPT_SCHEMA,
        "versions": {"modelhub": __version__, "safetensors": version("safetensors")},
        "options": written_options(options),
        "sources": [
            {
                "name": os.path.basename(each.source.name),
                "size": each.source.size,
                "sha256": each.digest.sha256 if each.digest is not None else None,
                "checksums": each.counts,
                "damaged": list(each.damaged),
            }
            for each in sources
        ],
        "salvaged": any(SALVAGED_KEY in output.metadata for output in plan.outputs),
        "files": [
            {
                "path": output.path,
                "size": output.size,
                "sha256": made[output.path].whole.sha256,
                "content_sha256": str(made[output.path].content).removeprefix("sha256:"),
                "metadata": dict(output.metadata),
                "tensors": [
                    _tensor(tensor, made[output.path].tensors[tensor.name], len(output.header), files)
                    for tensor in output.tensors
                ],
            }
            for output in plan.outputs
        ],
        "plain": _plain(plan, conversion.target),
        "leftovers": [{"path": item.path, "description": item.description} for item in plan.leftovers],
        "notes": list(plan.notes),
        "shared": [list(names) for names in plan.duplicated],
    }


def _tensor(tensor: PlannedTensor, sha256: str, start: int, files: list[int]) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype.label,
        "shape": list(tensor.shape),
        "sha256": sha256,
        "begin": start + tensor.begin,
        "end": start + tensor.end,
        "pieces": [_piece(piece, tensor, files) for piece in tensor.pieces],
    }


def _piece(piece: Piece, tensor: PlannedTensor, files: list[int]) -> dict[str, Any]:
    file = file_of(piece.source)
    view = piece.tensor
    found: dict[str, Any] = {"source": files.index(id(file)), "start": view.start, "nbytes": extent(view)}
    if file is not piece.source:
        found["storage"] = view.storage.key  # start is within what that storage unpacks to
    if not lies_ready(view, tensor.dtype):
        found |= {"dtype": view.dtype.label, "shape": list(view.shape)}
        found |= {"strides": list(view.strides)} if view.strides is not None else {}
        found |= {"byteorder": "big"} if view.storage.byteorder == "big" else {}
        found |= {bit: True for bit in ("conj", "neg") if getattr(view, bit)}
    return found


def _plain(plan: ConversionPlan, target: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for plain in plan.plain:
        with open_local(inside(target, plain.path)) as written:
            found.append({"path": plain.path, "size": written.size, "sha256": digest_of(written).sha256})
    return found


def _is_receipt(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return bool(json.load(file)["schema"] == RECEIPT_SCHEMA)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
