"""A kind of sink: what one URL scheme means, whoever brings it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from segsrv.settings import Settings, SinkConfig
from segsrv.settings.sink import Encoding
from segsrv.sinks.base import Sink


@dataclass(frozen=True)
class NoOptions:
    """The options of a kind that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSpec:
    """One sink as it was asked for.

    `url` has no query, if the kind takes options there, and may hold user and password. `options`
    is what the kind's class of options became; `secrets` holds those that were given, by name. With
    `is_once` a command has it made, which is gone for good when it closes the sink.

    `origin` is the random id of the data directory, the same at each start and another one in a
    copy; empty for `check` and with `is_once`.
    """

    name: str
    url: str = field(repr=False)
    options: Any = field(repr=False)
    secrets: Mapping[str, str] = field(repr=False)
    config: SinkConfig
    settings: Settings
    is_once: bool = False
    origin: str = ""

    @property
    def where(self) -> str:
        """What stands at the head of a message about this sink's settings, without secrets."""
        return self.config.where


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What segsrv has to know to make sinks of these URL `schemes`; the first one is its name.

    `place` says where a sink leads to: one text however the URL is spelled, without user, password
    and secrets (it is asked before these are read, and before a sink of the short form has a name).
    Two sinks that lead to one place are refused, and a sink's cursor belongs to its place.

    `make` builds the sink without touching what it leads to, outside of any event loop. Both raise
    SettingsError for what is wrong in the URL or the options.

    `options` is a dataclass: the names and types of its fields are those of the options, in TOML
    and, unless `has_query` is false, as parameters of the URL. `secrets` are names. A sink of the
    short form that leads to where `default_url` does has the kind's name, others the place's hash
    behind it.

    `encodings` are those that the table's `encoding` may ask for, the first one the default.
    `batch_events_max`, `batch_bytes_max` and `batch_interval_s` are the kind's own defaults, None
    for those of all sinks.
    """

    schemes: tuple[str, ...]
    place: Callable[[SinkSpec], str]
    make: Callable[[SinkSpec], Sink]
    options: type = NoOptions
    secrets: tuple[str, ...] = ()
    has_query: bool = True
    default_url: str = ""
    encodings: tuple[Encoding, ...] = ("ndjson",)
    batch_events_max: int | None = None
    batch_bytes_max: int | None = None
    batch_interval_s: float | None = None
