"""A Hub on this machine: the endpoints that huggingface_hub calls to look at repositories and to download files.

Two servers on loopback, so that downloads are redirected to another origin as the Hub redirects them to its storage:
``Hub`` answers ``/api/models/...`` (with pages), and ``/OWNER/NAME/resolve/...``; files that are kept by Git LFS are
redirected to ``Hub.storage``. Both count what they are asked and sent; ``Hub.faults`` lets a test break an answer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS_FROM = 10_000
"""Bytes from which on a file is kept by Git LFS."""


@dataclass
class Blob:
    """A file's bytes: in memory, or those of a file on disk with the digest that is claimed of it."""

    data: bytes | None = None
    file: Path | None = None
    claimed: str = ""

    @property
    def size(self) -> int:
        return len(self.data) if self.data is not None else self.file.stat().st_size

    @property
    def sha256(self) -> str:
        return self.claimed or hashlib.sha256(self.data or b"").hexdigest()

    @property
    def is_lfs(self) -> bool:
        return self.size >= LFS_FROM

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else hashlib.sha1(b"blob %d\0" % self.size + (self.data or b"")).hexdigest()

    def read(self, start: int, end: int) -> bytes:
        if self.data is not None:
            return self.data[start:end]
        with self.file.open("rb") as file:
            file.seek(start)
            return file.read(end - start)


@dataclass
class Repo:
    """A repository: its files at each commit, and who may read it."""

    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    card: dict[str, Any] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes | Path | Blob], branch: str = "main") -> str:
        """Make *files* what *branch* has; returns the commit."""
        blobs = {path: _blob(content) for path, content in files.items()}
        sha = hashlib.sha1(repr((len(self.commits), sorted(blobs))).encode()).hexdigest()
        self.commits[sha] = blobs
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


def _blob(content: bytes | Path | Blob) -> Blob:
    if isinstance(content, Blob):
        return content
    return Blob(content) if isinstance(content, bytes) else Blob(file=content, claimed="0" * 64)


@dataclass
class Seen:
    """One request as a server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    server: str
    sent: int = 0


Fault = Callable[["_Handler", str], bool]
"""Told the handler and which part answers (``api``, ``resolve``, ``file``); whether it has answered itself."""


class Hub:
    """The two servers and what they hold."""

    token = "hf_of_the_test"

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.loose: dict[str, Blob] = {}
        self.seen: list[Seen] = []
        self.uploaded: dict[str, bytes] = {}
        self.fault: Fault | None = None
        self.page_size = 50
        self._servers = [_serve(self, "hub"), _serve(self, "storage")]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def storage(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def repo(self, name: str, files: dict[str, bytes | Path | Blob], **about: Any) -> Repo:
        """A new repository with one commit of *files*."""
        repo = self.repos[name] = Repo(**about)
        repo.commit(files)
        return repo

    def put(self, path: str, content: bytes | Path | Blob) -> str:
        """A file outside of any repository; returns its address."""
        self.loose[path] = _blob(content)
        return f"{self.storage}/{path}"

    def asked(self, server: str | None = None) -> list[Seen]:
        return [seen for seen in self.seen if server in (None, seen.server)]

    @property
    def sent(self) -> int:
        """Bytes of bodies altogether."""
        return sum(seen.sent for seen in self.seen)

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def blob_of(self, sha256: str) -> Blob | None:
        for repo in self.repos.values():
            for files in repo.commits.values():
                for blob in files.values():
                    if blob.is_lfs and blob.sha256 == sha256:
                        return blob
        return None


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    try:
        yield hub
    finally:
        hub.close()


def _serve(hub: Hub, name: str, kind: type[BaseHTTPRequestHandler] | None = None) -> ThreadingHTTPServer:
    handler = type("Handler", (kind or _Handler,), {"hub": hub, "name": name})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
_WRITE = re.compile(
    r"/api/(?:repos/(create)|(validate-yaml)|models/([^/]+/[^/]+)/(preupload|commit)/([^/]+))"
    r"|/([^/]+/[^/]+)\.git/info/lfs/objects/(batch)"
)
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.*)", re.DOTALL)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    name: str
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def do_GET(self) -> None:
        body = self._body()
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.seen = Seen(self.command, self.path, headers, self.name)
        self.hub.seen.append(self.seen)
        with suppress(ConnectionError):
            self._answer(body)
            self.wfile.flush()

    do_HEAD = do_POST = do_PUT = do_GET

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        pieces = []
        while length := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def finish(self) -> None:
        with suppress(ConnectionError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bytes) -> None:
        path = urlsplit(self.path).path
        if self.command == "PUT" and self.name == "storage":
            self._part("upload", lambda: self._put(path.rpartition("/")[2], body))
        elif self.name == "storage":
            self._part("file", lambda: self._loose(unquote(path[1:])))
        elif self.command == "POST" and (found := _WRITE.fullmatch(path)):
            self._part("write", lambda: self._write(body, *found.groups()))
        elif found := _API.fullmatch(path):
            self._part("api", lambda: self._api(body, *found.groups()))
        elif found := _RESOLVE.fullmatch(path):
            self._part("resolve", lambda: self._resolve(found[1], unquote(found[2]), unquote(found[3])))
        else:
            self.error(404, "EntryNotFound")

    def _part(self, part: str, answer: Callable[[], None]) -> None:
        if self.hub.fault is None or not self.hub.fault(self, part):
            answer()

    # what faults are made of

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.seen.sent += len(body)
            self.wfile.write(body)

    def error(self, status: int, code: str = "", **headers: str) -> None:
        named = {"X-Error-Code": code} if code else {}
        more = {key.replace("_", "-"): value for key, value in headers.items()}
        self.reply(status, {"Content-Type": "application/json", **named, **more}, b'{"error": "no"}')

    def hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.close()

    # the Hub

    def _readable(self, name: str) -> Repo | None:
        repo = self.hub.repos.get(name)
        known = self.headers.get("authorization") == f"Bearer {self.hub.token}"
        if repo is None or (repo.private and not known):
            self.error(401 if not known else 404, "RepoNotFound")
            return None
        return repo

    def _api(self, body: bytes, name: str, what: str | None, revision: str | None, below: str | None) -> None:
        repo = self._readable(name)
        if repo is None:
            return
        sha = repo.resolve(unquote(revision or "main"))
        if sha is None:
            self.error(404, "RevisionNotFound")
            return
        files = repo.commits[sha]
        if what == "tree":
            self._tree(files, unquote(below or ""))
            return
        if what == "paths-info":
            asked = parse_qs(body.decode()).get("paths", [])
            self._json([_entry(path, files[path]) for path in asked if path in files])
            return
        about = {
            "_id": "0",
            "id": name,
            "modelId": name,
            "sha": sha,
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "tags": repo.tags,
            "cardData": repo.card,
            "siblings": [{"rfilename": path} for path in files],
        }
        self._json(about)

    def _tree(self, files: dict[str, Blob], below: str) -> None:
        inside = [path for path in sorted(files) if not below or path.startswith(f"{below}/")]
        if below and not inside:
            self.error(404, "EntryNotFound")
            return
        at = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        page = inside[at : at + self.hub.page_size]
        headers = {"Content-Type": "application/json"}
        if at + len(page) < len(inside):
            base = f"{self.hub.url}{urlsplit(self.path).path}?recursive=True&expand=False"
            headers["Link"] = f'<{base}&cursor={at + len(page)}>; rel="next"'
        folders = {path.rpartition("/")[0] for path in page} - {""}
        entries = [{"type": "directory", "path": folder, "oid": "1"} for folder in folders if at == 0]
        self.reply(200, headers, json.dumps(entries + [_entry(path, files[path]) for path in page]).encode())

    def _json(self, value: Any) -> None:
        self.reply(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._readable(name)
        if repo is None:
            return
        sha = repo.resolve(revision)
        blob = repo.commits[sha].get(path) if sha else None
        if blob is None:
            named = {"X_Repo_Commit": sha} if sha else {}
            self.error(404, "EntryNotFound" if sha else "RevisionNotFound", **named)
            return
        if repo.gated and self.headers.get("authorization") != f"Bearer {self.hub.token}":
            self.error(403, "GatedRepo")
            return
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.etag}"', "X-Linked-Size": str(blob.size)}
        if not blob.is_lfs:
            self.bytes_of(blob, headers)
            return
        headers["X-Linked-Etag"] = f'"{blob.sha256}"'
        headers["Location"] = f"{self.hub.storage}/lfs/{blob.sha256}?name={quote(path)}"
        self.reply(302, headers)

    # writing

    def _write(
        self,
        body: bytes,
        create: str | None,
        validate: str | None,
        name: str | None,
        what: str | None,
        revision: str | None,
        lfs_name: str | None,
        batch: str | None,
    ) -> None:
        """What huggingface_hub asks for a commit: a repository, how files are sent, where to, and the commit itself."""
        if validate:
            self._json({"errors": [], "warnings": []})
            return
        if self.headers.get("authorization") != f"Bearer {self.hub.token}":
            self.error(401)
            return
        if create:
            said = json.loads(body)
            full = f"{said.get('organization') or 'me'}/{said['name']}"
            self.hub.repos.setdefault(full, Repo(private=said.get("visibility") == "private")).commit({})
            self._json({"url": f"{self.hub.url}/{full}", "name": full, "id": full})
            return
        repo = self._readable(str(name or lfs_name))
        if repo is None:
            return
        if batch:
            self._json({"transfer": "basic", "objects": [self._upload(each) for each in json.loads(body)["objects"]]})
        elif what == "preupload":
            listed = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            modes = [{**each, "uploadMode": mode[each["size"] >= LFS_FROM], "shouldIgnore": False} for each in listed]
            self._json({"files": modes})
        else:
            self._commit(str(name), repo, body, unquote(revision or "main"))

    def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.hub.storage}/upload/{wanted['oid']}"
        return {**wanted, "actions": {"upload": {"href": href, "header": {}}}}

    def _put(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self.error(400)
            return
        self.hub.uploaded[oid] = body
        self.reply(200, {})

    def _commit(self, name: str, repo: Repo, body: bytes, revision: str) -> None:
        files = dict(repo.commits[repo.branches[revision]])
        for line in body.splitlines():
            said = json.loads(line)
            if said["key"] == "file":
                files[said["value"]["path"]] = Blob(base64.b64decode(said["value"]["content"]))
            elif said["key"] == "lfsFile":
                files[said["value"]["path"]] = Blob(self.hub.uploaded[said["value"]["oid"]])
        as_request = "create_pr=1" in self.path
        branch = f"refs/pr/{len(repo.requests) + 1}" if as_request else revision
        sha = repo.commit(files, branch)
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"}
        if as_request:
            repo.requests.append(branch)
            answer["pullRequestUrl"] = f"{self.hub.url}/{name}/discussions/{len(repo.requests)}"
        self._json(answer)

    # the storage

    def _loose(self, path: str) -> None:
        blob = self.hub.blob_of(path.removeprefix("lfs/")) if path.startswith("lfs/") else self.hub.loose.get(path)
        if blob is None:
            self.error(404)
        else:
            self.bytes_of(blob, {"ETag": f'"{blob.etag}"'})

    def bytes_of(self, blob: Blob, headers: dict[str, str], *, pause: float = 0.0, cut: int | None = None) -> None:
        """Send *blob*, or the range asked for; in pieces with a *pause*, and no more than *cut* bytes of it."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        start, end = 0, blob.size
        if asked:
            start, end = int(asked[1]), min(blob.size, int(asked[2] or blob.size) + 1)
            if start >= blob.size:
                self.reply(416, {"Content-Range": f"bytes */{blob.size}"})
                return
            headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{blob.size}"}
        self.send_response(206 if asked else 200)
        for key, value in {**headers, "Content-Length": str(end - start), "Accept-Ranges": "bytes"}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = end if cut is None else min(end, start + cut)
        for at in range(start, stop, 1 << 18):
            piece = blob.read(at, min(stop, at + (1 << 18)))
            self.seen.sent += len(piece)
            self.wfile.write(piece)
            if pause:
                self.wfile.flush()
                time.sleep(pause)
        if stop < end:
            self.hang_up()


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.etag[:40]}
    if blob.is_lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}
    return entry
