"""Where events go: one module for each kind of sink, behind the protocol in `base`."""

from __future__ import annotations

import hashlib
import os
from urllib.parse import urlsplit

from segsrv.errors import SettingsError
from segsrv.settings import Settings
from segsrv.sinks.base import Placement, Sink
from segsrv.sinks.file import FileSink, root_of

__all__ = ["Placement", "Sink", "make_sink", "sink_names"]

SCHEMES = ("file",)
DEFAULT = "file:"


def sink_names(settings: Settings) -> dict[str, str]:
    """Return a name for each configured sink URL: `file` for the default, else `file-1a2b3c4d`.

    The name says where the sink's cursor is kept, so it depends on the place that the URL leads to
    and on nothing else: a name by order would hand a removed sink's cursor to the next one, and
    another spelling of the same place would get all again. A password is no part of it.

    Raises:
        SettingsError: Two URLs lead to one place.

    """
    names: dict[str, str] = {}
    for url in settings.sink:
        name, place = _scheme(url), _place(url, settings)
        if place != _place(DEFAULT, settings):
            name += "-" + hashlib.sha256(os.fsencode(place)).hexdigest()[:8]
        if name in names:
            raise SettingsError(f"sink={_public(url)}: given twice")
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
    raise SettingsError(
        f"sink={_public(url)}: unknown kind {scheme!r}, expected {', '.join(SCHEMES)}"
    )


def _place(url: str, settings: Settings) -> str:
    if _scheme(url) == "file":
        return os.path.realpath(root_of(url, settings))
    return _public(url)


def _public(url: str) -> str:
    """Return *url* without user and password."""
    split = urlsplit(url)
    return split._replace(netloc=split.netloc.rpartition("@")[2]).geturl()


def _scheme(url: str) -> str:
    scheme, colon, _rest = url.partition(":")
    if not colon:
        raise SettingsError(f"sink={_public(url)}: expected a URL such as file:PATH")
    return scheme
