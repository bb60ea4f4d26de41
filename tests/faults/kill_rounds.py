"""Kills the real server again and again under load; nothing acknowledged is lost or doubled.

    python -m tests.faults.kill_rounds --rounds 200 --seed 1

Each round starts the server on the data directory of the round before with 1 to 3 workers and tiny
limits, and ends with SIGKILL: of the whole server, or first of the delivery process or one worker,
which is then started again by its parent. Some rounds ask for a restart in place before, and the
kill meets it wherever it is. In half of the rounds the kernel seems to have no write with its own
sync. The seed picks that, workers, victims and moments. What the kernel does in between differs
from run to run.

With --transform events go through a function that makes two of each and never says the same twice:
both must be there once, and be of one call.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.faults.crashes import check_stored, check_whole_lines, kill_all, parent_of, pids
from tests.faults.load import Load
from tests.server_process import ServerProcess
from tests.site import id_of
from tests.waiting import until

# Small files and batches, so that a short run passes every border between them many times.
SMALL = (
    "--journal-segment-bytes-max=65536",
    "--file-bytes-max=65536",
    "--flush-bytes-max=65536",
    "--flush-interval-s=0.01",
)
ROUND_EVENTS_MAX = 400
OLD_KERNEL = {"PYTHONPATH": str(Path(__file__).parent / "old_kernel")}
DOUBLING = Path(__file__).parent / "doubling"
"""The folder of a module with a function that makes two events of each."""
VICTIMS = ("server", "delivery", "worker", "restart")


async def run(
    directory: Path,
    *,
    rounds: int,
    seed: int,
    flags: tuple[str, ...] = (),
    is_transformed: bool = False,
) -> Counter:
    """Do *rounds* and check what is stored; return how often each victim was killed."""
    if is_transformed:
        flags = (*flags, "--transform=doubling:double")
    chance = random.Random(seed)
    load = Load(seed=seed)
    killed: Counter[str] = Counter()
    data_dir = directory / "data"
    for _round in range(rounds):
        workers = chance.randint(1, 3)
        environ = environ_of(chance.choice([{}, OLD_KERNEL]))
        server = ServerProcess(data_dir, *SMALL, f"--workers={workers}", *flags, environ=environ)
        await asyncio.to_thread(server.start)
        try:
            async with load.running(server.port):
                await load_until(load, server, chance.randrange(1, ROUND_EVENTS_MAX))
                victim = chance.choice(VICTIMS)
                if victim == "restart":
                    os.kill(server.pid, signal.SIGUSR2)
                if victim == "restart" or (victim != "server" and kill_one(server, victim, chance)):
                    killed[victim] += 1
                    await load_until(load, server, chance.randrange(1, ROUND_EVENTS_MAX))
                killed["server"] += 1
                kill_all(server)
        finally:
            kill_all(server)
    with ServerProcess(data_dir, *SMALL, *flags, environ=environ_of({})) as server:
        pass
    assert server.exit_code == 0, server.stderr[-4_000:]
    unexpected = set(load.answers) - {200, 503}
    assert not unexpected, f"answers {unexpected}"
    if is_transformed:
        check_pairs(server)
        check_stored(server, {f"{each}{end}" for each in load.acknowledged for end in ("", "-1")})
    else:
        check_stored(server, load.acknowledged)
    check_whole_lines(server)
    killed["acknowledged"] = len(load.acknowledged)
    return killed


def environ_of(environ: dict[str, str]) -> dict[str, str]:
    """Return *environ* with the folder of the function, which is there to be imported."""
    paths = [environ.get("PYTHONPATH"), str(DOUBLING)]
    return environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def check_pairs(server: ServerProcess) -> None:
    """Check that what was made of an event is of one call."""
    calls: dict[str, set[str]] = {}
    for event in server.events():
        calls.setdefault(id_of(event).removesuffix("-1"), set()).add(event["call"])
    mixed = [event_id for event_id, found in calls.items() if len(found) > 1]
    assert not mixed, f"{len(mixed)} events are of several calls"


def kill_one(server: ServerProcess, victim: str, chance: random.Random) -> bool:
    """Kill the delivery process or one worker; False if the server has no such process."""
    found = [pid for name, pid in pids(server).items() if name.startswith(victim)]
    # Only this server's own: the log goes on over all rounds.
    found = [pid for pid in found if pid != server.pid and parent_of(pid) == server.pid]
    if not found:
        return False
    os.kill(chance.choice(found), signal.SIGKILL)
    return True


async def load_until(load: Load, server: ServerProcess, count: int) -> None:
    """Wait until *count* more events are acknowledged, while the server answers."""
    target = len(load.acknowledged) + count

    def is_there() -> bool:
        assert server.exit_code is None, server.stderr[-4_000:]
        return len(load.acknowledged) >= target

    await until(is_there)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--transform", action="store_true", help="make two events of each")
    options, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as directory:
        done = asyncio.run(
            run(
                Path(directory),
                rounds=options.rounds,
                seed=options.seed,
                flags=tuple(flags),
                is_transformed=options.transform,
            )
        )
    counts = ", ".join(f"{name} {count}" for name, count in sorted(done.items()))
    report = f"seed {options.seed}, rounds {options.rounds}: {counts}; none lost, none doubled"
    print(report)  # noqa: T201 - a command prints.
    return 0


if __name__ == "__main__":
    sys.exit(main())
