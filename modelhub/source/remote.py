"""A file behind an HTTP server, read by ranges as it is asked for.

The first answer pins what the file is: its length and its ETag (without one, its Last-Modified); an answer that says
otherwise is :class:`ChangedDuringRead`. Bytes come in blocks of 64 KiB, of which 8 MiB are kept. A server that ignores
ranges is told of, and read whole only where the caller has consented to that.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelhub.errors import AccessDenied, ChangedDuringRead, NotFound, SourceError
from modelhub.source.address import Traffic
from modelhub.source.stream import StreamSource, spool
from modelhub.source.web import Web, read_body

if TYPE_CHECKING:
    import httpx2

BLOCK = 1 << 16
_KEPT = 128
_FURTHEST = 16
"""Blocks that are read ahead at most; 128 of a file that is read whole."""

_SMALL = 1 << 18
"""Bytes up to which a file is fetched whole once more than its first block is needed."""

MOST_BYTES, MOST_REQUESTS = 64 << 20, 256
"""What may be read of one file, in how many requests, where nobody has consented to more."""

_TRIES = 3
_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18})")
_WHOLE = "--deep reads it whole; 'modelhub fetch' downloads it and judges it here"


class RangesIgnored(SourceError):
    """A server sends all of a file whatever is asked for; ``size`` are its bytes."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__(f"{name}: the server ignores ranges", path=name, hint=_WHOLE)
        self.size = size


class RemoteSource:
    """The file at *url*, known to people as *name*, read through *web*, which its opener closes.

    *whole* is the consent to read all of it, should that be needed. Close it in the end. Not for several threads.
    """

    def __init__(self, url: str, name: str, web: Web, *, whole: bool = False) -> None:
        self.name = name
        self.size = 0
        self._requests = 0
        self._received = 0
        self._web = web
        self._url = self._now = url
        self._pin: tuple[str, int] | None = None
        self._whole = whole
        self._spooled: StreamSource | None = None
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._next = -1
        self._ahead = 1
        self._fetch(0, 0)

    @property
    def tag(self) -> str | None:
        """By what the server tells these bytes from others: the ETag or, without one, when they were changed last."""
        return self._pin[0] or None if self._pin is not None else None

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._requests, self._received, self.size)

    def at_hand(self, offset: int, length: int) -> bool:
        """Whether the bytes have been fetched already and kept, or may all be fetched."""
        end = min(offset + length, self.size)
        blocks = range(max(0, offset) // BLOCK, (end - 1) // BLOCK + 1)
        return self._whole or all(index in self._kept for index in blocks)

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes ``[offset, offset + length)``, fewer only at the end."""
        end = min(offset + length, self.size)
        if offset < 0 or offset >= end:
            return b""
        if self._spooled is not None:
            return self._spooled.read_at(offset, length)
        pieces = []
        last = (end - 1) // BLOCK
        for index in range(offset // BLOCK, last + 1):
            if index not in self._kept:
                self._fetch(index, self._run(index, min(last, index + _KEPT // 2 - 1)))
                if self._spooled is not None:  # ranges were ignored this time, and all of it was sent
                    return self._spooled.read_at(offset, length)
            self._kept.move_to_end(index)
            begin = index * BLOCK
            pieces.append(self._kept[index][max(0, offset - begin) : end - begin])
        return b"".join(pieces)

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Fill *buffer* from *offset* on; returns the bytes filled."""
        data = self.read_at(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._kept.clear()
        if self._spooled is not None:
            self._spooled.close()

    def __enter__(self) -> RemoteSource:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, first: int, last: int) -> int:
        """The last of the blocks from *first* on, *last* at most, that are all missing."""
        end = first
        while end < last and end + 1 not in self._kept:
            end += 1
        return end

    def _fetch(self, first: int, last: int) -> None:
        """Fetch the blocks from *first* to *last*, and those that are likely to be wanted next."""
        if self._pin is not None:
            final = (self.size - 1) // BLOCK
            furthest = _KEPT // 2 if self._whole else _FURTHEST
            self._ahead = min(2 * self._ahead, furthest) if first == self._next else 1
            wanted = final if self.size <= _SMALL else max(last, first + self._ahead - 1)
            last = self._run(first, min(final, wanted))
            if first == final > 0 and first - 1 not in self._kept:
                first -= 1  # the end is read backward, and its last block may be a short one
        self._next = last + 1
        data = self._bytes(first * BLOCK, (last + 1) * BLOCK)
        for at in range(0, len(data), BLOCK):
            self._kept[first + at // BLOCK] = data[at : at + BLOCK]
            self._kept.move_to_end(first + at // BLOCK)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def _bytes(self, start: int, end: int) -> bytes:
        """The bytes from *start* to *end*, or to the end of the file; what is cut off is asked for again."""
        got = bytearray()
        problem: str | None = None
        for _ in range(_TRIES):
            at = start + len(got)
            self._charge(end - at)
            problem = self._request(at, end, got)
            end = min(end, self.size)
            if problem is None or self._spooled is not None:
                return bytes(got)
        raise SourceError(f"{self.name}: {problem}", path=self.name)

    def _request(self, start: int, end: int, got: bytearray) -> str | None:
        """Append the bytes from *start* to *end* to *got*, as many as come; what went wrong, if something did."""
        before = self._web.requests
        moved = self._now != self._url
        try:
            with self._web.get(self._now, {"range": f"bytes={start}-{end - 1}"}, self.name) as response:
                self._now = str(response.url)
                return self._take(response, start, end, got)
        except (AccessDenied, NotFound):
            if not moved:
                raise
            self._now = self._url  # where it was redirected to is not valid any more
            return "what its address leads to cannot be had any more"
        finally:
            self._requests += self._web.requests - before

    def _take(self, response: httpx2.Response, start: int, end: int, got: bytearray) -> str | None:
        import httpx2

        most = self._agreed(response, start, end)
        received = 0
        pieces = read_body(response, most, self.name)
        try:
            if response.status_code == 200 and most > _SMALL:
                self._spooled = spool(self.name, _Stream(pieces), most)
                received = self._spooled.size
                self._received += received
            else:
                for piece in pieces:
                    received += len(piece)
                    self._received += len(piece)
                    got += piece
        except httpx2.HTTPError as error:
            if response.status_code == 200:
                raise SourceError(f"{self.name}: the connection was cut", path=self.name) from error
            return f"the connection was cut: {str(error) or type(error).__name__}"
        if received != most and response.status_code == 200:
            raise SourceError(f"{self.name}: the server sent {received} bytes of {most}", path=self.name)
        return None if received == most else f"the server sent {received} bytes of {most}"

    def _agreed(self, response: httpx2.Response, start: int, end: int) -> int:
        """Bytes that the body of *response* has of the range asked for; pins the file by the first answer."""
        status = response.status_code
        said = _RANGE.fullmatch(response.headers.get("content-range", "").strip())
        if status == 206 and said is not None and said[1] is not None:
            total = int(said[3])
            self._agree(response, total)
            if int(said[1]) != start or int(said[2]) + 1 != min(end, total):
                raise SourceError(f"{self.name}: the server sent another range than asked for", path=self.name)
            return min(end, total) - start
        if status == 416 and said is not None and int(said[3]) == 0 and start == 0:
            self._agree(response, 0)
            return 0
        if status in (412, 416):
            raise ChangedDuringRead(f"{self.name}: it changed while it was read", path=self.name)
        if status != 200:
            raise SourceError(f"{self.name}: the server answers a range with status {status}", path=self.name)
        length = response.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or len(length) > 18:
            message = "the server ignores ranges and tells no length"
            raise SourceError(f"{self.name}: {message}", path=self.name)
        self._agree(response, int(length))
        if start != 0 or (self.size > _SMALL and not self._whole):
            raise RangesIgnored(self.name, self.size)
        return self.size

    def _agree(self, response: httpx2.Response, total: int) -> None:
        """Pin the file as *response* describes it, or compare it with what was pinned."""
        tag = response.headers.get("etag") or response.headers.get("last-modified") or ""
        said = (tag.removeprefix("W/"), total)
        if self._pin is None:
            self._pin = said
            self.size = total
        elif said != self._pin:
            raise ChangedDuringRead(f"{self.name}: it changed while it was read", path=self.name)

    def _charge(self, count: int) -> None:
        """Raise when *count* bytes more, or another request, are more than is read without consent."""
        if self._whole:
            return
        if self._requests >= MOST_REQUESTS:
            message = f"judging it from here takes more than {MOST_REQUESTS} requests"
            raise SourceError(f"{self.name}: {message}", path=self.name, hint=_WHOLE)
        if self._received + count > MOST_BYTES:
            message = f"judging it from here takes more than {MOST_BYTES >> 20} MiB"
            raise SourceError(f"{self.name}: {message}", path=self.name, hint=_WHOLE)


class _Stream:
    """Pieces of bytes as what :func:`spool` reads from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, _most: int = -1) -> bytes:
        return next((piece for piece in self._pieces if piece), b"")
