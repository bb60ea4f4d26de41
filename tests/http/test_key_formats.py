"""A key's own formats: that of paths which name none, and those that others may name."""

import pytest

from tests.site import COMPAT, FLAT, RAW, WAYS, new_id, started_site

KEYS = """
[[keys]]
id = "raw"
secret = "raw-key"
formats = ["segment", "flat"]

[[keys]]
id = "nested"
secret = "nested-key"
formats = ["compat"]

[[keys]]
id = "any"
secret = "any-key"
"""
BATCH, SINGLE, JITSU = "/v1/batch", "/v1/track", "/api/s/track"


@pytest.fixture(scope="module", params=WAYS)
def site(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    config = folder / "segsrv.toml"
    config.write_text(KEYS)
    flag, options = f"--config={config}", {"write_keys": ()}
    with started_site(folder / "data", flag, way=request.param, **options) as site:
        yield site


def format_of(event):
    if "messageId" in event:
        return "segment"
    return "compat" if "eventn_ctx" in event else "flat"


@pytest.mark.parametrize(
    ("key", "path", "stored"),
    [
        ("raw-key", FLAT + BATCH, "segment"),
        ("raw-key", SINGLE, "segment"),
        ("raw-key", JITSU, "segment"),
        ("raw-key", RAW + BATCH, "segment"),
        ("nested-key", FLAT + BATCH, "compat"),
        ("nested-key", BATCH, "compat"),
        ("nested-key", COMPAT + SINGLE, "compat"),
        ("any-key", BATCH, "flat"),
        ("any-key", COMPAT + BATCH, "compat"),
        ("any-key", RAW + SINGLE, "segment"),
    ],
)
@pytest.mark.parametrize("is_in_body", [False, True], ids=["header", "body"])
def test_the_format_that_events_are_stored_in(site, key, path, stored, is_in_body):
    """A path that names a format wins if the key allows it; others have the key's own."""
    event_id = new_id()
    event = {"type": "track", "messageId": event_id, "userId": "u"}
    body = {"batch": [event]} if path.endswith(BATCH) else event
    if is_in_body:
        answer = site.post(body | {"writeKey": key}, path=path, key=None)
    else:
        answer = site.post(body, path=path, key=key)
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
    (event,) = site.stored(event_id)
    assert format_of(event) == stored


@pytest.mark.parametrize(
    ("key", "path", "asked", "allowed"),
    [
        ("raw-key", COMPAT + BATCH, "compat", "segment and flat"),
        ("nested-key", RAW + SINGLE, "segment", "compat"),
    ],
)
def test_a_format_that_the_key_does_not_allow(site, key, path, asked, allowed):
    """It is refused for good, and the answer says which formats the key allows."""
    body = {"batch": [{"type": "track"}]} if path.endswith(BATCH) else {"type": "track"}
    for _again in range(2):
        answer = site.post(body, path=path, key=key)
        assert answer.status == 400
        assert answer.json()["code"] == "format_not_allowed"
        said = f"the path asks for the format {asked}, and the key allows {allowed}"
        assert answer.json()["message"] == said
