"""Whose address a request has: what proxies say counts only as far as they are trusted."""

import pytest

from segsrv.errors import SettingsError
from segsrv.http.client_address import ClientAddress
from segsrv.settings import Settings
from tests.site import new_id

PRIVATE = Settings().trusted_proxies
PROXY, OUTSIDE = "10.0.0.1", "203.0.113.9"


def resolve(peer, *, forwarded_for="", forwarded="", real_ip="", trusted=PRIVATE):
    return ClientAddress(trusted)._resolve(peer, forwarded_for, forwarded, real_ip)


class TestForwardedFor:
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
    def test_the_nearest_untrusted_hop_is_the_client(self, peer, header, client):
        """What stands left of the first hop that no trusted proxy vouches for is ignored."""
        assert client == resolve(peer, forwarded_for=header)


class TestOtherHeaders:
    @pytest.mark.parametrize(
        ("header", "client"),
        [
            ("for=1.2.3.4", "1.2.3.4"),
            ('for="[2001:db8::7]:5678";proto=https', "2001:db8::7"),
            ("For=6.6.6.6, for=1.2.3.4;by=10.0.0.2", "1.2.3.4"),
            ("for=unknown", PROXY),
            ("proto=https", PROXY),
        ],
    )
    def test_forwarded_of_rfc_7239_is_read(self, header, client):
        """`Forwarded` counts where there is no X-Forwarded-For, by the same rule."""
        assert client == resolve(PROXY, forwarded=header)

    def test_real_ip_is_the_last_resort(self):
        """X-Real-IP counts where the others are missing, and only from a trusted peer."""
        assert resolve(PROXY, real_ip="1.2.3.4") == "1.2.3.4"
        assert resolve(OUTSIDE, real_ip="1.2.3.4") == OUTSIDE
        assert resolve(PROXY, real_ip="1.2.3.4", forwarded_for="5.6.7.8") == "5.6.7.8"

    def test_no_proxy_need_be_trusted(self):
        """With an empty list no header counts, not even from loopback."""
        assert resolve("127.0.0.1", forwarded_for="1.2.3.4", trusted=()) == "127.0.0.1"

    def test_a_wrong_network_is_named(self):
        """A trusted proxy that is no network is refused by its text."""
        with pytest.raises(SettingsError, match=r"10\.0\.0\.0/99"):
            ClientAddress(["10.0.0.0/99"])


class TestServer:
    def test_headers_of_a_trusted_peer_count(self, site):
        """Over loopback, which is trusted by default, the forwarded address is stored."""
        for header in ("X-Forwarded-For", "X-Real-IP"):
            event_id = new_id()
            site.post({"type": "page", "messageId": event_id}, headers={header: "8.8.8.8"})
            assert site.stored(event_id)[0]["source_ip"] == "8.8.8.8"

    def test_headers_of_others_do_not(self, new_site):
        """Where loopback is not trusted, nobody can choose their address."""
        site = new_site("--trusted-proxies", "192.0.2.0/24")
        event_id = new_id()
        headers = {"X-Forwarded-For": "8.8.8.8", "X-Real-IP": "8.8.8.8", "Forwarded": "for=8.8.8.8"}
        site.post({"type": "page", "messageId": event_id}, headers=headers)
        assert site.stored(event_id)[0]["source_ip"] == "127.0.0.1"
