"""The front door without a socket: bytes in; requests taken, bytes out, guests let in."""

import heapq
import itertools
import tracemalloc

import pytest

from segsrv.errors import BadRequest
from segsrv.http import answers
from segsrv.http.caller import Caller
from segsrv.http.front import limits
from segsrv.http.front.door import Door
from segsrv.http.front.heads import Heads, read_head
from segsrv.http.front.limits import (
    LARGE_BYTES,
    REQUESTS_MAX,
    VISIT_BYTES_MAX,
    WORK_BYTES_MAX,
    WORK_REQUESTS_MAX,
)
from segsrv.http.paths import ingest_paths
from segsrv.http.receiving import Receiving

IDLE_S, SLOW_S = 60.0, 1.0
READING_BYTES_MAX = 150_000
BODY_BYTES_MAX = 200_000


class Loop:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self._timers = []
        self._numbers = itertools.count()

    def time(self):
        return self.now_s

    def call_later(self, delay_s, call):
        timer = Timer()
        entry = (self.now_s + delay_s, next(self._numbers), call, timer)
        heapq.heappush(self._timers, entry)
        return timer

    def call_soon(self, call):
        return self.call_later(0, call)

    def run_for(self, seconds):
        end_s = self.now_s + seconds
        while self._timers and self._timers[0][0] <= end_s:
            self.now_s, _number, call, timer = heapq.heappop(self._timers)
            if not timer.is_cancelled:
                call()
        self.now_s = end_s


class Timer:
    is_cancelled = False

    def cancel(self):
        self.is_cancelled = True


class Transport:
    def __init__(self) -> None:
        self.written = b""
        self.is_reading = True
        self.is_closed = False

    def get_extra_info(self, name):
        return ("192.0.2.7", 40_000) if name == "peername" else None

    def write(self, data):
        assert not self.is_closed
        self.written += data

    def pause_reading(self):
        self.is_reading = False

    def resume_reading(self):
        self.is_reading = True

    def is_closing(self):
        return self.is_closed

    def close(self):
        self.is_closed = True


class FakeGuest:
    """Keeps what it is given; a test says when it has answered."""

    task = None
    is_reading_paused = False
    is_reading_held = False
    writing_paused = False

    def __init__(self, on_answered) -> None:
        self.on_answered = on_answered
        self.received = b""
        self.calls = []

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received += data

    def eof_received(self):
        self.calls.append("eof")
        return True

    def __getattr__(self, name):
        return lambda *_: self.calls.append(name)


class Front:
    """What doors share, with requests that are answered when a test says so."""

    idle_s, slow_s = IDLE_S, SLOW_S

    def __init__(self) -> None:
        self.loop = Loop()
        self.taken = []
        self.guests = []
        self.connections = set()
        self.refuses_head = False
        self.receiving = Receiving(
            body_bytes_max=BODY_BYTES_MAX, reading_bytes_max=READING_BYTES_MAX, timeout_s=30
        )
        self.heads = Heads(
            ingest_paths(),
            self._caller,
            self._caller_at,
            forwarded_name="x-forwarded-for",
            body_bytes_max=BODY_BYTES_MAX,
        )
        self.answers_at_once = False

    def _caller(self, request, target):
        caller = Caller(target, address=request.peer, user_agent="", origin=None)
        caller.ok = answers.ok()
        return caller

    def _caller_at(self, caller, peer, _forwarded):
        other = Caller(caller.target, address=peer, user_agent="", origin=None)
        other.ok = caller.ok
        return other

    def take(self, caller, body, give):
        self.taken.append((caller, body, give))
        if self.answers_at_once:
            give(answers.ok())

    def made(self, door, _transport):
        self.connections.add(door)

    def lost(self, door):
        self.connections.remove(door)

    def guest(self, on_answered):
        self.guests.append(FakeGuest(on_answered))
        return self.guests[-1]

    @property
    def bodies(self):
        return [body for _caller, body, _give in self.taken]

    def answer(self, number, text="ok"):
        refusal = BadRequest(text)
        self.taken[number][2](answers.ok() if text == "ok" else answers.refusal(refusal))


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Work takes the time that a test says."""
    now_s = [0.0]
    monkeypatch.setattr(limits, "clock", lambda: now_s[0])
    return now_s


@pytest.fixture
def front():
    return Front()


@pytest.fixture
def door(front):
    door = Door(front)
    door.connection_made(Transport())
    return door


def transport_of(door) -> Transport:
    return door._transport


def post(body=b"{}", path="/v1/track", *lines) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: x", *lines, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode() + body


def get(path="/health") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def statuses(transport) -> list[int]:
    return [int(part[:3]) for part in transport.written.split(b"HTTP/1.1 ")[1:]]


class TestRequests:
    def test_a_request_in_one_packet_is_taken(self, front, door):
        """Its body goes on as it came, and its answer is written when there is one."""
        door.data_received(post(b'{"a":1}'))
        assert front.bodies == [b'{"a":1}']
        assert transport_of(door).written == b""

        front.answer(0)
        assert transport_of(door).written.endswith(b'\r\n\r\n{"status":"ok"}')
        assert transport_of(door).is_reading

    def test_it_may_be_cut_anywhere(self, front):
        """However two requests come in two packets, both are taken, once and whole."""
        data = post(b'{"first":1}') + post(b'{"second":2}', "/v1/batch", "X-Write-Key: k")
        for cut in range(len(data) + 1):
            door = Door(front)
            door.connection_made(Transport())
            front.taken.clear()
            door.data_received(data[:cut])
            door.data_received(data[cut:])
            assert front.bodies == [b'{"first":1}', b'{"second":2}']
            assert front.guests == []

    def test_it_may_come_byte_by_byte(self, front, door):
        """Also then, and nothing of it stays counted as being received."""
        for byte in post(b'{"first":1}') + post(b'{"second":2}'):
            door.data_received(bytes([byte]))
        assert front.bodies == [b'{"first":1}', b'{"second":2}']
        assert front.receiving.bytes == 0

    def test_answers_come_in_the_order_of_requests(self, front, door):
        """An answer that is there early waits for those before it."""
        door.data_received(post() * 3)
        front.answer(1, "second")
        front.answer(2, "third")
        assert transport_of(door).written == b""
        front.answer(0)
        assert statuses(transport_of(door)) == [200, 400, 400]
        written = transport_of(door).written
        assert written.index(b"second") < written.index(b"third")

    def test_the_same_head_has_the_same_caller(self, front, door):
        """Whatever its length; but not that of another path, key or address."""
        other = Door(front)
        transport = Transport()
        transport.get_extra_info = lambda name: ("192.0.2.8", 1) if name == "peername" else None
        other.connection_made(transport)
        door.data_received(post(b"{}"))
        door.data_received(post(b'{"longer":1}'))
        door.data_received(post(b"{}", "/v1/page"))
        door.data_received(post(b"{}", "/v1/track", "X-Write-Key: k"))
        other.data_received(post(b"{}"))
        callers = [caller for caller, _body, _give in front.taken]
        assert callers[0] is callers[1]
        assert len(set(map(id, callers))) == 4
        assert [caller.address for caller in callers] == ["192.0.2.7"] * 4 + ["192.0.2.8"]


class TestLimits:
    def test_only_so_many_are_under_way(self, front, door):
        """Behind them reading pauses until half of them are answered; none is lost."""
        door.data_received(post() * (REQUESTS_MAX + 5))
        assert len(front.taken) == REQUESTS_MAX
        assert not transport_of(door).is_reading

        for number in range(REQUESTS_MAX // 2):
            front.answer(number)
        assert len(front.taken) == REQUESTS_MAX + 5
        assert transport_of(door).is_reading

    def test_nothing_is_taken_behind_a_large_body(self, front, door):
        """Until it is answered: else one connection could fill the memory."""
        large = b"1" * (LARGE_BYTES + 1)
        door.data_received(post(large) + post(b"2"))
        assert front.bodies == [large]
        front.answer(0)
        assert front.bodies == [large, b"2"]
        assert transport_of(door).is_reading

    def test_a_client_that_does_not_read_is_not_read_from(self, front, door):
        """Reading goes on when its answers are gone, with what had come before."""
        door.pause_writing()
        door.data_received(post(b"1"))
        assert (front.bodies, transport_of(door).is_reading) == ([], False)
        door.resume_writing()
        assert (front.bodies, transport_of(door).is_reading) == ([b"1"], True)

    def test_others_are_served_between_many_small_ones(self, front, door):
        """A connection works on so many bytes in a row, and on the others in later rounds."""
        front.answers_at_once = True
        count = 2 * WORK_BYTES_MAX // len(post())
        door.data_received(post() * count)
        assert len(front.taken) == WORK_REQUESTS_MAX
        assert not transport_of(door).is_reading
        front.loop.run_for(0)
        assert len(front.taken) == count
        assert transport_of(door).is_reading

    def test_others_are_served_after_a_long_one(self, front, door, clock):
        """A small body can be milliseconds of work; what came behind it waits for a round."""
        take = front.take

        def take_long(*request):
            take(*request)
            clock[0] += limits.WORK_S

        front.take = take_long
        door.data_received(post(b"1") + post(b"2") + post(b"3"))
        assert front.bodies == [b"1"]
        front.loop.run_for(0)
        assert front.bodies == [b"1", b"2", b"3"]

    def test_others_are_served_between_large_ones(self, front, door):
        """As many bytes are as much work as many requests."""
        front.answers_at_once = True
        data = post(b"1" * LARGE_BYTES)
        door.data_received(data * 6)
        assert len(front.taken) == -(-WORK_BYTES_MAX // len(data))
        front.loop.run_for(0)
        assert len(front.taken) == 6

    def test_writing_that_pauses_last_keeps_reading_paused(self, front, door):
        """Also where what was held could be taken, and its answers filled the buffer."""
        door.data_received(post() * (REQUESTS_MAX + 1))
        take = front.take

        def take_and_pause(*request):
            take(*request)
            door.pause_writing()

        front.take = take_and_pause
        for number in range(REQUESTS_MAX):
            front.answer(number)
        assert len(front.taken) == REQUESTS_MAX + 1
        assert not transport_of(door).is_reading
        door.resume_writing()
        assert transport_of(door).is_reading

    def test_all_bodies_that_are_received_are_counted(self, front, door):
        """One that goes beyond the limit is the guest's, with all of its bytes."""
        data = post(b"1" * (READING_BYTES_MAX + 10))
        door.data_received(data[:50_000])
        assert 0 < front.receiving.bytes < 50_000
        door.data_received(data[50_000:-2])
        assert front.receiving.bytes == 0
        assert front.guests[0].received == data[:-2]
        door.data_received(data[-2:])
        assert front.guests[0].received == data

    def test_nothing_stays_counted_when_the_client_goes(self, front, door):
        """Half of a body is forgotten with its connection."""
        door.data_received(post(b"1" * 1_000)[:-1])
        assert front.receiving.bytes
        door.connection_lost(None)
        assert (front.receiving.bytes, front.connections) == (0, set())

    def test_answers_to_a_client_that_went_are_dropped(self, front, door):
        """They come when the transport is gone."""
        transport = transport_of(door)
        door.data_received(post())
        door.connection_lost(ConnectionResetError())
        front.answer(0)
        assert transport.written == b""

    def test_an_idle_connection_closes(self, front, door):
        """So long after its last answer, not after its start."""
        front.loop.run_for(IDLE_S - 1)
        door.data_received(post())
        front.loop.run_for(3 * IDLE_S)
        assert not transport_of(door).is_closed
        front.answer(0)
        front.loop.run_for(IDLE_S - 1)
        assert not transport_of(door).is_closed
        front.loop.run_for(2)
        assert transport_of(door).is_closed


ODD = {
    "chunked": b"POST /v1/track HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}",
    "both": post(b"{}", "/v1/track", "Transfer-Encoding: chunked"),
    "two_lengths": post(b"{}", "/v1/track", "Content-Length: 2"),
    "another_form_of_length": post().replace(b"Length: 2", b"Length:2"),
    "signed_length": post().replace(b"Length: 2", b"Length: +2"),
    "long_length": post().replace(b"Length: 2", b"Length: 00000000002"),
    "too_long_a_body": post().replace(b"Length: 2", b"Length: %d" % (BODY_BYTES_MAX + 1)),
    "expect": post(b"{}", "/v1/track", "Expect: 100-continue"),
    "upgrade": post(b"{}", "/v1/track", "Upgrade: h2c"),
    "close": post(b"{}", "/v1/track", "Connection: close"),
    "old_version": post().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "no_host": post().replace(b"Host: x\r\n", b""),
    "two_hosts": post(b"{}", "/v1/track", "Host: y"),
    "folded": post(b"{}", "/v1/track", "X-A: 1\r\n 2"),
    "bare_line_feed": post(b"{}", "/v1/track", "X-A: 1\nX-B: 2"),
    "bare_return": post(b"{}", "/v1/track", "X-A: 1\rX-B: 2"),
    "control": post(b"{}", "/v1/track", "X-A: \x01"),
    "blank_in_name": post(b"{}", "/v1/track", "X-A : 1"),
    "escape_in_path": post(b"{}", "/v1/tr%61ck"),
    "fragment": post(b"{}", "/v1/track#x"),
    "absolute": post(b"{}", "http://x/v1/track"),
    "no_http": b"\x16\x03\x01",
    "blank_line_first": b"\r\n" + post(),
    "long_head": post(b"{}", "/v1/track", "X-A: " + "a" * 8_000),
    "long_begun_head": b"POST /v1/track HTTP/1.1\r\nX-A: " + b"a" * 8_000,
    "many_headers": post(b"{}", "/v1/track", *(f"X-{n}: 1" for n in range(101))),
}

PLAIN = {
    "get": get(),
    "preflight": get("/v1/track").replace(b"GET", b"OPTIONS"),
    "unknown_path": post(b"{}", "/v1/nothing"),
    "doubled_slash": post(b"{}", "//v1/track"),
    "gzip": post(b"{}", "/v1/track", "Content-Encoding: gzip"),
    "no_length": post(b"").replace(b"Content-Length: 0\r\n", b""),
}


class TestGuests:
    @pytest.mark.parametrize("data", ODD.values(), ids=ODD)
    def test_one_stays_for_what_is_odd(self, front, door, data):
        """It has all bytes from there on, and those of nothing that was answered."""
        door.data_received(post(b"1") + data)
        assert front.bodies == [b"1"]
        assert front.guests == []
        front.answer(0)
        assert front.guests[0].received == data
        door.data_received(b"more")
        assert front.guests[0].received == data + b"more"
        assert transport_of(door).is_reading

    @pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN)
    def test_one_visits_for_a_whole_plain_request(self, front, door, data):
        """It has that request alone; what follows is taken when it has answered."""
        door.data_received(post(b"1") + data + post(b"2"))
        front.answer(0)
        assert front.guests[0].received == data
        assert front.bodies == [b"1"]
        door.data_received(post(b"3"))
        front.guests[0].on_answered(can_leave=True)
        assert front.guests[0].calls == ["leave"]
        assert front.bodies == [b"1", b"2", b"3"]
        assert transport_of(door).is_reading

    def test_one_says_early_what_it_refuses(self, front, door):
        """A body that is not there yet is not waited for where nothing is to be done with it."""
        data = post(b"12", "/v1/nothing")[:-1]
        door.data_received(data)
        assert front.guests[0].received == data

    def test_a_body_that_is_welcome_is_waited_for(self, front, door):
        """The guest then leaves again, also if the body comes in parts."""
        data = post(b"12", "//v1/track", "Content-Encoding: gzip")
        door.data_received(data[:-1])
        assert front.guests == []
        door.data_received(data[-1:])
        assert front.guests[0].received == data

    def test_a_large_body_is_not_waited_for(self, front, door):
        """A guest reads it in pieces; else many of them would be in memory, and not counted."""
        lines = "//v1/track", "Content-Encoding: gzip"
        data = post(b"1" * (VISIT_BYTES_MAX + 1), *lines)
        door.data_received(data[:-1])
        assert front.guests[0].received == data[:-1]
        assert front.receiving.bytes == 0

    def test_one_that_pauses_reading_is_not_overruled(self, front, door, monkeypatch):
        """What the door held for it may be more than it can take."""

        def take_and_pause(guest, data):
            guest.received += data
            guest.is_reading_paused = True
            guest.transport.pause_reading()

        monkeypatch.setattr(FakeGuest, "data_received", take_and_pause)
        door.data_received(post(b"1") + ODD["chunked"])
        front.answer(0)
        assert front.guests[0].received == ODD["chunked"]
        assert not transport_of(door).is_reading

    def test_a_visitor_knows_that_the_client_does_not_read(self, front, door):
        """Else it would write without end."""
        data = post(b"12", "//v1/track", "Content-Encoding: gzip")
        door.data_received(data[:-1])
        door.pause_writing()
        door.data_received(data[-1:])
        assert front.guests[0].calls == ["pause_writing"]

    def test_reading_is_held_while_one_visits(self, front, door):
        """It may pause and resume as often as it likes; one that stays decides itself."""
        door.data_received(get() + post(b"1"))
        assert front.guests[0].is_reading_held
        front.guests[0].on_answered(can_leave=False)
        assert not front.guests[0].is_reading_held

    def test_one_that_can_not_leave_stays(self, front, door):
        """It closes the connection, say, or has to read what nobody wanted."""
        door.data_received(get() + post(b"1"))
        front.guests[0].on_answered(can_leave=False)
        assert front.guests[0].received == get() + post(b"1")
        front.guests[0].on_answered(can_leave=True)
        assert front.guests[0].calls == []

    def test_one_is_told_what_the_loop_says(self, front, door):
        """Of the client's reading, of the end of its side and of the connection's."""
        door.data_received(ODD["chunked"])
        door.pause_writing()
        assert door.eof_received() is True
        door.connection_lost(None)
        assert front.guests[0].calls == ["pause_writing", "eof", "connection_lost"]

    @pytest.mark.parametrize("data", [post(b"1")[:30], post(b"1" * 100)[:-1]], ids=["head", "body"])
    def test_one_stays_for_what_is_slow(self, front, door, data):
        """So long after the first byte of a request, however its bytes trickle."""
        door.data_received(data[:-1])
        front.loop.run_for(SLOW_S * 0.9)
        door.data_received(data[-1:])
        assert front.guests == []
        front.loop.run_for(SLOW_S * 0.2)
        assert front.guests[0].received == data
        assert front.receiving.bytes == 0

    def test_a_request_that_follows_has_a_time_of_its_own(self, front, door):
        """What the one before it has used up is not counted."""
        for _ in range(5):
            door.data_received(post()[:-1])
            front.loop.run_for(SLOW_S * 0.7)
            door.data_received(post()[-1:])
            front.answer(-1)
        assert front.guests == []


class TestEnds:
    def test_a_half_closed_connection_gets_its_answers(self, front, door):
        """It closes behind the last."""
        door.data_received(post() * 2)
        assert door.eof_received() is True
        front.answer(0)
        assert not transport_of(door).is_closed
        front.answer(1)
        assert statuses(transport_of(door)) == [200, 200]
        assert transport_of(door).is_closed

    @pytest.mark.parametrize("rest", [b"", post(b"12")[:-1]], ids=["nothing", "half_a_body"])
    def test_it_closes_at_once_without_a_request(self, front, door, rest):
        """Half of one will never be whole."""
        door.data_received(rest)
        assert door.eof_received() is None
        assert front.receiving.bytes == 0

    def test_a_guest_says_what_a_begun_head_is(self, front, door):
        """It may be broken already, which is to be answered."""
        door.data_received(b"POST /v1/track HTTP/1.1\r\nbroken\r\n")
        door.eof_received()
        assert front.guests[0].received.endswith(b"broken\r\n")
        assert front.guests[0].calls == ["eof"]

    def test_what_is_held_is_answered_too(self, front, door):
        """Also requests that wait behind others when the client ends its side."""
        door.data_received(post() * (REQUESTS_MAX + 3))
        assert door.eof_received() is True
        for number in range(REQUESTS_MAX + 3):
            front.answer(number)
        assert statuses(transport_of(door)) == [200] * (REQUESTS_MAX + 3)
        assert transport_of(door).is_closed

    def test_a_stop_closes_an_idle_connection(self, door):
        """And one that has only begun a head."""
        door.data_received(post()[:10])
        door.close()
        assert transport_of(door).is_closed

    def test_a_stop_waits_for_what_is_under_way(self, front, door):
        """The last answer says that the connection ends; no other request is taken."""
        door.data_received(post() * 2 + post(b"12")[:-1])
        door.close()
        front.answer(0)
        front.answer(1)
        assert not transport_of(door).is_closed
        door.data_received(post(b"12")[-1:] + post())
        assert len(front.taken) == 3
        front.answer(2)
        assert transport_of(door).written.count(b"Connection: close") == 1
        assert statuses(transport_of(door)) == [200] * 3
        assert transport_of(door).is_closed

    def test_a_stop_is_the_guest_s_too(self, front, door):
        """It knows what it has under way."""
        door.data_received(ODD["chunked"])
        door.close()
        assert front.guests[0].calls == ["close"]


class TestHeads:
    def test_memory_is_bounded(self):
        """However many heads come, so many are known; those in use stay."""
        heads = Front().heads
        used = post(b"{}", "/v1/track", "X-A: used")
        first = heads.find(b"", used, 0, len(used) - 6)
        for number in range(20_000):
            data = post(b"{}", "/v1/track", f"X-A: {number}")
            heads.find(b"", data, 0, len(data) - 6)
            if number % 1_000 == 0:
                assert heads.find(b"", used, 0, len(used) - 6) == first
        assert len(heads) <= 8_192

    def test_long_names_are_not_kept(self):
        """Names of headers that nearly all clients send are; a client can make up any others."""
        tracemalloc.start()
        try:
            for number in range(600):
                data = post(b"", "/v1/track", "a" * 5_000 + f"{number}: 1")
                assert read_head(data, "") is not None
            assert tracemalloc.get_traced_memory()[0] < 1_000_000
        finally:
            tracemalloc.stop()

    def test_nothing_of_a_head_is_kept_in_its_key(self):
        """What is kept to find it by is a digest, which differs from process to process."""
        data = post(b"{}", "/v1/track", "X-Write-Key: a-secret")
        digests = []
        for heads in (Front().heads, Front().heads):
            heads.find(b"", data, 0, len(data) - 6)
            digests += heads._newer
        assert len(digests) == 2
        assert digests[0] != digests[1]
        assert {len(digest) for digest in digests} == {16}
        assert "a-secret" not in repr(vars(heads))
