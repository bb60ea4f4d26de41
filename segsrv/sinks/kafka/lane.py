"""One producer of Kafka's client library: puts records on their way and learns what became of them.

All of it runs in the sink's own thread. Delivery reports come for failures only, so a record costs
one call; those that are on their way are counted by the library itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from segsrv.sinks.kafka.client import POLL_S, Call, Client, Trouble
from segsrv.sinks.kafka.records import Record
from segsrv.sinks.kafka.topic import Topic

LINGER_MS = 5
DRAIN_POLL_S = 0.01
"""That all went well is not reported, so nothing ends the wait before it is over."""
_BATCH_BYTES_MAX = 1_000_000
_SPARE_BYTES = 128
_PURGE_POLLS_MAX = 50
QUEUE_KB_MIN, QUEUE_KB_MAX = 64 << 10, (1 << 31) - 1


class Lane:
    """A producer for one topic, whose limits it was made for.

    `failed` holds what the library gave up, each record's value with the reason.
    """

    def __init__(self, client: Client, topic: Topic, *, queue_bytes: int, **config: Any) -> None:
        self.topic = topic
        self.trouble = Trouble()
        self.failed: list[tuple[bytes, KafkaError]] = []
        self._client = client
        # A batch and what a record adds to it; more than that is never under way.
        queue_kb = max(2 * queue_bytes >> 10, QUEUE_KB_MIN)
        self.producer = Producer(
            client.config(
                self.trouble,
                **{
                    "enable.idempotence": True,
                    "acks": "all",
                    "compression.type": client.options.compression,
                    # As Java's clients do, so that joins with their topics find each other.
                    "partitioner": "murmur2_random",
                    "linger.ms": LINGER_MS,
                    "queue.buffering.max.kbytes": min(queue_kb, QUEUE_KB_MAX),
                    # The broker's limit holds for a batch: one that goes beyond it is refused
                    # together with all that is in it.
                    "message.max.bytes": topic.message_bytes_max,
                    "batch.size": min(topic.message_bytes_max - _SPARE_BYTES, _BATCH_BYTES_MAX),
                    "delivery.report.only.error": True,
                    "on_delivery": self._report,
                    **config,
                },
            )
        )

    def __len__(self) -> int:
        return len(self.producer)

    def put(self, records: Iterator[Record], call: Call) -> Iterator[None]:
        """Put each of *records* on its way, and yield behind each.

        Raises:
            SinkUnavailable: There is no room, and no broker takes what is there.
            KafkaException: The library takes no more.

        """
        produce, topic = self.producer.produce, self._client.topic
        try:
            for value, key, headers in records:
                while True:
                    try:
                        produce(topic, value, key, headers=headers)
                        break
                    except BufferError:
                        self.poll(call, doing="sending")
                yield
        finally:
            # A traceback would keep the producer alive by it.
            del produce

    def drain(self, call: Call) -> None:
        """Wait until nothing is on its way any more, or a fatal error ends that.

        Raises:
            SinkUnavailable: The brokers are down, or time is up; the records stay on their way.
            SinkMisconfigured: The brokers don't let the client in; they stay, too.

        """
        while len(self.producer) and self.trouble.fatal is None:
            doing = f"{len(self.producer)} events are on their way"
            self.poll(call, doing=doing, wait_s=DRAIN_POLL_S)

    def poll(self, call: Call, *, doing: str, wait_s: float = POLL_S) -> None:
        """Wait a moment for reports; raise what `Client.check` raises."""
        self._serve(wait_s)
        if self.trouble.fatal is None:
            self._client.check(self.trouble, call, doing=doing)

    def listen(self) -> None:
        """Take what the library has to say, without waiting."""
        self._serve(0)

    def end(self) -> bool:
        """Give up what is on its way, which is in `failed` then, and end the library's threads.

        Returns whether all of it is known to be there.
        """
        with contextlib.suppress(KafkaException):
            self.producer.purge()
        for _ in range(_PURGE_POLLS_MAX):
            if not len(self.producer):
                break
            self._serve(POLL_S)
        is_known = not len(self.producer)
        # A traceback may hold this object for long.
        del self.producer
        return is_known

    def _serve(self, timeout_s: float) -> None:
        try:
            self.producer.poll(timeout_s)
        except KafkaException as error:
            # The library raises a fatal error here, instead of calling back.
            self.trouble(error.args[0])

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.failed.append((message.value() or b"", error))
