"""The story of one file: which bytes it is, what kind of file, what loading it would do, which model it is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from modelhub.container import Container
from modelhub.errors import AccessDenied, NotFound, SourceError
from modelhub.identify import Identity, Observation, identify_observation, observe
from modelhub.scan import Policy, ScanReport, scan
from modelhub.source import Digest, FileStat, LocalSource, digest_of
from modelhub.tensor_table import elements_of

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Examination:
    """Everything that is found out about a file, or a diffusers folder, without executing anything of it.

    ``stat`` is what the file system said of it before its bytes were read (see :func:`stat_of`), ``digest`` of which
    bytes ``report`` and ``identity`` speak; ``observation`` is what the identity was told by.
    """

    container: Container
    stat: FileStat
    digest: Digest
    report: ScanReport
    identity: Identity
    observation: Observation | None = None

    @property
    def is_folder(self) -> bool:
        return self.container.source is None

    @cached_property
    def _state_dicts(self) -> tuple[Mapping[str, object], ...]:
        parts = (part.state_dict for _, part in self.container.files())
        return tuple(state_dict for state_dict in parts if state_dict is not None)

    @property
    def tensor_count(self) -> int | None:
        """Tensors altogether, ``None`` when they cannot be told."""
        return sum(map(len, self._state_dicts)) if self._state_dicts else None

    @property
    def parameter_count(self) -> int | None:
        """Elements of all tensors altogether, ``None`` when they cannot be told."""
        dicts = [part.state_dict for _, part in self.container.files() if part.state_dict is not None]
        return sum(elements_of(each.tensors) for each in dicts) if dicts else None

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says about itself: header pairs, and plain values beside the tensors as text."""
        state_dict = self.container.state_dict
        if state_dict is None:
            return {path: json.dumps(config) for path, config in self.container.configs.items()}
        scalars = {name: str(value) for name, value in state_dict.scalars.items() if value is not None}
        return {**scalars, **state_dict.metadata}


def examine(
    container: Container,
    *,
    policy: Policy | None = None,
    stat: FileStat | None = None,
    progress: Progress | None = None,
) -> Examination:
    """Examine an opened *container*; *stat* is what :func:`stat_of` said of it before it was opened.

    *progress* is told bytes as they are read for the digest. Raises :class:`ChangedDuringRead` when the file was
    changed meanwhile, :class:`SourceError` when it cannot be read to its end; never for what its bytes say.
    """
    stat = stat or stat_of(container.name)
    digest = digest_of_container(container, progress)
    report = scan(container, policy, digest)
    observation = observe(container)
    identity = identify_observation(observation)
    for _, part in container.files():
        if isinstance(part.source, LocalSource):
            part.source.check_unchanged()
    return Examination(container, stat, digest, report, identity, observation)


def digest_of_container(container: Container, progress: Progress | None = None) -> Digest:
    """SHA-256 of a file's bytes; of a folder, that of a list of its files.

    A folder's list has a line ``<sha256> <relative path>`` for each file that a loader could load, and one for each
    configuration (of its JSON with sorted keys), in order of the paths.
    """
    if container.source is not None:
        return digest_of(container.source, progress)
    texts = {path: json.dumps(config, sort_keys=True) for path, config in container.configs.items()}
    lines = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()}
    for path, part in container.parts.items():
        if part.source is not None:
            lines[path] = digest_of(part.source, progress).sha256
    listing = "".join(f"{lines[path]} {path}\n" for path in sorted(lines))
    return Digest(hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest())


def _stat_below(path: str) -> os.stat_result:
    """What *path*, found in a folder, leads to; of a link that leads nowhere, itself."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return os.lstat(path)


def stat_of(path: str) -> FileStat:
    """What the file system says of the file or folder *path*, by which a change is noticed without reading it.

    For a folder, ``size`` is that of all files in it and ``mtime_ns`` a checksum of the whole listing (paths, sizes
    and times), so that any change below it makes a different value.
    """
    try:
        st = os.stat(path)
        stat = FileStat(os.path.abspath(path), st.st_size, st.st_mtime_ns, st.st_dev, st.st_ino)
        if not os.path.isdir(path):
            return stat
        listing = hashlib.sha256()
        size = 0
        for folder, folders, files in os.walk(path):
            folders.sort()
            for name in sorted(files):
                below = _stat_below(os.path.join(folder, name))
                size += below.st_size
                relative = os.path.relpath(os.path.join(folder, name), path)
                listing.update(os.fsencode(f"{relative}\0{below.st_size}\0{below.st_mtime_ns}\0{below.st_ino}\n"))
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file or folder") from error
    except PermissionError as error:
        raise AccessDenied(f"{path}: may not be read: permission denied") from error
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be examined: {getattr(error, 'strerror', None) or error}") from error
    return stat._replace(size=size, mtime_ns=int.from_bytes(listing.digest()[:7], "little"))
