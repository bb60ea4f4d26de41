"""How settings ask for a file sink: `file:PATH`, or `file:` for the data directory's folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any

from segsrv.settings.fields import option
from segsrv.settings.sink import DEFAULT_SINK
from segsrv.sinks.file import FileSink, root_of
from segsrv.sinks.kind import Kind, SinkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """What one file sink can have of its own; None for what the setting of the same name says."""

    file_bytes_max: int | None = option(
        None, "one file, then the next is begun", low=64 << 10, high=1 << 40
    )


def _place(spec: SinkSpec) -> str:
    return os.path.realpath(root_of(spec.url, spec.settings))


def _make(spec: SinkSpec) -> FileSink:
    given: dict[str, Any] = {}
    for option_field in fields(FileOptions):
        name = option_field.name
        own = getattr(spec.options, name)
        given[name] = getattr(spec.settings, name) if own is None else own
    return FileSink(
        root_of(spec.url, spec.settings),
        worker=0,
        file_mode=int(spec.settings.file_mode, 8),
        **given,
    )


FILE = Kind(
    schemes=("file",),
    place=_place,
    make=_make,
    options=FileOptions,
    # A path may have a question mark in it.
    has_query=False,
    default_url=DEFAULT_SINK,
)
