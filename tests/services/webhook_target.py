"""A webhook as the tests of all sinks see it: at least once, doubles known by their id."""

from pathlib import Path
from typing import Any

from tests.services.target import Target
from tests.services.webhook_receiver import REFUSED
from tests.services.webhook_service import WebhookService
from tests.site import id_of


class WebhookTarget(Target):
    kind = "webhook"
    is_exactly_once = False
    disk_bytes = 4 << 20

    def __init__(self, folder: Path, *, data_dir: Path | None = None) -> None:
        self.service: WebhookService = WebhookService(folder, data_dir=data_dir)

    def table(self, port: int) -> str:
        return f"""
[[sinks]]
name = "webhook"
url = "http://127.0.0.1:{port}/events"
batch_interval_s = 0.05
retry_s_max = 0.5
send_timeout_s = 2.0
options.connect_timeout_s = 1.0
"""

    def ids(self) -> list[str]:
        return [id_of(event) for _headers, events in self.service.batches() for event in events]

    def batch_ids(self) -> list[str]:
        """Return the ids of the batches that are there, one entry a copy."""
        return [headers["webhook-id"] for headers, _events in self.service.batches()]

    def refused_event(self, event_id: str) -> dict[str, Any]:
        return {"type": "track", "event": REFUSED.decode(), "userId": "u", "messageId": event_id}
