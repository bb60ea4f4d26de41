"""The settings that browser and mobile SDKs fetch before they send anything."""

import pytest

from tests.site import COMPAT, FLAT, KEY, basic

PATTERNS = [
    "/v1/projects/{}/settings",
    "/projects/{}/settings",
    "/v1/projects/projects/{}/settings",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("prefix", [FLAT, COMPAT, ""], ids=["flat", "compat", "root"])
def test_a_known_key_gets_what_sdks_need(site, prefix, pattern):
    """The answer has exactly the one integration, without a host that would divert traffic."""
    answer = site.get(prefix + pattern.format(KEY), Origin="https://page.test")

    assert answer.status == 200
    assert answer.json() == {
        "integrations": {"Segment.io": {"apiKey": KEY}},
        "metrics": {"sampleRate": 0},
        "plan": {},
    }
    assert "max-age" in answer.headers["Cache-Control"]
    assert answer.headers["Access-Control-Allow-Origin"] == "https://page.test"


@pytest.mark.parametrize("prefix", [FLAT, COMPAT, ""], ids=["flat", "compat", "root"])
def test_customerio_gets_an_integration_of_its_own(site, prefix):
    """Below its own base Customer.io's SDK finds the one integration that makes it send here."""
    answer = site.get(f"{prefix}/customerio/{PATTERNS[0].format(KEY)}", Origin="https://page.test")

    assert answer.status == 200
    assert answer.json() == {
        "integrations": {"Customer.io Data Pipelines": {"apiKey": KEY}},
        "metrics": {"sampleRate": 0},
        "plan": {},
    }
    assert answer.headers["Access-Control-Allow-Origin"] == "https://page.test"


@pytest.mark.parametrize("prefix", [FLAT, COMPAT, ""], ids=["flat", "compat", "root"])
def test_rudderstack_gets_a_source_without_destinations(site, prefix):
    """Its browser SDK starts with a source that is enabled and names no code to load."""
    path = f"{prefix}/sourceConfig/?p=npm&v=3.34.1&build=modern&writeKey={KEY}"
    answer = site.get(path, Authorization=basic(KEY), Origin="https://page.test")

    assert answer.status == 200
    source = answer.json()["source"]
    assert source["id"] == source["name"] != KEY
    assert (source["enabled"], source["config"], source["destinations"]) == (True, {}, [])
    assert answer.headers["Access-Control-Allow-Origin"] == "https://page.test"


def test_rudderstack_needs_a_known_key(site):
    """Without a key, or with one that is not configured, there is no source."""
    for headers in ({}, {"Authorization": basic("unknown")}):
        answer = site.get("/sourceConfig/", **headers)
        assert (answer.status, answer.json()["code"]) == (401, "unauthorized")


def test_a_source_is_for_pages_of_the_keys_origins(new_site, tmp_path):
    """Where the key may not be used from, its source is not given out either."""
    config = tmp_path / "segsrv.toml"
    config.write_text(
        '[[keys]]\nid = "web"\nsecret = "web-key"\norigins = ["https://shop.example"]\n'
    )
    site = new_site("--config", str(config))
    auth = {"Authorization": basic("web-key")}
    assert site.get("/sourceConfig/", Origin="https://shop.example", **auth).status == 200
    refused = site.get("/sourceConfig/", Origin="https://elsewhere.example", **auth)
    assert (refused.status, refused.json()["code"]) == (401, "origin_not_allowed")


@pytest.mark.parametrize("joined", ["/{}/", "//{}", "/{}//", "///{}///"])
@pytest.mark.parametrize("prefix", [FLAT, COMPAT, ""], ids=["flat", "compat", "root"])
def test_carelessly_joined_paths_are_found(site, prefix, joined):
    """A page whose `cdnURL` ends with a slash asks below two; without an answer it never sends."""
    path = PATTERNS[0].format(KEY)
    answer = site.get(prefix + joined.format(path.strip("/")))
    assert (answer.status, answer.json()) == (200, site.get(path).json())
    assert site.get(joined.format("v1/projects/unknown/settings")).status == 404


@pytest.mark.parametrize("path", ["/health/", "//ready", "/metrics/", "/openapi.json/"])
def test_probes_are_found_so_too(site, path):
    """What is asked besides events is found however the path was joined."""
    assert site.get(path).status == 200


def test_caches_keep_pages_and_others_apart(site):
    """An answer to no page is not given to a page: it varies by origin, whoever asked."""
    assert "Origin" in site.get(PATTERNS[0].format(KEY)).headers["Vary"]


def test_an_unknown_key_gets_404(site):
    """A key that is not configured has no settings."""
    answer = site.get("/v1/projects/unknown/settings")
    assert (answer.status, answer.json()["code"]) == (404, "not_found")


def test_an_unchanged_answer_is_304(site):
    """A client that has the answer already is told so."""
    path = PATTERNS[0].format(KEY)
    etag = site.get(path).headers["ETag"]
    answer = site.get(path, **{"If-None-Match": etag})
    assert (answer.status, answer.body) == (304, b"")


def test_settings_say_host_and_integrations(new_site, tmp_path):
    """`public_url` names the host, and configured integrations are merged in.

    What is configured for one SDK's own integration is not given to the other's.
    """
    config = tmp_path / "segsrv.toml"
    config.write_text(
        'public_url = "https://events.example.com/api/v1/segment/"\n'
        '[integrations."Segment.io".httpConfig.rateLimitConfig]\nenabled = true\n'
        '[integrations."Customer.io Data Pipelines".deliveryStrategy]\nstrategy = "batching"\n'
        "[integrations.Other]\ntoken = 1\n"
    )
    site = new_site("--config", str(config))
    path = PATTERNS[0].format(KEY)
    assert site.get(path).json()["integrations"] == {
        "Segment.io": {
            "apiKey": KEY,
            "apiHost": "events.example.com/api/v1/segment/v1",
            "protocol": "https",
            "httpConfig": {"rateLimitConfig": {"enabled": True}},
        },
        "Other": {"token": 1},
    }
    assert site.get(f"/customerio{path}").json()["integrations"] == {
        "Customer.io Data Pipelines": {
            "apiKey": KEY,
            "apiHost": "events.example.com/api/v1/segment/v1",
            "protocol": "https",
            "deliveryStrategy": {"strategy": "batching"},
        },
        "Other": {"token": 1},
    }
