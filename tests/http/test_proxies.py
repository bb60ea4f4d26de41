"""Behind nginx, HAProxy and Caddy, configured as the documentation shows it."""

import contextlib
import http.client
import json

import pytest

from tests.http.proxies import NAMES, documented, documented_line, replaced, started_proxy
from tests.site import FLAT, KEY, basic, new_id

CLIENT = "127.0.0.9"
"""Where the client connects from; proxies connect to the server from 127.0.0.1."""
FORGED = {
    "X-Forwarded-For": "6.6.6.1",
    "X-Real-IP": "6.6.6.2",
    "Forwarded": "for=6.6.6.3",
    "True-Client-IP": "6.6.6.4",
}
SETS_FORWARDED_FOR = {
    "nginx": "proxy_set_header X-Forwarded-For $remote_addr;",
    "haproxy": "http-request set-header X-Forwarded-For %[src]",
    "caddy": "reverse_proxy 127.0.0.1:8080",
}
"""The documented lines that a variant replaces."""
APPENDS = {
    "nginx": "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
    "haproxy": "option forwardfor",
}
SETS_FORWARDED = {
    "nginx": 'proxy_set_header Forwarded "for=$remote_addr";',
    "haproxy": "http-request set-header Forwarded for=%[src]",
}


def post(address, body, headers):
    connection = http.client.HTTPConnection(*address, timeout=30, source_address=(CLIENT, 0))
    with contextlib.closing(connection):
        sent = {"Authorization": basic(KEY), **headers}
        connection.request("POST", FLAT, body=body, headers=sent)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def stored_address(site, address):
    """Send an event with every header forged, and return the address that is stored with it."""
    event_id = new_id()
    event = {"type": "page", "messageId": event_id}
    assert post(address, json.dumps(event), FORGED) == (200, {"status": "ok"})
    return site.stored(event_id)[0]["source_ip"]


@pytest.mark.parametrize("name", NAMES)
class TestDocumentedProxies:
    def test_the_client_s_address_is_stored(self, start_server, tmp_path, name):
        """With the documented text a client that forges every header is stored as itself.

        What segsrv refuses, it refuses itself: a body over the limit is its 400, no proxy's 413.
        """
        site = start_server()
        with started_proxy(name, documented(name), tmp_path / name, site.address) as address:
            assert stored_address(site, address) == CLIENT
            status, answer = post(address, b" " * (4 << 20) + b"{}", {})
            assert (status, answer["code"]) == (400, "body_too_large")

    def test_a_proxy_that_sets_only_x_real_ip(self, start_server, tmp_path, name):
        """Its X-Real-IP is believed where it is named, not the X-Forwarded-For it lets through."""
        site = start_server("--client-ip-header", "x-real-ip")
        line = documented_line(name)
        if name == "caddy":
            line = f"{SETS_FORWARDED_FOR[name]} {{\n{line}\n}}"
        text = replaced(documented(name), SETS_FORWARDED_FOR[name], line)
        with started_proxy(name, text, tmp_path / name, site.address) as address:
            assert stored_address(site, address) == CLIENT


@pytest.mark.parametrize("name", APPENDS)
class TestOtherProxies:
    def test_a_proxy_that_appends_to_the_list(self, start_server, tmp_path, name):
        """Where proxies append to what clients send, only networks that are trusted are passed."""
        site = start_server("--trusted-proxies", "127.0.0.1/32")
        text = replaced(documented(name), SETS_FORWARDED_FOR[name], APPENDS[name])
        with started_proxy(name, text, tmp_path / name, site.address) as address:
            assert stored_address(site, address) == CLIENT

    def test_a_proxy_that_sets_only_forwarded(self, start_server, tmp_path, name):
        """Its Forwarded is believed where it is named, not the headers that it lets through."""
        site = start_server("--client-ip-header", "forwarded")
        text = replaced(documented(name), SETS_FORWARDED_FOR[name], SETS_FORWARDED[name])
        with started_proxy(name, text, tmp_path / name, site.address) as address:
            assert stored_address(site, address) == CLIENT
