"""How often a token may be guessed."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque

TRIES_MAX = 10
"""Wrong tokens from one address within WINDOW_S, then no token is looked at any more."""
TRIES_IN_ALL_MAX = 100
WINDOW_S = 300.0
ADDRESSES_MAX = 1_000
IPV6_PREFIX_BITS = 64


class Tries:
    """Counts wrong tokens, by address and in all, in bounded memory; times are monotonic."""

    def __init__(self) -> None:
        self._in_all: deque[float] = deque(maxlen=TRIES_IN_ALL_MAX)
        self._by_address: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, address: str, now_s: float) -> float:
        """Return how long a token from *address* is not looked at, 0 if it is now."""
        own = self._by_address.get(_network(address), deque(maxlen=TRIES_MAX))
        return max(_wait_s(own, now_s), _wait_s(self._in_all, now_s))

    def failed(self, address: str, now_s: float) -> None:
        """Count a wrong token from *address*."""
        self._in_all.append(now_s)
        own = self._by_address.setdefault(_network(address), deque(maxlen=TRIES_MAX))
        own.append(now_s)
        self._by_address.move_to_end(_network(address))
        # Whoever has more addresses than this is stopped by the limit in all.
        if len(self._by_address) > ADDRESSES_MAX:
            self._by_address.popitem(last=False)


def _wait_s(tries: deque[float], now_s: float) -> float:
    if len(tries) < (tries.maxlen or 0):
        return 0.0
    return max(0.0, tries[0] + WINDOW_S - now_s)


def _network(address: str) -> str:
    """Return what one person has of addresses: an IPv4 address, or an IPv6 network."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    mapped = parsed.ipv4_mapped
    return str(mapped or ipaddress.ip_network((parsed, IPV6_PREFIX_BITS), strict=False))
