"""SDKs that can't run here: their requests, byte for byte, and their reading of the answers."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import ENDPOINTS
from emulated import (
    ALL_CALLS,
    DELIVERED,
    DROPPED,
    EMULATED,
    KEPT,
    SETTINGS_PATHS,
    Answer,
    Connection,
    Emulated,
    Event,
)
from observations import observe
from outage import Outage
from stored_calls import expected, take_event_id

from tests.server_process import ServerProcess
from tests.site import FLAT, FRONTS, Site, id_of

KEY = "sdk-test-key"
BODY_BYTES_MAX = 4_000
EVERY_EMULATED = pytest.mark.parametrize("sdk", EMULATED.values(), ids=EMULATED.keys())


@pytest.fixture(scope="module", params=FRONTS)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A server for all tests of this file, with each front."""
    data_dir = tmp_path_factory.mktemp("emulated") / "data"
    flags = ("--body-bytes-max", str(BODY_BYTES_MAX), "--front", request.param)
    with ServerProcess(data_dir, *flags, write_keys=[KEY]) as server:
        yield Site(server)


@contextlib.contextmanager
def connection(port: int) -> Iterator[Connection]:
    with contextlib.closing(Connection(port)) as opened:
        yield opened


def send(port: int, sdk: Emulated, events: list[Event], *, key: str = KEY) -> Answer:
    """Send one request to the flat endpoint, on a connection of its own."""
    with connection(port) as opened:
        return opened.exchange(*sdk.request(FLAT, sdk.paths[0], key, events))


def see(sdk: Emulated, **facts: str) -> None:
    observe(sdk.name, f"{sdk.version} (emulated bytes)", **facts)


def calls_made(sdk: Emulated) -> str:
    lacking = [f"no {call}" for call in ALL_CALLS if call not in sdk.calls]
    return ", it has ".join([f"all {len(sdk.calls)}", *lacking])


def gzip_use(name: str) -> str:
    """Say whether all, some or none of the ways to set an SDK up compress."""
    uses = {sdk.is_gzip for sdk in EMULATED.values() if sdk.name == name}
    return "optional" if len(uses) > 1 else "always" if uses == {True} else "no"


def expected_fields(event: Event) -> Event:
    """Say what an event becomes in the flat format, without what every event gets."""
    user = {"anonymous_id": "anon-1", "internal_id": event["userId"], "id": event["userId"]}
    fields = {
        "user": event.get("traits", {}) | user,
        "ids": {"ajs_anonymous_id": "anon-1", "ajs_user_id": event["userId"]},
        "source_ip": "127.0.0.1",
        **event.get("properties", {}),
    }
    moved = ("type", "messageId", "anonymousId", "userId", "context", "traits", "properties")
    return fields | {name: value for name, value in event.items() if name not in moved}


@ENDPOINTS
@EVERY_EMULATED
def test_every_call_is_stored_once(site: Site, sdk: Emulated, prefix: str) -> None:
    """Each request counts as delivered for the SDK, and each call is stored once as it was sent."""
    events = {}
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(connection(site.process.port))
        for path in sdk.paths:
            batch = [sdk.event(event_type) for event_type in sdk.calls]
            answer = opened.exchange(*sdk.request(prefix, path, KEY, batch))
            assert sdk.verdict(answer.status, answer.body) == DELIVERED
            events |= {event["messageId"]: event for event in batch}
            if answer.headers.get("connection") == "close":
                opened = stack.enter_context(connection(site.process.port))

    output = FLAT if sdk.is_at_root else prefix
    for stored in site.stored(*events):
        event = events[id_of(stored)]
        assert take_event_id(stored, output) == event["messageId"]
        assert stored.pop("sentAt") == sdk.sent_at
        assert stored.pop("_timestamp")
        assert stored == expected(
            expected_fields(event),
            prefix=output,
            user_agent=sdk.user_agent,
            event_type=event["type"],
            library=sdk.library,
            api_key=KEY,
        )
    see(sdk, calls=calls_made(sdk), auth=sdk.auth, gzip=gzip_use(sdk.name))


def after_refusal(sdk: Emulated, answer: Answer) -> str:
    """Say what the SDK does with the batch after this answer."""
    verdict = sdk.verdict(answer.status, answer.body)
    texts = {DROPPED: "dropped after 1 request", KEPT: "kept, sent again at each flush"}
    return texts[verdict]


@EVERY_EMULATED
def test_an_event_over_a_limit_is_dropped(site: Site, sdk: Emulated) -> None:
    """An SDK that is answered 400 gives the batch up, and nothing of it is stored."""
    event = sdk.event("track", text="x" * BODY_BYTES_MAX)

    answer = send(site.process.port, sdk, [event])

    assert answer.status == 400
    assert sdk.verdict(answer.status, answer.body) == DROPPED
    # What is sent later is stored later, so after it the refused event could be seen.
    later = sdk.event("track")
    assert send(site.process.port, sdk, [later]).status == 200
    site.stored(later["messageId"])
    assert event["messageId"] not in {id_of(stored) for stored in site.process.events()}
    see(sdk, on_400=after_refusal(sdk, answer))


@EVERY_EMULATED
def test_an_event_with_a_wrong_key_is_refused(site: Site, sdk: Emulated) -> None:
    """An SDK with an unknown key is answered 401, and nothing is stored."""
    event = sdk.event("track")

    answer = send(site.process.port, sdk, [event], key="wrong-key")

    assert answer.status == 401
    later = sdk.event("track")
    assert send(site.process.port, sdk, [later]).status == 200
    site.stored(later["messageId"])
    assert event["messageId"] not in {id_of(stored) for stored in site.process.events()}
    see(sdk, on_401=after_refusal(sdk, answer))


def check_error(answer: Answer) -> None:
    """Check what Python up to 2.3.4 and Ruby read from every error."""
    assert answer.headers["content-type"].startswith("application/json")
    error = json.loads(answer.body)
    # Python makes its APIError of these two; a KeyError would have it try ten times more.
    assert error["code"]
    assert error["message"]
    # Ruby's worker gives this text to `on_error`.
    assert isinstance(error["error"], str)


def test_batches_outlast_an_outage(tmp_path: Path) -> None:
    """Every SDK keeps a batch that is answered 503, and the same bytes are stored once later."""
    batches = {name: [sdk.event("track")] for name, sdk in EMULATED.items()}
    with Outage(tmp_path / "data", write_keys=(KEY,)) as outage:
        for name, sdk in EMULATED.items():
            refused = send(outage.server.port, sdk, batches[name])
            assert refused.status == 503
            assert refused.headers["retry-after"] == refused.headers["x-ratelimit-reset"] == "1"
            assert sdk.verdict(refused.status, refused.body) == KEPT
            check_error(refused)
        outage.end()
        for name, sdk in EMULATED.items():
            answer = send(outage.server.port, sdk, batches[name])
            assert sdk.verdict(answer.status, answer.body) == DELIVERED
        Site(outage.server).stored(*(batch[0]["messageId"] for batch in batches.values()))
        assert outage.server.stop() == 0, outage.server.stderr
        assert len(outage.server.events()) == len(EMULATED)
    for sdk in EMULATED.values():
        see(sdk, retry="delivered once")


@pytest.mark.parametrize("base", ["/api/v1/segment", "/api/v1/segment/compat", ""])
@pytest.mark.parametrize("name", SETTINGS_PATHS)
def test_settings_satisfy_a_mobile_sdk(site: Site, name: str, base: str) -> None:
    """The settings that an SDK fetches first are a plain 200 with what it dereferences."""
    for path in SETTINGS_PATHS[name]:
        target = base + path.format(key=KEY)
        head = f"GET {target} HTTP/1.1\r\nHost: shop.example\r\nCache-Control: no-cache\r\n\r\n"
        with connection(site.process.port) as opened:
            answer = opened.exchange(head.encode(), b"")

        assert answer.status == 200
        assert answer.headers["content-type"].startswith("application/json")
        settings = json.loads(answer.body)
        assert settings["integrations"]["Segment.io"]["apiKey"] == KEY
        # An apiHost would override what the app has configured.
        assert "apiHost" not in settings["integrations"]["Segment.io"]


REFUSALS = {
    "no key": (401, b'{"batch":[]}'),
    "wrong key": (401, b'{"batch":[],"writeKey":"wrong-key"}'),
    "no JSON": (400, b"{"),
    "empty": (400, b""),
    "too large": (400, b" " * (BODY_BYTES_MAX + 1)),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_errors_are_what_strict_sdks_can_read(site: Site, reason: str) -> None:
    """An error is an object with the keys that Python up to 2.3.4 and Ruby look up."""
    status, body = REFUSALS[reason]
    head = f"POST {FLAT}/v1/batch HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {len(body)}"
    with connection(site.process.port) as opened:
        answer = opened.exchange(f"{head}\r\n\r\n".encode(), body)

    assert answer.status == status
    check_error(answer)
