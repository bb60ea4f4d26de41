"""What a sink delivers to, as the tests of all sinks see it."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from tests.services.base import Service


class Target:
    """A place for events on a running service: how to reach it, and what has arrived there.

    `service` is made and not started by the constructor. Tests put a proxy before it.
    """

    kind: str
    """The sink's name, in its table and in the fault matrix, such as `postgresql`."""
    is_exactly_once: bool
    """Whether no event may ever be there twice, whatever breaks."""
    disk_bytes: int | None = None
    """The size of a small disk for the service's data, which a few thousand events fill."""
    why_no_full_disk = ""
    """One sentence, where `disk_bytes` is None."""
    why_none_refused = ""
    """One sentence, where `refused_event` returns None."""

    why_not: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """For each fault that can't happen to this kind, by its name in the matrix, one sentence."""
    commit_mark: ClassVar[bytes] = b""
    """Bytes of the request that makes a batch count, if it is a small one behind the large one."""

    service: Service | None
    """None where there is no server, as for files."""

    def __init__(self, folder: Path, *, data_dir: Path | None = None) -> None:
        raise NotImplementedError

    @classmethod
    def installed(cls) -> str | None:
        """Say what is missing, as `Service.installed` does."""
        return None

    @property
    def proxied_port(self) -> int:
        """Where a proxy has to pass connections on to."""
        assert self.service is not None, "a target without a service has no proxy"
        return self.service.port

    def behind(self, port: int) -> None:
        """Learn the proxy's port before the service starts: some servers tell it to clients."""

    def ready(self) -> None:
        """Make what a sink does not make by itself; called after each start of the service."""

    def table(self, port: int) -> str:
        """Return a `[[sinks]]` table in TOML named after `kind`, for 127.0.0.1:*port*.

        Its intervals and time-outs are small, so that a fault is over soon. It is asked again when
        the server starts again, and says the same for the same port.
        """
        raise NotImplementedError

    def environ(self) -> dict[str, str]:
        """Return variables that the server needs for this table, such as for secrets."""
        return {}

    def ids(self) -> list[str]:
        """Return the ids of the events that are there, one entry a copy, while all is healthy."""
        raise NotImplementedError

    def refused_event(self, event_id: str) -> dict[str, Any] | None:
        """Return a valid Segment event of this id that is refused here for good, if there is one.

        Events of the fault tests, of up to 2 kB and without such properties, are not refused.
        """
        raise NotImplementedError

    def make_room(self) -> None:
        """Do what an operator would after the disk was full and the filler is gone, if anything.

        A service that ended because of it is started again by the caller.
        """
