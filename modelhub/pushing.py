"""A safe safetensors file of the catalog's to the Hub, with its receipt and a model card.

Nothing is pushed that is not read again and SAFE, no model card that is there is touched, and no other bytes are
replaced unless that is asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelhub import __version__
from modelhub.container import open_path
from modelhub.convert.receipt import RECEIPT_SCHEMA, receipt_path
from modelhub.db import Catalog, Detail
from modelhub.errors import CatalogError, ChangedDuringRead, NotFound, SourceError, UnsafeModelError, WouldOverwrite
from modelhub.intake import examine
from modelhub.scan import Policy, ScanReport, Verdict, load_policy
from modelhub.source import open_local
from modelhub.source.names import check_name
from modelhub.source.network import reference_of

if TYPE_CHECKING:
    from modelhub.source.hub import HubFile

_CARD = "README.md"
_LARGEST_RECEIPT = 64 << 20
_ADAPTERS = ("lora", "embedding", "hypernetwork")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{1,40}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class PushedFile:
    """One file: its path in the repository, and where it lies here or its bytes. ``action``: ``add``, ``replace`` or
    ``unchanged``."""

    path: str
    content: str | bytes
    size: int
    action: str


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What would be pushed to the repository ``address``; ``digest`` is the model's SHA-256, ``report`` what was said
    of it just now, ``creates`` whether the repository is to be made."""

    record: int
    address: str
    digest: str
    files: tuple[PushedFile, ...]
    report: ScanReport
    creates: bool

    @property
    def size(self) -> int:
        """Bytes to be sent."""
        return sum(file.size for file in self.files if file.action != "unchanged")


@dataclass(frozen=True, slots=True)
class Pushed:
    """What came of a plan: ``commit`` is ``None`` where all was there already; ``request`` is the page of the pull
    request."""

    commit: str | None
    request: str | None = None


def plan_push(
    catalog: Catalog,
    selector: str,
    address: str,
    *,
    revision: str | None = None,
    replace: bool = False,
    policy: Policy | None = None,
) -> PushPlan:
    """Examine the record that *selector* fits, look at what lies at *address* (``hf://OWNER/REPOSITORY[/PATH]``), and
    plan to put it there; nothing is written yet.

    Raises :class:`UnsafeModelError` for what is not SAFE, :class:`WouldOverwrite` for other bytes that are there unless
    *replace*, :class:`SourceError` and its like for what cannot be pushed and where the Hub cannot be asked.
    """
    reference = reference_of(address)
    if reference is None:
        hint = "write hf://OWNER/REPOSITORY[@REVISION][/PATH]"
        raise NotFound(f"{address}: names no repository on the Hub", path=address, hint=hint)
    from modelhub.source import hub, hub_upload

    hub_upload.check_may_write()
    detail = catalog.show(selector)
    path, digest, report = _safe_file(detail, policy or load_policy())
    at = reference.path if reference.path and not reference.is_folder else reference.path + os.path.basename(path)
    if not at.endswith(".safetensors"):
        raise SourceError(f"{at}: a safetensors file is not to be called otherwise", path=at)
    check_name(at)
    target = reference._replace(revision=revision or reference.revision, path="")
    receipt = _receipt_of(path, digest)
    receipt_at = f"{at}.receipt.json"
    try:
        hub.about(target)
        there, creates = hub.named_files(target, [at, receipt_at, _CARD]), False
    except NotFound:
        if target.revision is not None:
            raise
        there, creates = {}, True
    wanted: list[tuple[str, str | bytes, int]] = [(at, path, detail.entry.size)]
    if receipt is not None:
        wanted.append((receipt_at, receipt, len(receipt)))
    if _CARD not in there:
        card = model_card(detail, at, report).encode()
        wanted.append((_CARD, card, len(card)))
    files = []
    for name, content, size in wanted:
        known = there.get(name)
        same = known is not None and known.size == size and _is_same(known, content, digest if name == at else None)
        if known is not None and not same and not replace:
            hint = "--replace puts it in its place; the old one stays in the repository's history"
            raise WouldOverwrite(f"{target}: {name} is there with other bytes", hint=hint)
        files.append(PushedFile(name, content, size, "add" if known is None else "unchanged" if same else "replace"))
    return PushPlan(detail.entry.id, str(target), digest, tuple(files), report, creates)


def push(plan: PushPlan, *, private: bool = False, as_request: bool = False, quiet: bool = True) -> Pushed:
    """Carry *plan* out, in one commit; a repository that it makes is *private* if that is asked for.

    Raises as :func:`plan_push` does.
    """
    from modelhub.source import hub_upload

    reference = reference_of(plan.address)
    assert reference is not None
    wanted = {file.path: file.content for file in plan.files if file.action != "unchanged"}
    if not any(file.action != "unchanged" and file.path.endswith(".safetensors") for file in plan.files):
        return Pushed(None)
    if plan.creates:
        hub_upload.create_repository(reference, private=private)
    message = f"{plan.files[0].path}, with modelhub {__version__}"
    digests = {plan.files[0].path: plan.digest}
    done = hub_upload.upload(reference, wanted, digests, message=message, as_request=as_request, quiet=quiet)
    return Pushed(done.commit, done.request)


def _is_same(known: HubFile, content: str | bytes, digest: str | None) -> bool:
    """Whether what is there, of the same length, has the same bytes; where *digest* is theirs, small files alone are
    read for it."""
    if digest is not None and known.sha256 is not None:
        return known.sha256 == digest
    return known.etag in _etags(content)


def _etags(content: str | bytes) -> tuple[str, str]:
    """By what the Hub tells a small file from others: its SHA-256 in LFS, or git's id of it ("Git Objects")."""
    data = content
    if isinstance(data, str):
        with open(data, "rb") as file:
            data = file.read()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return hashlib.sha256(data).hexdigest(), git.hexdigest()


def _receipt_of(path: str, digest: str) -> bytes | None:
    """The receipt beside the file *path*, of which it tells the SHA-256 *digest*; ``None`` for none, for one of other
    bytes, and for a link: what it leads to is not the world's to see."""
    lying = receipt_path(path)
    if os.path.islink(lying):
        return None
    try:
        with open_local(lying) as source:
            data = source.read_at(0, source.size) if source.size <= _LARGEST_RECEIPT else b""
        receipt = json.loads(data)
        told = receipt["schema"] == RECEIPT_SCHEMA and any(file["sha256"] == digest for file in receipt["files"])
    except (SourceError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return data if told else None


def _safe_file(detail: Detail, policy: Policy) -> tuple[str, str, ScanReport]:
    """Where the record's bytes lie, read again, their SHA-256, and what is said of them now."""
    entry = detail.entry
    if entry.path is None or entry.state != "live":
        raise CatalogError(f"{entry.name}: its file is not there")
    if entry.container != "safetensors":
        hint = "'modelhub convert' makes a safetensors file of a checkpoint"
        raise CatalogError(f"{entry.path}: only safetensors files are pushed", hint=hint)
    with open_path(entry.path) as container:
        examined = examine(container, policy=policy)
    if entry.digest is None or examined.digest.sha256 != entry.digest:
        hint = f"modelhub intake {entry.path}"
        raise ChangedDuringRead(f"{entry.path}: not the bytes that the catalog knows", path=entry.path, hint=hint)
    if examined.report.verdict is not Verdict.SAFE:
        label = examined.report.verdict.label
        raise UnsafeModelError(f"{entry.path}: {label}, so it is not pushed", examined.report)
    return entry.path, entry.digest, examined.report


def model_card(detail: Detail, path: str, report: ScanReport) -> str:
    """A model card of what is known of the record, and of claims only what says so: metadata that the Hub reads, then
    the facts."""
    return "\n".join([*_metadata(detail), "", *_text(detail, path, report), ""])


def _metadata(detail: Detail) -> Iterator[str]:
    """The front matter: YAML, in which JSON's lists are such, too."""
    entry = detail.entry
    claimed = [claim.facts for claim in detail.claims]
    yield "---"
    licence = next((said["licence"] for said in claimed if _LICENCE.fullmatch(said.get("licence", ""))), None)
    if licence is not None:
        yield f"license: {json.dumps(licence)}"
    base = next((said["base_model"] for said in claimed if _REPOSITORY.fullmatch(said.get("base_model", ""))), None)
    if base is not None:
        yield f"base_model: {json.dumps(base)}"
    if entry.kind in _ADAPTERS and detail.triggers:
        yield f"instance_prompt: {_quoted(detail.triggers[0])}"
    tags = dict.fromkeys(word for word in ("safetensors", entry.kind, entry.architecture, *entry.tags) if word)
    yield f"tags: [{', '.join(map(_quoted, tags))}]"
    yield "---"


def _quoted(text: str) -> str:
    """*text* as a string of JSON's that is one of YAML's, too: to YAML, JSON's escapes of a letter beyond the first
    65,536 are two letters."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _text(detail: Detail, path: str, report: ScanReport) -> Iterator[str]:
    entry = detail.entry
    yield f"# {_plain(entry.name)}"
    yield ""
    yield "| | |"
    yield "|---|---|"
    facts = {
        "file": f"`{path}`",
        "kind": entry.kind,
        "architecture": " ".join(filter(None, (entry.architecture, entry.variant))),
        "prediction type": entry.prediction_type,
        "precision": entry.precision,
        "size": f"{entry.size:,} bytes",
        "SHA-256": f"`{entry.digest}`",
        "trigger words": ", ".join(detail.triggers[:20]) if entry.kind in _ADAPTERS else None,
        "scan": f"{report.verdict.label}, by modelhub {__version__}, policy {report.policy_version}",
    }
    yield from (f"| {name} | {_plain(value)} |" for name, value in facts.items() if value)
    for step in detail.parents:
        yield ""
        yield f"Made by `{step.kind}` of {_plain(step.name or 'a file')}, SHA-256 `{step.digest}`."
    for came in detail.downloads[:1]:
        yield ""
        yield f"Fetched from {_plain(came.address)}."


def _plain(text: str) -> str:
    """*text* on one line, in which nothing begins another cell or markup that a page would follow."""
    return re.sub(r"([|<>\[\]\\])", r"\\\1", " ".join(text.split()))
