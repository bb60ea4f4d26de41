"""A server whose closed files become Parquet: bytes in, rows out, also when it is killed."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

from tests.faults.crashes import pids
from tests.parquet_files import lines_of
from tests.server_process import ServerProcess
from tests.site import Site, id_of, new_id
from tests.waiting import wait_until

FILE_BYTES_MAX = 1 << 20
HOSTILE = (
    rb'"event":"\ud800 \u0000","properties":{"a":{"a":1}}',
    rb'"event":{"a":1},"timestamp":"2026-02-30T00:00:00Z","properties":{"n":1e400}',
    b'"event":1,"timestamp":"10000-01-01T00:00:00Z","properties":'
    + b'{"a":' * 90
    + b"1"
    + b"}" * 90,
    rb'"event":"a","event":"b","context":{"page":[],"campaign":1,"location":{"latitude":"x"}}',
    b'"event":"' + b"x" * 900_000 + b'"',
    b'"event":"' + b"y" * 900_000 + b'"',
)


def body(event_id: str, content: bytes) -> bytes:
    return b'{"type":"track","userId":"u","messageId":"%b",%b}' % (event_id.encode(), content)


def server(tmp_path) -> ServerProcess:
    config = tmp_path / "segsrv.toml"
    config.write_text(
        '[[sinks]]\nname = "files"\nurl = "file:"\nencoding = "parquet"\n'
        f"options = {{ file_bytes_max = {FILE_BYTES_MAX} }}\n"
    )
    return ServerProcess(
        tmp_path / "data", f"--config={config}", "--workers=2", "--flush-interval-s=0.01"
    )


def names(tmp_path) -> list[Path]:
    return [path for path in (tmp_path / "data" / "events").rglob("*") if path.is_file()]


def is_complete(path: Path) -> bool:
    return path.suffix == ".parquet" and not path.stat().st_mode & 0o222


def parquet_files(tmp_path) -> list[Path]:
    return sorted(path for path in names(tmp_path) if path.suffix == ".parquet")


def converted(tmp_path) -> list[dict]:
    lines = b"".join(lines_of(path.read_bytes()) for path in parquet_files(tmp_path))
    return [json.loads(line) for line in lines.splitlines()]


def stored(tmp_path) -> list[dict]:
    """Return all events, of Parquet files and of those that are not Parquet."""
    left = [path for path in names(tmp_path) if path.suffix == ".ndjson"]
    lines = b"".join(path.read_bytes() for path in left)
    return converted(tmp_path) + [json.loads(line) for line in lines.splitlines()]


def test_hostile_events_become_parquet(tmp_path):
    """Whatever an event holds, its file becomes Parquet, with the event in it."""
    ids = []
    with server(tmp_path) as running:
        site = Site(running)
        for content in HOSTILE:
            ids.append(new_id())
            assert site.post(body(ids[-1], content)).status == 200

        def has_all() -> bool:
            # A file is closed when an event goes to the next one.
            assert site.post(body(new_id(), b'"event":"next"')).status == 200
            return set(ids) <= set(map(id_of, converted(tmp_path)))

        wait_until(has_all, deadline_s=60)
        assert site.metric("segsrv_sink_own_total", count="files_not_converted") == 0


def test_every_event_is_there_once_after_kills(tmp_path):
    """Delivery that is killed while files become Parquet loses no event, and doubles none."""
    ids = []
    with server(tmp_path) as running:
        site = Site(running)
        wait_until(lambda: "delivery" in pids(running))
        for kill in range(3):
            files = len(parquet_files(tmp_path))
            while len(parquet_files(tmp_path)) == files:
                ids.append(new_id())
                assert site.post(body(ids[-1], b'"event":"%b"' % (b"x" * 20_000))).status == 200
            if kill < 2:
                killed = pids(running)["delivery"]
                os.kill(killed, signal.SIGKILL)
                wait_until(lambda killed=killed: pids(running)["delivery"] != killed)
    assert running.exit_code == 0
    # What was left half done is finished after the next start, which may close files with an event.
    with server(tmp_path) as running:
        ids.append(new_id())
        assert Site(running).post(body(ids[-1], b'"event":"x"')).status == 200
        wait_until(
            lambda: sum(not is_complete(path) for path in names(tmp_path)) <= 1, deadline_s=60
        )
        wait_until(lambda: set(ids) == set(map(id_of, stored(tmp_path))))
    assert running.exit_code == 0

    assert Counter(map(id_of, stored(tmp_path))) == Counter(ids)
