"""Damaged and hostile requests: answered or cut off, and nobody else notices.

`docs/robustness.md` says how to send more of them.
"""

import functools
import json
import os
import zlib

import brotli
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http.fuzzing import (
    COMPRESSORS,
    PATHS,
    SERVER_FLAGS,
    Connection,
    ConnectionEnded,
    Fuzzer,
    Shot,
    memory_of,
    request,
    zstd,
)
from tests.server_process import ServerProcess
from tests.site import BOTH_FRONTS, COMPAT, FLAT, FRONTS, KEY, new_id, started_site

IS_CI = os.environ.get("CI") == "true"
MUTATED_REQUESTS = {"raw": 100_000, "aiohttp": 20_000} if IS_CI else dict.fromkeys(FRONTS, 10_000)
"""Behind the raw front, aiohttp's side gets all that is odd or broken; alone it is no other."""
GENERATED_REQUESTS = 10_000 if IS_CI else 2_000
SEED = 1
MIB = 1 << 20
GROWTH_BYTES_MAX = 48 * MIB
"""Of resident memory after the warm-up; caches that are not full yet and what malloc keeps."""
BOMB_BYTES = 512 * MIB
BOMB_COST_BYTES_MAX = 32 * MIB


class TestMutatedRequests:
    @pytest.mark.parametrize("front", FRONTS)
    def test_damaged_requests_harm_nobody(self, tmp_path, front):
        """Each is answered or cut off, never with a fault; good events beside them are stored once.

        The server's memory stays level, and it logs no error.
        """
        count = MUTATED_REQUESTS[front]
        with ServerProcess(
            tmp_path / "data", "--front", front, *SERVER_FLAGS, write_keys=(KEY,)
        ) as process:
            report = Fuzzer(process).run(count, SEED)
            print(report)  # noqa: T201 - pytest shows it when the test fails.

        assert report.faults == []
        assert sum(report.shots.values()) == count
        assert len(report.accepted_ids) > count / 20
        assert report.resident_after - report.resident_before < GROWTH_BYTES_MAX


characters = st.characters(codec=None, exclude_categories=())
texts = st.text(characters, max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(("context", "ip", "page", "url", "traits", "batch", "type", "a"))
            | texts,
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)
FIELDS = ("type", "event", "userId", "anonymousId", "messageId", "context", "properties", "traits")
FIELDS += ("timestamp", "sentAt", "integrations", "page", "eventn_ctx", "writeKey", "user", "ids")
events = st.dictionaries(st.sampled_from(FIELDS) | texts, values, max_size=8)
header_values = st.text(
    st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60
).map(str.strip)
# aiohttp refuses a second line of those that HTTP allows one of.
headers = st.dictionaries(
    st.sampled_from(
        (
            *("User-Agent", "X-Forwarded-For", "Forwarded", "X-Real-IP", "Origin", "Cookie"),
            *("Content-Type", "Accept", "Referer", "X-Retry-Count", "Authorization"),
        )
    ),
    header_values,
    max_size=4,
)
queries = st.sampled_from(
    ("", "?ip_policy=strict&cookie_policy=comply", "?token=&p_=x", "?%ff=%&;")
)
compressions = st.sampled_from((None, *COMPRESSORS))


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    """One server for all examples, and at their end the look at what it stored and logged."""
    folder = tmp_path_factory.mktemp("generated")
    with ServerProcess(folder / "data", *SERVER_FLAGS, write_keys=(KEY,)) as process:
        fuzzer = Fuzzer(process)
        yield fuzzer
        if fuzzer.kept is not None:
            fuzzer.kept.close()
        fuzzer.check_stored()
        assert fuzzer.report.faults == []


class TestGeneratedRequests:
    @settings(
        max_examples=GENERATED_REQUESTS,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        path=st.sampled_from(PATHS),
        query=queries,
        headers=headers,
        compression=compressions,
        body=events
        | st.fixed_dictionaries({"batch": st.lists(events | values, max_size=4)})
        | values,
        is_among_good=st.booleans(),
    )
    def test_any_json_is_answered_and_its_neighbours_are_stored(
        self, fuzzer, path, query, headers, compression, body, is_among_good
    ):
        """Whatever JSON comes with whatever headers, it is stored or refused, and nothing else.

        In a batch with two good events, those are stored once each.
        """
        sent = [f"X-Write-Key: {KEY}"]
        # A key that is wrong in Authorization would be asked first.
        sent += [
            f"{name}: {value}".encode("latin-1")
            for name, value in headers.items()
            if not value.lower().startswith("basic")
        ]
        ids = ()
        if is_among_good:
            ids = (new_id(), new_id())
            items = body["batch"] if isinstance(body, dict) and "batch" in body else [body]
            items = items if isinstance(items, list) else [items]
            first, last = ({"type": "track", "messageId": event_id} for event_id in ids)
            body, path = {"batch": [first, *items, last]}, FLAT if path == "/v1/m" else path
        data = json.dumps(body).encode()
        if compression is not None:
            data = COMPRESSORS[compression](data)
            sent.append(f"Content-Encoding: {compression}")
        shot = Shot(
            "generated",
            request(path + query, data, sent),
            must_be_ok=is_among_good,
            event_ids=ids,
        )
        before = len(fuzzer.report.faults)
        fuzzer.kept = fuzzer.send_framed(shot, fuzzer.kept)
        assert fuzzer.report.faults[before:] == []


@functools.cache
def bomb(encoding) -> bytes:
    """Return compressed bytes that become `BOMB_BYTES` of opening brackets."""
    block = b"[" * (32 * MIB)
    if encoding == "br":
        compressor = brotli.Compressor(quality=1)
        parts = [compressor.process(block) for _ in range(BOMB_BYTES // len(block))]
        return b"".join([*parts, compressor.finish()])
    if encoding == "zstd":
        compressor = zstd.ZstdCompressor(level=1)
    else:
        compressor = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    parts = [compressor.compress(block) for _ in range(BOMB_BYTES // len(block))]
    return b"".join([*parts, compressor.flush()])


@pytest.fixture(scope="module")
def bombed(tmp_path_factory):
    with started_site(tmp_path_factory.mktemp("bombed") / "data") as running:
        # The allocations of a first large body are not a bomb's.
        assert running.post(b"[" * (4 * MIB)).status == 400
        yield running


@pytest.mark.parametrize("encoding", COMPRESSORS)
class TestBombs:
    def test_a_bomb_is_400_and_costs_little_memory(self, bombed, encoding):
        """A body that grows far beyond the limit is refused at the limit, in every encoding."""
        data = bomb(encoding)
        before = memory_of(bombed.process.pid)["VmHWM"]
        answer = bombed.post(data, headers={"Content-Encoding": encoding})

        assert (answer.status, answer.json()["code"]) == (400, "body_too_large")
        assert memory_of(bombed.process.pid)["VmHWM"] - before < BOMB_COST_BYTES_MAX
        assert bombed.post({"type": "track", "messageId": new_id()}).status == 200

    @pytest.mark.parametrize("path", [FLAT, "/nothing/here"])
    def test_what_is_refused_is_not_decompressed_on(self, bombed, encoding, path):
        """The connection ends with the refusal: draining a bomb would stall everybody.

        A wrong key or path is enough to be refused, so nobody needs a key to try.
        """
        connection = Connection(bombed.address)
        headers = ["X-Write-Key: wrong", f"Content-Encoding: {encoding}"]
        connection.send(request(path, bomb(encoding), headers))
        status, headers, _body = connection.answer()
        # A drained body would be followed by nothing until the keep-alive timeout, 75 seconds.
        with pytest.raises(ConnectionEnded):
            connection.answer()
        connection.close()

        assert status in {401, 404}
        assert headers["connection"] == "close"


class TestBrokenHttp:
    @BOTH_FRONTS
    @pytest.mark.parametrize(
        "data",
        [
            b"no http at all\r\n\r\n",
            request(FLAT, b"{}", ["X-Long: " + "a" * 20_000]),
            request(FLAT, b"{}", [f"X-{number}: y" for number in range(500)]),
            request("/\u00fc", b"{}"),
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
            request(FLAT, zlib.compress(b"{}")[:-1], ["Content-Encoding: deflate"]),
        ],
        ids=["no_http", "long_line", "many_lines", "raw_path", "length", "cut_deflate"],
    )
    def test_what_no_handler_sees_is_answered_as_json(self, start_server, data):
        """Ruby's SDK and others send again what is answered without JSON, so this is JSON too."""
        connection = Connection(start_server().address)
        connection.send(data)
        status, headers, body = connection.answer()
        with pytest.raises(ConnectionEnded):
            connection.answer()
        connection.close()

        assert status == 400
        assert headers["content-type"].startswith("application/json")
        assert json.loads(body)["code"] in {"bad_http", "unreadable_body"}

    @pytest.mark.parametrize("path", [FLAT, COMPAT])
    def test_a_connection_that_will_be_closed_says_so(self, bombed, path):
        """After a body that can't be read the answer announces the end, so nobody sends on it."""
        connection = Connection(bombed.address)
        headers = [f"X-Write-Key: {KEY}", "Content-Encoding: gzip"]
        connection.send(request(path, b"no gzip at all", headers))
        status, headers, _body = connection.answer()
        connection.close()

        assert (status, headers["connection"]) == (400, "close")
