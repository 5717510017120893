"""Files that are the same, and files that hold the same model."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, func, select

from modelhub.db.entries import Duplicates
from modelhub.db.schema import content, content_digest, location


def duplicates(connection: Connection) -> list[Duplicates]:
    """Every group, the one whose extra copies take most bytes first."""
    groups = [*_twins(connection), *_same_tensors(connection)]
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


def not_comparable(connection: Connection) -> int:
    """How many files nobody has hashed yet, so that nothing can be said of them."""
    hashed = select(content_digest.c.content_id).where(content_digest.c.origin == "computed")
    lacking = content.c.sha256.is_(None) | content.c.id.not_in(hashed)
    live = select(location.c.content_id).where(location.c.live_key.is_not(None), ~location.c.is_folder)
    return connection.scalar(select(func.count()).select_from(content).where(content.c.id.in_(live), lacking)) or 0
