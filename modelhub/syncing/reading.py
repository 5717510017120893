"""What a file says of itself at its beginning and end: enough to know which model it is, and to tell it from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from modelhub.container import Container, open_path
from modelhub.db import Reading
from modelhub.db.full_text import words_of
from modelhub.db.layouts import part
from modelhub.identify import Identity, identify_observation, observe, stored
from modelhub.reidentifying import identification_version
from modelhub.source import Source, open_local
from modelhub.syncing.structures import Structures
from modelhub.tensors import TensorInfo
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


class Reader:
    """Reads files one after the other, and each layout's text but once."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._packed: dict[str, bytes] = {}
        self._structures = Structures()

    def read(self, seen: Seen) -> Reading:
        """What the file or folder *seen* says of itself. A layout that was given before is ``None``.

        Raises :class:`~modelhub.errors.SourceError` when it cannot be read, or is no longer what was seen.
        """
        if not seen.is_folder:
            with open_local(seen.path) as source:
                told = self._structures.tell(source, _identity_dict, self._layout)
                if told is not None:
                    prints = _prints(source)
                    source.check_unchanged()
                    return self._reading(
                        "safetensors",
                        prints,
                        identity=told.identity,
                        metadata=told.metadata,
                        layout=told.layout,
                        observation=told.observation,
                    )
        with open_path(seen.path) as container:
            prints = _prints_of_container(container)
            observation = observe(container)
            identity = identify_observation(observation)
            inspection = Inspection(container, identity)
            tensors = {f"{member} {each.name}": each for member, each in inspection.tensors()}
            digest, rest = self._parted(stored(observation))
            for _, each in container.files():
                check = getattr(each.source, "check_unchanged", None)
                if check is not None:
                    check()
            return self._reading(
                container.kind,
                prints,
                problem=inspection.problem,
                identity=_identity_dict(identity, tensors),
                metadata=metadata_of(container),
                layout=digest,
                observation=rest,
            )

    def _layout(self, observation: Mapping[str, Any]) -> str:
        return self._parted(observation)[0]

    def _parted(self, observation: Mapping[str, Any]) -> tuple[str, str]:
        """The digest of the observation's layout, which is kept to be given once, and the text of the rest."""
        parted = part(observation, but_for=self._said)
        if parted.packed:
            self._packed[parted.digest] = parted.packed
        return parted.digest, parted.rest

    def _reading(
        self,
        container: str,
        prints: tuple[str, str],
        *,
        identity: Mapping[str, Any],
        metadata: Mapping[str, str],
        layout: str,
        observation: str,
        problem: str | None = None,
    ) -> Reading:
        self._said.add(layout)
        header, sample = prints
        return Reading(
            container=container,
            header=header,
            sample=sample,
            problem=problem,
            identity=identity,
            metadata=metadata,
            words=words_of(metadata),
            layout_digest=layout,
            layout=self._packed.pop(layout, None),
            observation=observation,
            version=identification_version(),
        )


def _identity_dict(identity: Identity, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """The columns of an identification."""
    return {
        **{name: getattr(identity, name) for name in _WORDS},
        "components": list(identity.components),
        "adapter": asdict(identity.adapter) if identity.adapter is not None else None,
        "evidence": [asdict(each) for each in identity.evidence],
        "candidates": list(identity.candidates),
        "tensor_count": len(tensors) or None,
        "parameter_count": sum(tensor.numel for tensor in tensors.values()) if tensors else None,
    }


_WORDS = ("kind", "architecture", "variant", "prediction_type", "precision")


def metadata_of(container: Container) -> dict[str, str]:
    """What the file says about itself: header pairs, and plain values beside the tensors as text."""
    state_dict = container.state_dict
    if state_dict is None:
        return {path: json.dumps(config) for path, config in container.configs.items()}
    scalars = {name: str(value) for name, value in state_dict.scalars.items() if value is not None}
    return {**scalars, **state_dict.metadata}
