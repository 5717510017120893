"""One file from the network into a folder, gone on with where an earlier try broke off.

What has come lies in ``NAME.part``, and beside it, in ``NAME.part.json``, by what the server tells its bytes from
others (a strong ETag, else Last-Modified) and how many of them have certainly reached the disk. The rest is asked for
on the condition that the file is still that one (RFC 9110, 13.1.5); if it is not, or the server does not go on, all of
it is.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from modelhub.errors import SourceError
from modelhub.source.network import reach
from modelhub.source.web import CutOff, read_body

if TYPE_CHECKING:
    import httpx2

    from modelhub.source.network import Way

_SYNCED = 64 << 20
"""Bytes after which what has come is made to reach the disk."""

_TRIES, _TRIES_ANEW = 10, 3
"""Connections that may break one after the other, where a download is gone on with, and where it is begun again."""

_LARGEST_NOTE = 1 << 16
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


def download(address: str, size: int, path: str, on_note: Callable[[str], None]) -> None:
    """Bring the file of *size* bytes at *address*, which is not on the Hub, to *path*, in place of what is there.

    *on_note* is told that a download is gone on with, or begun again. What has come stays beside *path* when it fails,
    but of a file of another size. Raises :class:`SourceError` and ``OSError``.
    """
    with ExitStack() as stack:
        way = reach(address, stack)
        part = stack.enter_context(_Part(path, way.name))
        if part.length:
            on_note(f"{way.name}: gone on with at {part.length:,} of {size:,} bytes")
        for attempt in range(1, _TRIES + 1):
            try:
                _receive(way, part, size, on_note)
                break
            except CutOff:
                if attempt == (_TRIES if part.tag else _TRIES_ANEW):
                    raise
        part.finish()


def _receive(way: Way, part: _Part, size: int, on_note: Callable[[str], None]) -> None:
    """Ask for what *part* lacks, and add what comes. Raises :class:`CutOff` when that is not all."""
    wanted = {"range": f"bytes={part.length}-", "if-range": part.tag} if part.length and part.tag else {}
    with way.web.get(way.url, wanted, way.name) as response:
        tag = _tag_of(response)
        if response.status_code == 206 and wanted:
            said = _RANGE.fullmatch(response.headers.get("content-range", "").strip())
            if said is None or (int(said[1]), int(said[3])) != (part.length, size) or tag not in ("", part.tag):
                raise SourceError(f"{way.name}: the server sent another range than asked for", path=way.name)
        elif response.status_code == 200:
            if part.length:
                changed = "it is another file now" if tag != part.tag else "the server does not go on where it stopped"
                on_note(f"{way.name}: {changed}: begun again")
            part.begin(tag)
        else:
            part.begin("")
            raise SourceError(f"{way.name}: the server answers with status {response.status_code}", path=way.name)
        for piece in read_body(response, size - part.length + 1, way.name):
            part.add(piece)
    if part.length != size:
        part.begin("")
        raise SourceError(f"{way.name}: the server sent other than the {size:,} bytes that it had", path=way.name)


def _tag_of(response: httpx2.Response) -> str:
    """What tells the bytes of *response* from others, as a condition may have it; nothing where that is not sure."""
    tag: str = response.headers.get("etag", "")
    return "" if tag.startswith("W/") else tag or response.headers.get("last-modified", "")


class _Part:
    """The part of *path* that has come: ``length`` bytes of the file that the server calls ``tag``."""

    def __init__(self, path: str, name: str) -> None:
        self.length = 0
        self.tag = ""
        self._path = path
        self._name = name
        self._part = f"{path}.part"
        self._note = f"{self._part}.json"
        self._synced = 0
        self._fd = -1

    def __enter__(self) -> _Part:
        note = self._read_note()
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        self._fd = os.open(self._part, flags, 0o666)
        length, tag = note.get("length"), note.get("tag")
        if note.get("address") == self._name and isinstance(tag, str) and type(length) is int:
            self.length = self._synced = min(max(length, 0), os.fstat(self._fd).st_size)
            self.tag = tag
        os.ftruncate(self._fd, self.length)
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what has come, unless nothing has."""
        if self._fd < 0:
            return
        with suppress(OSError):
            self._sync()
        os.close(self._fd)
        if not self.length or not self.tag:
            self._remove()

    def begin(self, tag: str) -> None:
        """Throw away what has come: what comes now is called *tag*."""
        os.ftruncate(self._fd, 0)
        self.length = self._synced = 0
        self.tag = tag

    def add(self, piece: bytes) -> None:
        os.lseek(self._fd, self.length, os.SEEK_SET)
        view = memoryview(piece)
        while view:
            written = os.write(self._fd, view)
            self.length += written
            view = view[written:]
        if self.length - self._synced >= _SYNCED:
            self._sync()

    def finish(self) -> None:
        """Give it its name."""
        os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        os.replace(self._part, self._path)
        self._remove()

    def _sync(self) -> None:
        """Have what has come reach the disk, then note that it has."""
        os.fsync(self._fd)
        self._synced = self.length
        new = f"{self._note}.new"
        with open(new, "w", encoding="utf-8") as file:
            json.dump({"address": self._name, "tag": self.tag, "length": self.length}, file)
        os.replace(new, self._note)

    def _read_note(self) -> dict[str, Any]:
        try:
            with open(self._note, encoding="utf-8") as file:
                note = json.loads(file.read(_LARGEST_NOTE))
        except (OSError, ValueError, RecursionError):
            return {}
        return note if isinstance(note, dict) else {}

    def _remove(self) -> None:
        for path in (self._part, self._note):
            with suppress(OSError):
                os.unlink(path)
