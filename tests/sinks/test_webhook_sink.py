"""What a webhook sends, byte for byte, and what it makes of each answer; over real connections."""

import asyncio
import base64
import contextlib
import email.utils
import gzip
import hmac
import json
import socket
import ssl
import sys
import time

import pytest
from aiohttp import web

from segsrv import __version__
from segsrv.errors import SettingsError, SinkMisconfigured, SinkRejected, SinkUnavailable
from segsrv.journal.facts import Facts
from segsrv.settings import Settings
from segsrv.sinks import Batch, registry
from tests.certificates import make_certificate
from tests.services.webhook_receiver import Receiver

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TOKEN = "hunter2-the-token"
KEY, OLD_KEY = b"k" * 32, b"o" * 24
LINES = [b'{"a":"x\\ny"}\n', b'{"b":2}\n', b'{"c":"\xc3\xa9"}\n']


def batch_of(*lines: bytes, name: str = "batch-1") -> Batch:
    lines = lines or tuple(LINES)
    facts = [Facts("web", "flat", 1, "track", len(line), "id") for line in lines]
    return Batch(name, lines, len(lines), lambda: facts)


def whsec(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


def made(url: str, *, environ=None, **table):
    """Return the sink of a table; the secrets that it names are variables in *environ*."""
    secrets = {name: {"env": name} for name in environ or {}}
    settings = Settings(sinks=[{"name": "hook", "url": url, "secrets": secrets, **table}])
    return registry.build(settings, environ=environ or {})[0].sink


@contextlib.asynccontextmanager
async def opened(url: str, **table):
    sink = made(url, **table)
    try:
        await sink.open()
        yield sink
    finally:
        await sink.close()


@contextlib.asynccontextmanager
async def serving(receiver, *, certificate=None):
    """Run *receiver*; the value is its URL."""
    trust = None
    if certificate is not None:
        trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trust.load_cert_chain(*certificate)
    runner = web.AppRunner(receiver.application(), auto_decompress=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=trust).start()
        scheme = "http" if trust is None else "https"
        yield f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def raw_server(answer):
    """Run `await answer(reader, writer)` for each connection; the value is the port."""
    tasks = set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        # All of them end with the server.
        gone = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*gone):
            await answer(reader, writer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


@pytest.fixture
def receiver(tmp_path):
    return Receiver(tmp_path / "requests")


@pytest.fixture
async def url(receiver):
    async with serving(receiver) as url:
        yield url


class TestRequest:
    async def test_a_batch_is_one_request(self, receiver, url):
        """NDJSON, as the events are stored, with the batch's id in both headers for it."""
        async with opened(f"{url}/in/box?source=segsrv") as sink:
            await sink.send(batch_of(), await sink.plan(batch_of(), {}))

        ((method, path, headers, body),) = receiver.requests
        assert (method, path, body) == ("POST", "/in/box?source=segsrv", b"".join(LINES))
        assert headers["content-type"] == "application/x-ndjson"
        assert headers["user-agent"] == f"segsrv/{__version__}"
        assert headers["idempotency-key"] == headers["webhook-id"] == "batch-1"
        assert headers["content-length"] == str(len(body))
        assert not {"webhook-signature", "content-encoding", "authorization"} & headers.keys()

    @pytest.mark.parametrize("lines", [LINES, LINES[:1]], ids=["three", "one"])
    async def test_a_json_array(self, receiver, url, lines):
        """The same events, in order, in one array."""
        async with opened(url, encoding="json", options={"method": "PUT"}) as sink:
            await sink.send(batch_of(*lines), {})

        ((method, path, headers, body),) = receiver.requests
        assert (method, path) == ("PUT", "/")
        assert headers["content-type"] == "application/json"
        assert json.loads(body) == [json.loads(line) for line in lines]

    @pytest.mark.parametrize(
        ("compress", "unpack"), [("gzip", gzip.decompress), ("zstd", zstd.decompress)]
    )
    async def test_a_compressed_body_is_signed_as_it_travels(self, receiver, url, compress, unpack):
        """A receiver can tell a forged one before it unpacks anything."""
        environ = {"signing_key": whsec(KEY)}
        async with opened(url, environ=environ, options={"compress": compress}) as sink:
            await sink.send(batch_of(), {})

        ((_method, _path, headers, body),) = receiver.requests
        assert headers["content-encoding"] == compress
        assert unpack(body) == b"".join(LINES)
        assert headers["webhook-signature"] == signature(KEY, headers, body)

    async def test_it_is_signed_with_both_keys(self, receiver, url):
        """So keys can be changed without a request that the receiver can't verify."""
        environ = {"signing_key": whsec(KEY), "signing_key_old": whsec(OLD_KEY)}
        async with opened(url, environ=environ) as sink:
            before = int(time.time())
            await sink.send(batch_of(name="a.b"), {})

        ((_method, _path, headers, body),) = receiver.requests
        # The dot separates what is signed.
        assert headers["webhook-id"] == headers["idempotency-key"] == "a~b"
        assert before <= int(headers["webhook-timestamp"]) <= time.time()
        expected = [signature(key, headers, body) for key in (KEY, OLD_KEY)]
        assert headers["webhook-signature"].split(" ") == expected

    async def test_a_second_try_has_the_same_id_and_body(self, receiver, url):
        """And a signature of its own time, so that a receiver may refuse old ones."""
        receiver.answers.append({"status": 500, "is_stored": True})
        async with opened(url, environ={"signing_key": whsec(KEY)}) as sink:
            with pytest.raises(SinkUnavailable):
                await sink.send(batch_of(), {})
            await sink.send(batch_of(), {})

        first, second = receiver.requests
        assert first[3] == second[3]
        assert first[2]["webhook-id"] == second[2]["webhook-id"]
        assert second[2]["webhook-signature"] == signature(KEY, second[2], second[3])

    async def test_headers_and_credentials(self, receiver, url):
        """Plain headers from the options, secret ones from a file or variable, spelled as given."""
        environ = {"headers": f"X-API-Key: {TOKEN}\nX-Team:  a b \n", "authorization": "Bearer t"}
        options = {"headers": {"X-Env": "test", "content-type": "text/plain", "User-Agent": "me"}}
        async with opened(url, environ=environ, options=options) as sink:
            await sink.send(batch_of(), {})

        headers = receiver.requests[0][2]
        assert headers["x-api-key"] == TOKEN
        assert headers["x-team"] == "a b"
        assert headers["authorization"] == "Bearer t"
        assert (headers["x-env"], headers["content-type"]) == ("test", "text/plain")
        assert headers["user-agent"] == "me"

    @pytest.mark.parametrize("environ", [None, {"password": "p@ss:é"}])
    async def test_a_user_in_the_url(self, receiver, url, environ):
        """Becomes basic authorization, its password from the URL or, better, a secret."""
        user = "u" if environ else "u:p%40ss%3A%C3%A9"
        async with opened(url.replace("//", f"//{user}@"), environ=environ) as sink:
            await sink.send(batch_of(), {})

        scheme, _space, token = receiver.requests[0][2]["authorization"].partition(" ")
        assert (scheme, base64.b64decode(token).decode()) == ("Basic", "u:p@ss:é")

    async def test_a_large_batch(self, receiver, url):
        """Of several megabytes arrives whole, and with its length said in advance."""
        line = b'{"a":"%s"}\n' % (b"x" * 900_000)
        async with opened(url) as sink:
            await sink.send(batch_of(*[line] * 5), {})

        assert receiver.requests[0][3] == line * 5
        assert sink.stats.body_bytes == len(line) * 5

    async def test_one_connection_is_kept(self, receiver):
        """Also behind answers with a body, good and bad; it is not made anew for each batch."""
        receiver.answers.extend(
            {"status": status, "body": "x" * 5_000} for status in (200, 201, 204, 422, 500)
        )
        peers = []
        application = receiver.application

        async def note(request, handler):
            peers.append(request.transport.get_extra_info("peername"))
            return await handler(request)

        receiver.application = lambda: _with(application(), web.middleware(note))
        async with serving(receiver) as other, opened(other) as sink:
            for _answer in range(5):
                with contextlib.suppress(SinkRejected, SinkUnavailable):
                    await sink.send(batch_of(), {})

        assert len(peers) == 5
        assert len(set(peers)) == 1


def _with(app, middleware):
    app.middlewares.append(middleware)
    return app


def signature(key: bytes, headers, body: bytes) -> str:
    head = f"{headers['webhook-id']}.{headers['webhook-timestamp']}."
    return "v1," + base64.b64encode(hmac.digest(key, head.encode() + body, "sha256")).decode()


class TestAnswers:
    @pytest.mark.parametrize("status", [200, 201, 202, 204, 207, 299])
    async def test_taken(self, receiver, url, status):
        """Every status of the two hundreds."""
        receiver.answers.append({"status": status, "body": ""})
        async with opened(url) as sink:
            await sink.send(batch_of(), {})

    @pytest.mark.parametrize("status", [400, 413, 422])
    async def test_refused(self, receiver, url, status):
        """What says that the events are wrong; which ones it does not say."""
        receiver.answers.append({"status": status, "body": "  \n no such type \nmore"})
        async with opened(url) as sink:
            with pytest.raises(SinkRejected) as caught:
                await sink.send(batch_of(), {})
        assert str(caught.value) == f"{url} answered {status}: no such type"
        assert caught.value.indexes == ()

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507, 599])
    async def test_tried_again(self, receiver, url, status):
        """What says not now, with the time that it asks for."""
        receiver.answers.append({"status": status, "headers": {"Retry-After": "17"}})
        async with opened(url) as sink:
            with pytest.raises(SinkUnavailable, match=f"answered {status}") as caught:
                await sink.send(batch_of(), {})
            assert sink.stats.retry_after_answers == 1
        assert caught.value.retry_after_s == 17

    @pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 406, 407, 409, 410, 411, 415, 451])
    async def test_misconfigured(self, receiver, url, status):
        """All others: a token that expired makes no dead letters."""
        receiver.answers.append({"status": status, "body": "no"})
        async with opened(url) as sink:
            with pytest.raises(SinkMisconfigured, match=f"answered {status}.*: no$"):
                await sink.send(batch_of(), {})

    @pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308])
    async def test_a_redirect_is_never_followed(self, receiver, url, status, tmp_path):
        """It is said where it leads to, without what may be secret in that, and nobody else gets
        to see the events or the credentials.
        """
        other = Receiver(tmp_path / "other")
        async with serving(other) as elsewhere:
            location = f"{elsewhere}/path?token=abc"
            receiver.answers.append({"status": status, "headers": {"Location": location}})
            async with opened(url, environ={"authorization": TOKEN}) as sink:
                with pytest.raises(SinkMisconfigured, match=f"redirect to {elsewhere}, ") as caught:
                    await sink.send(batch_of(), {})
        assert "abc" not in str(caught.value)
        assert "path" not in str(caught.value)
        assert other.requests == []
        assert len(receiver.requests) == 1

    @pytest.mark.parametrize(
        ("said", "low", "high"),
        [
            ("0", 0, 0),
            ("120", 120, 120),
            ("-5", 0, 0),
            ("soon", 0, 0),
            ("1.5", 0, 0),
            ("9" * 40, 86_400, 86_400),
            ("Wed, 21 Oct 9999 07:28:00 GMT", 86_400, 86_400),
            ("Wed, 99 Oct 99999 07:28:00", 0, 0),
        ],
    )
    async def test_retry_after(self, receiver, url, said, low, high):
        """In seconds or as a date; nonsense is nothing, and a century is a day."""
        receiver.answers.append({"status": 429, "headers": {"Retry-After": said}})
        async with opened(url) as sink:
            with pytest.raises(SinkUnavailable) as caught:
                await sink.send(batch_of(), {})
        assert low <= caught.value.retry_after_s <= high

    @pytest.mark.parametrize(("ahead_s", "low", "high"), [(3_000, 2_000, 3_000), (-3_000, 0, 0)])
    async def test_retry_after_a_date(self, receiver, url, ahead_s, low, high):
        """What matters is how long it is until then."""
        said = email.utils.formatdate(time.time() + ahead_s, usegmt=True)
        await self.test_retry_after(receiver, url, said, low, high)

    async def test_what_an_answer_says_is_made_harmless(self, receiver, url):
        """No control characters, no secret of ours that it quotes, and not more than a line."""
        quoted = f"\x1b[31mno {TOKEN}, u:{TOKEN}, /private/path\x07 {'y' * 500}\nsecond"
        receiver.answers.append({"status": 401, "body": quoted})
        where = url.replace("//", f"//u:{TOKEN}@") + "/private/path"
        async with opened(where) as sink:
            with pytest.raises(SinkMisconfigured) as caught:
                await sink.send(batch_of(), {})
        text = str(caught.value)
        assert text.isprintable()
        assert text.startswith(f"{url} answered 401, it refuses the credentials:  [31mno …, u:…, …")
        assert TOKEN not in text
        assert "second" not in text
        assert len(text) < 400

    @pytest.mark.parametrize(
        ("path", "quoted"),
        [
            ("/in?token={secret}&v=1", "unknown token {secret}"),
            ("/in?sig=ab%2F{secret}%2Bcd", "sig ab/{secret}+cd is wrong"),
            ("/services/T01/{secret}/in", "no service {secret}"),
            ("/services/T01/{secret}", r'{{"path": "\/services\/T01\/{secret}"}}'),
        ],
    )
    async def test_a_part_of_the_url_is_as_secret_as_all_of_it(self, receiver, url, path, quoted):
        """Receivers quote the token alone, or escape what is around it."""
        receiver.answers.append({"status": 401, "body": quoted.format(secret=TOKEN)})
        async with opened(url + path.format(secret=TOKEN)) as sink:
            with pytest.raises(SinkMisconfigured, match="…") as caught:
                await sink.send(batch_of(), {})
        assert TOKEN not in str(caught.value)

    async def test_a_value_within_a_header_is_a_secret(self, receiver, url):
        """As in `Token token="…"`."""
        receiver.answers.append({"status": 401, "body": f"no {TOKEN} here"})
        headers = {"Authorization": f'Token token="{TOKEN}", v=1'}
        async with opened(url, options={"headers": headers}) as sink:
            with pytest.raises(SinkMisconfigured, match="no … here"):
                await sink.send(batch_of(), {})

    async def test_a_page_of_html_is_not_quoted(self, receiver, url):
        """Its first line never says what is wrong."""
        receiver.answers.append({"status": 502, "body": "\n<!doctype html><h1>Bad Gateway"})
        async with opened(url) as sink:
            with pytest.raises(SinkUnavailable, match=r"answered 502$"):
                await sink.send(batch_of(), {})

    @pytest.mark.parametrize("status", [200, 503])
    async def test_the_status_decides_though_the_body_never_ends(self, status):
        """A receiver can't hold up delivery with an endless answer, nor fill the memory."""
        written = 0

        async def answer(reader, writer):
            nonlocal written
            await reader.readuntil(b"}\n")
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 99999999\r\n\r\n" % status)
            while True:
                writer.write(b"x" * 10_000)
                await writer.drain()
                written += 10_000

        async with raw_server(answer) as port, opened(f"http://127.0.0.1:{port}") as sink:
            with pytest.raises(SinkUnavailable) if status == 503 else _nothing():
                await sink.send(batch_of(b"{}\n"), {})
            # Some megabytes fit into the buffers on the way.
            assert written < 30_000_000

    async def test_an_answer_that_is_compressed(self, receiver, url):
        """Is not unpacked, however large it would become, and not quoted."""
        body = "\x1f\x8b" + "x" * 100
        receiver.answers.append(
            {"status": 503, "headers": {"Content-Encoding": "gzip"}, "body": body}
        )
        async with opened(url) as sink:
            with pytest.raises(SinkUnavailable, match=r"answered 503$"):
                await sink.send(batch_of(), {})

    async def test_cookies_are_not_kept(self, receiver, url):
        """A receiver can't make the sender carry what it likes."""
        receiver.answers.append({"headers": {"Set-Cookie": "a=b"}})
        async with opened(url.replace("127.0.0.1", "localhost")) as sink:
            await sink.send(batch_of(), {})
            await sink.send(batch_of(), {})
        assert "cookie" not in receiver.requests[1][2]

    async def test_an_answer_before_the_body_was_read(self, receiver, url):
        """A receiver that refuses by the length alone is heard."""
        receiver.answers.append({"status": 413, "is_early": True})
        line = b'{"a":"%s"}\n' % (b"x" * 900_000)
        async with opened(url) as sink:
            with pytest.raises(SinkRejected, match="answered 413"):
                await sink.send(batch_of(*[line] * 4), {})
            await sink.send(batch_of(), {})

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (b"", "the connection was closed without an answer"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "its answer is not HTTP"),
            (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "its answer is not HTTP"),
        ],
        ids=["none", "ssh", "endless_header"],
    )
    async def test_what_is_no_answer(self, answer, said):
        """Nobody knows what became of the batch, so it comes again."""

        async def give(reader, writer):
            await reader.readuntil(b"}\n")
            writer.write(answer)

        async with raw_server(give) as port, opened(f"http://127.0.0.1:{port}") as sink:
            with pytest.raises(SinkUnavailable, match=said):
                await sink.send(batch_of(b"{}\n"), {})

    async def test_a_call_that_is_given_up_leaves_the_sink_usable(self, receiver):
        """The connection is dropped, so that a late answer can't be taken for the next one's."""
        is_there, may_answer = asyncio.Event(), asyncio.Event()

        async def slow(request, handler):
            if not is_there.is_set():
                is_there.set()
                await may_answer.wait()
            return await handler(request)

        application = receiver.application
        receiver.application = lambda: _with(application(), web.middleware(slow))
        async with serving(receiver) as other, opened(other) as sink:
            sending = asyncio.create_task(sink.send(batch_of(), {}))
            await is_there.wait()
            sending.cancel()
            await asyncio.wait([sending])
            receiver.answers.append({"status": 422})
            with pytest.raises(SinkRejected):
                await sink.send(batch_of(), {})
            await sink.send(batch_of(), {})
            may_answer.set()


def _nothing():
    return contextlib.nullcontext()


class TestCheck:
    """`check` and `open` find the same faults."""

    @pytest.fixture(params=["check", "open"])
    def step(self, request):
        async def run(url, **table):
            sink = made(url, **table)
            try:
                await getattr(sink, request.param)()
            finally:
                await sink.close()

        return run

    async def test_it_sends_nothing(self, receiver, url, step):
        """Unless it is told to, it only connects."""
        await step(url)
        assert receiver.requests == []

    @pytest.mark.parametrize("method", ["none", "GET"])
    async def test_nobody_listens(self, step, method):
        """Said with the system's word for it."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            url = f"http://u:{TOKEN}@127.0.0.1:{port}/x"
            with pytest.raises(SinkUnavailable) as caught:
                await step(url, options={"check_method": method})
        assert str(caught.value) == f"http://127.0.0.1:{port}: Connection refused"

    @pytest.mark.parametrize("method", ["none", "GET"])
    async def test_a_name_that_is_none(self, step, method):
        """Is told apart from a receiver that is down."""
        with pytest.raises(SinkUnavailable, match="its name can't be resolved"):
            await step("http://no.such.host.invalid/", options={"check_method": method})

    @pytest.mark.parametrize("method", ["none", "GET"])
    async def test_a_connection_that_is_never_taken(self, step, method):
        """Has a limit of its own, which the message names."""

        async def say_nothing(_reader, _writer):
            await asyncio.sleep(60)

        options = {"connect_timeout_s": 0.2, "check_method": method}
        async with raw_server(say_nothing) as port:
            with pytest.raises(SinkUnavailable, match=r"not connected within 0\.2 s"):
                await step(f"https://127.0.0.1:{port}", options=options)

    @pytest.mark.parametrize("method", ["HEAD", "GET", "OPTIONS"])
    @pytest.mark.parametrize(
        ("status", "error", "said"),
        [
            (200, None, ""),
            (400, None, ""),
            (405, None, ""),
            (401, SinkMisconfigured, "answered 401, it refuses the credentials"),
            (403, SinkMisconfigured, "answered 403, the credentials have no right to send there"),
            (404, SinkMisconfigured, "answered 404, there is nothing at this path"),
            (302, SinkMisconfigured, "answered 302: a redirect to another path, which is never"),
            (503, SinkUnavailable, "answered 503"),
        ],
    )
    async def test_it_asks_if_it_is_told_to(self, receiver, url, step, method, status, error, said):
        """With the credentials and without an event, so that a wrong token is found at once."""
        receiver.answers.append({"status": status, "headers": {"Location": "/login"}})
        environ, options = {"authorization": TOKEN}, {"check_method": method}
        with pytest.raises(error, match=said) if error else _nothing():
            await step(f"{url}/in", environ=environ, options=options)

        ((asked, path, headers, body),) = receiver.requests
        assert (asked, path, body) == (method, "/in", b"")
        assert headers["authorization"] == TOKEN


@pytest.mark.parametrize("method", ["none", "GET"])
class TestTls:
    """Found by connecting alone, and by a request."""

    async def test_only_a_trusted_certificate_will_do(self, tmp_path, receiver, method):
        """One that the system does not know is refused until `ca_file` says so."""
        certificate = make_certificate(tmp_path, "one")
        trusting = {"check_method": method, "ca_file": str(certificate[0])}
        other, _key = make_certificate(tmp_path, "other")
        async with serving(receiver, certificate=certificate) as url:
            for options in ({"check_method": method}, trusting | {"ca_file": str(other)}):
                with pytest.raises(SinkMisconfigured, match="its certificate is not trusted: self"):
                    async with opened(url, options=options):
                        pass
            async with opened(url, options=trusting) as sink:
                await sink.send(batch_of(), {})
            with pytest.raises(SinkMisconfigured, match="not valid for 'localhost'"):
                async with opened(url.replace("127.0.0.1", "localhost"), options=trusting):
                    pass
        assert receiver.requests[-1][3] == b"".join(LINES)

    async def test_a_receiver_without_tls(self, url, method):
        """It is said that there is none; the events do not go out in plain text."""
        with pytest.raises((SinkMisconfigured, SinkUnavailable), match="TLS"):
            async with opened(url.replace("http:", "https:"), options={"check_method": method}):
                pass

    @pytest.mark.parametrize(("text", "said"), [(None, "No such file"), ("x", "no certificate")])
    async def test_a_file_of_authorities_that_is_none(self, tmp_path, method, text, said):
        """Named, with what is wrong with it."""
        path = tmp_path / "ca.pem"
        if text is not None:
            path.write_text(text)
        options = {"check_method": method, "ca_file": str(path)}
        with pytest.raises(SinkMisconfigured, match=rf"ca_file=.*ca\.pem: .*{said}"):
            async with opened("https://127.0.0.1:1", options=options):
                pass


class TestSettings:
    @pytest.mark.parametrize(
        ("url", "table", "environ", "said"),
        [
            ("http://", {}, {}, r"expected http\(s\)://HOST"),
            ("http:a/b", {}, {}, r"expected http\(s\)://HOST"),
            ("http://u:hunter2-the-token/x@host/", {}, {}, r"expected http\(s\)://HOST"),
            ("http://u:12/hunter2-the-token@host/", {}, {}, "%40 for an @"),
            ("http://a/b#hunter2-the-token", {}, {}, "expected no #"),
            ("http://a", {"encoding": "parquet"}, {}, "expected ndjson or json"),
            ("http://a", {"options": {"compress": "br"}}, {}, "expected one of"),
            ("http://a", {"options": {"ca_file": "x"}}, {}, "ca_file: is for https only"),
            ("http://a", {"options": {"headers": {"A b": "x"}}}, {}, "expected names of letters"),
            ("http://a", {"options": {"headers": {"A": "é"}}}, {}, "characters of ASCII"),
            ("http://a", {"options": {"headers": {"Host": "b"}}}, {}, "Host is a header that seg"),
            ("http://a", {"options": {"headers": {"A": "1", "a": "2"}}}, {}, "a is given twice"),
            ("http://a", {}, {"headers": TOKEN}, "secrets.headers: line 1: expected NAME: VALUE"),
            ("http://a", {}, {"headers": f"Webhook-Id: {TOKEN}"}, "segsrv sets itself"),
            ("http://u@a", {}, {"authorization": TOKEN}, "Authorization is given twice"),
            ("http://a", {}, {"password": TOKEN}, "for the user in the URL, which has none"),
            ("http://u:p@a", {}, {"password": TOKEN}, "is in the URL, too"),
            ("http://a", {}, {"signing_key": TOKEN}, "expected whsec_ and 24 to 64 bytes as base"),
            ("http://a", {}, {"signing_key": f"whsec_{TOKEN}"}, "expected whsec_"),
            ("http://a", {}, {"signing_key_old": whsec(b"short")}, "signing_key_old: expected"),
        ],
    )
    def test_what_is_wrong_is_said_without_secrets(self, url, table, environ, said):
        """In one line that names the setting."""
        with pytest.raises(SettingsError, match=said) as caught:
            made(url, environ=environ, **table)
        assert str(caught.value).startswith("sinks.hook")
        assert TOKEN not in str(caught.value)

    def test_the_place_is_the_address(self):
        """However it is spelled, and without credentials; the query is a part of it."""
        places = [
            registry.resolve(Settings(sinks=[{"name": "hook", "url": url}]))[0].cursor_name
            for url in (
                "http://HOST/a?b=1",
                "http://host:80/a?b=1",
                "http://u:p@host/a?b=1",
                "http://host/a?b=2",
                "https://host/a?b=1",
            )
        ]
        assert places[0] == places[1] == places[2]
        assert len(set(places)) == 3

    def test_people_see_where_it_leads_without_what_may_be_secret(self):
        """Paths and queries of webhooks often are; logs and the banner have none."""
        sink = made(f"https://u:{TOKEN}@hooks.example.com/{TOKEN}?t={TOKEN}")
        assert sink.describe() == "https://hooks.example.com/…"

    def test_batches_are_small_unless_told_otherwise(self):
        """Most receivers refuse bodies of more than a megabyte."""
        tables = [{"name": "a", "url": "http://a"}, {"name": "b", "url": "http://b"}]
        tables[1] |= {"batch_bytes_max": 5_000_000, "batch_events_max": 7, "batch_interval_s": 9}
        one, other = (named.config for named in registry.resolve(Settings(sinks=tables)))
        limits = (one.batch_events_max, one.batch_bytes_max, one.batch_interval_s)
        assert limits == (500, 1_000_000, 1.0)
        assert (other.batch_events_max, other.batch_bytes_max) == (7, 5_000_000)
        assert other.batch_interval_s == 9
