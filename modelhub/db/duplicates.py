"""Files that are the same, and files that hold the same model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Connection, func, select

from modelhub.db.bulk import chunks
from modelhub.db.entries import Duplicates
from modelhub.db.schema import component, content, content_digest, location


def duplicates(connection: Connection) -> list[Duplicates]:
    """Every group, the one whose extra copies take most bytes first."""
    groups = [*_twins(connection), *_same_tensors(connection), *_shared(connection), *_half_as_wide(connection)]
    return sorted(groups, key=lambda group: (-group.extra_bytes, group.paths))


def _twins(connection: Connection) -> Iterator[Duplicates]:
    """Byte for byte the same file in several places; hard links and links to one file cost nothing and are one."""
    several = (
        select(location.c.content_id)
        .where(location.c.live_key.is_not(None), location.c.proven, ~location.c.is_folder)
        .group_by(location.c.content_id)
        .having(func.count() > 1)
    )
    rows = connection.execute(
        select(location.c.content_id, location.c.path, location.c.device, location.c.inode, content.c.size)
        .join(content, content.c.id == location.c.content_id)
        .where(location.c.content_id.in_(several), location.c.live_key.is_not(None), location.c.proven)
        .order_by(location.c.content_id, location.c.path)
    )
    groups: dict[int, list[tuple[str, tuple[str, str], int]]] = {}
    for content_id, path, device, inode, size in rows:
        groups.setdefault(content_id, []).append((path, (device, inode), size))
    for places in groups.values():
        copies = len({file for _, file, _ in places})
        if copies > 1:
            yield Duplicates("same bytes", tuple(path for path, _, _ in places), places[0][2] * (copies - 1))


def _same_tensors(connection: Connection) -> Iterator[Duplicates]:
    """Files with the same tensors under other headers or in other containers: a checkpoint and its conversion."""
    several = (
        select(content_digest.c.value)
        .where(content_digest.c.algorithm == "tensors", content_digest.c.origin == "computed")
        .group_by(content_digest.c.value)
        .having(func.count() > 1)
    )
    rows = connection.execute(
        select(content_digest.c.value, content.c.id, content.c.size, func.min(location.c.path))
        .join(content, content.c.id == content_digest.c.content_id)
        .join(location, location.c.content_id == content.c.id)
        .where(
            content_digest.c.algorithm == "tensors",
            content_digest.c.origin == "computed",
            content_digest.c.value.in_(several),
            location.c.live_key.is_not(None),
            location.c.proven,
        )
        .group_by(content_digest.c.value, content.c.id, content.c.size)
        .order_by(content_digest.c.value, func.min(location.c.path))
    )
    groups: dict[str, list[tuple[str, int]]] = {}
    for value, _, size, path in rows:
        groups.setdefault(value, []).append((path, size))
    for files in groups.values():
        if len(files) > 1:
            sizes = sorted(size for _, size in files)
            yield Duplicates("same tensors", tuple(path for path, _ in files), sum(sizes[1:]))


def _components(connection: Connection, *, is_cast: bool) -> dict[str, dict[int, tuple[str, int]]]:
    """By fingerprint, the contents with this component that lie somewhere, each with its name and bytes there.

    What has no component's name counts where it is all there is: the file is a component as a whole, or a LoRA.
    """
    counts = select(component.c.content_id).where(~component.c.is_cast).group_by(component.c.content_id)
    single = counts.having(func.count() == 1)
    live = select(location.c.content_id).where(location.c.live_key.is_not(None), location.c.proven)
    rows = connection.execute(
        select(component.c.fingerprint, component.c.content_id, component.c.name, component.c.nbytes).where(
            component.c.is_cast == is_cast,
            component.c.content_id.in_(live),
            (component.c.name != "") | component.c.content_id.in_(single),
        )
    )
    found: dict[str, dict[int, tuple[str, int]]] = {}
    for fingerprint, content_id, name, nbytes in rows:
        found.setdefault(fingerprint, {})[content_id] = (name, nbytes)
    return found


def _shared(connection: Connection) -> Iterator[Duplicates]:
    """One VAE or text encoder in several models, unless those are the same tensors altogether."""
    groups = {mark: found for mark, found in _components(connection, is_cast=False).items() if len(found) > 1}
    ids = sorted({content_id for found in groups.values() for content_id in found})
    paths, tensors = _paths(connection, ids), _tensors(connection, ids)
    for found in groups.values():
        different = {tensors.get(content_id, str(content_id)): content_id for content_id in sorted(found)}
        if len(different) > 1:
            name = next((name for name, _ in found.values() if name), "whole file")
            nbytes = next(nbytes for _, nbytes in found.values())
            where = sorted(paths[content_id] for content_id in different.values())
            yield Duplicates("same component", tuple(where), nbytes * (len(different) - 1), name)


def _half_as_wide(connection: Connection) -> Iterator[Duplicates]:
    """Files whose components are those of a file of float32, each rounded to float16; the wider one may have averaged
    weights beside them."""
    casts, stored = _components(connection, is_cast=True), _components(connection, is_cast=False)
    wide, narrow = _by_content(casts), _by_content(stored)
    pairs = {
        (one, other)
        for mark in casts.keys() & stored.keys()
        for one in casts[mark]
        for other in stored[mark]
        if one != other
        and narrow[other].keys() <= wide[one].keys()
        and all(mark in narrow[other] for mark, (name, _) in wide[one].items() if name != "ema")
    }
    paths = _paths(connection, sorted({each for pair in pairs for each in pair}))
    for one, other in sorted(pairs):
        yield Duplicates("fp16 twin", (paths[one], paths[other]), sum(nbytes for _, nbytes in wide[one].values()))


def _by_content(components: Mapping[str, Mapping[int, tuple[str, int]]]) -> dict[int, dict[str, tuple[str, int]]]:
    found: dict[int, dict[str, tuple[str, int]]] = {}
    for mark, contents in components.items():
        for content_id, told in contents.items():
            found.setdefault(content_id, {})[mark] = told
    return found


def _paths(connection: Connection, ids: Sequence[int]) -> dict[int, str]:
    """A path of each content."""
    found: dict[int, str] = {}
    for chunk in chunks(ids):
        rows = select(location.c.content_id, func.min(location.c.path)).where(
            location.c.content_id.in_(chunk), location.c.live_key.is_not(None), location.c.proven
        )
        found |= {row[0]: row[1] for row in connection.execute(rows.group_by(location.c.content_id))}
    return found


def _tensors(connection: Connection, ids: Sequence[int]) -> dict[int, str]:
    """The digest of each content's tensors."""
    found: dict[int, str] = {}
    for chunk in chunks(ids):
        rows = select(content_digest.c.content_id, content_digest.c.value).where(
            content_digest.c.content_id.in_(chunk),
            content_digest.c.algorithm == "tensors",
            content_digest.c.origin == "computed",
        )
        found |= {row[0]: row[1] for row in connection.execute(rows)}
    return found


def not_comparable(connection: Connection) -> int:
    """How many files nobody has hashed yet, so that nothing can be said of them."""
    hashed = select(content_digest.c.content_id).where(content_digest.c.origin == "computed")
    lacking = content.c.sha256.is_(None) | content.c.id.not_in(hashed)
    live = select(location.c.content_id).where(location.c.live_key.is_not(None), ~location.c.is_folder)
    return connection.scalar(select(func.count()).select_from(content).where(content.c.id.in_(live), lacking)) or 0
