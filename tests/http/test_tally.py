"""Every answer is counted, and refusals leave a line in the log: seldom, and without secrets."""

import base64
import json
import re
import socket
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from segsrv import Settings, create_app
from segsrv.http.tally import TALLY, Seldom
from segsrv.settings.key import derived_key_id
from tests.site import BOTH_FRONTS, FLAT, KEY, LONDON, new_id

KEY_ID = derived_key_id(KEY)
GZIP = {"Content-Encoding": "gzip"}
SECRET = b"hunter2.and-more"
BASIC = base64.b64encode(SECRET + b":")
# aiohttp's messages quote these.
LONG_HEAD = b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic %s\r\n\r\n" % (BASIC * 400)
CHUNKED_HEAD = (
    b"POST /v1/t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
    b"Expect: 100-continue\r\nAuthorization: Basic %s\r\n\r\n" % BASIC
)
NOWHERE = b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
PAGE = {"Origin": "https://shop.example.com"}


def track():
    return {"type": "track", "event": "Bought", "messageId": new_id()}


def count(site, **labels):
    return site.metric("segsrv_answers_total", **labels)


def answers(site):
    """Return all counts of answers by their labels, the answer to this question not among them."""
    counts = Counter()
    for line in site.get("/metrics").body.decode().splitlines():
        if line.startswith("segsrv_answers_total{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            status = int(labels["status"])
            key = (labels["code"], status, labels["path"], labels["key"])
            counts[key] += int(float(line.rpartition(" ")[2]))
    return counts


def lines(site):
    """Return the log lines of refusals."""
    return [line for line in site.process.stderr.splitlines() if "refused " in line]


def exchange(address, data):
    """Send bytes and return all that comes back until the server closes."""
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@dataclass
class Case:
    """A request, and the labels that its answer is counted with."""

    name: str
    labels: tuple[str, int, str, str]
    path: str = FLAT
    body: object = None
    key: str | None = KEY
    method: str = "POST"

    def send(self, site):
        body = track() if self.body is None else self.body
        if self.method == "POST":
            headers = GZIP if self.name == "no_gzip" else {}
            return site.post(body, path=self.path, key=self.key, headers=headers)
        return site.request(self.method, self.path)


CASES = [
    Case("single", ("ok", 200, "single", KEY_ID), path=FLAT + "/v1/track"),
    Case("batch", ("ok", 200, "batch", KEY_ID), body={"batch": [track()]}),
    Case("key_in_body", ("ok", 200, "batch", KEY_ID), body={**track(), "writeKey": KEY}, key=None),
    Case("telemetry", ("ok", 200, "telemetry", ""), path="/v1/m"),
    Case("no_json", ("invalid_json", 400, "batch", KEY_ID), body=b"{"),
    Case("no_object", ("invalid_body", 400, "batch", KEY_ID), body=[]),
    Case("no_gzip", ("unreadable_body", 400, "batch", KEY_ID), body=b"no gzip"),
    Case("no_key", ("unauthorized", 401, "batch", ""), key=None),
    Case("wrong_key", ("unauthorized", 401, "single", ""), path="/v1/t", key="wrong"),
    Case("wrong_key_in_body", ("unauthorized", 401, "batch", ""), body={"writeKey": "w"}, key=None),
    Case("no_path", ("not_found", 404, "other", ""), path="/v2/batch"),
    Case("doubled_slash", ("ok", 200, "batch", KEY_ID), path="//v1//batch", body={"batch": []}),
    Case("settings", ("ok", 200, "settings", KEY_ID), f"/v1/projects/{KEY}/settings", method="GET"),
    Case("no_project", ("not_found", 404, "settings", ""), "/projects/x/settings", method="GET"),
    Case("line_end", ("not_found", 404, "other", ""), "/%0a", method="PUT"),
    Case("probe", ("ok", 200, "probe", ""), "/health", method="GET"),
    Case("openapi", ("ok", 200, "probe", ""), "/openapi.json", method="GET"),
    Case("preflight", ("ok", 200, "preflight", ""), method="OPTIONS"),
]


class TestCounts:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_an_answer_is_counted_by_code_status_path_and_key(self, site, case):
        """Whatever is answered, exactly one counter grows by one."""
        before = answers(site)
        answer = case.send(site)
        difference = answers(site)
        difference.subtract(before)
        # The first question is counted when it has been answered.
        expected = Counter([case.labels, ("ok", 200, "probe", "")])

        assert answer.status == case.labels[1]
        assert +difference == expected

    def test_a_refused_origin_counts_for_its_key(self, new_site, tmp_path):
        """A page that may not use a key is counted by the key, and named in the log."""
        config = tmp_path / "segsrv.toml"
        config.write_text('[[keys]]\nid = "web"\nsecret = "s1"\norigins = ["https://a.example"]\n')
        site = new_site("--config", str(config))
        assert site.post(track(), key="s1", headers=PAGE).status == 401

        assert count(site, code="origin_not_allowed", path="batch", key="web", status=401) == 1
        (line,) = lines(site)
        assert "code=origin_not_allowed path=batch key=web peer=127.0.0.1 count=1: " in line

    def test_scripts_are_counted_by_the_key_in_their_path(self, new_site, tmp_path):
        """What the snippet loads counts for its key; without a known one it is not found."""
        (tmp_path / "standalone.js").write_text("1")
        site = new_site("--analytics-js-dir", str(tmp_path))
        for key, status in ((KEY, 200), ("x", 404)):
            path = f"/analytics.js/v1/{key}/analytics.min.js"
            assert site.get(path).status == status

        assert count(site, code="ok", path="script", key=KEY_ID) == 1
        assert count(site, code="not_found", path="script", key="") == 1

    def test_requests_by_status_are_those_of_sdks(self, new_site):
        """`segsrv_requests_total` counts what brings events, whatever else is asked for."""
        site = new_site()
        site.post(track())
        site.post(track(), path="/v1/m")
        site.post(b"{")
        site.post(track(), path="/nothing")
        site.get("/health")

        assert site.metric("segsrv_requests_total", status="200") == 2
        assert site.metric("segsrv_requests_total", status="400") == 1
        assert site.metric("segsrv_requests_total") == 3

    @BOTH_FRONTS
    @pytest.mark.parametrize(
        ("data", "status"),
        [
            (b"no http at all\r\n\r\n", 400),
            (b"POST /v1/t HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
            (b"GET /health HTTP/1.0\r\nHost: a\r\nExpect: tea\r\n\r\n", 200),
            (b"POST /v1/t HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nConnection: close\r\n\r\n", 417),
        ],
        ids=["no_http", "length", "ignored_expectation", "expectation"],
    )
    def test_what_no_handler_sees_is_counted(self, start_server, data, status):
        """Broken HTTP and aiohttp's own answers have a code of their own."""
        site = start_server()
        assert exchange(site.address, data).split(b" ")[1] == str(status).encode()

        expected = int(status != 200)
        assert count(site, code="bad_http", status=status, path="other", key="") == expected
        assert len(lines(site)) == expected

    @BOTH_FRONTS
    def test_refused_connections_are_counted(self, start_server):
        """What is turned away before it is read is counted, and one line says so."""
        site = start_server("--connections-max", "1")
        with socket.create_connection(site.address, timeout=30) as kept:
            kept.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            kept.recv(4096)
            for _ in range(3):
                assert exchange(site.address, b"").startswith(b"HTTP/1.1 503 ")
            kept.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            text = b"".join(iter(lambda: kept.recv(65536), b""))

        assert (
            b'segsrv_answers_total{code="overloaded",key="",path="other",status="503",worker="0"} 3'
        ) in text
        (line,) = lines(site)
        assert "code=overloaded path=other key= peer=127.0.0.1 count=1: too many" in line

    def test_all_workers_are_in_it(self, start_server):
        """A scrape has the answers of every worker, each under its number."""
        site = start_server("--workers", "2")
        sent, workers = 0, set()
        deadline = time.monotonic() + 30
        # Which worker takes a connection is not known before.
        while len(workers) < 2:
            assert time.monotonic() < deadline, f"only workers {workers} after {sent} requests"
            assert site.post(track(), key="wrong").status == 401
            sent += 1
            workers = {
                worker
                for worker in ("0", "1")
                if count(site, code="unauthorized", path="batch", worker=worker)
            }
        while count(site, code="unauthorized", status=401, path="batch", key="") != sent:
            assert time.monotonic() < deadline
            time.sleep(0.05)


class TestLog:
    def test_the_first_of_a_kind_is_logged(self, new_site):
        """One line says code, kind of path, key id and whose request it was; the next wait."""
        site = new_site(write_keys=(f"web:{KEY}",))
        for _ in range(3):
            site.post(track(), key="wrong", headers={"X-Forwarded-For": LONDON})
            site.post(b"{", headers={"X-Forwarded-For": LONDON})
            site.post(track(), path="/v2/batch")
        site.post(track())
        site.get("/health")
        unauthorized, invalid, nothing = lines(site)

        # Mounted, the outer application decides how lines look.
        assert site.prefix or "level=warning" in unauthorized
        assert (
            f"refused status=401 code=unauthorized path=batch key= peer={LONDON} count=1: "
            "the write key is not known here"
        ) in unauthorized
        assert f"status=400 code=invalid_json path=batch key=web peer={LONDON} " in invalid
        assert "code=not_found path=other key= peer=127.0.0.1 count=1: there is noth" in nothing
        assert "/v2/batch" in nothing
        assert "level=error" not in site.process.stderr

    @pytest.mark.parametrize("policy", ["strict", "comply"])
    def test_addresses_are_shortened_where_a_policy_asks_for_it(self, new_site, policy):
        """The server's policy shortens every address, a request's own that of its line."""
        for flags, query in (("--ip-policy", policy), ""), ((), f"?ip_policy={policy}"):
            site = new_site(*flags)
            headers = {"X-Forwarded-For": LONDON}
            site.post(track(), path=FLAT + query, key="wrong", headers=headers)
            (line,) = lines(site)

            assert "peer=81.2.69.1 " in line
            assert LONDON not in site.process.stderr

    def test_a_request_cannot_lengthen_its_address(self, new_site):
        """A request that asks for its address to be kept does not change the server's policy."""
        site = new_site("--ip-policy", "strict")
        headers = {"X-Forwarded-For": LONDON}
        site.post(track(), path=FLAT + "?ip_policy=keep", key="wrong", headers=headers)
        (line,) = lines(site)
        assert "peer=81.2.69.1 " in line

    @pytest.mark.parametrize("parser", ["", "1"], ids=["c_parser", "python_parser"])
    @pytest.mark.parametrize(
        ("code", "data"),
        [
            ("bad_http", LONG_HEAD),
            ("bad_http", b"GET http://[%s HTTP/1.1\r\nHost: a\r\n\r\n" % SECRET),
            ("bad_http", b"GET / HTTP/1.1\r\nHost: a\r\nBasic %s\r\n\r\n" % BASIC),
            ("not_found", NOWHERE % (b"/projects/%s/setings" % SECRET)),
            ("not_found", NOWHERE % (b"/%s/%s" % (b"x" * 190, SECRET))),
            (
                "unknown_encoding",
                b"POST /v1/t?token=%s HTTP/1.1\r\nHost: a\r\nContent-Encoding: %s\r\n"
                b"Connection: close\r\nContent-Length: 1\r\n\r\n{" % (SECRET, SECRET),
            ),
        ],
        ids=["long_head", "target", "no_header", "path", "long_path", "encoding"],
    )
    def test_no_secret_is_logged(self, start_server, code, data, parser):
        """Not one that stands in a path, in a broken head or body or in a header."""
        environ = {"AIOHTTP_NO_EXTENSIONS": parser}
        site = start_server(write_keys=(f"web:{SECRET.decode()}",), environ=environ)
        exchange(site.address, data)
        self.check_line(site, code)

    def test_a_body_that_is_quoted_is_not_logged(self, start_server):
        """Aiohttp's parser in Python quotes what is no chunk; the client is told that, no log."""
        environ = {"AIOHTTP_NO_EXTENSIONS": "1"}
        site = start_server(write_keys=(f"web:{SECRET.decode()}",), environ=environ)
        with socket.create_connection(site.address, timeout=30) as connection:
            connection.sendall(CHUNKED_HEAD)
            assert b" 100 " in connection.recv(4096)
            connection.sendall(BASIC + b"\r\n")
            assert BASIC in b"".join(iter(lambda: connection.recv(65536), b""))
        self.check_line(site, "unreadable_body")

    @pytest.mark.parametrize(
        ("query", "encoding", "body"),
        [
            ("", "%s", "{}"),
            ("", f"{'x' * 60}, %s", "{}"),
            ("", "identity", '{"%s": 1}'),
            ("?ip_policy=%s", "identity", '{"type": "page"}'),
        ],
        ids=["encoding", "encodings", "name", "policy"],
    )
    def test_no_part_of_a_long_secret_is_logged(self, start_server, query, encoding, body):
        """What is quoted is cut, or put in lower case, only when secrets are out of it."""
        secret = "Long-And-Of-Both-Cases-" + "Xy" * 60
        site = start_server(write_keys=(f"web:{secret}",))
        site.post(
            (body.replace("%s", secret)).encode(),
            path="/v1/batch" + query.replace("%s", secret),
            key=secret,
            headers={"Content-Encoding": encoding.replace("%s", secret)},
        )
        text = site.process.stderr.lower()
        assert "level=warning" in text
        assert secret[:12].lower() not in text

    def test_no_part_of_a_long_secret_in_a_parameter_is_logged(self, start_server):
        """A pixel's parameters that contradict each other are named only without secrets."""
        secret = "Long-And-Of-Both-Cases-" + "Xy" * 60
        site = start_server(write_keys=(f"web:{secret}",))
        site.get(f"/v1/pixel/track?writeKey={secret}&{secret}=1&{secret}.a=2")
        self.check_line(site, "invalid_fields")
        assert "[key web].a and another" in site.process.stderr
        assert secret[:12] not in site.process.stderr

    def check_line(self, site, code):
        (line,) = lines(site)
        assert f"code={code} " in line
        # A part of it is too much already.
        assert SECRET.decode()[:6] not in line
        assert BASIC.decode()[:8] not in line

    def test_a_path_is_logged_with_the_key_s_id(self, start_server):
        """Where a path is told, the id stands in the place of the secret."""
        site = start_server(write_keys=(f"web:{KEY}",))
        site.get(f"/projects/{KEY}/setings")
        (line,) = lines(site)
        assert "there is nothing at GET /projects/[key web]/setings" in line

    def test_text_of_clients_moves_no_cursor(self, start_server):
        """What a terminal would act on is escaped: control characters and changes of direction."""
        site = start_server()
        site.post(track(), path="/%1b%5b2J%0a%c2%9b2J%e2%80%ae%ff-gr%c3%bcn")
        (line,) = lines(site)

        assert line.isprintable()
        assert "-grün" in line

    def test_a_wrong_policy_cannot_fill_the_log(self, new_site):
        """However many wrong policies are named, the log has one line of each kind."""
        site = new_site()
        for number in range(5):
            path = f"{FLAT}?ip_policy=x{number}&cookie_policy=x{number}"
            assert site.post(track(), path=path).status == 200

        named = [line for line in site.process.stderr.splitlines() if "is not one of" in line]
        assert len(named) == 2
        assert sum("ip_policy='x0'" in line for line in named) == 1


class TestOnceAMinute:
    async def test_a_kind_is_logged_once_a_minute_with_its_number(
        self, aiohttp_client, tmp_path, caplog
    ):
        """After a minute the next refusal is logged, with how many came since the last line."""
        app = create_app(Settings(data_dir=tmp_path / "data", write_key=("web:s1",)))
        now_s = 1_000.0
        app[TALLY]._seldom = Seldom(lambda: now_s)
        client = await aiohttp_client(app)

        async def refuse(times, key):
            for _ in range(times):
                headers = {"X-Write-Key": key}
                assert (await client.post(FLAT, data=b"{", headers=headers)).status in {400, 401}

        def said():
            texts = [record.getMessage() for record in caplog.records]
            caplog.clear()
            return [text.partition(": ")[0] for text in texts if text.startswith("refused")]

        first = "refused status=401 code=unauthorized path=batch key= peer=127.0.0.1 count="
        await refuse(40, "wrong")
        assert said() == [first + "1"]
        await refuse(1, "s1")
        assert said() == [
            "refused status=400 code=invalid_json path=batch key=web peer=127.0.0.1 count=1"
        ]
        now_s += 59.9
        await refuse(2, "wrong")
        assert said() == []
        now_s += 0.2
        await refuse(3, "wrong")
        assert said() == [first + "42"]
        now_s += 600
        await refuse(1, "wrong")
        assert said() == [first + "3"]

    async def test_kinds_are_as_many_as_the_settings_name(self, aiohttp_client, tmp_path, caplog):
        """A client that makes up keys, paths and bodies makes up no counters and no lines."""
        app = create_app(Settings(data_dir=tmp_path / "data", write_key=("web:s1",)))
        client = await aiohttp_client(app)
        for number in range(50):
            await client.post(f"/{number}")
            await client.get(f"/v1/projects/{number}/settings")
            await client.post("/v1/t", data=json.dumps({"writeKey": str(number)}))
            await client.post("/v1/t", data=b"{}" * number, headers={"X-Write-Key": f"{number}"})

        assert len(app[TALLY].counters.answers) == 3
        assert len(caplog.records) == 3
