"""Where bytes were downloaded from, and what places on the network claim of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select, update

from modelhub.db.clock import now
from modelhub.db.details import select_entry
from modelhub.db.engine import Store
from modelhub.db.entries import Download, Entry
from modelhub.db.hearsay import downloads_of
from modelhub.db.recording import index_record
from modelhub.db.schema import content, download, location, record, remote_claim
from modelhub.db.search import entries
from modelhub.db.side_files import put_digests
from modelhub.source import Digest


class Downloaded(NamedTuple):
    """A record whose bytes came from the network and lie somewhere, and where they came from last."""

    entry: Entry
    is_folder: bool
    download: Download


class Origins:
    """The catalog's downloads, and claims from the network. Every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put_download(self, digest: Digest, came_from: Download) -> None:
        """Write down where the bytes of *digest*, which have a record, came from; again only if it was elsewhere."""

        def work(connection: Connection) -> None:
            content_id = _content_of(connection, digest)
            known = downloads_of(connection, content_id)
            if not known or _told(known[0]) != _told(came_from):
                values = {
                    name: getattr(came_from, name) for name in ("address", "asked", "files", "salvaged", "version")
                }
                connection.execute(insert(download).values(content_id=content_id, added=now(), **values))
                index_record(connection, content_id)

        self._store.write(work)

    def put_claims(
        self, digest: Digest, origin: str, address: str, claims: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> None:
        """Let *claims* and *extra* be what *origin*, asked now at *address*, says of the bytes of *digest*, which have
        a record; *claims* are those of :meth:`modelhub.sidefiles.Claims.as_dict`."""

        def work(connection: Connection) -> None:
            content_id = _content_of(connection, digest)
            before = remote_claim.c.content_id == content_id, remote_claim.c.origin == origin
            since = connection.scalar(select(func.min(remote_claim.c.added)).where(*before))
            connection.execute(delete(remote_claim).where(*before))
            at = now()
            connection.execute(
                insert(remote_claim).values(
                    content_id=content_id,
                    origin=origin,
                    address=address,
                    claims=claims,
                    extra=extra,
                    added=since or at,
                    read=at,
                )
            )
            put_digests(connection, [content_id])
            index_record(connection, content_id)

        self._store.write(work)

    def forget_quarantined(self) -> None:
        """End the places in quarantine that are not there any more: somebody has removed what was not let in. Of a disk
        that is not there nothing is concluded."""

        def work(connection: Connection) -> None:
            rows = connection.execute(
                select(location.c.id, location.c.content_id, location.c.path, location.c.device).where(
                    location.c.state == "quarantined"
                )
            )
            for id_, content_id, path, device in rows.all():
                if not os.path.lexists(path) and _device_around(path) == device:
                    gone = {"live_key": None, "state": "removed", "ended": now()}
                    connection.execute(update(location).where(location.c.id == id_).values(gone))
                    index_record(connection, content_id)

        self._store.write(work)

    def downloaded(self, selectors: Sequence[str]) -> list[Downloaded]:
        """The records that *selectors* fit, or all, whose bytes came from the network and are there, by id.

        A selector stands for whichever record of its artifact came from there: that of what was converted, for one.
        """

        def work(connection: Connection) -> list[Downloaded]:
            came = select(download.c.content_id).distinct()
            wanted = [record.c.content_id.in_(came)]
            if selectors:
                artifacts = {select_entry(connection, each, any_version=True).artifact for each in selectors}
                wanted.append(func.coalesce(record.c.artifact_id, record.c.id).in_(artifacts))
            return [each for entry in entries(connection, *wanted) for each in _downloaded(connection, entry)]

        return self._store.read(work)


def _device_around(path: str) -> str | None:
    """The device of the nearest folder above *path* that is there, as the catalog has it."""
    while (above := os.path.dirname(path)) != path:
        with suppress(OSError):
            return str(os.stat(above).st_dev)
        path = above
    return None


def _downloaded(connection: Connection, entry: Entry) -> list[Downloaded]:
    if entry.state != "live":
        return []
    content_id = connection.execute(select(record.c.content_id).where(record.c.id == entry.id)).scalar_one()
    is_folder = connection.scalar(
        select(location.c.is_folder).where(location.c.content_id == content_id, location.c.live_key.is_not(None))
    )
    return [Downloaded(entry, bool(is_folder), downloads_of(connection, content_id)[0])]


def _told(came_from: Download) -> tuple[object, ...]:
    return came_from.address, came_from.asked, came_from.salvaged


def _content_of(connection: Connection, digest: Digest) -> int:
    return int(connection.execute(select(content.c.id).where(content.c.sha256 == digest.sha256)).scalar_one())
