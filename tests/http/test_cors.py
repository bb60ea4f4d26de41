"""What a browser asks and reads: preflights, origins, and headers on every answer."""

import pytest

from tests.site import COMPAT, FLAT, KEY, new_id, started_site

PAGE = "https://shop.example.com"
KEYS = """
[[keys]]
id = "web"
secret = "web-key"
origins = ["https://*.example.com", "http://localhost:3000"]
"""
OPEN = '\n[[keys]]\nid = "server"\nsecret = "server-key"\n'


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """A server whose only key is limited to some origins."""
    folder = tmp_path_factory.mktemp("limited")
    config = folder / "segsrv.toml"
    config.write_text(KEYS)
    with started_site(folder / "data", "--config", str(config), write_keys=()) as site:
        yield site


def preflight(site, path, origin=PAGE, asked="authorization,content-type,x-retry-count"):
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": asked,
    }
    return site.request("OPTIONS", path, headers=headers)


class TestPreflight:
    @pytest.mark.parametrize(
        "path",
        [FLAT, COMPAT + "/v1/t", "/v1/b", "//v1/t", "/v1/m", "/api/s/page", "/anything"],
    )
    def test_every_path_is_preflighted_without_a_key(self, site, path):
        """A preflight succeeds on all paths, names the origin and every header that SDKs send."""
        answer = preflight(site, path)

        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        allowed = set(answer.headers["Access-Control-Allow-Headers"].split(", "))
        assert {"authorization", "content-type", "x-retry-count", "x-write-key"} <= allowed
        assert "*" not in allowed
        assert int(answer.headers["Access-Control-Max-Age"]) > 0
        assert "Origin" in answer.headers["Vary"]

    def test_headers_of_the_page_s_own_are_granted(self, site):
        """What a page asks for beyond the usual is granted by name, and nothing but names."""
        answer = preflight(site, FLAT, asked="X-My-Header, x y, \t, content-type")
        allowed = answer.headers["Access-Control-Allow-Headers"].split(", ")
        assert "x-my-header" in allowed
        assert "x y" not in allowed

    def test_only_origins_of_some_key_are_welcome(self, limited):
        """Where every key is limited, a preflight from elsewhere is granted nothing."""
        assert preflight(limited, FLAT).headers["Access-Control-Allow-Origin"] == PAGE
        refused = preflight(limited, FLAT, origin="https://example.com.evil.test")
        assert refused.headers["Access-Control-Allow-Origin"] is None


class TestAnswers:
    @pytest.mark.parametrize(
        ("body", "key", "status"),
        [(None, KEY, 200), (b"{", KEY, 400), (None, "wrong", 401)],
        ids=["ok", "bad_body", "wrong_key"],
    )
    def test_every_answer_can_be_read(self, site, body, key, status):
        """Good and bad answers carry the page's origin and expose what retries need."""
        event = {"type": "track", "messageId": new_id()}
        answer = site.post(event if body is None else body, headers={"Origin": PAGE}, key=key)

        assert status == answer.status
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]
        assert "X-RateLimit-Reset" in answer.headers["Access-Control-Expose-Headers"]
        assert "Origin" in answer.headers["Vary"]

    def test_404_can_be_read(self, site):
        """An answer that nothing is there has the headers too."""
        answer = site.request("POST", "/nothing", headers={"Origin": PAGE}, body=b"{}")
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (404, PAGE)

    def test_without_an_origin_there_is_nothing_to_say(self, site):
        """A request that comes from no page gets no CORS headers."""
        answer = site.post({"type": "track", "messageId": new_id()})
        assert answer.headers["Access-Control-Allow-Origin"] is None


class TestOrigins:
    @pytest.mark.parametrize(
        ("origin", "status"),
        [
            ("https://shop.example.com", 200),
            ("https://a.b.example.com", 200),
            ("HTTPS://SHOP.EXAMPLE.COM", 200),
            ("http://localhost:3000", 200),
            ("http://shop.example.com", 401),
            ("https://example.com.evil.test", 401),
            ("http://localhost:3001", 401),
            ("null", 401),
            (None, 200),
        ],
    )
    def test_a_limited_key_is_for_its_origins(self, limited, origin, status):
        """A key with origins works from pages that match one, and outside of pages."""
        headers = {} if origin is None else {"Origin": origin}
        event_id = new_id()
        answer = limited.post(
            {"type": "page", "messageId": event_id}, headers=headers, key="web-key"
        )

        assert status == answer.status
        if status == 401:
            assert answer.json()["code"] == "origin_not_allowed"
        else:
            assert len(limited.stored(event_id)) == 1

    def test_an_open_key_beside_a_limited_one(self, new_site, tmp_path):
        """Each key has its own rule: an open one works from anywhere."""
        config = tmp_path / "segsrv.toml"
        config.write_text(KEYS + OPEN)
        site = new_site("--config", str(config), write_keys=())
        headers = {"Origin": "https://elsewhere.test"}
        event = {"type": "page", "messageId": new_id()}
        assert site.post(event, headers=headers, key="server-key").status == 200
        assert site.post(event, headers=headers, key="web-key").status == 401
