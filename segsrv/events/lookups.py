"""What is known of addresses and user agents, as JSON that is ready to be stored.

The look-ups behind it remember their answers too. Here they are kept in the form in which an event
takes them, so that one that was seen lately costs a look into a dict.
"""

from __future__ import annotations

from hashlib import md5
from typing import Any, Generic, TypeVar

import orjson

from segsrv.events.batches import Batch
from segsrv.events.geo import ADDRESS_CHARS_MAX
from segsrv.events.shapes import Lookup
from segsrv.events.user_agents import is_cached, long_ones_once

ENTRIES_MAX = 16_384
BYTES_MAX = 8 << 20
"""Of each of the two caches, as far as its texts go."""
ENTRY_BYTES = 512
"""About what an entry takes beside its texts."""

Found = Any
"""What was found, as JSON that orjson writes as it is; False for nothing. As it was found, where
JSON can't hold it: then it is refused when the event is written."""
Place = tuple[str, Found, str | None]
"""Of an address and the request's user agent: their hash, the location, its country."""

NONE_KNOWN: dict[str, Place] = {}

K = TypeVar("K")
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Remembers up to a number of answers and of bytes; the older half is forgotten at once.

    `newer` is for those who look often, and always the same dict: what it lacks, `get` may have.
    """

    __slots__ = ("_bytes", "_bytes_max", "_entries_max", "_older", "newer")

    def __init__(self, *, entries_max: int, bytes_max: int) -> None:
        self.newer: dict[K, V] = {}
        self._older: dict[K, V] = {}
        self._entries_max = entries_max // 2
        self._bytes_max = bytes_max // 2
        self._bytes = 0

    def get(self, key: K) -> V | None:
        found = self.newer.get(key)
        return self._older.get(key) if found is None else found

    def keep(self, key: K, value: V, texts_bytes: int) -> None:
        """Remember *value*; *texts_bytes* is the length of the texts in it and in *key*."""
        entry_bytes = texts_bytes + ENTRY_BYTES
        if len(self.newer) >= self._entries_max or self._bytes + entry_bytes > self._bytes_max:
            self._older = self.newer.copy()
            self.newer.clear()
            self._bytes = 0
        self.newer[key] = value
        self._bytes += entry_bytes

    def __len__(self) -> int:
        return len(self.newer) + len(self._older)


class Hits:
    """How often an answer was there, since the process began."""

    __slots__ = ("locations", "user_agents")

    def __init__(self) -> None:
        self.user_agents = 0
        self.locations = 0


class UserAgentParts:
    """`parsed_ua` by the text of a user agent."""

    def __init__(self, parse: Lookup, hits: Hits) -> None:
        self.cache: Cache[str, Found] = Cache(entries_max=ENTRIES_MAX, bytes_max=BYTES_MAX)
        self.parse = parse
        self._hits = hits

    def find(self, text: str, batch: Batch | None) -> Found:
        """Return what is known of *text*, which `cache.newer` lacks."""
        if not is_cached(text):
            return self._find_long(text, batch)
        found = self.cache.get(text)
        if found is None:
            found = _ready(self.parse(text))
        else:
            self._hits.user_agents += 1
        self.cache.keep(text, found, len(text) + _found_bytes(found))
        return found

    def _find_long(self, text: str, batch: Batch | None) -> Found:
        parse = self.parse
        if batch is not None:
            if batch.parse_long is None:
                batch.parse_long = long_ones_once(parse)
            parse = batch.parse_long
        return parse(text) or False


class Places:
    """What is made of an address and the request's user agent.

    `newer` has them by user agent and then by address; what it lacks, `find` may have.
    """

    def __init__(self, locate: Lookup, hits: Hits) -> None:
        self.newer: dict[str, dict[str, Place]] = {}
        self.locate = locate
        self._older: dict[str, dict[str, Place]] = {}
        self._entries = self._bytes = 0
        self._hits = hits

    def find(self, source: str, user_agent: str) -> Place:
        """Return what is known of the two; *source* may be empty."""
        place = self.newer.get(user_agent, NONE_KNOWN).get(source)
        if place is not None:
            self._hits.locations += 1
            return place
        place = self._older.get(user_agent, NONE_KNOWN).get(source)
        if place is None:
            place = self._place(source, user_agent)
        else:
            self._hits.locations += 1
        if len(source) <= ADDRESS_CHARS_MAX and source.isascii() and is_cached(user_agent):
            self._keep(source, user_agent, place)
        return place

    def _keep(self, source: str, user_agent: str, place: Place) -> None:
        entry_bytes = ENTRY_BYTES + len(source) + len(user_agent) + _found_bytes(place[1])
        if self._entries >= ENTRIES_MAX // 2 or self._bytes + entry_bytes > BYTES_MAX // 2:
            self._older, self.newer = self.newer, {}
            self._entries = self._bytes = 0
        self.newer.setdefault(user_agent, {})[source] = place
        self._entries += 1
        self._bytes += entry_bytes

    def _place(self, source: str, user_agent: str) -> Place:
        # The escapes stand for bytes of the header that are no UTF-8: they are hashed as sent.
        identity = (source + user_agent).encode("utf-8", "surrogateescape")
        hashed = md5(identity, usedforsecurity=False).hexdigest()
        fields = self.locate(source) if source else None
        return hashed, _ready(fields), fields.get("country") if fields else None

    def __len__(self) -> int:
        return sum(map(len, (*self.newer.values(), *self._older.values())))


class Lookups:
    """Both, as they are for one request; a database that is replaced takes its answers along."""

    __slots__ = ("hits", "places", "user_agents")

    def __init__(self, user_agents: UserAgentParts, places: Places, hits: Hits) -> None:
        self.user_agents = user_agents
        self.places = places
        self.hits = hits


def _ready(fields: dict[str, Any] | None) -> Found:
    if not fields:
        return False
    try:
        # A copy: what orjson returns keeps 4 KiB, however short it is.
        return orjson.Fragment(bytes(memoryview(orjson.dumps(fields))))
    except orjson.JSONEncodeError:
        return fields


def _found_bytes(found: Found) -> int:
    try:
        return len(orjson.dumps(found))
    except orjson.JSONEncodeError:
        return ENTRY_BYTES
