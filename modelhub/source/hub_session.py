"""What is asked of the Hub through huggingface_hub: where its requests may go, and its errors as ours.

While something is asked here, huggingface_hub's own requests go only where :mod:`modelhub.source.egress` lets them,
with the token only to the Hub; what a program that uses this library asks by itself is left alone. Xet's downloads are
made by native code, which does not ask here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from modelhub.errors import AccessDenied, MissingExtra, NotFound, Offline, SourceError
from modelhub.source.egress import check_url, is_loopback, watch_for
from modelhub.source.web import BUSY, LONGEST_WAIT, asked_to_wait, check_pace, origin_of

try:
    import httpx2
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub import errors as hub_errors
    from huggingface_hub.utils import _http
except ImportError as _error:
    raise MissingExtra("huggingface_hub", "hub") from _error

TIMEOUT = 30.0
"""Seconds without an answer after which the Hub is given up."""

_PHASES = ("connect", "read", "write", "pool")
_MOST_REQUESTS = 1000
"""Requests that one question to the Hub may take: a listing has 1000 files a page, and no end where none is set."""


LARGEST_ANSWER = 32 << 20
"""Bytes of one answer about a repository: a page of a listing has a third of a megabyte, what is said of a repository
of 100,000 files some ten."""


def endpoint() -> str:
    """The Hub's address without a slash at its end. Raises :class:`AccessDenied` for one that is not https."""
    address = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises for what is none
    except ValueError as error:
        raise AccessDenied("HF_ENDPOINT: not an address") from error
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise AccessDenied(f"HF_ENDPOINT: {parts.scheme}://{parts.hostname} is not https")
    return address


@dataclass(slots=True)
class _Asking:
    """What is being asked of the Hub, as people call it, the bytes that one answer may have, and the requests that it
    has taken."""

    name: str
    largest: int
    requests: int = 0


_now: ContextVar[_Asking | None] = ContextVar("now", default=None)


@contextmanager
def asking(name: str, largest: int = LARGEST_ANSWER) -> Iterator[None]:
    """Let huggingface_hub ask about what people call *name*, as far as requests may go; its errors, and answers that it
    does not understand, become ours. No answer may have more bytes than *largest*, or be packed."""
    before = _now.set(_Asking(name, largest))
    try:
        yield
    except hub_errors.OfflineModeIsEnabled as error:
        raise Offline(f"{name}: the Hub cannot be asked: HF_HUB_OFFLINE is set", path=name) from error
    except hub_errors.GatedRepoError as error:
        hint = "ask for access on the repository's page, and set HF_TOKEN or run 'hf auth login'"
        raise AccessDenied(f"{name}: gated: its owner grants access", path=name, hint=hint) from error
    except hub_errors.RepositoryNotFoundError as error:
        hint = "if it is private, set HF_TOKEN or run 'hf auth login'"
        raise NotFound(f"{name}: no such repository, or a private one", path=name, hint=hint) from error
    except hub_errors.RevisionNotFoundError as error:
        raise NotFound(f"{name}: the repository has no such revision", path=name) from error
    except hub_errors.LocalEntryNotFoundError as error:  # it could not be asked for; raised from what was in the way
        if isinstance(error.__cause__, hub_errors.HfHubHTTPError):
            raise _refusal(error.__cause__.response, name) from error
        raise SourceError(f"{name}: cannot be downloaded now", path=name, hint="try again later") from error
    except hub_errors.EntryNotFoundError as error:
        raise NotFound(f"{name}: the repository has no such file or folder", path=name) from error
    except hub_errors.HfHubHTTPError as error:
        raise _refusal(error.response, name) from error
    except httpx2.TimeoutException as error:
        raise SourceError(f"{name}: the Hub gives no answer in time", path=name) from error
    except httpx2.HTTPError as error:
        raise SourceError(f"{name}: the Hub cannot be reached: {error}", path=name) from error
    except hub_errors.HFValidationError as error:
        raise NotFound(f"{name}: names no repository of models on the Hub", path=name) from error
    except (httpx2.InvalidURL, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(f"{name}: the Hub's answer is not understood", path=name) from error
    finally:
        _now.reset(before)


def _judged_client(factory: Callable[[], httpx2.Client]) -> httpx2.Client:
    """A client of huggingface_hub's as *factory* makes it, which keeps to our rules while something is asked here."""
    client = factory()
    client.event_hooks["request"].append(partial(_judge_request, client))
    client.event_hooks["response"].append(_judge_response)
    return client


def _judge_request(client: httpx2.Client, request: httpx2.Request) -> None:
    """Raise :class:`AccessDenied` unless *request* may be sent; the token stays in it only if it goes to the Hub."""
    now = _now.get()
    if now is None:
        return
    now.requests += 1
    if now.requests > _MOST_REQUESTS:
        raise SourceError(f"{now.name}: the Hub's answer has no end", path=now.name)
    hub = httpx2.URL(endpoint())
    trusted = frozenset({hub.host})
    if origin_of(request.url) != origin_of(hub):
        request.headers.pop("authorization", None)
    check_url(request.url, hub, now.name, trusted)
    request.headers["accept-encoding"] = "identity"
    limits = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {each: limits.get(each) or TIMEOUT for each in _PHASES}
    request.extensions["trace"] = watch_for(client, request.url, now.name, trusted)


def _judge_response(response: httpx2.Response) -> None:
    """Raise :class:`SourceError` for a server that asks to be waited for longer than anybody waits, and for a body that
    is packed; let no more of a body come than it may have."""
    now = _now.get()
    if now is None:
        return
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise SourceError(f"{now.name}: the Hub packs its answer although it was asked not to", path=now.name)
    assert isinstance(response.stream, httpx2.SyncByteStream)
    response.stream = _Limited(response.stream, now)
    if response.status_code in BUSY:
        response.headers.pop("ratelimit", None)  # huggingface_hub would wait for as long as that says
        if asked_to_wait(response, 0.0) > LONGEST_WAIT:
            raise _refusal(response, now.name)


class _Limited(httpx2.SyncByteStream):
    """The body *stream* of an answer. Raises :class:`SourceError` as soon as it has more bytes than it may have, or if
    they come too slowly."""

    def __init__(self, stream: httpx2.SyncByteStream, now: _Asking) -> None:
        self._stream = stream
        self._now = now

    def __iter__(self) -> Iterator[bytes]:
        received = 0
        began = time.monotonic()
        for piece in self._stream:
            received += len(piece)
            check_pace(began, received, self._now.name)
            if received > self._now.largest:
                message = f"{self._now.name}: the Hub's answer has more than {self._now.largest:,} bytes"
                raise SourceError(message, path=self._now.name)
            yield piece

    def close(self) -> None:
        self._stream.close()


def _refusal(response: httpx2.Response, name: str) -> SourceError:
    status = response.status_code
    if status in (401, 403):
        hint = "set HF_TOKEN to a token that may read it, or run 'hf auth login'"
        return AccessDenied(f"{name}: the Hub does not let you read it (status {status})", path=name, hint=hint)
    if status == 429:
        wait = response.headers.get("retry-after", "")
        when = f"try again in {wait} seconds" if wait.isascii() and wait.isdigit() else "try again later"
        return SourceError(f"{name}: the Hub asks for fewer requests (status 429)", path=name, hint=when)
    return SourceError(f"{name}: the Hub answers with status {status}", path=name, hint="try again later")


set_client_factory(partial(_judged_client, _http._GLOBAL_CLIENT_FACTORY))
