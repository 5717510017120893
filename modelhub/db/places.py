"""What syncing a library tells the catalog, and what the catalog tells it: plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from modelhub.source import FileStat


@dataclass(frozen=True, slots=True)
class LibraryRoot:
    """A folder that the catalog follows.

    ``dialect`` says how its folders are laid out (see :mod:`modelhub.source.layouts`), ``follow_links`` whether
    symbolic links in it are followed. ``device`` and ``inode`` are the folder's own when it was last seen, ``synced``
    when a sync last came to its end. ``counts`` are its places by state.
    """

    id: int
    path: str
    dialect: str
    follow_links: bool
    device: int
    inode: int
    online: bool
    added: str
    synced: str | None
    counts: Mapping[str, int] = field(default_factory=dict)


class Seen(NamedTuple):
    """A file, or a folder that is one model, as a walk found it; ``link`` is ``symlink`` or empty."""

    path: str
    size: int
    mtime_ns: int
    dev: int
    ino: int
    root_id: int
    link: str = ""
    is_folder: bool = False


class Known(NamedTuple):
    """A place of the catalog: what a walk had found there. ``header``, ``sample`` and ``problem`` are its content's, as
    is ``hashed``: whether its SHA-256 is known."""

    id: int
    content_id: int
    root_id: int | None
    path: str
    size: int
    mtime_ns: int
    dev: int
    ino: int
    state: str
    is_folder: bool
    header: str | None
    sample: str | None
    problem: str | None
    hashed: bool


class Holding(NamedTuple):
    """A place of a library where bytes lie, and what lists show of their record; ``link`` is ``symlink`` or empty,
    ``digest`` their SHA-256 where it is known, ``linked`` whether a symbolic link in any library leads to them."""

    place: Known
    link: str
    title: str
    kind: str | None
    architecture: str | None
    variant: str | None
    prediction_type: str | None
    precision: str | None
    container: str | None
    digest: str | None
    linked: bool


class ToHash(NamedTuple):
    """A place whose bytes are to be read whole; ``stat`` is what it was when it was last seen."""

    place_id: int
    content_id: int
    stat: FileStat
    is_folder: bool


class Reading(NamedTuple):
    """What a file's header says, as :func:`modelhub.syncing.reading.read_file` gives it. All plain values.

    ``identity`` has the columns of an identification, ``metadata`` and ``triggers`` (what is listed of them) are JSON
    text, ``metadata_sha256`` is the fingerprint of the former, ``claims`` what :func:`modelhub.db.claims.claims_of`
    finds in it; ``about`` and ``words`` are what is searched. ``layout`` is ``None`` where whoever reads has said it
    before.
    """

    container: str
    header: str
    sample: str
    problem: str | None
    identity: Mapping[str, Any]
    metadata: str
    metadata_sha256: str
    claims: Sequence[tuple[str, str, str]]
    about: str
    words: str
    triggers: str
    layout_digest: str
    layout: bytes | None
    observation: str
    version: str


class Moved(NamedTuple):
    """The bytes of a known place are at another, or at the same one again. ``kind`` is ``moved`` or ``returned``, or
    ``linked`` where the known place ``stays`` what it was: its disk is away, and may come back with the same bytes."""

    known: Known
    seen: Seen
    proven: bool
    kind: str
    stays: bool = False


class Change(NamedTuple):
    """One thing that a sync found; ``previous`` is where the bytes lay before."""

    kind: str
    path: str
    previous: str | None = None


class Batch(NamedTuple):
    """What is written down in one transaction.

    ``seen_again``: the same bytes at the same place, whose stat differs in what proves nothing; ``touched``: a stat
    that differs, a header that does not; ``grown``: a download that has got further; ``linked``: one more path of bytes
    that are known by their inode; ``added``: bytes never seen, or others than before at a known place; ``missing``:
    places that are gone; ``away``: places whose disk is not there.
    """

    seen_again: tuple[tuple[Known, Seen], ...] = ()
    moved: tuple[Moved, ...] = ()
    touched: tuple[tuple[Known, Seen], ...] = ()
    grown: tuple[tuple[Known, Seen, Reading], ...] = ()
    linked: tuple[tuple[int, Seen], ...] = ()
    added: tuple[tuple[Known | None, Seen, Reading], ...] = ()
    missing: tuple[Known, ...] = ()
    away: tuple[Known, ...] = ()
