"""What a file says of itself at its beginning and end: enough to know which model it is, and to tell it from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from modelhub.container import Container, canonical_header, open_path
from modelhub.db import Reading
from modelhub.db.columns import AS_JSON, identification_columns, reading_of
from modelhub.db.facts import FACTS
from modelhub.db.layouts import layout_of, part
from modelhub.identify import Identity, identify_observation, observe, stored
from modelhub.reidentifying import identification_version
from modelhub.source import Source, open_local
from modelhub.syncing import unfinished
from modelhub.syncing.compare import Print
from modelhub.syncing.structures import Structures
from modelhub.tensor_table import elements_of
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


def prints_of(path: str, is_folder: bool = False) -> Print:
    """Digests of a file's header, and of samples of its bytes; of a folder, of those of its files.

    Raises :class:`~modelhub.errors.SourceError` when they cannot be had.
    """
    if is_folder:
        with open_path(path) as container:
            return Print(*_prints_of_container(container), _prints_of_container(container, _whole_print)[0])
    with open_local(path) as source:
        head = _header(source)
        return Print(*_prints(source, head), _header_print(source, head, _whole_print))


def _header(source: Source) -> bytes | None:
    """The header of what may be a safetensors file, without its length."""
    begins = source.read_at(0, 9)
    length = int.from_bytes(begins[:8], "little")
    if not 2 <= length <= min(_MAX_HEADER, source.size - 8) or begins[8:] != b"{":
        return None
    return source.read_at(8, length)


def _own_print(head: bytes) -> str:
    return canonical_header.print_of(head, canonical_header.part(head))


def _whole_print(head: bytes) -> str:
    return canonical_header.print_of(head, None)


def _header_print(source: Source, head: bytes | None, of: Callable[[bytes], str]) -> str:
    """The digest of *head* or, without one, of what stands for it."""
    if head is not None:
        return of(head)
    edges = hashlib.sha256(source.read_at(0, EDGE))
    edges.update(source.read_at(max(EDGE, source.size - EDGE), EDGE))
    return edges.hexdigest()


def _sample_print(source: Source, start: int) -> str:
    """The digest of samples of the bytes from *start* on."""
    samples = hashlib.sha256(source.read_at(start + (source.size - start) // 2, SAMPLE))
    samples.update(source.read_at(max(start, source.size - SAMPLE), SAMPLE))
    return samples.hexdigest()


def _prints(source: Source, head: bytes | None, of: Callable[[bytes], str] = _own_print) -> tuple[str, str]:
    """The digests of the header and of samples of *source*, whose header is *head*."""
    return _header_print(source, head, of), _sample_print(source, 8 + len(head) if head is not None else 0)


def _prints_of_container(container: Container, of: Callable[[bytes], str] = _own_print) -> tuple[str, str]:
    if container.source is not None:
        return _prints(container.source, _header(container.source), of)
    headers, samples = hashlib.sha256(repr(sorted(container.configs.items())).encode()), hashlib.sha256()
    for path, each in sorted(container.parts.items()):
        if each.source is not None:
            header, sample = _prints(each.source, _header(each.source), of)
            headers.update(f"{header} {each.source.size} {path}\n".encode("utf-8", "surrogatepass"))
            samples.update(sample.encode())
    return headers.hexdigest(), samples.hexdigest()


class Reader:
    """Reads files one after the other, and each layout's text but once."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._packed: dict[str, bytes] = {}
        self._structures = Structures(_columns, self._layout)

    def read(self, seen: Seen) -> Reading:
        """What the file or folder *seen* says of itself. A layout that was given before is ``None``.

        Raises :class:`~modelhub.errors.SourceError` when it cannot be read, or is no longer what was seen.
        """
        return (None if seen.is_folder else self._told(seen)) or self._examined(seen)

    def _told(self, seen: Seen) -> Reading | None:
        """What a safetensors file with nothing odd about it says."""
        with open_local(seen.path) as source:
            header = _header(source)
            told = self._structures.tell(source, header) if header is not None else None
            if header is None or told is None:
                return None
            prints = told.header, _sample_print(source, 8 + len(header))
            source.check_unchanged()
        return self._reading(
            seen,
            container="safetensors",
            prints=prints,
            identity=told.identity,
            metadata=told.metadata,
            layout=told.layout,
            observation=told.observation,
        )

    def _examined(self, seen: Seen) -> Reading:
        with open_path(seen.path) as container:
            prints = _prints_of_container(container)
            observation = observe(container, sparing=True)
            identity = identify_observation(observation)
            inspection = Inspection(container, identity)
            tensors = {f"{member} {each.name}": each for member, each in inspection.tensors()}
            parted = part(stored(observation), but_for=self._said)
            if parted.packed:
                self._packed[parted.digest] = parted.packed
            for _, each in container.files():
                check = getattr(each.source, "check_unchanged", None)
                if check is not None:
                    check()
            return self._reading(
                seen,
                container=container.kind,
                prints=prints,
                identity=_columns(identity, len(tensors), elements_of(tensors)),
                metadata=metadata_of(container),
                layout=parted.digest,
                observation=parted.rest,
                problem=inspection.problem,
            )

    def _layout(self, tensors: Iterable[str]) -> str:
        """The digest of the layout of *tensors*, each as JSON text; the layout is kept to be given once."""
        digest, packed = layout_of(tensors, but_for=self._said)
        if packed:
            self._packed[digest] = packed
        return digest

    def _reading(
        self,
        seen: Seen,
        *,
        container: str,
        prints: tuple[str, str],
        identity: Mapping[str, Any],
        metadata: Mapping[str, str],
        layout: str,
        observation: str,
        problem: str | None = None,
    ) -> Reading:
        self._said.add(layout)
        return reading_of(
            seen,
            container=container,
            prints=prints,
            problem=problem or unfinished.problem_of(seen.path),
            identity=identity,
            metadata=metadata,
            layout=(layout, self._packed.pop(layout, None)),
            observation=observation,
            version=identification_version(),
        )


def _columns(identity: Identity, tensors: int, elements: int) -> Mapping[str, Any]:
    """The columns of an identification of so many *tensors*, which have so many *elements*."""
    return identification_columns(
        {
            **{name: getattr(identity, name) for name in _FACTS},
            "tensor_count": tensors or None,
            "parameter_count": elements if tensors else None,
        }
    )


_FACTS = (*FACTS, *AS_JSON)


def metadata_of(container: Container) -> dict[str, str]:
    """What the file says about itself: header pairs, and plain values beside the tensors as text."""
    state_dict = container.state_dict
    if state_dict is None:
        return {path: json.dumps(config) for path, config in container.configs.items()}
    scalars = {name: str(value) for name, value in state_dict.scalars.items() if value is not None}
    return {**scalars, **state_dict.metadata}
