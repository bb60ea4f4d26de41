"""What a scrape asks the system for: this process, and the bytes of dead letters on the disk."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import ProcessCollector

from segsrv.journal.dead_letters import DeadLetters
from segsrv.ops.family import Family, Labels, counter, gauge

logger = logging.getLogger(__name__)

LOOK_S_MAX = 0.3
"""So long the system is waited for; of a disk that hangs, what was found last is told."""

Letters = Callable[[], Mapping[str, DeadLetters]]
"""Returns the files of letters by the sink that refused; with an empty name, those set aside."""


class ProcessFigures:
    """Figures that need system calls; `look` finds them in a thread, `families` tells them."""

    def __init__(self, letters: Letters) -> None:
        self._letters = letters
        self._collector = ProcessCollector(registry=None)
        self._process: list[Family] = []
        self._letter_bytes: Mapping[str, int] = {}
        self._looking: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Find all again, however often it is called one at a time."""
        if self._looking is None:
            look = asyncio.to_thread(self._look, dict(self._letters()))
            self._looking = asyncio.create_task(look, name="segsrv-look")
            self._looking.add_done_callback(self._looked)
        await asyncio.wait([self._looking], timeout=LOOK_S_MAX)

    def families(self) -> Iterator[Family]:
        """Return what was found last."""
        from segsrv import __version__  # noqa: PLC0415 - the package imports this module.

        labels = {"version": __version__, "python": platform.python_version()}
        yield gauge("build_info", "Which segsrv and Python run; always 1.", [(labels, 1)])
        yield from self._process
        yield counter(
            "dead_letters",
            "Dead letters written: batch items set aside, and what a sink refused.",
            ((_by(sink), letters.letters) for sink, letters in self._letters().items()),
        )
        yield gauge(
            "dead_letter_bytes",
            "Bytes of dead letters on the disk.",
            ((_by(sink), held_bytes) for sink, held_bytes in self._letter_bytes.items()),
        )

    def _look(self, letters: Mapping[str, DeadLetters]) -> None:
        self._process = [
            (
                metric.name,
                metric.type,
                f"{metric.documentation.rstrip('.')}.",
                [(found.name[len(metric.name) :], {}, found.value) for found in metric.samples],
            )
            for metric in self._collector.collect()
        ]
        self._letter_bytes = {sink: files.held_bytes() for sink, files in letters.items()}

    def _looked(self, looking: asyncio.Task[None]) -> None:
        self._looking = None
        if not looking.cancelled() and (error := looking.exception()) is not None:
            logger.debug("metrics: the system can't be asked: %s", error)


def _by(sink: str) -> Labels:
    return {"sink": sink} if sink else {}
