"""The client's address: from forwarding headers only where a trusted proxy set them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from aiohttp import web
from multidict import istr

from segsrv.errors import SettingsError

FORWARDED_FOR, FORWARDED, REAL_IP = istr("X-Forwarded-For"), istr("Forwarded"), istr("X-Real-IP")
ADDRESSES_CACHED_MAX = 10_000
HOPS_MAX = 32
CHARS_MAX = 1_024
"""The end of a header that is looked at; proxies write there, clients can only prefix."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ClientAddress:
    """Finds a request's client behind any number of trusted proxies.

    Raises:
        SettingsError: An entry of *trusted_proxies* is no network.

    """

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        self._trusted: list[Network] = []
        for text in trusted_proxies:
            try:
                self._trusted.append(ipaddress.ip_network(text, strict=False))
            except ValueError as error:
                raise SettingsError(f"trusted_proxies={text}: expected a network") from error
        self._resolve_cached = lru_cache(ADDRESSES_CACHED_MAX)(self._resolve)

    def of(self, request: web.Request) -> str:
        """Return the client's address as text, empty where the transport has none."""
        headers = request.headers
        return self._resolve_cached(
            request.remote or "",
            ",".join(headers.getall(FORWARDED_FOR, ()))[-CHARS_MAX:],
            ",".join(headers.getall(FORWARDED, ()))[-CHARS_MAX:],
            headers.get(REAL_IP, "")[:CHARS_MAX],
        )

    def _resolve(self, peer: str, forwarded_for: str, forwarded: str, real_ip: str) -> str:
        """Walk from the peer towards the client, as far as each hop is trusted.

        The nearest address that no trusted proxy vouches for is the client: what stands left of it
        was written by the client itself.
        """
        if not self._is_trusted(peer):
            return peer
        if forwarded_for:
            hops = [_address(part) for part in forwarded_for.split(",")[-HOPS_MAX:]]
        elif forwarded:
            hops = [_address(part) for part in _forwarded_nodes(forwarded)[-HOPS_MAX:]]
        else:
            return _address(real_ip) or peer
        client = peer
        for hop in reversed(hops):
            if not hop:
                break
            client = hop
            if not self._is_trusted(hop):
                break
        return client

    def _is_trusted(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            # A unix socket's peer has no address; only this machine can reach it.
            return text == ""
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped or address
        return any(address in network for network in self._trusted)


def _forwarded_nodes(header: str) -> list[str]:
    """Return the `for=` nodes of RFC 7239, left to right."""
    nodes = []
    for element in header.split(","):
        for pair in element.split(";"):
            name, _equals, value = pair.strip().partition("=")
            if name.lower() == "for":
                nodes.append(value.strip().strip('"'))
    return nodes


def _address(text: str) -> str:
    """Return the bare address of `1.2.3.4`, `1.2.3.4:80`, `2001:db8::1` or `[2001:db8::1]:80`."""
    # A zone (`fe80::1%eth0`) says something to the sender's machine only, and may be any text.
    text = text.strip().partition("%")[0]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
