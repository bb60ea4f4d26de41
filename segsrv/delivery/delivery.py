"""All sinks of a server and the journals that they are fed from."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segsrv.delivery import journals
from segsrv.delivery.attempts import Attempts
from segsrv.delivery.believing import stood_at
from segsrv.delivery.bundle import UNSAVED_BYTES_MAX, Filter, Limits
from segsrv.delivery.cursor import Cursor, CursorFile, Mark
from segsrv.delivery.dedup import DedupIndex
from segsrv.delivery.inheritance import Inheritance, inherit
from segsrv.delivery.judging import Judge
from segsrv.delivery.progress import Progress
from segsrv.delivery.rejects import Rejects
from segsrv.delivery.set_aside import SetAside
from segsrv.delivery.shipper import Shipper
from segsrv.delivery.source import Source
from segsrv.delivery.spool import Spool
from segsrv.delivery.transforming import MADE_PARTS_MAX, TIMEOUT_S, Transforming
from segsrv.errors import SinkClosed
from segsrv.journal.dead_letters import DeadLetters
from segsrv.settings import Key, Settings
from segsrv.sinks.registry import Built
from segsrv.transform.configured import hello_of
from segsrv.transform.transformer import Transformer

logger = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.25
RELEASE_S_MAX = 1.0
SET_ASIDE_AT = 0.8
"""The part of a journal's limit at which it stops waiting for a sink that allows that."""
SET_ASIDE_RETRY_S = 60.0
"""A try that fails takes the call in hand from the sink."""
UNSAVED_PARTS = 8
"""Of a journal's limit; it holds what neither of two saves covers, and new events."""
TAKE_AGAIN_AT = 0.95
"""The part of a sink's limit below which events are taken again."""


class Delivery:
    """Feeds every sink from *sources*, each at its own pace; belongs to one event loop.

    *owner* tells several deliveries of one data directory apart; one that has all journals has
    none. *guard* raises OSError when the data directory is no longer this server's.

    `refusal` says, for any thread to read, why events should be refused for a sink's sake, and
    `full_sink` is that sink's number, counted from 1. `on_waiting` is called when `is_waiting` may
    have changed, `on_closed` when no sink is left whose other end is there.
    """

    def __init__(
        self,
        settings: Settings,
        built: Sequence[Built],
        sources: Sequence[Source],
        *,
        owner: str = "",
        guard: Callable[[], None],
    ) -> None:
        self.built = list(built)
        self.sources = list(sources)
        self.refusal: str | None = None
        self.full_sink = 0
        self.on_waiting: Callable[[], None] = lambda: None
        self.on_closed: Callable[[], None] = lambda: None
        self._settings = settings
        self._owner = owner
        self._guard = guard
        self._file_mode = int(settings.file_mode, 8)
        self._release_due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._asides: dict[str, SetAside] = {}
        self._moves: dict[str, asyncio.Task[None]] = {}
        self.shippers = [self._shipper(built) for built in self.built]
        self.progress = {
            built.name: Progress(built.name, batch_bytes_max=built.config.batch_bytes_max)
            for built in self.built
        }

    async def start(self) -> None:
        """Begin to deliver."""
        for shipper in self.shippers:
            shipper.on_advance = self._release_due.set
            shipper.on_waiting = self.on_waiting
            shipper.start()
        self._tasks = [
            asyncio.create_task(self._watch_lags(), name="segsrv-lags"),
            asyncio.create_task(self._release(), name="segsrv-release"),
        ]

    async def stop(self, grace_s: float) -> None:
        """Deliver for at most *grace_s* more; not at all to sinks that are closed."""
        grace_s = 0 if self.is_closed else grace_s
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if moves := list(self._moves.values()):
            # What is set aside should not be delivered, too.
            await asyncio.wait(moves, timeout=grace_s)
            for move in moves:
                move.cancel()
            await asyncio.wait(moves)
        await asyncio.gather(*(shipper.stop(grace_s=grace_s) for shipper in self.shippers))
        if self._release_due.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RELEASE_S_MAX):
                    await self._release_all()
        for shipper in self.shippers:
            if shipper.lag_bytes:
                logger.warning(
                    "sink: not all delivered, the rest goes out at the next start sink=%s bytes=%d",
                    shipper.name,
                    shipper.lag_bytes,
                )

    @property
    def is_waiting(self) -> bool:
        """Whether a shipper sleeps until it is woken."""
        return any(shipper.is_waiting for shipper in self.shippers)

    @property
    def is_closed(self) -> bool:
        """Whether nobody reads what any of the sinks writes; see SinkClosed."""
        return all(shipper.attempts.is_closed for shipper in self.shippers)

    def closed_error(self) -> SinkClosed:
        """Return what a server ends with when `is_closed`."""
        reasons = ", ".join(shipper.message for shipper in self.shippers)
        return SinkClosed(f"{reasons}; the events that were not written stay in the journal")

    def wake(self) -> None:
        """Say that a journal has grown."""
        for shipper in self.shippers:
            if shipper.is_waiting:
                shipper.wake()

    async def _release(self) -> None:
        """Let the journals delete what every sink has, for ever; no sink waits for that."""
        while True:
            await self._release_due.wait()
            await self._release_all()

    async def _release_all(self) -> None:
        self._release_due.clear()
        for source in self.sources:
            if not source.id:
                continue
            try:
                await source.release(
                    min(shipper.standing.floor(source) for shipper in self.shippers)
                )
            except Exception:
                # What is delivered stays; the next batch of any sink tries again.
                logger.exception("journal: not released journal=%s", source.name)

    def report(self) -> list[dict[str, Any]]:
        """Return how each sink is, for people."""
        return [
            {
                "name": built.name,
                "state": shipper.state,
                "message": shipper.message,
                "lag_events": shipper.standing.lag_events,
                "lag_bytes": shipper.lag_bytes,
                "lag_bytes_max": built.config.lag_bytes_max,
                "lag_s": round(shipper.lag_s, 3),
                **self._progress_of(built.name),
            }
            for built, shipper in self._pairs()
        ]

    def _progress_of(self, name: str) -> dict[str, float | None]:
        progress = self.progress[name]
        eta_s = progress.eta_s
        return {
            "events_per_s": round(progress.events_per_s, 1),
            "eta_s": None if eta_s is None else round(eta_s, 1),
        }

    def set_aside_bytes(self) -> Mapping[str, tuple[int, int]]:
        """Return for each sink the bytes that are set aside, and those that were lost."""
        return {name: (aside.bytes, aside.lost_bytes) for name, aside in self._asides.items()}

    def _shipper(self, built: Built) -> Shipper:
        settings, config = self._settings, built.config
        path = journals.cursor_path(settings, built.cursor_name, self._owner)
        names = [source.name for source in self.sources]
        letters = DeadLetters(
            settings.data_dir / "dead-letter",
            prefix=f"sink-{path.stem}",
            bytes_max=settings.dead_letter_bytes_max,
            file_mode=self._file_mode,
        )
        if config.on_full == "set_aside":
            self._asides[built.name] = SetAside(
                settings.data_dir / "set-aside" / built.cursor_name,
                bytes_max=settings.set_aside_bytes_max,
                file_mode=self._file_mode,
            )
        aside = self._asides.get(built.name)

        def find(cursor: Cursor | None) -> Inheritance:
            inherited = inherit(path.parent, built.cursor_name, path, cursor, names)
            if aside is not None:
                aside.pass_over(inherited)
            return inherited

        transforming = self._transforming(built, path.stem, letters)
        return Shipper(
            built.name,
            built.sink,
            self.sources,
            cursor=CursorFile(path, self._file_mode),
            rejects=Rejects(built.name, letters),
            attempts=Attempts(
                built.name, timeout_s=config.send_timeout_s, retry_s_max=config.retry_s_max
            ),
            limits=Limits(
                config.batch_events_max,
                config.batch_bytes_max,
                config.batch_interval_s,
                min(UNSAVED_BYTES_MAX, settings.journal_bytes_max // UNSAVED_PARTS),
            ),
            picks=Filter.of(config, built.name, settings.all_keys()),
            judge=self._judge(path.stem),
            transforming=transforming,
            spool=self._spool(path.stem),
            inherit=find,
            is_ours=lambda name, *moment: stood_at(self._directory(name), *moment),
            guard=self._guard,
        )

    def use_functions(self, settings: Settings) -> None:
        """Have events go through the functions of other settings, as soon as they are loaded.

        Where one can't be, the old ones stay, and the log says so. A sink that has a writer and no
        functions yet gets its first ones at the next start.
        """
        for built, shipper in self._pairs():
            hello = hello_of(settings, built.config)
            if shipper.transforming is not None:
                shipper.transforming.use(hello)
            elif hello.has_functions:
                logger.warning(
                    "transform: takes effect at the next start, there was none sink=%s", built.name
                )

    def _spool(self, name: str) -> Spool:
        return Spool(self._settings.data_dir / "state" / "transformed", name, self._file_mode)

    def _transforming(self, built: Built, name: str, letters: DeadLetters) -> Transforming | None:
        settings, config = self._settings, built.config
        hello = hello_of(settings, config)
        if not hello.has_functions and hasattr(built.sink, "writer"):
            # It has a cheaper way, which takes no functions.
            return None
        attempts = Attempts(
            f"the transformations of {built.name}",
            timeout_s=TIMEOUT_S,
            retry_s_max=config.retry_s_max,
        )
        transformer = Transformer(
            built.name,
            hello,
            timeout_s=settings.transform_timeout_s,
            made_bytes_max=MADE_PARTS_MAX * config.batch_bytes_max,
            retry=attempts.until_taken,
        )
        return Transforming(transformer, self._spool(name), letters, attempts)

    def use_keys(self, keys: Sequence[Key]) -> None:
        """Let the sinks get what *keys* say, through the functions that they name.

        What is being sent goes on as it was. It may be called from another thread.
        """
        for built, shipper in self._pairs():
            shipper.pick_by(Filter.of(built.config, built.name, keys))
        self.use_functions(replace(self._settings, write_key=(), keys=tuple(keys)))

    def _judge(self, name: str) -> Judge | None:
        settings = self._settings
        if not settings.dedup_window_s:
            return None
        return Judge(
            settings.dedup_ids_max,
            lambda: DedupIndex(
                settings.data_dir / "state" / "dedup" / name,
                window_s=settings.dedup_window_s,
                ids_max=settings.dedup_ids_max,
                file_mode=self._file_mode,
                disk_free_bytes_min=settings.disk_free_bytes_min,
            ),
        )

    async def _watch_lags(self) -> None:
        """Look for sinks that lag too far, for as long as this runs."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            self._note_progress()
            if self.is_closed:
                self.on_closed()
            refusal, full_sink = None, 0
            for number, (built, shipper) in enumerate(self._pairs(), 1):
                if built.name not in self._asides:
                    reason = self._reason(built, shipper)
                    if reason is not None:
                        refusal, full_sink = reason, number
                elif built.name not in self._moves or self._moves[built.name].done():
                    # Not awaited: a disk that refuses or hangs must not keep this from the others.
                    self._moves[built.name] = asyncio.create_task(
                        self._try_to_set_aside(built, shipper), name=f"segsrv-aside-{built.name}"
                    )
            self.refusal, self.full_sink = refusal, full_sink

    def _note_progress(self) -> None:
        for shipper in self.shippers:
            # Before it knows where it stands, all that is kept seems to be lacking.
            if shipper.standing.is_known:
                self.progress[shipper.name].note(
                    time.monotonic(),
                    events=shipper.stats.events,
                    lag_bytes=shipper.lag_bytes,
                    is_working=not shipper.is_failing,
                )

    def _pairs(self) -> Iterator[tuple[Built, Shipper]]:
        return zip(self.built, self.shippers, strict=True)

    def _reason(self, built: Built, shipper: Shipper) -> str | None:
        lag, limit = shipper.lag_bytes, built.config.lag_bytes_max
        # Before it knows where it stands, all that is kept seems to be lacking.
        if not shipper.standing.is_known or lag <= limit * (TAKE_AGAIN_AT if self.refusal else 1):
            return None
        return f"the sink {built.name} lacks {lag} bytes, the limit is lag_bytes_max={limit}"

    async def _try_to_set_aside(self, built: Built, shipper: Shipper) -> None:
        try:
            await self._set_aside_if_due(built, shipper)
        except Exception as error:
            text = "sink: can't be set aside, will try again sink=%s error=%s"
            fault = None if isinstance(error, OSError) else error
            logger.error(text, built.name, error, exc_info=fault)  # noqa: TRY400
            await asyncio.sleep(SET_ASIDE_RETRY_S)

    async def _set_aside_if_due(self, built: Built, shipper: Shipper) -> None:
        aside = self._asides[built.name]
        await asyncio.to_thread(aside.recount)
        limit = int(self._settings.journal_bytes_max * SET_ASIDE_AT)
        lags = {
            source.name: source.end - shipper.standing.mark(source).position
            for source in self.sources
            if source.id
        }
        total_max = built.config.lag_bytes_max or limit * len(lags)
        if sum(lags.values()) <= total_max and max(lags.values(), default=0) <= limit:
            return
        ends = {source.name: (source.id, source.end) for source in self.sources if source.id}
        keep_bytes = min(total_max // max(len(lags), 1), limit) // 2

        def move(marks: Mapping[str, Mark]) -> dict[str, Mark]:
            journals = {
                name: (self._directory(name), journal_id, marks[name], end)
                for name, (journal_id, end) in ends.items()
            }
            return aside.move(journals, keep_bytes=keep_bytes)

        await shipper.set_aside(move)

    def _directory(self, name: str) -> Path:
        return journals.journal_dir(self._settings) / name
