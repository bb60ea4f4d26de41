"""Exactly once: each batch is a transaction, which also holds the batch's id and its ends.

They are kept as the metadata of a consumer group's offset. A transaction whose end is not known is
not mended: a new producer with the same transactional id makes the broker end it one way or the
other, and the metadata then says which.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from segsrv.errors import SinkRejected, SinkUnavailable
from segsrv.sinks.base import Batch, Delivered
from segsrv.sinks.kafka.client import POLL_S, Call, Client, KafkaStats, Trouble
from segsrv.sinks.kafka.idempotent import REFUSED
from segsrv.sinks.kafka.lane import Lane
from segsrv.sinks.kafka.records import oversize, records_of, values_of
from segsrv.sinks.kafka.topic import look_up

logger = logging.getLogger(__name__)

METADATA_BYTES_MAX = 4_096
"""The broker's own default for `offset.metadata.max.bytes`."""
STEP_S = 0.5
"""For how long a call of the library may wait, which can't be given up; it is resumed then."""
_PASSING = (
    KafkaError._TIMED_OUT,  # noqa: SLF001
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)
TIMEOUT_SPARE_S = 5.0
TIMEOUT_S_MAX = 900.0
"""The broker's own default for `transaction.max.timeout.ms`."""


class TransactionalWriter:
    """Stores batches, each in a transaction; after any failure it begins with a new producer."""

    def __init__(
        self,
        client: Client,
        stats: KafkaStats,
        *,
        queue_bytes: int,
        name: str,
        origin: str,
        send_timeout_s: float,
    ) -> None:
        # A replay has an id of its own, and so neither sees nor moves what delivery has.
        self.transactional_id = f"segsrv-{origin or f'once-{secrets.token_hex(8)}'}-{name}"
        self._client = client
        self._stats = stats
        self._queue_bytes = queue_bytes
        self._timeout_s = min(send_timeout_s + TIMEOUT_SPARE_S, TIMEOUT_S_MAX)
        self._lane: Lane | None = None
        self._group: Any = None
        self._last = Delivered("", {})
        self._too_large_at = 0

    def open(self, call: Call) -> None:
        """Get a producer that no other shares its transactional id with, and read the record."""
        if self._lane is not None:
            return
        topic = look_up(self._client, call, may_create=True)
        lane = Lane(
            self._client,
            topic,
            queue_bytes=self._queue_bytes,
            **{
                "transactional.id": self.transactional_id,
                "transaction.timeout.ms": int(self._timeout_s * 1_000),
            },
        )
        self._stats.producers += 1
        try:
            # The broker ends what an earlier producer of this id left open.
            self._resume(lambda: lane.producer.init_transactions(STEP_S), lane, call)
            self._last, self._group = self._read_back(call)
        except BaseException:
            lane.end()
            raise
        self._lane = lane

    def delivered(self) -> Delivered:
        return self._last

    def idle(self) -> None:
        if self._lane is not None:
            self._lane.listen()

    def close(self) -> None:
        if self._lane is not None:
            self._lane.end()
            self._lane = None

    def store(self, batch: Batch, call: Call) -> None:
        """Store *batch*; see `Sink.send` for what it raises."""
        self.open(call)
        if self._last.batch_id == batch.id:
            return
        self._check_sizes(batch, call)
        lane = self._lane
        assert lane is not None, "just opened"
        lane.listen()
        lane.trouble.forget()
        last = Delivered(batch.id, batch.ends)
        try:
            self._transact(lane, batch, last, call)
        except KafkaException as error:
            self.close()
            self._raise_refusal(lane, batch, call)
            raise self._client.error(_reason(lane, error)) from error
        except BaseException:
            self.close()
            raise
        self._last = last
        self._stats.transactions += 1

    def _transact(self, lane: Lane, batch: Batch, last: Delivered, call: Call) -> None:
        producer, values = lane.producer, values_of(batch)
        producer.begin_transaction()
        records = records_of(values, batch.facts, self._client.options.key, range(len(values)))
        for _ in lane.put(records, call):
            pass
        lane.drain(call)
        if lane.failed or lane.trouble.fatal is not None:
            raise KafkaException(lane.trouble.fatal or lane.failed[0][1])
        place = TopicPartition(self._client.topic, 0, 0, encoded(last))
        self._resume(
            lambda: producer.send_offsets_to_transaction([place], self._group, STEP_S), lane, call
        )
        self._resume(lambda: producer.commit_transaction(STEP_S), lane, call)

    def _check_sizes(self, batch: Batch, call: Call) -> None:
        """Refuse what no batch of the topic can hold, before anything of it is sent."""
        values, key_by = values_of(batch), self._client.options.key
        for is_last in (False, True):
            self.open(call)
            assert self._lane is not None, "just opened"
            limit = self._lane.topic.message_bytes_max
            numbers = oversize(batch, values, key_by, limit)
            if not numbers:
                return
            if is_last:
                raise SinkRejected(
                    f"{self._client.address}: an event is larger than {limit} bytes, the limit of "
                    "the topic",
                    indexes=numbers,
                )
            # The limit may have been raised since.
            self.close()

    def _raise_refusal(self, lane: Lane, batch: Batch, call: Call) -> None:
        """Raise what follows if the broker refused *batch* itself; it has nothing of it."""
        codes = {error.code() for _value, error in lane.failed}
        if not codes & {*REFUSED, KafkaError.MSG_SIZE_TOO_LARGE}:
            return
        self.open(call)
        if self._last.batch_id == batch.id:
            raise SinkUnavailable(f"{self._client.address}: the batch is stored after all")
        if codes & set(REFUSED):
            raise SinkRejected(f"{self._client.address}: {lane.failed[0][1].str()}")
        limit = lane.topic.message_bytes_max
        is_known, self._too_large_at = limit == self._too_large_at, limit
        raise self._client.too_large(limit, is_known=is_known)

    def _resume(self, work: Callable[[], object], lane: Lane, call: Call) -> None:
        """Do *work*, a call of the library that takes up what it left, until it is done."""
        while True:
            try:
                work()
            except KafkaException as error:
                reason = error.args[0]
                lane.listen()
                if not reason.retriable() or reason.fatal():
                    raise
                self._client.check(lane.trouble, call, doing="waiting for the transaction")
            else:
                return

    def _read_back(self, call: Call) -> tuple[Delivered, Any]:
        """Return what was committed last, and the group that it is committed for."""
        trouble = Trouble()
        consumer = Consumer(
            self._client.config(
                trouble,
                **{
                    "group.id": self.transactional_id,
                    "enable.auto.commit": False,
                    # Without it, a transaction that is being ended would not be waited for.
                    "isolation.level": "read_committed",
                },
            )
        )
        try:
            while True:
                place = TopicPartition(self._client.topic, 0)
                try:
                    (found,) = consumer.committed([place], STEP_S)
                    if found.error is not None:
                        raise KafkaException(found.error)
                    return decoded(found.metadata), consumer.consumer_group_metadata()
                except KafkaException as error:
                    if error.args[0].code() not in _PASSING:
                        raise
                    time.sleep(POLL_S)
                    self._client.check(trouble, call, doing="reading the record")
        finally:
            consumer.close()


def encoded(delivered: Delivered) -> str:
    """Return *delivered* as metadata: of the ends, as many as there is room for."""
    ends = dict(delivered.ends)
    while True:
        text = orjson.dumps({"id": delivered.batch_id, "ends": ends}).decode()
        if len(text) <= METADATA_BYTES_MAX:
            return text
        del ends[next(iter(ends))]


def decoded(text: str | None) -> Delivered:
    """Return what `encoded` made *text* of; nothing if it is none of segsrv's."""
    try:
        found = orjson.loads(text or "{}")
        ends: Mapping[str, Any] = found.get("ends", {})
        return Delivered(
            str(found.get("id", "")),
            {str(name): (int(place), int(skip)) for name, (place, skip) in ends.items()},
        )
    except (AttributeError, TypeError, ValueError):
        logger.warning("sink: the group's offset has metadata that segsrv did not write")
        return Delivered("", {})


def _reason(lane: Lane, error: KafkaException) -> KafkaError:
    """Return what is to be said of *error*: what happened to records tells more than the commit."""
    if lane.trouble.fatal is None and lane.failed:
        return lane.failed[0][1]
    reason: KafkaError = error.args[0]
    return reason
