"""The endpoints as a client sees them, standalone and mounted: bytes in, answer and line out."""

import base64
import gzip
import http.client
import json
import re
import socket
import zlib
from pathlib import Path

import pytest

from tests.site import COMPAT, FLAT, KEY, LONDON, basic, id_of, new_id

ERROR_FIELDS = {"status", "code", "message", "error"}
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def track(event_id, **fields):
    return {"type": "track", "event": "Bought", "userId": "u1", "messageId": event_id, **fields}


class TestAnswers:
    def test_an_event_is_answered_exactly_ok(self, site):
        """A stored event is answered with 200 and `{"status":"ok"}` as JSON, nothing else."""
        answer = site.post(track(new_id()))

        assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
        assert answer.headers.get_content_type() == "application/json"

    @pytest.mark.parametrize("suffix", ["", "/v1/batch"])
    @pytest.mark.parametrize("path", [FLAT, COMPAT])
    def test_every_path_stores_its_format(self, site, path, suffix):
        """Both formats are taken at their path and with `/v1/batch` behind it."""
        event_id = new_id()
        assert site.post({"batch": [track(event_id)]}, path=path + suffix).status == 200
        (event,) = site.stored(event_id)

        assert ("eventn_ctx" in event) == (path == COMPAT)
        assert event["event_type"] == "track"

    def test_keep_alive_serves_many_requests(self, site):
        """One connection carries many requests, each answered in full."""
        connection = http.client.HTTPConnection(*site.address, timeout=30)
        ids = [new_id() for _ in range(5)]
        for event_id in ids:
            connection.request(
                "POST",
                site.prefix + FLAT,
                body=json.dumps(track(event_id)),
                headers={"Authorization": basic(KEY)},
            )
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b'{"status":"ok"}')
        connection.close()

        assert len(site.stored(*ids)) == 5

    def test_http_1_0_and_close_are_answered_and_closed(self, site):
        """A client that does not keep connections alive is answered, and its connection closed."""
        body = json.dumps(track(new_id())).encode()
        for version, extra in (("1.0", ""), ("1.1", "Connection: close\r\n")):
            head = (
                f"POST {site.prefix}{FLAT} HTTP/{version}\r\nHost: test\r\n{extra}"
                f"Authorization: {basic(KEY)}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            with socket.create_connection(site.address, timeout=30) as connection:
                connection.sendall(head.encode() + body)
                answer = b"".join(iter(lambda: connection.recv(4096), b""))

            assert answer.startswith(f"HTTP/{version} 200 ".encode())
            assert answer.endswith(b'{"status":"ok"}')

    def test_pipelined_requests_are_answered_in_order(self, site):
        """Requests sent without waiting are all answered and all stored."""
        ids = [new_id() for _ in range(40)]
        bodies = [json.dumps(track(event_id)).encode() for event_id in ids]
        head = f"POST {site.prefix}{FLAT} HTTP/1.1\r\nHost: t\r\nAuthorization: {basic(KEY)}\r\n"
        sent = b"".join(
            head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in bodies
        )
        with socket.create_connection(site.address, timeout=30) as connection:
            connection.sendall(sent)
            received = b""
            while received.count(b'{"status":"ok"}') < len(ids):
                part = connection.recv(65536)
                assert part, f"closed after {received.count(b'HTTP/1.1 200')} answers"
                received += part

        assert len(ids) == len(site.stored(*ids))

    def test_outer_middleware_sees_the_answer(self, site):
        """Mounted, a middleware of the outer application can change the answer's headers."""
        answer = site.post(track(new_id()))

        assert ("yes" if site.prefix else None) == answer.headers.get("X-Outer")

    @pytest.mark.parametrize("path", ["/", "/nothing", FLAT + "/other"])
    def test_unknown_paths_are_json_404(self, site, path):
        """A path that is not there is 404 with a JSON error that names it."""
        answer = site.post(track(new_id()), path=path)

        assert answer.status == 404
        assert set(answer.json()) == ERROR_FIELDS
        assert path in answer.json()["message"]


class TestKeys:
    @pytest.mark.parametrize(
        "headers",
        [
            {"Authorization": basic(KEY)},
            {"Authorization": basic(KEY, "ignored")},
            {"Authorization": "Basic " + base64.b64encode(KEY.encode()).decode()},
            {"X-Auth-Token": KEY},
            {"X-Write-Key": KEY},
            {"api_key": KEY},
        ],
        ids=[
            "basic",
            "basic_password",
            "basic_without_colon",
            "x_auth_token",
            "x_write_key",
            "api_key",
        ],
    )
    def test_headers_carry_the_key(self, site, headers):
        """Every header form is accepted, and the key that was used is stored."""
        event_id = new_id()
        assert site.post(track(event_id), headers=headers, key=None).status == 200

        assert site.stored(event_id)[0]["api_key"] == KEY

    @pytest.mark.parametrize(
        "query", ["token", "p_0123", "writeKey", "writekey", "WRITEKEY", "WriteKey", "a=b&writeKey"]
    )
    def test_query_carries_the_key(self, site, query):
        """`token`, `writeKey` in any letter case and Jitsu's `p_…` parameters are accepted."""
        event_id = new_id()
        assert site.post(track(event_id), path=f"{FLAT}?{query}={KEY}", key=None).status == 200
        assert len(site.stored(event_id)) == 1

    @pytest.mark.parametrize("path", ["/v1/batch", "/api/s/track", f"{COMPAT}/v1/t", "//v1//b/"])
    def test_query_carries_the_key_on_every_path(self, site, path):
        """The key in the query is looked for wherever events are taken."""
        event_id = new_id()
        body = {"batch": [track(event_id)]}
        assert site.post(body, path=f"{path}?writeKey={KEY}", key=None).status == 200
        assert len(site.stored(event_id)) == 1

    @pytest.mark.parametrize(
        ("query", "status"),
        [
            ("token={key}&writeKey=no", 200),
            ("writeKey=no&token={key}", 200),
            ("p_1=no&writeKey={key}", 200),
            ("p_1={key}&p_2=no", 200),
            ("writeKey=&p_1={key}", 200),
            ("token=&writekey=&writeKey={key}", 200),
            ("token=no&writeKey={key}", 401),
            ("writeKey=no&p_1={key}", 401),
            ("write_key={key}", 401),
        ],
    )
    def test_one_parameter_decides(self, site, query, status):
        """Of several parameters `token` goes before `writeKey`, and that before `p_…`."""
        answer = site.post(track(new_id()), path=f"{FLAT}?{query.format(key=KEY)}", key=None)
        assert answer.status == status

    @pytest.mark.parametrize("where", ["single", "batch", "item"])
    def test_body_carries_the_key_and_it_is_not_stored(self, site, where):
        """`writeKey` is accepted at the top, in the event and in an item, and never stored."""
        event_id = new_id()
        event = track(event_id)
        if where == "single":
            body = {**event, "writeKey": KEY}
        elif where == "batch":
            body = {"batch": [event], "writeKey": KEY}
        else:
            body = {"batch": [{**event, "writeKey": KEY}]}
        assert site.post(body, key=None).status == 200

        assert "writeKey" not in site.stored(event_id)[0]

    def test_bearer_leaves_the_body_key_to_decide(self, site):
        """A Bearer token is no write key; the body's key counts beside it."""
        event_id = new_id()
        headers = {"Authorization": f"Bearer {KEY}"}
        assert site.post(track(event_id), headers=headers, key=None).status == 401

        body = {**track(event_id), "writeKey": KEY}
        assert site.post(body, headers=headers, key=None).status == 200

    def test_header_wins_over_body(self, site):
        """A header's key decides, right or wrong: jitsu-js masks the one in the body."""
        wrong_body = {**track(new_id()), "writeKey": "id:***"}
        assert site.post(wrong_body, key=KEY).status == 200
        right_body = {**track(new_id()), "writeKey": KEY}
        assert site.post(right_body, key="wrong").status == 401

    @pytest.mark.parametrize("key", [None, "", "wrong", KEY + "x", KEY[:-1], "\u00e9"])
    def test_other_keys_are_401(self, site, key):
        """No key, or one that differs in any way, is 401 with the error's fields as JSON."""
        answer = site.post(track(new_id()), key=key)

        assert answer.status == 401
        assert set(answer.json()) == ERROR_FIELDS
        assert answer.json()["code"] == "unauthorized"

    def test_a_long_key_is_401_and_is_not_kept(self, new_site):
        """Keys as long as a body are refused one after the other, and fill no memory."""
        site = new_site()
        status = Path(f"/proc/{site.process.pid}/status")

        def resident_mib() -> int:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) >> 10

        def send(number):
            body = {"type": "track", "writeKey": f"{number:03d}" + "x" * 2_000_000}
            assert site.post(body, key=None).status == 401

        send(0)
        before = resident_mib()
        for number in range(1, 65):
            send(number)
        assert resident_mib() - before < 64

    def test_broken_basic_is_401(self, site):
        """Basic auth that is not base64 is 401, not a fault."""
        answer = site.post(track(new_id()), headers={"Authorization": "Basic %%%"}, key=None)
        assert answer.status == 401

    def test_keys_with_an_id_are_known_by_secret_and_by_both(self, new_site):
        """A key given as ID:SECRET is accepted as the secret and as `id:secret` (jitsu-js)."""
        site = new_site(write_keys=("web:s3cret", "other"))
        for headers in ({"X-Write-Key": "web:s3cret"}, {"Authorization": basic("web", "s3cret")}):
            assert site.post(track(new_id()), headers=headers, key=None).status == 200
        assert site.post(track(new_id()), key="s3cret").status == 200
        assert site.post(track(new_id()), key="other").status == 200
        assert site.post(track(new_id()), key="web").status == 401


class TestLimits:
    def test_bodies_over_the_limit_are_400(self, new_site):
        """A body over the limit is 400 naming the limit, announced or chunked, gzipped or not."""
        site = new_site("--body-bytes-max", "20000")
        event = track(new_id(), properties={"text": "x" * 30_000})
        body = json.dumps(event).encode()
        plain = site.post(body)
        gzipped = site.post(gzip.compress(body), headers={"Content-Encoding": "gzip"})
        chunked = site.request(
            "POST", FLAT, body=iter([body]), headers={"Authorization": basic(KEY)}
        )

        for answer in (plain, gzipped, chunked):
            assert (answer.status, answer.json()["code"]) == (400, "body_too_large")
            assert "20000" in answer.json()["message"]

    def test_bodies_over_the_outer_limit_are_stored(self, site):
        """The limit is segsrv's own, whatever the outer application's `client_max_size` is."""
        event_id = new_id()
        event = track(event_id, properties={"text": "x" * 200_000})
        assert site.post(event).status == 200
        assert len(site.stored(event_id)[0]["text"]) == 200_000

    def test_a_bomb_is_400(self, site):
        """A small body that decompresses beyond the limit is refused, and the server lives on."""
        bomb = gzip.compress(b"[" * 300_000_000, compresslevel=9)
        answer = site.post(bomb, headers={"Content-Encoding": "gzip"})

        assert (answer.status, answer.json()["code"]) == (400, "body_too_large")
        assert site.post(track(new_id())).status == 200

    def test_an_event_over_the_limit_is_400_alone_and_set_aside_in_a_batch(self, new_site):
        """Alone it is refused; in a batch its neighbours are stored and it is a dead letter."""
        site = new_site("--event-bytes-max", "2000")
        large = track(new_id(), properties={"text": "x" * 3_000})
        answer = site.post(large)
        assert (answer.status, answer.json()["code"]) == (400, "event_too_large")
        assert "2000" in answer.json()["message"]

        neighbours = [new_id(), new_id()]
        batch = {"batch": [track(neighbours[0]), large, track(neighbours[1])]}
        assert site.post(batch).status == 200
        assert neighbours == [id_of(event) for event in site.stored(*neighbours)]
        (letter,) = site.dead_letters()
        assert letter["reason"] == "event_too_large"
        assert site.metric("segsrv_set_aside_total", reason="event_too_large") == 1

    def test_a_batch_over_the_limit_is_400(self, new_site):
        """One event more than allowed refuses the batch, naming both numbers."""
        site = new_site("--batch-events-max", "3")
        assert site.post({"batch": [track(new_id()) for _ in range(3)]}).status == 200
        answer = site.post({"batch": [track(new_id()) for _ in range(4)]})

        assert (answer.status, answer.json()["code"]) == (400, "batch_too_long")
        assert "4" in answer.json()["message"]
        assert "3" in answer.json()["message"]

    def test_a_batch_that_grows_over_the_limit_is_400(self, site):
        """A small body whose context all events share can't become gigabytes."""
        batch = {"batch": [{}] * 2_500, "context": {"text": "x" * 900_000}}
        answer = site.post(batch)

        assert (answer.status, answer.json()["code"]) == (400, "batch_too_large")
        assert str(4 << 20) in answer.json()["message"]

    def test_a_body_that_stops_coming_is_ended(self, new_site):
        """A sender that stops in the middle of its body is answered in time and cut off."""
        site = new_site("--body-timeout-s", "0.2")
        head = (
            f"POST {site.prefix}{FLAT} HTTP/1.1\r\nHost: t\r\nAuthorization: {basic(KEY)}\r\n"
            "Content-Length: 1000\r\n\r\n{"
        )
        with socket.create_connection(site.address, timeout=30) as connection:
            connection.sendall(head.encode())
            answer = connection.recv(65536)

        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"body_timeout" in answer


class TestBodies:
    @pytest.mark.parametrize(
        ("encoding", "compress"),
        [("gzip", gzip.compress), ("deflate", zlib.compress)],
        ids=["gzip", "deflate"],
    )
    def test_compressed_bodies_are_read(self, site, encoding, compress):
        """Compressed bodies are stored like plain ones."""
        event_id = new_id()
        body = compress(json.dumps(track(event_id)).encode())
        assert site.post(body, headers={"Content-Encoding": encoding}).status == 200
        assert len(site.stored(event_id)) == 1

    @pytest.mark.parametrize("name", ["x-gzip", "X-GZip"])
    def test_x_gzip_is_gzip(self, site, name):
        """The old name of gzip means the same, in one member or several, announced or chunked."""
        ids = [new_id() for _ in range(3)]
        one, two, three = (json.dumps(track(event_id)).encode() for event_id in ids)
        headers = {"Content-Encoding": name}
        assert site.post(gzip.compress(one), headers=headers).status == 200
        members = gzip.compress(two[:50]) + gzip.compress(two[50:])
        assert site.post(members, headers=headers).status == 200
        headers["Authorization"] = basic(KEY)
        chunks = iter([bytes([byte]) for byte in gzip.compress(three)])
        assert site.request("POST", FLAT, body=chunks, headers=headers).status == 200
        assert len(site.stored(*ids)) == 3

    def test_x_gzip_has_the_limits_of_gzip(self, site):
        """A bomb, a stream of tiny members and what is no gzip are refused; a large body is not."""
        event_id = new_id()
        large = json.dumps(track(event_id, properties={"text": "x" * 900_000})).encode()
        for body, status, code in (
            (gzip.compress(b"[" * 300_000_000, compresslevel=1), 400, "body_too_large"),
            (gzip.compress(b"") * 100_000, 400, "unreadable_body"),
            (b"not gzip at all", 400, "unreadable_body"),
            (b"", 400, "invalid_json"),
            (gzip.compress(large)[:-20], 400, "invalid_json"),
            (gzip.compress(large), 200, None),
        ):
            answer = site.post(body, headers={"Content-Encoding": "x-gzip"})
            assert (answer.status, answer.json().get("code")) == (status, code)
        assert len(site.stored(event_id)) == 1

    @pytest.mark.parametrize(
        "names",
        [["gzip, gzip"], ["gzip, br"], ["identity, gzip"], ["gzip", "br"], ["x-gzip", "gzip"]],
    )
    def test_more_than_one_encoding_is_400(self, site, names):
        """A body that was encoded twice is refused, in one header line or in two."""
        body = gzip.compress(gzip.compress(json.dumps(track(new_id())).encode()))
        lines = "".join(f"Content-Encoding: {name}\r\n" for name in names)
        head = f"POST {site.prefix}{FLAT} HTTP/1.1\r\nHost: t\r\nX-Write-Key: {KEY}\r\n{lines}"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(site.address, timeout=30) as connection:
            connection.sendall(head.encode() + body)
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 400 ")
        if len(names) == 1:
            assert b"more than one Content-Encoding" in answer

    def test_a_broken_encoding_is_400(self, site):
        """A body that is not what its Content-Encoding says is 400."""
        answer = site.post(b"not gzip at all", headers={"Content-Encoding": "gzip"})
        assert (answer.status, answer.json()["code"]) == (400, "unreadable_body")

    @pytest.mark.parametrize(
        ("body", "part"),
        [
            (b"", "empty"),
            (b"{", "line 1 column 2"),
            (b'{"a":1,\n  oops}', "line 2 column 3"),
            (b"[]", "an array"),
            (b'"text"', "a string"),
            (b"null", "null"),
            (b'{"batch":{}}', "an object"),
            (b'{"batch":null}', "null"),
            (b"[" * 100_000, "nested"),
        ],
    )
    def test_unreadable_bodies_are_400_and_say_where(self, site, body, part):
        """A body that is no event is 400 with a message that says what and where."""
        answer = site.post(body)

        assert answer.status == 400
        assert set(answer.json()) == ERROR_FIELDS
        assert part in answer.json()["message"]

    def test_an_empty_batch_is_ok(self, site):
        """A batch without events is answered ok."""
        assert site.post({"batch": []}).status == 200

    def test_what_strict_parsers_refuse_is_stored(self, site):
        """NaN and lone surrogates of one event become null and U+FFFD; neighbours are untouched."""
        first, second = new_id(), new_id()
        body = (
            b'{"batch":[{"type":"track","messageId":"%s","properties":{"n":NaN,"t":"\\ud800x"}},'
            b'{"type":"track","messageId":"%s","properties":{"t":"\\ud83d\\ude00"}}]}'
        ) % (first.encode(), second.encode())
        assert site.post(body).status == 200
        one, two = site.stored(first, second)

        assert (one["n"], one["t"]) == (None, "\ufffdx")
        assert two["t"] == "\U0001f600"

    @pytest.mark.parametrize("content_type", [None, "text/plain", "application/json; charset=x"])
    def test_any_content_type_is_read(self, site, content_type):
        """The Content-Type does not matter: browsers send text/plain, C# sends none."""
        headers = {} if content_type is None else {"Content-Type": content_type}
        assert site.post(track(new_id()), headers=headers).status == 200

    def test_expect_continue_is_answered(self, site):
        """A client that waits for `100 Continue` before its body gets it."""
        body = json.dumps(track(new_id())).encode()
        head = (
            f"POST {site.prefix}{FLAT} HTTP/1.1\r\nHost: t\r\nAuthorization: {basic(KEY)}\r\n"
            f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(site.address, timeout=30) as connection:
            connection.sendall(head.encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
            connection.sendall(body)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


class TestEnrichment:
    def test_the_client_is_located_and_its_browser_read(self, site):
        """An event gets its client's address, location, and what its user agent says."""
        event_id = new_id()
        event = track(event_id, context={"userAgent": BROWSER})
        headers = {"X-Forwarded-For": LONDON}
        assert site.post(event, headers=headers).status == 200
        (stored,) = site.stored(event_id)

        assert stored["source_ip"] == LONDON
        assert stored["location"] == {"country": "GB", "country_name": "United Kingdom"}
        assert (
            stored["parsed_ua"]["ua_family"],
            stored["parsed_ua"]["ua_version"],
        ) == ("Firefox", "140.0")

    def test_policies_of_the_query_are_kept(self, site):
        """`ip_policy` and `cookie_policy` change what is stored, and the answer says so."""
        event_id = new_id()
        event = track(event_id, anonymousId="cookie", context={"ip": LONDON})
        answer = site.post(event, path=FLAT + "?ip_policy=strict&cookie_policy=comply")
        assert answer.json() == {"status": "ok", "delete_cookie": True}
        (stored,) = site.stored(event_id)

        assert stored["source_ip"] == "81.2.69.1"
        assert stored["user"]["hashed_anonymous_id"] == stored["user"]["anonymous_id"]

        elsewhere = track(new_id(), anonymousId="cookie", context={"ip": "8.8.8.8"})
        answer = site.post(elsewhere, path=FLAT + "?cookie_policy=comply")
        assert answer.body == b'{"status":"ok"}'

    def test_unknown_policies_are_ignored(self, site):
        """A policy that is no policy changes nothing."""
        event_id = new_id()
        event = track(event_id, context={"ip": LONDON})
        assert site.post(event, path=FLAT + "?ip_policy=maybe").body == b'{"status":"ok"}'
        assert site.stored(event_id)[0]["source_ip"] == LONDON


class TestOperations:
    @pytest.mark.parametrize("path", ["/health", "/ready"])
    def test_health_needs_no_key(self, site, path):
        """The process says that it is up and ready to whoever asks."""
        answer = site.get(path)
        assert (answer.status, answer.json()) == (200, {"status": "ok"})

    def test_metrics_count_what_happened(self, new_site):
        """Requests, events, commits, caches and the sink are counted."""
        site = new_site()
        ids = [new_id() for _ in range(3)]
        context = {"userAgent": BROWSER, "ip": LONDON}
        for event_id in ids:
            site.post(track(event_id, context=context))
        site.post(b"{")
        site.post(track(new_id()), key="wrong")
        site.stored(*ids)

        assert site.metric("segsrv_requests_total", status="200") == 3
        assert site.metric("segsrv_requests_total", status="400") == 1
        assert site.metric("segsrv_requests_total", status="401") == 1
        assert site.metric("segsrv_events_total", format="flat", type="track") == 3
        assert site.metric("segsrv_commit_events_total") == 3
        assert site.metric("segsrv_cache_hits_total", cache="user_agent") == 2
        assert site.metric("segsrv_cache_misses_total", cache="geoip") == 1
        assert site.metric("segsrv_commit_seconds_count") >= 1
        assert site.metric("segsrv_journal_bytes") > 0
        assert site.metric("segsrv_sink_up", sink="file") == 1
