"""https with a certificate that is followed as it is replaced on disk."""

import http.client
import json
import shutil
import socket
import ssl
import time

import pytest

from tests.certificates import make_certificate
from tests.site import BOTH_FRONTS, FLAT, KEY, basic, new_id


def served_certificate(site, trusted):
    context = ssl.create_default_context(cafile=trusted)
    with (
        socket.create_connection(site.address, timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return dict(part[0] for part in connection.getpeercert()["subject"])["commonName"]


class TestTls:
    @BOTH_FRONTS
    def test_https_takes_events_and_follows_its_certificate(self, start_server, tmp_path):
        """Events arrive over https; a replaced certificate is served without a restart."""
        old, new = make_certificate(tmp_path, "old"), make_certificate(tmp_path, "new")
        cert, key = tmp_path / "live.crt", tmp_path / "live.key"
        shutil.copy(old[0], cert)
        shutil.copy(old[1], key)
        site = start_server(
            *("--tls-cert", str(cert), "--tls-key", str(key), "--tls-check-interval-s", "0.05")
        )

        event_id = new_id()
        context = ssl.create_default_context(cafile=old[0])
        connection = http.client.HTTPSConnection(*site.address, timeout=30, context=context)
        headers = {"Authorization": basic(KEY)}
        body = json.dumps({"type": "track", "messageId": event_id})
        connection.request("POST", FLAT, body=body, headers=headers)
        assert connection.getresponse().read() == b'{"status":"ok"}'
        assert len(site.stored(event_id)) == 1
        assert served_certificate(site, old[0]) == "old"

        # The two files can't change at once; between them the old pair stays in use.
        shutil.copy(new[0], cert)
        shutil.copy(new[1], key)
        trusted = tmp_path / "both.crt"
        trusted.write_bytes(old[0].read_bytes() + new[0].read_bytes())
        deadline = time.monotonic() + 20
        while served_certificate(site, trusted) != "new":
            assert time.monotonic() < deadline, "the new certificate is not served"
            time.sleep(0.02)

        connection.request("POST", FLAT, body=body, headers=headers)
        assert connection.getresponse().read() == b'{"status":"ok"}'
        connection.close()

    def test_a_certificate_without_its_key_is_refused_at_start(self, start_server, tmp_path):
        """A pair that does not belong together stops the start, naming both files."""
        one, other = make_certificate(tmp_path, "one"), make_certificate(tmp_path, "other")
        with pytest.raises(AssertionError, match="ended with 2 at start") as caught:
            start_server("--tls-cert", str(one[0]), "--tls-key", str(other[1]))
        assert str(other[1]) in str(caught.value)
