"""Events in PostgreSQL: what becomes of their values, and of tables that are not as expected."""

import json

import pytest

from segsrv.errors import SettingsError, SinkMisconfigured, SinkUnavailable
from segsrv.events.columns import COLUMNS, FACTS
from segsrv.settings.sink import Secret
from tests.command import segsrv
from tests.services.postgresql_service import PASSWORD
from tests.sinks.postgresql_batches import batch, event, make_sink, opened, store
from tests.site import COMPAT, FLAT, RAW, Site, new_id
from tests.waiting import wait_until

CANNOT_START, WRONG_SETTINGS = 3, 2
PAGE = {
    "type": "page",
    "userId": 42,
    "anonymousId": "anon",
    "name": "Home",
    "timestamp": "2026-11-23T09:00:00.123456Z",
    "context": {
        "page": {"url": "https://example.com/a", "path": "/a", "title": "A"},
        "campaign": {"name": "winter", "source": "mail"},
        "userAgent": "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
        "locale": "de-DE",
    },
}


def value(database, column, where="true"):
    return database.sql(f"SELECT {column} FROM events WHERE {where}")


def values(database, expression):
    """Return what *expression* is in each row, as JSON has it."""
    return json.loads(database.sql(f"SELECT coalesce(json_agg({expression}), '[]') FROM events"))


class TestRows:
    @pytest.mark.parametrize("path", [FLAT, COMPAT, RAW])
    def test_an_accepted_event_is_a_row_with_columns(self, start_server, database, path):
        """The same columns whatever the format, and the whole stored event beside them."""
        site: Site = start_server("--sink", database.url, "--sink", "file:")
        event_id = new_id()
        assert site.post(PAGE | {"messageId": event_id}, path=path).status == 200

        [stored] = site.stored(event_id)
        wait_until(lambda: database.sql("SELECT to_regclass('events') IS NOT NULL") == "t")
        wait_until(lambda: database.count() == 1)
        columns = (
            "event_id, type, format, key_id <> '', name, user_id, anonymous_id, page_url, page_path"
        )
        more = "page_title, utm_campaign, utm_source, browser, os, language"
        output = {FLAT: "flat", COMPAT: "compat", RAW: "segment"}[path]
        assert value(database, f"{columns}, {more}").split("|") == [
            *(event_id, "page", output, "t", "Home", "42", "anon", "https://example.com/a"),
            *("/a", "A", "winter", "mail", "Firefox", "Linux", "de-DE"),
        ]
        assert value(database, "timestamp AT TIME ZONE 'UTC'") == "2026-11-23 09:00:00.123456"
        assert value(database, "abs(extract(epoch FROM now() - received_at)) < 60") == "t"
        assert json.loads(value(database, "event")) == stored

    async def test_the_table_has_every_column_and_two_indexes(self, database):
        """In the order of the list that all sinks share."""
        await store(database.url, [event()])
        names = database.sql(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'events'"
            " ORDER BY ordinal_position"
        ).split("\n")

        assert names == [*(fact.name for fact in FACTS), *(c.name for c in COLUMNS), "event"]
        indexes = database.sql("SELECT indexdef FROM pg_indexes WHERE tablename = 'events'")
        assert "USING hash (event_id)" in indexes
        assert "USING btree (received_at)" in indexes

    async def test_events_that_share_an_id_are_all_kept(self, database):
        """Ids are the clients', and one of 6 kB is as good as any."""
        long_id = "x" * 6_000
        await store(database.url, [event(), event(), event()], ids=["same", "same", long_id])

        assert value(database, "length(event_id)") == "4\n4\n6000"

    async def test_what_is_not_known_of_an_event_is_null(self, database):
        """As of those that an earlier release wrote down."""
        await store(database.url, [event()], ids=[""], output="")

        assert value(database, "event_id IS NULL, format IS NULL") == "t|t"


class TestValues:
    async def test_a_time_is_one_by_rfc_3339_or_null(self, database):
        """It never costs the batch, and stays in the event."""
        fit = {
            "2026-11-23T09:00:00Z": "2026-11-23T09:00:00",
            "2026-11-23t09:00:00.5z": "2026-11-23T09:00:00.5",
            "2026-11-23T09:00:00.123456999+05:30": "2026-11-23T03:30:00.123456",
            "2024-02-29T23:59:59-12:00": "2024-03-01T11:59:59",
            "0001-01-01T00:00:00Z": "0001-01-01T00:00:00",
            "9999-12-31T23:59:59.9999999Z": "9999-12-31T23:59:59.999999",
        }
        others = [
            *("2026-02-30T00:00:00Z", "2025-02-29T00:00:00Z", "2026-04-31T00:00:00Z"),
            *("2026-13-01T00:00:00Z", "2026-01-00T00:00:00Z", "0000-01-01T00:00:00Z"),
            *("2026-01-01T24:00:00Z", "2026-01-01T00:00:60Z", "2026-01-01T00:00:00"),
            *("2026-01-01T00:00:00+16:00", "2026-01-01T00:00:00+1:00", "10000-01-01T00:00:00Z"),
            *("2026-01-01T00:00:00." + "1" * 200 + "Z", "2026-01-01T00:00:00Z\n"),
            "２０２６-01-01T00:00:00Z",  # noqa: RUF001 - digits of another script.
            *("now", "infinity", "", 1_764_000_000, None, ["2026-11-23T09:00:00Z"]),
        ]
        given = [*fit, *others]
        await store(database.url, [event(timestamp=stamp) for stamp in given])

        stored = values(database, "timestamp AT TIME ZONE 'UTC'")
        assert stored == [*fit.values(), *[None] * len(others)]
        assert values(database, "event -> 'timestamp'") == given

    async def test_a_float_is_a_number_that_fits_or_null(self, database):
        """It never costs the batch."""
        fit = {b"52.5": 52.5, b"-1": -1, b"0": 0, b"-0.0": 0, b"5e-324": 5e-324}
        fit[b"1.7976931348623157e308"] = 1.7976931348623157e308
        others = [b"1e400", b"-1e400", b"1e-400", b"1.8e308", b'"52.5"', b"true", b"null", b"{}"]
        given = [*fit, *others]
        await store(database.url, [b'{"location":{"latitude":%b}}\n' % each for each in given])

        assert values(database, "latitude") == [*fit.values(), *[None] * len(others)]

    async def test_a_text_is_a_string_or_a_number(self, database):
        """Nothing else becomes one."""
        given = ["a", 12, 1.5, "", True, {"a": 1}, ["a"], None]
        await store(database.url, [event(ids={"ajs_user_id": each}) for each in given])

        assert values(database, "user_id") == ["a", "12", "1.5", "", None, None, None, None]

    async def test_only_true_and_false_are_truths(self, database):
        """A text that looks like one is none."""
        given = (True, False, "true", 1, None)
        await store(database.url, [event(parsed_ua={"bot": each}) for each in given])

        assert values(database, "is_bot") == [True, False, None, None, None]

    async def test_an_event_of_an_odd_shape_is_stored_all_the_same(self, database):
        """With no value in any column."""
        lines = [b"[1]\n", b'"text"\n', b"7\n", b'{"ids":7,"doc":[]}\n']
        await store(database.url, lines)

        assert values(database, "num_nonnulls(user_id, page_url, latitude, timestamp)") == [0] * 4
        assert values(database, "event") == [json.loads(line) for line in lines]

    async def test_what_the_database_cannot_hold_becomes_u_fffd(self, database):
        """In the event and its columns, and it is counted."""
        texts = {
            rb"a\u0000b": "a\ufffdb",
            rb"\u0000\u0000": "\ufffd\ufffd",
            rb"\\u0000": r"\u0000",
            rb"\\\u0000": "\\\ufffd",
            rb"\"\\\\u0000\n": '"\\\\u0000\n',
            rb"\ud800": "\ufffd",
            rb"\uDFFF\uD83D\uDE00": "\ufffd😀",
            rb"\ud83d\ud83d\ude00": "\ufffd😀",
            rb"\\ud800": r"\ud800",
            "\\u001f\x7f\u0085\u2028é😀".encode(): "\x1f\x7f\x85\u2028é😀",
        }
        lines = [b'{"page_title":"%b"}\n' % text for text in texts]
        stats = await store(database.url, lines, ids=["\0"] * len(lines))

        assert values(database, "page_title") == list(texts.values())
        assert values(database, "event -> 'page_title'") == list(texts.values())
        assert values(database, "event_id") == ["\ufffd"] * len(lines)
        assert stats.replaced_characters == sum("\ufffd" in text for text in texts.values()) + 1

    async def test_an_event_in_the_wrong_place_of_its_format_has_no_values(self, database):
        """A format's fields are looked for where it has them, and nowhere else."""
        misplaced = event(ids={"ajs_user_id": "u"}, eventn_ctx={"ids": {"ajs_user_id": "c"}})
        await store(database.url, [misplaced], output="compat")
        await store(database.url, [misplaced], batch_id="batch-2", output="tracker")

        assert value(database, "user_id") == "c\nu"

    async def test_what_copy_could_misread_is_stored_as_it_is(self, database):
        """Quotes, commas, tabs, and what ends a COPY in other formats."""
        texts = ["\\.", "\\N", "a\tb", 'a"b', "a,b", "a\r\nb", "\x01\x02", "'", "$1"]
        await store(database.url, [event(page_title=text) for text in texts])

        assert values(database, "page_title") == texts


class TestTables:
    @pytest.mark.parametrize(
        ("table", "name"),
        [
            ("Other", "public.other"),
            ('"Odd ""Name"" $segsrv %s"', 'public."Odd ""Name"" $segsrv %s"'),
            ('analytics."a.b"', 'analytics."a.b"'),
        ],
    )
    async def test_a_table_may_have_any_name(self, database, table, name):
        """As SQL reads it; a schema that is missing is made, too."""
        async with opened(database.url, options={"table": table}) as sink:
            await sink.send(batch("batch-1", [event()], ends={"j": (1, 0)}), {})
            assert (await sink.delivered()).batch_id == "batch-1"

        assert database.count(name) == 1

    @pytest.mark.parametrize("table", ["", "a.b.c", "a b", "1a", 'a"b', "a.", ".a", "x" * 64])
    def test_a_name_that_is_none_stops_the_start(self, table):
        """With the option's name."""
        with pytest.raises(SettingsError, match=r"sinks\.warehouse\.options\.table"):
            make_sink("postgresql://a@b/c", options={"table": table})

    async def test_without_create_the_statements_to_run_are_said(self, database):
        """And when somebody has run them, all is well."""
        sink = make_sink(f"{database.url}?create=false")
        with pytest.raises(SinkMisconfigured) as refused:
            await sink.open()
        with pytest.raises(SinkMisconfigured) as checked:
            await sink.check()
        assert str(refused.value) == str(checked.value)
        assert "\n" not in str(refused.value)
        assert database.sql("SELECT to_regclass('events') IS NULL") == "t"
        database.sql(str(refused.value).partition("run: ")[2])
        await sink.check()
        await sink.open()
        await sink.send(batch("batch-1", [event()]), {})
        await sink.close()

        assert database.count() == 1

    async def test_columns_of_others_go_on_working(self, database):
        """Those that may be empty, have a default or are worked out."""
        await store(database.url, [event()])
        database.sql(
            "ALTER TABLE events ADD team text, ADD loaded timestamptz NOT NULL DEFAULT now(),"
            " ADD number bigint GENERATED ALWAYS AS IDENTITY,"
            " ADD plan text GENERATED ALWAYS AS (event ->> 'plan') STORED"
        )
        await store(database.url, [event(plan="gold")], batch_id="batch-2")

        assert value(database, "team IS NULL, plan", "number = 2") == "t|gold"

    async def test_a_column_that_always_needs_a_value_is_a_fault_of_the_table(self, database):
        """It would refuse each event, so none is set aside for it."""
        await store(database.url, [event()])
        async with opened(database.url) as sink:
            database.sql("DELETE FROM events; ALTER TABLE events ADD team text NOT NULL")
            for _try in range(2):
                # The first is told by the batch, the second when it connects.
                with pytest.raises(SinkMisconfigured, match="column 'team'"):
                    await sink.send(batch("batch-2", [event()]), {})
            database.sql("ALTER TABLE events ALTER team DROP NOT NULL")
            await sink.send(batch("batch-2", [event()]), {})

        assert database.count() == 1

    async def test_a_column_that_is_missing_is_added(self, database):
        """As after a release that knows one more, and while events are coming."""
        async with opened(database.url) as sink:
            database.sql("ALTER TABLE events DROP user_id")
            with pytest.raises(SinkMisconfigured, match="user_id"):
                await sink.send(batch("batch-1", [event()]), {})
            await sink.send(batch("batch-1", [event(ids={"ajs_user_id": "u"})]), {})

        assert value(database, "user_id") == "u"

    async def test_a_table_that_is_dropped_is_made_again(self, database):
        """At the next try."""
        async with opened(database.url) as sink:
            database.sql("DROP TABLE events")
            with pytest.raises(SinkMisconfigured, match='"events" does not exist'):
                await sink.send(batch("batch-1", [event()]), {})
            await sink.send(batch("batch-1", [event()]), {})

        assert database.count() == 1

    async def test_types_may_be_others_that_hold_the_same(self, database):
        """Those that cannot are named."""
        await store(database.url, [event()])
        change = "ALTER TABLE events ALTER user_id TYPE {}, ALTER event TYPE {}"
        database.sql(change.format("varchar(40)", "text"))
        await store(database.url, [event(ids={"ajs_user_id": "u"})], batch_id="batch-2")
        assert value(database, "user_id", "user_id IS NOT NULL") == "u"
        database.sql("ALTER TABLE events ALTER user_id TYPE uuid USING NULL")
        with pytest.raises(SinkMisconfigured, match='"user_id" is of type uuid but expression is'):
            await make_sink(database.url).check()

    async def test_a_partition_that_is_missing_is_a_fault_of_the_table(self, database):
        """It buries no event: they go in when somebody has made one."""
        await store(database.url, [event()])
        database.sql("ALTER TABLE events RENAME TO plain_events")
        database.sql(
            "CREATE TABLE events (LIKE plain_events) PARTITION BY RANGE (received_at);"
            "CREATE TABLE past PARTITION OF events FOR VALUES FROM ('2000-01-01') TO ('2001-01-01')"
        )
        async with opened(database.url) as sink:
            with pytest.raises(SinkMisconfigured, match="no partition"):
                await sink.send(batch("batch-2", [event()]), {})
            database.sql("CREATE TABLE rest PARTITION OF events DEFAULT")
            await sink.send(batch("batch-2", [event()]), {})

        assert database.count() == 1

    async def test_a_database_in_another_encoding_is_refused(self, database):
        """It could not hold most texts."""
        name = f"{database.name}_latin"
        database.service.sql(
            f"CREATE DATABASE {name} OWNER plain TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"
        )
        with pytest.raises(SinkMisconfigured, match="encoding is LATIN1"):
            await make_sink(database.service.url_of(database=name)).check()


class TestCheck:
    def check(self, tmp_path, url, *, password=""):
        table = f'[[sinks]]\nname = "warehouse"\nurl = "{url}"\n'
        if password:
            table += 'secrets.password = { env = "PASSWORD" }\n'
        (tmp_path / "segsrv.toml").write_text(table)
        return segsrv("check", "--config", "segsrv.toml", cwd=tmp_path, PASSWORD=password)

    @pytest.mark.parametrize(
        ("user", "query", "before", "part"),
        [
            ("guarded:hunter2", "", "", "wrong password or user: password authentication failed"),
            ("stranger", "", "", "no access: no pg_hba.conf entry"),
            ("plain", "?create=false", "", "tables or columns are missing and create=false; run: "),
            ("guarded", "", "", "a right is missing, to make tables or columns that are not there"),
            ("guarded", "", "made", "a right is missing: permission denied for table events"),
            ("guarded", "", "insert", "right is missing: permission denied for table segsrv_pos"),
            ("guarded", "", "no temporary", "a right is missing: TEMPORARY"),
            ("guarded", "?table=hidden.events", "hidden", "permission denied for schema hidden"),
            ("guarded", "?table=nowhere.x", "", "a right is missing, to make tables"),
            ("plain", "?sslmode=verify-full", "", "no encrypted connection: "),
            ("plain", "?table=numbers", "sequence", '"numbers" is no table'),
        ],
    )
    async def test_faults_are_told_apart(self, tmp_path, database, user, query, before, part):
        """In one line without the password, with a status of its own and nothing changed."""
        if before in ("made", "insert"):
            await store(database.url, [event()])
        if before == "insert":
            database.sql("GRANT INSERT ON events TO guarded")
        elif before == "hidden":
            database.sql("CREATE SCHEMA hidden")
        elif before == "sequence":
            database.sql("CREATE SEQUENCE numbers")
        elif before == "no temporary":
            database.sql(f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC")
        ended = self.check(
            tmp_path,
            database.url_of(user) + query,
            password=PASSWORD if user == "guarded" else "",
        )

        assert ended.returncode == CANNOT_START, ended
        assert part in ended.stderr
        assert ended.stderr.count("\n") == 1
        assert "hunter2" not in ended.stderr
        assert PASSWORD not in ended.stderr

    def test_a_database_that_is_missing_is_named(self, tmp_path, database):
        """So is a server that is not there; neither is taken for the other."""
        url = database.service.url_of(database="nowhere")
        assert 'database "nowhere" does not exist' in self.check(tmp_path, url).stderr
        url = f"postgresql://plain@127.0.0.1:{database.service.port + 3}/events"
        assert "no connection: Connection refused" in self.check(tmp_path, url).stderr

    @pytest.mark.parametrize("rights", ["made by it", "made by others"])
    async def test_a_role_with_the_rights_that_the_docs_name_is_enough(
        self, tmp_path, database, rights
    ):
        """`check` finds nothing, changes nothing, and the server delivers."""
        if rights == "made by it":
            database.sql("GRANT CREATE ON SCHEMA public TO guarded", user="admin")
        else:
            await store(database.url, [event()])
            database.sql("DELETE FROM events; GRANT INSERT ON events TO guarded")
            database.sql("GRANT SELECT, INSERT, UPDATE ON segsrv_positions TO guarded")
        before = database.sql("SELECT count(*) FROM pg_class")
        ended = self.check(tmp_path, database.url_of("guarded"), password=PASSWORD)
        assert ended.returncode == 0, ended.stderr
        assert database.sql("SELECT count(*) FROM pg_class") == before
        password = {"secrets": {"password": Secret(env="P")}, "environ": {"P": PASSWORD}}
        async with opened(database.url_of("guarded"), **password) as sink:
            await sink.send(batch("batch-9", [event()]), {})

        assert database.sql("SELECT count(*) FROM events", user="admin") == "1"

    async def test_an_index_that_is_missing_is_a_warning(self, tmp_path, database):
        """Somebody may have dropped it on purpose, and making one could take hours."""
        await store(database.url, [event()])
        database.sql("DROP INDEX events_event_id_idx")
        await store(database.url, [event()], batch_id="batch-2")
        ended = self.check(tmp_path, database.url)

        assert ended.returncode == 0
        assert database.sql("SELECT count(*) FROM pg_indexes WHERE tablename = 'events'") == "1"
        assert "warning: postgresql 127.0.0.1" in ended.stderr
        assert "no index for queries by event_id; run: CREATE INDEX ON" in ended.stderr
        database.sql(ended.stderr.partition("run: ")[2])
        assert self.check(tmp_path, database.url).stderr == ""

    @pytest.mark.parametrize(
        ("url", "part"),
        [
            ("postgresql://u:hunter2@h", "expected postgresql://"),
            ("postgresql://u:hunter2@h/", "expected postgresql://"),
            ("postgresql://u:hunter2@h/a/b", "one name for the database"),
            ("postgresql://u:hunter2@h:port/a", "expected postgresql://"),
            ("postgresql://u:hunter2@/a", "a host in the URL, or else the option host"),
            ("postgresql://u:hunter2@h/a?host=/run", "a host in the URL, or else"),
            ("postgresql://u:hunter2@h/a?sslmode=on", "options.sslmode"),
            ("postgresql://u:hunter2@h/a?sslrootcert=x", "sslrootcert: needs sslmode=verify-full"),
            ("postgresql://u:hunter2@h/a?sslmode=verify-full&sslrootcert=x", "can't be read"),
            ("postgresql://u:hunter2@h/a?sslkey=x", "sslkey: needs sslcert"),
            ("postgresql://u:hunter2@h/a?sslcert=x", "sslcert: needs sslmode=require"),
            ("postgresql://u:hunter2@h/a?positions_table=events", "is the table of the events"),
        ],
    )
    def test_a_url_that_cannot_be_is_a_wrong_setting(self, tmp_path, url, part):
        """In one line without the password."""
        ended = self.check(tmp_path, url)

        assert ended.returncode == WRONG_SETTINGS
        assert part in ended.stderr
        assert "hunter2" not in ended.stderr

    def test_a_password_is_given_once(self, tmp_path):
        """In the URL or as a secret."""
        ended = self.check(tmp_path, "postgresql://u:hunter2@h/a", password="correct")
        assert "secrets.password: one is in the URL, too" in ended.stderr


class TestConnections:
    async def test_a_password_may_be_in_the_url(self, database):
        """With what a URL has to escape."""
        database.sql("GRANT CREATE ON SCHEMA public TO guarded", user="admin")
        await store(database.url_of("guarded:correct%20horse"), [event()])
        assert database.sql("SELECT count(*) FROM events", user="admin") == "1"

    async def test_a_unix_socket_is_a_folder(self, database):
        """Where the server allows no other way."""
        url = f"postgresql://plain@/{database.name}?host={database.service.sockets}"
        await store(f"{url.replace('@/', f'@:{database.service.port}/')}", [event()])
        assert database.count() == 1

    @pytest.mark.parametrize(
        ("host", "options", "works"),
        [
            ("127.0.0.1", {"sslmode": "require"}, True),
            ("127.0.0.1", {"sslmode": "prefer"}, True),
            ("127.0.0.1", {"sslmode": "disable"}, False),
            ("localhost", {"sslmode": "verify-full", "sslrootcert": "own"}, True),
            ("127.0.0.1", {"sslmode": "verify-full", "sslrootcert": "own"}, False),
            ("127.0.0.1", {"sslmode": "verify-ca", "sslrootcert": "own"}, True),
            ("localhost", {"sslmode": "verify-full"}, False),
        ],
    )
    async def test_encryption_is_what_the_mode_says(self, database, host, options, works):
        """A server that cannot prove who it is gets nothing."""
        if "sslrootcert" in options:
            options = options | {"sslrootcert": str(database.service.certificate)}
        database.sql("GRANT CREATE ON SCHEMA public TO encrypted", user="admin")
        url = database.url_of("encrypted").replace("127.0.0.1", host)
        if works:
            await store(url, [event()], options=options)
            assert database.sql("SELECT count(*) FROM events", user="admin") == "1"
        else:
            with pytest.raises(SinkMisconfigured):
                await make_sink(url, options=options).check()

    async def test_a_server_that_is_away_is_unavailable(self, database):
        """Not misconfigured: it may come back."""
        url = f"postgresql://plain@127.0.0.1:{database.service.port + 3}/events"
        with pytest.raises(SinkUnavailable, match="no connection"):
            await make_sink(url).open()
