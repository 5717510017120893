"""Two object stores on this machine: S3's protocol as far as reading takes it, and Google's JSON API.

Objects are kept by bucket and key. S3's answer only to what is signed by the access key, unless the bucket is public;
Google's only to the token that its token endpoint gives for a signed assertion.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.hub.server import Blob, Fault, Seen, _Handler, _serve


class Buckets:
    """What the stores hold and were asked."""

    access_key, secret_key, token = "AKIDOFTHETEST", "secret-of-the-test", "google-token-of-the-test"

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Blob] = {}
        self.public: set[str] = set()
        self.seen: list[Seen] = []
        self.fault: Fault | None = None
        self.page_size = 3
        self._server = _serve(self, "buckets", _BucketHandler)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.objects[bucket, key] = Blob(content)

    def generation(self, bucket: str, key: str) -> str:
        return str(int(self.objects[bucket, key].etag[:12], 16))

    def keys(self, bucket: str, prefix: str) -> list[str]:
        return sorted(key for each, key in self.objects if each == bucket and key.startswith(prefix))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running() -> Iterator[Buckets]:
    buckets = Buckets()
    try:
        yield buckets
    finally:
        buckets.close()


class _BucketHandler(_Handler):
    hub: Any

    def _answer(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if self.hub.fault is not None and self.hub.fault(self, "file" if "list-type" not in asked else "list"):
            return
        if parts.path == "/token":
            grant = parse_qs(body.decode())
            assert grant["assertion"][0].count(".") == 2
            self._json({"access_token": self.hub.token, "expires_in": 3600, "token_type": "Bearer"})
        elif parts.path.startswith("/storage/v1/b/"):
            self._google(parts.path.split("/")[4], unquote(parts.path.partition("/o/")[2]), asked)
        else:
            bucket, _, key = parts.path[1:].partition("/")
            self._s3(bucket, unquote(key), asked)

    # S3

    def _s3(self, bucket: str, key: str, asked: dict[str, str]) -> None:
        signed = asked.get("X-Amz-Credential", "") + self.headers.get("authorization", "")
        if bucket not in self.hub.public and self.hub.access_key not in signed:
            self._refused(403, "AccessDenied")
        elif not any(each == bucket for each, _ in self.hub.objects):
            self._refused(404, "NoSuchBucket")
        elif "list-type" in asked:
            self._listing(bucket, asked)
        elif blob := self.hub.objects.get((bucket, key)):
            self.bytes_of(blob, {"ETag": f'"{blob.etag}"'})
        else:
            self._refused(404, "NoSuchKey")

    def _refused(self, status: int, code: str) -> None:
        self.reply(status, {"Content-Type": "application/xml"}, f"<Error><Code>{code}</Code></Error>".encode())

    def _listing(self, bucket: str, asked: dict[str, str]) -> None:
        keys = self.hub.keys(bucket, asked.get("prefix", ""))
        at = int(asked.get("continuation-token", "0"))
        page = keys[at : at + self.hub.page_size]
        more = at + len(page) < len(keys)
        found = [(key, self.hub.objects[bucket, key]) for key in page]
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{blob.size}</Size><ETag>&quot;{blob.etag}&quot;</ETag></Contents>"
            for key, blob in found
        )
        token = f"<NextContinuationToken>{at + len(page)}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}</ListBucketResult>"
        self.reply(200, {"Content-Type": "application/xml"}, text.encode())

    # Google

    def _google(self, bucket: str, key: str, asked: dict[str, str]) -> None:
        if bucket not in self.hub.public and self.headers.get("authorization") != f"Bearer {self.hub.token}":
            self.error(401)
        elif not key:
            keys = self.hub.keys(bucket, asked.get("prefix", ""))
            at = int(asked.get("pageToken", "0"))
            page = keys[at : at + self.hub.page_size]
            answer: dict[str, Any] = {"items": [self._item(bucket, each) for each in page]} if page else {}
            if at + len(page) < len(keys):
                answer["nextPageToken"] = str(at + len(page))
            self._json(answer)
        elif (blob := self.hub.objects.get((bucket, key))) is None or not self._is_asked(bucket, key, asked):
            self.error(404)
        elif asked.get("alt") == "media":
            self.bytes_of(blob, {"ETag": f'"{blob.etag}"'})
        else:
            self._json(self._item(bucket, key))

    def _is_asked(self, bucket: str, key: str, asked: dict[str, str]) -> bool:
        generation = self.hub.generation(bucket, key)
        return asked.get("generation", generation) == generation

    def _item(self, bucket: str, key: str) -> dict[str, Any]:
        blob, generation = self.hub.objects[bucket, key], self.hub.generation(bucket, key)
        return {"name": key, "size": str(blob.size), "etag": blob.etag, "generation": generation}


def service_account(url: str) -> str:
    """A service account's key, as JSON, whose tokens are given at *url*."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kept = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "test",
            "private_key_id": str(int(time.time())),
            "private_key": kept.decode(),
            "client_email": "test@test.iam.gserviceaccount.com",
            "token_uri": f"{url}/token",
        }
    )
