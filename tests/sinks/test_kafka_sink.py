"""The Kafka sink against a real broker: what arrives, what is refused, and what it says."""

import hashlib

import orjson
import pytest
from confluent_kafka.admin import AclOperation, ResourceType

from segsrv.errors import SettingsError, SinkMisconfigured, SinkRejected, SinkUnavailable
from segsrv.sinks import registry
from segsrv.sinks.base import Delivered
from segsrv.sinks.kafka.transactional import METADATA_BYTES_MAX, decoded, encoded
from tests.needs import skip_or_fail
from tests.services import kafka_topics
from tests.services.kafka_service import USERS
from tests.sinks.kafka_sinks import (
    RECEIVED_MS,
    batch,
    batch_of,
    deliver,
    event,
    make_sink,
    new_topic,
    opened,
    settings_of,
)
from tests.waiting import until

MODES = pytest.mark.parametrize("mode", ["idempotent", "transactional"])


def ids(numbers):
    return [f"id-{number}" for number in numbers]


class TestRecords:
    @MODES
    async def test_each_event_is_a_record(self, kafka, mode):
        """The value is the stored line, and headers say what is known of it without parsing."""
        topic = new_topic()
        async with opened(make_sink(kafka.port, topic, mode=mode)) as sink:
            await sink.send(batch("b", range(3)), {})
        stored = kafka_topics.records(kafka, topic)

        assert sorted(message.value() for message in stored) == sorted(
            orjson.dumps(event(number)) for number in range(3)
        )
        first = next(m for m in stored if kafka_topics.header(m, "event_id") == "id-0")
        assert dict(first.headers()) == {
            "event_id": b"id-0",
            "type": b"track",
            "key_id": b"key",
            "format": b"compat",
            "received_ms": str(RECEIVED_MS).encode(),
        }
        assert first.key() is None

    async def test_what_is_not_known_is_no_header(self, kafka):
        """Events that an earlier release wrote down have none."""
        topic = new_topic()
        known = {"key_id": "", "format": "", "type": "", "received_ms": 0}
        async with opened(make_sink(kafka.port, topic)) as sink:
            await sink.send(batch("b", [1], **known), {})
        (stored,) = kafka_topics.records(kafka, topic)

        assert dict(stored.headers()) == {"event_id": b"id-1"}

    async def test_a_nul_in_an_id_does_not_end_it(self, kafka):
        """Clients choose ids, and C ends its texts there."""
        topic = new_topic()
        async with opened(make_sink(kafka.port, topic, key="event_id")) as sink:
            await sink.send(batch_of("b", [event(1, event_id="a\x00b")]), {})
        (stored,) = kafka_topics.records(kafka, topic)

        assert kafka_topics.header(stored, "event_id") == "a\x00b"
        assert stored.key() == b"a\x00b"

    @pytest.mark.parametrize(
        ("key", "expected"),
        [
            ("user_id", b"user-1"),
            ("anonymous_id", b"anonymous"),
            ("key_id", b"key"),
            ("event_id", b"id-1"),
        ],
    )
    async def test_the_key_is_what_the_option_says(self, kafka, key, expected):
        """Events of one key are in one partition, in order."""
        topic = new_topic()
        known = {"ajs_user_id": "user-1", "ajs_anonymous_id": "anonymous"}
        async with opened(make_sink(kafka.port, topic, key=key)) as sink:
            await sink.send(batch_of("b", [event(1, ids=known)]), {})

        assert [m.key() for m in kafka_topics.records(kafka, topic)] == [expected]

    @pytest.mark.parametrize(
        ("user_id", "expected"),
        [
            (17, b"17"),
            ("x" * 300, hashlib.sha256(b"x" * 300).hexdigest().encode()),
            ({"no": "text"}, None),
            ("", None),
            (True, None),
        ],
        ids=["number", "long", "object", "empty", "bool"],
    )
    async def test_a_user_id_of_any_kind_gives_a_key_or_none(self, kafka, user_id, expected):
        """Clients choose them: what is no text is no key, and a long one does not repeat itself."""
        topic = new_topic()
        async with opened(make_sink(kafka.port, topic, key="user_id")) as sink:
            await sink.send(batch_of("b", [event(1, ids={"ajs_user_id": user_id})]), {})

        assert [m.key() for m in kafka_topics.records(kafka, topic)] == [expected]

    async def test_half_of_a_surrogate_pair_becomes_a_replacement(self, kafka):
        """JSON can write it and UTF-8 can't; the value stays as it is."""
        topic = new_topic()
        line = b'{"eventn_ctx":{"event_id":"id-1","ids":{"ajs_user_id":"a\\ud800"}}}\n'
        unit = batch("b", [1])
        unit.parts = (line,)
        async with opened(make_sink(kafka.port, topic, key="user_id")) as sink:
            await sink.send(unit, {})
        (stored,) = kafka_topics.records(kafka, topic)

        assert stored.value() == line[:-1]
        assert stored.key().decode().startswith("a\N{REPLACEMENT CHARACTER}")

    async def test_the_format_says_where_the_user_id_is(self, kafka):
        """A flat event has no context around its ids, and one of unknown format shows it."""
        topic = new_topic()
        flat = event(1) | {"ids": {"ajs_user_id": "flat"}}
        async with opened(make_sink(kafka.port, topic, key="user_id")) as sink:
            await sink.send(batch_of("a", [flat], format="flat"), {})
            await sink.send(batch_of("b", [flat], format=""), {})
            await sink.send(batch_of("c", [flat | {"userId": "raw"}], format="segment"), {})

        keys = [m.key() for m in kafka_topics.records(kafka, topic)]
        assert sorted(keys) == [b"flat", b"raw", b"user-1"]

    @pytest.mark.parametrize("compression", ["zstd", "lz4", "gzip", "none"])
    async def test_consumers_read_every_compression(self, kafka, compression):
        """The codec is the producer's to choose."""
        topic = new_topic()
        async with opened(make_sink(kafka.port, topic, compression=compression)) as sink:
            await sink.send(batch("b", range(50)), {})

        assert sorted(kafka_topics.ids(kafka, topic)) == sorted(ids(range(50)))


class TestSizes:
    @MODES
    async def test_an_event_too_large_is_refused_before_anything_is_sent(self, kafka, mode):
        """All that are too large are named, and their neighbours are stored once."""
        topic = new_topic()
        kafka_topics.make(kafka, topic, max_message_bytes=10_000)
        events = [event(n, size=20_000 if n in (3, 7) else 500) for n in range(20)]
        whole = batch_of("b", events)
        async with opened(make_sink(kafka.port, topic, mode=mode)) as sink:
            with pytest.raises(SinkRejected, match="larger than 10000 bytes") as caught:
                await sink.send(whole, {})
            assert caught.value.indexes == (3, 7)
            assert kafka_topics.ids(kafka, topic) == []
            assert await deliver(sink, whole) == ids([3, 7])

        others = [n for n in range(20) if n not in (3, 7)]
        assert sorted(kafka_topics.ids(kafka, topic)) == sorted(ids(others))

    @MODES
    async def test_small_events_do_not_add_up_to_a_batch_too_large(self, kafka, mode):
        """The limit is for a batch of records; thousands of small ones are many batches."""
        topic = new_topic()
        kafka_topics.make(kafka, topic, max_message_bytes=5_000)
        async with opened(make_sink(kafka.port, topic, mode=mode, compression="none")) as sink:
            await sink.send(batch("b", range(3_000)), {})

        assert sorted(kafka_topics.ids(kafka, topic)) == sorted(ids(range(3_000)))

    @pytest.mark.parametrize("spare", [-1, 0])
    async def test_the_limit_is_exact_enough(self, kafka, spare):
        """What is just refused here is less than 1 % below what the broker takes."""
        topic = new_topic()
        limit = 100_000
        kafka_topics.make(kafka, topic, max_message_bytes=limit)
        size = limit - 1_000 if spare == 0 else limit
        unit = batch("b", [1], size=size)
        async with opened(make_sink(kafka.port, topic, compression="none")) as sink:
            refused = await deliver(sink, unit)

        assert refused == ([] if spare == 0 else ["id-1"])

    @MODES
    async def test_a_limit_that_was_lowered_refuses_only_what_is_larger(self, kafka, mode):
        """The broker refuses whole batches then; neighbours are stored, each once."""
        topic = new_topic()
        kafka_topics.make(kafka, topic, max_message_bytes=100_000)
        options = {"mode": mode, "compression": "none"}
        async with opened(make_sink(kafka.port, topic, **options)) as sink:
            await sink.send(batch("first", range(5)), {})
            kafka_topics.configure(kafka, topic, "max.message.bytes", 6_000)
            events = [event(n, size=20_000 if n == 8 else 500) for n in range(5, 60)]
            refused = await deliver(sink, batch_of("second", events))

        assert refused == ["id-8"]
        others = [n for n in range(60) if n != 8]
        assert sorted(kafka_topics.ids(kafka, topic)) == sorted(ids(others))

    @MODES
    async def test_a_limit_that_was_raised_is_noticed(self, kafka, mode):
        """Before an event is refused for its size, the topic is asked again."""
        topic = new_topic()
        kafka_topics.make(kafka, topic, max_message_bytes=5_000)
        async with opened(make_sink(kafka.port, topic, mode=mode)) as sink:
            kafka_topics.configure(kafka, topic, "max.message.bytes", 100_000)
            await sink.send(batch("b", [1], size=20_000), {})

        assert kafka_topics.ids(kafka, topic) == ["id-1"]

    @MODES
    async def test_a_record_that_the_broker_refuses_is_found(self, kafka, mode):
        """A compacted topic takes none without a key; the batch is split until it is alone."""
        topic = new_topic()
        kafka_topics.make(kafka, topic, cleanup_policy="compact")
        events = [event(n, ids={"ajs_user_id": "" if n == 5 else "u"}) for n in range(12)]
        async with opened(make_sink(kafka.port, topic, mode=mode, key="user_id")) as sink:
            refused = await deliver(sink, batch_of("b", events))

        assert refused == ["id-5"]
        assert sorted(kafka_topics.ids(kafka, topic)) == sorted(ids(n for n in range(12) if n != 5))


class TestAgain:
    @MODES
    async def test_a_batch_that_comes_again_is_stored_once(self, kafka, mode):
        """Delivery sends it again when it does not know that it arrived."""
        topic = new_topic()
        async with opened(make_sink(kafka.port, topic, mode=mode)) as sink:
            await sink.send(batch("b", range(10)), {})
            await sink.send(batch("b", range(10)), {})

        assert sorted(kafka_topics.ids(kafka, topic)) == sorted(ids(range(10)))

    async def test_a_restart_knows_what_the_last_transaction_stored(self, kafka):
        """The id and the ends are in the transaction, so a restart neither loses nor repeats."""
        topic = new_topic()
        options = {"mode": "transactional"}
        async with opened(make_sink(kafka.port, topic, **options)) as sink:
            assert await sink.delivered() == Delivered("", {})
            await sink.send(batch("a", range(5), ends={"j1": (100, 2), "j2": (7, 0)}), {})
            await sink.send(batch("b", range(5, 9), ends={"j1": (200, 0)}), {})
        async with opened(make_sink(kafka.port, topic, **options)) as sink:
            # Old ends beside a newer id would be believed of events that came in between.
            assert await sink.delivered() == Delivered("b", {"j1": (200, 0)})
            await sink.send(batch("b", range(5, 9)), {})

        assert sorted(kafka_topics.ids(kafka, topic)) == sorted(ids(range(9)))

    async def test_a_copy_of_the_data_directory_has_a_record_of_its_own(self, kafka):
        """Two servers with one record would each take the other's batches for stored."""
        topic = new_topic()
        options = {"mode": "transactional"}
        async with (
            opened(make_sink(kafka.port, topic, origin="one", **options)) as one,
            opened(make_sink(kafka.port, topic, origin="two", **options)) as two,
        ):
            await one.send(batch("a", [1], ends={"j": (1, 0)}), {})
            assert await two.delivered() == Delivered("", {})
            await two.send(batch("b", [2], ends={"j": (2, 0)}), {})
            await one.send(batch("c", [3], ends={"j": (3, 0)}), {})

        assert sorted(kafka_topics.ids(kafka, topic)) == ids([1, 2, 3])

    async def test_a_replay_leaves_deliverys_record_alone(self, kafka):
        """It reads none and writes none, and delivery goes on beside it."""
        topic = new_topic()
        options = {"mode": "transactional"}
        async with opened(make_sink(kafka.port, topic, **options)) as sink:
            await sink.send(batch("a", [1], ends={"j": (1, 0)}), {})
            async with opened(make_sink(kafka.port, topic, is_once=True, **options)) as replay:
                assert await replay.delivered() == Delivered("", {})
                await replay.send(batch("replay-a", [1]), {})
            await sink.send(batch("b", [2], ends={"j": (2, 0)}), {})
        async with opened(make_sink(kafka.port, topic, **options)) as sink:
            assert await sink.delivered() == Delivered("b", {"j": (2, 0)})

    def test_the_record_fits_however_many_journals_there_are(self):
        """Of too many ends some are left out; a cursor knows them."""
        ends = {f"{number:032x}": (10**12 + number, 3) for number in range(256)}
        text = encoded(Delivered("b" * 100, ends))

        assert len(text) <= METADATA_BYTES_MAX
        known = decoded(text)
        assert known.batch_id == "b" * 100
        assert known.ends.items() <= ends.items()
        assert len(known.ends) > 50

    @pytest.mark.parametrize("text", [None, "", "no JSON", "[]", '{"ends":{"j":1}}'])
    def test_metadata_of_others_is_no_record(self, text):
        """Somebody may use the group for something else."""
        assert decoded(text) == Delivered("", {})


class TestTopic:
    @MODES
    async def test_check_changes_nothing_and_open_makes_the_topic(self, kafka, mode):
        """`segsrv check` asks whether the broker would let it be made."""
        topic = new_topic()
        async with opened(make_sink(kafka.port, new_topic())):
            sink = make_sink(kafka.port, topic, mode=mode, partitions=3)
            await sink.check()
            assert topic not in kafka_topics.names(kafka)
            await sink.open()
            await sink.close()

        found = kafka.admin().list_topics(topic, timeout=20).topics[topic]
        assert len(found.partitions) == 3

    async def test_create_false_prints_the_command(self, kafka):
        """Also on a broker that makes topics by itself when somebody asks for one."""
        topic = new_topic()
        options = {"create": False, "partitions": 3, "replication_factor": 1}
        sink = make_sink(kafka.port, topic, **options)
        command = (
            f"kafka-topics.sh --bootstrap-server 127.0.0.1:{kafka.port} --create --topic {topic} "
            "--partitions 3 --replication-factor 1"
        )
        for ask in (sink.check, sink.open):
            with pytest.raises(SinkMisconfigured, match="there is no topic") as caught:
                await ask()
            assert str(caught.value).endswith(command)
        await sink.close()
        assert topic not in kafka_topics.names(kafka)

    async def test_a_replication_that_the_cluster_can_not_have_is_said(self, kafka):
        """One broker can't keep three copies."""
        sink = make_sink(kafka.port, new_topic(), replication_factor=3)
        with pytest.raises(SinkMisconfigured, match="replication factor"):
            await sink.check()
        await sink.close()

    async def test_a_compacted_topic_without_keys_is_said(self, kafka):
        """It would refuse every event."""
        topic = new_topic()
        kafka_topics.make(kafka, topic, cleanup_policy="compact")
        sink = make_sink(kafka.port, topic)
        with pytest.raises(SinkMisconfigured, match="compacted"):
            await sink.check()
        await sink.close()

    @MODES
    async def test_a_topic_that_is_deleted_is_made_again(self, kafka, mode):
        """Later batches arrive without a restart of the server."""
        topic = new_topic()
        async with opened(make_sink(kafka.port, topic, mode=mode)) as sink:
            await sink.send(batch("a", [1]), {})
            admin = kafka.admin()
            admin.delete_topics([topic])[topic].result(20)
            # What comes while the broker still has its log is taken, and goes with it.
            await until(lambda: topic not in kafka_topics.names(kafka))
            await deliver_through_misconfiguration(sink, batch("b", [2]))

        assert kafka_topics.ids(kafka, topic) == ["id-2"]


async def deliver_through_misconfiguration(sink, unit):
    for _ in range(20):
        try:
            await deliver(sink, unit)
        except SinkMisconfigured:
            continue
        return


class TestRights:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"user": "writer", "password": "wrong"}, "the user 'writer' in: wrong password"),
            ({"user": "nobody", "password": "wrong"}, "the user 'nobody' in: wrong password"),
            (
                {"user": "writer", "sasl_mechanism": "SCRAM-SHA-256"},
                "does not know sasl_mechanism=SCRAM-SHA-256",
            ),
        ],
        ids=["password", "user", "mechanism"],
    )
    async def test_a_login_that_fails_is_said_in_one_line(self, kafka, options, text):
        """Without the password, by `check` and at the start alike."""
        sink = make_sink(kafka.sasl_port, new_topic(), **options)
        for ask in (sink.check, sink.open):
            with pytest.raises(SinkMisconfigured) as caught:
                await ask()
            line = str(caught.value)
            assert text in line
            assert "\n" not in line
            assert "wrong-" not in line
            assert not any(password in line for password in USERS.values())
        await sink.close()

    async def test_a_login_that_works(self, kafka):
        """The password comes from the table's secrets."""
        topic = new_topic()
        async with opened(make_sink(kafka.sasl_port, topic, user="writer")) as sink:
            await sink.send(batch("b", [1]), {})

        assert kafka_topics.ids(kafka, topic) == ["id-1"]

    @MODES
    async def test_rights_that_are_missing_are_named(self, kafka, mode):
        """A user who may see a topic and not write there is told so, before the first event."""
        seen, hidden = new_topic(), new_topic()
        for topic, operation in ((seen, AclOperation.DESCRIBE), (hidden, AclOperation.WRITE)):
            kafka_topics.make(kafka, topic)
            user = "reader" if topic == seen else "writer"
            kafka_topics.allow(kafka, ResourceType.TOPIC, topic, user, operation)
        for topic, text in (
            (seen, f"the user 'reader' has no right to WRITE on the topic {seen}"),
            (hidden, f"the user 'reader' has no right to the topic {hidden}"),
        ):
            sink = make_sink(kafka.sasl_port, topic, user="reader", mode=mode)
            for ask in (sink.check, sink.open):
                with pytest.raises(SinkMisconfigured) as caught:
                    await ask()
                assert text in str(caught.value)
            await sink.close()

    async def test_a_limit_that_may_not_be_read_can_be_given(self, kafka):
        """The right to read a topic's settings is one of its own."""
        topic = new_topic()
        kafka_topics.make(kafka, topic)
        kafka_topics.allow(kafka, ResourceType.TOPIC, topic, "writer", AclOperation.WRITE)
        sink = make_sink(kafka.sasl_port, topic, user="writer")
        with pytest.raises(SinkMisconfigured, match=r"DESCRIBE_CONFIGS.*message_bytes_max"):
            await sink.open()
        await sink.close()
        options = {"user": "writer", "message_bytes_max": 5_000}
        async with opened(make_sink(kafka.sasl_port, topic, **options)) as sink:
            events = [event(1), event(2, size=9_000)]
            assert await deliver(sink, batch_of("b", events)) == ["id-2"]

        assert kafka_topics.ids(kafka, topic) == ["id-1"]

    async def test_a_transactional_id_that_is_not_allowed_is_said(self, kafka):
        """Transactions need more rights than records do."""
        topic, origin = new_topic(), "guarded"
        name = f"segsrv-{origin}-kafka"
        kafka_topics.allow(kafka, ResourceType.TRANSACTIONAL_ID, name, "reader", AclOperation.WRITE)
        options = {"user": "writer", "mode": "transactional", "origin": origin}
        sink = make_sink(kafka.sasl_port, topic, **options)
        with pytest.raises(SinkMisconfigured, match=r"no right to the transactional ids segsrv-\*"):
            await sink.open()
        await sink.close()

    @pytest.mark.parametrize("url", ["kafka://127.0.0.1:1/t", "kafka://no-such-host.invalid/t"])
    async def test_a_broker_that_is_not_there_may_come_back(self, url):
        """A server that is down is no wrong setting."""
        (built,) = registry.build(settings_of(url))
        with pytest.raises(SinkUnavailable, match="no broker can be reached: "):
            await built.sink.check()
        await built.sink.close()


class TestTls:
    async def test_events_go_through_tls(self, kafka):
        """With the authority's certificate, TLS is on without another word."""
        topic = new_topic()
        options = {"ca_file": str(certificate_of(kafka))}
        async with opened(make_sink(kafka.tls_port, topic, **options)) as sink:
            await sink.send(batch("b", [1]), {})

        assert kafka_topics.ids(kafka, topic) == ["id-1"]

    async def test_a_certificate_that_is_not_trusted_is_said(self, kafka):
        """It does not get better by waiting."""
        certificate_of(kafka)
        sink = make_sink(kafka.tls_port, new_topic(), security_protocol="ssl")
        with pytest.raises(SinkMisconfigured, match="certificate"):
            await sink.check()
        await sink.close()

    async def test_a_broker_without_tls_is_said(self, kafka):
        """The message says what a client that speaks TLS met there."""
        sink = make_sink(kafka.port, new_topic(), security_protocol="ssl")
        with pytest.raises(SinkUnavailable, match="SSL handshake failed"):
            await sink.check()
        await sink.close()

    async def test_a_missing_file_is_said(self, kafka, tmp_path):
        """Before anything is sent."""
        sink = make_sink(kafka.tls_port, new_topic(), ca_file=str(tmp_path / "none.pem"))
        with pytest.raises(SinkMisconfigured, match=r"none\.pem can't be read"):
            await sink.check()
        await sink.close()


def certificate_of(kafka):
    if kafka.certificate is None:
        skip_or_fail("this needs the openssl command")
    return kafka.certificate


class TestSettings:
    @pytest.mark.parametrize(
        ("url", "options", "text"),
        [
            ("kafka://host", {}, "expected kafka://HOST:PORT/TOPIC"),
            ("kafka:host/topic", {}, "expected kafka://HOST:PORT/TOPIC"),
            ("kafka://host/a/b", {}, "the topic 'a/b'"),
            ("kafka://host/..", {}, "the topic '..'"),
            ("kafka://host/" + "x" * 250, {}, "expected at most 249"),
            ("kafka://host:99999/t", {}, "the broker 'host:99999': expected HOST or HOST:PORT"),
            ("kafka://host/t", {"brokers": ["a b"]}, "the broker 'a b'"),
            ("kafka://u@host/t", {}, "security_protocol=sasl_ssl: needs user, password"),
            ("kafka://u:hunter2@host/t", {"username": "v"}, "the user is given twice"),
            (
                "kafka://u:hunter2@host/t",
                {"security_protocol": "plaintext"},
                "security_protocol=plaintext: knows no user",
            ),
            ("kafka://host/t", {"cert_file": "/c"}, "cert_file and key_file: give both"),
            (
                "kafka://host/t",
                {"ca_file": "/c", "security_protocol": "plaintext"},
                "takes no certificate",
            ),
            ("kafka://u:p/hunter2@host", {}, "expected kafka://HOST:PORT/TOPIC"),
        ],
    )
    def test_what_is_wrong_is_said_without_the_password(self, url, options, text):
        """Before the server starts."""
        with pytest.raises(SettingsError) as caught:
            registry.build(settings_of(url, **options))

        assert text in str(caught.value)
        assert "hunter2" not in str(caught.value)

    def test_other_brokers_and_users_lead_to_the_same_place(self):
        """A broker that is added must not make a sink begin again."""
        names = {
            registry.resolve(settings_of(url, **options))[0].cursor_name
            for url, options in (
                ("kafka://u:p@HOST/topic", {}),
                ("kafka://host:9092,other/topic", {}),
                ("kafka://host/topic", {"brokers": ["third:9093"], "mode": "transactional"}),
            )
        }

        assert len(names) == 1

    def test_a_password_is_sent_in_the_clear_only_if_asked_for(self):
        """A user in the URL means TLS."""
        (built,) = registry.build(settings_of("kafka://u:p@host/topic"))

        assert built.sink._client.protocol == "sasl_ssl"
