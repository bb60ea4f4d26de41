"""The fault matrix: each sink with each fault, in mid-flight, and what must hold afterwards.

A fault is met when the sink was seen to work, lasts until segsrv counts the sink as down (or for as
long as it takes), and ends. While it lasts requests are answered and a healthy sink stays current.
In the end the sink has every acknowledged event, and what is exactly once has none twice.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.disks import fill
from tests.faults.crashes import pids
from tests.faults.disks import mount, unmount
from tests.faults.hung_disk import hung
from tests.services.proxy import Proxy
from tests.services.target import Target
from tests.services.targets import TARGETS, start, target_class
from tests.sinks.rig import MORE_EVENTS, Outcome, Rig

ROUNDS = 3
REFUSED_OF = 5_000
REQUEST_EVENTS = 500
JOURNAL_DISK_BYTES = 24 << 20
JOURNAL_ON_A_SMALL_DISK = ("--disk-free-bytes-min=0", "--journal-segment-bytes-max=65536")

SMALL_BATCHES = "--flush-bytes-max=1048576"
"""With them it shows that memory does not grow with what a sink lacks."""
IN_A_PROCESS = ("--delivery=process", SMALL_BATCHES)


@dataclass(frozen=True, slots=True)
class Fault:
    """A column of the matrix."""

    name: str
    title: str
    happen: Callable[[Rig], Awaitable[frozenset[str]]]
    """Runs the server and breaks something; returns the ids of events that had to be refused."""
    flags: tuple[str, ...] = ("--delivery=thread", SMALL_BATCHES)
    """Both ways of delivery have to pass; figures of a process come a second late."""
    is_on_sinks_disk: bool = False
    is_on_journals_disk: bool = False


def cells() -> list[tuple[str, str]]:
    """Return the cells that can exist, each by its sink and its fault."""
    return [(kind, fault) for kind in TARGETS for fault in FAULTS if not why_not(kind, fault)]


def why_not(kind: str, fault: str) -> str:
    """Say in one sentence why this cell can't exist; empty if it can."""
    target = target_class(kind)
    if fault == "refused_event" and target.why_none_refused:
        return target.why_none_refused
    if fault == "sink_disk_full" and target.disk_bytes is None:
        return target.why_no_full_disk
    return target.why_not.get(fault, "")


async def run_cell(
    fault: Fault,
    target: Target,
    proxy: Proxy | None,
    folder: Path,
    *,
    seed: int,
    disk: Path | None = None,
) -> Outcome:
    """Let *fault* happen to *target*, which is running, and return what became of it.

    *disk* is the small one that the target has its data on, where the fault is to fill it.
    """
    folder.mkdir()  # noqa: ASYNC240 - nothing else runs yet.
    if proxy is not None:
        await asyncio.to_thread(_mend, target, proxy)
    with contextlib.ExitStack() as stack:
        data_dir, flags = None, fault.flags
        if fault.is_on_journals_disk:
            data_dir = folder / "data"
            stack.enter_context(small_disk(data_dir, JOURNAL_DISK_BYTES))
            flags += JOURNAL_ON_A_SMALL_DISK
        rig = Rig(target, proxy, folder, seed=seed, data_dir=data_dir, disk=disk, flags=flags)
        refused = await fault.happen(rig)
        allowed = {200, 503} if fault.is_on_journals_disk else {200}
        assert set(rig.stream.answers) <= allowed, f"answers {rig.stream.answers}"
        return await asyncio.to_thread(rig.outcome, refused)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mount a disk in memory at *folder* for the length of a `with` block."""
    folder.mkdir(parents=True, exist_ok=True)
    mount(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    try:
        yield
    finally:
        unmount(folder)


async def segsrv_killed(rig: Rig) -> frozenset[str]:
    chance = random.Random(rig.seed)
    for number in range(ROUNDS):
        async with rig.serving():
            await rig.flowing()
            if rig.has_proxy:
                await _catch_a_batch(rig, chance, is_answered=bool(number % 2))
            await rig.acknowledged_more(chance.randrange(1, MORE_EVENTS))
            await rig.kill()
        if rig.has_proxy:
            rig.proxy.heal()
    async with rig.serving():
        await rig.flowing()
    return frozenset()


async def sink_killed(rig: Rig) -> frozenset[str]:
    chance = random.Random(rig.seed)
    async with rig.serving():
        for number in range(2):
            await rig.flowing()
            await _catch_a_batch(rig, chance, is_answered=bool(number % 2))
            await asyncio.to_thread(rig.target.service.kill)
            rig.proxy.heal()
            await rig.outage()
            await asyncio.to_thread(start, rig.target)
        await rig.flowing()
    return frozenset()


async def sink_hangs(rig: Rig) -> frozenset[str]:
    async with rig.serving():
        await rig.flowing()
        if rig.target.service is None:
            await _hang_a_file(rig)
        else:
            rig.target.service.pause()
            try:
                await rig.outage()
            finally:
                rig.target.service.resume()
        await rig.flowing()
    return frozenset()


async def refused_event(rig: Rig) -> frozenset[str]:
    event_id = rig.stream.ledger.new()
    async with rig.serving():
        await rig.flowing()
        # What comes now waits, and then goes out in large batches.
        rig.proxy.hang()
        events = rig.stream.events(REFUSED_OF - 1)
        place = random.Random(rig.seed).randrange(REFUSED_OF)
        events.insert(place, rig.target.refused_event(event_id))
        for first in range(0, REFUSED_OF, REQUEST_EVENTS):
            await rig.post(events[first : first + REQUEST_EVENTS])
        rig.proxy.heal()
        await rig.flowing()
    return frozenset({event_id})


async def network_cut(rig: Rig) -> frozenset[str]:
    chance = random.Random(rig.seed)
    async with rig.serving():
        for _round in range(ROUNDS):
            await rig.flowing()
            size = await rig.batch_bytes()
            rig.proxy.cut_after(chance.randrange(size // 8 + 1, size))
            await rig.seen(_is(lambda: rig.proxy.is_cut))
            await rig.outage()
            rig.proxy.heal()
        await rig.flowing()
    return frozenset()


async def answer_cut(rig: Rig) -> frozenset[str]:
    async with rig.serving():
        for _round in range(ROUNDS):
            await rig.flowing()
            size = await rig.batch_bytes()
            rig.proxy.drop_answers(client_bytes=size // 2, mark=rig.target.commit_mark)
            await rig.seen(_is(lambda: rig.proxy.is_cut))
            await rig.outage()
            rig.proxy.heal()
        await rig.flowing()
    return frozenset()


async def journal_disk_full(rig: Rig) -> frozenset[str]:
    disk, answers = rig.data_dir, rig.stream.answers
    async with rig.serving():
        await rig.flowing()
        for _round in range(2):
            await asyncio.to_thread(fill, disk)
            refused = answers[503]
            await rig.seen(_is(lambda refused=refused: answers[503] > refused + 5))
            _empty(disk)
            await rig.all_else_goes_on()
            await rig.flowing()
    assert answers[503], "no request was refused"
    return frozenset()


async def sink_disk_full(rig: Rig) -> frozenset[str]:
    disk = rig.disk

    async def is_down() -> bool:
        # Again and again: some make room by deleting what they no longer need.
        await asyncio.to_thread(fill, disk)
        return await rig.metric("up") == 0

    async with rig.serving():
        await rig.flowing()
        await rig.seen(is_down)
        await rig.all_else_goes_on()
        _empty(disk)
        service = rig.target.service
        if service is not None and not service.is_running:
            await asyncio.to_thread(start, rig.target)
        await asyncio.to_thread(rig.target.make_room)
        await rig.flowing()
    return frozenset()


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("segsrv_killed", "kill -9 of segsrv in mid-batch", segsrv_killed, IN_A_PROCESS),
        Fault("sink_killed", "sink killed and restarted", sink_killed),
        Fault("sink_hangs", "sink hangs", sink_hangs),
        Fault("refused_event", "sink refuses one event of 5,000", refused_event, IN_A_PROCESS[:1]),
        Fault("network_cut", "network cut in mid-batch", network_cut),
        Fault("answer_cut", "cut after the request, before the answer", answer_cut),
        Fault(
            "journal_disk_full", "journal's disk full", journal_disk_full, is_on_journals_disk=True
        ),
        Fault("sink_disk_full", "sink's disk full", sink_disk_full, is_on_sinks_disk=True),
    )
}


def _mend(target: Target, proxy: Proxy) -> None:
    """Put right what a test before this one may have left broken."""
    proxy.heal()
    target.service.resume()
    if not target.service.is_running:
        start(target)


async def _catch_a_batch(rig: Rig, chance: random.Random, *, is_answered: bool) -> None:
    """Let the network hang with a batch on its way: in mid-request, or before the answer."""
    size = await rig.batch_bytes()
    if is_answered:
        rig.proxy.hold_answers(client_bytes=size // 2, mark=rig.target.commit_mark)
    else:
        rig.proxy.hang_after(chance.randrange(size // 8 + 1, size))
    await rig.seen(_is(lambda: rig.proxy.is_hung))


async def _hang_a_file(rig: Rig) -> None:
    """Let the disk of the file sink hang, and no other."""
    log = rig.folder / "strace"
    paths = sorted(rig.target.root.glob("**/*.ndjson"))
    delivering = pids(rig.server)["worker=0"]
    tracing = hung(delivering, "fdatasync", log, paths=paths)
    await asyncio.to_thread(tracing.__enter__)
    try:
        await rig.outage()
    finally:
        await asyncio.to_thread(tracing.__exit__, None, None, None)


def _empty(disk: Path) -> None:
    for filler in disk.glob("filler-*"):
        filler.unlink()


def _is(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return condition()

    return holds
