"""Topics as the tests see them: made, changed and read to their end."""

from collections.abc import Iterator

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from tests.services.kafka_service import KafkaService

TIMEOUT_S = 20.0


def records(service: KafkaService, topic: str, *, is_committed: bool = True) -> list[Message]:
    """Return all records of *topic*.

    Without *is_committed*, those of open and failed transactions too, which no consumer sees.
    """
    return list(_read(service, topic, "read_committed" if is_committed else "read_uncommitted"))


def _read(service: KafkaService, topic: str, isolation: str) -> Iterator[Message]:
    consumer = Consumer(
        {
            "bootstrap.servers": f"127.0.0.1:{service.direct_port}",
            "group.id": "tests",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "log_level": 0,
        }
    )
    try:
        found = consumer.list_topics(timeout=TIMEOUT_S).topics.get(topic)
        if found is None:
            return
        unread = set(found.partitions)
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in unread])
        while unread:
            message = consumer.poll(TIMEOUT_S)
            assert message is not None, f"no end of {topic} within {TIMEOUT_S} s"
            if message.error() is None:
                yield message
            elif message.error().code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition())
            else:
                raise AssertionError(message.error().str())
    finally:
        consumer.close()


def header(message: Message, name: str) -> str | None:
    """Return the header *name* of a record, None if it has none."""
    return next((value.decode() for key, value in message.headers() or () if key == name), None)


def ids(service: KafkaService, topic: str) -> list[str | None]:
    """Return the ids of the events in *topic*, one entry a copy."""
    return [header(message, "event_id") for message in records(service, topic)]


def names(service: KafkaService) -> set[str]:
    """Return the names of all topics."""
    return set(service.admin().list_topics(timeout=TIMEOUT_S).topics)


def make(service: KafkaService, topic: str, *, partitions: int = 1, **config: object) -> None:
    """Make *topic*; settings have underscores for dots."""
    settings = {name.replace("_", "."): str(value) for name, value in config.items()}
    admin = service.admin()
    made = admin.create_topics([NewTopic(topic, partitions, 1, config=settings)])
    made[topic].result(TIMEOUT_S)


def configure(service: KafkaService, topic: str, name: str, value: object) -> None:
    """Change one setting of *topic*."""
    entry = ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = service.admin()
    for changed in admin.incremental_alter_configs([resource]).values():
        changed.result(TIMEOUT_S)


def allow(
    service: KafkaService, kind: ResourceType, name: str, user: str, operation: AclOperation
) -> None:
    """Give *user* a right; all others but those without a user then lack any to this resource."""
    binding = AclBinding(
        kind,
        name,
        ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        operation,
        AclPermissionType.ALLOW,
    )
    admin = service.admin()
    for made in admin.create_acls([binding]).values():
        made.result(TIMEOUT_S)
