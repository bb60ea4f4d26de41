"""Kafka as the tests of all sinks see it, once in each of its modes."""

from pathlib import Path
from typing import Any

from tests.services import kafka_topics
from tests.services.kafka_service import KafkaService
from tests.services.target import Target

TOPIC = "events"
MESSAGE_BYTES_MAX = 8_000
END_OF_TRANSACTION = b"\x00\x1a\x00\x01"
"""How the request begins that commits, behind its length: its number and version."""


class KafkaTarget(Target):
    """The topic takes events of up to 8,000 bytes, so that one can be refused."""

    mode = "idempotent"
    kind = "kafka-idempotent"
    is_exactly_once = False
    disk_bytes = 24 << 20

    service: KafkaService

    def __init__(self, folder: Path, *, data_dir: Path | None = None) -> None:
        self.service = KafkaService(folder, data_dir=data_dir)

    @classmethod
    def installed(cls) -> str | None:
        return KafkaService.installed()

    def behind(self, port: int) -> None:
        self.service.advertised_port = port

    def ready(self) -> None:
        if TOPIC not in kafka_topics.names(self.service):
            kafka_topics.make(
                self.service, TOPIC, partitions=3, max_message_bytes=MESSAGE_BYTES_MAX
            )

    def table(self, port: int) -> str:
        return f"""
[[sinks]]
name = "{self.kind}"
url = "kafka://127.0.0.1:{port}/{TOPIC}"
batch_interval_s = 0.1
retry_s_max = 0.5
send_timeout_s = 3.0
options = {{ mode = "{self.mode}", key = "event_id", create = false }}
"""

    def ids(self) -> list[str]:
        return [event_id or "" for event_id in kafka_topics.ids(self.service, TOPIC)]

    def refused_event(self, event_id: str) -> dict[str, Any] | None:
        return {
            "type": "track",
            "event": "Too Large",
            "messageId": event_id,
            "userId": "u",
            "properties": {"text": "x" * 2 * MESSAGE_BYTES_MAX},
        }


class KafkaTransactionalTarget(KafkaTarget):
    """The same with a transaction a batch."""

    mode = "transactional"
    kind = "kafka-transactional"
    is_exactly_once = True
    commit_mark = END_OF_TRANSACTION
