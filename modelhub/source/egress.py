"""Where requests may go: judged by the address before it is asked, and by the connection before a word is sent over it.

Only https, and http to this machine itself; no private addresses (RFC 1918 and all others that are not global), unless
the user has named their host as an endpoint.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from modelhub.errors import AccessDenied

if TYPE_CHECKING:
    import httpx2

_PRIVATE = "only the host of an endpoint that you set, such as HF_ENDPOINT, may have a private address"
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_NOT_GLOBAL = (
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # translation to IPv4 within a network, RFC 8215
    ipaddress.IPv6Network("fec0::/10"),  # within a site, RFC 3879
    ipaddress.IPv6Network("::/96"),  # "compatible" with IPv4, RFC 4291, 2.5.5.1
)
"""Networks that Python's ``is_global`` takes for global ones, depending on its version."""


def check_url(url: httpx2.URL, before: httpx2.URL | None, name: str, trusted: frozenset[str]) -> None:
    """Raise :class:`AccessDenied` unless a request may go to *url*, which the answer of *before* leads to, if anything
    does; *name* is what people call what is asked for, *trusted* are hosts that may have private addresses."""
    how = "is redirected to" if before is not None else "is"
    local = is_loopback(url.host)
    shown = f"{url.scheme}://{url.host}"  # without what may be secret in it
    if url.scheme != "https" and not (url.scheme == "http" and local):
        raise AccessDenied(f"{name}: {how} {shown}, which is not https", path=name)
    if local and before is not None and not is_loopback(before.host):
        raise AccessDenied(f"{name}: {how} this machine itself, {shown}", path=name)
    if url.userinfo:
        raise AccessDenied(f"{name}: an address with a password in it is not asked for", path=name)
    if url.host not in trusted and not may_connect(url.host, local):
        raise AccessDenied(f"{name}: {how} {shown}, a private address", path=name, hint=_PRIVATE)


def watch_for(
    client: httpx2.Client, url: httpx2.URL, name: str, trusted: frozenset[str]
) -> Callable[[str, Mapping[str, Any]], None] | None:
    """What looks at the connection that *client* makes for *url*, as a request's extension ``trace``, and raises
    :class:`AccessDenied` when the name has led to a private address.

    ``None`` for a *trusted* host, and where a proxy makes the connection: its address is not the host's.
    """
    if url.host in trusted or client._transport_for_url(url) is not client._transport:
        return None
    local = is_loopback(url.host)

    def watch(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            stream = info["return_value"]
            address = str(stream.get_extra_info("server_addr")[0])
            if not may_connect(address, local):
                stream.close()
                raise AccessDenied(f"{name}: {url.host} is the private address {address}", path=name, hint=_PRIVATE)

    return watch


def is_loopback(host: str) -> bool:
    """Whether *host* names this machine itself."""
    if host == "localhost":
        return True
    try:
        return _unwrapped(host).is_loopback
    except ValueError:
        return False


def may_connect(host: str, local: bool) -> bool:
    """Whether *host* is a name, a global address, or, for a *local* name, this machine's own."""
    try:
        address = _unwrapped(host)
    except ValueError:
        return True
    if local and address.is_loopback:
        return True
    return address.is_global and not address.is_multicast and not any(address in each for each in _NOT_GLOBAL)


def _unwrapped(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address *host*; of an IPv6 address that stands for one of IPv4, that one. ValueError for a name."""
    address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address
