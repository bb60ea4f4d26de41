"""Realistic request bodies of Segment SDKs: single browser events and batches from a server.

Everything random comes from the `random.Random` that is passed in and everything timed from
`now_ms`, so the same seed and clock give the same bytes. Message ids are unique within a seed.
"""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

if TYPE_CHECKING:
    from random import Random

KHTML = "(KHTML, like Gecko)"
CHROME = f"AppleWebKit/537.36 {KHTML} Chrome/{{0}}.0.0.0"
SAFARI = f"AppleWebKit/605.1.15 {KHTML} Version/{{0}}"
WINDOWS = "Windows NT 10.0; Win64; x64"
MACINTOSH = "Macintosh; Intel Mac OS X 10_15_7"

# Share of traffic, user agent with a place for the version, versions in use. The long tail of
# versions is what a cache of parsed user agents has to live with.
USER_AGENTS: tuple[tuple[int, str, range], ...] = (
    (30, f"({WINDOWS}) {CHROME} Safari/537.36", range(128, 143)),
    (20, f"(Linux; Android 10; K) {CHROME} Mobile Safari/537.36", range(126, 143)),
    (18, f"(iPhone; CPU iPhone OS {{0}}_1 like Mac OS X) {SAFARI} Mobile/15E148", range(12, 19)),
    (9, f"({MACINTOSH}) {CHROME} Safari/537.36", range(130, 143)),
    (7, f"({MACINTOSH}) {SAFARI}.1 Safari/605.1.15", range(15, 19)),
    (5, f"({WINDOWS}; rv:{{0}}.0) Gecko/20100101 Firefox/{{0}}.0", range(115, 146)),
    (4, f"({WINDOWS}) {CHROME} Safari/537.36 Edg/{{0}}.0.0.0", range(130, 143)),
    (3, f"(Linux; Android 14; SM-S918B) {CHROME} SamsungBrowser/28.0 Mobile", range(112, 131)),
    (2, "(X11; Linux x86_64; rv:{0}.0) Gecko/20100101 Firefox/{0}.0", range(128, 146)),
    (1, f"(iPad; CPU OS 17_{{0}} like Mac OS X) {SAFARI} Mobile/15E148 [FBAN/FBIOS]", range(1, 7)),
    (1, "(compatible; Googlebot/2.1; +http://www.google.com/bot.html) Chrome/{0}", range(140, 143)),
)

# Networks that MaxMind's public test databases know, so that a run with such a database finds
# something. They are only ever written into headers and bodies.
ADDRESS_PREFIXES = ("81.2.69", "89.160.20", "216.160.83", "175.16.199", "2.125.160", "202.196.224")

LOCALES = (
    ("en-US", "America/New_York"),
    ("en-GB", "Europe/London"),
    ("de-DE", "Europe/Berlin"),
    ("fr-FR", "Europe/Paris"),
    ("pt-BR", "America/Sao_Paulo"),
    ("ja-JP", "Asia/Tokyo"),
    ("hi-IN", "Asia/Kolkata"),
)
EVENTS = ("Product Viewed", "Product Added", "Checkout Started", "Products Searched", "CTA Clicked")
PRODUCTS = ("trail-runner-2", "alpine-shell-jacket", "merino-base-layer", "summit-pack-32l")
LIBRARY = {"name": "@segment/analytics-node", "version": "3.1.0"}
SOURCES = (("google", "cpc"), ("newsletter", "email"), ("instagram", "social"), ("bing", "cpc"))


class Client(NamedTuple):
    """Somebody's browser: what an event's context and the request's headers say about it."""

    user_agent: str
    address: str
    locale: str
    timezone: str
    anonymous_id: str


def make_clients(rng: Random, count: int = 1000) -> list[Client]:
    """Draw browsers whose user agents and addresses repeat about as much as real traffic's."""
    families = rng.choices(USER_AGENTS, weights=[share for share, _, _ in USER_AGENTS], k=count)
    clients = []
    for _, template, versions in families:
        # Most people run one of the newest versions; squaring makes the old ones rare, not absent.
        age = int(rng.random() ** 2 * len(versions))
        locale, timezone = rng.choice(LOCALES)
        clients.append(
            Client(
                user_agent=f"Mozilla/5.0 {template.format(versions[-1 - age])}",
                address=f"{rng.choice(ADDRESS_PREFIXES)}.{rng.randint(1, 254)}",
                locale=locale,
                timezone=timezone,
                anonymous_id=_uuid(rng),
            )
        )
    return clients


def browser_event(
    rng: Random,
    client: Client,
    *,
    write_key: str = "",
    event_bytes: int = 0,
    now_ms: int | None = None,
) -> bytes:
    """Render what analytics-next 1.84 posts to `/v1/t`, at least *event_bytes* long."""
    now_ms = _clock_ms() if now_ms is None else now_ms
    product = rng.choice(PRODUCTS)
    properties = {
        "product_id": product,
        "sku": f"{product}-{rng.randint(36, 47)}",
        "category": "outdoor",
        "price": rng.randint(500, 30_000) / 100,
        "currency": "EUR",
        "quantity": rng.randint(1, 4),
    }
    event = {
        "timestamp": _iso(now_ms),
        "integrations": {"Segment.io": True},
        "event": rng.choice(EVENTS),
        "type": "track",
        "properties": properties,
        "context": {
            "page": {
                "path": f"/shop/{product}",
                "referrer": "https://www.google.com/",
                "search": f"?utm_source=google&variant={rng.randint(1, 9999)}",
                "title": f"{product} | Example Outfitters",
                "url": f"https://shop.example.com/shop/{product}",
            },
            "userAgent": client.user_agent,
            "locale": client.locale,
            "library": {"name": "analytics.js", "version": "npm:next-1.84.3"},
            "campaign": _campaign(rng),
            "timezone": client.timezone,
        },
        "messageId": f"ajs-next-{now_ms}-{_uuid(rng)}",
        "userId": None,
        "anonymousId": client.anonymous_id,
        "writeKey": write_key,
        "sentAt": _iso(now_ms + 3),
        "_metadata": {"bundled": ["Segment.io"], "unbundled": [], "bundledIds": []},
    }
    return orjson.dumps(_padded(event, properties, event_bytes))


def server_batch(
    rng: Random,
    clients: list[Client],
    *,
    events: int = 100,
    write_key: str = "",
    event_bytes: int = 0,
    now_ms: int | None = None,
    is_shared: bool = True,
) -> bytes:
    """Render what a server's SDK posts to `/v1/batch`: *events* events of random *clients*.

    The batch says when it was sent and, as those of the SDKs for Go and Java do, which library sent
    it; unless *is_shared*, each event says the latter, and nobody the former.
    """
    now_ms = _clock_ms() if now_ms is None else now_ms
    batch = [
        _server_event(
            rng,
            rng.choice(clients),
            event_bytes,
            now_ms - (events - index) * 7,
            {} if is_shared else {"library": LIBRARY},
        )
        for index in range(events)
    ]
    body: dict[str, Any] = {"batch": batch, "writeKey": write_key}
    if is_shared:
        body |= {"sentAt": _iso(now_ms), "context": {"library": LIBRARY}}
    return orjson.dumps(body)


def _server_event(
    rng: Random, client: Client, event_bytes: int, at_ms: int, context: dict[str, Any]
) -> dict[str, Any]:
    product = rng.choice(PRODUCTS)
    payload: dict[str, Any] = {
        "order_id": f"ord_{rng.getrandbits(48):012x}",
        "total": rng.randint(1_000, 90_000) / 100,
        "currency": "EUR",
        "coupon": None,
        "products": [
            {"product_id": product, "sku": f"{product}-42", "price": 89.9, "quantity": 1},
            {"product_id": "gift-card", "sku": "gc-25", "price": 25, "quantity": 2},
        ],
    }
    event: dict[str, Any] = {
        "timestamp": _iso(at_ms),
        "type": "track",
        "event": "Order Completed",
        "userId": f"user-{rng.randint(1, 200_000)}",
        "anonymousId": client.anonymous_id,
        "properties": payload,
        "integrations": {},
        "context": {
            **context,
            "ip": client.address,
            "userAgent": client.user_agent,
            "locale": client.locale,
            "timezone": client.timezone,
            "page": {
                "path": "/checkout/done",
                "referrer": "https://shop.example.com/checkout/payment",
                "url": "https://shop.example.com/checkout/done",
            },
        },
        "messageId": f"node-next-{at_ms}-{_uuid(rng)}",
        "_metadata": {"nodeVersion": "22.11.0", "jsRuntime": "node"},
    }
    if rng.random() < 0.1:
        payload = {
            "email": f"{event['userId']}@example.com",
            "plan": "business",
            "logins": rng.randint(1, 500),
        }
        event["type"] = "identify"
        del event["event"], event["properties"]
        event["traits"] = payload
    return _padded(event, payload, event_bytes)


def _padded(event: dict[str, Any], payload: dict[str, Any], event_bytes: int) -> dict[str, Any]:
    """Lengthen *payload*, a part of *event*, until the event has *event_bytes* as JSON."""
    if event_bytes:
        missing = event_bytes - len(orjson.dumps(event)) - len(',"padding":""')
        if missing > 0:
            payload["padding"] = "x" * missing
    return event


def _campaign(rng: Random) -> dict[str, str]:
    # Most page views carry no campaign; the SDK then sends an empty object.
    if rng.random() < 0.7:
        return {}
    source, medium = rng.choice(SOURCES)
    return {"name": "autumn-sale", "source": source, "medium": medium}


def _uuid(rng: Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _iso(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000
