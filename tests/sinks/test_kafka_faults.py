"""The Kafka sink where network and broker fail: nothing is lost, and nothing is there twice."""

import asyncio
import contextlib
import threading

import pytest
from confluent_kafka import KafkaError, Producer

from segsrv.delivery.shipper import CLOSE_TIMEOUT_S
from segsrv.errors import SinkUnavailable
from segsrv.sinks.base import Delivered
from segsrv.sinks.kafka import lane as kafka_lane
from segsrv.sinks.kafka.thread import Worker
from tests.services import kafka_topics
from tests.services.kafka_service import KafkaService
from tests.services.kafka_target import END_OF_TRANSACTION
from tests.services.proxy import Proxy
from tests.sinks.kafka_sinks import batch, make_sink, new_topic, opened, until_taken
from tests.waiting import until

MODES = pytest.mark.parametrize("mode", ["idempotent", "transactional"])
EVENTS = 1_000
OFFSETS_OF_TRANSACTION = b"\x00\x1c\x00\x03"
"""How the request begins that writes the record, before the one that commits."""
FETCH_OF_RECORD = b"\x00\x09\x00"
"""How the request begins that reads the record."""
GIVE_UP_S = 1.0


def ids(numbers):
    return sorted(f"id-{number}" for number in numbers)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """Return one broker for all tests here that don't end it, and the proxy before it."""
    KafkaService.require()
    service = KafkaService(tmp_path_factory.mktemp("kafka"))
    with Proxy(service.port) as proxy:
        service.advertised_port = proxy.port
        with service:
            yield service, proxy


@pytest.fixture
def broken(proxied):
    """Return broker and proxy, healed before and after the test."""
    service, proxy = proxied
    proxy.heal()
    yield service, proxy
    proxy.heal()


async def give_up(sink, unit):
    """Send for a moment only; whatever comes of it."""
    with contextlib.suppress(TimeoutError, SinkUnavailable):
        async with asyncio.timeout(GIVE_UP_S):
            await sink.send(unit, {})


async def test_a_call_that_takes_no_notice_does_not_hold_up_the_process():
    """Whoever gives up waiting for the end of the thread is free to end itself."""
    begun, may_end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait()

    worker = Worker("test", idle=lambda: None, idle_s=1.0)
    task = asyncio.create_task(worker.run(work))
    await until(begun.is_set)
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await worker.close(lambda: None)
        assert not [each for each in threading.enumerate() if each.name.startswith("asyncio_")]
    finally:
        may_end.set()
    await task
    await worker.close(lambda: None)


async def test_the_library_gives_up_nothing_by_itself(kafka, monkeypatch):
    """What may be stored is waited for, however long that takes: sent anew, it would be doubled."""
    given = []

    class Noting(Producer):
        def __init__(self, config):
            given.append(config)
            super().__init__(config)

    monkeypatch.setattr(kafka_lane, "Producer", Noting)
    async with opened(make_sink(kafka.port, new_topic())):
        assert [config["message.timeout.ms"] for config in given] == [0]


class TestNetwork:
    @MODES
    async def test_a_call_that_was_cancelled_leaves_no_second_copy(self, broken, mode):
        """Nothing is answered; the batch comes again, as delivery has it, and is stored once."""
        service, proxy = broken
        topic = new_topic()
        async with opened(make_sink(proxy.port, topic, mode=mode)) as sink:
            await sink.send(batch("a", range(10)), {})
            proxy.hang()
            for _ in range(2):
                await give_up(sink, batch("b", range(10, EVENTS)))
            proxy.heal()
            await until_taken(sink, batch("b", range(10, EVENTS)))
            await until_taken(sink, batch("c", [EVENTS]))

        assert sorted(kafka_topics.ids(service, topic)) == ids(range(EVENTS + 1))

    @MODES
    @pytest.mark.parametrize("client_bytes", [1, 3_000, 100_000])
    async def test_a_cut_in_mid_batch_leaves_no_second_copy(self, broken, mode, client_bytes):
        """Wherever the connection ends, what arrived of the batch is not stored again."""
        service, proxy = broken
        topic = new_topic()
        options = {"mode": mode, "compression": "none"}
        async with opened(make_sink(proxy.port, topic, **options)) as sink:
            await sink.send(batch("a", range(10)), {})
            proxy.cut_after(client_bytes)
            await give_up(sink, batch("b", range(10, EVENTS)))
            assert proxy.is_cut
            proxy.heal()
            await until_taken(sink, batch("b", range(10, EVENTS)))

        assert sorted(kafka_topics.ids(service, topic)) == ids(range(EVENTS))

    @MODES
    @pytest.mark.parametrize("client_bytes", [1, 3_000, 100_000])
    async def test_an_answer_that_is_lost_leaves_no_second_copy(self, broken, mode, client_bytes):
        """The broker has stored what was sent, and nobody heard of it."""
        service, proxy = broken
        topic = new_topic()
        options = {"mode": mode, "compression": "none"}
        async with opened(make_sink(proxy.port, topic, **options)) as sink:
            await sink.send(batch("a", range(10)), {})
            proxy.drop_answers(client_bytes=client_bytes)
            await give_up(sink, batch("b", range(10, EVENTS)))
            assert proxy.is_cut
            proxy.heal()
            await until_taken(sink, batch("b", range(10, EVENTS)))

        assert sorted(kafka_topics.ids(service, topic)) == ids(range(EVENTS))

    async def test_a_commit_of_unknown_end_is_decided_by_the_record(self, broken):
        """Its answer is lost, and a server that starts then learns that it is done."""
        service, proxy = broken
        topic = new_topic()
        async with opened(make_sink(proxy.port, topic, mode="transactional")) as sink:
            await sink.send(batch("a", range(10), ends={"j": (1, 0)}), {})
            proxy.drop_answers(mark=END_OF_TRANSACTION)
            await give_up(sink, batch("b", range(10, 20), ends={"j": (2, 0)}))
            assert proxy.is_cut
        proxy.heal()
        async with opened(make_sink(proxy.port, topic, mode="transactional")) as sink:
            assert await sink.delivered() == Delivered("b", {"j": (2, 0)})
            await until_taken(sink, batch("b", range(10, 20), ends={"j": (2, 0)}))

        assert sorted(kafka_topics.ids(service, topic)) == ids(range(20))

    async def test_a_commit_that_never_arrived_is_made_again(self, broken):
        """The events are on the broker, but no consumer sees them until a commit."""
        service, proxy = broken
        topic = new_topic()
        async with opened(make_sink(proxy.port, topic, mode="transactional")) as sink:
            await sink.send(batch("a", range(10), ends={"j": (1, 0)}), {})
            proxy.hold_answers(mark=OFFSETS_OF_TRANSACTION)
            await give_up(sink, batch("b", range(10, 20), ends={"j": (2, 0)}))
            assert proxy.is_hung
        proxy.heal()
        assert len(kafka_topics.records(service, topic, is_committed=False)) > 10
        async with opened(make_sink(proxy.port, topic, mode="transactional")) as sink:
            assert (await sink.delivered()).batch_id == "a"
            await until_taken(sink, batch("b", range(10, 20), ends={"j": (2, 0)}))
            assert await sink.delivered() == Delivered("b", {"j": (2, 0)})

        assert sorted(kafka_topics.ids(service, topic)) == ids(range(20))

    async def test_a_commit_that_hangs_does_not_hold_up_the_end(self, broken):
        """A server that is stopped does not wait until the time for the call is over."""
        _service, proxy = broken
        options = {"mode": "transactional", "send_timeout_s": 60.0}
        async with opened(make_sink(proxy.port, new_topic(), **options)) as sink:
            await sink.send(batch("a", range(10)), {})
            proxy.hold_answers(mark=END_OF_TRANSACTION)
            await give_up(sink, batch("b", range(10, 20)))
            assert proxy.is_hung
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await sink.close()

    async def test_a_start_that_hangs_does_not_hold_up_the_end(self, broken):
        """It waits for the record of what is stored."""
        _service, proxy = broken
        options = {"mode": "transactional", "send_timeout_s": 60.0}
        sink = make_sink(proxy.port, new_topic(), **options)
        proxy.hold_answers(mark=FETCH_OF_RECORD)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await sink.open()
        assert proxy.is_hung
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await sink.close()

    async def test_records_of_which_nothing_is_heard_are_sent_again(self, broken, monkeypatch):
        """By the producer that follows one which failed for good: better twice than never."""
        service, proxy = broken
        topic = new_topic()
        async with opened(make_sink(proxy.port, topic)) as sink:
            await sink.send(batch("a", range(10)), {})
            proxy.cut()
            await give_up(sink, batch("b", range(10, 20)))
            monkeypatch.setattr(kafka_lane, "_PURGE_POLLS_MAX", 0)
            sink._writer._lane.trouble.fatal = KafkaError(KafkaError._FATAL)
            await give_up(sink, batch("b", range(10, 20)))
            proxy.heal()
            await until_taken(sink, batch("b", range(10, 20)))

        assert set(kafka_topics.ids(service, topic)) == set(ids(range(20)))

    async def test_a_batch_that_was_given_up_for_good_does_not_hold_up_others(self, broken):
        """What delivery has set aside elsewhere is left on its way, and the next batch arrives."""
        service, proxy = broken
        topic = new_topic()
        async with opened(make_sink(proxy.port, topic)) as sink:
            await sink.send(batch("a", [1]), {})
            proxy.hang()
            await give_up(sink, batch("b", [2]))
            proxy.heal()
            await until_taken(sink, batch("c", [3]))

        stored = kafka_topics.ids(service, topic)
        assert {"id-1", "id-3"} <= set(stored)
        assert len(stored) == len(set(stored))

    @MODES
    async def test_no_answer_is_said_before_the_time_limit(self, broken, mode):
        """The sink says what it waits for, instead of being cancelled in silence."""
        _service, proxy = broken
        topic = new_topic()
        async with opened(make_sink(proxy.port, topic, mode=mode, send_timeout_s=2.0)) as sink:
            await sink.send(batch("a", [1]), {})
            proxy.hang()
            with pytest.raises(SinkUnavailable, match="no answer in time while"):
                async with asyncio.timeout(2.0):
                    await sink.send(batch("b", [2]), {})
            proxy.heal()
            await until_taken(sink, batch("b", [2]))


class TestBroker:
    @MODES
    async def test_a_broker_that_is_killed_and_restarted_has_each_event_once(self, own_kafka, mode):
        """The same server goes on where it was: its producer's sequence tells copies apart."""
        topic = new_topic()
        options = {"mode": mode, "compression": "none"}
        async with opened(make_sink(own_kafka.port, topic, **options)) as sink:
            await sink.send(batch("a", range(10)), {})
            sending = asyncio.create_task(until_taken(sink, batch("b", range(10, 20_000))))
            await asyncio.sleep(0)
            await asyncio.to_thread(own_kafka.kill)
            with pytest.raises(SinkUnavailable, match="no broker can be reached"):
                await probe(own_kafka, topic)
            await asyncio.to_thread(own_kafka.start)
            await sending

        assert sorted(kafka_topics.ids(own_kafka, topic)) == ids(range(20_000))

    @MODES
    async def test_a_broker_that_hangs_and_goes_on_has_each_event_once(self, own_kafka, mode):
        """It may have stored what it did not answer."""
        topic = new_topic()
        async with opened(make_sink(own_kafka.port, topic, mode=mode)) as sink:
            await sink.send(batch("a", range(10)), {})
            own_kafka.pause()
            await give_up(sink, batch("b", range(10, EVENTS)))
            own_kafka.resume()
            await until_taken(sink, batch("b", range(10, EVENTS)))

        assert sorted(kafka_topics.ids(own_kafka, topic)) == ids(range(EVENTS))


async def probe(service, topic):
    sink = make_sink(service.port, topic)
    try:
        await sink.check()
    finally:
        await sink.close()
