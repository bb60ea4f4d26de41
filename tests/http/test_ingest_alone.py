"""Ingest without any server: heads and bodies in, answers out."""

import base64
import gc
import json
import tracemalloc
import weakref

import pytest
from multidict import CIMultiDict

from segsrv import Settings
from segsrv.errors import JournalFull
from segsrv.events import Pipeline
from segsrv.events.counters import OK, Counters
from segsrv.http.auth import Keyring
from segsrv.http.caller import Callers
from segsrv.http.client_address import ClientAddress
from segsrv.http.cors import Cors
from segsrv.http.ingest import SMALL_BYTES_MAX, SMALL_OBJECTS_MAX, Ingest
from segsrv.http.paths import ingest_paths
from segsrv.http.request import Request
from segsrv.http.tally import Tally
from segsrv.settings import Key
from tests.waiting import until

KEY = "the-key"
TARGETS = ingest_paths()
BASIC = {"Authorization": "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()}


class Commit:
    """Holds what is to be committed until a test says how that ended."""

    def __init__(self):
        self.held = []
        self.is_full = False

    def check_room(self, _size):
        if self.is_full:
            raise JournalFull("full")

    def submit(self, lines, dead_letters, _run, done):
        self.held.append((lines, dead_letters, done))

    def end(self, fault=None):
        for _lines, _letters, done in self.held:
            done(fault)
        self.held.clear()


class Server:
    """An Ingest with all that it needs, and what it answered."""

    def __init__(self, **settings):
        settings = Settings(write_key=(KEY,), **settings)
        keys = settings.all_keys()
        self.key_id = keys[0].id
        self.counters, self.commit, self.answers = Counters(), Commit(), []
        tally, keyring, cors = Tally(settings, self.counters), Keyring(keys), Cors(keys)
        address = ClientAddress(settings.trusted_proxies, settings.client_ip_header)
        pipeline = Pipeline(
            event_bytes_max=settings.event_bytes_max,
            parse_user_agent=lambda _text: None,
            locate=lambda _address: None,
        )
        callers = Callers(settings, keyring, cors, address, tally)
        self.ingest = Ingest(settings, keyring, cors, pipeline, callers, tally)
        self.ingest.commit = self.commit

    def post(self, body, path="/v1/batch", query="", peer="203.0.113.9", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        request = Request("POST", path, query, CIMultiDict(headers or BASIC), peer)
        caller = self.ingest.caller(request, TARGETS[path])
        self.ingest.take(caller, body, self.answers.append)

    def told(self):
        return [(answer.status, json.loads(answer.body).get("code")) for answer in self.answers]


def batch(events):
    return {"batch": [{"type": "track", "event": "a"} for _ in range(events)]}


async def answered(server, count):
    await until(lambda: len(server.answers) + len(server.commit.held) >= count)


class TestAnswers:
    def test_a_small_body_is_answered_when_its_commit_ends(self):
        """Lines are handed over at once, and nothing is answered before they are safe."""
        server = Server()
        server.post(batch(2))
        assert server.answers == []
        ((lines, letters, _done),) = server.commit.held
        assert [json.loads(line)["event"] for line in lines] == ["a", "a"]
        assert letters == []

        server.commit.end()
        (answer,) = server.answers
        assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
        assert server.counters.answers == {(OK, 200, "batch", server.key_id): 1}

    def test_a_commit_that_fails_is_told(self):
        """Events that were not stored are 503, with when to come again."""
        server = Server(retry_after_s=7)
        server.post(batch(1))
        server.commit.end(JournalFull("full"))
        (answer,) = server.answers
        assert (answer.status, answer.headers["Retry-After"]) == (503, "7")

    @pytest.mark.parametrize(
        ("body", "headers", "told"),
        [
            pytest.param(b"", BASIC, (400, "invalid_json"), id="empty"),
            pytest.param(b"{", BASIC, (400, "invalid_json"), id="no JSON"),
            pytest.param(b"{}", BASIC, (400, "missing_batch"), id="no event"),
            pytest.param(batch(1), {"X-Write-Key": "no"}, (401, "unauthorized"), id="wrong key"),
            pytest.param(batch(1), {"Host": "a"}, (401, "unauthorized"), id="no key"),
        ],
    )
    def test_refusals(self, body, headers, told):
        """What can't be taken is answered at once, and nothing of it is stored."""
        server = Server()
        server.post(body, **headers)
        assert server.told() == [told]
        assert server.commit.held == []

    def test_the_key_in_a_body_counts(self):
        """A key that only the body names opens, and the answer is counted for it."""
        server = Server()
        server.post({**batch(1), "writeKey": KEY}, Host="a")
        server.commit.end()
        assert server.told() == [(200, None)]
        assert server.counters.answers == {(OK, 200, "batch", server.key_id): 1}

    async def test_large_bodies_take_turns(self):
        """A large body is not worked on when it comes, and each one is answered once."""
        server = Server()
        for _ in range(3):
            server.post(batch(100))
        assert server.commit.held == []
        assert server.ingest.receiving.bytes > 0
        await answered(server, 3)
        assert [len(lines) for lines, _letters, _done in server.commit.held] == [100] * 3
        assert server.ingest.receiving.bytes == 0
        server.commit.end()
        assert server.told() == [(200, None)] * 3

    async def test_which_bodies_take_turns(self):
        """Those of more bytes or opening braces than are worked on in about a millisecond."""
        server = Server()
        # Its own brace is one of them.
        server.post(batch(SMALL_OBJECTS_MAX - 1))
        server.post({"batch": [{"type": "track", "event": "a" * 15_000}]})
        assert len(server.commit.held) == 2
        server.post(batch(SMALL_OBJECTS_MAX))
        server.post({"batch": [{"type": "track", "event": "a" * SMALL_BYTES_MAX}]})
        assert len(server.commit.held) == 2
        await answered(server, 4)

    def test_the_key_of_each_body_counts(self):
        """Of a head that may stand before any body, what comes of one key is not another's."""
        server = Server(keys=(Key(id="one", secret="s1"), Key(id="two", secret="s2")))
        request = Request("POST", "/v1/batch", "", CIMultiDict({"Host": "a"}), "203.0.113.9")
        caller = server.ingest.caller(request, TARGETS["/v1/batch"])
        for key in ("s1", "s2", "s1"):
            body = json.dumps({**batch(1), "writeKey": key}).encode()
            server.ingest.take(caller, body, server.answers.append)
        lines = [
            json.loads(line) for lines, _letters, _done in server.commit.held for line in lines
        ]
        assert [line["api_key"] for line in lines] == ["s1", "s2", "s1"]
        server.commit.end()
        assert server.counters.answers == {
            (OK, 200, "batch", "one"): 2,
            (OK, 200, "batch", "two"): 1,
        }

    async def test_bodies_that_wait_for_their_turn_are_limited(self):
        """Who sent them may be gone, and come with more: no number of clients limits them."""
        limit = 1 << 20
        server = Server(reading_bytes_max=limit, body_bytes_max=limit)
        body = b"[" + b" " * 300_000 + b"]"
        for _ in range(5):
            server.post(body)
        assert server.told() == [(503, "overloaded")] * 2
        assert server.ingest.receiving.bytes == 3 * len(body)
        await answered(server, 5)
        assert server.told()[2:] == [(400, "invalid_body")] * 3
        assert server.ingest.receiving.bytes == 0

    async def test_a_large_body_that_is_refused_gives_back_its_bytes(self):
        """What waited for a turn no longer counts when it was refused."""
        server = Server()
        server.commit.is_full = True
        server.post(batch(100))
        await answered(server, 1)
        assert server.told() == [(503, "journal_full")]
        assert server.ingest.receiving.bytes == 0

    def test_a_fault_of_the_server_is_500(self, monkeypatch, caplog):
        """An error that nobody expected is in the log, and told without its text."""
        server = Server()
        monkeypatch.setattr(server.commit, "submit", lambda *_all: 1 / 0)
        server.post(batch(1))
        assert server.told() == [(500, "internal_error")]
        assert "ZeroDivisionError" in caplog.text

    def test_no_memory_is_503(self, monkeypatch):
        """A body for which there is no memory is to be sent again."""
        server = Server()

        def run_out(*_all):
            raise MemoryError

        monkeypatch.setattr(server.commit, "submit", run_out)
        server.post(batch(1))
        assert server.told() == [(503, "overloaded")]


class TestCallers:
    @pytest.mark.parametrize(
        ("header", "prefix", "peer"),
        [
            pytest.param("X-Forwarded-For", "", "203.0.113.9", id="of a stranger"),
            pytest.param("X-Forwarded-For", "", "127.0.0.1", id="through a proxy"),
            pytest.param("Authorization", "Basic ", "127.0.0.1", id="a key"),
        ],
    )
    def test_what_clients_make_up_is_not_kept(self, header, prefix, peer):
        """Long texts of headers fill no cache: anybody could fill each of them with thousands."""
        server = Server()
        tracemalloc.start()
        try:
            for number in range(1_500):
                text = prefix + "\U0001f600" * 1_900 + str(number)
                request = Request("POST", "/v1/t", "", CIMultiDict({header: text}), peer)
                server.ingest.caller(request, TARGETS["/v1/t"])
            assert tracemalloc.get_traced_memory()[0] < 1_000_000
        finally:
            tracemalloc.stop()

    def test_a_caller_is_good_for_many_requests(self):
        """What a head says is read once, and holds for each body behind the same head."""
        server = Server()
        request = Request("POST", "/v1/t", "", CIMultiDict(BASIC), "203.0.113.9")
        caller = server.ingest.caller(request, TARGETS["/v1/t"])
        for _ in range(3):
            server.ingest.take(caller, b'{"event":"a"}', server.answers.append)
        stored = [json.loads(lines[0]) for lines, _letters, _done in server.commit.held]
        assert [event["source_ip"] for event in stored] == ["203.0.113.9"] * 3
        assert {event["event_type"] for event in stored} == {"track"}

    def test_no_secret_is_shown(self):
        """Neither a caller nor what comes of it tells the key in a log line or a traceback."""
        server = Server(stored_api_key="secret")
        request = Request("POST", "/v1/t", "", CIMultiDict(BASIC), "203.0.113.9")
        caller = server.ingest.caller(request, TARGETS["/v1/t"])
        terms = server.ingest._callers.terms(caller, caller.key)
        assert terms.sender.api_key == KEY
        assert not [part for part in (caller, caller.key, terms, terms.sender) if KEY in repr(part)]

    def test_a_refused_head_holds_no_request(self):
        """The reason why a head is refused keeps nothing of its request in memory."""
        server = Server()
        request = Request("POST", "/v1/t", "", CIMultiDict({"X-Write-Key": "no"}), "")
        caller = server.ingest.caller(request, TARGETS["/v1/t"])
        assert caller.fault is not None
        gone = weakref.ref(request.headers)
        del request
        gc.collect()
        assert gone() is None
