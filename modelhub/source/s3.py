"""Buckets of S3, and of all that speaks its protocol: who may read them, and what lies in them, is botocore's affair.

Its environment means what it means to it (``AWS_PROFILE``, ``AWS_ENDPOINT_URL_S3``, ``~/.aws``, ...). It signs
addresses, which are read as any others are, by ranges and under the same rules; where it knows no credentials, they
are not signed. The host that it names may have a private address, as endpoints within a private cloud have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from modelhub.errors import AccessDenied, MissingExtra, NotFound, SourceError
from modelhub.source.buckets import MOST_OBJECTS, BucketReference, StoredFile
from modelhub.source.web import Web

try:
    import botocore.session
    from botocore import UNSIGNED, exceptions
    from botocore.config import Config
except ImportError as _error:
    raise MissingExtra("botocore", "cloud") from _error

if TYPE_CHECKING:
    from botocore.client import BaseClient

_VALID = 12 * 3600
"""Seconds for which an address is signed; temporary credentials may end it earlier."""

_HINT = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, of who may read it"


def open_web(reference: BucketReference) -> Web:
    """A client for what the bucket's addresses, signed, lead to."""
    return Web(trusted=frozenset({urlsplit(address_of(reference)).hostname or ""}), access=_HINT)


def pin(reference: BucketReference) -> BucketReference:
    """*reference*: what it is is pinned by its ETag when it is read."""
    return reference


def address_of(reference: BucketReference) -> str:
    """Where the object *reference* can be read for some hours, signed: not to be shown."""
    with _asking(reference):
        named = {"Bucket": reference.bucket, "Key": reference.path or "-"}
        signed: str = _client(reference.bucket).generate_presigned_url("get_object", named, ExpiresIn=_VALID)
    return signed


def files_of(reference: BucketReference) -> tuple[StoredFile, ...]:
    """The objects whose keys begin as *reference* does. Raises :class:`NotFound` for none below a prefix, and
    :class:`SourceError` for more than 100,000."""
    files: list[StoredFile] = []
    with _asking(reference):
        pages = _client(reference.bucket).get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=reference.bucket, Prefix=reference.prefix):
            objects = [each for each in page.get("Contents", ()) if not each["Key"].endswith("/")]
            files += [StoredFile(each["Key"], int(each["Size"]), etag=str(each.get("ETag"))) for each in objects]
            if len(files) > MOST_OBJECTS:
                raise SourceError(f"{reference}: more than {MOST_OBJECTS:,} files are there", path=str(reference))
    if not files and reference.path:
        raise NotFound(f"{reference}: no such object, and none below it", path=str(reference))
    return tuple(files)


@contextmanager
def _asking(reference: BucketReference) -> Iterator[None]:
    """botocore's errors become ours."""
    name = str(reference)
    try:
        yield
    except exceptions.ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status in (401, 403):
            raise AccessDenied(f"{name}: may not be read (status {status})", path=name, hint=_HINT) from error
        if status == 404:
            raise NotFound(f"{name}: no such bucket", path=name) from error
        raise SourceError(f"{name}: the store answers with status {status}", path=name) from error
    except exceptions.ParamValidationError as error:
        raise NotFound(f"{name}: names nothing in a bucket", path=name) from error
    except (exceptions.BotoCoreError, exceptions.HTTPClientError, ValueError) as error:
        reason = str(error).partition("?")[0]  # what follows may be a signature
        raise SourceError(f"{name}: the store cannot be asked: {reason}", path=name) from error


@cache
def _client(bucket: str) -> BaseClient:
    """A client for the region that *bucket* is in."""
    session = botocore.session.get_session()
    options: dict[str, Any] = {"connect_timeout": 10, "read_timeout": 20, "retries": {"max_attempts": 2}}
    options["signature_version"] = UNSIGNED if session.get_credentials() is None else "s3v4"
    client = session.create_client("s3", config=Config(**options))
    if not (urlsplit(client.meta.endpoint_url).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return client
    region = _region_of(client, bucket)
    if region in (None, client.meta.region_name):
        return client
    return session.create_client("s3", region_name=region, config=Config(**options))


def _region_of(client: BaseClient, bucket: str) -> str | None:
    """The region of *bucket*, which is told even to those who may not read it."""
    try:
        answer = client.head_bucket(Bucket=bucket)
    except exceptions.ClientError as error:
        answer = error.response
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region")
    return str(region) if region else None
