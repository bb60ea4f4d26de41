"""Where events go: the `[[sinks]]` table, and what it and the short form `sink` come to."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from segsrv.errors import SettingsError
from segsrv.settings.fields import check_function, option, required, settle, table

T = TypeVar("T")
OnFull = Literal["refuse", "set_aside"]
Encoding = Literal["ndjson", "json", "parquet"]
EventType = Literal["track", "identify", "page", "screen", "group", "alias", "other"]

DEFAULT_SINK = "file:"
BATCH_EVENTS_MAX = 10_000
NAME_CHARS_MAX = 40
SECRET_BYTES_MAX = 64 << 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAMED_BY_A_PATH = ("file",)
"""Schemes whose URLs have no host, so that an @ in them is a part of a path."""


@table
@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Where a secret is read from at the start: a variable or a file, one of the two."""

    env: str = option("", "environment variable that holds it")
    file: Path | None = option(None, "file that holds it")

    def __post_init__(self) -> None:
        settle(self, "secret.")

    def read(self, where: str, environ: Mapping[str, str]) -> str:
        """Return the secret, without the line ends that follow it in a file.

        Raises:
            SettingsError: It is not there, empty or no text; names *where*, and no part of it.

        """
        if self.file is not None:
            where = f"{where}.file={self.file}"
            text = _read_file(self.file, where).rstrip("\r\n")
        else:
            where = f"{where}.env={self.env}"
            if self.env not in environ:
                raise SettingsError(f"{where}: there is no such variable")
            text = environ[self.env]
        if not text:
            raise SettingsError(f"{where}: is empty")
        return text


def _read_file(path: Path, where: str) -> str:
    try:
        # A pipe would wait for a writer for ever, and could be read only once.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SettingsError(f"{where}: is not a regular file")
            data = file.read(SECRET_BYTES_MAX + 1)
        if len(data) > SECRET_BYTES_MAX:
            raise SettingsError(f"{where}: more than {SECRET_BYTES_MAX} bytes")
        return data.decode()
    except OSError as error:
        raise SettingsError(f"{where}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError:
        # Not chained: the error has the bytes.
        raise SettingsError(f"{where}: expected UTF-8 text") from None


@table
@dataclass(frozen=True, slots=True, kw_only=True)
class SinkTable:
    """A sink with a name, limits and a filter of its own.

    Raises:
        SettingsError: A part is wrong; the message never holds the URL.

    """

    name: str = required("name in metrics, logs, dead letters and the cursor's file")
    url: str = required("where events go, as in `sink`", is_secret=True)
    batch_events_max: int | None = option(None, "events in one batch", low=1, high=10_000_000)
    batch_bytes_max: int | None = option(None, "bytes of one batch", low=64 << 10, high=1 << 30)
    batch_interval_s: float | None = option(
        None, "longest time that an event waits for a fuller batch", low=0.01, high=3_600
    )
    retry_s_max: float | None = option(
        None, "longest wait between two tries while the sink is down", low=0.1, high=3_600
    )
    send_timeout_s: float = option(
        60.0, "longest time for one call to the sink, then it is made again", low=0.1, high=3_600
    )
    lag_bytes_max: int | None = option(
        None, "undelivered bytes from which on `on_full` holds", low=1 << 20, high=1 << 50
    )
    on_full: OnFull = option(
        "refuse", "refuse requests with 503, or set_aside the oldest events of this sink"
    )
    encoding: Encoding | None = option(None, "how events are written")
    types: tuple[EventType, ...] = option((), "types of events that go there; empty means all")
    key_ids: tuple[str, ...] = option((), "ids of the keys whose events go there; empty means all")
    transform: str = option(
        "", "package.module:function that its events go through, behind the server's"
    )
    options: dict[str, Any] = field(
        default_factory=dict, repr=False, metadata={"help": "what this kind of sink can be told"}
    )
    secrets: dict[str, Secret] = field(
        default_factory=dict, metadata={"help": "by name, where each is read from"}
    )

    def __post_init__(self) -> None:
        has_name = _is_name(self.name)
        where = f"sinks.{self.name}" if has_name else "sinks"
        settle(self, f"{where}.")
        if not has_name:
            raise SettingsError(
                f"sinks.name={self.name[:NAME_CHARS_MAX]}: expected at most {NAME_CHARS_MAX} "
                "letters, digits, dots, dashes and underscores, the first a letter or a digit"
            )
        check_function(self.transform, f"{where}.transform")
        for name, secret in self.secrets.items():
            if bool(secret.env) == (secret.file is not None):
                raise SettingsError(f"{where}.secrets.{name}: give env or file, one of the two")


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkConfig:
    """A configured sink with all limits filled in; `SinkTable` says what each means.

    `name` is empty in the short form until the sink's kind is known, which has a say in it, and in
    what `given`, the table or what stands for it, leaves open.
    """

    name: str
    url: str = field(repr=False)
    given: SinkTable
    is_table: bool
    batch_events_max: int
    batch_bytes_max: int
    batch_interval_s: float
    retry_s_max: float
    send_timeout_s: float
    lag_bytes_max: int
    on_full: OnFull
    encoding: Encoding | None
    types: tuple[EventType, ...]
    key_ids: tuple[str, ...]
    transform: str
    options: Mapping[str, Any] = field(repr=False)
    secrets: Mapping[str, Secret]

    @classmethod
    def of(
        cls,
        sink: SinkTable | str,
        *,
        batch_bytes_max: int,
        batch_interval_s: float,
        retry_s_max: float,
        lag_bytes_max: int,
    ) -> SinkConfig:
        """Return what a table, or the URL of the short form, comes to; the rest are defaults."""
        is_table = isinstance(sink, SinkTable)
        # The name of this one is only there because a table needs one.
        given = sink if isinstance(sink, SinkTable) else SinkTable(name="sink", url=sink)
        return cls(
            name=given.name if is_table else "",
            url=given.url,
            given=given,
            is_table=is_table,
            batch_events_max=_or(given.batch_events_max, BATCH_EVENTS_MAX),
            batch_bytes_max=_or(given.batch_bytes_max, batch_bytes_max),
            batch_interval_s=_or(given.batch_interval_s, batch_interval_s),
            retry_s_max=_or(given.retry_s_max, retry_s_max),
            send_timeout_s=given.send_timeout_s,
            lag_bytes_max=_or(given.lag_bytes_max, lag_bytes_max),
            on_full=given.on_full,
            encoding=given.encoding,
            types=given.types,
            key_ids=given.key_ids,
            transform=given.transform,
            options=given.options,
            secrets=given.secrets,
        )

    @property
    def where(self) -> str:
        """How errors name the setting, without secrets."""
        return f"sinks.{self.name}" if self.is_table else f"sink={public_url(self.url)}"


def public_url(url: str) -> str:
    """Return *url* as people may see it: without user, password, query and fragment.

    A password may hold what should have been escaped, so all up to the last @ is left out, wherever
    the parts of the URL begin.
    """
    scheme, colon, rest = url.partition(":")
    if scheme in _NAMED_BY_A_PATH:
        return url
    slashes = "//" if rest.startswith("//") else ""
    if "@" in rest:
        rest = slashes + rest.rpartition("@")[2]
    return scheme.rpartition("@")[2] + colon + re.split(r"[?#]", rest, maxsplit=1)[0]


def _is_name(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > NAME_CHARS_MAX:
        return False
    return _NAME.fullmatch(value) is not None


def _or(given: T | None, default: T) -> T:
    return default if given is None else given
