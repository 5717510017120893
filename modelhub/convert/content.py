"""The content digest: which tensors a model has, whatever file they lie in and in whatever order.

It is the SHA-256 of one line for each tensor, the lines sorted as bytes. A line is a JSON array without spaces, in
UTF-8: the tensor's name, its element type by safetensors' name, its shape, and the SHA-256 of its bytes (C order,
little-endian) in 64 lower-case hex digits; then a line feed::

    ["conv.weight","F16",[320,4,3,3],"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]

Metadata has no part in it, so a checkpoint and the safetensors file made of it have the same content digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable

from modelhub.container import Container, open_path
from modelhub.convert.background import Stopped, block_buffer, blocks
from modelhub.convert.base import ConversionPlan, OutputDigests, OutputFile, PlannedTensor, inside
from modelhub.convert.plan import plan_conversion
from modelhub.convert.stream import BLOCK, runs, stream
from modelhub.errors import ConversionError
from modelhub.source import Digest, Source, open_local
from modelhub.tensors import DType, TensorInfo

_IN_MEMORY = 16 << 20

Entry = tuple[str, DType, tuple[int, ...], str]
"""Name, element type, shape, and SHA-256 of the bytes in hex."""


def content_digest(path: str | os.PathLike[str]) -> Digest:
    """The content digest of the model file *path*: a checkpoint and its conversion to safetensors have the same one.

    Reads every tensor once, in flat memory. Raises what opening and converting a file raise (:func:`plan_conversion`),
    and :class:`ConversionError` for a folder, and for a file that becomes several.
    """
    with open_path(path) as container:
        return content_digest_of(container)


def content_digest_of(container: Container) -> Digest:
    """:func:`content_digest` of an opened file."""
    state_dict = container.state_dict
    if container.kind == "safetensors" and container.source is not None and state_dict is not None:
        source = container.source
        buffer = block_buffer()
        return combined((t.name, t.dtype, t.shape, sha256_of(source, t, buffer)) for t in state_dict.values())
    plan = plan_conversion(container) if container.source is not None else None
    if plan is None or plan.is_folder:
        raise ConversionError(f"{container.name}: a content digest is of one file", hint="name one of the folder's")
    return combined((t.name, t.dtype, t.shape, streamed_sha256(t)) for t in plan.tensors)


def combined(entries: Iterable[Entry]) -> Digest:
    """The content digest of tensors that are described by *entries*."""
    lines = sorted(
        json.dumps([name, dtype.label, list(shape), sha256], ensure_ascii=False, separators=(",", ":")).encode()
        for name, dtype, shape, sha256 in entries
    )
    return Digest(hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest())


def streamed_sha256(planned: PlannedTensor) -> str:
    """SHA-256 of the bytes that *planned* will have, in hex; large ones in another order go through a nameless file."""
    if runs(planned) is not None:
        sha256 = hashlib.sha256()
        for _, data in stream(planned):
            sha256.update(data)
        return sha256.hexdigest()
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as ordered:  # what is moved may come in any order
        for offset, data in stream(planned):
            ordered.seek(offset)
            ordered.write(data)
        ordered.seek(0)
        sha256 = hashlib.sha256()
        while block := ordered.read(BLOCK):
            sha256.update(block)
    return sha256.hexdigest()


def digest_outputs(plan: ConversionPlan, path: str, stopped: Stopped, *, tensors: bool) -> tuple[OutputDigests, ...]:
    """The digests of the safetensors files that were written to *path* as *plan* says, those of *tensors* if wanted.

    Each byte is read once.
    """
    return tuple(_digest_output(inside(path, output.path), output, stopped, tensors) for output in plan.outputs)


def _digest_output(path: str, output: OutputFile, stopped: Stopped, tensors: bool) -> OutputDigests:
    whole = hashlib.sha256()
    buffer = block_buffer()
    with open_local(path) as written:
        if not tensors:
            for _, data in blocks(written, 0, written.size, stopped, buffer):
                whole.update(data)
            return OutputDigests(output.path, Digest(whole.hexdigest()))
        sha256: dict[str, str] = {}
        start = len(output.header)
        whole.update(written.read_at(0, start))
        for planned in output.tensors:
            one = hashlib.sha256()
            for _, data in blocks(written, start + planned.begin, start + planned.end, stopped, buffer):
                whole.update(data)
                one.update(data)
            sha256[planned.name] = one.hexdigest()
    content = combined((t.name, t.dtype, t.shape, sha256[t.name]) for t in output.tensors)
    return OutputDigests(output.path, Digest(whole.hexdigest()), content, sha256)


def sha256_of(source: Source, tensor: TensorInfo, buffer: memoryview) -> str:
    """SHA-256 in hex of the bytes of *tensor*, which lies in order in *source*."""
    sha256 = hashlib.sha256()
    for _, data in blocks(source, tensor.start, tensor.start + tensor.nbytes, Stopped(), buffer):
        sha256.update(data)
    return sha256.hexdigest()
