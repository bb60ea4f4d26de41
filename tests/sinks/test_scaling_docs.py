"""What docs/scaling.md says of more than one machine is run: consumers, and their statements."""

import contextlib
import re
import signal
import subprocess
import sys

import pytest

from segsrv.sinks.clickhouse.sql import create_table
from tests.server_process import REPOSITORY, ServerProcess
from tests.services import kafka_topics
from tests.site import Site
from tests.waiting import wait_until

SCRIPT = REPOSITORY / "docs" / "kafka_to_postgresql.py"
DOC = REPOSITORY / "docs" / "scaling.md"
EVENTS = 500
END_TIMEOUT_S = 30


@contextlib.contextmanager
def moving(kafka, topic, database):
    """Run the consumer; yield its process."""
    brokers = f"127.0.0.1:{kafka.direct_port}"
    command = [sys.executable, SCRIPT, brokers, topic, database.url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def topic(kafka, database):
    kafka_topics.make(kafka, database.name, partitions=2)
    return database.name


@pytest.fixture
def node(kafka, topic, tmp_path):
    """A server of its own that sends to the topic."""
    config = tmp_path / "segsrv.toml"
    config.write_text(f"""
[[sinks]]
name = "kafka"
url = "kafka://127.0.0.1:{kafka.port}/{topic}"
batch_events_max = 100
batch_interval_s = 0.05
options = {{ mode = "transactional" }}
""")
    with ServerProcess(tmp_path / "data", "--config", str(config)) as process:
        yield Site(process)


def send(node, ids):
    batch = [{"type": "track", "event": "A", "userId": "u", "messageId": one} for one in ids]
    assert node.post({"batch": batch}).status == 200


def ids_of(database):
    exists = database.sql("SELECT to_regclass('kafka_events')")
    return sorted(database.sql("SELECT event_id FROM kafka_events").split()) if exists else []


class TestPostgresql:
    def test_each_event_arrives_once_though_the_consumer_is_killed(
        self, kafka, topic, database, node
    ):
        """Events go from a node through Kafka to a table, each once, over kill -9 and a stop."""
        ids = sorted(f"id-{number:05}" for number in range(EVENTS))
        with moving(kafka, topic, database) as consumer:
            send(node, ids[: EVENTS // 2])
            wait_until(lambda: ids_of(database), deadline_s=END_TIMEOUT_S)
            consumer.kill()
        send(node, ids[EVENTS // 2 :])
        with moving(kafka, topic, database) as consumer:
            # The broker waits for the one that was killed before it lets another go on.
            wait_until(lambda: len(ids_of(database)) >= EVENTS, deadline_s=2 * END_TIMEOUT_S)
            consumer.send_signal(signal.SIGTERM)
            assert consumer.wait(END_TIMEOUT_S) == 0
        assert ids_of(database) == ids
        known = database.sql("SELECT DISTINCT type, format, event ->> 'event' FROM kafka_events")
        assert known == "track|flat|A"

    def test_a_consumer_that_was_replaced_stores_nothing(self, kafka, topic, database, node):
        """One that another has gone on for in the meantime ends, and its batch is not stored."""
        with moving(kafka, topic, database) as consumer:
            send(node, ["first"])
            wait_until(lambda: ids_of(database), deadline_s=END_TIMEOUT_S)
            database.sql("UPDATE kafka_positions SET next = next + 1")
            send(node, [f"late-{number}" for number in range(100)])
            assert consumer.wait(END_TIMEOUT_S) == 1
            assert "another consumer has gone on" in consumer.stderr.read()
        assert ids_of(database) == ["first"]


class TestClickhouse:
    def test_rows_come_from_values_and_headers(self, chdb):
        """The view of the docs fills the sink's own table, from a table like that of the engine."""
        queue, view = re.findall(r"```sql\n(CREATE .*?)```", DOC.read_text(), re.DOTALL)
        assert "ENGINE = Kafka" in queue
        chdb.query("CREATE DATABASE scaling")
        try:
            chdb.query(create_table("scaling.events", 100, is_modern=True))
            chdb.query(
                "CREATE TABLE scaling.events_queue (event String, "
                "`_headers.name` Array(String), `_headers.value` Array(String)) ENGINE = Null"
            )
            chdb.query(re.sub(r"\bevents\w*", r"scaling.\g<0>", view).rstrip("; \n"))
            chdb.query(
                'INSERT INTO scaling.events_queue SELECT \'{"event":"A","groupId":7}\', '
                "['event_id', 'type', 'format', 'key_id', 'received_ms'], "
                "['e1', 'track', 'flat', 'web', '1790000000123']"
            )
            rows = chdb.rows(
                "SELECT event_id, type, format, key_id, event_name, group_id, "
                "toString(received_at) AS received_at FROM scaling.events"
            )
        finally:
            chdb.query("DROP DATABASE scaling")
        assert rows == [
            {
                "event_id": "e1",
                "type": "track",
                "format": "flat",
                "key_id": "web",
                "event_name": "A",
                "group_id": "7",
                "received_at": "2026-09-21 14:13:20.123",
            }
        ]
