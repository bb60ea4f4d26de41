"""The S3 sink where things break: what it can't know it finds out, and nothing is stored twice."""

import asyncio
import contextlib
import gzip
import os
import shutil
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from segsrv.errors import SinkMisconfigured, SinkRejected, SinkUnavailable
from segsrv.sinks import Batch
from segsrv.sinks.file.compression import zstd
from tests.disks import fill
from tests.faults.disks import mount, unmount
from tests.needs import skip_or_fail
from tests.services.proxy import Proxy
from tests.services.s3_answers import S3Answers
from tests.services.s3_service import SeaweedFs
from tests.sinks.s3_sinks import HOUR_MS, NINE, batch_of, s3_sink
from tests.waiting import until

TIMES = [NINE, NINE + HOUR_MS]
DISK_BYTES = 24 << 20


@pytest.fixture
def proxy(s3_service):
    with Proxy(s3_service.port) as proxy:
        yield proxy
    # A test that failed may have left it frozen.
    s3_service.resume()


def through(proxy: Proxy, prefix: str, **options):
    return s3_sink(f"http://127.0.0.1:{proxy.port}", prefix, **options)


def lines_in(service: SeaweedFs, prefix: str) -> list[bytes]:
    """Return every line that is stored, one entry a copy."""
    found = service.objects(f"{prefix}/dt=")
    return [
        line
        for _key, content in sorted(found.items())
        for line in zstd.decompress(content).splitlines(keepends=True)
    ]


class TestNetwork:
    async def test_an_answer_that_is_lost_is_asked_for_again(self, s3_service, s3_prefix, proxy):
        """The object was stored, so the second try meets 412 and is done."""
        sink, batch = through(proxy, s3_prefix), batch_of([NINE])
        await sink.open()
        proxy.drop_answers()
        with pytest.raises(SinkUnavailable):
            await sink.send(batch, {})
        assert lines_in(s3_service, s3_prefix) == batch.lines()
        proxy.heal()
        await sink.send(batch, {})
        await sink.close()

        assert lines_in(s3_service, s3_prefix) == batch.lines()
        assert (sink.stats.objects, sink.stats.found_objects) == (0, 1)

    async def test_a_request_that_was_cut_is_made_again(self, s3_service, s3_prefix, proxy):
        """Half an object is never stored."""
        sink, batch = (
            through(proxy, s3_prefix, compression="none"),
            batch_of([NINE] * 100, pad=5_000),
        )
        await sink.open()
        proxy.cut_after(200_000)
        with pytest.raises(SinkUnavailable):
            await sink.send(batch, {})
        assert s3_service.objects(f"{s3_prefix}/dt=") == {}
        proxy.heal()
        await sink.send(batch, {})
        await sink.close()

        assert [*s3_service.objects(f"{s3_prefix}/dt=").values()] == [batch.content]

    async def test_what_was_stored_of_a_batch_is_not_sent_again(self, s3_service, s3_prefix, proxy):
        """The try after a cut goes on with the second object."""
        sink = through(proxy, s3_prefix, compression="none")
        # The larger object is the first.
        batch = batch_of([NINE] * 100 + [NINE + HOUR_MS] * 90, pad=5_000)
        await sink.open()
        proxy.cut_after(700_000)
        with pytest.raises(SinkUnavailable):
            await sink.send(batch, {})
        proxy.heal()
        await sink.send(batch, {})
        await sink.close()

        assert b"".join(s3_service.objects(f"{s3_prefix}/dt=").values()) == batch.content
        assert (sink.stats.objects, sink.stats.found_objects) == (2, 0)

    async def test_a_call_that_is_given_up_leaves_the_sink_as_it_was(
        self, s3_service, s3_prefix, proxy
    ):
        """A server that hangs may store the object later or never; the next try is right."""
        sink, batch = through(proxy, s3_prefix), batch_of(TIMES)
        await sink.open()
        s3_service.pause()
        for _time in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await sink.send(batch, {})
        s3_service.resume()
        await sink.send(batch, {})
        await sink.close()

        assert lines_in(s3_service, s3_prefix) == batch.lines()


class TestServerFaults:
    async def test_a_server_that_was_killed_has_all_it_took(self, tmp_path, s3_prefix):
        """And takes the rest when it is back, the batch in hand as one that it may have."""
        SeaweedFs.require()
        with SeaweedFs(tmp_path) as service:
            sink = s3_sink(service.endpoint, s3_prefix)
            first, second = batch_of(TIMES, batch_id="a" * 24), batch_of(TIMES, batch_id="b" * 24)
            await sink.open()
            await sink.send(first, {})
            service.kill()
            with pytest.raises(SinkUnavailable, match="connection was refused"):
                await sink.send(second, {})
            service.start()
            for batch in (first, second):
                await sink.send(batch, {})
            await sink.close()

            assert sorted(lines_in(service, s3_prefix)) == sorted(first.lines() + second.lines())

    async def test_a_full_disk_is_waited_for(self, tmp_path, s3_prefix):
        """The server refuses with 500; nothing is lost or doubled once there is room again."""
        SeaweedFs.require()
        disk = tmp_path / "disk"
        disk.mkdir()
        mount(disk, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs")
        service = SeaweedFs(tmp_path / "folder", data_dir=disk / "data")
        try:
            service.start()
            sink = s3_sink(service.endpoint, s3_prefix, compression="none")
            await sink.open()
            batch = batch_of([NINE] * 1_000, pad=1_000)
            fill(disk)
            with pytest.raises(SinkUnavailable, match="can't take it now"):
                await sink.send(batch, {})
            for filler in disk.glob("filler-*"):
                filler.unlink()
            await sink.send(batch, {})
            await sink.send(batch, {})
            await sink.close()

            assert [*service.objects(f"{s3_prefix}/dt=").values()] == [batch.content]
        finally:
            service.close()
            unmount(disk)


def refusing(status: int, code: str):
    """Return what takes the probe, and answers all else so."""

    def answer(_method, path, _headers):
        return (412, "PreconditionFailed") if "_segsrv" in path else (status, code)

    return answer


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "code", "error", "part"),
        [
            (500, "InternalError", SinkUnavailable, "can't take it now (InternalError)"),
            (503, "SlowDown", SinkUnavailable, "can't take it now (SlowDown)"),
            (503, "", SinkUnavailable, "can't take it now (HTTP 503)"),
            (429, "", SinkUnavailable, "can't take it now (HTTP 429)"),
            (400, "RequestTimeout", SinkUnavailable, "can't take it now (RequestTimeout)"),
            # It is no sign that the object is there, though the driver says so.
            (409, "ConditionalRequestConflict", SinkUnavailable, "can't take it now"),
            (403, "RequestTimeTooSkewed", SinkMisconfigured, "clock differs too much"),
            (400, "ExpiredToken", SinkMisconfigured, "the session_token has expired"),
            (400, "AuthorizationHeaderMalformed", SinkMisconfigured, "wrong region"),
            (301, "PermanentRedirect", SinkMisconfigured, "wrong region or endpoint"),
            (404, "NoSuchBucket", SinkMisconfigured, "there is no bucket"),
            (501, "NotImplemented", SinkMisconfigured, "set create_only = false"),
            (400, "KMS.Disabled", SinkMisconfigured, "the endpoint refuses it (HTTP 400)"),
            (400, "InvalidRequest", SinkMisconfigured, "the endpoint refuses it (InvalidRequest)"),
            (400, "EntityTooLarge", SinkRejected, "takes no object of "),
            (413, "", SinkRejected, "takes no object of "),
        ],
    )
    async def test_an_answer_means_one_thing(self, s3_prefix, status, code, error, part):
        """Later, not as configured, or never these events."""
        with S3Answers(refusing(status, code)) as server:
            sink = s3_sink(server.endpoint, s3_prefix)
            await sink.open()
            with pytest.raises(error) as caught:
                await sink.send(batch_of([NINE]), {})
            await sink.close()

        assert type(caught.value) is error
        assert part in str(caught.value)
        # The driver's own retries have an end.
        assert len(server.requests) <= 1 + 3

    async def test_a_batch_is_refused_only_while_nothing_of_it_is_stored(self, s3_prefix):
        """An object that is too large behind one that was stored is for the operator."""
        paths = []

        def answer(_method, path, _headers):
            if "_segsrv" not in path and path not in paths:
                paths.append(path)
            return (413, "") if len(paths) == 2 else (200, "")

        with S3Answers(answer) as server:
            sink = s3_sink(server.endpoint, s3_prefix)
            await sink.open()
            with pytest.raises(SinkMisconfigured, match="lower the sink's batch_bytes_max"):
                await sink.send(batch_of(TIMES), {})
            await sink.close()

    async def test_a_batch_is_not_refused_after_a_call_that_was_given_up(self, s3_prefix):
        """What that call did is not known, so parts of the batch could be there twice."""
        is_over = threading.Event()
        sizes = []

        def answer(_method, path, headers):
            if "_segsrv" in path:
                return 412, "PreconditionFailed"
            sizes.append(headers["content-length"])
            if len(sizes) == 1:
                is_over.wait(10)
            return 413, ""

        with S3Answers(answer) as server:
            sink, batch = s3_sink(server.endpoint, s3_prefix), batch_of([NINE])
            await sink.open()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await sink.send(batch, {})
            await until(lambda: sizes)
            is_over.set()
            with pytest.raises(SinkMisconfigured, match="lower the sink's batch_bytes_max"):
                await sink.send(batch, {})
            await sink.close()

    async def test_the_largest_object_is_the_first(self, s3_prefix):
        """So one that is too large is found while the batch can still be refused."""

        def answer(_method, _path, headers):
            return (413, "") if int(headers["content-length"]) > 5_000 else (200, "")

        with S3Answers(answer) as server:
            sink = s3_sink(server.endpoint, s3_prefix, compression="none")
            await sink.open()
            with pytest.raises(SinkRejected, match=r"takes no object of \d+ bytes"):
                await sink.send(batch_of([NINE] * 10 + [NINE + HOUR_MS] * 20, pad=400), {})
            await sink.close()

        assert [path for path in server.bodies if "/dt=" in path] == []

    async def test_an_endpoint_without_conditions_is_told(self, s3_prefix, caplog):
        """One that ignores If-None-Match is used, with a warning at the start and by a check."""
        with S3Answers(lambda *_request: (200, "")) as server:
            sink = s3_sink(server.endpoint, s3_prefix)
            [warning] = await sink.check()
            assert "the endpoint ignores If-None-Match" in warning
            assert caplog.text == ""
            server.requests.clear()
            await sink.open()
            await sink.send(batch_of([NINE]), {})
            await sink.close()

        assert "the endpoint ignores If-None-Match" in caplog.text
        assert len(server.requests) == 3

    async def test_conditions_can_be_left_out(self, s3_prefix, caplog):
        """For an endpoint that refuses them; objects then replace themselves."""

        def answer(_method, _path, headers):
            return (501, "NotImplemented") if "if-none-match" in headers else (200, "")

        with S3Answers(answer) as server:
            refused = s3_sink(server.endpoint, s3_prefix)
            with pytest.raises(SinkMisconfigured, match="set create_only = false"):
                await refused.open()
            await refused.close()
            sink, batch = s3_sink(server.endpoint, s3_prefix, create_only=False), batch_of([NINE])
            await sink.check()
            await sink.open()
            for _time in range(2):
                await sink.send(batch, {})
            await sink.close()

        [body] = [body for path, body in server.bodies.items() if "/dt=" in path]
        assert zstd.decompress(body) == batch.content
        assert caplog.text == ""

    async def test_what_an_endpoint_says_stays_on_one_line(self, s3_prefix):
        """And is cut: the log is for what segsrv says."""
        told = f"</Code><Message>{'a' * 150}\n\x1b[31m{'b' * 1_000}</Message><Code>"
        with S3Answers(refusing(400, f"Odd{told}")) as server:
            sink = s3_sink(server.endpoint, s3_prefix)
            await sink.open()
            with pytest.raises(SinkMisconfigured) as caught:
                await sink.send(batch_of([NINE]), {})
            await sink.close()

        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400


class TestLongWork:
    async def test_a_batch_that_takes_longer_than_a_call_is_sent(self, s3_service, s3_prefix):
        """What a call that was given up had begun to compress is there for the next one."""
        sink = s3_sink(s3_service.endpoint, s3_prefix, compression="gzip")
        lines = [os.urandom(1_500).hex().encode() * 10 + b"\n" for _number in range(2_000)]
        facts = batch_of([NINE] * len(lines)).facts
        batch = Batch("d" * 24, lines, len(lines), lambda: facts)
        await sink.open()
        tries, is_sent = 0, False
        while not is_sent:
            tries += 1
            assert tries < 200
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await sink.send(batch, {})
                    is_sent = True
        await sink.close()

        assert tries > 1
        [content] = s3_service.objects(f"{s3_prefix}/dt=").values()
        assert gzip.decompress(content) == batch.content


class TestTls:
    async def test_a_certificate_of_ones_own_can_be_trusted(self, tmp_path, s3_prefix):
        """With `ca_file`; without it the sink says what is wrong, and sends nothing."""
        cert, key = self_signed(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        with S3Answers(lambda *_request: (412, "PreconditionFailed"), context) as server:
            sink = s3_sink(server.endpoint, s3_prefix)
            with pytest.raises(SinkMisconfigured, match="its certificate is not trusted"):
                await sink.open()
            await sink.close()
            assert server.requests == []
            sink = s3_sink(server.endpoint, s3_prefix, ca_file=str(cert))
            await sink.open()
            await sink.close()


class TestLoad:
    async def test_compression_leaves_the_loop_alone(self, s3_service, s3_prefix):
        """Other sinks go on while a large batch is compressed and sent."""
        sink, batch = s3_sink(s3_service.endpoint, s3_prefix), large_batch()
        await sink.open()
        turns = 0
        sending = asyncio.create_task(sink.send(batch, {}))
        while not sending.done():
            await asyncio.sleep(0.001)
            turns += 1
        await sending
        await sink.close()

        assert turns > 20
        assert lines_in(s3_service, s3_prefix) == batch.lines()


def large_batch() -> Batch:
    """Return 30 MB that get half as small."""
    lines = [os.urandom(15_000).hex().encode() + b"\n" for _number in range(1_000)]
    facts = batch_of([NINE] * len(lines)).facts
    return Batch("c" * 24, lines, len(lines), lambda: facts)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Return the files of a certificate for 127.0.0.1 and of its key."""
    if shutil.which("openssl") is None:
        skip_or_fail("this needs the openssl command")
    cert, key = folder / "one.crt", folder / "one.key"
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "2", "-subj", "/CN=one", "-addext", "basicConstraints=CA:FALSE"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return cert, key
