"""Who sent a request's events, and when they came."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

from segsrv.events.clock import text_of
from segsrv.events.privacy import Policy

ZONES = frozenset(available_timezones())
"""Asked first: a name that is none is looked for in files and packages, which takes longer."""


@dataclass(slots=True, kw_only=True)
class Sender:
    """What the request says of who sent its events; the same for all events of a batch.

    It may be shared by requests, so nobody changes it. `api_key` is stored as it is, None not at
    all. `address` is the client's, empty when unknown; `user_agent` is the request's header, its
    bytes that are no UTF-8 as surrogate escapes. `event_type` is for events without one, where the
    path names it. `is_client` says that the events come from the user's own device, and so take its
    address; `gives_user_agent`, that those which name no user agent take the request's. `types` are
    those that it may send; empty means all.
    """

    api_key: str | None = field(repr=False)
    address: str = ""
    user_agent: str = ""
    cookie_policy: Policy = "keep"
    ip_policy: Policy = "keep"
    event_type: str | None = None
    is_client: bool = False
    gives_user_agent: bool = False
    correct_timestamps: bool = False
    types: frozenset[str] = frozenset()


class Moment:
    """The time of a request's receipt, in the forms that its events need.

    `zones` has the offsets in that minute of the zones that were asked for, in minutes.
    """

    __slots__ = ("minute", "now", "received_ms", "timestamp", "zones")

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.minute = now.replace(second=0, microsecond=0)
        self.timestamp = text_of(now)
        self.received_ms = int(now.timestamp() * 1_000)
        self.zones: dict[str, float | None] = {}

    def offset_of(self, zone: str) -> float | None:
        """Return the UTC offset of *zone* in that minute, whole where it is; None if unknown."""
        if zone not in ZONES:
            return None
        if zone not in self.zones:
            self.zones[zone] = _offset_minutes(zone, self.minute)
        return self.zones[zone]


class Clock:
    """Gives the present moment; those of one millisecond are one, those of a minute share zones."""

    __slots__ = ("_latest", "_latest_ms")

    def __init__(self) -> None:
        self._latest_ms = -1
        self._latest = Moment(datetime.min.replace(year=1970, tzinfo=UTC))

    def moment(self) -> Moment:
        now_ms = time.time_ns() // 1_000_000
        if now_ms == self._latest_ms:
            return self._latest
        moment = Moment(datetime.now(UTC))
        if moment.minute == self._latest.minute:
            moment.zones = self._latest.zones
        self._latest_ms, self._latest = now_ms, moment
        return moment


def _offset_minutes(zone: str, minute: datetime) -> float | None:
    try:
        offset = minute.astimezone(ZoneInfo(zone)).utcoffset()
    except (OSError, ValueError, KeyError):
        # The system's files may have been damaged, or be about to be replaced.
        return None
    if offset is None:
        return None
    minutes = offset.total_seconds() / 60
    return int(minutes) if minutes.is_integer() else minutes
