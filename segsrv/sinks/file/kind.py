"""How settings ask for a file sink: `file:PATH`, or `file:` for the data directory's folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any

from segsrv.errors import SettingsError
from segsrv.settings.fields import option
from segsrv.settings.model import FileCompress, FileRotate
from segsrv.settings.sink import DEFAULT_SINK
from segsrv.sinks.file.parquet import check_driver
from segsrv.sinks.file.sink import FileSink, root_of
from segsrv.sinks.kind import Kind, SinkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """What one file sink can have of its own; None for what the setting of the same name says."""

    file_bytes_max: int | None = option(
        None, "one file, then the next is begun", low=64 << 10, high=1 << 40
    )
    file_rotate: FileRotate | None = option(None, "when a new file is begun at the latest")
    file_compress: FileCompress | None = option(None, "how closed files are compressed")
    file_retention_s: float | None = option(
        None, "delete closed files this long after their last event", low=0, high=3_660 * 86_400
    )
    file_total_bytes_max: int | None = option(
        None, "all files, then the oldest closed ones are deleted", low=0, high=1 << 60
    )


def _place(spec: SinkSpec) -> str:
    return os.path.realpath(root_of(spec.url, spec.settings))


def _make(spec: SinkSpec) -> FileSink:
    given: dict[str, Any] = {}
    for option_field in fields(FileOptions):
        name = option_field.name
        own = getattr(spec.options, name)
        given[name] = getattr(spec.settings, name) if own is None else own
    if spec.config.encoding == "parquet":
        if spec.options.file_compress not in (None, "none"):
            raise SettingsError(
                f"{spec.where}.options.file_compress={spec.options.file_compress}: "
                "expected none with encoding=parquet, whose files are compressed in themselves"
            )
        check_driver(f"{spec.where}.encoding=parquet")
        given["file_compress"] = "parquet"
    return FileSink(
        root_of(spec.url, spec.settings),
        name=spec.name,
        file_mode=int(spec.settings.file_mode, 8),
        is_once=spec.is_once,
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
    encodings=("ndjson", "parquet"),
)
