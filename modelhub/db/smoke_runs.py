"""What smoke tests came to, by the bytes that were tested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select, update

from modelhub.db import search
from modelhub.db.clock import now
from modelhub.db.engine import Store
from modelhub.db.entries import SmokeRun
from modelhub.db.schema import content, location, record, smoke_run
from modelhub.db.text import path_key
from modelhub.source import FileStat


class SmokeRuns:
    """The catalog's smoke tests. Every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def knows(self, stat: FileStat) -> bool:
        """Whether the catalog knows the bytes at ``stat.path``, as *stat* says they are."""
        return self._store.read(lambda connection: _content_at(connection, stat)) is not None

    def put(self, stat: FileStat, run: SmokeRun, base_path: str | None = None) -> bool:
        """Write down that the bytes at ``stat.path`` came to *run*, an adapter on what lies at *base_path*.

        False, and nothing is written, where the catalog knows no such bytes there.
        """

        def work(connection: Connection) -> bool:
            content_id = _content_at(connection, stat)
            if content_id is None:
                return False
            base_id = None
            if base_path is not None:
                live = location.c.live_key == path_key(base_path)
                base_id = connection.scalar(select(location.c.content_id).where(live))
            values = {name: getattr(run, name) for name in _KEPT}
            connection.execute(insert(smoke_run).values(content_id=content_id, base_id=base_id, added=now(), **values))
            return True

        return self._store.write(work)

    def accept(self, stat: FileStat) -> bool:
        """Let the newest test of the bytes at ``stat.path`` be what later ones, asked for the same, are compared with.

        False where there is none with an image.
        """

        def work(connection: Connection) -> bool:
            content_id = _content_at(connection, stat)
            rows = connection.execute(
                select(smoke_run.c.id, smoke_run.c.asked, smoke_run.c.accepted, smoke_run.c.image_path)
                .where(smoke_run.c.content_id == content_id)
                .order_by(smoke_run.c.id.desc())
            ).all()
            if not rows or rows[0].image_path is None:
                return False
            before = [row.id for row in rows if row.accepted and row.asked == rows[0].asked]
            connection.execute(update(smoke_run).where(smoke_run.c.id.in_(before)).values(accepted=False))
            connection.execute(update(smoke_run).where(smoke_run.c.id == rows[0].id).values(accepted=True))
            return True

        return self._store.write(work)

    def accepted(self, stat: FileStat, asked: Mapping[str, Any]) -> str | None:
        """Where the image of the accepted test of the bytes at ``stat.path`` lies that was asked for the same."""

        def work(connection: Connection) -> str | None:
            rows = connection.execute(
                select(smoke_run.c.asked, smoke_run.c.image_path)
                .where(smoke_run.c.content_id == _content_at(connection, stat), smoke_run.c.accepted)
                .order_by(smoke_run.c.id.desc())
            )
            return next((row.image_path for row in rows if row.asked == asked), None)

        return self._store.read(work)

    def tested(self) -> frozenset[int]:
        """The ids of records whose bytes have been tested, whatever came of it."""
        rows = (
            select(record.c.id)
            .join(smoke_run, smoke_run.c.content_id == record.c.content_id)
            .where(smoke_run.c.outcome != "not testable")
        )
        return frozenset(self._store.read(lambda connection: list(connection.scalars(rows))))


_KEPT = ("outcome", "sentence", "asked", "checks", "facts", "image_sha256", "image_path", "accepted", "version")


def runs_of(connection: Connection, content_id: int) -> tuple[SmokeRun, ...]:
    """The tests of the content, the newest first."""
    rows = connection.execute(
        select(smoke_run, content.c.sha256)
        .outerjoin(content, smoke_run.c.base_id == content.c.id)
        .where(smoke_run.c.content_id == content_id)
        .order_by(smoke_run.c.id.desc())
    )
    return tuple(
        SmokeRun(**{name: getattr(row, name) for name in _KEPT}, base_sha256=row.sha256, added=row.added)
        for row in rows
    )


def _content_at(connection: Connection, stat: FileStat) -> int | None:
    """The content that ``stat.path`` holds, if *stat* is what it was when the catalog saw it."""
    return connection.scalar(
        select(location.c.content_id).where(
            location.c.live_key == path_key(stat.path),
            *(location.c[name] == value for name, value in search.stamp(stat).items()),
        )
    )
