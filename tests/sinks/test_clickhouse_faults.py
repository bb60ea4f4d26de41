"""Whatever breaks between segsrv and ClickHouse, a batch that comes again is stored once."""

import asyncio
import contextlib
import ssl

import pytest

from segsrv.errors import SinkMisconfigured, SinkUnavailable
from segsrv.settings import Settings
from segsrv.settings.sink import SinkTable
from segsrv.sinks import registry
from tests.certificates import make_certificate
from tests.disks import fill
from tests.faults.disks import mount, unmount
from tests.services.clickhouse_service import Chdb, OldClickhouse
from tests.services.proxy import Proxy
from tests.sinks.clickhouse_sinks import batch_of, events, made, new_table, opened

DISK_BYTES = 24 << 20
LATER = (SinkUnavailable, TimeoutError)


@pytest.fixture(params=["chdb", "old_clickhouse"])
def service(request):
    """Each of the two ClickHouses."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def proxy(service):
    with contextlib.closing(Proxy(service.port)) as running:
        yield running


@pytest.fixture
def own_chdb(tmp_path):
    """One that the test may end or freeze."""
    Chdb.require()
    with Chdb(tmp_path / "chdb") as service:
        yield service


async def until_sent(sink, batch):
    """Send *batch* again as delivery does, until it is stored."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(SinkUnavailable):
                return await sink.send(batch, {})
            await asyncio.sleep(0.01)


class TestNetwork:
    async def test_a_cut_request_stores_nothing(self, service, proxy):
        """Not even the rows that arrived whole."""
        table = new_table()
        batch = batch_of(events(5_000))
        async with opened(service, table, port=proxy.port) as sink:
            proxy.cut_after(200_000)
            with pytest.raises(SinkUnavailable):
                await sink.send(batch, {})
            # What comes after it on another connection finds the first request over.
            assert service.count(table) == 0
            proxy.heal()
            await until_sent(sink, batch)

        assert sorted(service.ids(table)) == sorted(facts.event_id for facts in batch.facts)

    async def test_a_lost_answer_doubles_nothing(self, chdb):
        """The events were stored; they come again under the same token."""
        table = new_table()
        batch = batch_of(events(3_000), months=3)
        with contextlib.closing(Proxy(chdb.port)) as proxy:
            async with opened(chdb, table, port=proxy.port) as sink:
                proxy.drop_answers(client_bytes=300_000)
                with pytest.raises(SinkUnavailable):
                    await sink.send(batch, {})
                assert chdb.count(table) == 3_000
                proxy.heal()
                await until_sent(sink, batch)

        assert sorted(chdb.ids(table)) == sorted(facts.event_id for facts in batch.facts)

    async def test_a_lost_answer_doubles_at_an_old_server(self, old_clickhouse):
        """It knows no tokens: at least once, and the copies have the same ids."""
        table = new_table()
        batch = batch_of(events(3_000))
        with contextlib.closing(Proxy(old_clickhouse.port)) as proxy:
            async with opened(old_clickhouse, table, port=proxy.port) as sink:
                proxy.drop_answers(client_bytes=300_000)
                with pytest.raises(SinkUnavailable):
                    await sink.send(batch, {})
                proxy.heal()
                await until_sent(sink, batch)

        ids = old_clickhouse.ids(table)
        assert len(ids) == 6_000
        assert len(set(ids)) == 3_000

    async def test_a_call_that_is_given_up_leaves_the_sink_usable(self, service, proxy):
        """While the network hangs; what was not sent whole is not stored."""
        table = new_table()
        batch = batch_of(events(1_000))
        async with opened(service, table, port=proxy.port) as sink:
            proxy.hang()
            for _try in range(4):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await sink.send(batch, {})
            proxy.heal()
            await until_sent(sink, batch)

        assert set(service.ids(table)) == {facts.event_id for facts in batch.facts}


class TestServer:
    async def test_a_frozen_server_stores_it_once(self, own_chdb):
        """It goes on with the requests that were given up, and with those that came again."""
        batch = batch_of(events(3_000), months=3)
        async with opened(own_chdb, "events") as sink:
            own_chdb.pause()
            for _try in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await sink.send(batch, {})
            own_chdb.resume()
            await until_sent(sink, batch)
            await until_sent(sink, batch)

        assert sorted(own_chdb.ids()) == sorted(facts.event_id for facts in batch.facts)

    async def test_a_killed_server_stores_it_once(self, own_chdb):
        """Killed at any moment: before, while, or after it stores the events."""
        expected = []
        async with opened(own_chdb, "events") as sink:
            for after_s in (0, 0.01, 0.05, 0.1, 0.2):
                batch = batch_of(events(2_000), months=4)
                expected += [facts.event_id for facts in batch.facts]
                sending = asyncio.create_task(sink.send(batch, {}))
                await asyncio.wait([sending], timeout=after_s)
                own_chdb.kill()
                with contextlib.suppress(SinkUnavailable):
                    await sending
                with pytest.raises(SinkUnavailable):
                    await sink.send(batch, {})
                own_chdb.start()
                await until_sent(sink, batch)

        assert sorted(own_chdb.ids()) == sorted(expected)

    async def test_a_try_that_still_runs_is_waited_for(self, chdb):
        """Two inserts of one batch never run at once: the second one is refused for now."""
        table = new_table()
        batch = batch_of(events(20_000), months=12)
        async with opened(chdb, table) as sink, opened(chdb, table) as other:
            results = await asyncio.gather(
                sink.send(batch, {}), other.send(batch, {}), return_exceptions=True
            )
            await until_sent(sink, batch)

        assert {type(result) for result in results} <= {type(None), SinkUnavailable}
        assert chdb.count(table) == 20_000

    @pytest.mark.parametrize("kind", [Chdb, OldClickhouse])
    async def test_a_full_disk_is_waited_for(self, kind, tmp_path):
        """No event is lost or refused, and what fitted is not stored twice."""
        kind.require()
        disk = tmp_path / "disk"
        disk.mkdir()
        mount(disk, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs")
        try:
            with kind(tmp_path / "service", data_dir=disk / "data") as service:
                async with opened(service, "events") as sink:
                    fill(disk)
                    batch = batch_of(events(3_000), months=3)
                    for _try in range(3):
                        with pytest.raises(SinkUnavailable, match=r"code (75|243)"):
                            await sink.send(batch, {})
                    for filler in disk.glob("filler-*"):
                        filler.unlink()
                    await until_sent(sink, batch)
                ids = service.ids()
        finally:
            unmount(disk)

        assert sorted(ids) == sorted(facts.event_id for facts in batch.facts)

    async def test_a_table_that_was_dropped_is_made_again(self, chdb):
        """Or, with `create = false`, asked for."""
        table = new_table()
        batch = batch_of(events(1))
        async with (
            opened(chdb, table) as sink,
            opened(chdb, table, create=False) as other,
        ):
            chdb.query(f"DROP TABLE {table}")
            for _try in range(2):
                with pytest.raises(SinkMisconfigured, match="missing table"):
                    await other.send(batch, {})
            with pytest.raises(SinkMisconfigured, match="missing table"):
                await sink.send(batch, {})
            await sink.send(batch, {})

        assert chdb.count(table) == 1

    async def test_what_is_no_clickhouse_gets_no_events(self, site):
        """Such as another server on that port: nothing counts as stored."""
        sink = made(site.process, "events")
        try:
            with pytest.raises((SinkMisconfigured, SinkUnavailable), match="not by ClickHouse"):
                await sink.send(batch_of(events(1)), {})
        finally:
            await sink.close()

    async def test_a_certificate_that_is_not_trusted_is_for_the_operator(self, tmp_path):
        """It is not waited for as an outage is; with `ca_file` it is trusted."""
        certificate = make_certificate(tmp_path, "ch")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)

        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        async with server:
            for options, error, text in (
                ({}, SinkMisconfigured, "its certificate is not trusted: self"),
                ({"ca_file": str(certificate[0])}, SinkUnavailable, "answered 500, and not by"),
            ):
                table = SinkTable(
                    name="ch", url=f"clickhouses://127.0.0.1:{port}/default", options=options
                )
                sink = registry.build(Settings(sinks=[table]), {})[0].sink
                with pytest.raises(error, match=text):
                    await sink.open()
                await sink.close()
