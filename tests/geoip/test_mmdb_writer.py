"""The databases that tests make for themselves, read back with both readers of maxminddb."""

import ipaddress
import tempfile
from pathlib import Path

import maxminddb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mmdb import BUILD_EPOCH_S, Uint, write_mmdb

BERLIN = {
    "city": {"geoname_id": 2950159, "names": {"en": "Berlin", "ja": "ベルリン"}},
    "country": {"iso_code": "DE", "is_in_european_union": True},
    "location": {"latitude": 52.52437, "longitude": 13.41053, "accuracy_radius": 100},
    "subdivisions": [{"iso_code": "BE", "names": {"en": "State of Berlin"}}],
}
OSLO = {
    "country": {"iso_code": "NO", "is_in_european_union": False},
    "location": {"latitude": -0.0, "longitude": 10.74609},
}
EVERY_TYPE = {
    "bytes": b"\x00\xff",
    "empty": {"array": [], "map": {}, "string": "", "zero": 0},
    "int32": [-1, -(2**31)],
    "long": ["x" * size for size in (28, 29, 284, 285, 65_820, 65_821, 70_000)],
    "many": list(range(300)),
    "uint": [2**16 - 1, 2**16, 2**32 - 1, 2**32, 2**64 - 1, 2**64, 2**128 - 1],
    "wide": Uint(7, 64),
}


@pytest.fixture(params=["MODE_MMAP_EXT", "MODE_MMAP"])
def mode(request):
    return getattr(maxminddb, request.param)


def test_addresses_get_the_value_of_their_network(tmp_path, mode):
    """IPv4 and IPv6 addresses find nested values, and those outside of any network nothing."""
    path = write_mmdb(
        tmp_path / "city.mmdb",
        {"81.2.69.0/24": BERLIN, "2001:db8::/32": OSLO, "203.0.113.7/32": OSLO},
    )
    with maxminddb.open_database(path, mode) as reader:
        assert reader.get("81.2.69.142") == BERLIN
        assert reader.get("2001:db8:1::1") == OSLO
        assert reader.get("203.0.113.7") == OSLO
        assert reader.get("203.0.113.6") is None
        assert reader.get("2001:db9::") is None
        assert reader.get_with_prefix_len("81.2.69.142") == (BERLIN, 24)


def test_the_longest_network_wins_in_any_order(tmp_path, mode):
    """A network inside another one overrides it, and its surroundings keep the outer value."""
    path = write_mmdb(
        tmp_path / "city.mmdb",
        {"10.1.2.0/24": {"is": "inner"}, "10.0.0.0/8": {"is": "outer"}, "::/0": {"is": "all"}},
    )
    with maxminddb.open_database(path, mode) as reader:
        assert reader.get("10.1.2.3") == {"is": "inner"}
        assert reader.get("10.1.3.3") == {"is": "outer"}
        assert reader.get("11.0.0.1") == {"is": "all"}
        assert reader.get("ffff::") == {"is": "all"}


def test_every_type_and_length_comes_back(tmp_path, mode):
    """Each type of the format and each form of a length is read back as it was given."""
    path = write_mmdb(tmp_path / "types.mmdb", {"::/0": EVERY_TYPE})
    with maxminddb.open_database(path, mode) as reader:
        assert reader.get("::1") == {**EVERY_TYPE, "wide": 7}


def test_metadata_is_what_was_asked_for(tmp_path, mode):
    """The type, languages, build time and sizes are in the metadata, also of an empty database."""
    path = write_mmdb(tmp_path / "asn.mmdb", {}, "GeoLite2-ASN", languages=("en", "de"))
    with maxminddb.open_database(path, mode) as reader:
        metadata = reader.metadata()
        assert reader.get("192.0.2.1") is None
    assert metadata.database_type == "GeoLite2-ASN"
    assert list(metadata.languages) == ["en", "de"]
    assert metadata.build_epoch == BUILD_EPOCH_S
    assert (metadata.ip_version, metadata.record_size, metadata.node_count) == (6, 24, 1)


def test_an_ipv4_database_has_ipv4_networks_only(tmp_path, mode):
    """With ip_version=4 the tree is 32 levels deep and an IPv6 network is refused."""
    path = write_mmdb(tmp_path / "v4.mmdb", {"192.0.2.0/25": BERLIN}, ip_version=4)
    with maxminddb.open_database(path, mode) as reader:
        assert reader.metadata().ip_version == 4
        assert reader.get_with_prefix_len("192.0.2.127") == (BERLIN, 25)
        assert reader.get("192.0.2.128") is None
    with pytest.raises(ValueError, match="IPv6 network"):
        write_mmdb(path, {"2001:db8::/32": BERLIN}, ip_version=4)


@given(
    prefixes=st.dictionaries(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
            lambda pair: ipaddress.ip_network(pair, strict=False)
        ),
        st.integers(0, 2**33),
        max_size=12,
    ),
    numbers=st.lists(st.integers(0, 2**32 - 1), max_size=8),
)
def test_any_networks_answer_as_a_plain_search_does(prefixes, numbers):
    """For any set of networks the C reader finds what a search for the longest one finds."""
    addresses = [ipaddress.ip_address(number) for number in numbers]
    addresses += [network.broadcast_address for network in prefixes]
    with tempfile.TemporaryDirectory() as folder:
        path = write_mmdb(
            Path(folder, "any.mmdb"),
            {str(network): {"value": value} for network, value in prefixes.items()},
        )
        with maxminddb.open_database(path, maxminddb.MODE_MMAP_EXT) as reader:
            for address in addresses:
                inside = [network for network in prefixes if address in network]
                longest = max(inside, key=lambda network: network.prefixlen, default=None)
                expected = None if longest is None else {"value": prefixes[longest]}
                assert reader.get(address) == expected
