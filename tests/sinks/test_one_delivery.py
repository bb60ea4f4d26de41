"""One delivery for all workers, as a sink sees it: one connection, merged batches, no doubles."""

import json
import os
import signal
from collections import Counter

import pytest

from tests.command import segsrv
from tests.faults.crashes import parent_of, pids
from tests.server_process import ServerProcess
from tests.sinks.packages import install
from tests.site import Site, id_of, new_id
from tests.waiting import wait_until

# Writes down each batch with the process that sent it; `opened` counts connections.
NOTING = """
    import json, os
    from segsrv.sinks import Kind

    class Noting:
        def __init__(self, path):
            self.path = path

        async def check(self):
            pass

        async def open(self):
            self.note({"opened": os.getpid()})

        async def plan(self, batch, last):
            return {"number": last.get("number", 0) + 1}

        async def send(self, batch, placement):
            journals = sorted({json.loads(line)["event"] for line in batch.lines()})
            ids = [fact.event_id for fact in batch.facts]
            self.note({"pid": os.getpid(), "id": batch.id, "ids": ids, "keys": journals,
                       "types": sorted({fact.type for fact in batch.facts})})

        async def close(self):
            pass

        def describe(self):
            return "noting"

        def note(self, what):
            with open(self.path, "a") as file:
                file.write(json.dumps(what) + "\\n")

    KIND = Kind(
        schemes=("noting",),
        place=lambda spec: spec.url.partition(":")[2],
        make=lambda spec: Noting(spec.url.partition(":")[2]),
    )
"""


@pytest.fixture
def notes(tmp_path):
    """Return what reads the sink's notes, with the package of its kind installed."""
    install(tmp_path, NOTING, package="noting", scheme="noting")

    def read() -> list[dict]:
        path = tmp_path / "notes"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


def config(tmp_path, *lines: str) -> str:
    path = tmp_path / "segsrv.toml"
    table = ["[[sinks]]", 'name = "noting"', f'url = "noting:{tmp_path}/notes"', *lines]
    path.write_text("\n".join(['sink = ["file:"]', *table]))
    return f"--config={path}"


def server(tmp_path, *flags: str) -> ServerProcess:
    return ServerProcess(tmp_path / "data", *flags, environ={"PYTHONPATH": str(tmp_path)})


def event(event_id: str, kind: str = "track") -> dict:
    return {"type": kind, "event": "e", "userId": "u", "messageId": event_id}


def sent_ids(notes: list[dict]) -> list[str]:
    return [event_id for note in notes for event_id in note.get("ids", [])]


def events_by_worker(site: Site) -> list[float]:
    return [site.metric("segsrv_commit_events_total", worker=number) for number in range(4)]


def test_four_workers_make_one_connection_and_merged_batches(tmp_path, notes):
    """Whatever workers there are, a sink sees one process, one connection and batches of all."""
    flags = (config(tmp_path), "--workers=4", "--flush-interval-s=1")
    with server(tmp_path, *flags) as running:
        site = Site(running)
        ids = set()

        def has_all_workers() -> bool:
            event_id = new_id()
            assert site.post(event(event_id)).status == 200
            ids.add(event_id)
            return all(events_by_worker(site))

        wait_until(has_all_workers)
        wait_until(lambda: set(sent_ids(notes())) == ids)
        assert [note["opened"] for note in notes() if "opened" in note] == [
            pids(running)["delivery"]
        ]
        assert len([note for note in notes() if "id" in note]) <= len(ids) / 2
    assert running.exit_code == 0
    assert Counter(sent_ids(notes())) == Counter(ids)
    assert {id_of(stored) for stored in running.events()} == ids


def test_a_killed_delivery_is_not_noticed(tmp_path, notes):
    """Requests go on while delivery is killed and comes back, and every event arrives once."""
    flags = (config(tmp_path), "--workers=2", "--flush-interval-s=0.01")
    with server(tmp_path, *flags) as running:
        site = Site(running)
        ids = []
        # It is started behind the workers.
        wait_until(lambda: "delivery" in pids(running))
        for _kill in range(3):
            killed = pids(running)["delivery"]
            assert parent_of(killed) == running.pid
            os.kill(killed, signal.SIGKILL)
            for _number in range(20):
                ids.append(new_id())
                assert site.post(event(ids[-1])).status == 200
            wait_until(lambda killed=killed: pids(running)["delivery"] != killed)
        site.stored(*ids)
    assert running.exit_code == 0
    assert Counter(id_of(stored) for stored in running.events()) == Counter(ids)
    batches = {note["id"]: note["ids"] for note in notes() if "id" in note}
    assert Counter(i for part in batches.values() for i in part) == Counter(ids)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_filter_picks_types(tmp_path, notes, workers):
    """A sink with a filter gets what it asks for; the others get everything."""
    flags = (config(tmp_path, 'types = ["page", "identify"]'), f"--workers={workers}")
    with server(tmp_path, *flags) as running:
        site = Site(running)
        kinds = {new_id(): kind for kind in ("track", "page", "screen", "identify") * 5}
        for event_id, kind in kinds.items():
            assert site.post(event(event_id, kind)).status == 200
        site.stored(*kinds)
        picked = {i for i, kind in kinds.items() if kind in {"page", "identify"}}
        wait_until(lambda: set(sent_ids(notes())) == picked)
        # Told by another process, once a second.
        wait_until(lambda: site.metric("segsrv_sink_filtered_events_total", sink="noting") == 10)
        wait_until(lambda: site.metric("segsrv_sink_lag_bytes", sink="noting") == 0)
    assert running.exit_code == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_resend_is_delivered_once_across_a_kill(tmp_path, notes, workers):
    """What an SDK sends again arrives once at each sink, over all workers and over restarts."""
    flags = (config(tmp_path), f"--workers={workers}", "--dedup-window-s=3600")
    ids = [new_id() for _number in range(30)]
    before = None
    for _round in range(3):
        with server(tmp_path, *flags) as running:
            site = Site(running)
            for event_id in ids:
                assert site.post(event(event_id)).status == 200
            site.stored(*ids)
            wait_until(lambda site=site: site.metric("segsrv_sink_lag_bytes") == 0)
            if workers == 2:
                # The log is that of all rounds, and nothing lags before delivery has begun.
                wait_until(lambda run=running, old=before: pids(run).get("delivery") != old)
                os.kill(pids(running)["delivery"], signal.SIGKILL)
            for event_id in ids[:10]:
                assert site.post(event(event_id)).status == 200
            running.kill()
            wait_until(lambda running=running: not running_children(running))
            before = pids(running).get("delivery")
    with server(tmp_path, *flags) as running:
        site = Site(running)
        other = new_id()
        for event_id in (*ids[:5], other):
            assert site.post(event(event_id)).status == 200
        site.stored(other)
        for sink in ("file", "noting"):
            wait_until(
                lambda sink=sink: site.metric("segsrv_sink_duplicates_total", sink=sink) >= 5
            )
    assert Counter(id_of(stored) for stored in running.events()) == Counter([*ids, other])
    batches = {note["id"]: note["ids"] for note in notes() if "id" in note}
    assert Counter(i for part in batches.values() for i in part) == Counter([*ids, other])


@pytest.mark.parametrize("on_full", ["refuse", "set_aside"])
def test_a_dead_sink_of_two_workers_lags_too_far(tmp_path, on_full):
    """All workers refuse, and say for which sink; or what it lacks is set aside and all go on."""
    dead, live = tmp_path / "dead", tmp_path / "live"
    dead.write_text("in the way")
    path = tmp_path / "segsrv.toml"
    path.write_text(
        f"""
        [[sinks]]
        name = "dead"
        url = "file:{dead}"
        lag_bytes_max = 1_048_576
        on_full = "{on_full}"
        [[sinks]]
        name = "live"
        url = "file:{live}"
        """
    )
    flags = (f"--config={path}", "--workers=2", "--journal-segment-bytes-max=65536")
    flags += ("--sink-retry-s-max=0.2", "--flush-interval-s=0.01")
    taken, refused = set(), []

    def is_far_behind() -> bool:
        for _number in range(10):
            one = event(new_id()) | {"properties": {"pad": "x" * 20_000}}
            answer = site.post(one)
            if answer.status == 200:
                taken.add(one["messageId"])
            else:
                refused.append(answer.json())
        if on_full == "refuse":
            return len(refused) >= 20
        return site.metric("segsrv_sink_set_aside_bytes", sink="dead") > 0

    with ServerProcess(tmp_path / "data", *flags) as running:
        site = Site(running)
        wait_until(is_far_behind)
        if on_full == "refuse":
            assert {
                (body["code"], "the sink dead lags" in body["message"]) for body in refused
            } == {("journal_full", True)}
        else:
            assert not refused
        dead.unlink()
        wait_until(lambda: site.metric("segsrv_sink_lag_bytes", sink="dead") == 0)
        last = event(new_id())
        wait_until(lambda: site.post(last).status == 200)
    assert running.exit_code == 0
    assert ids_below(live) >= taken
    lacking = taken - ids_below(dead)
    assert bool(lacking) == (on_full == "set_aside")
    replay = segsrv(
        *("journal", "replay", "--sink=dead", "--set-aside", f"--config={path}"),
        f"--data-dir={tmp_path}/data",
        cwd=tmp_path,
    )
    assert replay.returncode == 0, replay.stderr
    assert ids_below(dead) >= taken


def ids_below(folder) -> set[str]:
    lines = [line for path in folder.glob("**/*.ndjson") for line in path.read_bytes().splitlines()]
    return {id_of(json.loads(line)) for line in lines}


def running_children(running: ServerProcess) -> list[int]:
    """Return the processes of a killed server that have not ended yet."""
    return [pid for pid in pids(running).values() if parent_of(pid)]
