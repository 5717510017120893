"""What stands beside the models, and what it claims of them.

A side file's claims are those of the bytes beside which it stood. They follow these bytes when the model goes elsewhere
without it, until it is taken away from a model that stays, or another one of its dialect turns up beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from modelhub.db.bulk import chunks
from modelhub.db.claims import OF_HEADERS
from modelhub.db.clock import now
from modelhub.db.column_types import NAME_LENGTH
from modelhub.db.digests import put_new_claims
from modelhub.db.engine import Store
from modelhub.db.recording import index_record
from modelhub.db.schema import content_digest, image, location, record, remote_claim, side_file
from modelhub.db.text import path_key, storable


class KnownSideFile(NamedTuple):
    """A side file as it was when it was read, beside the content *content_id*.

    ``model`` is the path beside which it stood, ``model_content`` the content that lies there now, and
    ``model_state`` the state of that place; all ``None`` where nothing does.
    """

    id: int
    path: str
    size: int
    mtime_ns: int
    content_id: int
    model: str | None
    model_content: int | None
    model_state: str | None


class SideFileRead(NamedTuple):
    """A side file that was read: beside which content, what the file system said, and what it says itself.

    ``claims`` are those of :meth:`modelhub.sidefiles.Claims.as_dict`; ``known`` is the id of what it was before.
    """

    content_id: int
    root_id: int | None
    path: str
    model: str
    size: int
    mtime_ns: int
    dialect: str
    claims: Mapping[str, Any]
    problem: str | None
    media_type: str | None
    known: int | None = None


class SideFileBatch(NamedTuple):
    """What is written down in one transaction: files that were ``read``; ``left``, which are no longer beside what they
    stood beside, as that has gone; and ``gone``, which were taken away from a model that stays."""

    read: Sequence[SideFileRead] = ()
    left: Sequence[KnownSideFile] = ()
    gone: Sequence[KnownSideFile] = ()


class ImageToHash(NamedTuple):
    """A picture whose bytes nobody has read whole yet."""

    id: int
    path: str


class SideFiles:
    """The catalog's side files. Every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def known(self, root_ids: Collection[int]) -> list[KnownSideFile]:
        """The side files in these libraries, as far as the catalog knows."""

        roots = list(root_ids)
        theirs = side_file.c.root_id.in_(roots) | location.c.root_id.in_(roots)  # which others, or none, led to before
        return self._store.read(lambda connection: _known(connection, theirs))

    def around(self, path: str, content_id: int) -> list[KnownSideFile]:
        """The side files of the model at *path*, which is *content_id*, and those of what lay there before."""
        of_it = (side_file.c.model_key == path_key(path)) | (side_file.c.content_id == content_id)
        return self._store.read(lambda connection: _known(connection, of_it))

    def write(self, batch: SideFileBatch) -> None:
        """Write down what was found beside the models, all of *batch* or nothing."""
        self._store.write(lambda connection: _write(connection, batch))

    def moved(self, paths_of: Mapping[int, Mapping[str, str]]) -> None:
        """Write down that side files of contents were moved together with their models: each content's paths have the
        new path of each of its files and models by the old one. What is written already stays as it is."""

        def work(connection: Connection) -> None:
            for chunk in chunks(paths_of):
                rows = connection.execute(
                    select(side_file.c.id, side_file.c.content_id, side_file.c.path, side_file.c.model_key).where(
                        side_file.c.content_id.in_(chunk), side_file.c.ended.is_(None)
                    )
                )
                models = {
                    content_id: {path_key(source): path_key(target) for source, target in paths_of[content_id].items()}
                    for content_id in chunk
                }
                for id_, content_id, path, model in rows.all():
                    if path in paths_of[content_id] and model in models[content_id]:
                        new = {"path": paths_of[content_id][path], "model_key": models[content_id][model]}
                        connection.execute(update(side_file).where(side_file.c.id == id_).values(new))
            put_digests(connection, paths_of)

        self._store.write(work)

    def images_to_hash(self, record_ids: Sequence[int] | None) -> list[ImageToHash]:
        """The pictures beside these records, or all, that have no digest yet."""

        def work(connection: Connection) -> list[ImageToHash]:
            wanted = (
                select(image.c.side_file_id, side_file.c.path)
                .join(side_file, side_file.c.id == image.c.side_file_id)
                .where(image.c.sha256.is_(None), side_file.c.ended.is_(None))
                .order_by(image.c.side_file_id)
            )
            if record_ids is not None:
                owned = select(record.c.content_id).where(record.c.id.in_(record_ids))
                wanted = wanted.where(side_file.c.content_id.in_(owned))
            return [ImageToHash(*row) for row in connection.execute(wanted)]

        return self._store.read(work)

    def put_image_digests(self, digests: Mapping[int, str]) -> None:
        """Write down the SHA-256 of pictures, by id."""

        def work(connection: Connection) -> None:
            for id_, sha256 in digests.items():
                connection.execute(update(image).where(image.c.side_file_id == id_).values(sha256=sha256))

        self._store.write(work)


def _known(connection: Connection, condition: ColumnElement[bool]) -> list[KnownSideFile]:
    """The side files beside what they stood beside when they were read, as far as the catalog knows."""
    rows = connection.execute(
        select(
            side_file.c.id,
            side_file.c.path,
            side_file.c.size,
            side_file.c.mtime_ns,
            side_file.c.content_id,
            location.c.path,
            location.c.content_id,
            location.c.state,
        )
        .outerjoin(location, location.c.live_key == side_file.c.model_key)
        .where(condition, side_file.c.ended.is_(None))
    )
    return [
        KnownSideFile(id_, path, size, int(mtime), content_id, model, there, state)
        for id_, path, size, mtime, content_id, model, there, state in rows
    ]


def adopt(connection: Connection, root_id: int) -> None:
    """Let side files of models that a library holds be that library's, whichever led to them before."""
    here = select(location.c.live_key).where(location.c.root_id == root_id, location.c.live_key.is_not(None))
    theirs = side_file.c.root_id.is_distinct_from(root_id), side_file.c.ended.is_(None)
    connection.execute(update(side_file).where(*theirs, side_file.c.model_key.in_(here)).values(root_id=root_id))


def leave(connection: Connection, root_id: int) -> None:
    """Let the side files of a library that is followed no longer be the last that was known."""
    gone = update(side_file).where(side_file.c.root_id == root_id)
    connection.execute(gone.where(side_file.c.ended.is_(None)).values(ended=now()))
    connection.execute(gone.values(root_id=None))


def _write(connection: Connection, batch: SideFileBatch) -> None:
    _forget(connection, [each.id for each in batch.gone])
    for chunk in chunks([each.id for each in batch.left]):
        connection.execute(update(side_file).where(side_file.c.id.in_(chunk)).values(ended=now()))
    touched = {each.content_id for each in batch.read} | {each.content_id for each in batch.gone}
    if batch.read:
        _put(connection, batch.read)
    put_digests(connection, touched)
    for content_id in sorted(touched):
        index_record(connection, content_id)


def _put(connection: Connection, read: Sequence[SideFileRead]) -> None:
    contents = {each.content_id for each in read}
    known = {each.known for each in read if each.known is not None}
    since: dict[int, str] = {}
    superseded: list[int] = []
    dialects = {(each.content_id, each.dialect) for each in read}
    for chunk in chunks(contents):
        rows = connection.execute(select(side_file).where(side_file.c.content_id.in_(chunk)))
        for row in rows:
            if row.id in known:
                since[row.id] = row.added
            elif row.ended is not None and (row.content_id, row.dialect) in dialects:
                superseded.append(row.id)
    _forget(connection, [*known, *superseded])
    at = now()
    ids = connection.scalars(
        insert(side_file).returning(side_file.c.id, sort_by_parameter_order=True),
        [
            {
                "content_id": each.content_id,
                "root_id": each.root_id,
                "path": each.path,
                "model_key": path_key(each.model),
                "dialect": each.dialect,
                "size": each.size,
                "mtime_ns": str(each.mtime_ns),
                "claims": each.claims,
                "problem": each.problem,
                "added": since.get(each.known or 0, at),
                "read": at,
            }
            for each in read
        ],
    ).all()
    images = [
        {"side_file_id": id_, "media_type": each.media_type}
        for id_, each in zip(ids, read, strict=True)
        if each.media_type is not None
    ]
    if images:
        connection.execute(insert(image), images)


def _forget(connection: Connection, ids: Sequence[int]) -> None:
    for chunk in chunks(ids):
        connection.execute(delete(image).where(image.c.side_file_id.in_(chunk)))
        connection.execute(delete(side_file).where(side_file.c.id.in_(chunk)))


def put_digests(connection: Connection, content_ids: Collection[int]) -> None:
    """Let the digests that are claimed of these contents, but by their headers, be those of the side files now known
    and of places on the network."""
    for chunk in chunks(content_ids):
        connection.execute(
            delete(content_digest).where(
                content_digest.c.content_id.in_(chunk),
                content_digest.c.origin == "claimed",
                content_digest.c.source.not_in(OF_HEADERS),
            )
        )
        rows = connection.execute(
            select(side_file.c.content_id, side_file.c.path, side_file.c.claims)
            .where(side_file.c.content_id.in_(chunk))
            .order_by(side_file.c.id)
        )
        stated: dict[tuple[int, str, str], str] = {}
        for content_id, path, claims in rows:
            for algorithm, value in claims.get("digests", {}).items():
                stated[content_id, algorithm, _source(path)] = value
        rows = connection.execute(
            select(remote_claim.c.content_id, remote_claim.c.origin, remote_claim.c.claims)
            .where(remote_claim.c.content_id.in_(chunk))
            .order_by(remote_claim.c.id)
        )
        for content_id, origin, claims in rows:
            for algorithm, value in claims.get("digests", {}).items():
                stated[content_id, algorithm, origin] = value
        put_new_claims(
            connection, [(each, algorithm, value, source) for (each, algorithm, source), value in stated.items()]
        )


def _source(path: str) -> str:
    """Who claims what the side file *path* says: its name, with its folder's, as the database holds it."""
    return storable("/".join(path.replace("\\", "/").rsplit("/", 2)[-2:]))[-NAME_LENGTH:]
