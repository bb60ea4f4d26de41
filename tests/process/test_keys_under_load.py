"""Keys are added, limited and disabled while thousands of events a second come in.

A minute of it, at 5,000 events a second:

    pytest tests/process/test_keys_under_load.py --key-load-phases=10 --key-load-events-per-s=5000
"""

import asyncio
import base64
import collections
import itertools
import json
import time
from typing import NamedTuple

from tests.process.test_key_reload import QUICK, key, write
from tests.server_process import ServerProcess
from tests.waiting import wait_until

BATCH_EVENTS = 25
CONNECTIONS = 4
AFTER_S = 5.0
"""Within this time a change has to hold."""
HOLDS_S = 1.5
"""For so long it is looked at after that."""
KEYS = ("steady", "flipping", "limited", "added")


class Asked(NamedTuple):
    key: str
    began_s: float
    status: int
    ids: list[str]


def config_of(phase):
    """Return the settings of a phase: every other one takes something from each key but one."""
    is_odd = phase % 2 == 1
    text = key("steady", "s-steady")
    text += key("flipping", "s-flipping", "disabled = true" if is_odd else "")
    limit = "rate_events_per_s = 50\nburst_events = 50"
    text += key("limited", "s-limited", limit if is_odd else "")
    return text + (key("added", "s-added") if is_odd else "")


def allowed(name, phase):
    """Return the statuses that a key may get in a phase."""
    if name == "steady":
        return {200}
    if name == "limited":
        return {200, 429} if phase % 2 else {200}
    return {200} if (name == "added") == (phase % 2 == 1) else {401}


async def send(port, name, ids, asked, interval_s, end):
    """Send batches with a key on one connection, which has to stay open, until *end* is set."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    credential = base64.b64encode(f"s-{name}:".encode()).decode()
    due_s = time.monotonic()
    while not end.is_set():
        sent = [f"{name}-{next(ids)}" for _ in range(BATCH_EVENTS)]
        items = [{"type": "track", "event": "e", "messageId": event_id} for event_id in sent]
        body = json.dumps({"batch": items}).encode()
        head = (
            f"POST /v1/batch HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {credential}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        began_s = time.monotonic()
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        status = int(answer.split(b" ", 2)[1])
        length = next(
            int(line.split(b":")[1])
            for line in answer.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        await reader.readexactly(length)
        asked.append(Asked(name, began_s, status, sent))
        due_s = max(due_s + interval_s, time.monotonic() - 1.0)
        await asyncio.sleep(max(due_s - time.monotonic(), 0.0))
    writer.close()


async def run(server, config, phases, events_per_s):
    """Return what was asked, and when each phase began."""
    asked, ids, end = [], itertools.count(), asyncio.Event()
    interval_s = len(KEYS) * CONNECTIONS * BATCH_EVENTS / events_per_s
    tasks = [
        asyncio.create_task(send(server.port, name, ids, asked, interval_s, end))
        for name in KEYS * CONNECTIONS
    ]
    begun = []
    for phase in range(phases):
        await asyncio.to_thread(write, config, config_of(phase))
        begun.append(time.monotonic())
        # The change is for the time after this, whatever comes in between.
        await asyncio.sleep(AFTER_S + HOLDS_S)
    end.set()
    await asyncio.gather(*tasks)
    return asked, begun


def test_nothing_is_lost_while_keys_change(tmp_path, pytestconfig):
    """Each answer is as the keys before or after a change say, and what got a 200 is stored once.

    After five seconds it is as the keys after the change say, in all workers.
    """
    phases = pytestconfig.getoption("key_load_phases")
    events_per_s = pytestconfig.getoption("key_load_events_per_s")
    config = tmp_path / "segsrv.toml"
    write(config, config_of(0))
    flags = ("--config", str(config), "--workers=2", *QUICK)
    with ServerProcess(tmp_path / "data", *flags, write_keys=()) as server:
        asked, begun = asyncio.run(run(server, config, phases, events_per_s))
        accepted = [event_id for one in asked if one.status == 200 for event_id in one.ids]

        def stored():
            return [event["eventn_ctx_event_id"] for event in server.events()]

        wait_until(lambda: len(stored()) >= len(accepted), deadline_s=60)
    assert sorted(stored()) == sorted(accepted)

    statuses = collections.defaultdict(set)
    for one in asked:
        phase = sum(moment <= one.began_s for moment in begun) - 1
        before = max(phase - 1, 0)
        may = allowed(one.key, phase)
        if one.began_s < begun[phase] + AFTER_S:
            may |= allowed(one.key, before)
        assert one.status in may, (one.key, phase, one.began_s - begun[phase], one.status)
        statuses[one.key].add(one.status)
    # All that could happen did.
    assert statuses["flipping"] == statuses["added"] == {200, 401}
    assert statuses["limited"] == {200, 429}
    assert statuses["steady"] == {200}
