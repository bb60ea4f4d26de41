"""Runs bodies through the event path the way a request does: bytes in, stored lines out."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson

from segsrv.events import FORMATS, Outcome, Pipeline, Sender, parse

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
TIMESTAMP = "2026-11-23T09:00:00.000000Z"
UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
BY_NAME = {output.name: output for output in FORMATS}
SHARED_BYTES_MAX = 10_000_000
STAMPS = {"src": "segment_api", "api_key": "key", "_timestamp": TIMESTAMP}


def know_nothing(_text: str) -> None:
    """Stand for a look-up without a database."""


def run_body(
    body: Any,
    output="flat",
    *,
    now=NOW,
    parse_user_agent=know_nothing,
    locate=know_nothing,
    event_bytes_max=100_000,
    batch_events_max=1_000,
    is_reference=False,
    **sender,
) -> Outcome:
    """Return what becomes of *body*, which is bytes or a value to be sent as JSON.

    With *is_reference*, the readable reference does what the loop does else.
    """
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    pipeline = Pipeline(
        event_bytes_max=event_bytes_max, parse_user_agent=parse_user_agent, locate=locate
    )
    payload = parse(
        body, batch_events_max=batch_events_max, batch_shared_bytes_max=SHARED_BYTES_MAX
    )
    sent_by = Sender(**{"api_key": "key"} | sender)
    stored_as = BY_NAME[output]
    if is_reference:
        stored_as = replace(stored_as, is_of_segment=False)
    return pipeline.run(payload, sent_by, stored_as, now=now)


def store_batch(body: Any, output="flat", **options) -> list[dict[str, Any]]:
    """Return the events that *body* is stored as."""
    return [orjson.loads(line) for line in run_body(body, output, **options).lines]


def store(event: Any, output="flat", **options) -> dict[str, Any]:
    """Return what a single event is stored as."""
    (stored,) = store_batch(event, output, **options)
    return stored


def body_of(stored: dict[str, Any]) -> dict[str, Any]:
    """Return *stored* without the stamps that every event gets, and without its event id."""
    assert stored.items() >= STAMPS.items()
    kept = {name: value for name, value in stored.items() if name not in STAMPS}
    tracker = kept.get("eventn_ctx")
    if isinstance(tracker, dict):
        kept["eventn_ctx"] = {name: tracker[name] for name in tracker if name != "event_id"}
        if not kept["eventn_ctx"]:
            del kept["eventn_ctx"]
    kept.pop("eventn_ctx_event_id", None)
    return kept
