"""The real server on disks that are full, read-only, gone or in use."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from segsrv.journal.frame_writer import ROOM_BYTES
from tests.faults.crashes import check_stored, kill_all
from tests.faults.disks import mount
from tests.faults.load import Load
from tests.server_process import REPOSITORY, ServerProcess
from tests.site import Answer, Site, id_of, new_id
from tests.waiting import until, wait_until

START_TIMEOUT_S = 30
EVENT_BYTES = 20_000
QUICK = ("--flush-interval-s=0.01", "--sink-retry-s-max=0.2")


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 32 MiB as the data directory."""
    disk = tmp_path / "data"
    disk.mkdir()
    mount(disk, "-t", "tmpfs", "-o", "size=32m", "tmpfs")
    yield disk
    subprocess.run(["umount", disk], check=True, timeout=START_TIMEOUT_S)


def fill(disk: Path) -> Path:
    """Take every free byte of *disk* and return the file that holds them."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(512))
    return filler


def event(event_id: str) -> dict:
    properties = {"pad": "x" * EVENT_BYTES}
    return {
        "type": "track",
        "event": "e",
        "userId": "u",
        "messageId": event_id,
        "properties": properties,
    }


def post_new(site: Site) -> tuple[str, Answer]:
    event_id = new_id()
    return event_id, site.post(event(event_id))


def post_until_refused(site: Site) -> tuple[list[str], str]:
    """Post to a full disk; return what found room in the journal's file, and what did not."""
    taken: list[str] = []
    while True:
        event_id, answer = post_new(site)
        if answer.status != 200:
            check_refused(answer, "journal_full", "journal_fault")
            return taken, event_id
        taken.append(event_id)
        assert len(taken) * EVENT_BYTES <= ROOM_BYTES, "more was taken than there was room for"


def check_refused(answer: Answer, *codes: str) -> None:
    """Check that every SDK understands the refusal and keeps its events."""
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert int(answer.headers["X-RateLimit-Reset"]) > 0
    assert answer.json()["status"] == "error"
    assert answer.json()["code"] in codes


def stored_ids(server: ServerProcess) -> set[str]:
    return {id_of(stored) for stored in server.events()}


def stored_below(folder: Path) -> set[str]:
    lines = [
        line for path in folder.glob("**/*.ndjson") for line in path.read_bytes().split(b"\n")[:-1]
    ]
    return {id_of(json.loads(line)) for line in lines}


class TestFullDisk:
    @pytest.mark.parametrize("free_min", [0, 1 << 20], ids=["really_full", "below_the_limit"])
    def test_it_is_refused_and_taken_again(self, small_disk, free_min):
        """A full disk means 503 and not ready; with space again both end, and no event is lost."""
        flags = (*QUICK, f"--disk-free-bytes-min={free_min}")
        with ServerProcess(small_disk, *flags) as server:
            site = Site(server)
            first, answer = post_new(site)
            assert answer.status == 200
            site.stored(first)
            assert site.get("/ready").status == 200

            filler = fill(small_disk)
            in_room, refused = post_until_refused(site)
            check_refused(site.get("/ready"), "journal_full", "journal_fault")
            assert site.get("/health").status == 200
            assert site.metric("segsrv_journal_ready") == 0
            assert site.metric("segsrv_commit_failures_total") > 0

            filler.unlink()
            wait_until(lambda: site.get("/ready").status == 200)
            last, answer = post_new(site)
            assert answer.status == 200
            site.stored(first, *in_room, last)
            assert site.metric("segsrv_journal_ready") == 1
        assert stored_ids(server) == {first, *in_room, last}, refused

    async def test_under_load(self, small_disk):
        """Whatever was acknowledged around the moment that the disk filled up is stored once."""
        load = Load(seed=5, event_bytes=500)
        flags = (*QUICK, "--disk-free-bytes-min=0", "--journal-segment-bytes-max=65536")
        server = ServerProcess(small_disk, *flags)
        await asyncio.to_thread(server.start)
        try:
            async with load.running(server.port):
                await until(lambda: load.acknowledged)
                for _time in range(2):
                    filler = await asyncio.to_thread(fill, small_disk)
                    refused = load.answers[503]
                    await until(lambda refused=refused: load.answers[503] > refused + 5)
                    assert server.exit_code is None, server.stderr
                    filler.unlink()
                    taken = load.answers[200]
                    await until(lambda taken=taken: load.answers[200] > taken + 5)
                kill_all(server)
        finally:
            kill_all(server)
        for filler in small_disk.glob("filler"):
            filler.unlink()

        with ServerProcess(small_disk, *flags) as server:
            pass
        assert server.exit_code == 0, server.stderr
        assert set(load.answers) == {200, 503}
        check_stored(server, load.acknowledged)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_delivery_elsewhere_goes_on(self, small_disk, tmp_path, workers):
        """With no byte free a sink on another disk still gets everything, which makes room."""
        out = tmp_path / "out"
        out.write_text("in the way")
        flags = (*QUICK, f"--sink=file:{out}", f"--workers={workers}")
        flags += ("--disk-free-bytes-min=0", "--journal-segment-bytes-max=65536")
        with ServerProcess(small_disk, *flags) as server:
            site = Site(server)
            ids = [post_new(site)[0] for _number in range(60)]
            # Up is also 0 before the first try, and what delivery makes at its start needs space.
            wait_until(lambda: site.metric("segsrv_sink_retries_total") > 0)
            filler = fill(small_disk)
            out.unlink()
            wait_until(lambda: stored_below(out) == set(ids))
            # What was delivered is gone from the disk, though nobody else made room.
            wait_until(lambda: post_new(site)[1].status == 200)
            assert filler.exists()
        assert server.exit_code == 0

    def test_a_start_on_a_full_disk(self, small_disk):
        """A server that finds its disk full starts, refuses, and recovers without a restart."""
        flags = (*QUICK, "--disk-free-bytes-min=0")
        with ServerProcess(small_disk, *flags) as server:
            first, answer = post_new(Site(server))
            assert answer.status == 200
        filler = fill(small_disk)

        with ServerProcess(small_disk, *flags) as server:
            site = Site(server)
            acknowledged = {first}
            # The start deleted what was delivered, which leaves room for an event or two.
            for _number in range(10):
                event_id, answer = post_new(site)
                if answer.status != 200:
                    break
                acknowledged.add(event_id)
            check_refused(answer, "journal_full", "journal_fault")
            filler.unlink()
            wait_until(lambda: site.get("/ready").status == 200)
            last, answer = post_new(site)
            assert answer.status == 200
            acknowledged.add(last)
            site.stored(*acknowledged)
        check_stored(server, acknowledged)


class TestUnusableDirectory:
    def test_a_read_only_disk_at_the_start(self, small_disk):
        """A server that can't write says so in one line and ends with 3."""
        subprocess.run(
            ["mount", "-o", "remount,ro", small_disk], check=True, timeout=START_TIMEOUT_S
        )

        done = serve(small_disk)

        assert done.returncode == 3
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "Read-only file system" in done.stderr

    def test_a_file_in_the_way_at_the_start(self, tmp_path):
        """A data directory that is a file is told in one line, with status 3."""
        (tmp_path / "data").write_text("in the way")

        done = serve(tmp_path / "data")

        assert done.returncode == 3
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert str(tmp_path / "data") in done.stderr

    def test_a_file_in_the_way_of_the_cursors(self, tmp_path):
        """A server that could note no delivery says so in one line and ends with 3."""
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "state").write_text("in the way")

        done = serve(tmp_path / "data")

        assert done.returncode == 3
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert str(tmp_path / "data" / "state") in done.stderr

    def test_a_data_directory_removed_while_running(self, tmp_path):
        """Events are refused, not acknowledged into files that nobody can find."""
        with ServerProcess(tmp_path / "data", *QUICK) as server:
            site = Site(server)
            first, answer = post_new(site)
            assert answer.status == 200
            site.stored(first)
            shutil.rmtree(tmp_path / "data")

            _refused, answer = post_new(site)
            check_refused(answer, "journal_fault")
            check_refused(site.get("/ready"), "journal_fault")
        assert server.exit_code == 0, server.stderr

        with ServerProcess(tmp_path / "data", *QUICK) as server:
            last, answer = post_new(Site(server))
            assert answer.status == 200
            Site(server).stored(last)

    def test_a_data_directory_removed_and_begun_again_by_another(self, tmp_path):
        """The server that lost it takes no event more and harms none of the one that has it."""
        out = tmp_path / "out"
        out.write_text("in the way")
        flags = (*QUICK, f"--sink=file:{out}", "--shutdown-grace-s=0.1")
        with ServerProcess(tmp_path / "data", *flags) as first:
            shutil.rmtree(tmp_path / "data")
            with ServerProcess(tmp_path / "data", *flags) as second:
                site = Site(second)
                answers = [post_new(site) for _number in range(5)]
                for _probe in range(3):
                    check_refused(post_new(Site(first))[1], "journal_fault")
                    wait_until(lambda: site.get("/ready").status == 200)
                answers.append(post_new(site))
                assert [answer.status for _id, answer in answers] == [200] * 6

        out.unlink()
        with ServerProcess(tmp_path / "data", *flags) as server:
            site = Site(server)
            wait_until(lambda: site.metric("segsrv_sink_lag_bytes") == 0)
        lines = [
            line for path in out.glob("**/*.ndjson") for line in path.read_bytes().splitlines()
        ]
        assert {id_of(json.loads(line)) for line in lines} == {event_id for event_id, _ in answers}
        assert len(lines) == len(answers)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_two_servers_do_not_share_a_directory(self, tmp_path, workers):
        """The second one ends with 3 and one line that names the first; the first goes on."""
        with ServerProcess(tmp_path / "data", *QUICK) as server:
            done = serve(tmp_path / "data", f"--workers={workers}")

            assert done.returncode == 3
            refusals = [line for line in done.stderr.splitlines() if line.startswith("segsrv:")]
            assert len(refusals) == 1, done.stderr
            assert f"in use by process {server.pid};" in refusals[0]
            first, answer = post_new(Site(server))
            assert answer.status == 200
            Site(server).stored(first)


class TestDeadSink:
    def test_a_file_in_the_way_from_the_start(self, tmp_path):
        """A dead sink costs no request; it shows in the metrics and gets everything when fixed."""
        out = tmp_path / "out"
        out.write_text("in the way")
        with ServerProcess(tmp_path / "data", *QUICK, f"--sink=file:{out}") as server:
            site = Site(server)
            ids = []
            for _number in range(5):
                event_id, answer = post_new(site)
                assert answer.status == 200
                ids.append(event_id)
            wait_until(lambda: site.metric("segsrv_sink_up") == 0)
            assert site.metric("segsrv_sink_lag_bytes") > 5 * EVENT_BYTES
            assert site.get("/ready").status == 200

            out.unlink()
            wait_until(lambda: site.metric("segsrv_sink_lag_bytes") == 0)
            assert site.metric("segsrv_sink_up") == 1
        lines = [
            line for path in out.glob("**/*.ndjson") for line in path.read_bytes().splitlines()
        ]
        assert len(lines) == len(ids)

    def test_a_folder_that_turns_bad_while_running(self, tmp_path):
        """The same when the sink's folder is taken away and a file stands in its place."""
        with ServerProcess(tmp_path / "data", *QUICK) as server:
            site = Site(server)
            first, _answer = post_new(site)
            site.stored(first)
            # Until it is noted as delivered it may rightly be sent again to the new folder.
            wait_until(lambda: site.metric("segsrv_sink_lag_bytes") == 0)
            events = tmp_path / "data" / "events"
            events.rename(tmp_path / "archived")
            events.write_text("in the way")

            second, answer = post_new(site)
            assert answer.status == 200
            wait_until(lambda: site.metric("segsrv_sink_up") == 0)
            events.unlink()
            site.stored(second)
            wait_until(lambda: site.metric("segsrv_sink_up") == 1)
        assert stored_ids(server) == {second}

    def test_a_full_journal(self, tmp_path):
        """With a dead sink the journal fills up, then it is 503; a crash there loses nothing."""
        out = tmp_path / "data" / "events"
        out.parent.mkdir()
        out.write_text("in the way")
        flags = (*QUICK, "--journal-bytes-max=1048576")
        acknowledged: list[str] = []
        server = ServerProcess(tmp_path / "data", *flags)
        server.start()
        try:
            site = Site(server)
            for _number in range(100):
                event_id, answer = post_new(site)
                if answer.status != 200:
                    break
                acknowledged.append(event_id)
            check_refused(answer, "journal_full")
            assert 30 < len(acknowledged) < 60
        finally:
            server.kill()

        with ServerProcess(tmp_path / "data", *flags) as server:
            site = Site(server)
            check_refused(post_new(site)[1], "journal_full")
            out.unlink()
            site.stored(*acknowledged)
            wait_until(lambda: site.metric("segsrv_sink_lag_bytes") == 0)
            last, answer = post_new(site)
            assert answer.status == 200
            site.stored(last)
        check_stored(server, {*acknowledged, last})


def serve(data_dir: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    command = [sys.executable, "-m", "segsrv", "serve", "--host", "127.0.0.1", "--port", "0"]
    return subprocess.run(
        [*command, "--data-dir", data_dir, "--write-key", "key", *flags],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if not name.startswith("SEGSRV_")},
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
