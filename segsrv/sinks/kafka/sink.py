"""Writes events to a topic of Kafka, one record each; `kind.py` says how it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaException

from segsrv.sinks.base import Batch, Delivered, Placement
from segsrv.sinks.kafka.client import Call, Client, KafkaStats
from segsrv.sinks.kafka.idempotent import IdempotentWriter
from segsrv.sinks.kafka.thread import Worker
from segsrv.sinks.kafka.topic import look_up
from segsrv.sinks.kafka.transactional import TransactionalWriter

IDLE_S = 2.0
PATIENCE = 0.9
"""Share of the time limit after which a call says itself what it waits for."""

T = TypeVar("T")


class KafkaSink:
    """Every call does its work in one thread, so one that was cancelled ends before the next."""

    def __init__(
        self,
        client: Client,
        *,
        name: str,
        origin: str,
        send_timeout_s: float,
        queue_bytes: int,
    ) -> None:
        self.stats = KafkaStats()
        self._client = client
        self._timeout_s = send_timeout_s * PATIENCE
        self._writer: IdempotentWriter | TransactionalWriter
        if client.options.mode == "transactional":
            self._writer = TransactionalWriter(
                client,
                self.stats,
                queue_bytes=queue_bytes,
                name=name,
                origin=origin,
                send_timeout_s=send_timeout_s,
            )
        else:
            self._writer = IdempotentWriter(client, self.stats, queue_bytes=queue_bytes)
        self._thread = Worker("segsrv-kafka", idle=self._writer.idle, idle_s=IDLE_S)

    async def check(self) -> None:
        await self._in_thread(lambda call: look_up(self._client, call, may_create=False))

    async def open(self) -> None:
        await self._in_thread(self._writer.open)

    async def plan(self, _batch: Batch, _last: Placement) -> Placement:
        return {}

    async def send(self, batch: Batch, _placement: Placement) -> None:
        await self._in_thread(lambda call: self._writer.store(batch, call))

    async def delivered(self) -> Delivered:
        return await self._in_thread(lambda _call: self._writer.delivered())

    async def close(self) -> None:
        await self._thread.close(self._writer.close)

    def describe(self) -> str:
        return f"{self._client.address}, {self._client.options.mode}"

    async def _in_thread(self, work: Callable[[Call], T]) -> T:
        call = Call(self._timeout_s)
        try:
            return await self._thread.run(lambda: work(call))
        except KafkaException as error:
            raise self._client.error(error.args[0]) from error
        finally:
            # The thread sees it within a moment, if it is still at it.
            call.is_given_up = True
