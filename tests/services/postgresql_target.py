"""The PostgreSQL sink as a target of the fault tests."""

from pathlib import Path
from typing import Any, ClassVar

from tests.services.postgresql_service import PostgresqlService
from tests.services.target import Target

REFUSED = "refused by the table"


class PostgresqlTarget(Target):
    kind = "postgresql"
    is_exactly_once = True
    # An empty cluster with its log takes two thirds of it.
    disk_bytes = 48 << 20
    commit_mark: ClassVar[bytes] = b"COMMIT\0"
    service: PostgresqlService

    def __init__(self, folder: Path, *, data_dir: Path | None = None) -> None:
        self.service = PostgresqlService(folder, data_dir=data_dir)

    @classmethod
    def installed(cls) -> str | None:
        return PostgresqlService.installed()

    def ready(self) -> None:
        # The sink adds the other columns.
        self._sql(
            "CREATE TABLE IF NOT EXISTS events"
            f" (event_name text, CONSTRAINT known CHECK (event_name <> '{REFUSED}'))"
        )

    def table(self, port: int) -> str:
        # Proxies look for what is sent, so it is not encrypted.
        return f"""
[[sinks]]
name = "postgresql"
url = "{self.service.url_of(port=port)}?sslmode=disable"
send_timeout_s = 3.0
retry_s_max = 0.5
batch_interval_s = 0.05
"""

    def ids(self) -> list[str]:
        return self._sql("SELECT event_id FROM events").split("\n")

    def refused_event(self, event_id: str) -> dict[str, Any] | None:
        return {"type": "track", "event": REFUSED, "messageId": event_id}

    def _sql(self, statement: str) -> str:
        return self.service.sql(statement, user="plain", database="events")
