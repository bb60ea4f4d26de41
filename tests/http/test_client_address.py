"""Whose address a request has: what proxies say counts only as far as they are trusted."""

import pytest

from segsrv.errors import SettingsError
from segsrv.http.client_address import ClientAddress
from segsrv.settings import Settings
from tests.site import new_id

PRIVATE = Settings().trusted_proxies
PROXY, OUTSIDE = "10.0.0.1", "203.0.113.9"


def resolve(peer, text, *, header="x-forwarded-for", trusted=PRIVATE):
    return ClientAddress(trusted, header)._resolve(peer, text)


class TestLists:
    @pytest.mark.parametrize("name", ["x-forwarded-for", "X-Real-IP", "cf-connecting-ip"])
    @pytest.mark.parametrize(
        ("peer", "header", "client"),
        [
            (OUTSIDE, "1.2.3.4", OUTSIDE),
            (PROXY, "1.2.3.4", "1.2.3.4"),
            (PROXY, "6.6.6.6, 1.2.3.4", "1.2.3.4"),
            (PROXY, "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
            (PROXY, "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            (PROXY, "1.2.3.4:5678", "1.2.3.4"),
            (PROXY, "2001:db8::7", "2001:db8::7"),
            (PROXY, "[2001:db8::7]:5678", "2001:db8::7"),
            (PROXY, "::ffff:1.2.3.4", "1.2.3.4"),
            (PROXY, "fe80::1%eth0", "fe80::1"),
            (PROXY, "2001:db8::7%\udcff", "2001:db8::7"),
            (PROXY, "nonsense", PROXY),
            (PROXY, "1.2.3.4, nonsense", PROXY),
            (PROXY, "", PROXY),
            (PROXY, ",".join(["9.9.9.9"] * 100 + ["1.2.3.4"]), "1.2.3.4"),
            ("::1", "1.2.3.4", "1.2.3.4"),
            ("::ffff:10.0.0.1", "1.2.3.4", "1.2.3.4"),
            ("", "1.2.3.4", "1.2.3.4"),
        ],
    )
    def test_the_nearest_untrusted_hop_is_the_client(self, peer, header, client, name):
        """What stands left of the first hop that no trusted proxy vouches for is ignored."""
        assert client == resolve(peer, header, header=name)


class TestForwarded:
    @pytest.mark.parametrize(
        ("header", "client"),
        [
            ("for=1.2.3.4", "1.2.3.4"),
            ('for="[2001:db8::7]:5678";proto=https', "2001:db8::7"),
            ("For=6.6.6.6, for=1.2.3.4;by=10.0.0.2", "1.2.3.4"),
            ("for=6.6.6.6, for=1.2.3.4, for=10.0.0.2", "1.2.3.4"),
            ('for="6.6.6.6, for=1.2.3.4', "1.2.3.4"),
            ("for=6.6.6.6, proto=https", PROXY),
            ("for=unknown", PROXY),
            ("proto=https", PROXY),
            ("1.2.3.4", PROXY),
            ("", PROXY),
        ],
    )
    def test_forwarded_is_read_as_rfc_7239_says(self, header, client):
        """`Forwarded` names hops by `for=`; an element without one hides what is left of it."""
        assert client == resolve(PROXY, header, header="Forwarded")


class TestTrust:
    def test_no_proxy_need_be_trusted(self):
        """With an empty list no header counts, not even from loopback."""
        assert resolve("127.0.0.1", "1.2.3.4", trusted=()) == "127.0.0.1"

    def test_a_wrong_network_is_named(self):
        """A trusted proxy that is no network is refused by its text."""
        with pytest.raises(SettingsError, match=r"10\.0\.0\.0/99"):
            ClientAddress(["10.0.0.0/99"], "x-forwarded-for")


FORGED = {
    "X-Forwarded-For": "6.6.6.1",
    "X-Real-IP": "6.6.6.2",
    "Forwarded": "for=6.6.6.3",
    "CF-Connecting-IP": "6.6.6.4",
}


class TestServer:
    def test_x_forwarded_for_is_believed_by_default(self, site):
        """Over loopback, which is trusted by default, its address is stored, and no other's."""
        for headers, client in (
            (FORGED, "6.6.6.1"),
            ({**FORGED, "X-Forwarded-For": ""}, "127.0.0.1"),
        ):
            event_id = new_id()
            site.post({"type": "page", "messageId": event_id}, headers=headers)
            assert site.stored(event_id)[0]["source_ip"] == client

    @pytest.mark.parametrize("name", ["X-Real-IP", "forwarded", "cf-connecting-ip"])
    def test_the_named_header_alone_is_believed(self, new_site, name):
        """A client that writes into every other header is stored as the named one says."""
        site = new_site("--client-ip-header", name)
        forged = {header: text for header, text in FORGED.items() if header.lower() != name.lower()}
        sent = "for=8.8.8.8" if name == "forwarded" else "8.8.8.8"
        for headers, client in (({**forged, name: sent}, "8.8.8.8"), (forged, "127.0.0.1")):
            event_id = new_id()
            site.post({"type": "page", "messageId": event_id}, headers=headers)
            assert site.stored(event_id)[0]["source_ip"] == client

    def test_headers_of_others_do_not_count(self, new_site):
        """Where loopback is not trusted, nobody can choose their address."""
        site = new_site("--trusted-proxies", "192.0.2.0/24")
        event_id = new_id()
        site.post({"type": "page", "messageId": event_id}, headers=FORGED)
        assert site.stored(event_id)[0]["source_ip"] == "127.0.0.1"
