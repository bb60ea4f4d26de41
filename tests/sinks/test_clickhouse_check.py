"""What is wrong with a ClickHouse is said in one clear line, by `check` and by a server."""

import json
import urllib.request

import pytest

from segsrv.errors import SinkMisconfigured, SinkRejected, SinkUnavailable
from segsrv.sinks.clickhouse.answers import error_of
from tests.command import segsrv
from tests.server_process import ServerProcess
from tests.services.free_ports import release_port, take_port
from tests.sinks.clickhouse_sinks import new_table
from tests.waiting import wait_until

SECRET = "hunter2"
CANNOT_START = 3


def config(folder, port, *, user="writer", database="default", table="events", more=""):
    path = folder / "segsrv.toml"
    path.write_text(
        f'[[sinks]]\nname = "ch"\nurl = "clickhouse://{user}@127.0.0.1:{port}/{database}"\n'
        f'secrets.password = {{ env = "CH" }}\noptions.table = "{table}"\n'
        f"batch_interval_s = 0.05\nretry_s_max = 0.2\n{more}\n"
    )
    return path


def check(folder, port, *, password="right", **parts):
    config(folder, port, **parts)
    return segsrv("check", "--config", "segsrv.toml", cwd=folder, CH=password)


@pytest.fixture(params=["chdb", "old_clickhouse"])
def service(request):
    """Each of the two ClickHouses."""
    return request.getfixturevalue(request.param)


class TestCheck:
    def test_all_is_well(self, service, tmp_path):
        """It says where events would go, and makes no table."""
        table = new_table()
        ended = check(tmp_path, service.port, table=table)

        assert ended.returncode == 0, ended.stderr
        assert f"ch (clickhouse://127.0.0.1:{service.port}/default, table {table})" in ended.stdout
        assert service.query(f"EXISTS TABLE {table}") == "0\n"

    @pytest.mark.parametrize(
        ("parts", "line"),
        [
            ({"password": SECRET}, "wrong user or password"),
            ({"user": "nobody"}, "wrong user or password"),
            ({"database": "nowhere"}, "missing database: "),
            ({"table": "nowhere", "more": "options.create = false"}, "missing table, to be made "),
            ({"user": "reader", "table": "readable"}, "missing right: "),
        ],
        ids=["password", "user", "database", "table", "right"],
    )
    def test_what_is_wrong_is_told_apart(self, service, tmp_path, parts, line):
        """In one line that holds no secret."""
        service.query(
            "CREATE TABLE IF NOT EXISTS readable (received_at DateTime, event String) "
            "ENGINE = MergeTree PARTITION BY received_at ORDER BY received_at"
        )
        ended = check(tmp_path, service.port, **parts)

        head = f"sinks.ch: clickhouse://127.0.0.1:{service.port}/"
        assert ended.returncode == CANNOT_START
        assert head in ended.stderr
        assert line in ended.stderr
        assert ended.stderr.count("\n") == 1
        assert SECRET not in ended.stderr

    def test_nobody_listens(self, tmp_path):
        """As while a server is down."""
        port = take_port()
        ended = check(tmp_path, port)
        release_port(port)

        assert ended.returncode == CANNOT_START
        assert f"127.0.0.1:{port}/default: Connection refused\n" in ended.stderr
        assert ended.stderr.count("\n") == 1

    def test_the_statement_for_a_missing_table_can_be_run(self, service, tmp_path):
        """As it is printed; the check is then content, and so is a server."""
        table, more = new_table(), "options.create = false"
        ended = check(tmp_path, service.port, table=table, more=more)
        service.query(ended.stderr.partition("to be made by: ")[2])

        assert check(tmp_path, service.port, table=table, more=more).returncode == 0

    def test_a_body_that_the_server_can_not_read_is_no_fault_of_the_events(
        self, old_clickhouse, tmp_path
    ):
        """An old server takes a compressed body for rows: that is said before any are sent."""
        table, more = new_table(), 'options.compress = "zstd"'
        old_clickhouse.query(
            f"CREATE TABLE {table} (received_at DateTime, event String) "
            "ENGINE = MergeTree PARTITION BY received_at ORDER BY received_at"
        )
        ended = check(tmp_path, old_clickhouse.port, table=table, more=more)

        assert ended.returncode == CANNOT_START
        assert "not accepted: " in ended.stderr
        assert ended.stderr.count("\n") == 1

    def test_a_table_without_a_window_is_warned_of(self, chdb, tmp_path):
        """By `check` as well, which ends well."""
        table = new_table()
        chdb.query(
            f"CREATE TABLE {table} (received_at DateTime, event String) "
            "ENGINE MergeTree ORDER BY received_at"
        )
        ended = check(tmp_path, chdb.port, table=table)

        assert ended.returncode == 0
        assert ended.stderr.startswith("segsrv: warning: sinks.ch: clickhouse://127.0.0.1:")
        assert "ALTER TABLE `default`.`" in ended.stderr
        assert ended.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        ("url", "line"),
        [
            ("clickhouse:events", "expected clickhouse://USER@HOST:PORT/DATABASE?table=TABLE"),
            ("clickhouse://host:port/a", "expected clickhouse://"),
            ("clickhouse://host/a/b", "expected clickhouse://"),
            ("clickhouse://host/a?table=", "table"),
            ("clickhouse://u:hunter2%0A@host/a", "holds a control character"),
            ("clickhouse://host/a?ca_file=/nowhere", "ca_file is for clickhouses: URLs only"),
            ("clickhouses://host/a?ca_file=/nowhere", "ca_file=/nowhere: No such file"),
        ],
    )
    def test_a_url_that_can_not_be_is_refused(self, tmp_path, url, line):
        """Before anything is asked."""
        ended = segsrv("check", "--sink", url, cwd=tmp_path)

        assert ended.returncode == 2
        assert line in ended.stderr
        assert SECRET not in ended.stderr


class TestServer:
    def test_events_arrive_once_their_table_can_be_made(self, chdb, tmp_path):
        """A server starts without it and takes events meanwhile; nothing is lost or doubled."""
        table = new_table()
        path = config(tmp_path, chdb.port, database="later", table=table)
        environ = {"CH": "right"}
        with ServerProcess(tmp_path / "data", "--config", str(path), environ=environ) as server:
            wait_until(lambda: "missing database" in server.stderr)
            post(server, [{"type": "track", "event": "Order Done", "messageId": "m1"}])
            chdb.query("CREATE DATABASE later")
            wait_until(lambda: "works again" in server.stderr)
            post(server, [{"type": "page", "messageId": f"p{number}"} for number in range(500)])
            wait_until(lambda: chdb.count(f"later.{table}") == 501)
            rows = chdb.rows(f"SELECT event_name, type FROM later.{table} WHERE type = 'track'")

        assert rows == [{"event_name": "Order Done", "type": "track"}]
        assert len(set(chdb.ids(f"later.{table}"))) == 501

    def test_refused_events_are_set_aside_and_the_others_arrive(self, chdb, tmp_path):
        """One of 500 by a constraint: a dead letter, and 499 rows."""
        table = new_table()
        path = config(tmp_path, chdb.port, table=table)
        with ServerProcess(
            tmp_path / "data", "--config", str(path), environ={"CH": "right"}
        ) as server:
            wait_until(lambda: chdb.query(f"EXISTS TABLE {table}") == "1\n")
            chdb.query(
                f"ALTER TABLE {table} ADD CONSTRAINT no CHECK ifNull(event_name, '') != 'no'"
            )
            names = ["yes"] * 321 + ["no"] + ["yes"] * 178
            post(server, [{"type": "track", "event": name} for name in names])
            wait_until(lambda: chdb.count(table) == 499)
            letters = list((tmp_path / "data" / "dead-letter").glob("*"))
            kept = [json.loads(line) for path in letters for line in path.read_bytes().splitlines()]

        assert [letter["item"]["event"] for letter in kept] == ["no"]


def post(server, batch):
    request = urllib.request.Request(
        f"{server.url.rstrip('/')}/v1/batch",
        data=json.dumps({"batch": batch, "writeKey": "test-key"}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            (500, 241, SinkUnavailable),  # Memory.
            (500, 243, SinkUnavailable),  # No room on the disk.
            (500, 75, SinkUnavailable),  # As above, while writing.
            (500, 252, SinkUnavailable),  # Too many parts.
            (500, 202, SinkUnavailable),  # Too many queries.
            (500, 216, SinkUnavailable),  # The try before still runs.
            (500, 319, SinkUnavailable),  # Unknown whether a quorum has it.
            (500, 999_999, SinkUnavailable),  # New in some release.
            (403, 497, SinkMisconfigured),
            (500, 115, SinkMisconfigured),
            (502, 0, SinkUnavailable),
            (429, 0, SinkUnavailable),
            (301, 0, SinkMisconfigured),
            (403, 0, SinkMisconfigured),
            (413, 0, SinkMisconfigured),
            (422, 0, SinkMisconfigured),
            (500, 469, SinkRejected),
            (400, 27, SinkRejected),
        ],
    )
    def test_only_what_is_about_a_value_refuses_events(self, status, code, kind):
        """By the server's own code: no proxy and no overload makes a dead letter."""
        body = f"Code: {code}. DB::Exception: words" if code else "<html>"
        assert type(error_of(status, code, body, may_reject=True)) is kind

    def test_old_servers_have_the_code_in_the_text_only(self):
        """As 18.16."""
        body = "Code: 60, e.displayText() = DB::Exception: Table a.b doesn't exist., e.what() = x"
        assert str(error_of(404, 0, body)) == "missing table: Table a.b doesn't exist (code 60)"
