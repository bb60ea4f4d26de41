"""What the processes of a server report to each other, a delivery process among them."""

import asyncio
import contextlib
import json
import os
import re
import time

from segsrv import Settings
from segsrv.delivery.station import Station
from segsrv.events.counters import Counters
from segsrv.events.lookups import Hits
from segsrv.events.user_agents import UserAgents
from segsrv.geoip.databases import Databases
from segsrv.ops.health import Health
from segsrv.ops.metrics import Metrics
from segsrv.ops.peers import DELIVERY, SILENT_S, Peers, read_report
from tests.waiting import DEADLINE_S, until

LAG = ("segsrv_sink_lag_bytes", "gauge", "Lag.", [["", {"sink": "a"}, 7.0]])
SINKS = [
    {
        "name": "a",
        "state": "ok",
        "message": "",
        "lag_events": 2,
        "lag_bytes": 7,
        "lag_bytes_max": 9,
        "lag_s": 0.5,
        "events_per_s": 3.5,
        "eta_s": 2.0,
    }
]


@contextlib.asynccontextmanager
async def published(peers, **report):
    """Publish *report* for the length of the block."""

    async def made():
        return report

    task = asyncio.create_task(peers.publish(made))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.asynccontextmanager
async def healthy(tmp_path, peers):
    """Return the health of a running journal."""
    station = Station(Settings(data_dir=tmp_path / "data", write_key=("key",)), worker=0)
    await station.start()
    databases = Databases((), entries_max=1, copy_dir=None)
    user_agents = UserAgents(entries_max=1, bot_words=())
    metrics = Metrics(Counters(), station, user_agents, databases, peers, Hits())
    try:
        yield Health(station, metrics, peers, retry_after_s=5, is_apart=True)
    finally:
        await station.stop()


async def reported(peers, names):
    """Wait for reports of all *names*, and return them."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = await peers.others()
            if found.keys() == names:
                return found


class TestReports:
    async def test_each_reads_what_the_others_wrote(self, tmp_path):
        """Workers and delivery find each other's reports by name, and not their own."""
        of = {
            name: Peers(tmp_path, name=name, workers=2, has_delivery=True)
            for name in ("0", "1", DELIVERY)
        }
        async with contextlib.AsyncExitStack() as stack:
            for name, peers in of.items():
                await stack.enter_async_context(published(peers, said=name))
            for name, peers in of.items():
                names = of.keys() - {name}
                found = await reported(peers, names)
                assert {other: report["said"] for other, report in found.items()} == {
                    other: other for other in names
                }
                assert all(report["age_s"] >= 0 for report in found.values())

    async def test_what_is_no_report_is_left_out(self, tmp_path):
        """A file that was cut short, or is something else, is as if it were not there."""
        peers = Peers(tmp_path, name="0", workers=4)
        (tmp_path / "w1.json").write_text("{")
        (tmp_path / "w2.json").write_text("[]")
        (tmp_path / "w3.json").write_text('{"monotonic_s": null}')
        assert await peers.others() == {}

    async def test_a_single_process_reports_to_commands(self, tmp_path):
        """One worker that delivers by itself has a report, and nobody else's to read."""
        peers = Peers(tmp_path / "metrics", name="0", workers=1)
        async with published(peers, said="hello"):
            path = tmp_path / "metrics" / "w0.json"
            await until(lambda: read_report(path) is not None)
            assert read_report(path)["said"] == "hello"
            assert await peers.others() == {}

    async def test_a_disk_that_hangs_while_reports_are_read(self, tmp_path, monkeypatch):
        """What was read last is told, with its age; and the disk is asked once at a time."""
        peers = Peers(tmp_path, name="0", workers=2)
        monkeypatch.setattr("segsrv.ops.peers.READ_S_MAX", 0.01)
        report = {"said": "1", "monotonic_s": time.monotonic() - 60}
        (tmp_path / "w1.json").write_text(json.dumps(report))
        await reported(peers, {"1"})
        # A pipe that nobody writes to: whoever opens it waits.
        (tmp_path / "w1.json").unlink()
        os.mkfifo(tmp_path / "w1.json")
        for _time in range(20):
            found = await peers.others()
            assert found["1"]["said"] == "1"
            assert found["1"]["age_s"] >= 60
        writer = os.open(tmp_path / "w1.json", os.O_RDWR)
        os.close(writer)


class TestDelivery:
    async def test_its_figures_and_sinks_are_told(self, tmp_path):
        """Metrics carry `worker="delivery"`, and readiness has the state of each sink."""
        delivery = Peers(tmp_path / "m", name=DELIVERY, workers=1, has_delivery=True)
        peers = Peers(tmp_path / "m", name="0", workers=1, has_delivery=True)
        async with (
            healthy(tmp_path, peers) as health,
            published(delivery, families=[LAG], sinks=SINKS),
        ):
            await reported(peers, {DELIVERY})
            answer = await health.ready_in_detail(None)
            assert answer.status == 200
            body = json.loads(answer.body)
            assert body["sinks"] == SINKS
            assert "delivery" not in body
            text = (await health.metrics(None)).body.decode()
            assert 'segsrv_sink_lag_bytes{sink="a",worker="delivery"} 7.0' in text

    async def test_while_it_is_dead_events_are_taken(self, tmp_path):
        """Readiness is about requests; that nothing is delivered is said beside it."""
        peers = Peers(tmp_path, name="0", workers=1, has_delivery=True)
        async with healthy(tmp_path, peers) as health:
            answer = await health.ready_in_detail(None)
            assert (answer.status, json.loads(answer.body)["sinks"]) == (200, [])
            report = {"families": [], "sinks": SINKS}
            old = {**report, "monotonic_s": time.monotonic() - SILENT_S - 1}
            (tmp_path / "delivery.json").write_text(json.dumps(old))
            answer = await health.ready_in_detail(None)
            body = json.loads(answer.body)
            assert (answer.status, body["sinks"]) == (200, SINKS)
            assert body["delivery"]["code"] == "silent"

            text = (await health.metrics(None)).body.decode()
            ages = dict(
                re.findall(r'^segsrv_report_age_seconds{worker="(\w+)"} (.+)$', text, re.MULTILINE)
            )
            assert ages.keys() == {"0", "delivery"}
            assert float(ages["0"]) == 0
            assert float(ages["delivery"]) > SILENT_S

    async def test_without_it_a_worker_speaks_for_its_own_sinks(self, tmp_path):
        """A server that delivers in its one worker tells the same of each sink."""
        peers = Peers(tmp_path, name="0", workers=1)
        async with healthy(tmp_path, peers) as health:
            answer = await health.ready_in_detail(None)
            body = json.loads(answer.body)
            assert body.keys() == {"status", "workers", "sinks"}
            assert [sink.keys() for sink in body["sinks"]] == [SINKS[0].keys()]
