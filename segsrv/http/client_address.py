"""The client's address: from the one header that is believed, where a trusted proxy sent it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from socket import AF_INET, inet_ntop, inet_pton

from multidict import istr

from segsrv.errors import SettingsError
from segsrv.http.request import Request

FORWARDED = "forwarded"
ADDRESSES_CACHED_MAX = 10_000
HOPS_MAX = 32
CHARS_CACHED_MAX = 256
CHARS_MAX = 1_024
"""The end of a header that is looked at; proxies write there, clients can only prefix."""

Hop = tuple[int, int, str]
"""An address on the way: its IP version, its number, and its usual text."""


class ClientAddress:
    """Finds a request's client behind any number of trusted proxies.

    Only *header* is read: a proxy that sets one forwarding header passes on what clients write into
    the others. `Forwarded` is read as RFC 7239 says, any other header as a list of addresses.

    Raises:
        SettingsError: An entry of *trusted_proxies* is no network.

    """

    def __init__(self, trusted_proxies: Iterable[str], header: str) -> None:
        # The first address and the mask of each network, by IP version.
        self._trusted: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for text in trusted_proxies:
            try:
                network = ipaddress.ip_network(text, strict=False)
            except ValueError as error:
                raise SettingsError(f"trusted_proxies={text}: expected a network") from error
            numbers = int(network.network_address), int(network.netmask)
            self._trusted[network.version].append(numbers)
        self._header = istr(header)
        self._hop = _forwarded_for if header.lower() == FORWARDED else _address
        self._is_trusted_peer = lru_cache(ADDRESSES_CACHED_MAX)(self._is_trusted_text)
        self._resolve_cached = lru_cache(ADDRESSES_CACHED_MAX)(self._resolve)

    def of(self, request: Request) -> str:
        """Return the client's address as text, empty where the connection has none."""
        # A proxy may add a line of its own below the client's.
        return self.said(request.peer, ",".join(request.headers.getall(self._header, ())))

    def said(self, peer: str, text: str) -> str:
        """Return the address of a client behind *peer*, where *text* is what the header holds."""
        text = text[-CHARS_MAX:]
        # Clients that no proxy vouches for can write what they like, and fill no cache with it.
        if not self._is_trusted_peer(peer):
            return peer
        if len(text) <= CHARS_CACHED_MAX and text.isascii():
            return self._resolve_cached(peer, text)
        return self._resolve(peer, text)

    def _resolve(self, peer: str, header: str) -> str:
        """Walk from the peer towards the client, as far as each hop is trusted.

        The nearest address that no trusted proxy vouches for is the client: what stands left of it
        was written by the client itself.
        """
        if not self._is_trusted_peer(peer):
            return peer
        client = peer
        # Commas part hops even inside of quotes: a quote that a client opens must not swallow what
        # a proxy appends.
        for part in reversed(header.split(",")[-HOPS_MAX:]):
            hop = self._hop(part)
            if hop is None:
                break
            _version, _number, client = hop
            if not self._is_trusted(hop):
                break
        return client

    def _is_trusted_text(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            # A unix socket's peer has no address; only this machine can reach it.
            return text == ""
        return self._is_trusted(_hop_at(address))

    def _is_trusted(self, hop: Hop) -> bool:
        version, number, _text = hop
        for first, mask in self._trusted[version]:  # noqa: SIM110 - `any` takes twice as long.
            if number & mask == first:
                return True
        return False


def _forwarded_for(element: str) -> Hop | None:
    """Return the address of an RFC 7239 element's `for=`, None where it names none."""
    for pair in element.split(";"):
        name, _equals, value = pair.strip().partition("=")
        if name.lower() == "for":
            return _address(value.strip().strip('"'))
    return None


def _address(text: str) -> Hop | None:
    """Return the address of `1.2.3.4`, `1.2.3.4:80`, `2001:db8::1` or `[2001:db8::1]:80`."""
    text = text.strip()
    try:
        # Most are of this form, and `ipaddress` takes many times as long.
        packed = inet_pton(AF_INET, text)
    except (OSError, ValueError):
        pass
    else:
        if inet_ntop(AF_INET, packed) == text:
            return 4, int.from_bytes(packed, "big"), text
    # A zone (`fe80::1%eth0`) says something to the sender's machine only, and may be any text.
    text = text.partition("%")[0]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return _hop_at(ipaddress.ip_address(text))
    except ValueError:
        return None


def _hop_at(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Hop:
    """Return what is known of *address*, or of the IPv4 one that it stands for, if it does."""
    known = getattr(address, "ipv4_mapped", None) or address
    return known.version, int(known), str(known)
