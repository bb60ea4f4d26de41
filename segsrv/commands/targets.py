"""The configured sinks that a command sends to, each opened when it is first needed."""

from __future__ import annotations

from segsrv.commands.sending import Sender
from segsrv.errors import SettingsError
from segsrv.settings import Settings
from segsrv.sinks import make_sink, sink_names

SEND_TIMEOUT_S = 60.0


class Targets:
    """Belongs to one event loop; `close` gives up all that was opened."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._urls = sink_names(settings)
        self._open: dict[str, Sender] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._urls

    def check(self, flag: str, name: str) -> None:
        """Make sure that there is a sink called *name*.

        Raises:
            SettingsError: There is none.

        """
        if name not in self:
            known = ", ".join(self._urls)
            raise SettingsError(f"{flag}={name}: there is no such sink, expected one of {known}")

    async def sender(self, name: str) -> Sender:
        """Return what sends to the sink *name*, open.

        Raises:
            SinkUnavailable: It can't be opened.
            SinkMisconfigured: It can't as it is configured.

        """
        if name not in self._open:
            sink = make_sink(self._urls[name], self._settings, worker=0)
            sender = self._open[name] = Sender(name, sink, timeout_s=SEND_TIMEOUT_S)
            await sender.open()
        return self._open[name]

    async def close(self) -> None:
        for sender in self._open.values():
            await sender.sink.close()
