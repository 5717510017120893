"""What lists show of a record: what the user set, or else what the newest identification and scan say."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, Table, delete, func, insert, select, update

from modelhub.db.clock import now
from modelhub.db.schema import content, identification, override, record, scan_report
from modelhub.errors import CatalogError

FACTS = ("kind", "architecture", "variant", "prediction_type", "precision")
"""What a user may set, whatever the files say."""

USERS = ("name", "rating", "notes")
"""What a record has from its user alone; a name only where he gave it one."""


def settle(connection: Connection, content_id: int) -> None:
    """Let the content's record carry the facts that hold now."""
    record_id = connection.scalar(select(record.c.id).where(record.c.content_id == content_id))
    if record_id is None:
        return
    scan = connection.execute(_newest(scan_report, content_id)).one_or_none()
    said = connection.execute(_newest(identification, content_id)).one_or_none()
    stated = connection.scalar(select(content.c.container).where(content.c.id == content_id))
    values = {name: getattr(said, name) if said is not None else None for name in FACTS}
    values |= overrides(connection, record_id)
    values["container"] = scan.container if scan is not None else stated
    values["verdict"] = scan.verdict if scan is not None else None
    connection.execute(update(record).where(record.c.id == record_id).values(values))


def _newest(table: Table, content_id: int):  # type: ignore[no-untyped-def]
    newest = select(func.max(table.c.id)).where(table.c.content_id == content_id)
    return select(table).where(table.c.id == newest.scalar_subquery())


def overrides(connection: Connection, record_id: int) -> dict[str, str | None]:
    """The facts that the user set of the record."""
    rows = connection.execute(
        select(override.c.field, override.c.value).where(override.c.record_id == record_id).order_by(override.c.field)
    )
    return {row.field: row.value for row in rows}


def put_overrides(connection: Connection, record_id: int, facts: Mapping[str, str | None]) -> bool:
    """Let the record's *facts* be these, whatever its files say; ``None``: it has none."""
    check(facts)
    known = overrides(connection, record_id)
    changed = {name: value for name, value in facts.items() if name not in known or known[name] != value}
    if not changed:
        return False
    remove_overrides(connection, record_id, changed.keys())
    rows = [{"record_id": record_id, "field": name, "value": value, "added": now()} for name, value in changed.items()]
    connection.execute(insert(override), rows)
    return True


def remove_overrides(connection: Connection, record_id: int, names: Collection[str]) -> bool:
    """Let the facts *names* be what the files say again."""
    check(names)
    gone = delete(override).where(override.c.record_id == record_id, override.c.field.in_(list(names)))
    return connection.execute(gone).rowcount > 0


def check(names: Collection[str], beside: Collection[str] = ()) -> None:
    """Raise :class:`CatalogError` for a name that is none of :data:`FACTS`, nor of those *beside* them."""
    for name in names:
        if name not in FACTS and name not in beside:
            hint = f"these can: {', '.join((*FACTS, *USERS))}"
            raise CatalogError(f"{name}: not a fact that can be set", hint=hint)
