"""The Hugging Face Hub: repositories of models, pinned to a commit, through huggingface_hub.

``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` mean what they mean to huggingface_hub. The token is
sent to the Hub alone, never to where it redirects downloads to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from modelhub.errors import MissingExtra, NotFound, Offline, SourceError
from modelhub.source.address import HUB
from modelhub.source.hub_session import LARGEST_ANSWER, TIMEOUT, asking, endpoint
from modelhub.source.web import Credentials, Web, origin_of

try:
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.hf_api import RepoFile
except ImportError as _error:
    raise MissingExtra("huggingface_hub", "hub") from _error

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_MOST_FILES = 100_000
_PATHS_AT_ONCE = 500
_LONGEST_PATH = 1024
"""Characters of a file's path in a repository."""

_REFERENCE = re.compile(
    r"hf://(?P<owner>[A-Za-z0-9][\w.-]*)/(?P<name>[A-Za-z0-9_][\w.-]*)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+))?(?:/(?P<path>.*))?",
    re.ASCII | re.DOTALL,
)
_PAGE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/(?:blob|resolve|tree)/(?P<revision>refs/pr/[^/]+|[^/]+)(?:/(?P<path>.*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Reference(NamedTuple):
    """A repository, and a revision and a path in it; an empty path, or one that ends with ``/``, is a folder."""

    repo: str
    revision: str | None = None
    path: str = ""

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, so that it can never be anything else."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    @property
    def is_folder(self) -> bool:
        return not self.path or self.path.endswith("/")

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{HUB}{self.repo}{revision}/{self.path}" if self.path or self.revision else f"{HUB}{self.repo}"


class HubFile(NamedTuple):
    """A file of a repository; ``sha256`` is what its LFS pointer claims (``None``: it is kept in git itself), ``etag``
    tells its bytes from others: that SHA-256, or else git's own id of them."""

    path: str
    size: int
    sha256: str | None
    etag: str | None = None


def reference_of(address: str) -> Reference | None:
    """What *address* names on the Hub, ``None`` for any other place.

    Takes ``hf://...`` and the address of a file's or folder's page on the Hub. Raises :class:`NotFound` for an ``hf://``
    that names nothing.
    """
    if address.startswith(HUB):
        found = _REFERENCE.fullmatch(address)
        if found is None or ".." in found["owner"] + found["name"] or found["owner"] in ("datasets", "spaces"):
            hint = "write hf://OWNER/REPOSITORY[@REVISION][/PATH], a repository of models"
            raise NotFound(f"{address}: names no repository of models on the Hub", path=address, hint=hint)
        revision = unquote(found["revision"]) if found["revision"] else None
        return Reference(f"{found['owner']}/{found['name']}", revision, found["path"] or "")
    parts, here = urlsplit(address), urlsplit(endpoint())
    found = _PAGE.fullmatch(parts.path) if (parts.scheme, parts.netloc) == (here.scheme, here.netloc) else None
    if found is None:
        return None
    return Reference(unquote(found["repo"]), unquote(found["revision"]), unquote(found["path"] or ""))


def open_web(_reference: Reference | None = None) -> Web:
    """A client that may read what the user's token may read. Raises :class:`Offline`."""
    if constants.is_offline_mode():
        raise Offline("the Hub cannot be asked: HF_HUB_OFFLINE is set")
    hub, token = endpoint(), get_token()
    credentials = Credentials(origin_of(hub), f"Bearer {token}") if token else None
    return Web(credentials, frozenset({urlsplit(hub).hostname or ""}))


def address_of(reference: Reference) -> str:
    """Where the file *reference* is downloaded from."""
    revision = quote(reference.revision or constants.DEFAULT_REVISION, safe="")
    return f"{endpoint()}/{reference.repo}/resolve/{revision}/{quote(reference.path)}"


def pin(reference: Reference) -> Reference:
    """*reference* with its revision as the commit that it is now; asks the Hub unless it is one already."""
    return reference if reference.is_pinned else reference._replace(revision=commit_of(about(reference), reference))


def commit_of(info: ModelInfo, reference: Reference) -> str:
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise SourceError(f"{reference}: the Hub names no commit for it", path=str(reference))
    return info.sha


def about(reference: Reference) -> ModelInfo:
    """What the Hub says of the repository at its revision: all of it claims, but the commit."""
    with asking(str(reference)):
        return _api().model_info(reference.repo, revision=reference.revision, timeout=TIMEOUT)


def claims_of(info: ModelInfo) -> dict[str, object]:
    """What a repository says of itself, as far as it says it: ``licence``, ``base_model``, ``tags``, ``gated``,
    ``triggers`` (the prompt that calls an adapter up) and ``changed``, when it was changed last."""
    card: dict[str, object] = getattr(info.card_data, "__dict__", {})
    said = {
        "licence": card.get("license"),
        "base_model": card.get("base_model"),
        "tags": info.tags if isinstance(info.tags, list) else [],
        "gated": info.gated,
        "triggers": card.get("instance_prompt"),
        "changed": info.last_modified.isoformat() if info.last_modified is not None else None,
    }
    return {key: value for key, value in said.items() if value}


def download(reference: Reference, size: int, folder: str, *, quiet: bool) -> str:
    """Download the file *reference*, pinned, to below *folder* by its path, resuming what was begun; returns its path.

    Of a file that turns out to have more than the *size* bytes it was said to have, no more are taken.
    All of it is huggingface_hub's: tries, resuming, Xet, ``HF_HUB_OFFLINE``. Raises as :func:`about` does.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if quiet:
        disable_progress_bars()
    with asking(str(reference), max(size, LARGEST_ANSWER)):
        return hf_hub_download(
            reference.repo,
            reference.path,
            revision=reference.revision,
            local_dir=folder,
            endpoint=endpoint(),
            library_name="modelhub",
        )


def files_of(reference: Reference) -> tuple[HubFile, ...]:
    """The files in the folder *reference* and below, in the order that the Hub tells them; one that is a file itself.

    Raises :class:`NotFound` and its like when it cannot be listed, :class:`SourceError` for more than 100,000 files.
    """
    name = str(reference)
    files: list[HubFile] = []
    with asking(str(reference)):
        below = reference.path.rstrip("/") or None
        for entry in _api().list_repo_tree(reference.repo, below, recursive=True, revision=reference.revision):
            if isinstance(entry, RepoFile):
                files.append(_file_of(entry))
            if len(files) > _MOST_FILES:
                raise SourceError(f"{name}: more than {_MOST_FILES:,} files are there", path=name)
    return tuple(files)


def named_files(reference: Reference, paths: Sequence[str]) -> dict[str, HubFile]:
    """Those of *paths* that the repository has at the revision of *reference*; 500 are asked for at once."""
    found: dict[str, HubFile] = {}
    with asking(str(reference)):
        for start in range(0, len(paths), _PATHS_AT_ONCE):
            some = list(paths[start : start + _PATHS_AT_ONCE])
            for entry in _api().get_paths_info(reference.repo, some, revision=reference.revision):
                if isinstance(entry, RepoFile):
                    found[entry.path] = _file_of(entry)
    return found


def _file_of(entry: RepoFile) -> HubFile:
    """*entry* as far as it can be one. Raises ``ValueError`` when it cannot."""
    sha256 = entry.lfs.sha256 if entry.lfs else None
    if not isinstance(entry.path, str) or not 0 < len(entry.path) <= _LONGEST_PATH:
        raise ValueError("the path of a file")
    if type(entry.size) is not int or entry.size < 0:
        raise ValueError("the size of a file")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise ValueError("the SHA-256 of a file")
    oid = entry.blob_id if isinstance(entry.blob_id, str) and _COMMIT.fullmatch(entry.blob_id) else None
    return HubFile(entry.path, entry.size, sha256, sha256 or oid)


def _api() -> HfApi:
    return HfApi(endpoint=endpoint(), library_name="modelhub")
