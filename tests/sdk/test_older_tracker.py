"""Jitsu's older tracker `@jitsu/sdk-js`, in Node and in Chromium, against the real server."""

import contextlib
import hashlib
import json
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import HERE, node_program, require, run
from pages import Pages
from recorder import Recorder
from stored_calls import Event

from tests.chromium import Chromium
from tests.server_process import MOUNTED, ServerProcess

PACKAGE = "@jitsu/sdk-js"
KEY = "tracker-key"
LOOPBACK, RAW_SOURCE = "127.0.0.1", "203.0.113.7"
EVENT_TYPES = ["order_completed", "raw", "user_identify"]
UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
RANDOMIZED = rf"/api\.[0-9a-z]{{1,5}}\?p_[0-9a-z]{{1,5}}={KEY}"
TO_SERVERS = rf"/api/v1/s2s/event\?token={KEY}"
# Options of the tracker, the requests that it makes then, and whose address is stored of an event
# that names one: the path that hides its purpose is for browsers, which may not choose it.
WAYS = {
    "queued": ({}, TO_SERVERS, 1, RAW_SOURCE),
    "one by one": ({"max_send_attempts": 1}, TO_SERVERS, 3, RAW_SOURCE),
    "randomized": ({"randomize_url": True}, RANDOMIZED, 1, LOOPBACK),
    "deprecated": ({"compat_mode": True}, TO_SERVERS, 1, RAW_SOURCE),
}


def check_stored(stored: Event, sent: Event, user_agent: str, named_source: str) -> None:
    """Check that an event is stored as it was sent, but for what completes every event."""
    is_raw = sent["event_type"] == "raw"
    source = named_source if is_raw else LOOPBACK
    hashed = hashlib.md5((source + user_agent).encode()).hexdigest()
    expected = sent | {"src": "segment_api", "api_key": KEY, "source_ip": source}
    holder = expected
    if "eventn_ctx" in sent:
        holder = expected["eventn_ctx"] = dict(sent["eventn_ctx"])
    holder["user"] = holder["user"] | {"hashed_anonymous_id": hashed}
    if is_raw:
        expected["parsed_ua"] = {"ua_family": "curl", "ua_version": "7.68.0"}
        expected["eventn_ctx_event_id"] = expected.pop("event_id")
    else:
        # The tracker leaves the id to the server.
        assert holder["event_id"] == ""
        made = stored.get("eventn_ctx", {}).get("event_id") or stored["eventn_ctx_event_id"]
        assert re.fullmatch(UUID4, made)
        holder["eventn_ctx_event_id" if holder is expected else "event_id"] = made
    assert stored.pop("_timestamp")
    assert stored == expected


@pytest.mark.parametrize("program", [("-m", "segsrv"), MOUNTED], ids=["server", "mounted"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_in_node(tmp_path: Path, way: tuple, program: tuple[str, ...]) -> None:
    """Each event is stored once, as it was sent but for what completes it, however it is sent."""
    options, path, requests_made, named_source = way
    client = node_program("tracker_client.mjs", PACKAGE)
    with ServerProcess(tmp_path / "data", write_keys=[KEY], program=program) as server:
        prefix = urllib.parse.urlsplit(server.url).path
        with Recorder(server.port) as recorder:
            ended = run([*client, recorder.url + prefix, KEY, json.dumps(options)])
            requests, statuses = recorder.requests, recorder.statuses
        assert not ended.stdout + ended.stderr
        server.wait_for_events(len(EVENT_TYPES))
        assert server.stop() == 0, server.stderr
        stored = server.events()

    assert statuses == [200] * requests_made
    assert all(re.fullmatch(re.escape(prefix) + path, request.path) for request in requests)
    bodies = [request.json() for request in requests]
    assert [isinstance(body, list) for body in bodies] == [requests_made == 1] * requests_made
    sent = bodies[0] if requests_made == 1 else bodies
    assert sorted(event["event_type"] for event in stored) == EVENT_TYPES
    [user_agent] = {request.headers["user-agent"] for request in requests}
    by_type = {event["event_type"]: event for event in sent}
    for event in stored:
        check_stored(event, by_type[event["event_type"]], user_agent, named_source)


@pytest.fixture
def page_origin() -> Iterator[str]:
    script = HERE / "node" / "node_modules" / PACKAGE / "dist" / "npm" / "jitsu.es.js"
    require(f"npm's {PACKAGE}", installed=script.is_file())
    with Pages() as pages:
        pages.add_script("/tracker.js", script)
        pages.add("/page", "")
        yield pages.origin()


def test_in_a_browser(tmp_path: Path, page_origin: str) -> None:
    """A page of another origin sends by each of the tracker's ways, with its privacy options."""
    ways: dict[str, Event] = {
        "plain": {},
        "randomized": {"randomize_url": True},
        "strict": {"cookie_policy": "strict", "ip_policy": "strict"},
    }
    browser = Chromium(tmp_path / "profile")
    with (
        contextlib.closing(browser),
        browser.profile() as profile,
        ServerProcess(tmp_path / "data", write_keys=[KEY]) as server,
    ):
        page = browser.open(profile, f"{page_origin}/page")
        for name, options in ways.items():
            page.run(
                """
                const {jitsuClient} = await import("/tracker.js");
                const tracker = jitsuClient({
                    tracking_host: url, key, disable_event_persistence: true,
                    max_send_attempts: 1, ...options,
                });
                await tracker.track(name, {source_ip: "203.0.113.7", page: "P"});
                """,
                url=server.url,
                key=KEY,
                options=options,
                name=name,
            )
        stored = server.wait_for_events(len(ways))
        assert server.stop() == 0, server.stderr

    assert page.complaints == []
    posts = {json.loads(post.body)["event_type"]: post for post in page.posts}
    assert {post.status for post in posts.values()} == {200}
    paths = {name: post.url.removeprefix(server.url) for name, post in posts.items()}
    assert paths["plain"] == f"/api/v1/event?token={KEY}"
    assert re.fullmatch(RANDOMIZED, paths["randomized"])
    assert paths["strict"] == paths["plain"] + "&cookie_policy=strict&ip_policy=strict"
    for event in stored:
        sent = json.loads(posts[event["event_type"]].body)
        assert event["page"] == "P"
        assert event["page_title"] == sent["page_title"] == "A page"
        assert event["parsed_ua"]["os_family"] == "Linux"
        assert event["user_agent"] == sent["user_agent"]
        # What a page says of its own address does not count.
        assert event["source_ip"] == LOOPBACK
        user, own_id = event["user"], sent["user"]["anonymous_id"]
        is_strict = event["event_type"] == "strict"
        assert user["anonymous_id"] == (user["hashed_anonymous_id"] if is_strict else own_id)
