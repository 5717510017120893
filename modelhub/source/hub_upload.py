"""Writing to the Hub, through huggingface_hub: a repository, and one commit of some files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from modelhub.errors import AccessDenied, ChangedDuringRead, MissingExtra, Offline, SourceError
from modelhub.source.hub import Reference
from modelhub.source.hub_session import asking, endpoint

try:
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
except ImportError as _error:
    raise MissingExtra("huggingface_hub", "hub") from _error


class Uploaded(NamedTuple):
    """A commit of ours, and the page of the pull request that it is, if it is one."""

    commit: str
    request: str | None


def check_may_write() -> None:
    """Raise :class:`AccessDenied` without a token, :class:`Offline` where the Hub may not be asked."""
    if constants.is_offline_mode():
        raise Offline("the Hub cannot be asked: HF_HUB_OFFLINE is set")
    if get_token() is None:
        hint = "set HF_TOKEN to a token that may write, or run 'hf auth login'"
        raise AccessDenied("nothing is pushed without a token", hint=hint)


def create_repository(reference: Reference, *, private: bool) -> None:
    """Make the repository of *reference*; one that is there stays as it is."""
    with asking(str(reference._replace(revision=None, path=""))):
        _api().create_repo(reference.repo, private=private, exist_ok=True)


def upload(
    reference: Reference,
    files: Mapping[str, str | bytes],
    digests: Mapping[str, str],
    *,
    message: str,
    as_request: bool,
    quiet: bool,
) -> Uploaded:
    """Commit *files*, by their paths in the repository each a path here or bytes, to the revision of *reference*; with
    *as_request* as a pull request to it. All or nothing of it is there in the end.

    Raises :class:`ChangedDuringRead`, and commits nothing, where the bytes sent for a path do not have the SHA-256 that
    *digests* say.
    """
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if quiet:
        disable_progress_bars()
    name = str(reference)
    try:
        additions = [CommitOperationAdd(path, content) for path, content in files.items()]
    except (OSError, ValueError) as error:
        raise SourceError(f"{name}: cannot be pushed: {error}", path=name) from error
    with asking(name):
        try:
            for each in additions:  # one by one: in threads of huggingface_hub's own, our rules would not hold
                _api().preupload_lfs_files(
                    reference.repo, [each], revision=reference.revision, create_pr=as_request, free_memory=False
                )
                if each.upload_info.sha256.hex() != digests.get(each.path_in_repo, each.upload_info.sha256.hex()):
                    raise ChangedDuringRead(f"{files[each.path_in_repo]!s}: it changed while it was pushed")
            done = _api().create_commit(
                reference.repo, additions, commit_message=message, revision=reference.revision, create_pr=as_request
            )
        except RuntimeError as error:  # huggingface_hub's own, about what barred an upload
            raise error.__cause__ or error from error
    return Uploaded(done.oid, done.pr_url)


def _api() -> HfApi:
    return HfApi(endpoint=endpoint(), library_name="modelhub")
