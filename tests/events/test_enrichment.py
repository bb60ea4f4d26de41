"""What the user agent and the address add to an event, and when they add nothing."""

from ipaddress import ip_network

import maxminddb
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segsrv.events.geo import ADDRESS_CHARS_MAX, ADDRESSES_MAX, Geo
from segsrv.events.user_agents import (
    CACHED_CHARS_MAX,
    LONG_PER_BATCH_MAX,
    USER_AGENT_CHARS_MAX,
    UserAgents,
)
from tests.events.event_runs import body_of, run_body, store, store_batch
from tests.mmdb import write_mmdb

both_formats = pytest.mark.parametrize("output", ["flat", "compat"])

IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 16_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/16.5 Mobile/15E148 Safari/604.1"
)
MAC_CHROME = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/<V> Safari/537.36"
)
IPHONE_FIELDS = {
    "ua_family": "Mobile Safari",
    "ua_version": "16.5",
    "os_family": "iOS",
    "os_version": "16.5",
    "device_family": "iPhone",
    "device_brand": "Apple",
    "device_model": "iPhone",
}
CURL = {"ua_family": "curl", "ua_version": "7.68.0"}


@pytest.fixture(scope="module")
def user_agents():
    return UserAgents(entries_max=100)


class TestParsedUserAgent:
    def test_all_fields(self, user_agents):
        """A phone's user agent gives browser, system and device, versions with dots between."""
        assert user_agents.parse(IPHONE) == IPHONE_FIELDS

    def test_only_what_is_known(self, user_agents):
        """Empty values are left out."""
        assert user_agents.parse("curl/7.68.0") == CURL
        assert user_agents.parse("Debian APT-HTTP/1.3")["os_family"] == "Debian"
        assert "os_version" not in user_agents.parse("Debian APT-HTTP/1.3")

    @pytest.mark.parametrize(
        ("text", "version"),
        [
            (MAC_CHROME.replace("<V>", "91.0.4472.164"), "91.0.4472"),
            (MAC_CHROME.replace("<V>", "91.0.4472"), "91.0.4472"),
            (MAC_CHROME.replace("<V>", "91.0"), "91.0"),
        ],
    )
    def test_three_parts_of_the_agents_version(self, user_agents, text, version):
        """Of the user agent's version at most three parts are stored."""
        assert user_agents.parse(text)["ua_version"] == version

    def test_all_parts_of_the_systems_version(self, user_agents):
        """Of the system's version all four parts are stored."""
        text = "BlackBerry8520/5.0.0.681 Profile/MIDP-2.1 Configuration/CLDC-1.1 VendorID/600"
        assert user_agents.parse(text)["os_version"] == "5.0.0.681"

    def test_other_is_left_out(self, user_agents):
        """The family `Other` is left out, and no other field of that value."""
        fields = user_agents.parse("Mozilla/5.0 (compatible;PetalBot;+https://petalsearch.com)")
        assert fields["ua_family"] == "PetalBot"
        assert "os_family" not in fields
        text = "Mozilla/5.0 (Linux; Android 9; Other Build/X) AppleWebKit/537.36 Chrome/70 Mobile"
        fields = user_agents.parse(text)
        assert "device_family" not in fields
        assert fields["device_model"] == "Other"

    @pytest.mark.parametrize("text", ["zzz", "uptimia", "-", "\0", "x" * 100])
    def test_nothing_recognised(self, user_agents, text):
        """Nothing is stored, not even `bot`, where nothing was recognised."""
        assert user_agents.parse(text) is None

    @pytest.mark.parametrize(
        "text",
        [
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Baiduspider-image+(+http://www.baidu.com/search/spider.htm)",
            "curl/7.68.0 acmeBOTnet",
            "curl/7.68.0 acmeSPIDERnet",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/90.0.4430.72",
            "curl/7.68.0 acmeCrawlernet",
            "Uptimia curl/7.68.0",
        ],
    )
    def test_bots(self, user_agents, text):
        """A bot's word anywhere, in any case, makes it a bot."""
        assert user_agents.parse(text)["bot"] is True

    def test_spider_without_a_word(self, user_agents):
        """The device `Spider` makes a bot of a user agent that holds none of the words."""
        text = "Mozilla/5.0 (compatible; Yahoo! Slurp; http://help.yahoo.com/help/us/ysearch/slurp)"
        fields = user_agents.parse(text)
        assert (fields["device_family"], fields["device_brand"]) == ("Spider", "Spider")
        assert fields["bot"] is True

    @pytest.mark.parametrize("text", [IPHONE, "curl/7.68.0"])
    def test_no_bot(self, user_agents, text):
        """Anything else has no `bot` at all."""
        assert "bot" not in user_agents.parse(text)

    def test_configured_words(self):
        """A configured word makes a bot as the known ones do, in any case."""
        user_agents = UserAgents(entries_max=8, bot_words=["Probe"])
        assert user_agents.parse("curl/7.68.0 acme-PROBE")["bot"] is True
        assert user_agents.parse("curl/7.68.0 robot")["bot"] is True
        assert "bot" not in user_agents.parse("curl/7.68.0")

    def test_very_long_text(self, user_agents):
        """A text over the limit is not parsed; one at the limit is."""
        event = {"user_agent": "curl/7.68.0 ".ljust(USER_AGENT_CHARS_MAX)}
        stored = body_of(store(event, parse_user_agent=user_agents.parse))
        assert stored == event | {"parsed_ua": CURL}
        event["user_agent"] += " "
        assert body_of(store(event, parse_user_agent=user_agents.parse)) == event

    @given(st.text())
    @settings(deadline=None, max_examples=200)
    def test_any_text(self, user_agents, text):
        """No text makes the parser fail, and what it gives can be stored."""
        assert orjson.dumps(user_agents.parse(text))


class TestUserAgentCache:
    def test_hits_and_misses(self):
        """A repeated user agent is a hit, a new one a miss."""
        user_agents = UserAgents(entries_max=8)
        for text in ("curl/7.68.0", "curl/7.68.0", "zzz", "zzz", "curl/7.68.0"):
            user_agents.parse(text)
        info = user_agents.cached.cache_info()
        assert (info.hits, info.misses) == (3, 2)

    def test_bound(self):
        """No more than the stated number of answers is remembered; the oldest goes first."""
        user_agents = UserAgents(entries_max=2)
        for text in ("a", "b", "c", "c", "b", "a"):
            user_agents.parse(text)
        info = user_agents.cached.cache_info()
        assert (info.maxsize, info.currsize, info.hits, info.misses) == (2, 2, 2, 4)

    @pytest.mark.parametrize(
        "text",
        [
            "x" * (USER_AGENT_CHARS_MAX + 1),
            "curl/7.68.0 ".ljust(CACHED_CHARS_MAX + 1),
            "curl/7.68.0 \N{GRINNING FACE}",
        ],
        ids=["too long", "long", "not ASCII"],
    )
    def test_what_takes_much_memory_is_not_remembered(self, text):
        """A long text, or one of wide characters, takes no memory after its event is done."""
        user_agents = UserAgents(entries_max=8)
        stored = body_of(store({"user_agent": text}, parse_user_agent=user_agents.parse))
        assert stored.get("parsed_ua") == (CURL if "curl" in text else None)
        assert user_agents.cached.cache_info().currsize == 0

    @both_formats
    def test_remembered_answers_are_not_changed(self, output, user_agents):
        """What one event got of a remembered answer, and did with it, shows in no other event."""
        event = {"context": {"userAgent": "curl/7.68.0"}, "userId": "u"}
        for _ in range(2):
            store(event, output, parse_user_agent=user_agents.parse, cookie_policy="strict")
        assert user_agents.parse("curl/7.68.0") == CURL


class TestLongUserAgentsOfABatch:
    """What no cache keeps is parsed once for a batch: one such text can take milliseconds."""

    @staticmethod
    def parsed_for(texts):
        parsed = []

        def parse(text):
            parsed.append(text)
            return {"ua_family": text[:1]}

        batch = {"batch": [{"context": {"userAgent": text}} for text in texts]}
        families = [
            event.get("parsed_ua", {}).get("ua_family")
            for event in store_batch(batch, parse_user_agent=parse)
        ]
        return parsed, families

    @pytest.mark.parametrize("text", ["a" * (CACHED_CHARS_MAX + 1), "é"])
    def test_the_same_text_is_parsed_once(self, text):
        """Events that share a text share what was found in it."""
        assert self.parsed_for([text] * 100) == ([text], [text[:1]] * 100)

    def test_only_the_first_of_different_texts_are_parsed(self):
        """Beyond a number of different texts in one batch nothing is recognised."""
        texts = [f"{number} {'a' * CACHED_CHARS_MAX}" for number in range(LONG_PER_BATCH_MAX + 5)]
        parsed, families = self.parsed_for(texts)
        assert parsed == texts[:LONG_PER_BATCH_MAX]
        assert families[LONG_PER_BATCH_MAX:] == [None] * 5

    def test_short_texts_are_left_to_the_cache(self):
        """Texts that are cached anyway are not counted."""
        texts = [str(number) for number in range(LONG_PER_BATCH_MAX + 5)]
        assert self.parsed_for(texts)[0] == texts


@both_formats
class TestWhenUserAgentsAreParsed:
    def parsed_ua(self, event, output, user_agents):
        stored = body_of(store(event, output, parse_user_agent=user_agents.parse))
        if output == "compat" and "eventn_ctx" in stored:
            assert "parsed_ua" not in stored
            stored = stored["eventn_ctx"]
        return stored.get("parsed_ua")

    def test_with_a_user_agent(self, output, user_agents):
        """A user agent of the context is parsed, by either of its names."""
        for name in ("userAgent", "user_agent"):
            event = {"context": {name: "curl/7.68.0"}}
            assert self.parsed_ua(event, output, user_agents) == CURL

    @pytest.mark.parametrize(
        "context",
        [
            {"os": {"name": "iOS"}},
            {"os": {"version": "16"}},
            {"device": {"id": "d"}},
            {"device": {"type": "ios"}, "os": {"name": "iOS"}},
        ],
        ids=repr,
    )
    def test_not_where_the_event_says_it(self, output, user_agents, context):
        """A field from `device` or `os` keeps the user agent from being parsed."""
        event = {"context": context}
        said = self.parsed_ua(event, output, user_agents)
        event["context"]["userAgent"] = "curl/7.68.0"
        assert said
        assert self.parsed_ua(event, output, user_agents) == said

    @pytest.mark.parametrize(
        "context",
        [
            {"os": {}, "device": {}},
            {"os": {"build": 1}},
            {"os": "iOS"},
            {"device": None},
            {"os": {"name": "", "version": ""}, "device": {"id": "", "type": ""}},
        ],
        ids=repr,
    )
    def test_parsed_where_they_gave_nothing(self, output, user_agents, context):
        """A `device` and an `os` that gave no field do not count."""
        event = {"context": context | {"userAgent": "curl/7.68.0"}}
        assert self.parsed_ua(event, output, user_agents) == CURL

    def test_empty_texts_beside_others(self, output, user_agents):
        """Of an os and a device with empty texts only what they say is stored."""
        event = {
            "context": {
                "os": {"name": "", "version": "16"},
                "device": {"id": "", "model": "Pixel 9"},
                "userAgent": "curl/7.68.0",
            }
        }
        said = {"os_version": "16", "device_model": "Pixel 9"}
        assert self.parsed_ua(event, output, user_agents) == said

    @pytest.mark.parametrize("lacking", [{}, {"user_agent": None}, {"user_agent": ""}], ids=repr)
    def test_read_from_the_root(self, output, user_agents, lacking):
        """A user agent that `eventn_ctx` lacks is read from the root; the result goes into it."""
        event = {"properties": {"user_agent": "curl/7.68.0", "eventn_ctx": lacking | {"k": 1}}}
        stored = body_of(store(event, output, parse_user_agent=user_agents.parse))
        assert stored == {
            "user_agent": "curl/7.68.0",
            "eventn_ctx": lacking | {"k": 1, "parsed_ua": CURL},
        }

    def test_property_beside_the_trackers_fields(self, output, user_agents):
        """A property `user_agent` is parsed where the context has none, and only there."""
        event = {"userId": "u", "properties": {"user_agent": "curl/7.68.0"}}
        assert self.parsed_ua(event, output, user_agents) == CURL
        event["context"] = {"userAgent": IPHONE}
        expected = CURL if output == "flat" else IPHONE_FIELDS
        assert self.parsed_ua(event, output, user_agents) == expected

    @pytest.mark.parametrize("value", ["", None, 5, ["curl/7.68.0"], {"a": 1}, "zzz"], ids=repr)
    def test_nothing_to_parse(self, output, user_agents, value):
        """What is empty, no text or not recognised adds nothing and is no error."""
        assert self.parsed_ua({"context": {"userAgent": value}}, output, user_agents) is None

    def test_request_header_is_not_parsed(self, output, user_agents):
        """The user agent of the request, which may be a server's, is not parsed."""
        stored = store(
            {"k": 1}, output, parse_user_agent=user_agents.parse, user_agent="curl/7.68.0"
        )
        assert body_of(stored) == {"k": 1}

    def test_tracker_of_a_flat_event(self, output, user_agents):
        """User agent and result are in `eventn_ctx` where the event has it, else at the root."""
        event = {"user_agent": "zzz", "eventn_ctx": {"user_agent": "curl/7.68.0"}}
        stored = body_of(store(event, output, parse_user_agent=user_agents.parse))
        assert stored == event | {"eventn_ctx": event["eventn_ctx"] | {"parsed_ua": CURL}}
        event = {"user_agent": "curl/7.68.0"}
        stored = body_of(store(event, output, parse_user_agent=user_agents.parse))
        assert stored == event | {"parsed_ua": CURL}


CITY = {
    "81.2.69.0/24": {
        "continent": {"code": "EU", "names": {"en": "Europe"}},
        "country": {"iso_code": "GB", "names": {"de": "Königreich", "en": "United Kingdom"}},
        "city": {"names": {"de": "Londres", "en": "London"}},
        "location": {"latitude": 51.5142, "longitude": -0.0931, "time_zone": "Europe/London"},
        "postal": {"code": "EC1A"},
        "subdivisions": [{"iso_code": "ENG"}, {"iso_code": "LND"}],
        "registered_country": {"iso_code": "US"},
    },
    "83.220.56.0/24": {
        "country": {"iso_code": "RU", "names": {"en": "Russia"}},
        "subdivisions": [{"iso_code": "MOW"}],
        "location": {"latitude": 0.0, "longitude": 37.6},
        "postal": {"code": ""},
        "city": {"names": {"ru": "Moskva"}},
    },
    "2001:db8::/32": {"country": {"iso_code": "NO", "names": {"en": "Norway"}}},
    "4.4.4.0/24": {"subdivisions": {"iso_code": "ENG"}, "country": {"iso_code": "GB"}},
    "5.5.5.0/24": {"country": "odd", "subdivisions": [], "location": {}, "city": {"names": []}},
    "6.6.6.0/24": {"country": {"iso_code": "US"}, "subdivisions": ["odd"], "continent": {}},
    "8.8.4.0/24": {"continent": {"code": "NA"}, "country": {"iso_code": "US"}},
    "7.7.7.0/24": {"country": {"iso_code": "RU"}, "subdivisions": [{"names": {"en": "Odd"}}]},
}
LONDON = {
    "continent": "Europe",
    "country": "GB",
    "country_name": "United Kingdom",
    "city": "London",
    "latitude": 51.5142,
    "longitude": -0.0931,
    "zip": "EC1A",
    "region": "ENG",
}
MOSCOW = {"country": "RU", "country_name": "Russia", "region": "RU-MOW", "longitude": 37.6}
ISP = {
    "81.2.69.0/24": {
        "autonomous_system_number": 20712,
        "autonomous_system_organization": "Andrews & Arnold Ltd",
        "isp": "Andrews & Arnold",
        "organization": "Stone Soup",
    },
    "9.9.9.9/32": {"isp": "Quad9", "autonomous_system_number": 0, "organization": ""},
}
ASN = {
    "81.2.69.0/24": {"autonomous_system_number": 1, "autonomous_system_organization": "Later"},
    "9.9.9.0/24": {"autonomous_system_number": 19281, "autonomous_system_organization": "Q9"},
}
DOMAIN = {"81.2.69.0/24": {"domain": "aa.example"}}
COUNTRY = {"81.2.69.0/24": {"country": {"iso_code": "IE", "names": {"en": "Ireland"}}}}


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    """Opened databases of all five kinds by name; the one of the ASNs knows only IPv4."""
    folder = tmp_path_factory.mktemp("databases")
    readers = {
        name: maxminddb.open_database(
            write_mmdb(
                folder / f"{name}.mmdb", networks, name, ip_version=4 if "ASN" in name else 6
            )
        )
        for name, networks in (
            ("GeoIP2-City", CITY),
            ("GeoIP2-ISP", ISP),
            ("GeoLite2-ASN", ASN),
            ("GeoIP2-Domain", DOMAIN),
            ("GeoIP2-Country", COUNTRY),
        )
    }
    yield readers
    for reader in readers.values():
        reader.close()


@pytest.fixture
def geo(databases):
    """Look-ups in the first four databases; the one of the countries would only repeat."""
    return Geo(list(databases.values())[:4], entries_max=8)


class TestLocation:
    def test_city(self, databases):
        """A city database gives English names, ISO codes and the position."""
        geo = Geo([databases["GeoIP2-City"]], entries_max=8)
        assert geo.locate("81.2.69.142") == LONDON
        assert geo.locate("2001:db8::1") == {"country": "NO", "country_name": "Norway"}

    def test_country(self, databases):
        """A country database gives the country."""
        geo = Geo([databases["GeoIP2-Country"]], entries_max=8)
        assert geo.locate("81.2.69.142") == {"country": "IE", "country_name": "Ireland"}

    def test_several_databases(self, geo):
        """All databases add what they know; of what two know, the earlier one's counts."""
        assert geo.locate("81.2.69.142") == LONDON | ISP["81.2.69.0/24"] | {"domain": "aa.example"}

    def test_empty_values_leave_room(self, geo):
        """Zero and empty values are left out, and a later database may fill them in."""
        assert geo.locate("9.9.9.9") == {
            "isp": "Quad9",
            "autonomous_system_number": 19281,
            "autonomous_system_organization": "Q9",
        }

    def test_russian_regions(self, geo):
        """Regions of Russia carry its prefix; a zero latitude and an empty code are left out."""
        assert geo.locate("83.220.56.2") == MOSCOW

    def test_odd_records(self, geo):
        """Records with parts of another shape give what can be read of them."""
        assert geo.locate("4.4.4.4") == {"country": "GB"}
        assert geo.locate("5.5.5.5") is None
        assert geo.locate("6.6.6.6") == {"country": "US"}
        assert geo.locate("7.7.7.7") == {"country": "RU"}
        assert geo.locate("8.8.4.4") == {"country": "US"}

    @pytest.mark.parametrize(
        "source",
        [
            "10.0.0.1",
            "127.0.0.1",
            "::1",
            "1.2.3.4",
            "",
            " ",
            ",",
            "unknown",
            "81.2.69",
            "81.2.69.142:80",
            "300.1.1.1",
            "81.2.69.142\0",
            "81.2.69.142x",
            "é",
            "2001:db8:::1",
        ],
    )
    def test_nothing_to_add(self, geo, source):
        """Private, unknown and malformed addresses add nothing and are no error."""
        assert geo.locate(source) is None

    @pytest.mark.parametrize(
        "source",
        [
            "83.220.56.2,81.2.69.142",
            "10.0.0.1, 83.220.56.2, 81.2.69.142",
            "unknown,,  83.220.56.2  ",
            "5.5.5.5 , 83.220.56.2",
        ],
    )
    def test_lists(self, geo, source):
        """Of a list, the first address that resolves counts."""
        assert geo.locate(source) == MOSCOW

    @pytest.mark.parametrize("filler", ["", "unknown", "10.0.0.1", "9" * (ADDRESS_CHARS_MAX + 1)])
    def test_very_long_list(self, geo, filler):
        """Of a long list only the first addresses are looked up, whatever stands there."""
        for before, location in ((ADDRESSES_MAX - 1, MOSCOW), (ADDRESSES_MAX, None)):
            event = {"source_ip": ",".join([*[filler] * before, "83.220.56.2", "81.2.69.142"])}
            assert store(event, locate=geo.locate).get("location") == location

    def test_without_databases(self):
        """Without a database there is no location."""
        assert Geo([], entries_max=8).locate("81.2.69.142") is None

    def test_damaged_database(self, tmp_path, databases):
        """A damaged database adds nothing, and those beside it still do."""
        path = write_mmdb(tmp_path / "damaged.mmdb", {"81.2.69.0/24": {"domain": "d" * 9}})
        body = path.read_bytes()
        # The text's length is overwritten with the largest there is, far beyond the file's end.
        path.write_bytes(body.replace(b"\x49" + b"d" * 9, b"\x5f\xff\xff\xff" + b"d" * 6))
        with maxminddb.open_database(path) as damaged:
            geo = Geo([damaged, databases["GeoIP2-City"]], entries_max=8)
            assert geo.locate("81.2.69.142") == LONDON

    @given(st.text() | st.ip_addresses().map(str))
    @settings(deadline=None, max_examples=200)
    def test_any_text(self, databases, text):
        """No text makes a look-up fail, and what it gives can be stored."""
        assert orjson.dumps(Geo(list(databases.values()), entries_max=8).locate(text))


class TestLocationCache:
    def test_hits_and_misses(self, geo):
        """A repeated source is a hit, a new one a miss, found or not."""
        for source in ("81.2.69.142", "81.2.69.142", "10.0.0.1", "10.0.0.1"):
            geo.locate(source)
        assert (geo.hits, geo.misses) == (2, 2)

    def test_neighbours_share_an_answer(self, databases):
        """Where the databases tell no two addresses of a network apart, one look-up is for all."""
        geo = Geo([databases["GeoIP2-City"]], entries_max=8)
        assert geo.locate("81.2.69.142") == geo.locate("81.2.69.143") == LONDON
        assert (geo.hits, geo.misses) == (1, 1)

    @pytest.mark.parametrize(
        "sources",
        [
            [f"1.1.{number}.1" for number in (1, 2, 3, 3, 2, 1)],
            [f"2001:db8::{number}" for number in (1, 2, 3, 3, 2, 1)],
        ],
        ids=["networks", "addresses"],
    )
    def test_bound(self, databases, sources):
        """Of each kind half the stated number is remembered; the oldest goes first."""
        geo = Geo([databases["GeoIP2-City"]], entries_max=4)
        for source in sources:
            geo.locate(source)
        assert (len(geo), geo.hits, geo.misses) == (2, 2, 4)

    @given(
        networks=st.dictionaries(
            st.tuples(st.integers(0, 3), st.integers(20, 32)), st.integers(0, 3), max_size=8
        ),
        addresses=st.lists(st.integers(0, 1023), max_size=20),
    )
    @settings(deadline=None, max_examples=50)
    def test_what_is_remembered_is_what_the_database_says(
        self, tmp_path_factory, networks, addresses
    ):
        """However fine the databases tell addresses apart, each gets its own answer."""
        records = {
            str(ip_network(f"81.2.{third}.0/{bits}", strict=False)): {"domain": f"d{place}"}
            for (third, bits), place in sorted(networks.items(), key=lambda known: known[0][1])
        }
        path = write_mmdb(tmp_path_factory.mktemp("geo") / "fine.mmdb", records)
        with maxminddb.open_database(path) as reader:
            geo = Geo([reader], entries_max=4)
            for number in addresses:
                address = f"81.2.{number >> 8}.{number & 255}"
                assert (geo.locate(address) or None) == reader.get(address)

    def test_long_texts_are_not_remembered(self, geo):
        """A text longer than any address takes no memory after its event is done."""
        source = "1" * (ADDRESS_CHARS_MAX + 1)
        for policy in ("keep", "strict", "comply"):
            store({"source_ip": source}, locate=geo.locate, ip_policy=policy)
        assert len(geo) == 0

    def test_nothing_is_remembered_without_databases(self):
        """Where nothing is looked up, addresses that clients make up take no memory."""
        geo = Geo([], entries_max=8)
        assert geo.locate("81.2.69.142") is None
        assert len(geo) == 0

    @both_formats
    def test_remembered_answers_are_not_changed(self, output, geo):
        """What one event got of a remembered answer, and did with it, shows in no other event."""
        for _ in range(2):
            store({"userId": "u"}, output, locate=geo.locate, address="83.220.56.2")
        assert geo.locate("83.220.56.2") == MOSCOW


@both_formats
class TestWhenAddressesAreLookedUp:
    def location(self, event, output, geo, **sender):
        stored = body_of(store(event, output, locate=geo.locate, **sender))
        if output == "compat" and "eventn_ctx" in stored:
            assert "location" not in stored
            stored = stored["eventn_ctx"]
        return stored.get("location")

    def test_with_an_address(self, output, geo):
        """The event's own address is looked up, and the client's where it has none."""
        assert self.location({"context": {"ip": "83.220.56.2"}}, output, geo) == MOSCOW
        assert self.location({}, output, geo, address="83.220.56.2") == MOSCOW
        event = {"context": {"ip": "83.220.56.2"}}
        assert self.location(event, output, geo, address="81.2.69.142") == MOSCOW

    def test_not_where_the_event_says_it(self, output, geo):
        """A location of the context keeps the address from being looked up."""
        event = {"context": {"ip": "83.220.56.2", "location": {"city": "Here"}}}
        assert self.location(event, output, geo) == {"city": "Here"}

    @pytest.mark.parametrize("location", [None, {}, ""], ids=repr)
    def test_looked_up_where_it_is_empty(self, output, geo, location):
        """An empty location does not count."""
        event = {"context": {"ip": "83.220.56.2", "location": location}}
        assert self.location(event, output, geo) == MOSCOW

    def test_nothing_known(self, output, geo):
        """An address that no database knows adds no `location`, not even an empty one."""
        assert self.location({"context": {"ip": "10.0.0.1"}}, output, geo) is None
        assert self.location({}, output, geo) is None

    @pytest.mark.parametrize("address", [5, ["83.220.56.2"], {"ip": "83.220.56.2"}], ids=repr)
    def test_address_that_is_no_text(self, output, geo, address):
        """An address that is no text is stored as it is; the client's is looked up."""
        stored = body_of(store({"context": {"ip": address}}, output, locate=geo.locate))
        assert stored == {"source_ip": address}
        event = {"source_ip": address}
        stored = store(event, output, locate=geo.locate, address="83.220.56.2")
        assert body_of(stored) == {"source_ip": address, "location": MOSCOW}

    def test_place(self, output, geo):
        """The location goes into `eventn_ctx` where the mapped event holds that object."""
        event = {"eventn_ctx": {"k": 1}, "source_ip": "83.220.56.2"}
        stored = body_of(store(event, output, locate=geo.locate))
        assert stored == event | {"eventn_ctx": {"k": 1, "location": MOSCOW}}
        event = {"source_ip": "83.220.56.2"}
        stored = body_of(store(event, output, locate=geo.locate))
        assert stored == event | {"location": MOSCOW}

    def test_each_event_of_a_batch(self, output, geo):
        """Each event of a batch is looked up with its own address."""
        batch = [{"context": {"ip": "83.220.56.2"}}, {}, {"context": {"ip": "10.0.0.1"}}]
        lines = run_body({"batch": batch}, output, locate=geo.locate, address="81.2.69.142").lines
        countries = [orjson.loads(line) for line in lines]
        countries = [event.get("eventn_ctx", event).get("location", {}) for event in countries]
        assert [place.get("country") for place in countries] == ["RU", "GB", None]
