"""The operators' own listener: what is there, and no longer on the public port."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.parse

import pytest
import requests
import schemathesis
from aiohttp import web

from segsrv import Settings, create_app, create_ops_app
from segsrv.http.openapi import document
from tests.faults.crashes import worker_pids
from tests.needs import skip_or_fail
from tests.server_process import REPOSITORY
from tests.site import FLAT, KEY, Answer, basic, new_id
from tests.waiting import wait_until

OPS = "--ops-listen=127.0.0.1:0"
APART = ("/metrics", "/openapi.json", "/metrics/", "//openapi.json")
NO_DISK = f"--disk-free-bytes-min={1 << 50}"
"""More than any disk has, so that no event can be taken."""


def ops_address(site) -> tuple[str, int]:
    found = re.search(r"^ *ops +(http://\S+)$", site.process.stdout, re.MULTILINE)
    split = urllib.parse.urlsplit(found[1])
    return split.hostname, split.port


def ask(site, path, method="GET") -> Answer:
    """Ask the operators' listener of *site*."""
    connection = http.client.HTTPConnection(*ops_address(site), timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())


def check_has_no_figure(answer, code):
    """Check that a 503 says which kind it is, when to try again, and nothing of the server."""
    assert answer.status == 503
    body = answer.json()
    assert set(body) == {"status", "code", "message", "error"}
    assert body["code"] == code
    assert body["error"] == body["message"] == "no events can be taken now"
    assert int(answer.headers["Retry-After"]) > 0


class TestApart:
    def test_pages_are_there_and_not_on_the_public_port(self, new_site):
        """Figures and the description move; clients' paths and plain probes stay."""
        site = new_site(OPS)
        event_id = new_id()
        assert site.post({"type": "track", "messageId": event_id}).status == 200
        site.stored(event_id)

        metrics = ask(site, "/metrics").body.decode()
        assert re.search(r'^segsrv_events_total{.*"track".*} 1\.0$', metrics, re.MULTILINE)
        assert ask(site, "/openapi.json").json()["openapi"].startswith("3.")
        assert ask(site, "/health").json() == {"status": "ok"}
        ready = ask(site, "/ready")
        assert (ready.status, ready.json()["status"]) == (200, "ok")
        assert [state["worker"] for state in ready.json()["workers"]] == [0]
        for path in APART:
            answer = site.get(path)
            assert (answer.status, answer.json()["code"]) == (404, "not_found"), path
        for path in ("/health", "/ready"):
            answer = site.get(path)
            assert (answer.status, answer.body) == (200, b'{"status":"ok"}')

    def test_events_are_not_taken_there(self, new_site):
        """A path of clients is answered with 404, and says where events go."""
        site = new_site(OPS)
        answer = ask(site, FLAT, "POST")
        assert answer.status == 404
        assert "public port" in answer.json()["message"]

    @pytest.mark.parametrize("flags", [(OPS,), ()], ids=["apart", "together"])
    def test_readiness_tells_strangers_no_figures(self, new_site, flags):
        """Why no event can be taken stands, with figures, on the operators' listener alone."""
        site = new_site(NO_DISK, *flags)
        check_has_no_figure(site.get("/ready"), "journal_full")
        if flags:
            answer = ask(site, "/ready")
            assert (answer.status, answer.json()["code"]) == (503, "journal_full")
            assert int(answer.headers["Retry-After"]) > 0
            assert re.search(
                rf"worker 0: the disk has \d+ bytes free, the limit is {1 << 50}",
                answer.json()["message"],
            )
            assert answer.json()["workers"][0]["undelivered_bytes"] == 0

    def test_it_says_that_the_server_stops(self, start_server):
        """While it waits for requests in flight, operators read that it shuts down."""
        site = start_server(OPS)
        head = (
            f"POST {FLAT} HTTP/1.1\r\nHost: h\r\nAuthorization: {basic(KEY)}\r\n"
            f"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n"
        )
        with socket.create_connection(site.address, timeout=30) as client:
            client.sendall(head.encode())
            assert client.recv(1_000).startswith(b"HTTP/1.1 100")
            os.kill(site.process.pid, signal.SIGTERM)
            wait_until(lambda: ask(site, "/ready").status == 503)
            assert ask(site, "/ready").json()["code"] == "shutting_down"
        wait_until(lambda: site.process.exit_code is not None)
        assert site.process.exit_code == 0

    def test_its_connections_are_limited(self, start_server):
        """However many it is asked on at once, clients' connections are not fewer."""
        site = start_server(OPS)
        with contextlib.ExitStack() as stack:
            for _number in range(64):
                stack.enter_context(socket.create_connection(ops_address(site), timeout=30))
            wait_until(lambda: ask(site, "/health").status == 503)
            assert site.post({"type": "track"}).status == 200


class TestWorkers:
    def test_any_of_them_speaks_for_all(self, start_server):
        """Each answer has the figures and the readiness of every worker."""
        site = start_server(OPS, "--workers=2")
        wait_until(lambda: ask(site, "/ready").status == 200)
        for _time in range(10):
            workers = ask(site, "/ready").json()["workers"]
            assert [(state["worker"], state["ready"]) for state in workers] == [
                (0, True),
                (1, True),
            ]
            metrics = ask(site, "/metrics").body.decode()
            for number in (0, 1):
                assert f'segsrv_journal_ready{{worker="{number}"}} 1.0' in metrics

    def test_one_that_hangs_is_named(self, start_server):
        """A worker that is stuck is found by the others; it is ready again when it goes on."""
        site = start_server(OPS, "--workers=2")
        wait_until(lambda: ask(site, "/ready").status == 200)
        stuck = worker_pids(site.process)[1]
        os.kill(stuck, signal.SIGSTOP)
        try:
            wait_until(lambda: ask(site, "/ready").status == 503)
            answer = ask(site, "/ready").json()
            assert answer["code"] == "silent"
            assert answer["message"].startswith("worker 1: has not reported for ")
            assert [state["ready"] for state in answer["workers"]] == [True, False]
        finally:
            os.kill(stuck, signal.SIGCONT)
        wait_until(lambda: ask(site, "/ready").status == 200)


class TestStart:
    def test_an_ipv6_host(self, start_server):
        """A host in brackets is listened on, and announced in brackets."""
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as error:
            skip_or_fail(f"listening on ::1 is not possible: {error}")
        site = start_server("--ops-listen=[::1]:0")
        assert re.search(r"ops +http://\[::1\]:\d+$", site.process.stdout, re.MULTILINE)
        assert ask(site, "/health").status == 200

    def test_a_port_that_is_taken(self, tmp_path):
        """It is told in one line, with the status of a failed start, and nothing is made."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            ended = serve(tmp_path / "data", f"--ops-listen={address}")
        assert ended.returncode == 3
        assert ended.stderr == f"segsrv: can't listen on {address}: Address already in use\n"
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("text", ["9090", ":9090", "host:", "::1:9090", "h:65536", "h:-1"])
    def test_what_is_no_address(self, tmp_path, text):
        """It is told in one line that names the setting, with the status of a wrong setting."""
        ended = serve(tmp_path / "data", f"--ops-listen={text}")
        assert ended.returncode == 2
        assert ended.stderr == (
            f"segsrv: ops_listen={text}: expected HOST:PORT, such as 127.0.0.1:9090 or [::1]:9090\n"
        )

    def test_the_public_port(self, tmp_path):
        """The operators' listener needs a port of its own."""
        ended = serve(tmp_path / "data", "--port=8123", "--ops-listen=127.0.0.1:8123")
        assert ended.returncode == 2
        assert ended.stderr == (
            "segsrv: ops_listen=127.0.0.1:8123: port=8123 is the public one; use another\n"
        )


class TestMounted:
    async def test_an_application_of_its_own(self, aiohttp_client, tmp_path):
        """It can be given to any runner, or mounted where the outer application guards it."""
        app = create_app(Settings(data_dir=tmp_path, write_key=("key",)))
        outer = web.Application()
        outer.add_subapp("/ingest", app)
        outer.add_subapp("/admin", create_ops_app(app))
        client = await aiohttp_client(outer)

        statuses = {
            path: (await client.get(path)).status
            for path in ("/ingest/metrics", "/ingest/ready", "/admin/metrics", "/admin/ready")
        }

        assert statuses == {
            "/ingest/metrics": 404,
            "/ingest/ready": 200,
            "/admin/metrics": 200,
            "/admin/ready": 200,
        }

    async def test_without_one_nothing_moves(self, aiohttp_client, tmp_path):
        """Metrics stay beside the ingest paths, unless the settings say that they are apart."""
        for listen, status in (("", 200), ("127.0.0.1:9", 404)):
            settings = Settings(
                data_dir=tmp_path / str(status), write_key=("key",), ops_listen=listen
            )
            client = await aiohttp_client(create_app(settings))
            assert (await client.get("/metrics")).status == status

    def test_it_is_made_of_what_create_app_returned(self):
        """Another application is refused at once."""
        with pytest.raises(ValueError, match="create_app"):
            create_ops_app(web.Application())


class TestDescription:
    @pytest.mark.parametrize(
        ("flags", "status"), [((), 200), ((NO_DISK,), 503)], ids=["ready", "not_ready"]
    )
    def test_answers_are_as_described(self, start_server, flags, status):
        """What the listener answers conforms to the description that it has of itself."""
        site = start_server(OPS, *flags)
        base = "http://{}:{}".format(*ops_address(site))
        described = schemathesis.openapi.from_url(base + "/openapi.json")
        for path in ("/health", "/ready", "/metrics", "/openapi.json"):
            answer = requests.get(base + path, timeout=30)
            assert answer.status_code == (status if path == "/ready" else 200)
            described[path]["GET"].validate_response(answer)

    def test_it_says_what_is_where(self):
        """Operators' pages are beside the description, and clients' paths on the public port."""
        settings = Settings(port=8123)
        apart = document(settings, is_apart=True)
        schemathesis.openapi.from_dict(apart).validate()

        assert apart["servers"][0]["variables"]["base"]["default"] == "http://localhost:8123"
        beside = {path for path, item in apart["paths"].items() if item.get("servers")}
        assert beside == {"/health", "/ready", "/metrics", "/openapi.json"}
        assert set(apart["paths"]) == set(document(settings)["paths"])


def serve(data_dir, *flags) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    command = [sys.executable, "-m", "segsrv", "serve", "--host", "127.0.0.1", "--port", "0"]
    return subprocess.run(
        [*command, "--data-dir", data_dir, *flags],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if not name.startswith("SEGSRV_")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
