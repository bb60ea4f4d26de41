"""Ten million acknowledged events while the server is killed every few seconds; each stored once.

    python -m tests.faults.ten_million --events 10000000 --seed 1

Batches of 100 come over several connections, and at random times SIGKILL ends the whole server,
its delivery process or one worker; the server is then started again on the same data directory,
with 1 or 2 workers. Ids are numbers, and what became of each is one byte, so ten million take
20 MB here. In the end every line that was stored is read. The seed picks workers, victims and
moments.
"""

import argparse
import asyncio
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.crashes import check_whole_lines, kill_all
from tests.faults.kill_rounds import VICTIMS, kill_one
from tests.faults.load import Load
from tests.server_process import ServerProcess
from tests.waiting import until

BATCH_EVENTS = 100
KILL_AFTER_S = (0.2, 5.0)
DELIVERED_S_MAX = 600.0
CHUNK_BYTES = 4 << 20
ID = re.compile(rb'"eventn_ctx_event_id":"n(\d+)"')
SENT, ACKNOWLEDGED = b"\0", b"\1"


class Numbered(Load):
    """Sends batches of numbered events; `acknowledged_events` counts those answered with 200."""

    def __init__(self, *, seed: int) -> None:
        super().__init__(seed=seed)
        self.states = bytearray()
        self.acknowledged_events = 0

    def make_request(self) -> tuple[range, bytes]:
        first = len(self.states)
        ids = range(first, first + BATCH_EVENTS)
        self.states += SENT * BATCH_EVENTS
        events = ",".join(
            f'{{"type":"track","event":"load","userId":"u","messageId":"n{number}"}}'
            for number in ids
        )
        return ids, f'{{"batch":[{events}]}}'.encode()

    def acknowledge(self, ids: range) -> None:
        self.states[ids.start : ids.stop] = ACKNOWLEDGED * len(ids)
        self.acknowledged_events += len(ids)


async def run(
    directory: Path,
    *,
    events: int,
    seed: int,
    kill_after_s: tuple[float, float] = KILL_AFTER_S,
    flags: tuple[str, ...] = (),
) -> Counter:
    """Send until *events* are acknowledged, kill meanwhile, and check what is stored.

    Returns how often each victim was killed, and how many events were acknowledged.
    """
    chance = random.Random(seed)
    load = Numbered(seed=seed)
    killed: Counter[str] = Counter()
    data_dir = directory / "data"
    while load.acknowledged_events < events:
        server = ServerProcess(data_dir, f"--workers={chance.randint(1, 2)}", *flags)
        await asyncio.to_thread(server.start)
        try:
            async with load.running(server.port):
                while await load_for(load, server, chance.uniform(*kill_after_s), events):
                    victim = chance.choice(VICTIMS)
                    if victim != "server" and kill_one(server, victim, chance):
                        killed[victim] += 1
                    else:
                        break
                killed["server"] += 1
                kill_all(server)
        finally:
            kill_all(server)
    with ServerProcess(data_dir, *flags) as server:
        lines = Lines(data_dir / "events")
        await until(lambda: lines.count() >= load.acknowledged_events, deadline_s=DELIVERED_S_MAX)
    assert server.exit_code == 0, server.stderr[-4_000:]
    unexpected = set(load.answers) - {200, 503}
    assert not unexpected, f"answers {unexpected}"
    check_whole_lines(server)
    lost, doubled = await asyncio.to_thread(compare, data_dir / "events", load.states)
    assert not lost, f"{lost} acknowledged events are lost"
    assert not doubled, f"{doubled} events are stored twice"
    killed["acknowledged"] = load.acknowledged_events
    return killed


async def load_for(load: Numbered, server: ServerProcess, seconds: float, events: int) -> bool:
    """Wait for *seconds* under load; False if *events* are acknowledged before they are over.

    At least one batch is acknowledged meanwhile, or a server that is slow to start again would be
    killed for ever.
    """
    deadline = time.monotonic() + seconds
    before = load.acknowledged_events

    def is_over() -> bool:
        assert server.exit_code is None, server.stderr[-4_000:]
        is_time = time.monotonic() > deadline and load.acknowledged_events > before
        return is_time or load.acknowledged_events >= events

    await until(is_over, deadline_s=seconds + 60)
    return load.acknowledged_events < events


class Lines:
    """Counts lines of growing files, reading every byte once."""

    def __init__(self, events_dir: Path) -> None:
        self._events_dir = events_dir
        self._offsets: dict[Path, int] = {}
        self._lines = 0

    def count(self) -> int:
        for path in self._events_dir.glob("**/*.ndjson"):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                while chunk := file.read(CHUNK_BYTES):
                    self._lines += chunk.count(b"\n")
                self._offsets[path] = file.tell()
        return self._lines


def compare(events_dir: Path, states: bytearray) -> tuple[int, int]:
    """Return how many acknowledged events are in no file, and how many are there once too often."""
    stored = bytearray(len(states))
    doubled = 0
    for path in events_dir.glob("**/*.ndjson"):
        with path.open("rb") as file:
            for line in file:
                found = ID.search(line)
                assert found, f"{path.name} has a line without an id: {line[:200]!r}"
                number = int(found[1])
                doubled += stored[number]
                stored[number] = 1
    kept = int.from_bytes(stored) & int.from_bytes(states)
    return states.count(1) - kept.bit_count(), doubled


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, help="where the data directory is made")
    options, flags = parser.parse_known_args()
    os.sync()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.scratch) as directory:
        done = asyncio.run(
            run(Path(directory), events=options.events, seed=options.seed, flags=tuple(flags))
        )
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(done.items()))
    seconds = time.monotonic() - started
    print(f"seed {options.seed}, {seconds:.0f} s: {counts}; none lost, none doubled")  # noqa: T201 - a command prints.
    return 0


if __name__ == "__main__":
    sys.exit(main())
