"""The configured sinks that a command sends to, each opened when it is first needed."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TextIO

from segsrv.commands.sending import Sender
from segsrv.delivery.transforming import MADE_PARTS_MAX
from segsrv.errors import SettingsError
from segsrv.settings import Settings, SinkConfig
from segsrv.sinks import registry
from segsrv.sinks.stdout.sink import StdoutSink
from segsrv.transform.configured import hello_of
from segsrv.transform.process import Child
from segsrv.transform.transformer import Transformer


class Targets:
    """Belongs to one event loop, but is made outside of it; `close` gives up what was opened.

    Raises:
        SettingsError: They are wrong, or a secret can't be read.

    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._transformers: dict[str, Transformer | None] = {}
        self._built = {built.name: built for built in registry.build(settings, is_once=True)}
        self._open: dict[str, Sender] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._built

    def limits(self, name: str) -> SinkConfig:
        """Return how much the sink *name* takes at once, and what."""
        return self._built[name].config

    def check(self, flag: str, name: str) -> None:
        """Make sure that there is a sink called *name*.

        Raises:
            SettingsError: There is none.

        """
        if name not in self:
            known = ", ".join(self._built)
            raise SettingsError(f"{flag}={name}: there is no such sink, expected one of {known}")

    async def sender(self, name: str) -> Sender:
        """Return what sends to the sink *name*, open.

        Raises:
            SinkUnavailable: It can't be opened.
            SinkMisconfigured: It can't as it is configured.

        """
        if name not in self._open:
            built = self._built[name]
            sender = Sender(name, built.sink, timeout_s=built.config.send_timeout_s)
            self._open[name] = sender
            await sender.open()
        return self._open[name]

    def transformer(self, name: str) -> Transformer | None:
        """Return what has events transformed on their way to the sink *name*, if anything has."""
        if name not in self._transformers:
            config = self._built[name].config
            hello = hello_of(self._settings, config)
            self._transformers[name] = None
            if hello.has_functions:
                self._transformers[name] = Transformer(
                    name,
                    hello,
                    timeout_s=self._settings.transform_timeout_s,
                    made_bytes_max=MADE_PARTS_MAX * config.batch_bytes_max,
                    retry=_once,
                )
        return self._transformers[name]

    @property
    def report_to(self) -> TextIO:
        """Where a command says what it did: not between events on the standard output."""
        is_taken = any(isinstance(sender.sink, StdoutSink) for sender in self._open.values())
        return sys.stderr if is_taken else sys.stdout

    async def close(self) -> None:
        for sender in self._open.values():
            await sender.sink.close()
        for transformer in self._transformers.values():
            if transformer is not None:
                await transformer.close()


async def _once(attempt: Callable[[], Awaitable[Child]]) -> Child:
    return await attempt()
