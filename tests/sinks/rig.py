"""A real server between a stream of events and a sink that breaks, and a healthy sink beside."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import orjson

from tests.faults.crashes import kill_all, pids
from tests.server_process import ServerProcess
from tests.services.proxy import Proxy
from tests.services.target import Target
from tests.sinks.stream import FileTail, Stream
from tests.site import Site, id_of

HEALTHY = "healthy"
MORE_EVENTS = 300
"""So many events show that something goes on."""
DEADLINE_S = 90.0
POLL_INTERVAL_S = 0.05
GROWTH_BYTES_MAX = 96 << 20
"""What a process of segsrv may take more while a sink is broken than before."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a cell ended; `copies` are events that are in the sink once too often, `refused` those
    that became dead letters, and `growth_mib` is the most that a process of segsrv grew.
    """

    acknowledged: int
    copies: int
    refused: int
    growth_mib: int


class Rig:
    """Runs `segsrv serve` with *target*'s sink behind *proxy*, and a file sink that is healthy.

    Both outlive the server, which may be killed and started again on the same data.
    """

    def __init__(
        self,
        target: Target,
        proxy: Proxy | None,
        folder: Path,
        *,
        seed: int,
        rate: float = 2_000,
        data_dir: Path | None = None,
        disk: Path | None = None,
        flags: tuple[str, ...] = (),
    ) -> None:
        self.target = target
        self.folder = folder
        self.data_dir = data_dir or folder / "data"
        self.disk = disk
        self.seed = seed
        self.stream = Stream(rate=rate, seed=seed)
        self.healthy = FileTail(folder / HEALTHY, self.stream.ledger)
        self._proxy = proxy
        self._flags = flags
        self._server: ServerProcess | None = None
        self._rss_before: dict[str, int] = {}
        self._growth_bytes = 0
        self._batch_bytes = 0

    @property
    def proxy(self) -> Proxy:
        assert self._proxy is not None, f"{self.target.kind} has no proxy"
        return self._proxy

    @property
    def has_proxy(self) -> bool:
        return self._proxy is not None

    @property
    def server(self) -> ServerProcess:
        assert self._server is not None, "the server is not running"
        return self._server

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run the server and the stream; at the end, unless it was killed, all is delivered."""
        await self._start()
        try:
            async with self.stream.running(lambda: self.server.port):
                yield
            if self.server.exit_code is None:
                await self.seen(self._nothing_left)
                assert await asyncio.to_thread(self.server.stop) == 0, self.server.stderr[-4_000:]
        finally:
            if self.server.exit_code is None:
                await self.kill()

    async def kill(self) -> None:
        """End the server and its processes with SIGKILL."""
        await asyncio.to_thread(kill_all, self.server)

    async def flowing(self) -> None:
        """Wait until the sink takes batches."""
        before = await self.metric("events")

        async def is_there() -> bool:
            nonlocal before
            events = await self.metric("events")
            # For a second after a restart, the figures may be those of the process that was killed.
            before = min(before, events)
            return events >= before + MORE_EVENTS

        await self.seen(is_there)
        # What a process is that has done all of its work once.
        self._rss_before = self._rss_before or self.rss()

    async def outage(self) -> None:
        """Wait until the sink counts as down, and check that nothing else suffers."""

        async def is_down() -> bool:
            return await self.metric("up") == 0

        await self.seen(is_down)
        await self.all_else_goes_on()

    async def all_else_goes_on(self) -> None:
        """Wait until more events are acknowledged, and the healthy sink has all of them."""
        await self.acknowledged_more(MORE_EVENTS)
        known = self.stream.ledger.numbers()

        async def are_there() -> bool:
            await asyncio.to_thread(self.healthy.look)
            return self.healthy.has(known)

        await self.seen(are_there)

    async def acknowledged_more(self, count: int) -> None:
        target = self.stream.ledger.acknowledged + count

        async def are_there() -> bool:
            return self.stream.ledger.acknowledged >= target

        await self.seen(are_there)

    async def post(self, events: list[dict]) -> None:
        """Send *events* in one request, which has to be taken."""
        answer = await asyncio.to_thread(Site(self.server).post, {"batch": events})
        assert answer.status == 200, answer.body
        self.stream.ledger.acknowledge(event["messageId"] for event in events)

    async def batch_bytes(self) -> int:
        """Return about how many bytes a batch takes to the sink, by the first ones."""
        if not self._batch_bytes:
            self.proxy.heal()
            before = await self.metric("batches")
            await self.flowing()
            batches = max(await self.metric("batches") - before, 1)
            self._batch_bytes = max(int(self.proxy.client_bytes / batches), 2)
        return self._batch_bytes

    async def metric(self, name: str) -> float:
        """Return a figure of the sink, such as `up`."""
        full = f"segsrv_sink_{name}" + ("" if name in {"up", "lag_bytes"} else "_total")
        site = Site(self.server)
        try:
            return await asyncio.to_thread(site.metric, full, sink=self.target.kind)
        except OSError:
            # Refused or cut off where the server has no room or is just being killed.
            return -1.0

    async def seen(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait until *condition* holds, with an eye on the server."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not await condition():
                    code = self.server.exit_code
                    assert code is None, f"the server ended with {code}\n{self._tail()}"
                    self._look_at_memory()
                    await asyncio.sleep(POLL_INTERVAL_S)
        except TimeoutError:
            raise AssertionError(
                f"{condition.__qualname__} did not come true within {DEADLINE_S} s\n{self._tail()}"
            ) from None

    def outcome(self, refused: frozenset[str] = frozenset()) -> Outcome:
        """Check what arrived where, once all is delivered, and return the figures.

        *refused* are the events that the sink had to refuse.

        Raises:
            AssertionError: An acknowledged event is missing or, where that must not be, there
                twice, or a process grew.

        """
        ledger = self.stream.ledger
        letters = dead_letter_ids(self.data_dir)
        assert letters == refused, f"{len(letters)} dead letters, {len(refused)} were due"
        counts = ledger.copies(self.target.ids())
        refused_numbers = {ledger.number(event_id) for event_id in refused}
        assert not any(counts[number] for number in refused_numbers), "a refused one is stored"
        acknowledged = ledger.numbers()
        assert acknowledged, "no event was acknowledged"
        lost = sum(not counts[n] for n in acknowledged if n not in refused_numbers)
        assert not lost, f"{lost} of {len(acknowledged)} acknowledged events are lost"
        copies = sum(count - 1 for count in counts if count)
        if self.target.is_exactly_once:
            assert not copies, f"{copies} events are stored once too often"
        self.healthy.look(is_timed=False)
        assert self.healthy.has(acknowledged), "the healthy sink lacks acknowledged events"
        assert max(self.healthy.counts) == 1, "the healthy sink has events twice"
        growth = self._growth_bytes
        assert growth <= GROWTH_BYTES_MAX, f"a process grew by {growth // _MIB} MiB"
        return Outcome(len(acknowledged), copies, len(letters), growth // _MIB)

    async def _start(self) -> None:
        config = self.folder / "segsrv.toml"
        port = self._proxy.port if self._proxy is not None else 0
        healthy = f'[[sinks]]\nname = "{HEALTHY}"\nurl = "file:{self.folder / HEALTHY}"\n'
        config.write_text(healthy + self.target.table(port))
        self._rss_before = {}
        self._server = ServerProcess(
            self.data_dir,
            *(f"--config={config}", "--flush-interval-s=0.05"),
            *self._flags,
            environ=self.target.environ(),
        )
        await asyncio.to_thread(self._server.start)

    async def _nothing_left(self) -> bool:
        site = Site(self.server)
        try:
            return not await asyncio.to_thread(site.metric, "segsrv_sink_lag_bytes")
        except OSError:
            return False

    def rss(self) -> dict[str, int]:
        found = {}
        for name, pid in pids(self.server).items():
            with contextlib.suppress(OSError, IndexError):
                pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
                found[name] = int(pages) * 4096
        return found

    def _look_at_memory(self) -> None:
        for name, rss in self.rss().items():
            if name in self._rss_before:
                grown = rss - self._rss_before[name]
                self._growth_bytes = max(self._growth_bytes, grown)

    def _tail(self) -> str:
        return self.server.stderr[-4_000:]


def dead_letter_ids(data_dir: Path) -> set[str]:
    """Return the ids of the events that were set aside."""
    letters = [
        orjson.loads(line)
        for path in sorted((data_dir / "dead-letter").glob("*.ndjson"))
        for line in path.read_bytes().splitlines()
    ]
    return {id_of(letter["item"]) for letter in letters}
