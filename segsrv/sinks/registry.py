"""From settings to sinks: finds each one's kind, names it, and makes it.

A kind is built in, or an installed package brings it through the entry-point group `segsrv.sinks`
under its URL scheme. Only kinds that settings name are imported.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs

from segsrv.errors import SegsrvError, SettingsError
from segsrv.settings import Settings, SinkConfig
from segsrv.settings.fields import kinds_of
from segsrv.settings.kinds import List, Table
from segsrv.settings.sink import NAME_CHARS_MAX
from segsrv.sinks.base import Sink
from segsrv.sinks.kind import Kind, SinkSpec

GROUP = "segsrv.sinks"
OPTIONS_MAX = 100
_BUILT_IN = {
    "clickhouse": ("segsrv.sinks.clickhouse.kind", "CLICKHOUSE"),
    "clickhouses": ("segsrv.sinks.clickhouse.kind", "CLICKHOUSE"),
    "file": ("segsrv.sinks.file.kind", "FILE"),
    "http": ("segsrv.sinks.webhook.kind", "WEBHOOK"),
    "https": ("segsrv.sinks.webhook.kind", "WEBHOOK"),
    "kafka": ("segsrv.sinks.kafka.kind", "KAFKA"),
    "postgresql": ("segsrv.sinks.postgresql.kind", "POSTGRESQL"),
    "s3": ("segsrv.sinks.s3.kind", "S3"),
    "stdout": ("segsrv.sinks.stdout.kind", "STDOUT"),
}
_EXTRAS = {"kafka": "kafka", "postgresql": "postgresql", "s3": "s3"}
"""Kinds with a driver that is not always there, and the extra that brings it."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A configured sink with its name, before it is made.

    `cursor_name` is the name of what is kept of the sink's progress. It depends on the place as
    well, so that a name that is given to another place inherits nothing.
    """

    name: str
    cursor_name: str
    config: SinkConfig
    kind: Kind
    spec: SinkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A sink that was made, and not opened yet; see `Named`."""

    name: str
    cursor_name: str
    config: SinkConfig
    sink: Sink


def build(
    settings: Settings,
    environ: Mapping[str, str] | None = None,
    *,
    is_once: bool = False,
    origin: str = "",
) -> list[Built]:
    """Make all configured sinks, without opening any; *environ* is what secrets are read from.

    With *is_once* they are for a command, which never goes on where it stopped. *origin* is the
    data directory's id, where they are to deliver.

    Call it outside of the event loop: it imports modules and reads files of secrets.

    Raises:
        SettingsError: What `resolve` raises, a secret can't be read, or a kind refuses a sink.

    """
    variables = os.environ if environ is None else environ
    built = []
    for named in resolve(settings):
        config, kind = named.config, named.kind
        secrets = {
            name: secret.read(f"{config.where}.secrets.{name}", variables)
            for name, secret in config.secrets.items()
        }
        spec = replace(named.spec, secrets=secrets, is_once=is_once, origin=origin)
        sink = _asked(kind.make, spec)
        built.append(
            Built(name=named.name, cursor_name=named.cursor_name, config=config, sink=sink)
        )
    return built


def resolve(settings: Settings) -> list[Named]:
    """Name all configured sinks and check their options, without reading a secret.

    A sink of the short form is called after its kind and place: `file` for the default folder, else
    such as `file-1a2b3c4d`. A name by order would hand a removed sink's cursor to the next one, and
    with one by spelling another spelling of the same place would get all again.

    Raises:
        SettingsError: A kind is unknown or broken, a URL or an option is wrong, or two sinks have
            one name or lead to one place.

    """
    found: dict[str, Named] = {}
    places: dict[tuple[str, str], SinkConfig] = {}
    for config in settings.all_sinks():
        named, place = _named(config, settings)
        if (other := places.setdefault(place, config)) is not config:
            raise SettingsError(
                f"{config.where}: its place is given twice, the other time by {other.where}"
            )
        if same := found.get(named.name):
            raise SettingsError(
                f"{config.where}: is called {named.name!r}, as {same.config.where} is; rename one"
            )
        found[named.name] = named
    _check_key_sinks(settings, found)
    return list(found.values())


def fault(error: Exception) -> str:
    """Say what a sink raised and where, without its text, which may hold a part of a secret."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}"


def _check_key_sinks(settings: Settings, names: Collection[str]) -> None:
    for key in settings.all_keys():
        for name in key.sinks:
            if name not in names:
                raise SettingsError(
                    f"keys.{key.id}.sinks={name[:NAME_CHARS_MAX]}: no sink has this name; "
                    f"there are {', '.join(names)}"
                )


def _named(config: SinkConfig, settings: Settings) -> tuple[Named, tuple[str, str]]:
    """Return *config* with its names, and the place that it leads to."""
    kind = _kind_of(config)
    spec = _spec(config, kind, settings)
    place = _asked(kind.place, spec)
    name = kind.schemes[0]
    default_url = kind.default_url
    if not default_url or place != _asked(kind.place, replace(spec, url=default_url)):
        name += f"-{_digest(place)}"
    cursor_name = name
    if config.is_table and config.name != name:
        cursor_name = f"{config.name}-{_digest(f'{kind.schemes[0]}:{place}')}"
    # A table that has the name of the short form goes on where that one stopped.
    config = replace(_with_defaults(config, kind), name=config.name or name)
    spec = replace(spec, name=config.name, config=config)
    named = Named(name=config.name, cursor_name=cursor_name, config=config, kind=kind, spec=spec)
    return named, (kind.schemes[0], place)


def _with_defaults(config: SinkConfig, kind: Kind) -> SinkConfig:
    """Return *config* with what its kind says where the settings don't."""
    encoding = config.encoding or kind.encodings[0]
    if encoding not in kind.encodings:
        raise SettingsError(
            f"{config.where}: encoding={encoding}: expected {' or '.join(kind.encodings)}"
        )
    defaults = {
        name: value
        for name in ("batch_events_max", "batch_bytes_max", "batch_interval_s")
        if (value := getattr(kind, name)) is not None and getattr(config.given, name) is None
    }
    return replace(config, encoding=encoding, **defaults)


def _digest(place: str) -> str:
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:8]


def _kind_of(config: SinkConfig) -> Kind:
    scheme, colon, _rest = config.url.partition(":")
    if not colon:
        raise SettingsError(f"{config.where}: expected a URL such as file:PATH")
    if scheme in _BUILT_IN:
        # Before anything that is installed: no package can take events meant for these.
        module, attribute = _BUILT_IN[scheme]
        try:
            kind: Kind = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            if scheme not in _EXTRAS:
                raise
            raise SettingsError(
                f"{config.where}: needs {error.name}; install segsrv[{_EXTRAS[scheme]}]"
            ) from error
        return kind
    brought = list(entry_points(group=GROUP, name=scheme))
    if not brought:
        known = sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))})
        raise SettingsError(f"{config.where}: unknown kind {scheme!r}, expected {', '.join(known)}")
    packages = sorted({_package(entry) for entry in brought})
    if len(packages) > 1:
        raise SettingsError(
            f"{config.where}: the kind {scheme!r} is brought by {' and by '.join(packages)}; "
            "uninstall one"
        )
    return _loaded(brought[0], config)


def _loaded(entry: EntryPoint, config: SinkConfig) -> Kind:
    """Return the kind that a package brings, once it is known to be one."""
    head = f"{config.where}: the kind {entry.name!r} of {_package(entry)}"
    try:
        kind = entry.load()
    except Exception as error:
        # Whatever a stranger's module raises while it is imported.
        raise SettingsError(f"{head} can't be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(kind, Kind):
        raise SettingsError(f"{head}: {entry.value} is no segsrv.sinks.Kind")
    if entry.name not in kind.schemes:
        raise SettingsError(f"{head} is for {', '.join(kind.schemes) or 'no scheme'} only")
    try:
        kinds_of(kind.options)
    except TypeError as error:
        raise SettingsError(f"{head}: {error}") from error
    return kind


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"


def _spec(config: SinkConfig, kind: Kind, settings: Settings) -> SinkSpec:
    url, options = config.url, dict(config.options)
    where = f"{config.where}.options" if config.is_table else config.where
    if kind.has_query:
        url, _mark, query = url.partition("?")
        if "@" in query or "#" in url + query:
            raise SettingsError(
                f"{config.where}: expected %3F, %23 and %40 for a ?, # or @ that separates nothing"
            )
        for name, value in _from_query(query, kind, where).items():
            if name in options:
                raise SettingsError(f"{where}.{name}: is in the URL, too")
            options[name] = value
    for name in options:
        _check_known(name, tuple(kinds_of(kind.options)), f"{where}: the option {name!r}")
    for name in config.secrets:
        _check_known(name, kind.secrets, f"{config.where}.secrets: {name!r}")
    return SinkSpec(
        name=config.name,
        url=url,
        options=Table(kind.options, kinds_of(kind.options)).take(options, where),
        secrets={},
        config=config,
        settings=settings,
    )


def _from_query(query: str, kind: Kind, where: str) -> dict[str, object]:
    """Return the options that the URL's query holds, each read as its type asks."""
    try:
        texts = parse_qs(query, keep_blank_values=True, max_num_fields=OPTIONS_MAX)
    except ValueError:
        raise SettingsError(f"{where}: more than {OPTIONS_MAX} parameters in the URL") from None
    kinds = kinds_of(kind.options)
    options: dict[str, object] = {}
    for name, values in texts.items():
        _check_known(name, tuple(kinds), f"{where}: the parameter {name!r}")
        value = kinds[name]
        if isinstance(value, List):
            options[name] = value.read_all(values, f"{where}.{name}")
        elif len(values) == 1:
            options[name] = value.read(values[0], f"{where}.{name}")
        else:
            raise SettingsError(f"{where}: the parameter {name!r} is given twice")
    return options


def _check_known(name: str, known: tuple[str, ...], what: str) -> None:
    if name not in known:
        raise SettingsError(f"{what} is unknown, expected {', '.join(known) or 'none'}")


def _asked(ask: Callable[[SinkSpec], T], spec: SinkSpec) -> T:
    """Return what a kind says; a fault of its own becomes one line that says where it is."""
    try:
        return ask(spec)
    except SegsrvError:
        raise
    except Exception as error:  # noqa: BLE001 - Whatever a stranger's code raises.
        # Not chained: the error may hold a part of the URL.
        raise SettingsError(f"{spec.where}: its kind failed with {fault(error)}") from None
