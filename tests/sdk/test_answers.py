"""What the real SDKs send to prove who they are, and what they do with the answers they get."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clients import CALLS, SDKS, Sdk, attempt, run
from observations import dropped_after, observe
from outage import Outage
from recorder import Recorder

from tests.server_process import ServerProcess
from tests.site import FLAT, Site
from tests.waiting import wait_until

KEY = "sdk-test-key"
CALL_TYPES = sorted(call["type"] for call in json.loads(CALLS.read_bytes()))
BODY_BYTES_MAX = 1_000
# Python gives up after ten retries, which no other SDK exceeds.
ATTEMPTS_MAX = 11
EVERY_SDK = pytest.mark.parametrize("sdk", SDKS.values(), ids=SDKS.keys())


@pytest.fixture(scope="module")
def strict_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server that takes only small bodies."""
    data_dir = tmp_path_factory.mktemp("strict") / "data"
    flags = ("--body-bytes-max", str(BODY_BYTES_MAX))
    with ServerProcess(data_dir, *flags, write_keys=[KEY]) as server:
        yield Site(server)


def one_call(folder: Path, **properties: object) -> Path:
    """Write a file with a single call, so that every SDK makes one request of it."""
    path = folder / "call.json"
    call = {
        "type": "track",
        "userId": "user-1",
        "anonymousId": "anon-1",
        "event": "Refused",
        "properties": properties,
        "context": {},
    }
    path.write_text(json.dumps([call]), "utf-8")
    return path


def counted_refusals(site: Site, sdk: Sdk, calls: Path, *, key: str, status: int) -> str:
    """Run a client whose every request is refused, and say how many it made."""
    command = sdk.program()
    before = site.metric("segsrv_requests_total")
    refused_before = site.metric("segsrv_requests_total", status=str(status))
    with Recorder(site.process.port) as recorder:
        # The Go SDK's own pauses between its ten tries add up to more than a minute.
        ended = attempt([*command, recorder.url, FLAT, key, str(calls)], RETRY_AFTER_MS="10")
        requests = len(recorder.requests)

    assert ended.returncode != 0, f"refused, but called delivered\n{ended.stdout}{ended.stderr}"
    assert recorder.statuses == [status] * requests
    assert site.metric("segsrv_requests_total") - before == requests
    assert site.metric("segsrv_requests_total", status=str(status)) - refused_before == requests
    assert 1 <= requests <= ATTEMPTS_MAX
    return dropped_after(requests)


@EVERY_SDK
def test_an_event_over_a_limit_is_dropped(strict_site: Site, tmp_path: Path, sdk: Sdk) -> None:
    """An SDK that is answered 400 gives the event up after a bounded number of requests."""
    calls = one_call(tmp_path, text="x" * 5 * BODY_BYTES_MAX)

    text = counted_refusals(strict_site, sdk, calls, key=KEY, status=400)

    assert strict_site.process.events() == []
    observe(sdk.name, sdk.version, on_400=text)


@EVERY_SDK
def test_an_event_with_a_wrong_key_is_dropped(strict_site: Site, tmp_path: Path, sdk: Sdk) -> None:
    """An SDK that is answered 401 gives the event up after a bounded number of requests."""
    text = counted_refusals(strict_site, sdk, one_call(tmp_path), key="wrong-key", status=401)

    assert strict_site.process.events() == []
    observe(sdk.name, sdk.version, on_401=text)


@EVERY_SDK
def test_events_outlast_an_outage(tmp_path: Path, sdk: Sdk) -> None:
    """Calls that are answered 503 are delivered exactly once when the disk has room again."""
    command = sdk.program()
    with (
        Outage(tmp_path / "data", write_keys=(KEY,)) as outage,
        Recorder(outage.server.port) as recorder,
        ThreadPoolExecutor(1) as pool,
    ):
        running = pool.submit(run, [*command, recorder.url, FLAT, KEY, str(CALLS)])
        wait_until(lambda: recorder.statuses or running.done())
        outage.end()
        ended = running.result()

        assert ended.stdout == f"delivered {len(CALL_TYPES)}\n"
        outage.server.wait_for_events(len(CALL_TYPES))
        assert outage.server.stop() == 0, outage.server.stderr
        stored = outage.server.events()

    assert recorder.statuses[0] == 503
    assert recorder.statuses[-1] == 200
    assert sorted(event["event_type"] for event in stored) == CALL_TYPES
    assert len({event["eventn_ctx_event_id"] for event in stored}) == len(CALL_TYPES)
    observe(sdk.name, sdk.version, retry="delivered once")


@EVERY_SDK
def test_how_an_sdk_sends(tmp_path: Path, sdk: Sdk) -> None:
    """An SDK's write key is found where it puts it, and compressed requests are stored as well."""
    command = sdk.program()
    encodings = [None, "gzip"] if sdk.gzip == "optional" else [None]
    with ServerProcess(tmp_path / "data", write_keys=[KEY]) as server:
        for number, encoding in enumerate(encodings, 1):
            with Recorder(server.port) as recorder:
                run(
                    [*command, recorder.url, FLAT, KEY, str(CALLS)],
                    GZIP="1" if encoding else "0",
                )
            server.wait_for_events(number * len(CALL_TYPES))
            seen = {request.headers.get("content-encoding") for request in recorder.requests}
            assert seen == {encoding}
            [auth] = {request.auth for request in recorder.requests}
            observe(sdk.name, sdk.version, auth=auth)
        assert server.stop() == 0, server.stderr
        assert len(server.events()) == len(encodings) * len(CALL_TYPES)
    observe(sdk.name, sdk.version, gzip=sdk.gzip)
