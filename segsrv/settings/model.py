"""Everything that can be configured: names, types, limits and their checks.

A field's name is its TOML key; `SEGSRV_` and the upper-cased name is its environment variable; the
name with dashes is its flag. `sources.py` reads those three; this module only knows what a
right value is, so that `Settings(...)` can also be built by hand and embedded.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from segsrv.addresses import check_ops_listen
from segsrv.errors import SettingsError
from segsrv.settings.fields import check_function, option, settle, table
from segsrv.settings.key import ID_CHARS_MAX, MADE_KEY_ID, Key
from segsrv.settings.sink import DEFAULT_SINK, SinkConfig, SinkTable

Durability = Literal["fsync", "write", "memory"]
DeliveryIn = Literal["auto", "process", "thread"]
Privacy = Literal["keep", "strict", "comply"]
StoredKey = Literal["secret", "id", "none"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "logfmt", "json"]
FileRotate = Literal["day", "hour"]
Front = Literal["raw", "aiohttp"]
FileCompress = Literal["none", "gzip", "zstd"]
FileMode = Literal["0600", "0640", "0644", "0660", "0664"]

GIB = 1 << 30
MIB = 1 << 20
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@table
@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, checked when built; raises SettingsError naming the setting and its value."""

    host: str = option("0.0.0.0", "address to listen on")  # noqa: S104
    port: int = option(8080, "port to listen on; 0 picks a free one", low=0, high=65535)
    ops_listen: str = option(
        "",
        "HOST:PORT for the live page, metrics, readiness details, openapi.json; "
        "off the public port",
    )
    ops_hosts: tuple[str, ...] = option(
        (), "names that browsers reach ops_listen by, such as ops.example.com behind a proxy"
    )
    live_viewers_max: int = option(
        8, "live pages that are watched at once, per worker; 503 above", low=0, high=64
    )
    workers: int = option(1, "processes, each with its own journal", low=1, high=256)
    delivery: DeliveryIn = option(
        "auto",
        "where sinks are fed from: a process for all workers, a thread of each; auto picks the "
        "process for two workers or more",
    )
    data_dir: Path = option(Path("data"), "where the journal, events and state live")
    file_mode: FileMode = option(
        "0640", "mode of files with events; folders are also entered by whoever may read"
    )
    write_key: tuple[str, ...] = option(
        (), "accepted write key, SECRET or ID:SECRET", is_secret=True
    )
    write_key_file: Path | None = option(
        None, "file with a write key a line, SECRET or ID:SECRET, so that the process list has none"
    )
    sink: tuple[str, ...] = option(
        (),
        "where events go, as a URL such as file:PATH; file: if no sink is given at all",
        is_secret=True,
    )
    geoip_db: tuple[Path, ...] = option((), "MaxMind database (.mmdb); several may be given")
    durability: Durability = option(
        "fsync", "what a 200 means: fsync (on stable storage), write (handed to the kernel), memory"
    )

    front: Front = option(
        "raw", "what reads requests first: raw (fast, hands over what is unusual) or aiohttp alone"
    )
    event_bytes_max: int = option(1_000_000, "one stored event", low=1_000, high=64 * MIB)
    body_bytes_max: int = option(4 * MIB, "one body, decompressed", low=1_000, high=256 * MIB)
    batch_events_max: int = option(2_500, "events in one batch", low=1, high=100_000)
    batch_shared_bytes_max: int = option(
        4 * MIB,
        "context, integrations and sentAt of a batch, times its events",
        low=1_000,
        high=GIB,
    )
    body_values_max: int = option(300_000, "JSON values in one body", low=1_000, high=10_000_000)
    reading_bytes_max: int = option(
        256 * MIB, "all bodies that are being read, per worker; 503 above", low=MIB, high=64 * GIB
    )
    connections_max: int = option(
        20_000, "open connections, per worker; 503 above", low=1, high=10_000_000
    )
    body_timeout_s: float = option(30.0, "time for a whole body to arrive", low=0.1, high=600)
    keepalive_timeout_s: float = option(
        75.0,
        "time for a request's head to arrive, on a new or a kept connection",
        low=1,
        high=3_600,
    )
    retry_after_s: int = option(5, "what a 503 asks clients to wait", low=1, high=300)

    journal_bytes_max: int = option(
        10 * GIB, "undelivered events on disk, per worker; 503 above", low=MIB, high=1 << 50
    )
    journal_segment_bytes_max: int = option(
        64 * MIB, "one journal file", low=64 << 10, high=4 * GIB - 1
    )
    journal_retention_s: float = option(
        0.0, "keep delivered journal files this long", low=0, high=366 * 86_400
    )
    pending_bytes_max: int = option(
        64 * MIB, "events in memory that wait for a commit; 503 above", low=MIB, high=16 * GIB
    )
    disk_free_bytes_min: int = option(
        64 * MIB, "answer 503 when the disk has less free than this", low=0, high=1 << 50
    )
    set_aside_bytes_max: int = option(
        10 * GIB,
        "events set aside for one sink that lags too far; the oldest go first",
        low=MIB,
        high=1 << 50,
    )
    dead_letter_bytes_max: int = option(
        GIB,
        "dead letters kept, per worker and per sink; the oldest go first",
        low=MIB,
        high=1 << 50,
    )

    flush_interval_s: float = option(
        0.25, "longest time that an event waits for a fuller batch to a sink", low=0.01, high=60
    )
    flush_bytes_max: int = option(8 * MIB, "one batch to a sink", low=64 << 10, high=GIB)
    sink_retry_s_max: float = option(
        60.0, "longest wait between two tries of a sink that is down", low=0.1, high=3_600
    )
    dedup_window_s: float = option(
        0.0,
        "deliver an event id that comes again within this time once to each sink; 0: every time",
        low=0,
        high=366 * 86_400,
    )
    dedup_ids_max: int = option(
        10_000_000,
        "event ids remembered for each sink; the oldest leave first",
        low=100_000,
        high=100_000_000,
    )
    transform: str = option(
        "", "package.module:function that events go through on their way to every sink"
    )
    transform_timeout_s: float = option(
        10.0,
        "longest time that a transformation may take for one event, which is set aside then",
        low=0.1,
        high=3_600,
    )
    transform_memory_bytes_max: int = option(
        512 * MIB,
        "memory of a process that runs transformations; 0 is no limit",
        low=0,
        high=1 << 40,
    )
    file_bytes_max: int = option(
        256 * MIB, "one file of the file sink, then the next is begun", low=64 << 10, high=1 << 40
    )
    file_rotate: FileRotate = option(
        "day", "when the file sink begins a new file at the latest, in UTC"
    )
    file_compress: FileCompress = option("none", "how the file sink's closed files are compressed")
    file_retention_s: float = option(
        0.0,
        "delete the file sink's closed files this long after their last event; 0 keeps them",
        low=0,
        high=3_660 * 86_400,
    )
    file_total_bytes_max: int = option(
        0,
        "all files of a file sink, then the oldest closed ones are deleted; 0 is no limit",
        low=0,
        high=1 << 60,
    )
    shutdown_grace_s: float = option(
        10.0, "after SIGTERM: time for requests in flight and sinks", low=0, high=600
    )

    user_agent_cache_entries_max: int = option(
        10_000, "parsed user agents kept", low=1, high=10_000_000
    )
    geoip_cache_entries_max: int = option(
        50_000, "located addresses and networks kept", low=1, high=10_000_000
    )
    geoip_check_interval_s: float = option(
        5.0, "how often replaced databases are looked for", low=0.05, high=86_400
    )
    bot_words: tuple[str, ...] = option((), "more lower-case words that mark a user agent as a bot")
    trusted_proxies: tuple[str, ...] = option(
        (
            "127.0.0.0/8",
            "::1/128",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "fc00::/7",
        ),
        "networks whose client_ip_header is believed",
    )
    client_ip_header: str = option(
        "x-forwarded-for", "the header that names the client; no other is believed"
    )
    cookie_policy: Privacy = option("keep", "cookie policy of requests that name none")
    ip_policy: Privacy = option("keep", "address policy of requests that name none")
    stored_api_key: StoredKey = option(
        "secret", "what an event's api_key holds: the key's secret, its id, or none"
    )
    correct_timestamps: bool = option(
        False, "correct `timestamp` by the sender's clock, as Segment documents it"
    )
    tls_cert: Path | None = option(None, "certificate chain (PEM); with tls_key, serve https")
    tls_key: Path | None = option(None, "private key of tls_cert (PEM)")
    tls_check_interval_s: float = option(
        10.0, "how often a replaced certificate is looked for", low=0.05, high=86_400
    )
    public_url: str = option(
        "", "where clients reach segsrv, such as https://events.example.com/api/v1/segment"
    )
    analytics_js_dir: Path | None = option(
        None, "the dist/umd folder of npm's @segment/analytics-next, served to snippet users"
    )
    log_level: LogLevel = option("info", "least severe log line that is written")
    log_format: LogFormat = option(
        "text", "how log lines are written: text, or with a field for each value, logfmt or json"
    )

    keys: tuple[Key, ...] = field(
        default=(), metadata={"help": "write keys with id, secrets, limits and origins (TOML only)"}
    )
    sinks: tuple[SinkTable, ...] = field(
        default=(), metadata={"help": "sinks with a name, limits and a filter (TOML only)"}
    )
    integrations: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata={"help": "merged into `integrations` of the settings endpoint (TOML only)"},
    )

    def __post_init__(self) -> None:
        settle(self)
        check_ops_listen(self.ops_listen, self.port)
        check_function(self.transform, "transform")
        _check_keys(self.all_keys())
        _check_sinks(self)
        for text in self.trusted_proxies:
            _check_network(text)
        if self.public_url:
            _check_public_url(self.public_url)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("tls_cert and tls_key: give both, or neither")
        if not _HEADER_NAME.fullmatch(self.client_ip_header):
            raise SettingsError(
                f"client_ip_header={self.client_ip_header!r}: expected the name of a header"
            )
        for small, large in (
            # What never fits would be answered with 503, and sent again for ever.
            ("event_bytes_max", "pending_bytes_max"),
            ("body_bytes_max", "reading_bytes_max"),
        ):
            if getattr(self, small) > getattr(self, large):
                raise SettingsError(
                    f"{small}={getattr(self, small)}: more than {large}={getattr(self, large)}"
                )

    def all_keys(self) -> tuple[Key, ...]:
        """Return the keys of both forms: `write_key` texts and `[[keys]]` tables."""
        return (*(Key.parse(text) for text in self.write_key), *self.keys)

    def all_sinks(self) -> tuple[SinkConfig, ...]:
        """Return the sinks of both forms, `sink` URLs and `[[sinks]]` tables; at least one."""
        given: Sequence[str | SinkTable] = (*self.sink, *self.sinks) or (DEFAULT_SINK,)
        return tuple(
            SinkConfig.of(
                sink,
                batch_bytes_max=self.flush_bytes_max,
                batch_interval_s=self.flush_interval_s,
                retry_s_max=self.sink_retry_s_max,
                # Of all journals together, each of which has that limit by itself.
                lag_bytes_max=self.journal_bytes_max * self.workers,
            )
            for sink in given
        )


def _check_keys(keys: Sequence[Key]) -> None:
    """Refuse keys that can't be told apart, and those whose secret is said as another's id."""
    by_id: dict[str, Key] = {}
    by_secret: dict[str, Key] = {}
    for key in keys:
        if key.id in by_id:
            raise SettingsError(f"keys: the id {key.id!r} is given twice")
        by_id[key.id] = key
        for secret in key.secrets:
            other = by_secret.setdefault(secret, key)
            if other is not key:
                raise SettingsError(f"keys: {other.id!r} and {key.id!r} have the same secret")
    for key in keys:
        # Not by its id, which is the secret.
        if key.id in by_secret:
            raise SettingsError("keys: an id, which anybody may see, is the secret of a key")


def _check_sinks(settings: Settings) -> None:
    """Refuse a name that is given twice, and filters by keys that nobody has."""
    names = [sink.name for sink in settings.sinks]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"sinks: the name {name!r} is given twice")
    if settings.write_key_file is not None:
        # Its keys are not read yet; with them the settings are built, and checked, again.
        return
    keys = settings.all_keys()
    known = {key.id for key in keys} or {MADE_KEY_ID}
    secrets = {secret for key in keys for secret in key.secrets}
    for sink in settings.sinks:
        for key_id in sink.key_ids:
            if key_id in secrets:
                raise SettingsError(
                    f"sinks.{sink.name}.key_ids: holds the secret of a key; give its id"
                )
            if key_id not in known:
                raise SettingsError(
                    f"sinks.{sink.name}.key_ids={key_id[:ID_CHARS_MAX]}: no key has this id"
                )


def _check_network(text: str) -> None:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise SettingsError(
            f"trusted_proxies={text}: expected a network such as 10.0.0.0/8"
        ) from error


def _check_public_url(text: str) -> None:
    """Refuse what no client could reach, and a password, which every client would get to see."""
    try:
        url = urlsplit(text)
        is_right = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_right = False
    if "@" in text or "?" in text or "#" in text or " " in text:
        # Without the value, which may hold the password.
        raise SettingsError(
            "public_url: expected no user, password, query, fragment or space in it"
        )
    if not is_right:
        raise SettingsError(f"public_url={text}: expected http:// or https:// and a host")
