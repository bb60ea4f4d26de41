"""All targets of the tests of sinks, by name, and what runs one with a proxy before it."""

import contextlib
import importlib
from collections.abc import Iterator

from tests.services.proxy import Proxy
from tests.services.target import Target

TARGETS = {
    "file": "tests.services.file_target:FileTarget",
    "kafka-idempotent": "tests.services.kafka_target:KafkaTarget",
    "kafka-transactional": "tests.services.kafka_target:KafkaTransactionalTarget",
    "postgresql": "tests.services.postgresql_target:PostgresqlTarget",
    "clickhouse": "tests.services.clickhouse_target:ClickhouseTarget",
    "s3": "tests.services.s3_target:S3Target",
    "webhook": "tests.services.webhook_target:WebhookTarget",
}


def target_class(kind: str) -> type[Target]:
    module, _colon, name = TARGETS[kind].partition(":")
    found: type[Target] = getattr(importlib.import_module(module), name)
    return found


@contextlib.contextmanager
def running(target: Target) -> Iterator[Proxy | None]:
    """Run a target's service, and a proxy before it, for the length of a `with` block."""
    if target.service is None:
        yield None
        return
    try:
        with Proxy(target.proxied_port) as proxy:
            target.behind(proxy.port)
            start(target)
            yield proxy
    finally:
        target.service.close()


def start(target: Target) -> None:
    """Start a target's service, if it has one, with all that its sink needs there."""
    if target.service is not None:
        target.service.start()
        target.ready()
