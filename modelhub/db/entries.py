"""What the catalog answers: frozen values, made of text, numbers, tuples and dicts alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Query:
    """Which records to list; what is ``None`` (or empty) does not narrow them.

    ``kind`` to ``container`` take one value or several of which one must hold, ``rating`` the least that it may be, and
    ``folder`` an absolute path below which one of the files must lie; ``tag`` takes one or several that must all be
    there, ``collection`` one or several that it must all be in. ``text`` is words, of which each must occur, in any
    case, without commas and quotes around it: within any other word of the name, a path, a tag, the notes or a trigger
    word, or at the beginning of a word of the metadata. ``digest`` is the beginning of a SHA-256 or of any other
    digest that is known, computed or claimed. ``broken``: only files with which something is wrong. ``gone`` lists the
    records whose bytes lie at no known path any more as well.
    ``sort`` is one of :data:`SORTS`, with a leading ``-`` for descending order.
    """

    kind: str | tuple[str, ...] | None = None
    architecture: str | tuple[str, ...] | None = None
    variant: str | tuple[str, ...] | None = None
    prediction_type: str | tuple[str, ...] | None = None
    precision: str | tuple[str, ...] | None = None
    verdict: str | tuple[str, ...] | None = None
    container: str | tuple[str, ...] | None = None
    rating: int | None = None
    folder: str | None = None
    tag: str | tuple[str, ...] | None = None
    collection: str | tuple[str, ...] | None = None
    text: str | None = None
    digest: str | None = None
    broken: bool = False
    gone: bool = False
    limit: int | None = None
    offset: int = 0
    sort: str = "name"


SORTS = ("name", "added", "size", "kind", "architecture", "precision", "verdict", "rating", "path")


@dataclass(frozen=True, slots=True)
class Entry:
    """One record, in the words of a list's row.

    ``artifact`` is a number that it has in common with the records that are one artifact with it.
    ``verdict`` is that of the newest scan (``None``: there was none), ``kind`` to ``precision`` what the user set or
    else the newest identification says; ``digest`` is the SHA-256 in hex (``None``: the bytes have not been read whole
    yet), ``size`` in bytes, ``path`` where the bytes lie (of several places the one recorded last, ``None`` when none
    is left), ``state`` ``live``, ``offline``, ``quarantined`` or ``gone``, ``rating`` from 0 to 5, ``added`` ISO 8601
    in UTC. ``triggers`` are the first of the trigger words, ``preview`` is the path of a picture beside the file,
    ``problem`` what is wrong with the file, in words.
    """

    id: int
    artifact: int
    name: str
    kind: str | None
    architecture: str | None
    variant: str | None
    prediction_type: str | None
    precision: str | None
    container: str | None
    verdict: str | None
    size: int
    digest: str | None
    path: str | None
    state: str
    rating: int | None
    tags: tuple[str, ...]
    added: str
    triggers: tuple[str, ...] = ()
    preview: str | None = None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)


ENTRY_FIELDS = tuple(each.name for each in fields(Entry))
"""The names of an entry's fields, in the order in which they are listed."""


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of ``size`` artifacts."""

    id: int
    name: str
    size: int
    added: str


@dataclass(frozen=True, slots=True)
class Place:
    """A path that holds a record's bytes, or held them until ``ended``.

    ``state`` is ``live``, ``offline``, ``quarantined``, ``missing``, ``moved``, ``replaced`` or ``removed``; ``proven``
    is false where the bytes were told by their header alone.
    """

    path: str
    is_folder: bool
    state: str
    proven: bool
    added: str
    ended: str | None


@dataclass(frozen=True, slots=True)
class KnownDigest:
    """A digest beside the SHA-256: ``origin`` is ``computed`` or ``claimed``, ``source`` who claims it."""

    algorithm: str
    value: str
    origin: str
    source: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What somebody else says of a record's bytes: ``origin`` is the dialect of a side file, ``metadata`` for their own
    header, or a place on the network: ``huggingface``, ``civitai``.

    ``facts`` are those of :meth:`modelhub.sidefiles.Claims.as_dict`, ``problem`` is what is wrong with the side file.
    It lies at ``path``, was last changed at ``changed`` and read at ``read``; at ``ended`` the bytes were found to be
    elsewhere, and it was not with them. What was said on the network stands at ``address``; ``extra`` is what such a
    place alone says. Times are ISO 8601 in UTC.
    """

    origin: str
    facts: Mapping[str, Any]
    path: str | None = None
    problem: str | None = None
    changed: str | None = None
    read: str | None = None
    ended: str | None = None
    address: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Download:
    """Where a record's bytes were downloaded from: ``address`` is pinned to a commit where it is the Hub's, ``asked``
    the revision that was asked for (``None``: that which nobody has to name).

    ``files`` are those that the bytes came in, as the source told them, each with its ``path``, ``size``, ``sha256``
    and ``etag``. ``salvaged``: the bytes are the tensors alone of what lies there. ``added`` is when: ISO 8601 in UTC.
    """

    address: str
    asked: str | None
    files: tuple[Mapping[str, Any], ...]
    salvaged: bool
    version: str
    added: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture or film beside a record's file: ``role`` is ``preview``, or ``picture`` for one that merely has the
    model's name; ``media_type`` is told by its bytes; ``sha256`` is ``None`` until it has been hashed."""

    path: str
    role: str
    media_type: str
    size: int
    sha256: str | None
    ended: str | None


@dataclass(frozen=True, slots=True)
class FoundBefore:
    """One finding of the newest scan; see :class:`modelhub.scan.findings.Finding`."""

    rule: str
    severity: str
    confidence: str
    message: str
    member: str | None
    offset: int | None
    evidence: str | None


@dataclass(frozen=True, slots=True)
class ScanRun:
    """One scan of the bytes: its verdict, and which policy of which version gave it."""

    verdict: str
    complete: bool
    container: str | None
    skipped: tuple[Mapping[str, Any], ...]
    policy_version: str
    version: str
    added: str


@dataclass(frozen=True, slots=True)
class Identified:
    """The newest identification; see :class:`modelhub.identify.base.Identity`.

    ``evidence`` and ``adapter`` have that module's fields as plain dicts.
    """

    components: tuple[str, ...]
    candidates: tuple[str, ...]
    adapter: Mapping[str, Any] | None
    evidence: tuple[Mapping[str, Any], ...]
    tensor_count: int | None
    parameter_count: int | None
    version: str
    added: str


@dataclass(frozen=True, slots=True)
class Relative:
    """Bytes that others were made of (a parent) or that were made of them (a child).

    ``role`` is what the parent was to the child; ``name`` is ``None`` for bytes that the catalog has not seen. A parent
    has its own ``parents``, where it is the first of these bytes in the tree.
    """

    kind: str
    digest: str
    name: str | None
    role: str
    params: Mapping[str, Any]
    version: str
    added: str
    parents: tuple[Relative, ...] = ()


@dataclass(frozen=True, slots=True)
class Derivation:
    """One step of lineage: ``inputs`` are pairs of SHA-256 and role, ``paths`` where the output lies now."""

    kind: str
    output: str
    inputs: tuple[tuple[str, str], ...]
    params: Mapping[str, Any]
    version: str
    added: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Files that are one too many: ``kind`` is ``same bytes``, ``same tensors``, ``same component`` or ``fp16 twin``.

    ``extra_bytes`` is what all but one of them take: of those with the same tensors, all but the smallest; of
    twins, the wider one's components. ``component`` is which one is the same.
    """

    kind: str
    paths: tuple[str, ...]
    extra_bytes: int
    component: str | None = None


@dataclass(frozen=True, slots=True)
class SmokeRun:
    """One smoke test; the first fields are those of :class:`modelhub.smoke.SmokeResult` as plain objects.

    ``asked`` is what two tests must share to be comparable. The image lies, or lay, at ``image_path``; ``accepted``: it
    is the reference of later ones. ``base_sha256`` is what an adapter was put on, where the catalog knows it.
    """

    outcome: str
    sentence: str
    asked: Mapping[str, Any]
    checks: tuple[Mapping[str, Any], ...]
    facts: Mapping[str, Any]
    image_sha256: str | None
    image_path: str | None
    version: str
    accepted: bool = False
    base_sha256: str | None = None
    added: str = ""


@dataclass(frozen=True, slots=True)
class Detail:
    """Everything that the catalog knows of one record; ``scans`` begins with the newest, which made ``findings``.

    ``triggers`` are the words that side files and metadata say call the model up, the commonest first. ``overrides``
    are the facts that the user set, ``claims`` what side files, the header and places on the network say,
    ``disagreements`` those of the claims that what is known contradicts, in words. ``downloads`` are where the bytes
    came from, the newest first. ``problem`` is what is wrong with the file. ``versions`` are the
    other records of the artifact, the newest first, ``collections`` those that it is in.
    """

    entry: Entry
    notes: str
    locations: tuple[Place, ...]
    findings: tuple[FoundBefore, ...]
    scans: tuple[ScanRun, ...]
    identification: Identified | None
    problem: str | None = None
    overrides: Mapping[str, str | None] = field(default_factory=dict)
    digests: tuple[KnownDigest, ...] = ()
    disagreements: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    triggers: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    previews: tuple[Preview, ...] = ()
    downloads: tuple[Download, ...] = ()
    parents: tuple[Relative, ...] = ()
    children: tuple[Relative, ...] = ()
    versions: tuple[Entry, ...] = ()
    collections: tuple[str, ...] = ()
    smoke_runs: tuple[SmokeRun, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The fields, and those of the values in them, as JSON has them."""
        return asdict(self)
