"""The live page, in a thread of its own, with a feed that says what a test tells it to."""

import asyncio
import threading
import urllib.parse
from concurrent.futures import Future

from aiohttp import web

from segsrv.live.page import LivePage
from segsrv.ops.sign_in import SignIn

TOKEN = "token-of-the-operators"
AT_MS = 1_700_000_000_000
TIMEOUT_S = 10.0


def event(number=1, **changes) -> dict:
    """Return an item for an event."""
    item = {
        "kind": "event",
        "at_ms": AT_MS + 1_000 * number,
        "worker": "w0",
        "key": "web",
        "format": "flat",
        "type": "track",
        "id": f"id-{number}",
        "event": {
            "event_type": "track",
            "event_name": f"Signed Up {number}",
            "user_id": "u1",
            "api_key": "[key web]",
        },
        "bytes": 812,
    }
    return {**item, **changes}


def refused(**changes) -> dict:
    item = {
        "kind": "refused",
        "at_ms": AT_MS,
        "worker": "w0",
        "key": "web",
        "status": 400,
        "code": "bad_json",
        "path": "batch",
        "message": "the body is no JSON: unexpected end of data",
        "excerpt": '{"batch": [{"type": "track", "event": "Signed',
    }
    return {**item, **changes}


def letter(**changes) -> dict:
    item = {
        "kind": "letter",
        "at_ms": AT_MS,
        "key": "app",
        "reason": "event_too_large",
        "message": "the event has 1,204,412 bytes, the limit is 1,000,000",
        "excerpt": '{"event":"Uploaded","properties":{"image":"iVBORw0KGgoAAAANSUhEUg',
    }
    return {**item, **changes}


def status(**changes) -> dict:
    item = {
        "kind": "status",
        "at_ms": AT_MS,
        "workers": [
            {
                "worker": f"w{number}",
                "ready": True,
                "pid": 100 + number,
                "journal_bytes": 48_200_000,
                "undelivered_bytes": 210_000 * number,
                "age_s": 0.4,
            }
            for number in range(2)
        ],
        "sinks": [],
        "rates": {"by_key": {}, "by_type": {}, "by_answer": {}},
        "request_ms": {"p50": 1.4, "p99": 6.2},
        "commit_ms": {"p50": 0.9, "p99": 3.1},
        "sampled": 1.0,
        "errors": [],
    }
    return {**item, **changes}


class ScriptedFeed:
    """Yields to each watcher what was said before, and then what is said."""

    def __init__(self) -> None:
        self.known: list[dict] = []
        self.watchers: list[asyncio.Queue] = []
        self.wanted = []
        self.page: LivePage | None = None

    def say(self, item) -> None:
        self.known.append(item)
        for queue in self.watchers:
            queue.put_nowait(item)

    async def watch(self, wanted):
        self.wanted.append(wanted)
        queue = asyncio.Queue()
        for item in self.known:
            queue.put_nowait(item)
        self.watchers.append(queue)
        try:
            while True:
                item = await queue.get()
                is_event = item["kind"] == "event"
                if is_event and wanted.key not in ("", item["key"]):
                    continue
                if is_event and wanted.type not in ("", item["type"]):
                    continue
                yield item
        finally:
            self.watchers.remove(queue)


def application(feed, *, viewers_max=8) -> web.Application:
    app = web.Application()
    sign_in = SignIn(TOKEN)
    sign_in.add_to(app)
    feed.page = LivePage(sign_in, feed.watch, viewers_max=viewers_max)
    feed.page.add_to(app)
    return app


class WatchedPage:
    """Serve the live page on a free loopback port for the length of a `with` block."""

    def __init__(self) -> None:
        self.feed = ScriptedFeed()
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="watched-page")

    def __enter__(self):
        self._thread.start()
        self._runner = web.AppRunner(application(self.feed), shutdown_timeout=1)
        self.url = self._run(self._listen()).result(TIMEOUT_S)
        return self

    def __exit__(self, *_error) -> None:
        self._run(self._runner.cleanup()).result(TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()

    def say(self, *items) -> None:
        for item in items:
            self._loop.call_soon_threadsafe(self.feed.say, item)

    def cut(self) -> None:
        """Break the connections of all who watch."""
        for request in list(self.feed.page._open.values()):
            self._loop.call_soon_threadsafe(request.transport.abort)

    def path(self, path) -> str:
        return urllib.parse.urljoin(self.url, path)

    async def _listen(self) -> str:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/"

    def _run(self, work) -> Future:
        return asyncio.run_coroutine_threadsafe(work, self._loop)
