"""What a request is stored as, worked out step by step and without the code under test.

The rule tables are run literally; the steps behind them follow the order of their description. It
is slow, shares nothing with `segsrv`, and knows the databases of the corpus by heart.
"""

import hashlib
import ipaddress
import json
import re
from copy import deepcopy
from datetime import datetime
from typing import Any

from ua_parser import user_agent_parser

from tests.events.corpus import CONSENT, LOCATIONS, ZONES, Post, is_batch
from tests.events.rule_table import COMPAT_RULES, FLAT_RULES, run_table

UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
SERVER_TIME = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
MADE = "<made>"
"""Stands for an id or a time that the server makes."""
Event = dict[str, Any]


def expected_lines(post: Post, api_key: str, corrected_at: datetime | None = None) -> list[Event]:
    """Return the stored events of a request; items that are no objects are not among them.

    With *corrected_at*, that is the server's time, and times are corrected by it.
    """
    shared = post.body if is_batch(post) else {}
    # Read from JSON, no two places of an event hold the same object.
    items = [json.loads(json.dumps(item)) for item in post.events if isinstance(item, dict)]
    lines = [as_stored(_with_shared(item, shared), post, api_key) for item in items]
    if corrected_at is not None:
        for line in lines:
            _correct_time(line, corrected_at)
    return lines


def comparable(event: Event) -> str:
    """Return the event as text that tells 1, 1.0 and true apart, and shows no made id or time."""
    event = dict(event)
    if re.fullmatch(SERVER_TIME, event["_timestamp"]):
        event["_timestamp"] = MADE
    holder, name = event, "eventn_ctx_event_id"
    if isinstance(event.get("eventn_ctx"), dict):
        holder = event["eventn_ctx"] = dict(event["eventn_ctx"])
        name = "event_id"
    if re.fullmatch(UUID4, holder[name]):
        holder[name] = MADE
    return json.dumps(event, sort_keys=True, indent=1)


def as_stored(event: Event, post: Post, api_key: str) -> Event:
    """Return what one event becomes, the batch's fields being in it already."""
    is_compat, is_tracker = "/compat" in post.path, post.path.startswith(("/api/v1/event", "/api."))
    is_tracker = is_tracker or post.path == "/api/v1/s2s/event"
    is_client = post.path.endswith("/t") or (is_tracker and "s2s" not in post.path)
    if post.path.endswith("/t") and event.get("type") is None:
        event["type"] = "track"

    message_id = event.pop("messageId", None)
    if not is_tracker:
        event = run_table(COMPAT_RULES if is_compat else FLAT_RULES, event)
    event.pop("writeKey", None)
    _place_zone_and_screen(event, is_compat=is_compat)
    has_tracker = isinstance(event.get("eventn_ctx"), dict)
    holder = event["eventn_ctx"] if has_tracker else event
    event_id = _event_id(event, message_id, has_tracker=has_tracker)
    holder["event_id" if has_tracker else "eventn_ctx_event_id"] = event_id

    source = _place_source(event, post.client, is_client=is_client)
    event |= {"src": "segment_api", "api_key": api_key}
    if event.get("_timestamp") is None:
        event["_timestamp"] = MADE
    hashed = hashlib.md5(source.encode() + post.user_agent).hexdigest()
    user = holder.get("user") if has_tracker else None
    if not isinstance(user, dict):
        user = event.get("user")
    if isinstance(user, dict):
        user["hashed_anonymous_id"] = hashed

    located = _located(source)
    _enrich(event, holder, located)
    _apply_policies(event, user, hashed, located, post.query)
    return _bounded(event)


def _with_shared(event: Event, batch: Event) -> Event:
    """Lay the batch's context, integrations and sentAt under the event's own."""
    context = batch.get("context")
    if isinstance(context, dict):
        own = event.get("context")
        if not isinstance(own, dict):
            if not (own is None or own in ("", [])):
                event["context_raw"] = own
            own = {}
        event["context"] = deepcopy(context) | own
    integrations = batch.get("integrations")
    if isinstance(integrations, dict):
        own = event.get("integrations")
        if isinstance(own, dict) or not own:
            event["integrations"] = integrations | (own or {})
    if batch.get("sentAt") is not None and event.get("sentAt") is None:
        event["sentAt"] = batch["sentAt"]
    return event


def _place_zone_and_screen(event: Event, *, is_compat: bool) -> None:
    def place(name: str, value: Any) -> None:
        holder = event
        if is_compat and isinstance(event.setdefault("eventn_ctx", {}), dict):
            holder = event["eventn_ctx"]
        holder[name] = value

    zone = event.pop("timezone", None)
    if isinstance(zone, str) and zone in ZONES:
        place("local_tz_offset", ZONES[zone])
    screen = event.get("screen")
    if isinstance(screen, dict):
        sizes = [screen.get("width"), screen.get("height")]
        if all(type(size) in (int, float, str) for size in sizes):
            del event["screen"]
            texts = [str(size).removesuffix(".0") for size in sizes]
            place("screen_resolution", "x".join(texts))


def _event_id(event: Event, message_id: Any, *, has_tracker: bool) -> str:
    if message_id is None or message_id == "":
        places = [(event, "eventn_ctx_event_id"), (event, "event_id")]
        if has_tracker:
            places.insert(0, (event["eventn_ctx"], "event_id"))
        for holder, name in places:
            if holder.get(name) not in (None, ""):
                message_id = holder.pop(name)
                break
        else:
            return MADE
    if isinstance(message_id, str):
        return message_id
    return json.dumps(message_id, separators=(",", ":"))


def _place_source(event: Event, client: str, *, is_client: bool) -> str:
    """Give the event its address, and return the one that it is known and found by."""
    source = event.get("source_ip")
    is_withheld = isinstance(source, str) and source in ("0.0.0.0", "::")
    if source is None or source == "" or (is_client and not is_withheld):
        event["source_ip"] = client
        return client
    return source if isinstance(source, str) else client


def _located(source: str) -> Event:
    addresses = [part.strip() for part in source.split(",")]
    return next((LOCATIONS[address] for address in addresses if address in LOCATIONS), {})


def _enrich(event: Event, holder: Event, located: Event) -> None:
    agent = holder.get("user_agent") or event.get("user_agent")
    if isinstance(agent, str) and agent and not holder.get("parsed_ua"):
        parsed = _parsed(agent)
        if parsed:
            holder["parsed_ua"] = parsed
    if located and not holder.get("location"):
        holder["location"] = deepcopy(located)


def _parsed(text: str) -> Event:
    """Read a user agent with the older interface of ua-parser, by the words of the rule."""
    found = user_agent_parser.Parse(text)
    agent, system, device = found["user_agent"], found["os"], found["device"]
    parsed: Event = {}
    for name, part, numbers in (
        ("ua", agent, ("major", "minor", "patch")),
        ("os", system, ("major", "minor", "patch", "patch_minor")),
    ):
        if part["family"] != "Other":
            parsed[f"{name}_family"] = part["family"]
        parsed[f"{name}_version"] = ".".join(part[key] for key in numbers if part.get(key))
    if device["family"] != "Other":
        parsed["device_family"] = device["family"]
    parsed |= {"device_brand": device["brand"], "device_model": device["model"]}
    parsed = {name: value for name, value in parsed.items() if value}
    words = ("bot", "spider", "headless", "crawler", "uptimia")
    is_spider = "Spider" in (device["family"], device["brand"])
    if parsed and (is_spider or any(word in text.lower() for word in words)):
        parsed["bot"] = True
    return parsed


def _correct_time(event: Event, received_at: datetime) -> None:
    """Put the event's time as long before its receipt as it was before its sending."""

    def text(time: datetime) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    said = event.get("timestamp")
    if said is None:
        said = event.get("originalTimestamp")
    if said is None:
        event["timestamp"] = text(received_at)
        return
    event["timestamp"] = said
    try:
        age = datetime.fromisoformat(event["sentAt"]) - datetime.fromisoformat(said)
    except (KeyError, TypeError, ValueError):
        return
    event |= {"originalTimestamp": said, "timestamp": text(received_at - age)}


def _apply_policies(event: Event, user: Any, hashed: str, located: Event, query: str) -> None:
    def is_strict(name: str) -> bool:
        if f"{name}=comply" in query:
            return located.get("country") in CONSENT
        return f"{name}=strict" in query

    if is_strict("ip_policy"):
        shortened = _shortened(event.pop("source_ip", None))
        if shortened:
            event["source_ip"] = shortened
    if is_strict("cookie_policy") and isinstance(user, dict):
        user["anonymous_id"] = hashed


def _shortened(source: Any) -> str:
    parts = []
    for text in str(source).split(",") if isinstance(source, str) else ():
        try:
            address = ipaddress.ip_address(text.strip())
        except ValueError:
            continue
        if address.version == 4:
            parts.append(".".join([*text.strip().split(".")[:3], "1"]))
        else:
            parts.append(str(ipaddress.ip_address(address.packed[:6] + bytes(10))))
    return ",".join(parts)


def _bounded(value: Any) -> Any:
    """Make floats of the whole numbers that 64 bits don't hold."""
    if isinstance(value, dict):
        return {name: _bounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_bounded(part) for part in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value)
    return value
