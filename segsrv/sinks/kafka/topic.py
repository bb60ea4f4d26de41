"""What the topic is like, and making it where it is missing; all in the sink's own thread."""

from __future__ import annotations

import time
from concurrent.futures import Future, wait
from typing import NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AclOperation,
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from segsrv.errors import SinkMisconfigured, SinkUnavailable
from segsrv.sinks.kafka.client import POLL_S, Call, Client, Trouble

BROKERS_CHOICE = -1
_TOO_SMALL_BYTES = 2_000

T = TypeVar("T")


class Topic(NamedTuple):
    """What matters of a topic; *message_bytes_max* is its limit for a batch of records."""

    message_bytes_max: int


def look_up(client: Client, call: Call, *, may_create: bool) -> Topic:
    """Return what the topic is like; make it if it is missing, the options allow and *may_create*.

    Without *may_create* nothing is changed, and where the topic would be made, the broker is asked
    whether it would let that happen.

    Raises:
        SinkUnavailable: Not now.
        SinkMisconfigured: It is missing, a right is, or the events can't go there.
        KafkaException: What the client library or the broker said of it.

    """
    trouble = Trouble()
    lookup = _Lookup(client, AdminClient(client.config(trouble)), trouble, call)
    try:
        return lookup.run(may_create=may_create)
    finally:
        lookup.close()


class _Lookup:
    def __init__(self, client: Client, admin: AdminClient, trouble: Trouble, call: Call) -> None:
        self._client = client
        self._admin = admin
        self._trouble = trouble
        self._call = call

    def close(self) -> None:
        # A traceback may hold this object for long, and with it the library's threads.
        del self._admin

    def run(self, *, may_create: bool) -> Topic:
        if not self._is_there():
            self._make(is_dry=not may_create)
            if not may_create:
                return Topic(0)
            # Brokers hear of it one after the other.
            while not self._is_there():
                time.sleep(POLL_S)
                self._client.check(self._trouble, self._call, doing="the topic is being made")
        return self._settings()

    def _is_there(self) -> bool:
        """Say whether the topic is there, and check what may be done with it."""
        topic = self._client.topic
        # Any other way to ask would make the topic, on a broker that makes topics by itself.
        asked = self._admin.describe_topics(
            TopicCollection([topic]),
            include_authorized_operations=True,
            request_timeout=self._timeout_s,
        )
        try:
            found = self._result(asked[topic])
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return False
            raise
        needed = [AclOperation.WRITE]
        if self._client.options.mode == "transactional":
            # The record of what is stored counts as a consumer's.
            needed.append(AclOperation.READ)
        if found.authorized_operations:
            for operation in needed:
                if operation not in found.authorized_operations:
                    raise SinkMisconfigured(
                        f"{self._client.address}: {self._client.who} has no right to "
                        f"{operation.name} on the topic {topic}"
                    )
        return True

    def _make(self, *, is_dry: bool) -> None:
        client, options = self._client, self._client.options
        if not options.create:
            raise SinkMisconfigured(
                f"{client.address}: there is no topic {client.topic}, and create=false; run "
                f"{self._command()}"
            )
        topic = NewTopic(
            client.topic,
            num_partitions=options.partitions or BROKERS_CHOICE,
            replication_factor=options.replication_factor or BROKERS_CHOICE,
        )
        made = self._admin.create_topics(
            [topic],
            operation_timeout=self._timeout_s,
            request_timeout=self._timeout_s,
            validate_only=is_dry,
        )
        try:
            self._result(made[client.topic])
        except KafkaException as error:
            code = error.args[0].code()
            if code in (
                KafkaError.TOPIC_AUTHORIZATION_FAILED,
                KafkaError.CLUSTER_AUTHORIZATION_FAILED,
            ):
                raise SinkMisconfigured(
                    f"{client.address}: there is no topic {client.topic}, and {client.who} has no "
                    f"right to make it; run {self._command()}"
                ) from error
            if code != KafkaError.TOPIC_ALREADY_EXISTS:
                raise

    def _command(self) -> str:
        options, address = self._client.options, self._client.address
        parts = ["kafka-topics.sh --bootstrap-server", address.brokers[0]]
        parts += ["--create --topic", address.topic]
        if options.partitions:
            parts += ["--partitions", str(options.partitions)]
        if options.replication_factor:
            parts += ["--replication-factor", str(options.replication_factor)]
        return " ".join(parts)

    def _settings(self) -> Topic:
        client = self._client
        given = client.options.message_bytes_max
        asked = self._admin.describe_configs(
            [ConfigResource(ResourceType.TOPIC, client.topic)], request_timeout=self._timeout_s
        )
        try:
            (config,) = (self._result(future) for future in asked.values())
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise SinkUnavailable(
                    f"{client.address}: not every broker knows the topic yet"
                ) from error
            if code != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise
            if given is None:
                raise SinkMisconfigured(
                    f"{client.address}: {client.who} has no right to DESCRIBE_CONFIGS on the topic "
                    f"{client.topic}; grant it, or set message_bytes_max to the topic's limit"
                ) from error
            return Topic(given)
        limit = int(config["max.message.bytes"].value)
        if limit < _TOO_SMALL_BYTES:
            raise SinkMisconfigured(
                f"{client.address}: max.message.bytes={limit} of the topic, expected at least "
                f"{_TOO_SMALL_BYTES}"
            )
        if "compact" in config["cleanup.policy"].value and client.options.key == "none":
            raise SinkMisconfigured(
                f"{client.address}: the topic is compacted and takes no event without a key; "
                "set `key`, or take another topic"
            )
        return Topic(min(limit, given or limit))

    @property
    def _timeout_s(self) -> float:
        return max(self._call.left_s, POLL_S)

    def _result(self, future: Future[T]) -> T:
        while not future.done():
            wait([future], POLL_S)
            self._admin.poll(0)
            self._client.check(self._trouble, self._call, doing="looking up the topic")
        return future.result()
