"""The two privacy switches of a request: what of the address and of the cookie id is stored."""

from __future__ import annotations

import ipaddress
from typing import Literal

from segsrv.events.geo import addresses_of

Policy = Literal["keep", "strict", "comply"]
POLICIES: tuple[Policy, ...] = ("keep", "strict", "comply")

CONSENT_COUNTRIES = frozenset(
    "AT BE BG HR CY CZ DK EE FI FR DE GR HU IE IT LV LT LU MT NL PL PT RO SK SI ES SE"
    " IS LI NO GB".split()
)
"""ISO codes of the EU, the rest of the EEA, and the UK."""


def is_strict(policy: Policy, country: str | None) -> bool:
    """Say whether *policy* asks for strictness in *country* (ISO code, None where unknown)."""
    if policy == "comply":
        return country is None or country in CONSENT_COUNTRIES
    return policy == "strict"


def shorten_addresses(source: str) -> str:
    """Take the last part off each address of a comma-separated list, of a long one the first.

    The last octet of an IPv4 address becomes 1; of an IPv6 address the first 48 bits stay. Text
    that is no address is left out: it can't be told what it would give away.
    """
    shortened = (_shorten(address) for address in addresses_of(source))
    return ",".join(part for part in shortened if part)


def _shorten(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    if address.version == 4:
        return text.rpartition(".")[0] + ".1"
    return str(ipaddress.ip_network((int(address) >> 80 << 80, 48)).network_address)
