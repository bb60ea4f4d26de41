"""The live page's stream over HTTP: who gets it, what is left out, and that it ends."""

import asyncio
import json

import pytest
from watched_page import TOKEN, ScriptedFeed, application, event, status

from segsrv.live.viewer import ITEMS_MAX, SHOWN_BYTES_MAX, WAITING_BYTES_MAX, Waiting
from segsrv.live.wanted import Wanted
from tests.waiting import until

BEARER = {"Authorization": f"Bearer {TOKEN}"}
EVENTS = "/live/events"


@pytest.fixture
def feed() -> ScriptedFeed:
    return ScriptedFeed()


@pytest.fixture
async def client(aiohttp_client, feed):
    return await aiohttp_client(application(feed, viewers_max=2))


async def next_item(answer) -> dict:
    async with asyncio.timeout(10):
        async for line in answer.content:
            if line.startswith(b"data: "):
                return json.loads(line[6:])
    raise AssertionError("the stream has ended")


class TestStream:
    @pytest.mark.parametrize("path", ["/live", "/live.js", EVENTS])
    async def test_it_is_behind_the_sign_in(self, client, feed, path):
        """Without a token nothing is shown, and nothing is read for it."""
        answer = await client.get(path)
        assert answer.status == 401
        assert feed.wanted == []

    async def test_items_come_as_they_are(self, client, feed):
        """What is known comes first, then what happens; each is the item's JSON."""
        feed.say(event(1))
        answer = await client.get(EVENTS, headers=BEARER)
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert await next_item(answer) == event(1)
        feed.say(event(2, id="a\nb\u2028"))
        assert await next_item(answer) == event(2, id="a\nb\u2028")

    async def test_what_is_wanted(self, client, feed):
        """The query says it; a kind that is none, and a filter without end, are refused."""
        query = "?key=web&type=track&event=A%20b&kinds=event,status"
        answer = await client.get(EVENTS + query, headers=BEARER)
        assert answer.status == 200
        await until(lambda: feed.wanted)
        assert feed.wanted == [
            Wanted(key="web", type="track", event="A b", kinds=frozenset({"event", "status"}))
        ]
        for wrong in ("?kinds=x", "?key=" + "k" * 201):
            assert (await client.get(EVENTS + wrong, headers=BEARER)).status == 400

    async def test_viewers_are_limited(self, client, feed):
        """One too many is told so; a place is free as soon as a viewer has gone."""
        first = await client.get(EVENTS, headers=BEARER)
        await client.get(EVENTS, headers=BEARER)
        refused = await client.get(EVENTS, headers=BEARER)
        assert refused.status == 503
        assert "live_viewers_max" in (await refused.json())["message"]
        await until(lambda: len(feed.watchers) == 2)
        first.close()
        await until(lambda: len(feed.watchers) == 1)
        assert (await client.get(EVENTS, headers=BEARER)).status == 200

    async def test_it_ends_with_the_server(self, client, feed):
        """A page that is open holds up no stop, and nothing is watched afterwards."""
        answer = await client.get(EVENTS, headers=BEARER)
        await until(lambda: feed.watchers)
        async with asyncio.timeout(5):
            await client.server.close()
        assert feed.watchers == []
        assert (await answer.content.read()).startswith(b": hello")

    async def test_a_viewer_who_takes_nothing(self, client, feed):
        """It loses items, holds up no stop, and what waits for it stays small."""
        reader, writer = await asyncio.open_connection(client.host, client.port, limit=1_000)
        writer.write(f"GET {EVENTS} HTTP/1.1\r\nHost: localhost\r\n".encode())
        writer.write(f"Authorization: Bearer {TOKEN}\r\n\r\n".encode())
        await until(lambda: feed.watchers)
        page = feed.page
        [request] = page._open.values()

        def fill() -> bool:
            for number in range(ITEMS_MAX):
                feed.say(event(number, event={"a": "x" * 50_000}))
            return request.protocol.writing_paused

        await until(fill)
        async with asyncio.timeout(5):
            await client.server.close()
        assert feed.watchers == []
        writer.close()
        assert not reader.at_eof()

    async def test_a_feed_that_fails(self, aiohttp_client, feed, monkeypatch, caplog):
        """The stream ends after what it had, and the log says why."""

        async def failing(_wanted):
            yield event(1)
            raise OSError("the disk is gone")

        monkeypatch.setattr(feed, "watch", failing)
        client = await aiohttp_client(application(feed))
        answer = await client.get(EVENTS, headers=BEARER)
        async with asyncio.timeout(10):
            assert b'"id-1"' in await answer.content.read()
        await until(lambda: "the disk is gone" in caplog.text)


class TestWaiting:
    def test_a_slow_viewer_loses_items(self):
        """The newest are kept, in bounded number, and it is told how many were left out."""
        waiting = Waiting()
        waiting.put(status())
        for number in range(ITEMS_MAX + 5):
            waiting.put(event(number))
        items = taken(waiting)
        assert [item["kind"] for item in items[-2:]] == ["left_out", "status"]
        assert items[-2]["items"] == 5
        assert [item["id"] for item in items[:-2]] == [f"id-{n}" for n in range(5, ITEMS_MAX + 5)]
        assert waiting.take() == b""

    def test_in_bounded_memory(self):
        """Few large ones are as much as many small ones."""
        waiting = Waiting()
        for number in range(10):
            waiting.put(event(number, bytes=WAITING_BYTES_MAX // 4))
        assert [item["kind"] for item in taken(waiting)] == [*["event"] * 4, "left_out"]

    def test_a_large_event_is_told_without_its_body(self):
        """It is a row as others are, and no megabyte for a browser."""
        waiting = Waiting()
        waiting.put(event(1, event={"a": "x" * SHOWN_BYTES_MAX}))
        item = taken(waiting)[0]
        assert (item["event"], item["is_too_large"], item["id"]) == (None, True, "id-1")


def taken(waiting) -> list[dict]:
    return [json.loads(frame[6:]) for frame in waiting.take().split(b"\n\n") if frame]
