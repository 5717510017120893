"""What others say of a record's bytes, beside what is known of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, select

from modelhub.db.entries import Claim, Download, Entry, Preview
from modelhub.db.full_text import IN_ORDER
from modelhub.db.schema import download, image, remote_claim, side_file
from modelhub.sidefiles.modelspec import claimed_in_header

_PREDICTIONS = {"v": "v_prediction", "v-prediction": "v_prediction", "eps": "epsilon"}
"""Other words for prediction types."""
_PARTS = ("sdxl-refiner",)
"""Architectures that people name after the one that they belong to."""


def claims_of(connection: Connection, content_id: int, metadata: Mapping[str, str]) -> tuple[Claim, ...]:
    """What the side files of the content say, pictures apart, places on the network, and its header."""
    rows = connection.execute(
        select(side_file)
        .outerjoin(image, image.c.side_file_id == side_file.c.id)
        .where(side_file.c.content_id == content_id, image.c.side_file_id.is_(None))
        .order_by(*IN_ORDER)
    )
    found = [
        Claim(row.dialect, row.claims, row.path, row.problem, _time(int(row.mtime_ns)), row.read, row.ended)
        for row in rows
    ]
    found += [
        Claim(row.origin, row.claims, read=row.read, address=row.address, extra=row.extra)
        for row in connection.execute(
            select(remote_claim).where(remote_claim.c.content_id == content_id).order_by(remote_claim.c.id)
        )
    ]
    own = claimed_in_header(metadata).as_dict()
    return tuple([*found, Claim("metadata", own)] if own else found)


def _time(mtime_ns: int) -> str | None:
    """A file's time as the catalog writes it; ``None`` for one that no calendar has."""
    try:
        return datetime.fromtimestamp(mtime_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return None


def previews_of(connection: Connection, content_id: int) -> tuple[Preview, ...]:
    """The pictures and films beside the content's files, those named as previews first."""
    rows = connection.execute(
        select(
            side_file.c.path,
            side_file.c.dialect,
            image.c.media_type,
            side_file.c.size,
            image.c.sha256,
            side_file.c.ended,
        )
        .join(image, image.c.side_file_id == side_file.c.id)
        .where(side_file.c.content_id == content_id)
        .order_by(side_file.c.ended.is_not(None), side_file.c.dialect.desc(), side_file.c.id)
    )
    return tuple(Preview(*row) for row in rows)


def downloads_of(connection: Connection, content_id: int) -> tuple[Download, ...]:
    """Where the content was downloaded from, the newest first."""
    rows = connection.execute(
        select(download).where(download.c.content_id == content_id).order_by(download.c.id.desc())
    )
    return tuple(
        Download(row.address, row.asked, tuple(row.files), row.salvaged, row.version, row.added) for row in rows
    )


def contradictions(claims: Sequence[Claim], entry: Entry) -> Iterator[str]:
    """Those of *claims* of architecture and prediction type that the record's facts contradict, in words."""
    for claim in claims:
        said = claim.facts.get("base_model")
        if said and entry.architecture:
            meant = _architecture(said)
            if meant not in (None, entry.architecture) and entry.architecture not in _PARTS:
                yield f"{_who(claim)} claims that it is for {said} ({meant}), but it is {entry.architecture}"
        predicts = claim.facts.get("prediction_type")
        if predicts and entry.prediction_type:
            meant = _PREDICTIONS.get(predicts, predicts)
            if meant != entry.prediction_type:
                yield f"{_who(claim)} claims that it predicts {meant}, but it is {entry.prediction_type}"


def _who(claim: Claim) -> str:
    return claim.path or claim.address or "its metadata"


def _architecture(said: str) -> str | None:
    from modelhub.identify.claims import claimed_architecture

    return claimed_architecture(said) or claimed_architecture(said.rpartition("/")[2])  # a repository's owner apart
