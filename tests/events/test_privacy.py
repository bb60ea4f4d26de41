"""The two switches of a request: what is stored of the address and of the cookie's id."""

import json
from hashlib import md5

import pytest

from segsrv.events.geo import ADDRESSES_MAX
from segsrv.events.privacy import is_strict, shorten_addresses
from tests.events.event_runs import run_body, store

both_formats = pytest.mark.parametrize("output", ["flat", "compat"])

EU = "AT BE BG HR CY CZ DK EE FI FR DE GR HU IE IT LV LT LU MT NL PL PT RO SK SI ES SE".split()
REST_OF_EEA = "IS LI NO".split()
COUNTRIES = {"8.8.8.8": "US", "81.2.69.142": "GB", "5.9.0.77": "DE", "8.8.8.8, 5.9.0.77": "US"}


def locate(source):
    """Stand for a database that knows a few full addresses and no shortened one."""
    country = COUNTRIES.get(source)
    return {"country": country} if country else None


def user_of(stored):
    return stored.get("eventn_ctx", stored)["user"]


def store_from(address, output, **policies):
    """Return the stored event, and whether its cookie is to be deleted."""
    event = {"anonymousId": "a", "context": {"ip": address}}
    outcome = run_body(event, output, locate=locate, user_agent="UA", **policies)
    assert len(outcome.lines) == 1
    return store(event, output, locate=locate, user_agent="UA", **policies), outcome.delete_cookie


@both_formats
class TestKeep:
    @pytest.mark.parametrize("policies", [{}, {"ip_policy": "keep", "cookie_policy": "keep"}])
    def test_everything_is_stored(self, output, policies):
        """By default the address and the anonymous id are stored as they are."""
        stored, delete_cookie = store_from("81.2.69.142", output, **policies)
        assert stored["source_ip"] == "81.2.69.142"
        assert user_of(stored)["anonymous_id"] == "a"
        assert not delete_cookie


@both_formats
class TestStrict:
    @pytest.mark.parametrize(
        ("address", "shortened"),
        [
            ("81.2.69.142", "81.2.69.1"),
            ("2001:db8:1234:5678::9", "2001:db8:1234::"),
            ("81.2.69.142, 2001:db8:1:2::9 ,10.0.0.7", "81.2.69.1,2001:db8:1::,10.0.0.1"),
            ("unknown, 81.2.69.142", "81.2.69.1"),
        ],
    )
    def test_address(self, output, address, shortened):
        """The stored address loses its last part, and nothing else in the line holds it in full."""
        stored, delete_cookie = store_from(address, output, ip_policy="strict")
        assert stored["source_ip"] == shortened
        assert address not in str(stored)
        assert user_of(stored)["anonymous_id"] == "a"
        assert not delete_cookie

    @pytest.mark.parametrize("address", ["81.2.69.142:80", "unknown", 5, ["81.2.69.142"]], ids=repr)
    def test_malformed_address(self, output, address):
        """What is no address is not stored, for it can't be told what it would give away."""
        stored, _ = store_from(address, output, ip_policy="strict")
        assert "source_ip" not in stored
        event = {"context": {"ip": address}}
        assert "source_ip" not in store(event, output, ip_policy="strict", address="81.2.69.142")

    def test_clients_address(self, output):
        """The client's address is shortened as the event's own is; without any there is none."""
        stored = store({}, output, ip_policy="strict", address="81.2.69.142")
        assert stored["source_ip"] == "81.2.69.1"
        assert "source_ip" not in store({}, output, ip_policy="strict")

    def test_hash_and_location_use_the_full_address(self, output):
        """The hash and the location are those of the full address."""
        stored, _ = store_from("81.2.69.142", output, ip_policy="strict")
        expected = md5(b"81.2.69.142UA", usedforsecurity=False).hexdigest()
        assert user_of(stored)["hashed_anonymous_id"] == expected
        assert stored.get("eventn_ctx", stored)["location"] == {"country": "GB"}

    def test_cookie(self, output):
        """The anonymous id becomes the hash, the cookie is to be deleted, the address stays."""
        stored, delete_cookie = store_from("81.2.69.142", output, cookie_policy="strict")
        user = user_of(stored)
        assert user["anonymous_id"] == user["hashed_anonymous_id"]
        assert delete_cookie
        assert stored["source_ip"] == "81.2.69.142"

    @pytest.mark.parametrize("user", [None, "text", ["a"]], ids=repr)
    def test_cookie_without_a_user(self, output, user):
        """Without a user object there is no id to replace, but still a cookie to delete."""
        outcome = run_body({"user": user}, output, cookie_policy="strict")
        assert b"hashed" not in outcome.lines[0]
        assert outcome.delete_cookie

    def test_both(self, output):
        """Both switches work together."""
        stored, delete_cookie = store_from(
            "81.2.69.142", output, ip_policy="strict", cookie_policy="strict"
        )
        assert stored["source_ip"] == "81.2.69.1"
        assert user_of(stored)["anonymous_id"] == user_of(stored)["hashed_anonymous_id"] != "a"
        assert delete_cookie

    def test_dead_letters(self, output):
        """An event that is set aside shows no more of the address than a stored one."""
        batch = {"batch": [{"context": {"ip": "81.2.69.142"}, "pad": "x" * 2_000}]}
        outcome = run_body(
            batch, output, ip_policy="strict", event_bytes_max=1_000, address="81.2.69.143"
        )
        (letter,) = outcome.dead_letters
        assert b"81.2.69.14" not in letter
        assert b"81.2.69.1" in letter

    @pytest.mark.parametrize("policy", ["strict", "comply"])
    def test_dead_letters_of_events_that_failed_early(self, output, policy):
        """An event that fails before its address is shortened is set aside without it."""
        deep = json.loads("[" * 300 + "]" * 300)
        batch = {"batch": [{"context": {"ip": "81.2.69.142"}, "messageId": deep}]}
        outcome = run_body(batch, output, ip_policy=policy)
        assert outcome.reasons == {"nested_too_deeply": 1}
        (letter,) = outcome.dead_letters
        assert b"81.2.69" not in letter

    def test_a_list_that_a_client_made_up(self, output):
        """Of a long list, the first addresses are kept, shortened; the rest can't cost much."""
        stored, _ = store_from(",".join(["81.2.69.142"] * 50_000), output, ip_policy="strict")
        assert stored["source_ip"] == ",".join(["81.2.69.1"] * ADDRESSES_MAX)


@both_formats
class TestComply:
    @pytest.mark.parametrize(
        ("address", "is_expected"),
        [("8.8.8.8", False), ("5.9.0.77", True), ("81.2.69.142", True), ("9.9.9.9", True)],
        ids=["US", "DE", "GB", "unknown"],
    )
    def test_by_country(self, output, address, is_expected):
        """It is strict in the EU, the EEA and the UK and where the country is unknown, else not."""
        stored, delete_cookie = store_from(
            address, output, ip_policy="comply", cookie_policy="comply"
        )
        assert (stored["source_ip"] != address) is is_expected
        assert (user_of(stored)["anonymous_id"] != "a") is is_expected
        assert delete_cookie is is_expected

    def test_each_switch_alone(self, output):
        """One switch does not set the other."""
        stored, delete_cookie = store_from("5.9.0.77", output, ip_policy="comply")
        assert (user_of(stored)["anonymous_id"], delete_cookie) == ("a", False)
        stored, delete_cookie = store_from("5.9.0.77", output, cookie_policy="comply")
        assert (stored["source_ip"], delete_cookie) == ("5.9.0.77", True)

    def test_address_that_is_no_text(self, output):
        """Where the event's address is no text, the country is that of the client's address."""
        event = {"context": {"ip": 5}, "userId": "u"}
        for address, is_expected in (("8.8.8.8", False), ("5.9.0.77", True)):
            outcome = run_body(
                event, output, locate=locate, cookie_policy="comply", address=address
            )
            assert outcome.delete_cookie is is_expected

    def test_without_an_address(self, output):
        """Without an address the country is unknown, and so it is strict."""
        outcome = run_body({"userId": "u"}, output, locate=locate, cookie_policy="comply")
        assert outcome.delete_cookie

    def test_the_country_is_the_databases(self, output):
        """The country that counts is the one of the address, not the one that the event claims."""
        event = {"context": {"ip": "5.9.0.77", "location": {"country": "US"}}, "userId": "u"}
        outcome = run_body(event, output, locate=locate, cookie_policy="comply")
        assert outcome.delete_cookie

    def test_batch(self, output):
        """Each event of a batch has its own country; one strict one is enough for the cookie."""
        batch = [{"userId": "u", "source_ip": ip} for ip in ("8.8.8.8", "5.9.0.77", "8.8.8.8")]
        policies = {"ip_policy": "comply", "cookie_policy": "comply"}
        outcome = run_body({"batch": batch}, output, locate=locate, **policies)
        assert [b'5.9.0.1"' in line for line in outcome.lines] == [False, True, False]
        assert [b'"anonymous_id"' in line for line in outcome.lines] == [False, True, False]
        assert outcome.delete_cookie
        outcome = run_body({"batch": batch[::2]}, output, locate=locate, **policies)
        assert not outcome.delete_cookie


class TestCountries:
    @pytest.mark.parametrize("country", [*EU, *REST_OF_EEA, "GB", None])
    def test_inside(self, country):
        """The EU, the rest of the EEA, the UK as `GB`, and the unknown ask for consent."""
        assert is_strict("comply", country)

    @pytest.mark.parametrize("country", ["US", "CH", "RU", "UA", "TR", "BR", "UK", "EL", ""])
    def test_outside(self, country):
        """Other countries do not, nor do the codes `UK` and `EL`, which databases never give."""
        assert not is_strict("comply", country)

    @pytest.mark.parametrize("country", ["DE", "US", None])
    def test_other_policies(self, country):
        """`strict` and `keep` hold everywhere."""
        assert is_strict("strict", country)
        assert not is_strict("keep", country)


@pytest.mark.parametrize(
    ("source", "shortened"),
    [
        ("0.0.0.0", "0.0.0.1"),
        ("255.255.255.255", "255.255.255.1"),
        ("::", "::"),
        ("::1", "::"),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff::"),
        ("FE80:1:2::1%eth0", "fe80:1:2::"),
        ("::ffff:81.2.69.142", "::"),
        ("", ""),
        (" , ,", ""),
        ("81.2.69", ""),
        ("081.2.69.142", ""),
    ],
)
def test_shortened_addresses(source, shortened):
    """An address keeps its first three bytes or six; what is none is left out."""
    assert shorten_addresses(source) == shortened
