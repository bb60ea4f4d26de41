"""At least once: no record twice in the life of a producer, whatever the network does.

A call may end while records are on their way. They stay there, and when the same batch comes again,
it is waited for the rest of them. Only what the library gave up is put on its way again. So there
are two of an event only if segsrv ends before it knows that the first one arrived, or if the
library lost its producer's identity, which is a fatal error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from confluent_kafka import KafkaError, KafkaException

from segsrv.errors import SegsrvError, SinkMisconfigured, SinkRejected
from segsrv.sinks.base import Batch, Delivered
from segsrv.sinks.kafka.client import Call, Client, KafkaStats
from segsrv.sinks.kafka.lane import Lane
from segsrv.sinks.kafka.records import Record, oversize, records_of, values_of
from segsrv.sinks.kafka.topic import look_up

REFUSED = (KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP)
"""What a broker answers for a batch of records of which one can't be stored, ever."""


_NO_TIME_LIMIT = {"message.timeout.ms": 0}
"""The library gives up a record after five minutes, stored or not, and a second try doubles it."""


class Flight:
    """A batch that is being stored: `todo` are the numbers of events that are not, in order.

    Those before `sent` are on their way.
    """

    def __init__(self, batch: Batch, values: Sequence[bytes], todo: list[int]) -> None:
        self.batch = batch
        self.values = values
        self.todo = todo
        self.sent = 0
        self.is_checked = False

    def records(self, client: Client) -> Iterator[Record]:
        """Return what is not on its way yet."""
        return records_of(self.values, self.batch.facts, client.options.key, self.todo[self.sent :])

    def again(self, values: Iterable[bytes]) -> None:
        """Have events sent again, nothing being on its way."""
        failed = Counter(values)
        again = []
        for number in self.todo[: self.sent]:
            if failed[self.values[number]] > 0:
                failed[self.values[number]] -= 1
                again.append(number)
        self.todo = again + self.todo[self.sent :]
        self.sent = 0


class Ahead:
    """Events of a batch that was refused as a whole, although some of it is stored.

    The parts that it is split into bring them again, and are let through without them.
    """

    def __init__(self) -> None:
        self._values: Counter[bytes] = Counter()
        self._to_come = 0

    def keep(self, flight: Flight, refused: int) -> None:
        """Remember what of *flight* is stored; all but *refused* events will come again."""
        waiting = set(flight.todo)
        for number, value in enumerate(flight.values):
            if number not in waiting:
                self._values[value] += 1
        self._to_come = max(self._to_come, len(flight.values)) - refused

    def skip(self, values: Sequence[bytes]) -> list[int]:
        """Return the numbers of those that are not stored yet."""
        if not self._values:
            return list(range(len(values)))
        todo = []
        for number, value in enumerate(values):
            if self._values[value] > 0:
                self._values[value] -= 1
            else:
                todo.append(number)
        return todo

    def stored(self, events: int) -> None:
        """Learn that a part of so many events is done."""
        self._to_come -= events
        if self._to_come <= 0:
            self._values.clear()
            self._to_come = 0


class IdempotentWriter:
    """Stores batches through one producer, which it makes anew after a fatal error."""

    def __init__(self, client: Client, stats: KafkaStats, *, queue_bytes: int) -> None:
        self._client = client
        self._stats = stats
        self._queue_bytes = queue_bytes
        self._lane: Lane | None = None
        self._flight: Flight | None = None
        self._ahead = Ahead()
        self._stored_id = ""
        self._too_large_at = 0

    def open(self, call: Call) -> None:
        """Look the topic up, make it if need be, and get a producer."""
        if self._lane is None:
            topic = look_up(self._client, call, may_create=True)
            self._lane = Lane(self._client, topic, queue_bytes=self._queue_bytes, **_NO_TIME_LIMIT)
            self._stats.producers += 1

    def delivered(self) -> Delivered:
        return Delivered("", {})

    def idle(self) -> None:
        if self._lane is not None:
            self._lane.listen()

    def close(self) -> None:
        if self._lane is not None:
            self._lane.end()
            self._lane = None

    def store(self, batch: Batch, call: Call) -> None:
        """Store *batch*; see `Sink.send` for what it raises."""
        if batch.id == self._stored_id:
            return
        flight = self._take(batch)
        self._check_sizes(flight, call)
        lane = self._opened(call)
        lane.listen()
        lane.trouble.forget()
        try:
            for _ in lane.put(flight.records(self._client), call):
                flight.sent += 1
            lane.drain(call)
        except KafkaException as error:
            if lane.trouble.fatal is None:
                self._start_over(flight, lane)
                raise self._client.error(error.args[0]) from error
        if lane.trouble.fatal is not None or lane.failed:
            raise self._mend(flight, lane)
        self._stored_id, self._flight = batch.id, None
        self._ahead.stored(batch.events)

    def _opened(self, call: Call) -> Lane:
        self.open(call)
        assert self._lane is not None, "just opened"
        return self._lane

    def _take(self, batch: Batch) -> Flight:
        if self._flight is not None and self._flight.batch.id == batch.id:
            self._stats.resumed += 1
            return self._flight
        if self._flight is not None and self._lane is not None and len(self._lane):
            # It was given up for good; what is left of it must not stand before this one.
            self._drop_lane()
        values = values_of(batch)
        self._flight = Flight(batch, values, self._ahead.skip(values))
        return self._flight

    def _drop_lane(self) -> None:
        assert self._lane is not None, "there is one"
        self._lane.end()
        self._lane = None

    def _start_over(self, flight: Flight, lane: Lane) -> None:
        """Have what is not known to be stored sent by a new producer."""
        if lane.end():
            flight.again(value for value, _error in lane.failed)
        else:
            flight.sent = 0
        self._lane = None

    def _check_sizes(self, flight: Flight, call: Call) -> None:
        """Refuse what no batch of the topic can hold, before anything of it is sent."""
        if flight.is_checked:
            return
        lane = self._opened(call)
        numbers = self._oversize(flight, lane)
        if numbers and not len(lane):
            # The limit may have been raised since.
            self._drop_lane()
            lane = self._opened(call)
            numbers = self._oversize(flight, lane)
        if numbers:
            raise self._refused(
                flight,
                f"an event is larger than {lane.topic.message_bytes_max} bytes, the limit "
                "of the topic",
                numbers,
            )
        flight.is_checked = True

    def _oversize(self, flight: Flight, lane: Lane) -> list[int]:
        limit = lane.topic.message_bytes_max
        found = oversize(flight.batch, flight.values, self._client.options.key, limit)
        waiting = set(flight.todo) if found else ()
        return [number for number in found if number in waiting]

    def _refused(self, flight: Flight, text: str, numbers: Sequence[int]) -> SinkRejected:
        self._ahead.keep(flight, len(numbers))
        self._flight = None
        return SinkRejected(f"{self._client.address}: {text}", indexes=numbers)

    def _mend(self, flight: Flight, lane: Lane) -> SegsrvError:
        """Return why *flight* is not stored, after preparing for the next try."""
        if (fatal := lane.trouble.fatal) is not None:
            self._start_over(flight, lane)
            return self._client.error(fatal)
        failed, lane.failed = lane.failed, []
        flight.again(value for value, _error in failed)
        codes = {error.code() for _value, error in failed}
        if KafkaError.MSG_SIZE_TOO_LARGE in codes:
            limit = lane.topic.message_bytes_max
            self._drop_lane()
            flight.is_checked = False
            is_known, self._too_large_at = limit == self._too_large_at, limit
            return self._client.too_large(limit, is_known=is_known)
        if codes & set(REFUSED):
            known = flight.todo if len(flight.todo) == 1 else []
            reason = next(error for _value, error in failed if error.code() in REFUSED)
            return self._refused(flight, reason.str(), known)
        errors = [self._client.error(error) for _value, error in failed]
        error = next((e for e in errors if isinstance(e, SinkMisconfigured)), errors[0])
        if isinstance(error, SinkMisconfigured):
            # The topic may be gone: it is looked up again.
            self._drop_lane()
        return error
