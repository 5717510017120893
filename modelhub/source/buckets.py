"""Addresses of what lies in object stores: ``s3://BUCKET/KEY`` and ``gs://BUCKET/KEY[#GENERATION]``."""

from __future__ import annotations

import re
from typing import NamedTuple

from modelhub.errors import NotFound

MOST_OBJECTS = 100_000
"""Objects below one prefix that are listed at most."""

_ADDRESS = re.compile(
    r"(?P<store>s3|gs)://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,221}[A-Za-z0-9])(?:/(?P<key>.*))?", re.ASCII | re.DOTALL
)
_GENERATION = re.compile(r"(?P<key>.+[^/])#(?P<generation>\d{1,19})", re.ASCII | re.DOTALL)
_LONGEST_KEY = 1024
"""Bytes of an object's name in both stores."""


class BucketReference(NamedTuple):
    """A bucket of a *store* (``s3``, ``gs``), and what lies in it by its key, the *path*.

    An empty path, or one that ends with ``/``, is all that begins with it. *generation* is the number that Google's
    store gives to each version of an object.
    """

    store: str
    bucket: str
    path: str = ""
    generation: str | None = None

    @property
    def is_folder(self) -> bool:
        return not self.path or self.path.endswith("/")

    @property
    def prefix(self) -> str:
        """What the keys of all that lies in it begin with."""
        return f"{self.path.rstrip('/')}/" if self.path else ""

    def __str__(self) -> str:
        generation = f"#{self.generation}" if self.generation is not None else ""
        return f"{self.store}://{self.bucket}/{self.path}{generation}"


class StoredFile(NamedTuple):
    """An object: its key as *path*, bytes, no SHA-256 that anybody claims, and its ETag."""

    path: str
    size: int
    sha256: str | None = None
    etag: str | None = None


def bucket_reference_of(address: str) -> BucketReference:
    """What *address*, of a bucket, names. Raises :class:`NotFound` for what names nothing."""
    found = _ADDRESS.fullmatch(address)
    key = (found["key"] or "") if found is not None else ""
    if found is None or len(key.encode("utf-8", "surrogatepass")) > _LONGEST_KEY:
        raise NotFound(f"{address[:200]}: names nothing in a bucket", path=address, hint="write s3://BUCKET/KEY")
    pinned = _GENERATION.fullmatch(key) if found["store"] == "gs" else None
    if pinned is not None:
        return BucketReference("gs", found["bucket"], pinned["key"], pinned["generation"])
    return BucketReference(found["store"], found["bucket"], key)
