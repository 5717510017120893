"""HTTP requests to places that nobody has to trust.

Each hop of a redirection is judged before it is followed, and each connection before anything is sent over it
(:mod:`modelhub.source.egress`). What authorises goes to one host and no other. Bodies are taken as they are sent, never
unpacked.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

from modelhub import __version__
from modelhub.errors import AccessDenied, MissingExtra, NotFound, SourceError
from modelhub.source.address import shown_address
from modelhub.source.egress import check_url, watch_for

try:
    import httpx2
except ImportError as _error:
    raise MissingExtra("httpx2, which reads over the network,", "hub") from _error

_HOPS = 5
_TRIES = 3
LONGEST_WAIT = 30.0
"""Seconds that a server may ask to be waited for (Retry-After) before that is told instead."""

_TIMEOUT = httpx2.Timeout(20.0, connect=10.0)
_SLOWEST = 8 << 10
"""Bytes a second below which a body is given up."""

_GRACE = 30.0
"""Seconds that any body may take."""

_ACCESS = "if you may read it, set HF_TOKEN or run 'hf auth login'"

BUSY = frozenset({429, 500, 502, 503, 504})
_MOVED = frozenset({301, 302, 303, 307, 308})


class CutOff(SourceError):
    """A connection broke while a body was read."""


class Credentials(NamedTuple):
    """A header that is sent to the one origin ``scheme://host:port`` and never anywhere else."""

    origin: str
    authorization: str

    def __repr__(self) -> str:
        return f"Credentials({self.origin!r}, ...)"


class Web:
    """A client; close it in the end. ``requests`` counts every request that was sent, redirections included.

    *trusted* are hosts that the user has named as an endpoint: they may have private addresses. *access* is what helps
    who may read what was refused.
    """

    def __init__(
        self, credentials: Credentials | None = None, trusted: frozenset[str] = frozenset(), access: str = _ACCESS
    ) -> None:
        self.requests = 0
        self._access = access
        self._credentials = credentials
        self._trusted = trusted
        self._client = httpx2.Client(
            verify=_ssl_context(),
            follow_redirects=False,
            timeout=_TIMEOUT,
            headers={"accept-encoding": "identity", "user-agent": f"modelhub/{__version__}"},
        )

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def get(
        self, url: str, headers: Mapping[str, str], name: str, *, told_by: str | None = None
    ) -> Iterator[httpx2.Response]:
        """The answer to a GET of *url* after all redirections, its body unread; *name* is what people call it,
        *told_by* the address of whoever named it, unless the user did: it may lead no further than a redirection of
        theirs.

        A server that is busy is asked again twice. Raises :class:`NotFound`, :class:`AccessDenied` or
        :class:`SourceError` for an answer of 400 or more (but 412 and 416, which are for the caller to judge), for a
        redirection to where none may lead, and when there is no answer.
        """
        response = self._patiently(url, headers, name, told_by)
        try:
            if response.status_code >= 400 and response.status_code not in (412, 416):
                raise _refusal(response, name, self._access)
            yield response
        except httpx2.HTTPError as error:
            raise CutOff(f"{name}: the connection failed: {_reason(error)}", path=name) from error
        finally:
            response.close()

    def _patiently(self, url: str, headers: Mapping[str, str], name: str, told_by: str | None) -> httpx2.Response:
        for attempt in range(1, _TRIES + 1):
            try:
                response = self._follow(url, headers, name, told_by)
            except httpx2.TransportError as error:
                if attempt == _TRIES or isinstance(error, httpx2.UnsupportedProtocol):
                    raise SourceError(f"{name}: cannot be reached: {_reason(error)}", path=name) from error
                time.sleep(0.2 * attempt)
                continue
            if response.status_code not in BUSY or attempt == _TRIES:
                return response
            wait = asked_to_wait(response, 0.2 * attempt)
            if wait > LONGEST_WAIT:
                return response
            response.close()
            time.sleep(wait)
        raise AssertionError

    def _follow(self, url: str, headers: Mapping[str, str], name: str, told_by: str | None) -> httpx2.Response:
        """Send the request, and again to wherever it is redirected."""
        current = _parsed(url, name)
        check_url(current, None if told_by is None else _parsed(told_by, name), name, self._trusted)
        for _ in range(_HOPS + 1):
            response = self._send(current, headers, name)
            if response.status_code not in _MOVED or "location" not in response.headers:
                return response
            response.close()
            following = current.join(_parsed(response.headers["location"], name))
            check_url(following, current, name, self._trusted)
            current = following
        raise SourceError(f"{name}: redirected more than {_HOPS} times", path=name)

    def _send(self, url: httpx2.URL, headers: Mapping[str, str], name: str) -> httpx2.Response:
        sent = dict(headers)
        if self._credentials is not None and origin_of(url) == self._credentials.origin:
            sent["authorization"] = self._credentials.authorization
        watch = watch_for(self._client, url, name, self._trusted)
        self.requests += 1
        self._client.cookies.clear()
        request = self._client.build_request("GET", url, headers=sent, extensions={"trace": watch} if watch else {})
        return self._client.send(request, stream=True)


def read_body(response: httpx2.Response, most: int, name: str) -> Iterator[bytes]:
    """The body of *response* in pieces, as it was sent; ends after *most* bytes, whatever follows.

    Raises :class:`SourceError` for one that is packed, or comes too slowly; the client's own errors when it is cut off.
    """
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise SourceError(f"{name}: the server packs the bytes although it was asked not to", path=name)
    began = time.monotonic()
    received = 0
    for piece in response.iter_raw():
        received += len(piece)
        yield piece[: len(piece) - max(0, received - most)]
        if received >= most:
            return
        check_pace(began, received, name)


def check_pace(began: float, received: int, name: str) -> None:
    """Raise :class:`SourceError` for a body that *began* so long ago that *received* bytes are too few."""
    if time.monotonic() - began > _GRACE + received / _SLOWEST:
        raise SourceError(f"{name}: the server sends too slowly", path=name)


def read_text(response: httpx2.Response, most: int, name: str) -> bytes:
    """All of the body of *response*. Raises :class:`SourceError` for one of more than *most* bytes, and as
    :func:`read_body` does."""
    body = b"".join(read_body(response, most + 1, name))
    if len(body) > most:
        raise SourceError(f"{name}: the server's answer has more than {most:,} bytes", path=name)
    return body


@cache
def _ssl_context() -> ssl.SSLContext:
    """Made once: it reads the certificates of all authorities."""
    return httpx2.create_ssl_context()


def origin_of(url: httpx2.URL | str) -> str:
    """``scheme://host:port`` of *url*, the port always told. Raises :class:`SourceError` for what is no address."""
    parsed = _parsed(url, shown_address(url)) if isinstance(url, str) else url
    return f"{parsed.scheme}://{parsed.host}:{parsed.port or {'https': 443, 'http': 80}.get(parsed.scheme, 0)}"


def _parsed(url: str, name: str) -> httpx2.URL:
    try:
        return httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise SourceError(f"{name}: not an address: {error}", path=name) from error


def asked_to_wait(response: httpx2.Response, otherwise: float) -> float:
    """Seconds that the server asks to be waited for (RFC 9110, 10.2.3)."""
    value = response.headers.get("retry-after", "").strip()
    if not value:
        return otherwise
    if value.isascii() and value.isdigit():
        return float(value[:9])
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return otherwise


def _refusal(response: httpx2.Response, name: str, access: str) -> SourceError:
    """What an answer of 400 or more says, as an error."""
    status = response.status_code
    code = response.headers.get("x-error-code", "")
    if code == "GatedRepo":
        hint = "ask for access on the repository's page, and set HF_TOKEN or run 'hf auth login'"
        return AccessDenied(f"{name}: gated: its owner grants access", path=name, hint=hint)
    if status in (401, 403):
        return AccessDenied(f"{name}: not public, or it does not exist (status {status})", path=name, hint=access)
    if status in (404, 410):
        return NotFound(f"{name}: no such file there", path=name)
    if status == 429:
        wait = response.headers.get("retry-after", "")
        when = f"try again in {wait} seconds" if wait.isascii() and wait.isdigit() else "try again later"
        return SourceError(f"{name}: the server asks for fewer requests (status 429)", path=name, hint=when)
    return SourceError(f"{name}: the server answers with status {status}", path=name, hint="try again later")


def _reason(error: Exception) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__
