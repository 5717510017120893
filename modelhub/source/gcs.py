"""Buckets of Google Cloud Storage, by its JSON API; who may read them is google-auth's affair.

``GOOGLE_APPLICATION_CREDENTIALS`` and what ``gcloud auth application-default login`` keeps mean what they mean to it;
where it knows no credentials, buckets are read that everybody may read. ``STORAGE_EMULATOR_HOST`` names another
endpoint, as it does to Google's own client. An object is pinned by its generation.
"""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from modelhub.errors import AccessDenied, MissingExtra, NotFound, SourceError
from modelhub.source.buckets import MOST_OBJECTS, BucketReference, StoredFile
from modelhub.source.web import Credentials, Web, origin_of, read_text

try:
    import google.auth
    import urllib3
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
    from google.auth.transport.urllib3 import Request
except ImportError as _error:
    raise MissingExtra("google-auth", "cloud") from _error

_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_only",)
_LARGEST = 8 << 20
"""Bytes of one answer of the API's: a page has a thousand objects."""

_MOST_PAGES = 1000
_HINT = "set GOOGLE_APPLICATION_CREDENTIALS, or run 'gcloud auth application-default login'"


def open_web(reference: BucketReference) -> Web:
    """A client that may read what the user's credentials may. Raises :class:`AccessDenied` for what are none."""
    token = _token()
    credentials = Credentials(origin_of(_endpoint()), f"Bearer {token}") if token is not None else None
    return Web(credentials, frozenset({urlsplit(_endpoint()).hostname or ""}), access=_HINT)


def pin(reference: BucketReference) -> BucketReference:
    """*reference* with the generation that the object is now; as it is where it names no object."""
    if reference.is_folder or reference.generation is not None:
        return reference
    try:
        answer = _asked(reference, f"{_object(reference)}?fields=generation")
    except NotFound:
        return reference
    generation = answer.get("generation")
    if not (isinstance(generation, str) and generation.isascii() and generation.isdigit()):
        raise _not_understood(reference)
    return reference._replace(generation=generation)


def address_of(reference: BucketReference) -> str:
    """Where the object *reference* can be read."""
    generation = f"&generation={reference.generation}" if reference.generation is not None else ""
    return f"{_object(reference)}?alt=media{generation}"


def files_of(reference: BucketReference) -> tuple[StoredFile, ...]:
    """The objects whose keys begin as *reference* does. Raises :class:`NotFound` for none below a prefix, and
    :class:`SourceError` for more than 100,000."""
    files: list[StoredFile] = []
    asked = {"prefix": reference.prefix, "maxResults": "1000", "fields": "items(name,size,etag),nextPageToken"}
    for _ in range(_MOST_PAGES):
        answer = _asked(reference, f"{_bucket(reference)}?{urlencode(asked)}")
        items = answer.get("items", [])
        try:
            files += [StoredFile(str(item["name"]), int(item["size"]), etag=str(item["etag"])) for item in items]
        except (LookupError, TypeError, ValueError) as error:
            raise _not_understood(reference) from error
        if len(files) > MOST_OBJECTS:
            break
        if not isinstance(following := answer.get("nextPageToken"), str):
            listed = tuple(file for file in files if not file.path.endswith("/"))
            if not listed and reference.path:
                raise NotFound(f"{reference}: no such object, and none below it", path=str(reference))
            return listed
        asked["pageToken"] = following
    raise SourceError(f"{reference}: more than {MOST_OBJECTS:,} files are there", path=str(reference))


def _asked(reference: BucketReference, url: str) -> dict[str, Any]:
    web = open_web(reference)
    try:
        with web.get(url, {}, str(reference)) as response:
            answer = json.loads(read_text(response, _LARGEST, str(reference)))
    except (ValueError, RecursionError) as error:
        raise _not_understood(reference) from error
    finally:
        web.close()
    if not isinstance(answer, dict):
        raise _not_understood(reference)
    return answer


def _not_understood(reference: BucketReference) -> SourceError:
    return SourceError(f"{reference}: the store's answer is not understood", path=str(reference))


def _endpoint() -> str:
    address = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if address and "://" not in address:
        address = f"http://{address}"
    return address.rstrip("/") or "https://storage.googleapis.com"


def _bucket(reference: BucketReference) -> str:
    return f"{_endpoint()}/storage/v1/b/{quote(reference.bucket, safe='')}/o"


def _object(reference: BucketReference) -> str:
    return f"{_bucket(reference)}/{quote(reference.path, safe='')}"


@cache
def _credentials() -> Any:
    """What google-auth finds; ``None`` for nothing."""
    try:
        found, _project = google.auth.default(scopes=_SCOPES)
    except DefaultCredentialsError:
        return None
    return found


def _token() -> str | None:
    """A token that is valid now. Raises :class:`AccessDenied` when none is given."""
    try:
        credentials = _credentials()
        if credentials is not None and not credentials.valid:
            credentials.refresh(Request(urllib3.PoolManager()))  # type: ignore[no-untyped-call]
    except (GoogleAuthError, ValueError) as error:
        raise AccessDenied("Google's store: no token is given for your credentials", hint=_HINT) from error
    return None if credentials is None else str(credentials.token)
