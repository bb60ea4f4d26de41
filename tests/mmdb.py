"""Writes small MaxMind databases, so that tests need no real one.

The layout is that of the MaxMind DB format 2.0: a binary search tree with 24-bit records, 16 zero
bytes, the data section, a marker and the metadata map. In an IPv6 tree IPv4 networks lie under
::/96. There are no data pointers and no aliases such as ::ffff:0:0/96.
"""

import ipaddress
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

BUILD_EPOCH_S = 1_767_225_600  # 2026-01-01T00:00:00Z

_METADATA_MARKER = b"\xab\xcd\xefMaxMind.com"
_SEPARATOR_BYTES = 16
_RECORD_BITS = 24

_STRING, _DOUBLE, _BYTES, _UINT16, _UINT32, _MAP, _INT32 = 2, 3, 4, 5, 6, 7, 8
_UINT64, _UINT128, _ARRAY, _BOOLEAN = 9, 10, 11, 14
_UINT_BITS = {_UINT16: 16, _UINT32: 32, _UINT64: 64, _UINT128: 128}


class Uint(NamedTuple):
    """An unsigned integer of a stated width, for readers that are strict about it."""

    value: int
    bits: int


class _Leaf(NamedTuple):
    offset: int


_Record = int | _Leaf | None


def write_mmdb(
    path: Path,
    networks: Mapping[str, Mapping[str, Any]],
    database_type: str = "GeoLite2-City",
    *,
    ip_version: int = 6,
    build_epoch_s: int = BUILD_EPOCH_S,
    languages: Sequence[str] = ("en",),
) -> Path:
    """Write a database that answers each address with the value of its longest network."""
    path.write_bytes(
        mmdb_bytes(
            networks,
            database_type,
            ip_version=ip_version,
            build_epoch_s=build_epoch_s,
            languages=languages,
        )
    )
    return path


def mmdb_bytes(
    networks: Mapping[str, Mapping[str, Any]],
    database_type: str = "GeoLite2-City",
    *,
    ip_version: int = 6,
    build_epoch_s: int = BUILD_EPOCH_S,
    languages: Sequence[str] = ("en",),
) -> bytes:
    """Return the bytes of such a database.

    Integers become the smallest unsigned type that holds them, negative ones int32; `Uint` picks
    a width. Floats become doubles.
    """
    data = bytearray()
    offsets: dict[bytes, int] = {}
    nodes: list[list[_Record]] = [[None, None]]
    # A longer network must come after the shorter one that it refines.
    parsed = [(ipaddress.ip_network(text), value) for text, value in networks.items()]
    for network, value in sorted(parsed, key=lambda item: _prefix(item[0], ip_version)[1]):
        encoded = _encode(dict(value))
        if encoded not in offsets:
            offsets[encoded] = len(data)
            data += encoded
        _insert(nodes, *_prefix(network, ip_version), _Leaf(offsets[encoded]))
    metadata = {
        "binary_format_major_version": Uint(2, 16),
        "binary_format_minor_version": Uint(0, 16),
        "build_epoch": Uint(build_epoch_s, 64),
        "database_type": database_type,
        "description": {"en": f"{database_type} test database"},
        "ip_version": Uint(ip_version, 16),
        "languages": list(languages),
        "node_count": Uint(len(nodes), 32),
        "record_size": Uint(_RECORD_BITS, 16),
    }
    return b"".join(
        (
            _encode_tree(nodes),
            bytes(_SEPARATOR_BYTES),
            data,
            _METADATA_MARKER,
            _encode(metadata),
        )
    )


def _prefix(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, ip_version: int
) -> tuple[str, int]:
    """Return the bits of *network* from the root of the tree down, and how many they are."""
    if network.version > ip_version:
        raise ValueError(f"{network}: an IPv6 network in an IPv4 database")
    tree_bits = 128 if ip_version == 6 else 32
    length = network.prefixlen + tree_bits - network.max_prefixlen
    return f"{int(network.network_address):0{tree_bits}b}"[:length], length


def _insert(nodes: list[list[_Record]], bits: str, length: int, leaf: _Leaf) -> None:
    if length == 0:
        nodes[0] = [leaf, leaf]
        return
    node = 0
    for bit in bits[:-1]:
        child = nodes[node][int(bit)]
        if not isinstance(child, int):
            nodes.append([child, child])
            child = nodes[node][int(bit)] = len(nodes) - 1
        node = child
    nodes[node][int(bits[-1])] = leaf


def _encode_tree(nodes: list[list[_Record]]) -> bytes:
    tree = bytearray()
    for node in nodes:
        for record in node:
            if record is None:
                number = len(nodes)
            elif isinstance(record, _Leaf):
                number = len(nodes) + _SEPARATOR_BYTES + record.offset
            else:
                number = record
            tree += number.to_bytes(_RECORD_BITS // 8, "big")
    return bytes(tree)


def _encode(value: Any) -> bytes:
    match value:
        case bool():
            return _control(_BOOLEAN, int(value))
        case Uint(number, bits):
            return _encode_uint(number, bits)
        case int() if value < 0:
            return _control(_INT32, 4) + struct.pack(">i", value)
        case int():
            return _encode_uint(value, next(b for b in _UINT_BITS.values() if value < 1 << b))
        case float():
            return _control(_DOUBLE, 8) + struct.pack(">d", value)
        case str():
            text = value.encode()
            return _control(_STRING, len(text)) + text
        case bytes():
            return _control(_BYTES, len(value)) + value
        case Mapping():
            items = b"".join(_encode(str(key)) + _encode(item) for key, item in value.items())
            return _control(_MAP, len(value)) + items
        case list() | tuple():
            return _control(_ARRAY, len(value)) + b"".join(map(_encode, value))
    raise TypeError(f"{value!r}: the format has no type for it")


def _encode_uint(number: int, bits: int) -> bytes:
    if not 0 <= number < 1 << bits:
        raise ValueError(f"{number} is no unsigned integer of {bits} bits")
    kind = next(kind for kind, width in _UINT_BITS.items() if width == bits)
    # Leading zero bytes are left out, as the format asks; zero itself has no bytes at all.
    size = (number.bit_length() + 7) // 8
    return _control(kind, size) + number.to_bytes(size, "big")


def _control(kind: int, size: int) -> bytes:
    """Return the bytes that say what follows and how long it is."""
    if size < 29:
        five_bits, more = size, b""
    elif size < 29 + (1 << 8):
        five_bits, more = 29, (size - 29).to_bytes(1, "big")
    elif size < 285 + (1 << 16):
        five_bits, more = 30, (size - 285).to_bytes(2, "big")
    else:
        five_bits, more = 31, (size - 65_821).to_bytes(3, "big")
    if kind <= 7:
        return bytes((kind << 5 | five_bits,)) + more
    return bytes((five_bits, kind - 7)) + more
