"""Browser SDKs of other vendors in Chromium, on pages of other origins, against the real server."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from clients import HERE, require
from observations import dropped_after, observe
from outage import Outage
from pages import Pages
from stored_calls import Event, all_stored, shaped, take_event_id

from tests.chromium import Chromium, Page
from tests.server_process import ServerProcess
from tests.site import COMPAT, FLAT, Site

FOLDER = HERE / "browser" / "node_modules"
INSTALLER = "tests/sdk/install_browser.sh"
KEYS = {FLAT: "key-flat", COMPAT: "key-compat"}
# A page of an origin of its own for each, since pages of one origin share what an SDK keeps.
HOSTS = {FLAT: "127.0.0.1", COMPAT: "localhost"}
A_MINUTE_S = 60.0
BODY_BYTES_MAX = 4000

CALLS = """
    await Promise.all([
        sdk.track("Order Completed", {revenue: 49.5}),
        sdk.identify("user-1", {plan: "enterprise"}),
        sdk.page("Plans", "Pricing"),
        sdk.group("company-1", {employees: 42}),
        sdk.alias("user-2", "user-1"),
        sdk.screen?.("Home"),
    ]);
"""
# What becomes of them in the flat format, beside what every event of a page has.
STORED: dict[str, Event] = {
    "track": {"event": "Order Completed", "revenue": 49.5},
    "identify": {"user": {"plan": "enterprise", "internal_id": "user-1", "id": "user-1"}},
    "page": {"category": "Plans", "name": "Pricing"},
    "group": {"groupId": "company-1", "user": {"employees": 42}},
    "alias": {
        "previousId": "user-1",
        "ids": {"ajs_user_id": "user-2"},
        "user": {"internal_id": "user-2", "id": "user-2"},
    },
    "screen": {"name": "Home"},
}

# Each makes `window.sdk` and waits until it has started. `base` is the server's URL, `host` the
# same without a scheme; with `ownSettings` the SDK fetches none.
LOAD_CUSTOMERIO = """
    const name = "Customer.io Data Pipelines";
    const options = {apiHost: `${host}${prefix}/v1`, protocol: "http"};
    if (isBatching) {
        options.deliveryStrategy = {strategy: "batching", config: {size: 10, timeout: 1000}};
    }
    const cdnSettings = ownSettings ? {integrations: {[name]: {apiKey: key}}} : undefined;
    window.sdk = AnalyticsNext.AnalyticsBrowser.load(
        {writeKey: key, cdnURL: `${base}/customerio`, cdnSettings},
        {integrations: {[name]: options}},
    );
    await sdk;
"""
LOAD_HIGHTOUCH = """
    const options = {apiHost: host + prefix, protocol: "http", batching: isBatching};
    window.sdk = HtEvents.HtEventsBrowser.load({writeKey: key}, options);
    await sdk;
"""
LOAD_RUDDERSTACK = """
    const batch = {enabled: isBatching, flushInterval: 1000};
    const options = {configUrl: base, queueOptions: {batch}, useBeacon};
    if (ownSettings) {
        options.getSourceConfig = () => ({source: {id: "own", config: {}, destinations: []}});
    }
    window.sdk = new rudderanalytics.RudderAnalytics();
    const ready = new Promise((resolve) => sdk.ready(resolve));
    sdk.load(key, base + prefix, options);
    await ready;
"""


@dataclass(frozen=True)
class Sdk:
    """A browser SDK, how a page loads it, and where it sends what.

    `posts_to` has the path of each of its calls behind a prefix; a batch goes to `batches_to`.
    `fetches` is the path, of a key, that its settings come from. Calls `without_page` do not say
    which page they were made on.
    """

    name: str
    version: str
    script: str
    load: str
    library: dict[str, str]
    posts_to: dict[str, str]
    batches_to: str
    fetches: str = ""
    is_batching: bool = False
    retries: bool = False
    times: tuple[str, ...] = ("timestamp", "sentAt")
    without_page: tuple[str, ...] = ()
    stored: dict[str, Event] = field(default_factory=lambda: STORED)

    @property
    def row_name(self) -> str:
        return f"{self.name} ({'batching' if self.is_batching else 'standard'})"

    @property
    def page(self) -> str:
        """The name of the page with this SDK, and of its script."""
        return self.name.partition(" ")[0].lower()

    @property
    def paths(self) -> list[str]:
        """Where the requests of all its calls go, if they are made at once."""
        return [self.batches_to] if self.is_batching else sorted(self.posts_to.values())

    def start(
        self,
        page: Page,
        server: ServerProcess,
        *,
        prefix: str = FLAT,
        key: str = "",
        own_settings: bool = False,
        use_beacon: bool = False,
    ) -> None:
        page.run(
            self.load,
            base=server.url,
            host=server.url.partition("//")[2],
            prefix=prefix,
            key=key or KEYS[prefix],
            isBatching=self.is_batching,
            ownSettings=own_settings,
            useBeacon=use_beacon,
        )

    def track(self, page: Page, event: str, **properties: Any) -> None:
        """Let *page* track, and give the SDK a minute of the page's time for it."""
        page.run("await sdk.track(event, properties);", event=event, properties=properties)
        page.pass_time(A_MINUTE_S)


SPELT_OUT = {name: f"/v1/{name}" for name in STORED}
CUSTOMERIO = Sdk(
    "Customer.io Browser",
    "0.5.11",
    "@customerio/cdp-analytics-browser/dist/umd/index.js",
    LOAD_CUSTOMERIO,
    {"name": "analytics.js", "version": "next-0.5.11"},
    posts_to={name: f"/v1/{name[0]}" for name in STORED},
    batches_to="/v1/b",
    fetches="/customerio/v1/projects/{key}/settings",
    without_page=("screen",),
)
HIGHTOUCH = Sdk(
    "Hightouch Browser",
    "1.5.1",
    "@ht-sdks/events-sdk-js-browser/dist/umd/index.js",
    LOAD_HIGHTOUCH,
    {"name": "events-sdk-js", "version": "web-1.5.1"},
    posts_to=SPELT_OUT,
    batches_to="/v1/batch",
)
RUDDERSTACK = Sdk(
    "RudderStack Browser",
    "3.34.1",
    # The other builds load code from their vendor's host first.
    "@rudderstack/analytics-js/dist/npm/modern/bundled/umd/index.js",
    LOAD_RUDDERSTACK,
    {"name": "RudderLabs JavaScript SDK", "version": "3.34.1", "variant": "bundled"},
    posts_to={name: path for name, path in SPELT_OUT.items() if name != "screen"},
    batches_to="/v1/batch",
    fetches="/sourceConfig/",
    retries=True,
    times=("originalTimestamp", "sentAt"),
    # It sends the user's traits in every event's context, where they win over those of a group.
    stored=STORED | {"group": {"groupId": "company-1", "user": {"plan": "enterprise"}}},
)
SDKS = [
    replace(sdk, is_batching=is_batching)
    for sdk in (CUSTOMERIO, HIGHTOUCH, RUDDERSTACK)
    for is_batching in (False, True)
]


def each(sdks: list[Sdk]) -> pytest.MarkDecorator:
    ids = [f"{sdk.page}-{'batching' if sdk.is_batching else 'standard'}" for sdk in sdks]
    return pytest.mark.parametrize("sdk", sdks, ids=ids)


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    with Pages() as pages:
        for sdk in (CUSTOMERIO, HIGHTOUCH, RUDDERSTACK):
            script = FOLDER / sdk.script
            require(f"npm's {sdk.name}", installed=script.is_file(), installer=INSTALLER)
            pages.add_script(f"/{sdk.page}.js", script)
            pages.add(f"/{sdk.page}", f'<script src="/{sdk.page}.js"></script>')
        yield pages


@pytest.fixture
def open_page(browser: Chromium, pages: Pages, profile: str) -> Any:
    """Return a function that opens the page of an SDK, under one of the site's names."""

    def opened(sdk: Sdk, host: str = "127.0.0.1") -> Page:
        return browser.open(profile, f"{pages.origin(host)}/{sdk.page}")

    return opened


@pytest.fixture(scope="module")
def strict_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server that takes only small bodies."""
    flags = ("--body-bytes-max", str(BODY_BYTES_MAX))
    data_dir = tmp_path_factory.mktemp("strict") / "data"
    with ServerProcess(data_dir, *flags, write_keys=[KEYS[FLAT]]) as server:
        yield Site(server)


@each(SDKS)
def test_every_call_is_stored_once(sdk: Sdk, open_page: Any, pages: Pages, tmp_path: Path) -> None:
    """An SDK starts without a setting; all its calls are stored, once each, in either format."""
    with ServerProcess(tmp_path / "data", write_keys=list(KEYS.values())) as server:
        opened = {prefix: open_page(sdk, HOSTS[prefix]) for prefix in KEYS}
        for prefix, page in opened.items():
            sdk.start(page, server, prefix=prefix)
            page.run(CALLS)
            page.pass_time(A_MINUTE_S)
        stored = all_stored(server, len(KEYS) * len(sdk.posts_to))

    for prefix, page in opened.items():
        check_requests(page, sdk, prefix, pages.origin(HOSTS[prefix]), server.url)
        user_agent = page.posts[0].headers["user-agent"]
        events = [event for event in stored if event["api_key"] == KEYS[prefix]]
        check_events(events, sdk, prefix, user_agent, f"{pages.origin(HOSTS[prefix])}/{sdk.page}")
        [auth] = {post.auth_form(KEYS[prefix]) for post in page.posts}
        [encoding] = {post.headers.get("content-encoding", "no") for post in page.posts}
        missing = "".join(f", it has no {name}" for name in sorted(STORED.keys() - sdk.posts_to))
        calls = f"all {len(events)}{missing}"
        observe(sdk.row_name, sdk.version, calls=calls, auth=auth, gzip=encoding)


def check_requests(page: Page, sdk: Sdk, prefix: str, origin: str, server_url: str) -> None:
    """Check that a page's calls made the requests that they should, and no others."""
    assert page.complaints == []
    # Nothing goes to the hosts of the SDK's maker.
    assert page.origins_asked == {origin, server_url}
    fetched = [
        urlsplit(request.url).path
        for request in page.requests
        if request.method == "GET" and request.url.startswith(server_url)
    ]
    assert fetched == ([sdk.fetches.format(key=KEYS[prefix])] if sdk.fetches else [])
    assert sorted(urlsplit(post.url).path for post in page.posts) == [
        prefix + path for path in sdk.paths
    ]
    assert {post.status for post in page.posts} == {200}
    assert {preflight.status for preflight in page.preflights} <= {200}


def check_events(
    events: list[Event], sdk: Sdk, prefix: str, user_agent: str, page_url: str
) -> None:
    """Check that these are the calls of a page, as an endpoint stores them."""
    assert sorted(event["event_type"] for event in events) == sorted(sdk.posts_to)
    assert len({take_event_id(event, prefix) for event in events} - {""}) == len(events)
    tracker = events[0] if prefix == FLAT else events[0]["eventn_ctx"]
    anonymous_id = tracker["ids"]["ajs_anonymous_id"]
    hashed = hashlib.md5(f"127.0.0.1{user_agent}".encode()).hexdigest()
    of_every_event: Event = {
        "src": "segment_api",
        "source_ip": "127.0.0.1",
        "library": sdk.library,
        "user_agent": user_agent,
        "user_language": "en-US",
        "ids": {"ajs_anonymous_id": anonymous_id},
        "user": {"anonymous_id": anonymous_id, "hashed_anonymous_id": hashed},
    }
    of_a_page = {"page_title": "A page", "doc": {"url": page_url, "path": f"/{sdk.page}"}}
    for event in events:
        assert all(event[name] for name in sdk.times)
        event_type = event["event_type"]
        wanted = merged(of_every_event, sdk.stored[event_type])
        if event_type not in sdk.without_page:
            wanted |= of_a_page
        wanted = shaped(wanted, prefix)
        assert common_part(event, wanted) == wanted


def merged(fields: Event, others: Event) -> Event:
    """Return both, objects within them merged alike."""
    both = {
        name: merged(fields[name], value) if isinstance(fields.get(name), dict) else value
        for name, value in others.items()
    }
    return fields | both


def common_part(event: Event, wanted: Event) -> Event:
    """Return what *event* has of the fields of *wanted*, also within objects."""
    return {
        name: common_part(event[name], value) if isinstance(value, dict) else event[name]
        for name, value in wanted.items()
        if name in event
    }


@each([sdk for sdk in SDKS if sdk.retries])
def test_events_of_an_outage_are_stored_once(sdk: Sdk, open_page: Any, tmp_path: Path) -> None:
    """What is answered 503 is tried again until it is taken, and stored once."""
    with Outage(tmp_path / "data", write_keys=(KEYS[FLAT],)) as outage:
        page = open_page(sdk)
        sdk.start(page, outage.server)
        page.run("sdk.track('Patient');")
        page.pass_time(20)
        site = Site(outage.server)
        assert site.metric("segsrv_requests_total", status="503") >= 2
        outage.end()
        page.pass_time(A_MINUTE_S)
        stored = all_stored(outage.server, 1)

    assert [event["event"] for event in stored] == ["Patient"]
    *refused, taken = [post.status for post in page.posts]
    assert set(refused) == {503}
    assert taken == 200
    observe(sdk.row_name, sdk.version, retry="delivered once")


@each([sdk for sdk in SDKS if not sdk.retries])
def test_events_of_an_outage_are_given_up(sdk: Sdk, open_page: Any, tmp_path: Path) -> None:
    """An SDK that takes any answer for a success tries nothing again, and sends what comes next."""
    with Outage(tmp_path / "data", write_keys=(KEYS[FLAT],)) as outage:
        page = open_page(sdk)
        sdk.start(page, outage.server)
        sdk.track(page, "Given up")
        refused = [post.status for post in page.posts]
        assert set(refused) == {503}
        outage.end()
        page.close()

        later = open_page(sdk)
        sdk.start(later, outage.server)
        sdk.track(later, "Next")
        stored = all_stored(outage.server, 1)

    assert [event["event"] for event in stored] == ["Next"]
    observe(sdk.row_name, sdk.version, retry=dropped_after(len(refused)))


@each(SDKS)
def test_an_event_that_is_too_big_is_sent_once(sdk: Sdk, strict_site: Site, open_page: Any) -> None:
    """A 400 ends an event: within a minute of the page's time it is not sent again."""
    page = open_page(sdk)
    sdk.start(page, strict_site.process)
    before = strict_site.metric("segsrv_requests_total")
    sdk.track(page, "Too big", text="x" * BODY_BYTES_MAX)

    assert strict_site.metric("segsrv_requests_total") - before == 1
    assert [post.status for post in page.posts] == [400]
    assert strict_site.process.events() == []
    observe(sdk.row_name, sdk.version, on_400=dropped_after(1))


@each(SDKS)
def test_an_unknown_key_is_tried_once(sdk: Sdk, strict_site: Site, open_page: Any) -> None:
    """A 401 ends an event: within a minute of the page's time it is not sent again."""
    page = open_page(sdk)
    sdk.start(page, strict_site.process, key="unknown", own_settings=True)
    before = strict_site.metric("segsrv_requests_total")
    sdk.track(page, "Unknown")

    assert strict_site.metric("segsrv_requests_total") - before == 1
    assert [post.status for post in page.posts] == [401]
    assert strict_site.process.events() == []
    observe(sdk.row_name, sdk.version, on_401=dropped_after(1))


@each([sdk for sdk in SDKS if sdk.is_batching])
def test_events_of_a_page_that_is_left_arrive(sdk: Sdk, open_page: Any, tmp_path: Path) -> None:
    """What still waits for its batch when the page is left is stored all the same, once."""
    with ServerProcess(tmp_path / "data", write_keys=[KEYS[FLAT]]) as server:
        page = open_page(sdk)
        sdk.start(page, server)
        page.run("sdk.track('Last');")
        page.go("about:blank")
        stored = all_stored(server, 1)

    assert [event["event"] for event in stored] == ["Last"]


def test_beacons_arrive(open_page: Any, tmp_path: Path) -> None:
    """RudderStack's SDK with `useBeacon` sends when its page is left; all is stored, once each."""
    sdk = RUDDERSTACK
    with ServerProcess(tmp_path / "data", write_keys=list(KEYS.values())) as server:
        for prefix, host in HOSTS.items():
            page = open_page(sdk, host)
            sdk.start(page, server, prefix=prefix, use_beacon=True)
            page.run(CALLS)
            assert page.posts == []
            page.go("about:blank")
        stored = all_stored(server, len(KEYS) * len(sdk.posts_to))

    for prefix, key in KEYS.items():
        events = [event for event in stored if event["api_key"] == key]
        assert sorted(event["event_type"] for event in events) == sorted(sdk.posts_to)
        assert {event["source_ip"] for event in events} == {"127.0.0.1"}
        assert len({take_event_id(event, prefix) for event in events} - {""}) == len(events)
