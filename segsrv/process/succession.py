"""How a parent of several processes comes to be the next program: asked, rehearsed, executed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from segsrv.process.handover import REHEARSAL_S_MAX, Successor

logger = logging.getLogger(__name__)


class Succession:
    """Rehearses *successor* when it is asked for, and executes it."""

    def __init__(self, successor: Successor) -> None:
        self.rehearsal_pid = 0
        self.end_at_s: float | None = None
        """When the rehearsal has taken too long, by the monotonic clock; None without one."""
        self._successor = successor
        self._is_asked = False
        self._is_rehearsed = False

    def ask(self) -> None:
        """Ask for the next program; who asks during a rehearsal means what is there by now."""
        self._is_asked = True

    def is_due(self) -> bool:
        """Do what is to be done first; say whether the next program can be executed."""
        if self.end_at_s is not None and time.monotonic() >= self.end_at_s:
            logger.error("rehearsal of the next program does not end, killed")
            self.end_at_s = None
            os.kill(self.rehearsal_pid, signal.SIGKILL)
        if self._is_asked and not self.rehearsal_pid:
            self._is_asked = self._is_rehearsed = False
            logger.info("rolling restart is asked for, rehearsing")
            try:
                self.rehearsal_pid = self._successor.rehearse()
            except OSError as error:
                _refuse(str(error))
            else:
                self.end_at_s = time.monotonic() + REHEARSAL_S_MAX
        return self._is_rehearsed

    def rehearsed(self, status: int) -> None:
        """Take note that the rehearsal has ended."""
        self.rehearsal_pid = 0
        self.end_at_s = None
        self._is_rehearsed = status == 0 and not self._is_asked
        if status != 0:
            _refuse(f"the rehearsal ended with {status}")

    def keep(self, files: Mapping[str, int]) -> None:
        """Leave these open for the next program, too."""
        self._successor.files |= files

    def execute(self, children: Mapping[str, dict[str, Any]]) -> None:
        """Become the next program; return only if that is impossible."""
        self._is_rehearsed = False
        try:
            self._successor.execute(children)
        except OSError as error:
            _refuse(str(error))

    def give_up(self) -> None:
        """End the rehearsal: the server stops."""
        self._is_asked = self._is_rehearsed = False
        if self.rehearsal_pid and self.end_at_s is not None:
            self.end_at_s = None
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.rehearsal_pid, signal.SIGKILL)


def _refuse(why: str) -> None:
    logger.error("no rolling restart, the server goes on as it is: %s", why)
