"""Calls to one sink: each with a time limit, and made again until it works."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from segsrv.errors import SinkClosed, SinkMisconfigured, SinkRejected, SinkUnavailable, Unavailable
from segsrv.sinks import registry

logger = logging.getLogger(__name__)

RETRY_S_MIN = 0.2
MISCONFIGURED_RETRY_S = 60.0

State = Literal["ok", "retrying", "misconfigured"]
T = TypeVar("T")


class Attempts:
    """Knows how a sink is by how its calls end; belongs to one event loop.

    A call that takes too long is cancelled and made again: what it did is not known, so sinks are
    given the same batch under the same id.
    """

    def __init__(self, name: str, *, timeout_s: float, retry_s_max: float) -> None:
        self.name = name
        self.state: State = "ok"
        self.message = ""
        self.failures = 0
        self.is_closed = False
        self._timeout_s = timeout_s
        self._retry_s_max = retry_s_max

    async def until_taken(
        self, attempt: Callable[[], Awaitable[T]], *, may_reject: bool = False
    ) -> T:
        """Return what *attempt* does when it works, for ever: with capped, growing waits.

        A sink that said how long to leave it alone is left alone for that, within the same cap.

        Raises:
            SinkRejected: *attempt* did and *may_reject*; trying again can't help.

        """
        delay_s = RETRY_S_MIN
        limit_s = self._timeout_s
        while True:
            asked_s = 0.0
            try:
                async with asyncio.timeout(limit_s):
                    result = await attempt()
            except SinkRejected as error:
                if may_reject:
                    # The sink answered.
                    self._works()
                    raise
                self._failed("retrying", str(error))
            except TimeoutError:
                self._failed("retrying", f"no answer within {limit_s:g} s")
            except SinkMisconfigured as error:
                self._failed("misconfigured", str(error))
                self.is_closed = isinstance(error, SinkClosed)
                delay_s = max(delay_s, min(MISCONFIGURED_RETRY_S, self._retry_s_max))
            except SinkUnavailable as error:
                self._failed("retrying", str(error))
                asked_s = min(error.retry_after_s, self._retry_s_max)
            except (Unavailable, OSError) as error:
                self._failed("retrying", str(error))
            except Exception as error:
                # A driver's surprise must not end delivery: the batch is in the journal.
                # Its text may hold a part of a URL, and so a password.
                logger.debug("sink: unexpected error sink=%s", self.name, exc_info=True)
                self._failed("retrying", f"unexpected {registry.fault(error)}")
            else:
                self._works()
                return result
            own_s = delay_s * random.uniform(0.5, 1.0)  # noqa: S311
            await asyncio.sleep(max(own_s, asked_s))
            delay_s = min(delay_s * 2, self._retry_s_max)

    def _works(self) -> None:
        if self.state != "ok":
            logger.warning("sink: works again sink=%s", self.name)
        self.state, self.message = "ok", ""
        self.is_closed = False

    def _failed(self, state: State, message: str) -> None:
        self.failures += 1
        self.is_closed = False
        if self.state != state:
            text = "unavailable, will retry" if state == "retrying" else "misconfigured"
            logger.error("sink: %s sink=%s error=%s", text, self.name, message)
        self.state, self.message = state, message
