"""Parquet for closed files of the file sink. The driver is imported when it is first needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from segsrv.errors import NotConverted, SettingsError, SinkUnavailable

EXTRA = "needs duckdb; install segsrv[parquet]"
WATCH_INTERVAL_S = 0.05


def check_driver(where: str) -> None:
    """Refuse a setting, of which *where* is the name, that is of no use without the driver."""
    if find_spec("duckdb") is None:
        raise SettingsError(f"{where}: {EXTRA}")


def convert(source: int, target: int, should_stop: Callable[[], bool]) -> bool:
    """Write the lines of the open file *source* to the open file *target*, which is empty.

    Return False if *should_stop* said so before the end.

    Raises:
        NotConverted: The lines are not as segsrv writes them.
        OSError: A file can't be read or written.

    """
    try:
        from segsrv.sinks import parquet  # noqa: PLC0415 - Its driver is an extra.
    except ImportError as error:
        raise NotConverted(EXTRA) from error
    conversion = parquet.Conversion(source, target)
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(WATCH_INTERVAL_S):
            if should_stop():
                conversion.interrupt()
                return

    watcher = threading.Thread(target=watch, name="segsrv-parquet-watch", daemon=True)
    watcher.start()
    try:
        conversion.run()
    except NotConverted:
        if should_stop():
            return False
        raise
    finally:
        is_done.set()
        watcher.join()
    return True


def has_lines(path: Path, size: int) -> bool:
    """Say whether *path* was made of a file that had at least *size* bytes of whole lines.

    Raises:
        FileNotFoundError: It isn't there.
        SinkUnavailable: The driver is missing, so nobody can tell.

    """
    fd = os.open(path, os.O_RDONLY)
    try:
        from segsrv.sinks import parquet  # noqa: PLC0415 - As above.

        return size <= parquet.source_bytes(fd)
    except ImportError as error:
        raise SinkUnavailable(f"{path}: {EXTRA}") from error
    except NotConverted:
        return False
    finally:
        os.close(fd)
