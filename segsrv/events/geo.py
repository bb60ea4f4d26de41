"""Address to `location` fields, through opened MaxMind databases and a bounded cache.

This module opens no file: `segsrv.geoip.databases` does, and hands the readers in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Protocol

ADDRESSES_MAX = 8
"""Of a longer list only the first ones are looked at: a client can make one of any length."""
ADDRESS_CHARS_MAX = 64
"""No address is longer, and what is looked up is kept in a cache."""
NETWORK_BITS = 24
NETWORK_DOTS = 2
_OCTETS = frozenset(map(str, range(256)))
_NO_ADDRESS = (ValueError, TypeError, RuntimeError)
"""What is no address (one with a NUL is a TypeError), an IPv6 one asked of an IPv4 database, or a
damaged database."""


def addresses_of(source: str) -> list[str]:
    """Return the first addresses of a comma-separated list; what is too long for one is left out.

    Not every text in it need be an address.
    """
    parts = source.split(",", ADDRESSES_MAX)[:ADDRESSES_MAX]
    return [text for part in parts if len(text := part.strip()) <= ADDRESS_CHARS_MAX]


class Reader(Protocol):
    """What is needed of a `maxminddb.Reader`."""

    def get(self, ip_address: str, /) -> Any: ...
    def get_with_prefix_len(self, ip_address: str, /) -> tuple[Any, int]: ...


class Geo:
    """Looks addresses up in all *readers*, earlier ones first; remembers *entries_max* answers.

    Half of them are of IPv4 networks of 256 addresses: where no database tells two addresses of one
    apart, as is the rule, one answer is for all of them. `misses` counts what was computed, `hits`
    what was not.
    """

    def __init__(self, readers: Sequence[Reader], *, entries_max: int) -> None:
        self.misses = 0
        self._asked = 0
        self._readers = tuple(readers)
        half = max(entries_max // 2, 1)
        self._of_network = lru_cache(maxsize=half)(self._look_up_network)
        self._of_address = lru_cache(maxsize=half)(self._look_up)

    @property
    def hits(self) -> int:
        return self._asked - self.misses

    def __len__(self) -> int:
        return self._of_network.cache_info().currsize + self._of_address.cache_info().currsize

    def locate(self, source: str) -> dict[str, Any] | None:
        """Return what the databases know of the first address in *source* that resolves, or None.

        *source* may be a comma-separated list. The dict is shared, so never change it.
        """
        if not self._readers:
            return None
        for address in addresses_of(source):
            self._asked += 1
            network, _dot, last = address.rpartition(".")
            fields = self._of_network(network) if last in _OCTETS else None
            if fields is None:
                fields = self._of_address(address)
            if fields:
                return fields
        return None

    def _look_up_network(self, network: str) -> dict[str, Any] | None:
        """Return what is known of all addresses in *network*, such as `192.0.2`.

        None if they differ, or if it is none.
        """
        if network.count(".") != NETWORK_DOTS:
            return None
        records = []
        for reader in self._readers:
            try:
                record, prefix_bits = reader.get_with_prefix_len(network + ".0")
            except _NO_ADDRESS:
                return None
            if prefix_bits > NETWORK_BITS:
                return None
            records.append(record)
        self.misses += 1
        return _merged(records)

    def _look_up(self, address: str) -> dict[str, Any]:
        self.misses += 1
        records = []
        for reader in self._readers:
            # One that knows no such addresses does not keep others from answering.
            with suppress(*_NO_ADDRESS):
                records.append(reader.get(address))
        return _merged(records)


def _merged(records: Iterable[Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for record in records:
        if isinstance(record, dict):
            fields = _fields(record) | fields
    return fields


def _fields(record: dict[str, Any]) -> dict[str, Any]:
    country, position = _part(record, "country"), _part(record, "location")
    code = country.get("iso_code")
    fields = {
        "continent": _name(_part(record, "continent")),
        "country": code,
        "country_name": _name(country),
        "city": _name(_part(record, "city")),
        "latitude": position.get("latitude"),
        "longitude": position.get("longitude"),
        "zip": _part(record, "postal").get("code"),
        "region": _region(record, code),
    }
    for name in _FLAT_FIELDS:
        fields[name] = record.get(name)
    return {name: value for name, value in fields.items() if value}


_FLAT_FIELDS = (
    "autonomous_system_number",
    "autonomous_system_organization",
    "isp",
    "organization",
    "domain",
)


def _part(record: dict[str, Any], name: str) -> dict[str, Any]:
    part = record.get(name)
    return part if isinstance(part, dict) else {}


def _name(part: dict[str, Any]) -> Any:
    return _part(part, "names").get("en")


def _region(record: dict[str, Any], country_code: Any) -> str | None:
    subdivisions = record.get("subdivisions")
    if not isinstance(subdivisions, list) or not subdivisions:
        return None
    code = _part({"first": subdivisions[0]}, "first").get("iso_code")
    if not code:
        return None
    return f"RU-{code}" if country_code == "RU" else str(code)
