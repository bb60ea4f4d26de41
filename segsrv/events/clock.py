"""Corrects an event's time by its sender's clock, as Segment documents it.

`timestamp = receivedAt - (sentAt - originalTimestamp)` (Segment, "Spec: Common Fields"). The
sender's clock may be wrong, but its error is in both of its stamps, and so falls out of their
difference.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from segsrv.events.shapes import Event

STAMP_CHARS_MAX = 64


def correct_timestamp(event: Event, received_at: datetime) -> None:
    """Replace `timestamp`, keeping what was sent as `originalTimestamp`; never fails.

    RudderStack's SDKs send `originalTimestamp` alone, which then is the event's time. Without a
    `sentAt` that can be read there is nothing to correct by, and `timestamp` is what was sent. An
    event without a time gets the server's.
    """
    original = event.get("timestamp")
    if original is None:
        original = event.get("originalTimestamp")
        event["timestamp"] = text_of(received_at) if original is None else original
    happened_at, sent_at = parse_stamp(original), parse_stamp(event.get("sentAt"))
    if happened_at is None or sent_at is None:
        return
    try:
        corrected = received_at - (sent_at - happened_at)
    except OverflowError:
        return
    event["originalTimestamp"] = original
    event["timestamp"] = text_of(corrected)


def parse_stamp(value: Any) -> datetime | None:
    """Read the forms that SDKs send: RFC 3339 with 0 to 9 digits of a second, `Z` or an offset.

    A stamp without a zone is taken as UTC; what goes beyond microseconds is cut off.
    """
    if value.__class__ is not str or len(value) > STAMP_CHARS_MAX:
        return None
    try:
        stamp = datetime.fromisoformat(value)
        # Only now: a stamp near year 1 or 9999 may have no UTC form.
        return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def text_of(stamp: datetime) -> str:
    return stamp.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
