"""What a file says of itself at its beginning and end: enough to know which model it is, and to tell it from others."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from modelhub.container import Container, open_path
from modelhub.db import Reading
from modelhub.db.full_text import words_of
from modelhub.db.layouts import part
from modelhub.identify import identify_observation, observe, stored
from modelhub.reidentifying import identification_version
from modelhub.source import Source, open_local
from modelhub.verbs import Inspection

if TYPE_CHECKING:
    from modelhub.db import Seen

EDGE = 1 << 16
"""Bytes at the beginning and at the end that stand for the header of a file that is not safetensors: in a torch zip
the end is the directory, with a checksum of every member."""

SAMPLE = 1 << 12
"""Bytes in the middle, and as many at the end, that are looked at beside the header: files that one tool has written of
two models of one architecture have the same header when they carry no metadata."""

_MAX_HEADER = 100_000_000


def prints_of(path: str, is_folder: bool = False) -> tuple[str, str]:
    """SHA-256 of a file's header, and of samples of its bytes, in hex; of a folder, of those of its files.

    Raises :class:`~modelhub.errors.SourceError` when they cannot be had.
    """
    if is_folder:
        with open_path(path) as container:
            return _prints_of_container(container)
    with open_local(path) as source:
        return _prints(source)


def _prints(source: Source) -> tuple[str, str]:
    length = int.from_bytes(source.read_at(0, 8), "little")
    header = hashlib.sha256()
    if 2 <= length <= _MAX_HEADER and 8 + length <= source.size and source.read_at(8, 1) == b"{":
        header.update(source.read_at(0, 8 + length))
        start = 8 + length
    else:
        header.update(source.read_at(0, EDGE))
        header.update(source.read_at(max(EDGE, source.size - EDGE), EDGE))
        start = 0
    middle = start + (source.size - start) // 2
    samples = hashlib.sha256(source.read_at(middle, SAMPLE))
    samples.update(source.read_at(max(start, source.size - SAMPLE), SAMPLE))
    return header.hexdigest(), samples.hexdigest()


def _prints_of_container(container: Container) -> tuple[str, str]:
    if container.source is not None:
        return _prints(container.source)
    headers, samples = hashlib.sha256(repr(sorted(container.configs.items())).encode()), hashlib.sha256()
    for path, each in sorted(container.parts.items()):
        if each.source is not None:
            header, sample = _prints(each.source)
            headers.update(f"{header} {each.source.size} {path}\n".encode("utf-8", "surrogatepass"))
            samples.update(sample.encode())
    return headers.hexdigest(), samples.hexdigest()


def read_file(seen: Seen, said: set[str]) -> Reading:
    """What the file or folder *seen* says of itself. Layouts whose digests are in *said* are not given again.

    Raises :class:`~modelhub.errors.SourceError` when it cannot be read, or is no longer what was seen.
    """
    with open_path(seen.path) as container:
        header, sample = _prints_of_container(container)
        observation = observe(container)
        identity = identify_observation(observation)
        inspection = Inspection(container, identity)
        metadata = metadata_of(container)
        tensors = [tensor for _, tensor in inspection.tensors()]
        parted = part(stored(observation), but_for=said)
        said.add(parted.digest)
        for _, each in container.files():
            check = getattr(each.source, "check_unchanged", None)
            if check is not None:
                check()
        return Reading(
            container=container.kind,
            header=header,
            sample=sample,
            problem=inspection.problem,
            identity={
                **{name: getattr(identity, name) for name in _WORDS},
                "components": list(identity.components),
                "adapter": asdict(identity.adapter) if identity.adapter is not None else None,
                "evidence": [asdict(each) for each in identity.evidence],
                "candidates": list(identity.candidates),
                "tensor_count": len(tensors) if tensors else None,
                "parameter_count": sum(tensor.numel for tensor in tensors) if tensors else None,
            },
            metadata=metadata,
            words=words_of(metadata),
            layout_digest=parted.digest,
            layout=parted.packed or None,
            observation=parted.rest,
            version=identification_version(),
        )


_WORDS = ("kind", "architecture", "variant", "prediction_type", "precision")


def metadata_of(container: Container) -> dict[str, str]:
    """What the file says about itself: header pairs, and plain values beside the tensors as text."""
    state_dict = container.state_dict
    if state_dict is None:
        return {path: json.dumps(config) for path, config in container.configs.items()}
    scalars = {name: str(value) for name, value in state_dict.scalars.items() if value is not None}
    return {**scalars, **state_dict.metadata}
