"""ClickHouse as the tests of all sinks see it: the current engine behind its shim."""

from pathlib import Path
from typing import Any

from segsrv.sinks.clickhouse.sql import create_table
from tests.services.clickhouse_service import Chdb
from tests.services.target import Target

REFUSED = "refused by a constraint"
CONSTRAINT = f"CHECK ifNull(event_name, '') != '{REFUSED}'"


class ClickhouseTarget(Target):
    kind = "clickhouse"
    is_exactly_once = True
    disk_bytes = 24 << 20

    def __init__(self, folder: Path, *, data_dir: Path | None = None) -> None:
        self.service = Chdb(folder, data_dir=data_dir)

    @classmethod
    def installed(cls) -> str | None:
        return Chdb.installed()

    def ready(self) -> None:
        # The sink would make the same table, without a constraint.
        self.service.query(create_table("events", 1_000, is_modern=True))
        self.service.query(f"ALTER TABLE events ADD CONSTRAINT IF NOT EXISTS known {CONSTRAINT}")

    def table(self, port: int) -> str:
        return (
            f'[[sinks]]\nname = "{self.kind}"\nurl = "clickhouse://127.0.0.1:{port}/default"\n'
            "batch_interval_s = 0.2\nretry_s_max = 0.5\nsend_timeout_s = 5.0\n"
            "options.connect_timeout_s = 1.0\n"
        )

    def ids(self) -> list[str]:
        return self.service.ids()

    def refused_event(self, event_id: str) -> dict[str, Any] | None:
        return {"type": "track", "event": REFUSED, "messageId": event_id, "userId": "refused"}
