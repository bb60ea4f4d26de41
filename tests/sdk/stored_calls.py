"""What the calls of the SDK clients become when they are stored, in either format."""

import hashlib
from typing import Any

from tests.server_process import ServerProcess
from tests.site import FLAT

Event = dict[str, Any]

# What the calls of calls.json become in the flat format, without the fields that differ by SDK.
STORED: dict[str, Event] = {
    "track": {
        "event": "Order Completed",
        "orderId": "order-1",
        "revenue": 49.5,
        "products": [{"sku": "tea-1", "quantity": 2}],
        "ids": {"ajs_anonymous_id": "anon-track", "ajs_user_id": "user-track"},
        "user": {
            "anonymous_id": "anon-track",
            "internal_id": "user-track",
            "id": "user-track",
        },
        "source_ip": "203.0.113.7",
        "user_language": "de-DE",
        "user_agent": (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
            "Chrome/126.0.0.0 Safari/537.36"
        ),
        "parsed_ua": {"ua_family": "Chrome", "ua_version": "126.0.0", "os_family": "Linux"},
        "utm": {
            "name": "spring",
            "campaign": "spring",
            "source": "mail",
            "medium": "newsletter",
        },
        "page_title": "Checkout",
        "referer": "https://shop.example/cart",
        "doc": {
            "url": "https://shop.example/checkout?step=2",
            "path": "/checkout",
            "search": "?step=2",
            "referrer": "https://shop.example/cart",
        },
    },
    "identify": {
        "ids": {"ajs_anonymous_id": "anon-identify", "ajs_user_id": "user-identify"},
        "user": {
            "email": "grüße@shop.example",
            "plan": "enterprise",
            "anonymous_id": "anon-identify",
            "internal_id": "user-identify",
            "id": "user-identify",
        },
        "source_ip": "127.0.0.1",
    },
    "page": {
        "name": "Pricing",
        "section": "plans",
        "ids": {"ajs_anonymous_id": "anon-page", "ajs_user_id": "user-page"},
        "user": {"anonymous_id": "anon-page", "internal_id": "user-page", "id": "user-page"},
        "source_ip": "127.0.0.1",
        "page_title": "Prices",
        "referer": "https://search.example/?q=tea",
        "referrer": {"type": "search"},
        "doc": {
            "url": "https://shop.example/pricing",
            "path": "/pricing",
            "referrer": "https://shop.example/",
        },
    },
    "screen": {
        "name": "Home",
        "orientation": "portrait",
        "ids": {"ajs_anonymous_id": "anon-screen", "ajs_user_id": "user-screen"},
        "user": {
            "anonymous_id": "anon-screen",
            "internal_id": "user-screen",
            "id": "user-screen",
        },
        "source_ip": "127.0.0.1",
        "app": {"name": "Shop", "version": "2.1"},
        "parsed_ua": {
            "device_id": "device-1",
            "device_brand": "Apple",
            "device_model": "iPhone15,2",
            "device_name": "Ned's phone",
            "device_type": "mobile",
            "os_family": "iOS",
            "os_version": "17.5",
        },
        "screen_resolution": "390x844",
        "local_tz_offset": 330,
    },
    "group": {
        "groupId": "company-1",
        "ids": {"ajs_anonymous_id": "anon-group", "ajs_user_id": "user-group"},
        "user": {
            "industry": "tea",
            "employees": 42,
            "anonymous_id": "anon-group",
            "internal_id": "user-group",
            "id": "user-group",
        },
        "source_ip": "127.0.0.1",
    },
    "alias": {
        "previousId": "anon-alias",
        "ids": {"ajs_user_id": "user-alias"},
        "user": {"internal_id": "user-alias", "id": "user-alias"},
        "source_ip": "127.0.0.1",
    },
}

# The fields that the compat format keeps under `eventn_ctx`.
COMPAT_FIELDS = {
    "doc",
    "ids",
    "local_tz_offset",
    "location",
    "page_title",
    "parsed_ua",
    "referer",
    "screen_resolution",
    "user",
    "user_agent",
    "user_language",
    "utm",
}

# The fields that an SDK or the server fills in anew each time, or that not every SDK sends.
VARIABLE_FIELDS = {"_metadata", "_timestamp", "category", "integrations", "sentAt", "timestamp"}


def all_stored(server: ServerProcess, count: int) -> list[Event]:
    """Wait for `count` events, end the server so that no more can come, and return them all."""
    server.wait_for_events(count)
    assert server.stop() == 0, server.stderr
    return server.events()


def take_event_id(event: Event, prefix: str) -> str:
    if prefix == FLAT:
        return event.pop("eventn_ctx_event_id")
    return event["eventn_ctx"].pop("event_id")


def without_nulls(fields: Event) -> Event:
    """Drop null fields, which the Python SDK sends for every id that a call does not give."""
    return {
        name: without_nulls(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if value is not None
    }


def expected(fields: Event, *, prefix: str, user_agent: str, **others: Any) -> Event:
    """Complete the `fields` of a stored flat event and give them the shape of the endpoint."""
    hashed = hashlib.md5((fields["source_ip"] + user_agent).encode()).hexdigest()
    user = fields["user"] | {"hashed_anonymous_id": hashed}
    flat = fields | {"user": user, "src": "segment_api"} | others
    return shaped(flat, prefix)


def shaped(flat: Event, prefix: str) -> Event:
    """Give the fields of a stored flat event the shape of the endpoint."""
    if prefix == FLAT:
        return flat
    moved = {name: value for name, value in flat.items() if name in COMPAT_FIELDS}
    kept = {name: value for name, value in flat.items() if name not in COMPAT_FIELDS}
    moved["user"] = {name: value for name, value in flat["user"].items() if name != "id"}
    return kept | {"eventn_ctx": moved}
