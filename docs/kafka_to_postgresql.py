"""Moves events from Kafka to a table of PostgreSQL, each record once.

    python docs/kafka_to_postgresql.py BROKERS TOPIC postgresql://USER@HOST/DATABASE

Up to where the topic was read is stored in the transaction that stores the rows. Run as many as the
topic has partitions; Kafka shares the partitions out among them. One that finds that another has
gone on in its place ends. It needs segsrv[kafka,postgresql].
"""

import asyncio
import signal
import sys
import threading
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import TypeVar

import asyncpg
from confluent_kafka import Consumer, Message, TopicPartition

BATCH_EVENTS_MAX = 5_000
WAIT_S = 0.5

T = TypeVar("T")

TABLES = """
CREATE TABLE IF NOT EXISTS kafka_events (
    event_id text, received_at timestamptz, type text, format text, key_id text,
    event json NOT NULL
);
CREATE INDEX IF NOT EXISTS kafka_events_event_id ON kafka_events USING hash (event_id);
CREATE TABLE IF NOT EXISTS kafka_positions (
    topic text, number integer, next bigint NOT NULL, PRIMARY KEY (topic, number)
);
"""
BEGIN = "INSERT INTO kafka_positions VALUES ($1, $2, 0) ON CONFLICT DO NOTHING"
POSITION = "SELECT next FROM kafka_positions WHERE topic = $1 AND number = $2"
ADVANCE = "UPDATE kafka_positions SET next = $4 WHERE topic = $1 AND number = $2 AND next = $3"


def row(message: Message) -> tuple:
    """Return what the table has of a record: its headers, and the stored line."""
    headers = message.headers() or ()
    known = {name: value.decode().replace("\0", "\ufffd") for name, value in headers}
    received_ms = int(known.get("received_ms", 0))
    received_at = datetime.fromtimestamp(received_ms / 1_000, UTC) if received_ms else None
    texts = (known.get(name) for name in ("type", "format", "key_id"))
    return known.get("event_id"), received_at, *texts, message.value().decode()


class Mover:
    """Reads what Kafka assigns to it, from where PostgreSQL says that it was read to."""

    def __init__(self, brokers: str, topic: str, database: str) -> None:
        self.topic = topic
        self.next: dict[int, int] = {}
        self._loop = asyncio.new_event_loop()
        self._database = self._wait(asyncpg.connect(database))
        self._wait(self._database.execute(TABLES))
        self._consumer = Consumer(
            {
                "bootstrap.servers": brokers,
                "group.id": f"{topic}-to-postgresql",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                # After one was killed, others wait for so long before they go on for it.
                "session.timeout.ms": 10_000,
            }
        )
        self._consumer.subscribe([topic], on_assign=self._begin)

    def step(self) -> int:
        """Move up to a batch; return how many events that was."""
        messages = self._consumer.consume(BATCH_EVENTS_MAX, WAIT_S)
        for message in messages:
            if message.error():
                sys.exit(f"kafka: {message.error()}")
        if messages:
            self._wait(self._store(messages))
        return len(messages)

    def close(self) -> None:
        """Leave the group, so that others go on at once."""
        self._consumer.close()
        self._wait(self._database.close())

    def _begin(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        for one in assigned:
            self._wait(self._database.execute(BEGIN, self.topic, one.partition))
            one.offset = self._wait(self._database.fetchval(POSITION, self.topic, one.partition))
            self.next[one.partition] = one.offset
        consumer.assign(assigned)

    async def _store(self, messages: list[Message]) -> None:
        ends = {message.partition(): message.offset() + 1 for message in messages}
        async with self._database.transaction():
            for number, end in ends.items():
                place = (self.topic, number, self.next[number], end)
                if await self._database.execute(ADVANCE, *place) != "UPDATE 1":
                    sys.exit(f"another consumer has gone on in partition {number}")
            await self._database.copy_records_to_table("kafka_events", records=map(row, messages))
        self.next |= ends

    def _wait(self, work: Awaitable[T]) -> T:
        return self._loop.run_until_complete(work)


def main() -> None:
    mover = Mover(*sys.argv[1:])
    is_over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_args: is_over.set())
    try:
        while not is_over.is_set():
            mover.step()
    finally:
        mover.close()


if __name__ == "__main__":
    main()
