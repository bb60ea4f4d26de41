"""The sink of the harness's own tests, and the server behind it."""

import sys
from pathlib import Path

import orjson

from tests.services.base import Service
from tests.services.plain_server import REFUSED
from tests.services.target import Target
from tests.site import id_of

HERE = Path(__file__).parent


class PlainService(Service):
    name = "plain"

    @property
    def path(self) -> Path:
        return self.data_dir / "batches"

    @property
    def url(self) -> str:
        return f"plain://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, str(HERE / "plain_server.py"), str(self.port), str(self.path)]


class PlainTarget(Target):
    kind = "plain"
    is_exactly_once = True
    disk_bytes = 8 << 20
    wrong = "nothing"

    def __init__(self, folder: Path, *, data_dir: Path | None = None) -> None:
        self.service = PlainService(folder, data_dir=data_dir)

    def table(self, port: int) -> str:
        return f"""
[[sinks]]
name = "plain"
url = "plain://127.0.0.1:{port}"
send_timeout_s = 1.0
retry_s_max = 0.2
batch_interval_s = 0.05
options = {{ wrong = "{self.wrong}" }}
"""

    def environ(self) -> dict[str, str]:
        return {"PYTHONPATH": str(HERE / "plain_sink")}

    def ids(self) -> list[str]:
        data, end, ids = self.service.path.read_bytes(), 0, []
        while end < len(data):
            line_end = data.index(b"\n", end) + 1
            end = line_end + int(data[end:line_end].split()[2])
            ids += [id_of(orjson.loads(line)) for line in data[line_end:end].splitlines()]
        return ids

    def refused_event(self, event_id: str) -> dict | None:
        return {"type": "track", "event": REFUSED.decode(), "userId": "u", "messageId": event_id}
