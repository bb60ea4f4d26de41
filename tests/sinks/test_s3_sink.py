"""The S3 sink on a real server: what it stores, under which keys, and what it says of faults."""

import gzip
import re

import duckdb
import obstore
import pytest

from segsrv.errors import (
    SegsrvError,
    SettingsError,
    SinkMisconfigured,
    SinkRejected,
    SinkUnavailable,
)
from segsrv.journal.facts import Facts
from segsrv.settings import Settings, SinkTable
from segsrv.sinks import Batch, registry
from segsrv.sinks.file.compression import zstd
from tests.command import segsrv
from tests.server_process import ServerProcess
from tests.services.s3_service import BUCKET, secret_of
from tests.services.s3_target import events_of
from tests.sinks.s3_sinks import HOUR_MS, NINE, batch_of, s3_sink
from tests.site import Site, id_of, new_id
from tests.waiting import wait_until

BATCH_ID = "0123456789abcdef01234567"
NO_PORT = "http://127.0.0.1:1"


async def sent(sink, *batches) -> None:
    await sink.open()
    for batch in batches:
        await sink.send(batch, await sink.plan(batch, {}))
    await sink.close()


def stored(service, prefix) -> dict[str, bytes]:
    """Return the objects of a sink by their keys behind its prefix, without the probe."""
    objects = service.objects(f"{prefix}/dt=")
    return {key.removeprefix(f"{prefix}/"): content for key, content in objects.items()}


class TestObjects:
    async def test_each_hour_of_receipt_is_an_object(self, s3_service, s3_prefix):
        """A batch around ten o'clock is two objects, each with its events in order."""
        batch = batch_of(
            [NINE + HOUR_MS - 2, NINE + HOUR_MS - 1, NINE + HOUR_MS, NINE + 62 * 60_000]
        )
        await sent(s3_sink(s3_service.endpoint, s3_prefix), batch)

        lines = batch.lines()
        assert {
            key: zstd.decompress(content) for key, content in stored(s3_service, s3_prefix).items()
        } == {
            f"dt=2026-11-25/hour=09/20261125T095959998Z-{BATCH_ID}.ndjson.zst": lines[0] + lines[1],
            f"dt=2026-11-25/hour=10/20261125T100000000Z-{BATCH_ID}.ndjson.zst": lines[2] + lines[3],
        }

    async def test_events_of_hours_in_turn_stay_in_order(self, s3_service, s3_prefix):
        """Events of several journals come mixed; those of an hour keep their order."""
        times = [NINE + (number % 3) * HOUR_MS + 1_000 - number for number in range(30)]
        batch = batch_of(times)
        await sent(s3_sink(s3_service.endpoint, s3_prefix), batch)

        lines = batch.lines()
        found = stored(s3_service, s3_prefix)
        assert [zstd.decompress(content) for _key, content in sorted(found.items())] == [
            b"".join(lines[hour::3]) for hour in range(3)
        ]
        # The first time of each, although it came last.
        assert [re.search(r"T(\d{9})Z", key)[1] for key in sorted(found)] == [
            "090000973",
            "100000972",
            "110000971",
        ]

    @pytest.mark.parametrize(
        ("compression", "suffix", "content_type", "opened"),
        [
            ("zstd", ".ndjson.zst", "application/zstd", zstd.decompress),
            ("gzip", ".ndjson.gz", "application/gzip", gzip.decompress),
            ("none", ".ndjson", "application/x-ndjson", bytes),
        ],
    )
    async def test_each_compression_has_its_name(
        self, s3_service, s3_prefix, compression, suffix, content_type, opened
    ):
        """Whoever loads the objects knows by their names and types how they are compressed."""
        batch = batch_of([NINE] * 100, pad=1_000)
        await sent(s3_sink(s3_service.endpoint, s3_prefix, compression=compression), batch)

        [(key, content)] = stored(s3_service, s3_prefix).items()
        assert key.endswith(f"-{BATCH_ID}{suffix}")
        assert opened(content) == batch.content
        answer = obstore.get(s3_service.store(), f"{s3_prefix}/{key}")
        assert answer.attributes["Content-Type"] == content_type

    async def test_parquet_objects_have_the_columns_of_all_tables(
        self, s3_service, s3_prefix, tmp_path
    ):
        """One object for each hour, with what segsrv knows of its events, and the events."""
        batch = batch_of([NINE + HOUR_MS - 1, NINE + HOUR_MS, NINE + HOUR_MS + 1])
        table = {"encoding": "parquet"}
        await sent(s3_sink(s3_service.endpoint, s3_prefix, table=table), batch)

        found = []
        for key, content in sorted(stored(s3_service, s3_prefix).items()):
            assert key.endswith(f"-{BATCH_ID}.parquet")
            (tmp_path / "one.parquet").write_bytes(content)
            rows = duckdb.sql(
                "SELECT event_id, key_id, type, format, epoch_ms(received_at), event "
                f"FROM '{tmp_path / 'one.parquet'}'"
            )
            found.append(rows.fetchall())
        events = [line.decode().rstrip("\n") for line in batch.lines()]
        expected = [
            (f"id-{n}", "web", "track", "flat", facts.received_ms, events[n])
            for n, facts in enumerate(batch.facts)
        ]
        assert found == [expected[:1], expected[1:]]

    async def test_a_batch_keeps_its_form_when_settings_change(self, s3_service, s3_prefix):
        """It may be there from before the restart, and would be stored twice under two names."""
        batch = batch_of([NINE])
        before = s3_sink(s3_service.endpoint, s3_prefix)
        placement = await before.plan(batch, {})
        await sent(before, batch)
        after = s3_sink(s3_service.endpoint, s3_prefix, table={"encoding": "parquet"})
        await after.open()
        await after.send(batch, placement)
        await after.close()

        assert [key[-11:] for key in stored(s3_service, s3_prefix)] == [".ndjson.zst"]

    async def test_an_event_that_parquet_can_t_hold_is_refused(self, s3_service, s3_prefix):
        """Nothing of the batch is stored, so that delivery may look for the event."""
        lines = [b'{"n":1}\n', b"no JSON\n"]
        facts = [Facts("web", "flat", time, "track", 8, "") for time in (NINE, NINE + HOUR_MS)]
        sink = s3_sink(s3_service.endpoint, s3_prefix, table={"encoding": "parquet"})
        await sink.open()
        with pytest.raises(SinkRejected):
            await sink.send(Batch(BATCH_ID, lines, 2, lambda: facts), {})
        await sink.close()

        assert stored(s3_service, s3_prefix) == {}

    async def test_events_of_an_unknown_time_are_of_1970(self, s3_service, s3_prefix):
        """Journals of earlier releases don't say when an event was received."""
        await sent(s3_sink(s3_service.endpoint, s3_prefix), batch_of([0, NINE]))

        assert sorted(key[:22] for key in stored(s3_service, s3_prefix)) == [
            "dt=1970-01-01/hour=00/",
            "dt=2026-11-25/hour=09/",
        ]

    async def test_a_batch_that_comes_again_is_stored_once(self, s3_service, s3_prefix):
        """Another sink, as after a crash, finds the objects and leaves them as they are."""
        batch = batch_of([NINE, NINE + HOUR_MS])
        await sent(s3_sink(s3_service.endpoint, s3_prefix), batch)
        before = listed(s3_service, s3_prefix)
        again = s3_sink(s3_service.endpoint, s3_prefix)
        await sent(again, batch)

        assert listed(s3_service, s3_prefix) == before
        assert (again.stats.objects, again.stats.found_objects) == (0, 2)

    async def test_a_batch_half_of_which_is_there_is_completed(self, s3_service, s3_prefix):
        """A crash between the two objects of a batch costs neither of them."""
        whole = batch_of([NINE, NINE + HOUR_MS])
        await sent(s3_sink(s3_service.endpoint, s3_prefix), whole)
        first = min(stored(s3_service, s3_prefix))
        obstore.delete(s3_service.store(), f"{s3_prefix}/{first}")
        await sent(s3_sink(s3_service.endpoint, s3_prefix), whole)

        contents = stored(s3_service, s3_prefix)
        assert [zstd.decompress(contents[key]) for key in sorted(contents)] == whole.lines()

    async def test_the_bucket_itself_may_be_the_place(self, s3_service):
        """Without a prefix, keys begin with the date."""
        batch = batch_of([NINE - 1_000 * HOUR_MS])
        await sent(s3_sink(s3_service.endpoint, ""), batch)

        found = s3_service.objects("dt=2026-10-14")
        assert [zstd.decompress(content) for content in found.values()] == [batch.content]


def listed(service, prefix) -> list[dict]:
    """Return what the server says of the objects: keys, sizes, tags, and when they were written."""
    return [meta for metas in obstore.list(service.store(), f"{prefix}/") for meta in metas]


class TestFaults:
    @pytest.mark.parametrize(
        ("options", "error", "part"),
        [
            ({"secret": "hunter2"}, SinkMisconfigured, "wrong secret_access_key"),
            ({"key": "nobody"}, SinkMisconfigured, "does not know this access_key_id"),
            (
                {"key": "admin", "bucket": "nowhere"},
                SinkMisconfigured,
                "there is no bucket nowhere",
            ),
            ({"bucket": "nowhere"}, SinkMisconfigured, "the key may not write there"),
            ({"key": "reader"}, SinkMisconfigured, "the key may not write there"),
            ({"endpoint": NO_PORT}, SinkUnavailable, "the connection was refused"),
            ({"endpoint": "http://a.invalid:1"}, SinkUnavailable, "name can't be resolved"),
        ],
        ids=["secret", "key", "bucket", "denied-bucket", "read-only", "down", "no-host"],
    )
    async def test_each_fault_has_its_line(self, s3_service, s3_prefix, options, error, part):
        """`check` and `open` tell them apart alike, in one line without the secret."""
        options = {"endpoint": s3_service.endpoint, "prefix": s3_prefix, **options}
        for method in ("check", "open"):
            sink = s3_sink(**options)
            with pytest.raises(error) as caught:
                await getattr(sink, method)()
            await sink.close()

            line = str(caught.value)
            assert line.startswith(f"s3://{options.get('bucket', BUCKET)}/{s3_prefix}/ at http")
            assert part in line
            assert "\n" not in line
            assert "hunter2" not in line
            assert secret_of("reader") not in line
        assert s3_service.objects(s3_prefix) == {}

    async def test_check_changes_nothing(self, s3_service, s3_prefix):
        """It stores no object, before the first start as after it."""
        for _time in range(2):
            before = listed(s3_service, s3_prefix)
            for key in ("segsrv", "putter"):
                sink = s3_sink(s3_service.endpoint, s3_prefix, key=key)
                await sink.check()
                await sink.close()
            assert listed(s3_service, s3_prefix) == before
            await sent(s3_sink(s3_service.endpoint, s3_prefix))

    async def test_open_leaves_one_small_object(self, s3_service, s3_prefix):
        """It is written once, however often the server starts, and not among the events."""
        await sent(s3_sink(s3_service.endpoint, s3_prefix))
        [probe] = before = listed(s3_service, s3_prefix)
        await sent(s3_sink(s3_service.endpoint, s3_prefix))

        assert listed(s3_service, s3_prefix) == before
        assert probe["path"] == f"{s3_prefix}/_segsrv/probe"

    async def test_a_key_that_may_only_write_is_enough(self, s3_service, s3_prefix):
        """Neither reading nor listing is needed, also where a batch comes again."""
        batch = batch_of([NINE])
        for _time in range(2):
            await sent(s3_sink(s3_service.endpoint, s3_prefix, key="putter"), batch)

        assert len(stored(s3_service, s3_prefix)) == 1


class TestCredentials:
    async def test_the_environment_has_a_key_where_none_is_given(
        self, s3_service, s3_prefix, monkeypatch
    ):
        """In the variables that AWS's own tools read."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "segsrv")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_of("segsrv"))
        await sent(s3_sink(s3_service.endpoint, s3_prefix, key=""), batch_of([NINE]))

        assert len(stored(s3_service, s3_prefix)) == 1

    async def test_the_environment_changes_nothing_of_what_is_given(
        self, s3_service, s3_prefix, monkeypatch
    ):
        """Neither a token of another key nor another endpoint gets between."""
        with monkeypatch.context() as environ:
            environ.setenv("AWS_ACCESS_KEY_ID", "other")
            environ.setenv("AWS_SESSION_TOKEN", "of another key")
            environ.setenv("AWS_ENDPOINT_URL_S3", NO_PORT)
            environ.setenv("AWS_SKIP_SIGNATURE", "true")
            await sent(s3_sink(s3_service.endpoint, s3_prefix), batch_of([NINE]))

        assert len(stored(s3_service, s3_prefix)) == 1

    async def test_no_key_at_all_is_said(self, s3_service, s3_prefix, monkeypatch):
        """Where the machine has no role either."""
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", NO_PORT)
        sink = s3_sink(s3_service.endpoint, s3_prefix, key="")
        with pytest.raises(SinkMisconfigured, match=r"no credentials: neither secrets\.access_key"):
            await sink.open()
        await sink.close()


def made(url, **table) -> registry.Built:
    return registry.build(Settings(sinks=(SinkTable(name="s3", url=url, **table),)), {"A": "b"})[0]


class TestSettings:
    @pytest.mark.parametrize(
        ("url", "part"),
        [
            ("s3:bucket", "expected s3://bucket/prefix"),
            ("s3://", "expected s3://bucket/prefix"),
            ("s3://b", "expected s3://bucket/prefix"),
            ("s3://bucket/a//b", "with single slashes"),
            ("s3://bucket/../b", "expected a prefix of letters"),
            ("s3://bucket/a%20b", "expected a prefix of letters"),
            (f"s3://bucket/{'a' * 501}", "a prefix of 501 characters, the limit is 500"),
            ("s3://bucket?endpoint=127.0.0.1:8333", "endpoint: expected http(s)://host"),
            ("s3://bucket?endpoint=http://127.0.0.1/a", "endpoint: expected http(s)://host"),
            ("s3://bucket?endpoint=http://127.0.0.1:a", "endpoint: expected http(s)://host"),
            ("s3://hunter2@bucket", "expected both access_key_id and secret_access_key"),
            ("s3://bucket?compression=lz4", "compression=lz4: expected one of"),
            ("s3://bucket?ca_file=/nowhere", "ca_file=/nowhere: can't be read: No such file"),
            ("s3://bucket?ca_file=/etc/hostname", "ca_file=/etc/hostname: holds no certificate"),
        ],
    )
    def test_what_is_wrong_is_said_at_the_start(self, url, part):
        """In one line that names the sink, without what stands before an @."""
        with pytest.raises(SettingsError) as caught:
            made(url)
        line = str(caught.value)
        assert line.startswith("sinks.s3")
        assert part in line
        assert "\n" not in line
        assert "hunter2" not in line

    def test_a_key_is_given_once(self):
        """In the URL or in secrets."""
        secrets = {"access_key_id": {"env": "A"}, "secret_access_key": {"env": "A"}}
        with pytest.raises(SettingsError, match="in the URL and in secrets"):
            made("s3://a:b@bucket", secrets=secrets)

    def test_one_place_has_one_sink_however_it_is_spelled(self):
        """Key, region and compression lead nowhere else, nor does a slash at the end."""
        spellings = (
            "s3://bucket/prefix?endpoint=http://Example:80/",
            "s3://a:b@bucket/prefix/?endpoint=http://example:80&compression=gzip&region=eu-west-1",
        )
        with pytest.raises(SettingsError, match="its place is given twice"):
            registry.resolve(Settings(sink=spellings))

    def test_batches_are_as_large_as_objects_should_be(self):
        """A minute's events or 30 MiB, unless the table says otherwise."""
        config = made("s3://bucket").config
        assert (config.batch_events_max, config.batch_bytes_max, config.batch_interval_s) == (
            100_000,
            30 << 20,
            60.0,
        )

    @pytest.mark.parametrize(
        ("url", "host"),
        [
            ("s3://bucket?endpoint=https://example:1", " at https://example:1"),
            (
                "s3://bucket?endpoint=https://example&addressing=virtual",
                " at https://bucket.example",
            ),
            ("s3://bucket", ""),
        ],
    )
    def test_the_bucket_is_in_the_path_or_the_host(self, url, host):
        """As the endpoint wants it; a server other than AWS mostly has it in the path."""
        assert made(url).sink.describe() == f"s3://bucket/{host}"


class TestExtras:
    @pytest.mark.parametrize(
        ("driver", "table", "extra"),
        [("obstore", "", "s3"), ("duckdb", 'encoding = "parquet"', "parquet")],
    )
    def test_what_is_not_installed_is_said(self, tmp_path, driver, table, extra):
        """At the start, with the extra that brings it."""
        missing = f"raise ModuleNotFoundError('no', name={driver!r})"
        (tmp_path / f"{driver}.py").write_text(missing)
        config = f'[[sinks]]\nname = "lake"\nurl = "s3://bucket"\n{table}\n'
        (tmp_path / "segsrv.toml").write_text(config)
        ended = segsrv(
            "check",
            "--config",
            "segsrv.toml",
            cwd=tmp_path,
            PYTHONPATH=str(tmp_path),
            PYTHONDONTWRITEBYTECODE="1",
        )

        assert ended.stderr == (f"segsrv: sinks.lake: needs {driver}; install segsrv[{extra}]\n")

    def test_parquet_has_no_other_compression(self):
        """One that is asked for is refused, not ignored."""
        with pytest.raises(SettingsError, match="compression=gzip is for NDJSON"):
            made("s3://bucket?compression=gzip", encoding="parquet")


class TestServer:
    def test_events_reach_the_bucket(self, s3_service, s3_prefix, tmp_path):
        """A server that is given one URL delivers there, and shows the secret to nobody."""
        url = s3_service.url.replace("/prefix?", f"/{s3_prefix}?")
        ids = [new_id() for _number in range(20)]
        with ServerProcess(tmp_path / "data", "--sink", url, "--sink", "file:") as process:
            site = Site(process)
            for event_id in ids:
                assert site.post({"event_id": event_id, "type": "track"}).status == 200
            site.stored(*ids)
            process.stop()

        assert sorted(map(id_of, events_of(s3_service.objects(f"{s3_prefix}/dt=")))) == sorted(ids)
        said = process.stdout + process.stderr
        assert f"s3://{BUCKET}/{s3_prefix}/ at {s3_service.endpoint}" in said
        assert "ecret+1" not in said
        assert "ecret%2B1" not in said

    def test_check_says_what_is_wrong(self, s3_service, s3_prefix, tmp_path):
        """On one line, with the status of a server that can't start."""
        url = f"s3://segsrv:hunter2@{BUCKET}/{s3_prefix}?endpoint={s3_service.endpoint}"
        ended = segsrv("check", "--data-dir", "data", "--sink", url, cwd=tmp_path)

        assert ended.returncode == SegsrvError.exit_code
        assert "wrong secret_access_key (SignatureDoesNotMatch)" in ended.stderr
        assert ended.stderr.count("\n") == 1
        assert "hunter2" not in ended.stderr

    def test_a_wrong_key_at_the_start_stops_no_other_sink(self, s3_service, s3_prefix, tmp_path):
        """Requests go on, the other sink gets its events, and the log says why the one does not."""
        url = f"s3://segsrv:hunter2@{BUCKET}/{s3_prefix}?endpoint={s3_service.endpoint}"
        event_id = new_id()
        flags = ("--sink", url, "--sink", "file:", "--shutdown-grace-s=0.1")
        with ServerProcess(tmp_path / "data", *flags) as process:
            site = Site(process)
            assert site.post({"event_id": event_id, "type": "track"}).status == 200
            site.stored(event_id)
            wait_until(lambda: "sink: misconfigured" in process.stderr)

        assert "wrong secret_access_key" in process.stderr
        assert "hunter2" not in process.stderr
