"""The real SDKs, as programs of their own, against the real server."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clients import CALLS, ENDPOINTS, SDKS, Sdk, go_program, node_program, run
from observations import observe
from stored_calls import (
    STORED,
    VARIABLE_FIELDS,
    Event,
    all_stored,
    expected,
    take_event_id,
    without_nulls,
)

from tests.server_process import MOUNTED, ServerProcess
from tests.site import COMPAT, FLAT

KEYS = {FLAT: "key-flat", COMPAT: "key-compat"}


@pytest.fixture(params=[("-m", "segsrv"), MOUNTED], ids=["server", "mounted"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    data_dir = tmp_path / "data"
    with ServerProcess(data_dir, write_keys=list(KEYS.values()), program=request.param) as process:
        yield process


@pytest.mark.parametrize("sdk", SDKS.values(), ids=SDKS.keys())
def test_every_call_of_an_sdk_is_stored_once(server: ServerProcess, sdk: Sdk) -> None:
    """The six calls of each SDK succeed, and each is stored exactly once and correctly mapped."""
    program = sdk.program()

    def send(prefix: str) -> str:
        return run([*program, server.url, prefix, KEYS[prefix], str(CALLS)]).stdout

    with ThreadPoolExecutor() as pool:
        assert set(pool.map(send, KEYS)) == {f"delivered {len(STORED)}\n"}
    stored = all_stored(server, len(KEYS) * len(STORED))
    for prefix, key in KEYS.items():
        events = [event for event in stored if event["api_key"] == key]
        check_calls(events, prefix, sdk)
        observe(sdk.name, sdk.version, calls=f"all {len(events)}")


def check_calls(events: list[Event], prefix: str, sdk: Sdk) -> None:
    """Check that these are the calls of calls.json, as an endpoint stores them."""
    assert sorted(event["event_type"] for event in events) == sorted(STORED)
    event_ids = {take_event_id(event, prefix) for event in events}
    assert len(event_ids - {""}) == len(STORED)
    for event in events:
        assert all(event[name] for name in sdk.times)
        event_type = event["event_type"]
        variable = VARIABLE_FIELDS.union(sdk.times)
        compared = {name: event[name] for name in event.keys() - variable}
        assert without_nulls(compared) == expected(
            STORED[event_type],
            prefix=prefix,
            user_agent=sdk.user_agent,
            event_type=event_type,
            library=sdk.library,
            api_key=KEYS[prefix],
            **sdk.extra,
        )


def test_documented_node_example_is_stored_by_both_endpoints(tmp_path: Path) -> None:
    """The documented Node.js program runs to its end, and both its events are stored."""
    program = node_program("example.mjs", "analytics-node")
    with ServerProcess(tmp_path / "data", write_keys=list(KEYS.values())) as server:

        def run_example(prefix: str) -> None:
            run(program, ENDPOINT=server.url + prefix, WRITE_KEY=KEYS[prefix])

        # Each run lasts the ten seconds of the SDK's flush interval, so they run side by side.
        with ThreadPoolExecutor() as pool:
            list(pool.map(run_example, KEYS))
        stored = all_stored(server, 4)

    calls = {
        "track": {"event": "test_track", "user": {"anonymous_id": "anonym1"}},
        "identify": {"user": {"email": "newuser@gmail.com", "anonymous_id": "anonym1"}},
    }
    common = {"ids": {"ajs_anonymous_id": "anonym1"}, "source_ip": "127.0.0.1"}
    for prefix, key in KEYS.items():
        events = {event["event_type"]: event for event in stored if event["api_key"] == key}
        assert events.keys() == calls.keys()
        for event_type, event in events.items():
            assert take_event_id(event, prefix).startswith("node-")
            assert {name: event[name] for name in event.keys() - VARIABLE_FIELDS} == expected(
                calls[event_type] | common,
                prefix=prefix,
                user_agent="analytics-node/6.2.0",
                event_type=event_type,
                library={"name": "analytics-node", "version": "6.2.0"},
                api_key=key,
            )


@ENDPOINTS
def test_documented_go_example_is_stored(server: ServerProcess, prefix: str) -> None:
    """The documented Go program runs without a complaint, and its event is stored."""
    ended = run(go_program("go_example"), ENDPOINT=server.url + prefix, WRITE_KEY=KEYS[prefix])

    assert ended.stderr == ""
    [event] = all_stored(server, 1)
    assert take_event_id(event, prefix) == "track1"
    assert {name: event[name] for name in event.keys() - VARIABLE_FIELDS} == expected(
        {
            "event": "test_track",
            "app": {"name": "my_app", "version": "1.0"},
            "ids": {"ajs_anonymous_id": "anonym1"},
            "user": {
                "firstName": "Ned",
                "lastName": "Stark",
                "role": "the Lord of Winterfell",
                "email": "ned@starkinc.com",
                "anonymous_id": "anonym1",
            },
            "parsed_ua": {
                "device_brand": "Apple",
                "device_model": "iPhone",
                "device_type": "mobile",
            },
            "location": {
                "city": "San Francisco",
                "country": "US",
                "latitude": 1.0,
                "longitude": 2.0,
                "region": "CA",
                "speed": 100,
            },
            "source_ip": "1.1.1.1",
        },
        prefix=prefix,
        user_agent="analytics-go (version: 3.0.0)",
        event_type="track",
        library={"name": "analytics-go", "version": "3.0.0"},
        api_key=KEYS[prefix],
    )
