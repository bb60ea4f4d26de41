"""The file sink as a target of the fault tests."""

from pathlib import Path
from types import MappingProxyType

import orjson

from tests.services.target import Target
from tests.site import id_of

_NO_SERVER = "There is no server: the file sink is a part of segsrv."
_NO_NETWORK = "There is no network: the file sink writes to a disk."


class FileTarget(Target):
    kind = "file"
    is_exactly_once = True
    disk_bytes = 4 << 20
    why_none_refused = "A file takes every event."
    why_not = MappingProxyType(
        {"sink_killed": _NO_SERVER, "network_cut": _NO_NETWORK, "answer_cut": _NO_NETWORK}
    )
    service = None

    def __init__(self, folder: Path, *, data_dir: Path | None = None) -> None:
        self.root = (data_dir or folder) / "out"

    def table(self, _port: int) -> str:
        return f"""
[[sinks]]
name = "file"
url = "file:{self.root}"
send_timeout_s = 1.0
retry_s_max = 0.2
batch_interval_s = 0.05
"""

    def ids(self) -> list[str]:
        return [
            id_of(orjson.loads(line))
            for path in sorted(self.root.glob("**/*.ndjson"))
            for line in path.read_bytes().splitlines()
        ]

    def refused_event(self, _event_id: str) -> None:
        return None
