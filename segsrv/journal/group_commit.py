"""Group commit: requests that arrive while a commit runs share the next one.

The event loop never waits on a disk. One thread owns the log and runs one commit at a time. When it
ends, all that queued up meanwhile goes down as one frame, with one sync for all its requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from segsrv.errors import (
    BadRequest,
    JournalFault,
    JournalFull,
    JournalSlow,
    ShuttingDown,
    Unavailable,
)
from segsrv.journal import facts
from segsrv.journal.dead_letters import DeadLetters
from segsrv.journal.log import SegmentLog

logger = logging.getLogger(__name__)

GROUP_BYTES_MAX = 16 << 20
PROBE_INTERVAL_S = 1.0
RELEASED_FILES_MAX = 8
SLOW_S = 0.5
"""A disk that takes longer may hang, and who asks whether events are taken should know."""
FREE_SHARE = 0.05
"""Of a limit that was reached so much must be free before the journal counts as ready again."""
COMMIT_SECONDS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(slots=True)
class Group:
    """What one commit writes, and who waits for it."""

    lines: list[bytes] = field(default_factory=list)
    runs: list[bytes] = field(default_factory=list)
    dead_letters: list[bytes] = field(default_factory=list)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    events: int = 0
    size: int = 0


@dataclass(slots=True)
class CommitStats:
    """Plain counters; `seconds_counts` holds one count for each bound and one above all."""

    commits: int = 0
    events: int = 0
    failures: int = 0
    seconds_sum: float = 0.0
    seconds_counts: list[int] = field(
        default_factory=lambda: [0] * (len(COMMIT_SECONDS_BOUNDS) + 1)
    )

    def observe(self, seconds: float, events: int) -> None:
        self.commits += 1
        self.events += events
        self.seconds_sum += seconds
        index = sum(seconds > bound for bound in COMMIT_SECONDS_BOUNDS)
        self.seconds_counts[index] += 1


class _Limit:
    """A limit of bytes, and whether somebody was refused for it since there was room again."""

    def __init__(self, bytes_max: int, text: str) -> None:
        self._bytes_max = bytes_max
        self._text = text
        self._has_refused = False

    def check(self, used: int, size: int) -> None:
        """Raise JournalFull unless there is room for *size* bytes beside *used*."""
        self._look(used)
        if used + size > self._bytes_max:
            self._has_refused = self._has_refused or size > 0
            raise self._full(used)

    def check_free(self, used: int) -> None:
        """Raise JournalFull from the first refusal until FREE_SHARE is free again."""
        self._look(used)
        if self._has_refused:
            full = self._full(used)
            raise JournalFull(f"{full}; events were refused, and {FREE_SHARE:.0%} is not free yet")

    def _look(self, used: int) -> None:
        if used <= self._bytes_max * (1 - FREE_SHARE):
            self._has_refused = False

    def _full(self, used: int) -> JournalFull:
        return JournalFull(f"{self._text.format(used)}, the limit is {self._bytes_max}")


class GroupCommit:
    """Queues events in bounded memory and commits them in groups; belongs to one event loop.

    `on_commit` is called on the loop after each commit that the log took. `refusal` says why no
    event may be taken for a reason from outside, such as a sink that lags; None if there is none.
    """

    def __init__(
        self,
        log: SegmentLog,
        dead_letters: DeadLetters,
        *,
        pending_bytes_max: int,
        journal_bytes_max: int,
        waits_for_disk: bool,
    ) -> None:
        self.log = log
        self.stats = CommitStats()
        self.fault: Unavailable | None = None
        self.on_commit: Callable[[], None] = lambda: None
        self.refusal: Callable[[], str | None] = lambda: None
        self._dead_letters = dead_letters
        self._pending_bytes_max = pending_bytes_max
        self._journal_bytes_max = journal_bytes_max
        self._memory = _Limit(pending_bytes_max, "{} bytes wait for a commit")
        self._disk = _Limit(journal_bytes_max, "the journal holds {} undelivered bytes")
        self._waits_for_disk = waits_for_disk
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segsrv-journal")
        self._queue: list[Group] = []
        self._queued_bytes = 0
        self._delivered = 0
        self._running: Group | None = None
        self._running_since_s = 0.0
        self._looking: asyncio.Future[None] | None = None
        self._looking_since_s = 0.0
        self._is_scheduled = False
        self._is_closed = False
        self._idle: asyncio.Future[None] | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        self._is_probing = False

    @property
    def pending_bytes(self) -> int:
        """Bytes in memory that are not committed yet."""
        return self._queued_bytes + (self._running.size if self._running else 0)

    @property
    def held_bytes(self) -> int:
        """Bytes that the journal's files hold, delivered or not."""
        return self.log.end - self.log.first

    @property
    def undelivered_bytes(self) -> int:
        """Bytes that a sink still has to get; only these count against the limit.

        The newest file is never deleted, so counting files would refuse events for good where the
        limit is smaller than a file.
        """
        return self.log.end - max(self.log.first, self._delivered)

    def check(self) -> None:
        """Raise what keeps the journal from taking events now; `/ready` asks this.

        It is stricter than what requests meet: from the first that was refused for want of room it
        says so until a good deal is free again, and it takes a disk that is very slow for hung.
        """
        if self._is_closed:
            raise ShuttingDown("the server is shutting down")
        if self.fault is not None:
            # Raised again at each call: without this its traceback would grow for as long.
            raise self.fault.with_traceback(None)
        slow_s = self._slow_s()
        if slow_s >= SLOW_S:
            raise JournalSlow(f"the journal's disk has not answered for {slow_s:.1f} s")
        self.check_room(0)
        pending = self.pending_bytes
        self._memory.check_free(pending)
        self._disk.check_free(self.undelivered_bytes + pending)

    def check_room(self, size: int) -> None:
        """Raise JournalFull unless there is room for *size* bytes in memory and in the journal."""
        reason = self.refusal()
        if reason is not None:
            raise JournalFull(reason)
        pending = self.pending_bytes
        self._memory.check(pending, size)
        self._disk.check(self.undelivered_bytes + pending, size)

    async def look(self) -> None:
        """Learn of a full disk where no commit would tell: before the first, and between them.

        It waits for a disk that hangs no longer than it takes to call it that, and however often it
        is called, the disk is asked once at a time.
        """
        if self._is_closed or self.fault is not None or self._slow_s() >= SLOW_S:
            return
        if self._looking is None:
            self._looking_since_s = time.monotonic()
            self._looking = self._loop.run_in_executor(self._thread, self.log.check_space)
            self._looking.add_done_callback(self._looked)
        # Not a moment too early for `check` to see it.
        await asyncio.wait([self._looking], timeout=SLOW_S + 0.05)

    def _looked(self, done: asyncio.Future[None]) -> None:
        self._looking = None
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, Unavailable):
            self._take_no_more(error)
        elif error is not None:
            logger.error("journal: its disk can't be asked", exc_info=error)

    def _slow_s(self) -> float:
        """Return for how long the journal's thread has been at what it does now."""
        now_s = time.monotonic()
        commit_s = now_s - self._running_since_s if self._running is not None else 0.0
        look_s = now_s - self._looking_since_s if self._looking is not None else 0.0
        return max(commit_s, look_s)

    def submit(
        self,
        lines: list[bytes],
        dead_letters: list[bytes],
        run: bytes | None,
        done: Callable[[Unavailable | None], None],
    ) -> None:
        waiter = self._submit(lines, dead_letters, run)
        if waiter is None:
            done(None)
        else:
            waiter.add_done_callback(lambda end: done(end.exception()))  # type: ignore[arg-type]

    async def store(
        self, lines: list[bytes], dead_letters: list[bytes], run: bytes | None = None
    ) -> None:
        waiter = self._submit(lines, dead_letters, run)
        if waiter is not None:
            await waiter

    def _submit(
        self, lines: list[bytes], dead_letters: list[bytes], run: bytes | None = None
    ) -> asyncio.Future[None] | None:
        """Queue events; return what to await before they may be answered with 200.

        *run* is what is known of *lines*, as `facts.encode` returns it; None where nothing is.
        None means that nothing is to be awaited (durability `memory`). The future fails with
        Unavailable if the commit did; nothing of the request is stored then.

        Raises:
            BadRequest: There is never room for so much.
            Unavailable: There is no room in memory or in the journal, or the server is stopping.

        """
        size = sum(map(len, lines)) + sum(map(len, dead_letters)) + len(run or b"")
        if self._is_closed:
            raise ShuttingDown("the server is shutting down")
        limit = min(self._pending_bytes_max, self._journal_bytes_max)
        if size > limit:
            # A 503 would have the client send it again for ever.
            raise BadRequest(
                f"the events take {size} bytes as stored, the limit is {limit}",
                code="batch_too_large",
            )
        self.check_room(size)
        if not self._queue or self._queue[-1].size + size > GROUP_BYTES_MAX:
            self._queue.append(Group())
        group = self._queue[-1]
        group.lines += lines
        if lines:
            group.runs.append(facts.encode_unknown(lines) if run is None else run)
        group.dead_letters += dead_letters
        group.events += len(lines)
        group.size += size
        self._queued_bytes += size
        if self._running is None and not self._is_scheduled:
            # Requests that are being handled in this turn of the loop still join the group.
            self._is_scheduled = True
            self._loop.call_soon(self._start)
        if not self._waits_for_disk:
            return None
        waiter = self._loop.create_future()
        group.waiters.append(waiter)
        return waiter

    async def release(self, position: int, *, retention_s: float) -> None:
        """Let the log delete what lies below *position*, in its own thread; callable on any loop.

        Files kept for *retention_s* give way before events are refused for want of room.
        """
        self._delivered = max(position, self._delivered)
        if self.held_bytes > self._journal_bytes_max:
            retention_s = 0.0
        is_more = True
        while is_more:
            # A few at a time: commits wait for the same thread.
            released = self._thread.submit(
                self.log.release, position, retention_s=retention_s, files_max=RELEASED_FILES_MAX
            )
            is_more = await asyncio.wrap_future(released)

    async def finish(self) -> None:
        """Refuse new events and commit what is queued."""
        self._is_closed = True
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        if self._queue and self._running is None and not self._is_scheduled:
            # Events that a failing disk refused before, durability `memory`: the last try.
            self._start()
        if self._queue or self._running is not None:
            self._idle = self._loop.create_future()
            await self._idle

    async def close(self) -> None:
        """Finish, stop the thread, and give up the log's files and lock."""
        await self.finish()
        await self._loop.run_in_executor(None, self._thread.shutdown)
        self.log.close()

    def _start(self) -> None:
        self._is_scheduled = False
        group = self._running = self._queue.pop(0)
        self._queued_bytes -= group.size
        started_s = time.perf_counter()
        self._running_since_s = time.monotonic()
        commit = self._loop.run_in_executor(self._thread, self._commit, group)
        commit.add_done_callback(lambda done: self._finish(group, done, started_s))

    def _commit(self, group: Group) -> None:
        if group.dead_letters:
            # Asked before: letters of a group that the log then refuses come again with its events.
            self.log.check_space(group.size)
            self._dead_letters.append(group.dead_letters)
            # A group that is kept for another try must not write them again.
            group.dead_letters = []
        if group.lines:
            self.log.append(b"".join(group.lines), group.events, facts.join(group.runs))

    def _finish(self, group: Group, done: asyncio.Future[None], started_s: float) -> None:
        self._running = None
        error = done.exception()
        if error is None:
            self.stats.observe(time.perf_counter() - started_s, group.events)
            self._recovered()
            for waiter in group.waiters:
                # A request whose client is gone may have been cancelled.
                if not waiter.done():
                    waiter.set_result(None)
        else:
            self._failed(group, error)
        if self._queue and (error is None or self._waits_for_disk or self._is_closed):
            self._start()
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        if error is None:
            self.on_commit()

    def _failed(self, group: Group, error: BaseException) -> None:
        if not isinstance(error, Unavailable):
            logger.error("journal: commit failed", exc_info=error)
            error = JournalFault(f"the commit failed: {type(error).__name__}")
        self.stats.failures += 1
        for waiter in group.waiters:
            if not waiter.done():
                waiter.set_exception(error)
        if not self._waits_for_disk:
            self._keep(group)
        self._take_no_more(error)

    def _take_no_more(self, error: Unavailable) -> None:
        """Say why from now on, and find out when it is over."""
        if self.fault is None:
            logger.error("journal: takes no events: %s", error)
        self.fault = error
        self._probe_later()

    def _probe_later(self) -> None:
        # One at a time: each that fails is followed by another.
        if self._probe_timer is None and not self._is_probing and not self._is_closed:
            self._probe_timer = self._loop.call_later(PROBE_INTERVAL_S, self._probe)

    def _keep(self, group: Group) -> None:
        """Hold on to events that were answered with 200 before they were written."""
        if self._is_closed:
            logger.error("journal: lost at shutdown, durability=memory events=%d", group.events)
            return
        self._queue.insert(0, group)
        self._queued_bytes += group.size

    def _recovered(self) -> None:
        if self.fault is not None:
            logger.warning("journal: takes events again")
            self.fault = None
        if self._probe_timer is not None:
            self._probe_timer.cancel()
            self._probe_timer = None

    def _probe(self) -> None:
        """Learn whether the disk works again: no client sends while `/ready` says 503."""
        self._probe_timer = None
        if self._is_closed:
            return
        self._is_probing = True
        probe = self._loop.run_in_executor(self._thread, self._try_disk)
        probe.add_done_callback(self._probed)

    def _try_disk(self) -> None:
        if isinstance(self.fault, JournalFull):
            # Files that are only kept for their retention give way. Nothing is delivered while
            # nothing is taken, so no `release` would come to find that out.
            self.log.release(self._delivered)
        self.log.probe()

    def _probed(self, done: asyncio.Future[None]) -> None:
        self._is_probing = False
        if done.exception() is None:
            self._recovered()
            if self._queue and self._running is None and not self._is_scheduled:
                self._start()
        elif self.fault is not None:
            self._probe_later()
