"""The folders that the catalog follows, and what their syncs find."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Connection, and_, false, func, insert, or_, select, update

from modelhub.db.bulk import chunks
from modelhub.db.clock import now
from modelhub.db.engine import Store
from modelhub.db.places import Batch, Change, Holding, Known, LibraryRoot
from modelhub.db.recording import index_record
from modelhub.db.schema import change, content, library_root, location, record
from modelhub.db.side_files import adopt, leave
from modelhub.db.syncing import write_batch
from modelhub.db.text import path_key, stored_path
from modelhub.errors import Conflict
from modelhub.source.layouts import folders_of

_ENDED = ("missing", "removed")
"""States of places whose bytes may turn up elsewhere."""


class Libraries:
    """The catalog's libraries. Every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, path: str, dialect: str, *, follow_links: bool, device: int, inode: int) -> LibraryRoot:
        """Follow the folder *path* (absolute) from now on. Raises :class:`Conflict` when it, one above or one below it
        is followed already."""

        def work(connection: Connection) -> LibraryRoot:
            for root in _roots(connection):
                if root.path == path or _inside(path, root.path) or _inside(root.path, path):
                    how = "is" if root.path == path else "lies in" if _inside(path, root.path) else "holds"
                    raise Conflict(f"{path}: it {how} the library {root.path}")
            connection.execute(
                insert(library_root).values(
                    path=path,
                    path_key=path_key(path),
                    dialect=dialect,
                    follow_links=follow_links,
                    device=str(device),
                    inode=str(inode),
                    online=True,
                    added=now(),
                )
            )
            return next(root for root in _roots(connection) if root.path == path)

        return self._store.write(work)

    def remove(self, path: str) -> LibraryRoot:
        """Follow *path* no longer: its records stay, without a place. Raises :class:`Conflict` for another."""

        def work(connection: Connection) -> LibraryRoot:
            root = _named(_roots(connection), path)
            live = location.c.root_id == root.id, location.c.live_key.is_not(None)
            contents = list(connection.scalars(select(location.c.content_id).where(*live).distinct()))
            gone = {"live_key": None, "state": "removed", "ended": now()}
            connection.execute(update(location).where(*live).values(gone))
            connection.execute(update(location).where(location.c.root_id == root.id).values(root_id=None))
            leave(connection, root.id)
            connection.execute(library_root.delete().where(library_root.c.id == root.id))
            for content_id in contents:
                index_record(connection, content_id)
            return root

        return self._store.write(work)

    def all(self) -> list[LibraryRoot]:
        """Every library, by path."""
        return self._store.read(_roots)

    def chosen(self, paths: Collection[str]) -> list[LibraryRoot]:
        """The libraries at *paths*; all of them for none. Raises :class:`Conflict` for a path that is no library."""
        roots = self.all()
        return [_named(roots, path) for path in paths] if paths else roots

    def known(self, roots: Sequence[LibraryRoot], outside: Sequence[str] = ()) -> list[Known]:
        """The places in *roots* where bytes lie as far as the catalog knows: those that they led to, those that lie in
        them, to which another library led, or none, and those at the paths *outside* that they lead to now."""

        def work(connection: Connection) -> list[Known]:
            ids = [root.id for root in roots]
            folders = [folder for root in roots for folder in folders_of(root.path, root.dialect)]
            own = _places(connection, location.c.live_key.is_not(None), location.c.root_id.in_(ids))
            others = _places(
                connection,
                location.c.live_key.is_not(None),
                location.c.state != "quarantined",
                or_(location.c.root_id.is_(None), location.c.root_id.not_in(ids)),
                or_(false(), *(location.c.path.startswith(_below(root.path), autoescape=True) for root in roots)),
            )
            found = own + [each for each in others if any(_inside(each.path, folder) for folder in folders)]
            paths = {each.path for each in found}
            return found + _at(connection, [path for path in outside if path not in paths])

        return self._store.read(work)

    def holdings(self, root: LibraryRoot) -> list[Holding]:
        """The places of *root* where bytes lie as far as the catalog knows, and what is known of these, by path."""

        def work(connection: Connection) -> list[Holding]:
            here = location.c.root_id == root.id, location.c.live_key.is_not(None), location.c.state == "live"
            places = {place.id: place for place in _places(connection, *here)}
            rows = connection.execute(
                select(
                    location.c.id,
                    location.c.link,
                    record.c.name,
                    record.c.kind,
                    record.c.architecture,
                    record.c.variant,
                    record.c.prediction_type,
                    record.c.precision,
                    record.c.container,
                    content.c.sha256,
                )
                .join(content, content.c.id == location.c.content_id)
                .join(record, record.c.content_id == content.c.id)
                .where(*here)
            )
            links = select(location.c.device, location.c.inode).where(
                location.c.live_key.is_not(None), location.c.link != ""
            )
            linked = {(int(device), int(inode)) for device, inode in connection.execute(links)}
            held = []
            for place_id, *known in rows:
                place = places[place_id]
                known.append((place.dev, place.ino) in linked)
                held.append(Holding(place, *known))
            return sorted(held, key=lambda each: each.place.path)

        return self._store.read(work)

    def at(self, paths: Sequence[str]) -> list[Known]:
        """The places at *paths* where bytes lie as far as the catalog knows."""
        return self._store.read(lambda connection: _at(connection, paths))

    def lost(self) -> list[Known]:
        """The places whose bytes were not found where they had been, and that have turned up nowhere else."""
        return self._store.read(lambda connection: _places(connection, location.c.state.in_((*_ENDED, "replaced"))))

    def absent(self, roots: Sequence[LibraryRoot]) -> list[Known]:
        """The places in *roots*, which are not there, and those that are offline anywhere."""
        of_these = location.c.root_id.in_([root.id for root in roots]), location.c.state == "live"
        is_absent = or_(location.c.state == "offline", and_(*of_these))
        return self._store.read(lambda connection: _places(connection, location.c.live_key.is_not(None), is_absent))

    def write(self, batch: Batch) -> list[Change]:
        """Write down what a sync found, all of *batch* or nothing; returns the changes to tell of."""
        return self._store.write(lambda connection: write_batch(connection, batch))

    def put_away(self, root: LibraryRoot) -> int:
        """Note that *root* is not there, and so none of its places can be seen; returns how many those are."""

        def work(connection: Connection) -> int:
            live = location.c.root_id == root.id, location.c.live_key.is_not(None)
            connection.execute(update(location).where(*live).values(state="offline"))
            connection.execute(update(library_root).where(library_root.c.id == root.id).values(online=False))
            return connection.scalar(select(func.count()).select_from(location).where(*live)) or 0

        return self._store.write(work)

    def came_to_an_end(self, root: LibraryRoot, device: int, inode: int) -> None:
        """Note that a sync of *root* has come to its end, and which folder it saw."""
        seen = {"device": str(device), "inode": str(inode), "online": True, "synced": now()}

        def work(connection: Connection) -> None:
            connection.execute(update(library_root).where(library_root.c.id == root.id).values(seen))
            adopt(connection, root.id)

        self._store.write(work)

    def changes(self, limit: int) -> list[tuple[str, Change]]:
        """The last *limit* changes, each with its time, the newest first."""

        def work(connection: Connection) -> list[tuple[str, Change]]:
            rows = connection.execute(select(change).order_by(change.c.id.desc()).limit(limit))
            return [(row.at, Change(row.kind, row.path, row.previous)) for row in rows]

        return self._store.read(work)


def _roots(connection: Connection) -> list[LibraryRoot]:
    counts: dict[int, dict[str, int]] = {}
    counted = (
        select(location.c.root_id, location.c.state, func.count())
        .where(location.c.root_id.is_not(None), or_(location.c.live_key.is_not(None), location.c.state.in_(_ENDED)))
        .group_by(location.c.root_id, location.c.state)
    )
    for root_id, state, number in connection.execute(counted):
        assert root_id is not None
        counts.setdefault(root_id, {})[state] = number
    return [
        LibraryRoot(
            id=row.id,
            path=row.path,
            dialect=row.dialect,
            follow_links=row.follow_links,
            device=int(row.device),
            inode=int(row.inode),
            online=row.online,
            added=row.added,
            synced=row.synced,
            counts=counts.get(row.id, {}),
        )
        for row in connection.execute(select(library_root).order_by(library_root.c.path))
    ]


def _named(roots: Iterable[LibraryRoot], path: str) -> LibraryRoot:
    roots = list(roots)
    for root in roots:
        if root.path == path:
            return root
    hint = f"the libraries are {', '.join(root.path for root in roots)}" if roots else "there is none yet"
    raise Conflict(f"{path}: not a library", hint=hint)


def _inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _below(folder: str) -> str:
    return stored_path(folder.rstrip(os.sep) + os.sep)


def _at(connection: Connection, paths: Sequence[str]) -> list[Known]:
    keys = map(path_key, paths)
    return [place for chunk in chunks(keys) for place in _places(connection, location.c.live_key.in_(chunk))]


def _places(connection: Connection, *conditions: object) -> list[Known]:
    rows = connection.execute(
        select(
            location.c.id,
            location.c.content_id,
            location.c.root_id,
            location.c.path,
            location.c.size,
            location.c.mtime_ns,
            location.c.device,
            location.c.inode,
            location.c.state,
            location.c.is_folder,
            content.c.header_sha256,
            content.c.sample_sha256,
            content.c.problem,
            content.c.sha256.is_not(None),
        )
        .join(content, location.c.content_id == content.c.id)
        .where(*conditions)  # type: ignore[arg-type]
    )
    return [
        Known(id_, content_id, root_id, path, size, int(mtime), int(dev), int(ino), *rest)
        for id_, content_id, root_id, path, size, mtime, dev, ino, *rest in rows
    ]
