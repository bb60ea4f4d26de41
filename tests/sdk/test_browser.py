"""The browser SDK in Chromium, on pages of other origins, against the real server."""

import contextlib
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from clients import HERE, require
from observations import dropped_after, observe
from outage import Outage
from pages import Pages
from stored_calls import all_stored

from tests.chromium import Chromium, Page
from tests.server_process import ServerProcess
from tests.waiting import wait_until

PREFIX = "/api/v1/segment"
WRITE_KEY = "browser-test-key"
FOLDER = HERE / "browser" / "node_modules"
INSTALLER = "tests/sdk/install_browser.sh"
VERSIONS = ["1.84.3", "1.83.0"]
A_MINUTE_S = 60.0
BODY_BYTES_MAX = 4000

CALLS = """
    const sent = await Promise.all([
        analytics.track("Order Completed", {revenue: 49.5}, {context: {ip: "203.0.113.7"}}),
        analytics.identify("user-1", {plan: "enterprise"}),
        analytics.page("Plans", "Pricing"),
        analytics.group("company-1", {employees: 42}),
        analytics.alias("user-2", "user-1"),
        analytics.screen("Home"),
    ]);
    return sent.filter((context) => !context.failedDelivery()).length;
"""
STORED = {
    "track": {"event": "Order Completed"},
    "identify": {},
    "page": {"category": "Plans", "name": "Pricing"},
    "group": {"groupId": "company-1"},
    "alias": {"previousId": "user-1"},
    "screen": {"name": "Home"},
}


@dataclass(frozen=True)
class Sdk:
    """A version of the SDK, and how it is told to deliver."""

    version: str
    strategy: str

    @property
    def name(self) -> str:
        return f"Browser analytics-next ({self.strategy})"

    @property
    def is_current(self) -> bool:
        """Whether it is 1.84 or later, which sends headers that need a preflight."""
        return self.version == "1.84.3"

    @property
    def scheme(self) -> str:
        # Up to 1.83, the address of batches begins with https whatever the page says.
        return "http" if self.is_current or self.strategy == "standard" else "https"

    def load(
        self, page: Page, server: ServerProcess, *, key: str = WRITE_KEY, **options: Any
    ) -> None:
        """Load the SDK in *page*; *options* are `settings`, and others as of its delivery."""
        settings = options.pop("settings", None)
        # Each event at once, and a second before a batch is tried again.
        timing = {"size": 1, "timeout": 1000} if self.strategy == "batching" else {}
        page.run(
            """
            const options = {apiHost, protocol, deliveryStrategy: {strategy, config}};
            window.analytics = AnalyticsNext.AnalyticsBrowser.load(
                settings ? {writeKey, cdnSettings: settings} : {writeKey, cdnURL},
                {integrations: {"Segment.io": options}},
            );
            await analytics;
            """,
            writeKey=key,
            cdnURL=server.url,
            apiHost=server.url.partition("//")[2] + PREFIX,
            protocol=self.scheme,
            strategy=self.strategy,
            config=timing | options,
            settings=settings,
        )

    def track(self, page: Page, event: str, **properties: Any) -> None:
        """Let *page* track, and wait until the SDK has done with it what it can do at once."""
        page.run("await analytics.track(event, properties);", event=event, properties=properties)


SDKS = [Sdk(version, strategy) for version in VERSIONS for strategy in ("standard", "batching")]
EACH_SDK = pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: f"{sdk.version}-{sdk.strategy}")


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    with Pages() as pages:
        for version in VERSIONS:
            pages.add_script(f"/{version}.js", bundles(version) / "index.js")
            pages.add(f"/{version}", f'<script src="/{version}.js"></script>')
        yield pages


@pytest.fixture
def open_page(browser: Chromium, pages: Pages, profile: str) -> Any:
    """Return a function that opens a page of the site, under one of its names."""

    def opened(path: str, host: str = "127.0.0.1") -> Page:
        return browser.open(profile, f"{pages.origin(host)}/{path}")

    return opened


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Return the flags with which a server serves https."""
    openssl = shutil.which("openssl")
    require("openssl", installed=openssl is not None, installer=INSTALLER)
    folder = tmp_path_factory.mktemp("certificate")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        [
            *(str(openssl), "req", "-x509", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return ("--tls-cert", cert, "--tls-key", key)


@pytest.fixture
def tls_flags(sdk: Sdk, certificate: tuple[str, ...]) -> tuple[str, ...]:
    return certificate if sdk.scheme == "https" else ()


@pytest.fixture(scope="module")
def servers(
    certificate: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, ServerProcess]]:
    """Run a server for http and one for https, for tests that need none of their own."""
    flags = ("--body-bytes-max", str(BODY_BYTES_MAX))
    with contextlib.ExitStack() as stack:
        yield {
            scheme: stack.enter_context(
                ServerProcess(
                    tmp_path_factory.mktemp(scheme) / "data", *flags, *tls, write_keys=[WRITE_KEY]
                )
            )
            for scheme, tls in (("http", ()), ("https", certificate))
        }


@pytest.fixture
def server(sdk: Sdk, servers: dict[str, ServerProcess]) -> ServerProcess:
    return servers[sdk.scheme]


@pytest.fixture
def event() -> str:
    """Return the name of an event that no other test sends."""
    return f"Event {uuid.uuid4()}"


def bundles(version: str) -> Path:
    folder = FOLDER / f"analytics-next-{version}" / "dist" / "umd"
    what = f"npm's @segment/analytics-next {version}"
    require(what, installed=folder.is_dir(), installer=INSTALLER)
    return folder


def wait_until_stored(server: ServerProcess, event: str) -> None:
    """Wait until an event is stored, which must be once."""
    wait_until(lambda: events_named(server, event))
    assert len(events_named(server, event)) == 1


def events_named(server: ServerProcess, event: str) -> list[dict[str, Any]]:
    return [stored for stored in server.events() if stored.get("event") == event]


def answers_counted(server: ServerProcess) -> Counter[str]:
    """Return how many posts the server answered with which status, as its metrics say."""
    address = server.url.partition("//")[2]
    if server.url.startswith("https:"):
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(address, timeout=10, context=context)
    else:
        connection = http.client.HTTPConnection(address, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    samples = re.findall(r'^segsrv_requests_total\{.*status="(\d+)".*\} (\S+)$', text, re.MULTILINE)
    return Counter({status: number for status, count in samples if (number := int(float(count)))})


@EACH_SDK
def test_every_call_is_stored_once(
    sdk: Sdk, tls_flags: tuple[str, ...], open_page: Any, pages: Pages, tmp_path: Path
) -> None:
    """On pages of two other origins, the SDK starts, and its six calls are stored once each."""
    hosts = ("127.0.0.1", "localhost")
    with ServerProcess(tmp_path / "data", *tls_flags, write_keys=[WRITE_KEY]) as server:
        opened = {host: open_page(sdk.version, host) for host in hosts}
        for page in opened.values():
            sdk.load(page, server, **({"size": 6} if sdk.strategy == "batching" else {}))
            assert page.run(CALLS) == len(STORED)
            page.pass_time(A_MINUTE_S)
        stored = all_stored(server, len(STORED) * len(hosts))

    for host, page in opened.items():
        origin = pages.origin(host)
        check_requests(page, sdk, origin, server.url)
        events = [event for event in stored if event["doc"]["url"] == f"{origin}/{sdk.version}"]
        assert sorted(event["event_type"] for event in events) == sorted(STORED)
        for event in events:
            fields = STORED[event["event_type"]]
            assert {name: event[name] for name in fields} == fields
            # The track call names another one, which a browser can't know.
            assert event["source_ip"] == "127.0.0.1"
            assert event["library"] == {"name": "analytics.js", "version": f"next-{sdk.version}"}
    assert len({event["eventn_ctx_event_id"] for event in stored}) == len(stored)

    posts = [post for page in opened.values() for post in page.posts]
    [auth] = {post.auth_form(WRITE_KEY) for post in posts}
    [encoding] = {post.headers.get("content-encoding", "no") for post in posts}
    observe(sdk.name, sdk.version, calls=f"all {len(STORED)}", auth=auth, gzip=encoding)


def check_requests(page: Page, sdk: Sdk, origin: str, server_url: str) -> None:
    """Check that a page's six calls made the requests that they should, and no others."""
    assert page.complaints == []
    # Nothing goes to the hosts of the SDK's maker.
    assert page.origins_asked == {origin, server_url}
    [settings] = [r for r in page.requests if "/settings" in r.url]
    assert settings.url == f"{server_url}/v1/projects/{WRITE_KEY}/settings"
    assert settings.status == 200
    letters = "b" if sdk.strategy == "batching" else "tipgas"
    urls = sorted(f"{server_url}{PREFIX}/{letter}" for letter in letters)
    assert sorted(post.url for post in page.posts) == urls
    assert {post.status for post in page.posts} == {200}
    assert {post.headers["origin"] for post in page.posts} == {origin}
    # Up to 1.83 a request is a simple one, which browsers send without asking.
    assert sorted(asked.url for asked in page.preflights) == (urls if sdk.is_current else [])
    for preflight in page.preflights:
        assert preflight.status == 200
        assert preflight.headers["access-control-request-headers"] == "authorization"


@EACH_SDK
def test_a_page_may_send_headers_of_its_own(
    sdk: Sdk, server: ServerProcess, event: str, open_page: Any
) -> None:
    """Headers that a page adds to its events pass the preflight, whatever their names."""
    page = open_page(sdk.version)
    sdk.load(page, server, headers={"Content-Type": "application/json", "X-Page-Version": "7"})
    sdk.track(page, event)
    wait_until_stored(server, event)

    assert page.complaints == []
    [post], [preflight] = page.posts, page.preflights
    assert post.headers["x-page-version"] == "7"
    asked = preflight.headers["access-control-request-headers"].split(",")
    assert {"content-type", "x-page-version"} <= set(asked)


@EACH_SDK
def test_a_page_may_send_its_cookies(
    sdk: Sdk, server: ServerProcess, event: str, open_page: Any
) -> None:
    """With `credentials: "include"` the browser sends its cookies and lets the page read on."""
    page = open_page(sdk.version)
    page.call("Network.setCookie", name="visitor", value="7", url=server.url)
    sdk.load(page, server, credentials="include")
    sdk.track(page, event)
    page.pass_time(A_MINUTE_S)
    wait_until_stored(server, event)

    assert page.complaints == []
    [post] = page.posts
    assert post.status == 200
    if sdk.scheme == "http":
        # Seen from http, https is another site, whose cookies this browser keeps back by itself.
        assert "visitor=7" in post.headers["cookie"].split("; ")


@EACH_SDK
def test_a_key_is_good_for_pages_of_its_origins_only(
    sdk: Sdk, tls_flags: tuple[str, ...], open_page: Any, tmp_path: Path
) -> None:
    """A page of an allowed origin sends; from another, neither settings nor events get through."""
    config = tmp_path / "segsrv.toml"
    config.write_text(
        f'[[keys]]\nid = "web"\nsecret = "{WRITE_KEY}"\norigins = ["http://*.shop.example:*"]\n'
    )
    flags = ("--config", str(config), *tls_flags)
    with ServerProcess(tmp_path / "data", *flags, write_keys=[]) as server:
        stranger = open_page(sdk.version, "shop.example.stranger.example")
        with pytest.raises(AssertionError, match="Failed to fetch"):
            sdk.load(stranger, server)
        [settings] = [r for r in stranger.requests if "/settings" in r.url]
        assert settings.cors_error == "MissingAllowOriginHeader"

        stranger = open_page(sdk.version, "shop.example.stranger.example")
        sdk.load(stranger, server, settings=settings_of(WRITE_KEY))
        sdk.track(stranger, "Refused")
        wait_until(lambda: any("blocked by CORS policy" in c for c in stranger.complaints))
        # A simple request is sent before the browser can know; the server refuses it then.
        statuses = answers_counted(server).keys()
        assert statuses <= (set() if sdk.is_current else {"401"})

        page = open_page(sdk.version, "www.shop.example")
        sdk.load(page, server)
        sdk.track(page, "Welcome")
        stored = all_stored(server, 1)

    assert page.complaints == []
    assert [event["event"] for event in stored] == ["Welcome"]


@EACH_SDK
def test_events_of_an_outage_are_stored_once(
    sdk: Sdk, tls_flags: tuple[str, ...], open_page: Any, tmp_path: Path
) -> None:
    """What is answered 503 is tried again until it is taken, and stored once."""
    with Outage(tmp_path / "data", *tls_flags, write_keys=(WRITE_KEY,)) as outage:
        page = open_page(sdk.version)
        sdk.load(page, outage.server)
        sdk.track(page, "Patient")
        page.pass_time(5)
        during = answers_counted(outage.server)
        assert during.keys() == {"503"}
        # The page's clock really makes the SDK try again, here and in the tests of no retry.
        assert during["503"] >= 2
        outage.end()
        page.pass_time(A_MINUTE_S)
        stored = all_stored(outage.server, 1)

    assert [event["event"] for event in stored] == ["Patient"]
    statuses = [post.status for post in page.posts]
    assert statuses == [*itertools.repeat(503, len(statuses) - 1), 200]
    assert not any("CORS" in text for text in page.complaints)
    counts = [post.headers.get("x-retry-count") for post in page.posts]
    if sdk.is_current:
        assert counts == [None, *(str(number) for number in range(1, len(counts)))]
    else:
        assert set(counts) == {None}
    observe(sdk.name, sdk.version, retry="delivered once")


def test_a_page_can_read_when_to_try_again(open_page: Any, tmp_path: Path) -> None:
    """A retry passes its preflight, and its page may read Retry-After and X-RateLimit-Reset."""
    with Outage(tmp_path / "data", write_keys=(WRITE_KEY,)) as outage:
        page = open_page("1.84.3")
        answer = page.run(
            """
            const answer = await fetch(`${base}/v1/t`, {
                method: "POST",
                headers: {authorization: `Basic ${btoa(key + ":")}`, "x-retry-count": "1"},
                body: JSON.stringify({type: "track", event: "Seen", anonymousId: "anon-1"}),
            });
            return [answer.status, ...names.map((name) => answer.headers.get(name))];
            """,
            base=outage.server.url,
            key=WRITE_KEY,
            names=["Retry-After", "X-RateLimit-Reset"],
        )
    assert answer == [503, "1", "1"]
    # The SDK's retries are covered by the preflight of their first try; this one asks itself.
    [preflight] = page.preflights
    # Chromium tells of headers in its own time.
    wait_until(lambda: preflight.headers)
    assert preflight.headers["access-control-request-headers"] == "authorization,x-retry-count"


@EACH_SDK
def test_an_event_that_is_too_big_is_sent_once(
    sdk: Sdk, server: ServerProcess, event: str, open_page: Any
) -> None:
    """A 400 ends an event: within a minute of the page's time it is not sent again."""
    before = answers_counted(server)
    page = open_page(sdk.version)
    sdk.load(page, server)
    sdk.track(page, event, text="x" * BODY_BYTES_MAX)
    page.pass_time(A_MINUTE_S)
    counted = answers_counted(server) - before
    assert counted == {"400": 1}
    assert [post.status for post in page.posts] == [400]
    assert not any("CORS" in text for text in page.complaints)
    assert events_named(server, event) == []

    # Nothing of it is kept in the profile that a later page would send.
    page.close()
    later = open_page(sdk.version)
    sdk.load(later, server)
    sdk.track(later, event)
    later.pass_time(A_MINUTE_S)
    wait_until_stored(server, event)
    assert [post.status for post in later.posts] == [200]
    observe(sdk.name, sdk.version, on_400=dropped_after(1))


@EACH_SDK
def test_an_unknown_key_is_tried_once(
    sdk: Sdk, server: ServerProcess, event: str, open_page: Any
) -> None:
    """A 401 ends an event: within a minute of the page's time it is not sent again."""
    before = answers_counted(server)
    page = open_page(sdk.version)
    sdk.load(page, server, key="unknown", settings=settings_of("unknown"))
    sdk.track(page, event)
    page.pass_time(A_MINUTE_S)
    counted = answers_counted(server) - before
    assert counted == {"401": 1}
    assert [post.status for post in page.posts] == [401]
    assert not any("CORS" in text for text in page.complaints)
    assert events_named(server, event) == []
    observe(sdk.name, sdk.version, on_401=dropped_after(1))


@EACH_SDK
def test_events_of_a_closing_page_arrive(
    sdk: Sdk, server: ServerProcess, event: str, open_page: Any
) -> None:
    """What a page has not delivered when it closes is stored all the same, once."""
    page = open_page(sdk.version)
    if sdk.strategy == "batching":
        # The event waits for nine others, until the page goes.
        sdk.load(page, server, size=10, timeout=600_000)
        sdk.track(page, event)
        assert page.posts == []
        page.close()
    else:
        sdk.load(page, server, keepalive=True)
        # Without an answer, the request is under way for as long as the test wants.
        os.kill(server.pid, signal.SIGSTOP)
        try:
            page.run("analytics.track(event);", event=event)
            wait_until(lambda: page.posts)
            page.close()
        finally:
            os.kill(server.pid, signal.SIGCONT)
    wait_until_stored(server, event)


def settings_of(key: str) -> dict[str, Any]:
    """Return what a page gives the SDK so that it fetches no settings."""
    return {"integrations": {"Segment.io": {"apiKey": key}}, "metrics": {"sampleRate": 0}}


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_page_with_the_snippet_loads_the_sdk_and_sends(
    version: str,
    scheme: str,
    certificate: tuple[str, ...],
    pages: Pages,
    open_page: Any,
    tmp_path: Path,
) -> None:
    """Segment's snippet, told segsrv's host, gets the SDK, its chunks and settings from there."""
    flags = ["--analytics-js-dir", str(bundles(version))]
    if scheme == "https":
        flags += certificate
    with ServerProcess(tmp_path / "data", *flags, write_keys=[WRITE_KEY]) as server:
        assert server.url.startswith(f"{scheme}:")
        pages.add("/snippet", f"<script>{snippet(server)}</script>")
        # The SDK tracks what a page's address says, with code from a chunk of its own.
        page = open_page("snippet?ajs_uid=user-7&ajs_event=Arrived")
        page.run("await new Promise((resolve) => analytics.ready(resolve));")
        page.run("analytics.track('Ready');")
        stored = all_stored(server, 4)

    assert page.complaints == []
    assert page.origins_asked == {pages.origin(), server.url}
    scripts = [urlsplit(r.url).path for r in page.requests if r.url.endswith(".js")]
    assert scripts[0] == f"/analytics.js/v1/{WRITE_KEY}/analytics.min.js"
    assert re.fullmatch(r"/analytics-next/bundles/queryString\.bundle\.\w+\.js", scripts[1])
    assert sorted((e["event_type"], e.get("event")) for e in stored) == [
        ("identify", None),
        ("page", None),
        ("track", "Arrived"),
        ("track", "Ready"),
    ]
    for event in stored:
        assert event["api_key"] == WRITE_KEY
        assert event["ids"]["ajs_user_id"] == "user-7"
        assert event["library"] == {"name": "analytics.js", "version": f"next-{version}"}


def snippet(server: ServerProcess) -> str:
    """Return Segment's own snippet for a key, with segsrv as its host."""
    node = shutil.which("node")
    require("node", installed=node is not None)
    installed = (FOLDER / "@segment" / "snippet").is_dir()
    require("npm's @segment/snippet", installed=installed, installer=INSTALLER)
    scheme, _, host = server.url.partition("://")
    options = {
        "apiKey": WRITE_KEY,
        "host": host,
        "load": {"integrations": {"Segment.io": {"apiHost": host + PREFIX, "protocol": scheme}}},
    }
    made = subprocess.run(
        [
            *(str(node), "--print"),
            f"require('@segment/snippet').min({json.dumps(options)})",
        ],
        cwd=FOLDER,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    # The snippet knows https only; on http, pages are edited like this.
    return made.stdout.replace("https://", f"{scheme}://")
