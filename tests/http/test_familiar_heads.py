"""Heads whose names are known are read faster, and say what llhttp would have read in them."""

import base64
import random

import pytest
from multidict import CIMultiDict

from segsrv import Settings
from segsrv.events.counters import Counters
from segsrv.http.auth import Keyring
from segsrv.http.caller import Caller, Callers
from segsrv.http.client_address import ClientAddress
from segsrv.http.cors import Cors
from segsrv.http.front import heads as front_heads
from segsrv.http.front.familiar import MATTERING_NAMES, NAMES_MAX, Familiar
from segsrv.http.front.heads import Heads
from segsrv.http.paths import ingest_paths
from segsrv.http.request import Request
from segsrv.http.tally import Tally

KEY, OTHER_KEY = "the-key", "another-key"
PEER = b"127.0.0.1"
KEY_LINE = "X-Write-Key: the-key"
NO_HOST = "X-Host: x"
TARGET = ingest_paths()["/v1/track"]


def new_callers(settings) -> Callers:
    keys = settings.all_keys()
    address = ClientAddress(settings.trusted_proxies, settings.client_ip_header)
    keyring, cors, tally = Keyring(keys), Cors(keys), Tally(settings, Counters())
    return Callers(settings, keyring, cors, address, tally)


def new_heads() -> Heads:
    settings = Settings(write_key=(KEY, OTHER_KEY))
    callers = new_callers(settings)
    return Heads(
        ingest_paths(),
        callers.of,
        callers.at,
        forwarded_name=settings.client_ip_header,
        body_bytes_max=100_000,
    )


def head(*lines, first="POST /v1/track HTTP/1.1") -> bytes:
    if NO_HOST not in lines:
        lines = ("Host: x", *lines)
    text = "\r\n".join((first, *lines, "Content-Length: 2", "", ""))
    return text.encode("utf-8", "surrogateescape")


def said(heads: Heads, data: bytes, peer: bytes = PEER):
    """Return all that comes of a head, in a form that can be compared."""
    found = heads.find(peer, data, 0, data.index(b"\r\n\r\n"))
    if found is None or not isinstance(found[0], Caller):
        return found
    caller, body_bytes = found
    key = caller.key.id if caller.key else None
    policies = (caller.cookie_policy, caller.ip_policy)
    headers = dict(caller.ok.headers)
    who = (caller.address, caller.user_agent, caller.origin, key, caller.fault)
    return (id(caller.target.output), caller.target.event_type, who, policies, headers, body_bytes)


class ReadHeads:
    """How many heads llhttp was asked to read."""

    def __init__(self, monkeypatch) -> None:
        self.count = 0
        read = front_heads.read_head

        def counted(*head):
            self.count += 1
            return read(*head)

        monkeypatch.setattr(front_heads, "read_head", counted)


@pytest.fixture
def read(monkeypatch):
    return ReadHeads(monkeypatch)


class TestWhatIsReadOnce:
    def test_a_new_address_needs_no_other_reading(self, read):
        """Nor does an id that a proxy makes up; each request has the address that its head says."""
        heads = new_heads()
        for number in range(1, 50):
            lines = (KEY_LINE, f"X-Forwarded-For: 192.0.2.{number}", f"X-Request-Id: {number}")
            found = heads.find(PEER, head(*lines), 0, len(head(*lines)) - 4)
            assert found[0].address == f"192.0.2.{number}"
        # The first one for its names, the second for what it says.
        assert read.count == 2

    def test_who_is_no_proxy_is_not_believed(self):
        """The address of a stranger is that of the connection, whoever sent such a head before."""
        heads = new_heads()
        data = head(KEY_LINE, "X-Forwarded-For: 192.0.2.1")
        assert said(heads, data)[2][0] == "192.0.2.1"
        other = head(KEY_LINE, "X-Forwarded-For: 192.0.2.2")
        assert said(heads, other, b"198.51.100.7")[2][0] == "198.51.100.7"

    @pytest.mark.parametrize(
        "line",
        [
            "X-Write-Key: another-key",
            "X-Auth-Token: another-key",
            "api_key: another-key",
            "Authorization: Basic " + base64.b64encode(b"another-key:").decode(),
            "User-Agent: another",
            "Origin: https://another.example",
            "X-Forwarded-For: 192.0.2.2",
        ],
    )
    def test_what_matters_is_told_apart(self, line):
        """Two heads with one other value of a header that is read say two things."""
        heads = new_heads()
        name = line.partition(":")[0]
        key_line = () if name in ("X-Write-Key", "X-Auth-Token", "api_key") else (KEY_LINE,)
        if name == "Authorization":
            key_line = ()
        mine = f"{name}: {KEY if not key_line else 'mine'}"
        if name == "Authorization":
            mine = "Authorization: Basic " + base64.b64encode(b"the-key:").decode()
        first = said(heads, head(mine, "X-Id: 1", *key_line))
        second = said(heads, head(line, "X-Id: 2", *key_line))
        assert first != second
        assert second == said(new_heads(), head(line, "X-Id: 2", *key_line))

    @pytest.mark.parametrize(
        "name", ["user-agent", "host", "x-write-key", "Transfer-Encoding", "content-encoding"]
    )
    def test_an_address_in_a_header_that_says_more(self, name):
        """Where the header with the address matters otherwise too, all heads are read by llhttp."""
        familiar = Familiar(name, ("transfer-encoding",))
        familiar.learn(head(KEY_LINE))
        assert familiar.essence(head(KEY_LINE)) is None

    def test_all_that_is_read_matters(self):
        """There is no other header that what comes of a head depends on."""
        names = set()

        class Recorder(CIMultiDict):
            def get(self, name, default=None):
                names.add(name.lower())
                return super().get(name, default)

            def getall(self, name, *default):
                names.add(name.lower())
                return super().getall(name, *default)

            def __getitem__(self, name):
                raise AssertionError(name)

        settings = Settings(write_key=(KEY,), client_ip_header="x-real-ip")
        callers = new_callers(settings)
        for authorization in ("Bearer a", "Basic !"):
            headers = Recorder({"Authorization": authorization})
            callers.of(Request("POST", "/v1/track", "a=1", headers, "127.0.0.1"), TARGET)
        assert "user-agent" in names
        assert names - {"x-real-ip"} <= {name.decode() for name in MATTERING_NAMES}


LINES = [
    "Host: y",
    NO_HOST,
    "Content-Length: 3",
    "content-length: 2",
    "Content-Type: text/plain",
    "Connection: keep-alive",
    "Connection: Keep-Alive",
    "connection: close",
    "Transfer-Encoding: chunked",
    "Expect: 100-continue",
    "Upgrade: h2c",
    "Content-Encoding: gzip",
    "User-Agent: a",
    "User-Agent:  a",
    "User-Agent: a ",
    "User-Agent: b\udce9",
    "Origin: https://a.example",
    "X-Forwarded-For: 192.0.2.1",
    "X-Forwarded-For: 192.0.2.1, 10.0.0.1",
    "X-Forwarded-For: ",
    "X-Forwarded-For:192.0.2.3",
    "X-Forwarded-For:  192.0.2.4 ",
    "X-Forwarded-For: \udce9",
    "x-forwarded-for: 2001:db8::1",
    KEY_LINE,
    "X-Write-Key: another-key",
    "X-Write-Key: wrong",
    "X-Write-Key",
    "X-Write-Key:",
    "Authorization: Basic " + base64.b64encode(b"the-key:").decode(),
    "Authorization: Bearer a",
    "Cookie: a=1",
    "Cookie: a=2\x01",
    "Cookie: a=3\tb",
    "Cookie:   ",
    "Cookie:  a=5  ",
    "Cookie : a=4",
    "Cookie",
    " folded",
    "Bad Name: a",
    "X-A: 1\rX-B: 2",
    "X-A: 1\nX-B: 2",
    "X-A: 1\x7f",
    "X-A: \xe9",
]
FIRSTS = [
    "POST /v1/track HTTP/1.1",
    "POST /v1/track HTTP/1.0",
    "POST /v1/track?ip_policy=strict HTTP/1.1",
    "POST //v1/track HTTP/1.1",
    "POST /other HTTP/1.1",
    "PUT /v1/track HTTP/1.1",
    "POST  /v1/track HTTP/1.1",
]


def test_it_says_what_llhttp_reads():
    """Heads put together of odd and plain lines come to the same as where none was read before."""
    random_ = random.Random(7)
    heads = new_heads()
    callers = 0
    for _ in range(6_000):
        first = FIRSTS[0] if random_.random() < 0.8 else random_.choice(FIRSTS)
        lines = random_.sample(LINES, random_.randrange(5))
        if random_.random() < 0.7:
            lines.append(KEY_LINE)
        if random_.random() < 0.5:
            lines.append(f"X-Id: {random_.random()}")
        random_.shuffle(lines)
        data = head(*lines, first=first)
        expected = said(new_heads(), data)
        assert said(heads, data) == expected, data
        callers += expected is not None and len(expected) > 2
    assert callers > 500


class TestNames:
    def test_their_number_is_bounded(self):
        """Names that clients make up are forgotten, and those in use are learnt again."""
        familiar = Familiar("x-forwarded-for", ())
        for number in range(5 * NAMES_MAX):
            familiar.learn(head(f"X-{number}: 1"))
            assert len(familiar._known) <= NAMES_MAX
        familiar.learn(head(KEY_LINE))
        assert familiar.essence(head(KEY_LINE)) is not None

    def test_long_ones_are_not_kept(self):
        """A head with one is read by llhttp."""
        familiar = Familiar("x-forwarded-for", ())
        data = head("a" * 5_000 + ": 1")
        familiar.learn(data)
        assert familiar.essence(data) is None
        assert all(len(name) < 100 for name in familiar._known)
