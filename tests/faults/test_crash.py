"""The real server, killed and stopped in the middle of a load: nothing acknowledged is lost."""

import asyncio
import os
import random
import signal

import pytest

from tests.faults.crashes import check_stored, check_whole_lines, kill_all, worker_pids
from tests.faults.load import Load
from tests.server_process import ServerProcess
from tests.site import Site, new_id
from tests.waiting import until, wait_until

# Small files and batches, so that a short test passes every border between them many times.
SMALL = (
    "--journal-segment-bytes-max=65536",
    "--file-bytes-max=65536",
    "--flush-bytes-max=65536",
    "--flush-interval-s=0.01",
)
ROUND_EVENTS_MAX = 1_500


async def load_until(load: Load, server: ServerProcess, count: int) -> None:
    """Wait until *count* more events are acknowledged, while the server answers."""
    target = len(load.acknowledged) + count

    def is_there() -> bool:
        assert server.exit_code is None, server.stderr
        return len(load.acknowledged) >= target

    await until(is_there)


def deliver_rest(data_dir, *flags: str) -> ServerProcess:
    """Start once more and stop in order: what is in the journal goes out."""
    with ServerProcess(data_dir, *flags) as server:
        pass
    assert server.exit_code == 0
    return server


class TestKill:
    @pytest.mark.parametrize(
        ("rounds", "flags"),
        [
            pytest.param(4, (), id="fsync"),
            pytest.param(3, ("--durability=write",), id="write"),
            pytest.param(3, ("--workers=2",), id="two_workers"),
        ],
    )
    async def test_every_acknowledged_event_survives(self, tmp_path, rounds, flags):
        """After kills at arbitrary moments every acknowledged event is stored, and exactly once."""
        chance = random.Random(f"{rounds} {flags}")
        load = Load(seed=1)
        for _round in range(rounds):
            server = ServerProcess(tmp_path / "data", *SMALL, *flags)
            await asyncio.to_thread(server.start)
            try:
                async with load.running(server.port):
                    await load_until(load, server, chance.randrange(1, ROUND_EVENTS_MAX))
                    kill_all(server)
            finally:
                kill_all(server)

        server = await asyncio.to_thread(deliver_rest, tmp_path / "data", *SMALL, *flags)

        assert set(load.answers) == {200}
        check_stored(server, load.acknowledged)
        check_whole_lines(server)

    async def test_with_fewer_workers_afterwards(self, tmp_path):
        """What killed workers had accepted is delivered by those that are left."""
        load = Load(seed=2)
        server = ServerProcess(tmp_path / "data", *SMALL, "--workers=2")
        await asyncio.to_thread(server.start)
        try:
            async with load.running(server.port):
                await load_until(load, server, 500)
                kill_all(server)
        finally:
            kill_all(server)

        server = await asyncio.to_thread(deliver_rest, tmp_path / "data", *SMALL)

        check_stored(server, load.acknowledged)


class TestTerminate:
    @pytest.mark.parametrize("flags", [(), ("--workers=2",)], ids=["one_worker", "two_workers"])
    async def test_an_orderly_end_under_load(self, tmp_path, flags):
        """SIGTERM under load ends with 0 and with everything acknowledged delivered already."""
        load = Load(seed=3)
        server = ServerProcess(tmp_path / "data", *SMALL, *flags)
        await asyncio.to_thread(server.start)
        try:
            async with load.running(server.port):
                await load_until(load, server, 1_000)
                exit_code = await asyncio.to_thread(server.stop)
        finally:
            kill_all(server)

        assert exit_code == 0, server.stderr
        check_stored(server, load.acknowledged)
        check_whole_lines(server)

    async def test_memory_durability_keeps_what_it_answered(self, tmp_path):
        """An orderly end writes what was only queued when it was answered."""
        load = Load(seed=4)
        server = ServerProcess(tmp_path / "data", *SMALL, "--durability=memory")
        await asyncio.to_thread(server.start)
        try:
            async with load.running(server.port):
                await load_until(load, server, 1_000)
                exit_code = await asyncio.to_thread(server.stop)
        finally:
            kill_all(server)

        assert exit_code == 0
        check_stored(server, load.acknowledged)


class TestWorkers:
    def test_a_killed_worker_is_started_again(self, tmp_path):
        """A worker that dies comes back with its journal, and what it had accepted is stored."""
        with ServerProcess(tmp_path / "data", *SMALL, "--workers=2") as server:
            site = Site(server)
            ids = [new_id() for _number in range(20)]
            for event_id in ids[:10]:
                assert site.post(event(event_id)).status == 200
            for worker in (0, 1):
                killed = worker_pids(server)[worker]
                os.kill(killed, signal.SIGKILL)
                wait_until(
                    lambda worker=worker, killed=killed: worker_pids(server)[worker] != killed
                )
            for event_id in ids[10:]:
                assert site.post(event(event_id)).status == 200

            site.stored(*ids)
        assert server.exit_code == 0
        check_stored(server, set(ids))


def event(event_id: str) -> dict:
    return {"type": "track", "event": "e", "userId": "u", "messageId": event_id}
