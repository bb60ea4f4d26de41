"""The one protocol of all sinks."""

from __future__ import annotations

from typing import Any, Protocol

from segsrv.journal.log import Batch

Placement = dict[str, Any]
"""What a sink needs to send the same batch again without a second effect; JSON, kept on disk."""


class Sink(Protocol):
    """Takes batches of NDJSON lines, one at a time and in order.

    The shipper calls `plan`, puts what it returns on stable storage with the batch's range, and
    then calls `send` until it succeeds. After a crash it calls `send` again with the same range and
    the same placement, so a sink that is idempotent for a placement stores every event once.
    """

    async def check(self) -> None:
        """Learn whether the sink could be opened, changing nothing; `segsrv check` asks.

        Raises:
            SinkUnavailable: It could not; the text says why.

        """

    async def open(self) -> None:
        """Get ready; called once, before the first `plan`.

        Raises:
            SinkUnavailable: Not now; it is called again later.

        """

    async def plan(self, batch: Batch, last: Placement) -> Placement:
        """Say where *batch* will go, given the placement of the batch before it ({} for none)."""

    async def send(self, batch: Batch, placement: Placement) -> None:
        """Deliver *batch*; when this returns, the events are safe in the sink.

        Raises:
            SinkUnavailable: Not now; it is called again with the same arguments.
            SinkRejected: Never; the batch becomes dead letters.

        """

    async def close(self) -> None:
        """Give up what `open` took."""

    def describe(self) -> str:
        """Return one line for people, without secrets."""
