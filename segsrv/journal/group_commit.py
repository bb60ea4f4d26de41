"""Group commit: requests that arrive while a commit runs share the next one.

The event loop never waits on a disk. One commit runs at a time. When it ends, and the loop has had
a turn to answer and to hear of more, all that queued up meanwhile goes down as one frame, with one
sync for all its requests.

Who owns what:
- The thread of `LogThread` owns the log and the files of dead letters: commits, probes, questions
  for space, deletions and the closing are its jobs, and it alone sets `_delivered`. The loop, and
  who delivers, read of all that only what is replaced as a whole and never changed: `log.end`, the
  log's view of its segments, `_delivered`.
- The loop owns all else here. A group is the loop's until its commit is handed to the thread, and
  again when the loop is told of its end; in between the loop reads nothing of it but its size.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from segsrv.errors import (
    BadRequest,
    JournalFault,
    JournalFull,
    JournalSlow,
    ShuttingDown,
    Unavailable,
)
from segsrv.journal import facts, freeing
from segsrv.journal.commit_stats import CommitStats
from segsrv.journal.dead_letters import DeadLetters
from segsrv.journal.group import Done, Group
from segsrv.journal.limits import Limit
from segsrv.journal.log import SegmentLog
from segsrv.journal.log_thread import LogThread

logger = logging.getLogger(__name__)

GROUP_BYTES_MAX = 16 << 20
GATHER_S = 0.0005
"""Under full load, requests that come so soon after the first share its commit: a commit costs the
processor as much as several small requests. A loop with nothing to do begins one at once."""
PROBE_INTERVAL_S = 1.0
SLOW_S = 0.5
"""A disk that takes longer may hang, and who asks whether events are taken should know."""


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
        self.dead_letters = dead_letters
        self._pending_bytes_max = pending_bytes_max
        self._journal_bytes_max = journal_bytes_max
        self._request_bytes_max = min(pending_bytes_max, journal_bytes_max)
        self._memory = Limit(pending_bytes_max, "{} bytes wait for a commit")
        self._disk = Limit(journal_bytes_max, "the journal holds {} undelivered bytes")
        self._waits_for_disk = waits_for_disk
        self._loop = asyncio.get_running_loop()
        self._thread = LogThread("segsrv-journal")
        self._queue: list[Group] = []
        self._queued_bytes = 0
        self._delivered = 0
        self._running: Group | None = None
        self._running_since_s = 0.0
        self._looking: asyncio.Future[None] | None = None
        self._looking_since_s = 0.0
        self._is_scheduled = False
        # So much may be queued without another look at the limits.
        self._room_bytes = 0
        # How much was queued when the loop was last given a turn to bring more, and since when.
        self._gathered_bytes = 0
        self._gathering_since_s = 0.0
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
        first = self.log.first
        return self.log.end - first

    @property
    def undelivered_bytes(self) -> int:
        """Bytes that a sink still has to get; only these count against the limit.

        The newest file is never deleted, so counting files would refuse events for good where the
        limit is smaller than a file.
        """
        # Before the end, which may move on meanwhile.
        delivered = max(self.log.first, self._delivered)
        return self.log.end - delivered

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
        self._check_limits(0)
        pending = self.pending_bytes
        self._memory.check_free(pending)
        self._disk.check_free(self.undelivered_bytes + pending)

    def check_room(self, size: int) -> None:
        """Raise JournalFull unless there is room for *size* bytes in memory and in the journal."""
        reason = self.refusal()
        if reason is not None:
            raise JournalFull(reason)
        if self._queued_bytes + size > self._room_bytes:
            self._check_limits(size)

    def _check_limits(self, size: int) -> None:
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
            self._looking = self._thread.call(self.log.check_space)
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
        self, lines: list[bytes], dead_letters: list[bytes], run: bytes | None, done: Done
    ) -> None:
        """Queue events; *done* is told when they may be answered with 200, or why they may not.

        *run* is what is known of *lines*, as `facts.encode` returns it; None where nothing is.
        With durability `memory` it is told before this returns. Otherwise it is told Unavailable if
        the commit failed; nothing of the request is stored then.

        Raises:
            BadRequest: There is never room for so much.
            Unavailable: There is no room in memory or in the journal, or the server is stopping.

        """
        size = sum(map(len, (*lines, *dead_letters))) + len(run or b"")
        if self._is_closed:
            raise ShuttingDown("the server is shutting down")
        if size > self._request_bytes_max:
            # A 503 would have the client send it again for ever.
            raise BadRequest(
                f"the events take {size} bytes as stored, the limit is {self._request_bytes_max}",
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
        if self._running is None:
            # Requests that are being handled in this turn of the loop still join the group.
            self._start_soon()
        if self._waits_for_disk:
            group.waiting.append(done)
        else:
            done(None)

    async def store(
        self, lines: list[bytes], dead_letters: list[bytes], run: bytes | None = None
    ) -> None:
        """Do as `submit`, and wait until the events may be answered; raises what `done` is told."""
        stored: asyncio.Future[None] = self._loop.create_future()
        self.submit(lines, dead_letters, run, partial(_settle, stored))
        await stored

    async def release(self, position: int, *, retention_s: float) -> None:
        """Let the log delete what lies below *position*, in its own thread; callable on any loop.

        Files kept for *retention_s* give way before events are refused for want of room.
        """
        if self.held_bytes > self._journal_bytes_max:
            retention_s = 0.0
        while await freeing.elsewhere(self._thread, partial(self._release, position, retention_s)):
            pass

    def _release(self, position: int, retention_s: float, kept: freeing.Kept) -> bool:
        self._delivered = max(position, self._delivered)
        oldest = self.log.segments[: freeing.FILES_MAX]
        freeing.keep((segment for segment in oldest if segment.end <= position), kept)
        return self.log.release(position, retention_s=retention_s, files_max=freeing.FILES_MAX)

    async def finish(self) -> None:
        """Refuse new events and commit what is queued."""
        self._is_closed = True
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        if self._queue and self._running is None:
            # Events that a failing disk refused before, durability `memory`: the last try.
            self._start_soon()
        if self._queue or self._running is not None:
            self._idle = self._loop.create_future()
            await self._idle

    async def close(self) -> None:
        """Finish, give up the log's files and lock, and stop the thread."""
        await self.finish()
        await self._thread.close(self.log.close)

    def _start_soon(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        """Begin a commit as soon as a turn of the loop brings nothing more, or after GATHER_S."""
        if self._queued_bytes > self._gathered_bytes and not self._is_closed:
            now_s = time.monotonic()
            if not self._gathered_bytes:
                self._gathering_since_s = now_s
            if now_s - self._gathering_since_s < GATHER_S:
                self._gathered_bytes = self._queued_bytes
                self._loop.call_soon(self._start)
                return
        self._is_scheduled = False
        self._gathered_bytes = 0
        if self._running is not None or not self._queue:
            return
        group = self._running = self._queue.pop(0)
        self._queued_bytes -= group.size
        # Until the next commit begins, what is queued only grows, and all else only shrinks or
        # takes what is running now.
        self._room_bytes = min(
            self._memory.room(group.size), self._disk.room(self.undelivered_bytes + group.size)
        )
        self._running_since_s = time.monotonic()
        self._thread.run(partial(self._commit, group), self._loop, self._finish)

    def _commit(self, group: Group) -> None:
        if group.dead_letters:
            # Asked before: letters of a group that the log then refuses come again with its events.
            self.log.check_space(group.size)
            self.dead_letters.append(group.dead_letters)
            # A group that is kept for another try must not write them again.
            group.dead_letters = []
        if group.lines:
            self.log.append(b"".join(group.lines), group.events, facts.join(group.runs))

    def _finish(self, error: BaseException | None) -> None:
        group, self._running = self._running, None
        assert group is not None, "a commit that ended was running"
        if error is None:
            self.stats.observe(time.monotonic() - self._running_since_s, group.events)
            self._recovered()
            self._tell(group, None)
        else:
            self._failed(group, error)
        if self._queue and (error is None or self._waits_for_disk or self._is_closed):
            self._start_soon()
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        if error is None:
            self.on_commit()

    @staticmethod
    def _tell(group: Group, error: Unavailable | None) -> None:
        for done in group.waiting:
            try:
                done(error)
            except Exception:
                # The others wait too.
                logger.exception("journal: a request could not be told of its commit")

    def _failed(self, group: Group, error: BaseException) -> None:
        if not isinstance(error, Unavailable):
            logger.error("journal: commit failed", exc_info=error)
            error = JournalFault(f"the commit failed: {type(error).__name__}")
        self.stats.failures += 1
        self._take_no_more(error)
        if self._waits_for_disk:
            self._tell(group, error)
        else:
            self._keep(group)

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
        is_full = isinstance(self.fault, JournalFull)
        self._thread.run(partial(self._try_disk, is_full), self._loop, self._probed)

    def _try_disk(self, is_full: bool) -> None:  # noqa: FBT001
        if is_full:
            # Files that are only kept for their retention give way. Nothing is delivered while
            # nothing is taken, so no `release` would come to find that out.
            self.log.release(self._delivered)
        self.log.probe()

    def _probed(self, error: BaseException | None) -> None:
        self._is_probing = False
        if error is None:
            self._recovered()
            if self._queue and self._running is None:
                self._start_soon()
        elif self.fault is not None:
            self._probe_later()


def _settle(stored: asyncio.Future[None], error: Unavailable | None) -> None:
    if stored.done():
        # A request whose client is gone may have been cancelled.
        return
    if error is None:
        stored.set_result(None)
    else:
        stored.set_exception(error)
