"""Which bytes were made of which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, insert, select

from modelhub.db.clock import now
from modelhub.db.entries import Derivation, Relative
from modelhub.db.schema import content, derivation, derivation_input, location, record
from modelhub.db.text import fingerprint
from modelhub.source import Digest

_GENERATIONS = 32


def put_derivation(
    connection: Connection,
    kind: str,
    *,
    output: Digest,
    inputs: Sequence[tuple[Digest, str]],
    params: Mapping[str, object],
    version: str,
) -> bool:
    """Append the step unless it is known."""
    pairs = [(digest.sha256, role) for digest, role in inputs]
    identity = fingerprint([kind, output.sha256, pairs, params, version])
    if connection.scalar(select(derivation.c.id).where(derivation.c.fingerprint == identity)) is not None:
        return False
    key = connection.execute(
        insert(derivation).values(
            kind=kind, output=output.sha256, params=params, version=version, fingerprint=identity, added=now()
        )
    ).inserted_primary_key
    assert key is not None
    rows = [
        {"derivation_id": key[0], "position": position, "sha256": sha256, "role": role}
        for position, (sha256, role) in enumerate(pairs)
    ]
    if rows:
        connection.execute(insert(derivation_input), rows)
    return True


def derived_from(connection: Connection, digest: Digest, kind: str, version: str | None) -> list[Derivation]:
    """The steps of *kind* (and *version*, if given) that *digest* was an input of, the newest first."""
    steps = (
        select(derivation)
        .where(
            derivation.c.kind == kind,
            select(derivation_input.c.position)
            .where(derivation_input.c.derivation_id == derivation.c.id, derivation_input.c.sha256 == digest.sha256)
            .exists(),
        )
        .order_by(derivation.c.id.desc())
    )
    if version is not None:
        steps = steps.where(derivation.c.version == version)
    return [
        Derivation(
            kind=step.kind,
            output=step.output,
            inputs=_inputs(connection, step.id),
            params=step.params,
            version=step.version,
            added=step.added,
            paths=_live_paths(connection, step.output),
        )
        for step in connection.execute(steps).all()
    ]


def _inputs(connection: Connection, derivation_id: int) -> tuple[tuple[str, str], ...]:
    rows = connection.execute(
        select(derivation_input.c.sha256, derivation_input.c.role)
        .where(derivation_input.c.derivation_id == derivation_id)
        .order_by(derivation_input.c.position)
    )
    return tuple((row.sha256, row.role) for row in rows)


def _live_paths(connection: Connection, sha256: str) -> tuple[str, ...]:
    rows = connection.scalars(
        select(location.c.path)
        .join(content, location.c.content_id == content.c.id)
        .where(content.c.sha256 == sha256, location.c.live_key.is_not(None), location.c.proven)
        .order_by(location.c.id.desc())
    )
    return tuple(rows)


def parents(connection: Connection, sha256: str | None) -> tuple[Relative, ...]:
    """What the bytes were made of, in the order of the steps and of each step's inputs, and what these were made of.

    No bytes are told the parents of twice, and none more than :data:`_GENERATIONS` back.
    """
    return () if sha256 is None else _parents(connection, sha256, {sha256}, _GENERATIONS)


def _parents(connection: Connection, sha256: str, told: set[str], generations: int) -> tuple[Relative, ...]:
    def with_parents(relative: Relative) -> Relative:
        if generations == 1 or relative.digest in told:
            return relative
        told.add(relative.digest)
        return replace(relative, parents=_parents(connection, relative.digest, told, generations - 1))

    found = _relatives(connection, derivation_input.c.sha256, derivation.c.output == sha256)
    return tuple(map(with_parents, found))


def children(connection: Connection, sha256: str | None) -> tuple[Relative, ...]:
    """What was made of the bytes, in the order of the steps."""
    if sha256 is None:
        return ()
    return _relatives(connection, derivation.c.output, derivation_input.c.sha256 == sha256)


def _relatives(connection: Connection, other: Any, condition: Any) -> tuple[Relative, ...]:
    rows = connection.execute(
        select(
            derivation.c.kind,
            other.label("digest"),
            record.c.name,
            derivation_input.c.role,
            derivation.c.params,
            derivation.c.version,
            derivation.c.added,
        )
        .join_from(derivation, derivation_input, derivation_input.c.derivation_id == derivation.c.id)
        .outerjoin(content, content.c.sha256 == other)
        .outerjoin(record, record.c.content_id == content.c.id)
        .where(condition)
        .order_by(derivation.c.id, derivation_input.c.position)
    )
    return tuple(Relative(*row) for row in rows)
