"""Large and hostile requests: what they are answered, and that others are served beside."""

import gzip
import json
import socket
import threading

import pytest

from tests.site import FLAT, KEY, basic, new_id

MANY_VALUES = b'{"a":[' + b"0," * 300_000 + b"0]}"


def batch_of(ids, **fields):
    events = [{"type": "track", "messageId": event_id} for event_id in ids]
    return json.dumps({"batch": events, **fields}).encode()


class TestBeforeParsing:
    def test_too_many_values(self, site):
        """A body of more JSON values than the limit is 400, and the message names the limit."""
        answer = site.post(MANY_VALUES)
        assert (answer.status, answer.json()["code"]) == (400, "too_many_values")
        assert "300000" in answer.json()["message"]

    def test_a_body_without_a_key_is_not_looked_into(self, site):
        """Without a valid key the answer is 401, whatever else would be wrong with the body."""
        for body in (MANY_VALUES, b'{"writeKey":"wrong","n":oops}', b'{"batch":5}'):
            answer = site.post(body, key=None)
            assert (answer.status, answer.json()["code"]) == (401, "unauthorized")

    def test_a_body_that_lost_its_key_with_its_end(self, site):
        """A batch that was cut short is 400, which every SDK takes as final."""
        whole = batch_of([new_id()], writeKey=KEY)
        answer = site.post(whole[:-20], key=None)
        assert (answer.status, answer.json()["code"]) == (400, "invalid_json")

    @pytest.mark.parametrize("name", ["writeKey", "\\u0077rite\\u004Bey"])
    @pytest.mark.parametrize("place", ["first", "last", "items"])
    def test_the_key_is_found_in_a_large_body(self, site, name, place):
        """The key in the body counts wherever SDKs put it, and however JSON may write its name."""
        ids = [new_id() for _ in range(300)]
        key = f'"{name}":"{KEY}"'
        items = ",".join(
            f'{{"type":"track","messageId":"{i}"{"," + key if place == "items" else ""}}}'
            for i in ids
        )
        body = f'"batch":[{items}]'
        body = {"first": f"{key},{body}", "last": f"{body},{key}", "items": body}[place]
        assert site.post(f"{{{body}}}".encode(), key=None).status == 200
        assert len(site.stored(*ids)) == len(ids)

    def test_a_key_elsewhere_in_the_body_is_no_key(self, site):
        """Only documented places decide: a key in an event's properties opens nothing."""
        body = {"batch": [{"type": "track", "properties": {"writeKey": KEY}}]}
        assert site.post(body, key=None).status == 401


class TestTurns:
    def test_large_requests_at_once_are_all_stored(self, site):
        """Full batches that arrive together are answered 200 and stored once each, with others."""
        batches = [[new_id() for _ in range(2_500)] for _ in range(4)]
        answers = []

        def send(ids):
            headers = {"Content-Encoding": "gzip"}
            body = gzip.compress(batch_of(ids, context={"page": {"title": "t"}}))
            answers.append(site.post(body, headers=headers).status)

        threads = [threading.Thread(target=send, args=(ids,)) for ids in batches]
        for thread in threads:
            thread.start()
        small = new_id()
        assert site.post({"type": "track", "messageId": small}).status == 200
        for thread in threads:
            thread.join()
        assert answers == [200] * len(batches)
        stored = site.stored(small, *(event_id for ids in batches for event_id in ids))
        assert all(event["page_title"] == "t" for event in stored[1:])

    def test_a_client_that_leaves_in_its_turn_holds_up_nobody(self, site):
        """Clients that send large bodies and hang up at once leave the way free for the next."""
        body = batch_of([new_id() for _ in range(2_500)])
        head = f"POST {site.prefix}{FLAT} HTTP/1.1\r\nHost: h\r\nAuthorization: {basic(KEY)}\r\n"
        for _ in range(5):
            with socket.create_connection(site.address) as client:
                client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        last = [new_id() for _ in range(100)]
        assert site.post(batch_of(last)).status == 200
        assert len(site.stored(*last)) == len(last)

    def test_chunks_of_a_byte(self, site):
        """A body in the smallest chunks is put together right, also behind a long head."""
        ids = [new_id() for _ in range(200)]
        body = batch_of(ids)
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        head = f"POST {site.prefix}{FLAT} HTTP/1.1\r\nHost: h\r\nAuthorization: {basic(KEY)}\r\n"
        head += f"X-Padding: {'p' * 5_000}\r\nTransfer-Encoding: chunked\r\n\r\n"
        follower = new_id()
        with socket.create_connection(site.address, timeout=30) as client:
            client.sendall(head.encode() + chunks)
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
            # On the same connection, which parses on.
            event = batch_of([follower])
            client.sendall(
                f"POST {site.prefix}{FLAT} HTTP/1.1\r\nHost: h\r\nAuthorization: {basic(KEY)}\r\n"
                f"Content-Length: {len(event)}\r\n\r\n".encode()
                + event
            )
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        assert len(site.stored(*ids, follower)) == len(ids) + 1
