"""Where events go: one module for each kind of sink, behind the protocol in `base`."""

from __future__ import annotations

import hashlib
from urllib.parse import urlsplit

from segsrv.errors import SettingsError
from segsrv.settings import Settings
from segsrv.sinks.base import Placement, Sink
from segsrv.sinks.file import FileSink

__all__ = ["Placement", "Sink", "make_sink", "sink_names"]

SCHEMES = ("file",)
DEFAULT = "file:"


def sink_names(settings: Settings) -> dict[str, str]:
    """Return a name for each configured sink URL: `file` for the default, else `file-1a2b3c4d`.

    The name says where the sink's cursor is kept, so it must depend on the URL alone: a name by
    order would hand a removed sink's cursor to the next one. A password is no part of it.

    Raises:
        SettingsError: A URL is given twice.

    """
    names: dict[str, str] = {}
    for url in settings.sink:
        name = _scheme(url)
        if url != DEFAULT:
            split = urlsplit(url)
            place = split._replace(netloc=split.netloc.rpartition("@")[2]).geturl()
            name += "-" + hashlib.sha256(place.encode()).hexdigest()[:8]
        if name in names:
            raise SettingsError(f"sink={url}: given twice")
        names[name] = url
    return names


def make_sink(url: str, settings: Settings, *, worker: int) -> Sink:
    """Build the sink that *url* names, without opening it.

    Raises:
        SettingsError: The scheme is unknown or the rest of the URL is wrong.

    """
    scheme = _scheme(url)
    if scheme == "file":
        return FileSink.from_url(url, settings, worker=worker)
    raise SettingsError(f"sink={url}: unknown kind {scheme!r}, expected {', '.join(SCHEMES)}")


def _scheme(url: str) -> str:
    scheme, colon, _rest = url.partition(":")
    if not colon:
        raise SettingsError(f"sink={url}: expected a URL such as file:PATH")
    return scheme
