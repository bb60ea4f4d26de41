"""Events in PostgreSQL are there exactly once, whatever breaks; what it refuses is found."""

import asyncio
import contextlib
import json
import os

import asyncpg
import pytest

from segsrv.errors import SinkMisconfigured, SinkRejected, SinkUnavailable
from segsrv.sinks.base import Delivered
from segsrv.sinks.postgresql import sink as postgresql
from segsrv.sinks.postgresql.text import storable
from tests.disks import fill
from tests.faults.disks import mount, unmount
from tests.server_process import ServerProcess
from tests.services.postgresql_service import PostgresqlService
from tests.services.proxy import Proxy
from tests.sinks.postgresql_batches import batch, event, make_sink, opened, store
from tests.site import Site, new_id
from tests.waiting import until, wait_until

EVENTS = 5_000
DISK_BYTES = 100 << 20
ONE = "(latitude WITH =) WHERE (latitude >= 18)"
WAITING = "wait_event_type = 'Lock'"
UPLOADING = "query LIKE 'COPY%'"


@pytest.fixture
def proxy(postgresql):
    with Proxy(postgresql.port) as running:
        yield running


@pytest.fixture
def own_server(tmp_path):
    PostgresqlService.require()
    with PostgresqlService(tmp_path / "postgresql") as service:
        yield service


def batch_of(number, events=100, **more):
    return batch(f"batch-{number}", [event(page_title="x" * 500)] * events, **more)


def plain_text(database, proxy):
    """Return a URL that leads through *proxy*, which can read what it passes on."""
    return database.url_of(port=proxy.port) + "?sslmode=disable"


def sessions(database, condition):
    """Return how many sessions of segsrv there are of which *condition* is true."""
    where = f"datname = '{database.name}' AND application_name = 'segsrv' AND {condition}"
    return int(database.sql(f"SELECT count(*) FROM pg_stat_activity WHERE {where}", user="admin"))


async def rejected(url, events, **more):
    """Return the refusal of a batch of *events*."""
    async with opened(url, **more) as sink:
        with pytest.raises(SinkRejected) as refused:
            await sink.send(batch("refused", events), {})
    return refused.value


class TestOnce:
    async def test_a_batch_that_comes_again_is_stored_once(self, database):
        """By the same sink, and by one that was started anew."""
        for _start in range(2):
            async with opened(database.url) as sink:
                for _try in range(2):
                    await sink.send(batch_of(1), {})

        assert database.count() == 100

    async def test_what_was_stored_last_is_told(self, database):
        """To the data directory that it came from, to the same sink and table."""
        ends = {"a" * 32: (1 << 60, 7), "b" * 32: (5, 0)}
        more = {"options": {"table": "other"}}
        async with opened(database.url) as sink:
            assert await sink.delivered() == Delivered("", {})
            await sink.send(batch_of(1, ends=ends), {})
            assert await sink.delivered() == Delivered("batch-1", ends)
            # Old ends beside a newer id would be believed of events that came in between.
            await sink.send(batch_of(2, ends={"b" * 32: (9, 0)}), {})
            assert await sink.delivered() == Delivered("batch-2", {"b" * 32: (9, 0)})
        for other in ({"origin": "c" * 32}, {"name": "second"}, more, {"is_once": True}):
            async with opened(database.url, **other) as sink:
                assert await sink.delivered() == Delivered("", {})

    @pytest.mark.parametrize("has_its_end", [True, False])
    async def test_a_replay_leaves_the_server_alone(self, database, has_its_end):
        """It has a position of its own, which is forgotten when the command ends."""
        async with opened(database.url) as server:
            await server.send(batch_of(1, ends={"a": (1, 0)}), {})
            async with opened(database.url, is_once=True) as replay:
                for number in (1, 1, 2, 2):
                    await replay.send(batch_of(number), {})
                if not has_its_end:
                    replay._connection.terminate()
            assert await server.delivered() == Delivered("batch-1", {"a": (1, 0)})

        assert database.count() == 300
        assert database.count("segsrv_positions") == (1 if has_its_end else 2)
        if not has_its_end:
            database.sql("UPDATE segsrv_positions SET stored_at = now() - interval '1 year'")
            async with opened(database.url, is_once=True):
                assert database.sql("SELECT batch_id FROM segsrv_positions") == "batch-1"

    async def test_rows_and_position_are_one_transaction(self, database):
        """Nobody ever sees one without the other."""
        await store(database.url, [event()])
        stamps = database.sql("SELECT xmin FROM events UNION SELECT xmin FROM segsrv_positions")

        assert len(stamps.split("\n")) == 1

    async def test_a_commit_waits_for_the_disk(self, database):
        """Where the database's owner gave up on that, too: the journal forgets the events."""
        database.sql(f"ALTER DATABASE {database.name} SET synchronous_commit = off", user="admin")
        await store(database.url, [event()])
        database.sql(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " NEW.page_title := current_setting('synchronous_commit'); RETURN NEW; END $$;"
            "CREATE TRIGGER note BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION note()"
        )
        await store(database.url, [event()], batch_id="batch-2")

        assert database.sql("SELECT page_title FROM events WHERE page_title <> ''") == "on"


class TestRefusals:
    @pytest.mark.parametrize(
        ("rule", "text"),
        [
            ("ADD CONSTRAINT adult CHECK (latitude < 18)", 'check constraint "adult"'),
            ("ALTER latitude SET NOT NULL", 'null value in column "latitude"'),
            (
                f"ADD CONSTRAINT one EXCLUDE {ONE} DEFERRABLE INITIALLY DEFERRED",
                'exclusion constraint "one"',
            ),
        ],
        ids=["check", "not_null", "deferred"],
    )
    async def test_all_events_that_a_rule_refuses_are_found_at_once(self, database, rule, text):
        """However it is checked, and nothing of the batch is stored."""
        await store(database.url, [event(location={"latitude": 0})])
        database.sql(f"DELETE FROM events; ALTER TABLE events {rule}")
        refused = {17, 2_000, EVENTS - 1}
        good, bad = event(location={"latitude": 1}), event(location={"latitude": 21})
        if "NOT NULL" in rule:
            bad = event()
        events = [bad if number in refused else good for number in range(EVENTS)]
        error = await rejected(database.url, events)

        # Of those that exclude one another, the first may stay.
        assert set(error.indexes) == (refused - {17} if "EXCLUDE" in rule else refused)
        assert text in str(error)
        assert database.count() == 0
        assert database.sql("SELECT batch_id FROM segsrv_positions") == "before"

    async def test_a_trigger_may_refuse_events(self, database):
        """Its text is the reason, on one line and cut."""
        await store(database.url, [event()])
        database.sql(
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NEW.user_id = 'bad' THEN RAISE 'no %', E'\\n' || repeat('x', 900); END IF;"
            " RETURN NEW; END $$;"
            "CREATE TRIGGER no BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION no()"
        )
        error = await rejected(database.url, [event(), event(ids={"ajs_user_id": "bad"})])

        assert error.indexes == (1,)
        assert ": no xxx" in str(error)
        assert len(str(error)) < 400

    async def test_ids_that_have_to_be_unique_refuse_the_second_event(self, database):
        """As the table's owner asked for."""
        await store(database.url, [event()], ids=["a"])
        database.sql("CREATE UNIQUE INDEX ON events (event_id)")
        async with opened(database.url) as sink:
            with pytest.raises(SinkRejected) as refused:
                await sink.send(batch("b", [event()] * 4, ids=["a", "b", "b", "c"]), {})

        assert refused.value.indexes == (0, 2)

    @pytest.mark.parametrize(
        ("next_number", "text"), [(1, "set it to the highest"), (2**31 - 1, "reached its end")]
    )
    async def test_a_sequence_that_fails_is_the_table_s_fault(self, database, next_number, text):
        """One that is behind, as after a restore, or that is used up would refuse every event."""
        await store(database.url, [event()] * 9)
        database.sql("ALTER TABLE events ADD id serial PRIMARY KEY")
        database.sql(f"SELECT setval('events_id_seq', {next_number}, false)")
        async with opened(database.url) as sink:
            with pytest.raises(SinkMisconfigured, match=text):
                await sink.send(batch("b", [event()] * 3), {})
            database.sql("SELECT setval('events_id_seq', 9)")
            await sink.send(batch("b", [event()] * 3), {})

        assert database.count() == 12

    async def test_an_index_that_cannot_hold_an_id_refuses_its_event(self, database):
        """A btree that somebody made."""
        await store(database.url, [event()])
        database.sql("CREATE INDEX ON events (event_id)")
        long_id = os.urandom(6_000).hex()
        async with opened(database.url) as sink:
            with pytest.raises(SinkRejected) as refused:
                await sink.send(batch("b", [event()] * 2, ids=["a", long_id]), {})

        assert refused.value.indexes == (1,)

    @pytest.mark.parametrize(
        ("line", "index"),
        [
            (b'{"a":1e200000}\n', 1),
            (b'{"a":' + b"[" * 90_000 + b"]" * 90_000 + b"}\n", 1),
            (b"{\n", 1),
            (b'{"a":"\x01\x02"}\n', 1),
            (b'{"a":"\x02"}\n', 1),
            (b'{"a":"\r"}\n', 1),
            (b'{"a":"\0"}\n', 1),
            (b'{"a":"\xff"}\n', 1),
        ],
        ids=["number", "depth", "no_json", "quote", "delimiter", "return", "nul", "no_utf_8"],
    )
    async def test_a_line_that_is_no_event_refuses_itself_alone(self, database, line, index):
        """Mapping lets none of them through; a value is not quoted in the reason."""
        error = await rejected(database.url, [event(), line, event(), event()])

        assert error.indexes == (index,)
        reasons = ("SQLSTATE 22", "stack depth", "control character")
        assert any(reason in str(error) for reason in reasons)

    async def test_a_search_ends_in_time_with_what_it_has_found(self, database):
        """Delivery sends the others as a batch of their own, and what is left is found then."""
        await store(database.url, [event()])
        database.sql(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NEW.user_id = 'bad' THEN PERFORM pg_sleep(0.3); RAISE 'no'; END IF;"
            " RETURN NEW; END $$;"
            "CREATE TRIGGER slow BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION slow()"
        )
        bad = event(ids={"ajs_user_id": "bad"})
        events = [event(), *[bad] * 20]
        error = await rejected(database.url, events, send_timeout_s=4.0)
        # Where the refusal alone took so long, there is no search, and delivery sends two halves.
        slow = await rejected(database.url, events, send_timeout_s=0.6)

        assert error.indexes
        assert set(error.indexes) < set(range(1, 21))
        assert slow.indexes == ()

    async def test_a_refused_event_of_5000_is_set_aside_and_all_others_are_stored(
        self, start_server, database
    ):
        """Its letter says why, and it is the only one."""
        await store(database.url, [event()])
        database.sql("DELETE FROM events; ALTER TABLE events ADD CHECK (event_name <> 'bad')")
        site: Site = start_server("--sink", database.url)
        for part in range(10):
            events = [
                {"type": "track", "event": "bad" if (part, number) == (4, 77) else "good"}
                for number in range(500)
            ]
            answer = site.post({"batch": events}, path="/v1/batch")
            assert answer.status == 200, answer.body

        wait_until(lambda: database.count() == EVENTS - 1)
        [letter] = site.dead_letters()
        assert letter["item"]["event"] == "bad"
        assert 'violates check constraint "events_event_name_check"' in letter["message"]
        assert database.sql("SELECT count(DISTINCT event_id) FROM events") == str(EVENTS - 1)


class TestCuts:
    async def test_a_commit_without_an_answer_is_decided_by_what_is_stored(self, database, proxy):
        """The answer is lost, and the transaction was committed."""
        async with opened(plain_text(database, proxy)) as sink:
            await sink.send(batch_of(1), {})
            proxy.drop_answers(mark=b"COMMIT\0")
            with pytest.raises(SinkUnavailable):
                await sink.send(batch_of(2), {})
            wait_until(lambda: database.count() == 200)
            proxy.heal()
            await sink.send(batch_of(2), {})
            await sink.send(batch_of(3), {})

        assert database.count() == 300
        assert sink.stats.stored_before == 1

    @pytest.mark.parametrize("client_bytes", [1, 400, 30_000, 300_000])
    async def test_a_cut_in_mid_batch_stores_nothing(self, database, proxy, client_bytes):
        """And the next try all of it."""
        async with opened(plain_text(database, proxy)) as sink:
            proxy.cut_after(client_bytes)
            with pytest.raises(SinkUnavailable, match="connection"):
                await sink.send(batch_of(1, EVENTS), {})
            proxy.heal()
            assert database.count() == 0
            await sink.send(batch_of(1, EVENTS), {})

        assert database.count() == EVENTS

    async def test_an_upload_that_never_ends_is_in_nobody_s_way(self, database, proxy):
        """The server does not learn that its client is gone, and waits for the rest."""
        async with opened(plain_text(database, proxy)) as stuck:
            proxy.hang_after(300_000)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await stuck.send(batch_of(1, EVENTS), {})
            assert sessions(database, UPLOADING) == 1
            async with opened(database.url) as sink:
                await sink.send(batch_of(1, EVENTS), {})

        assert database.count() == EVENTS

    async def test_a_first_try_that_still_runs_is_waited_for(self, database):
        """It may yet commit: its position is locked until that is known."""
        await store(database.url, [event()])
        database.sql(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$;"
            "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION wait()"
        )
        async with opened(database.url) as first, opened(database.url) as second:
            blocker = await asyncpg.connect(database.url)
            await blocker.execute("SELECT pg_advisory_lock(42)")
            tries = [asyncio.create_task(first.send(batch_of(1), {}))]
            await until(lambda: sessions(database, WAITING) == 1)
            tries.append(asyncio.create_task(second.send(batch_of(1), {})))
            await until(lambda: sessions(database, WAITING) == 2)
            await blocker.close()
            await asyncio.gather(*tries)
            assert (first.stats.stored_before, second.stats.stored_before) == (0, 1)

        assert database.count() == 101

    async def test_a_call_that_was_given_up_leaves_the_sink_usable(self, database):
        """A lock of somebody else's is in the way for longer than a call may take."""
        await store(database.url, [event()])
        async with opened(database.url) as sink:
            blocker = await asyncpg.connect(database.url)
            await blocker.execute("BEGIN; LOCK TABLE events IN EXCLUSIVE MODE")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await sink.send(batch_of(1), {})
            await blocker.close()
            await sink.send(batch_of(1), {})

        assert database.count() == 101

    async def test_the_server_gives_up_when_delivery_does(self, database):
        """A statement that takes longer than a call may take ends, and its locks are gone."""
        await store(database.url, [event()])
        async with opened(database.url, send_timeout_s=0.3) as sink:
            blocker = await asyncpg.connect(database.url)
            await blocker.execute("BEGIN; LOCK TABLE events IN EXCLUSIVE MODE")
            with pytest.raises(SinkUnavailable, match="needed too long"):
                await sink.send(batch_of(1), {})
            await blocker.close()


class TestServers:
    @pytest.mark.parametrize("call", ["check", "open"])
    async def test_an_open_that_falls_silent_is_not_held_up(self, own_server, call):
        """The call is cancelled when its time is over, and waits for no answer to that."""
        url = own_server.url_of()
        await store(url, [event()])
        blocker = await asyncpg.connect(url)
        await blocker.execute("BEGIN; LOCK TABLE events")
        sink = make_sink(url)
        opening = asyncio.create_task(getattr(sink, call)())
        where = "application_name = 'segsrv' AND wait_event_type = 'Lock'"
        waiting = f"SELECT count(*) FROM pg_stat_activity WHERE {where}"
        await until(lambda: own_server.sql(waiting) == "1")
        own_server.pause()
        try:
            opening.cancel()
            ended, _others = await asyncio.wait([opening], timeout=10)
            assert ended
        finally:
            own_server.resume()
            await asyncio.wait([opening])
        blocker.terminate()
        await sink.open()
        await sink.close()

    async def test_a_session_that_is_ended_is_made_again(self, database):
        """By an operator, at any time between two batches or in one."""
        async with opened(database.url) as sink:
            for number in range(3):
                database.sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    f" WHERE datname = '{database.name}' AND application_name = 'segsrv'",
                    user="admin",
                )
                with contextlib.suppress(SinkUnavailable):
                    await sink.send(batch_of(number), {})
                await sink.send(batch_of(number), {})

        assert database.count() == 300

    async def test_a_session_does_not_live_for_ever(self, database, monkeypatch):
        """The server can't freeze its temporary table, which in the end would stop all writes."""
        monkeypatch.setattr(postgresql, "CONNECTION_S_MAX", 0.0)
        table = "relname = 'segsrv_lines_1'"
        age = f"SELECT age(relfrozenxid) FROM pg_class WHERE {table}"
        async with opened(database.url) as sink:
            for number in range(10):
                await sink.send(batch_of(number), {})
            assert int(database.sql(age)) < 5
            assert sessions(database, "true") == 1

        assert database.count() == 1_000

    async def test_a_server_that_takes_no_writes_is_unavailable(self, database):
        """It may be a standby that is about to be the primary."""
        await store(database.url, [event()])
        database.sql(
            f"ALTER DATABASE {database.name} SET default_transaction_read_only = on", user="admin"
        )
        # Transactions ask to write, as only a standby would refuse.
        await store(database.url, [event()], batch_id="batch-2")

        assert database.count() == 2

    async def test_too_many_connections_are_unavailable(self, database):
        """Nobody has to mend anything but wait."""
        database.sql(f"ALTER DATABASE {database.name} CONNECTION LIMIT 0", user="admin")
        with pytest.raises(SinkUnavailable, match="53300"):
            await make_sink(database.url).open()

    async def test_a_server_that_is_killed_or_frozen_has_each_event_once(
        self, own_server, tmp_path
    ):
        """Requests go on, and so does delivery when it is back; segsrv is killed, too."""
        config = tmp_path / "segsrv.toml"
        config.write_text(
            f'[[sinks]]\nname = "warehouse"\nurl = "{own_server.url_of()}"\n'
            "send_timeout_s = 1.0\nretry_s_max = 0.2\nbatch_events_max = 50\n"
        )
        ids = set()

        def post(site, count=100):
            events = [{"type": "track", "event": "e", "messageId": new_id()} for _ in range(count)]
            assert site.post({"batch": events}, path="/v1/batch").status == 200
            ids.update(each["messageId"] for each in events)

        def stored():
            return own_server.sql("SELECT event_id FROM events", database="events").split("\n")

        with ServerProcess(tmp_path / "data", "--config", str(config)) as server:
            site = Site(server)
            post(site)
            wait_until(lambda: site.metric("segsrv_sink_events_total", sink="warehouse") == 100)
            own_server.kill()
            post(site)
            own_server.start()
            post(site)
            own_server.pause()
            post(site)
            wait_until(lambda: site.metric("segsrv_sink_retries_total", sink="warehouse") > 0)
            own_server.resume()
            post(site, 400)
            server.kill()
        with ServerProcess(tmp_path / "data", "--config", str(config)):
            wait_until(lambda: len(set(stored())) == len(ids), deadline_s=30)
            assert sorted(stored()) == sorted(ids)

    async def test_a_full_disk_is_unavailable_until_there_is_room(self, tmp_path):
        """The server stays up, and nothing of the batch is stored."""
        PostgresqlService.require()
        disk = tmp_path / "disk"
        disk.mkdir()
        mount(disk, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs")
        try:
            with PostgresqlService(tmp_path / "server", data_dir=disk) as service:
                async with opened(service.url_of()) as sink:
                    await sink.send(batch_of(1), {})
                    fill(disk)
                    with pytest.raises(SinkUnavailable, match="53100"):
                        await sink.send(batch_of(2, EVENTS), {})
                    for path in disk.glob("filler-*"):
                        path.unlink()
                    await sink.send(batch_of(2, EVENTS), {})
                    found = service.sql("SELECT count(*) FROM events", database="events")
                    assert int(found) == 100 + EVENTS
        finally:
            unmount(disk)


def test_characters_that_cannot_be_stored_are_replaced_by_c_alone():
    """Senders decide how many there are; the result is still JSON of the same shape."""
    lines = b'{"a":"' + rb"\u0000\\\\u0000" * 50_000 + b'"}\n'
    replaced, count = storable(lines)

    assert count == 50_000
    assert json.loads(replaced) == {"a": ("\ufffd" + r"\\u0000") * 50_000}
    assert storable(b'{"a":"b"}\n') == (b'{"a":"b"}\n', 0)


def test_the_password_is_in_no_text():
    """Neither of the sink nor of what it knows of its server."""
    sink = make_sink("postgresql://me:hunter2@host/db")

    assert "hunter2" not in f"{sink.describe()} {sink._address!r} {sink!r}"
