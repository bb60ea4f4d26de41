"""User-agent text to `parsed_ua` fields, through ua-parser and a bounded cache."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from ua_parser import Parser
from ua_parser.loaders import load_builtins
from ua_parser.regex import Resolver

from segsrv.events.shapes import Lookup

USER_AGENT_CHARS_MAX = 2_048
"""A longer text is to be left alone: no browser sends one."""
CACHED_CHARS_MAX = 512
"""A longer text is parsed each time: the cache keeps each whole, and what was found in it."""

LONG_PER_BATCH_MAX = 16
"""Of other long texts in a batch nothing is recognised: one can take milliseconds to parse."""

BOT_WORDS = ("bot", "spider", "headless", "crawler", "uptimia")


class UserAgents:
    """Parses user agents with the native resolver; remembers the latest *entries_max* of them.

    `cached` is a `functools.lru_cache`, which counts its hits and misses itself (`cache_info()`).
    """

    def __init__(self, *, entries_max: int, bot_words: Iterable[str] = ()) -> None:
        self._parser = Parser(Resolver(load_builtins()))
        self._bot_words = (*BOT_WORDS, *(word.lower() for word in bot_words))
        self.cached = lru_cache(maxsize=entries_max)(self._parse)

    def parse(self, text: str) -> dict[str, Any] | None:
        """Return the fields recognised in *text*, or None; the dict is shared: never change it."""
        if is_cached(text):
            return self.cached(text)
        return self._parse(text) if len(text) <= USER_AGENT_CHARS_MAX else None

    def _parse(self, text: str) -> dict[str, Any] | None:
        result = self._parser.parse(text)
        fields: dict[str, Any] = {}
        agent, system, device = result.user_agent, result.os, result.device
        if agent is not None:
            fields["ua_family"] = agent.family
            fields["ua_version"] = _dotted(agent.major, agent.minor, agent.patch)
        if system is not None:
            fields["os_family"] = system.family
            fields["os_version"] = _dotted(
                system.major, system.minor, system.patch, system.patch_minor
            )
        if device is not None:
            fields["device_family"] = device.family
            fields["device_brand"] = device.brand
            fields["device_model"] = device.model
        fields = {
            name: value
            for name, value in fields.items()
            if value and not (value == "Other" and name.endswith("_family"))
        }
        if fields and self._is_bot(text, fields):
            fields["bot"] = True
        return fields or None

    def _is_bot(self, text: str, fields: dict[str, Any]) -> bool:
        if "Spider" in (fields.get("device_family"), fields.get("device_brand")):
            return True
        lowered = text.lower()
        return any(word in lowered for word in self._bot_words)


def _dotted(*parts: str | None) -> str:
    return ".".join(part for part in parts if part)


def long_ones_once(parse: Lookup) -> Lookup:
    """Wrap *parse* for the events of one batch: what no cache keeps is parsed once for all."""
    known: dict[str, dict[str, Any] | None] = {}

    def parse_once(text: str) -> dict[str, Any] | None:
        if is_cached(text):
            return parse(text)
        if len(text) > USER_AGENT_CHARS_MAX:
            return None
        if text not in known and len(known) < LONG_PER_BATCH_MAX:
            known[text] = parse(text)
        return known.get(text)

    return parse_once


def is_cached(text: str) -> bool:
    # Other than ASCII takes up to eight times the memory, and no client's own text has it.
    return len(text) <= CACHED_CHARS_MAX and text.isascii()
