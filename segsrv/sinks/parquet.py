"""Makes Parquet files of stored lines: the typed columns of `events.columns`, and each whole line.

DuckDB does all of it, in the calling thread and without the interpreter's lock, so the event loop
goes on beside it. A file is read and written in pieces: what memory holds depends on the longest
line and the size of a row group, not on the file. The columns and their types are the same in all
files, whatever clients send.

DuckDB gets files as `/dev/fd/N`: a path could have characters that it takes for a pattern.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import duckdb
import orjson

from segsrv.errors import NotConverted
from segsrv.files import write_all
from segsrv.journal.facts import Facts
from segsrv.sinks.base import Lines
from segsrv.sinks.parquet_sql import copy_statement

__all__ = ["SOURCE_BYTES", "Conversion", "NotConverted", "encode", "source_bytes"]

ROW_GROUP_BYTES = 32 << 20
"""In memory, of which a row group takes several times as much while it is written."""
READ_BYTES_MIN = 1 << 20
MEMORY_BYTES = 1 << 30
MEMORY_LINES = 48
"""So many more of the longest line, counted where it is reserved: about a third is used."""
PIECE_BYTES = 1 << 20
TEXT_CHARS_MAX = 300
HEAD_DIGITS = 8
HEAD_CHARS = HEAD_DIGITS + 3
SOURCE_BYTES = "segsrv.source_bytes"
"""The name under which a file says how many bytes its lines had."""

_ERRNO = re.compile(r'"errno":"(\d+)"')
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "allow_persistent_secrets": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    # Else a file may only hold a row group's rows, however large they are.
    "preserve_insertion_order": False,
    "temp_directory": "",
    # With one, the caller's thread does the work, with its priority and in the lines' order.
    "threads": 1,
}


class _Extent(NamedTuple):
    """How many lines there are, and what they take with their newlines."""

    events: int
    size: int
    longest: int


def encode(parts: Sequence[Lines], facts: Sequence[Facts] | None = None) -> bytes:
    """Return a Parquet file with the lines that *parts* hold, in order; *facts* has one a line.

    Blocks its thread for about 15 µs an event.

    Raises:
        NotConverted: The lines are no NDJSON, or can't be held.
        OSError: There is no room for the file while it is made.

    """
    with _Scratch() as source, _Scratch() as target:
        size = 0
        for lines in _pieces(parts, facts):
            size += len(lines)
            write_all(source.fd, [lines])
        Conversion(source.fd, target.fd, has_facts=facts is not None).run()
        return os.pread(target.fd, os.fstat(target.fd).st_size, 0)


class Conversion:
    """Writes the lines of the open file *source* to the open, empty file *target* as Parquet.

    `interrupt` makes a `run` in another thread end soon, with NotConverted.
    """

    def __init__(self, source: int, target: int, *, has_facts: bool = False) -> None:
        self._source = source
        self._target = target
        self._has_facts = has_facts
        self._is_interrupted = threading.Event()
        self._connection: duckdb.DuckDBPyConnection | None = None

    def run(self) -> int:
        """Return the number of events, all of which *target* holds when this returns.

        Raises:
            NotConverted: It was interrupted, or the lines are no whole lines of JSON.
            OSError: A file can't be read or written.

        """
        extent = _measure(self._source)
        statement = copy_statement(
            f"/dev/fd/{self._source}",
            f"/dev/fd/{self._target}",
            has_facts=self._has_facts,
            line_bytes_max=max(READ_BYTES_MIN, extent.longest + 1),
            row_group_bytes=ROW_GROUP_BYTES,
            metadata={} if self._has_facts else {SOURCE_BYTES: str(extent.size)},
        )
        try:
            with duckdb.connect(":memory:", config=_SETTINGS) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                memory = MEMORY_BYTES + MEMORY_LINES * extent.longest
                connection.execute(f"SET memory_limit = '{memory}B'")
                self._connection = connection
                if self._is_interrupted.is_set():
                    raise NotConverted("interrupted")
                row = connection.execute(statement).fetchone()
        except duckdb.IOException as error:
            raise _system_error(error) from error
        except duckdb.Error as error:
            raise NotConverted(_first_line(error)) from error
        finally:
            self._connection = None
        events: int = row[0] if row else 0
        if events != extent.events:
            raise NotConverted(f"{events} rows of {extent.events} lines")
        return events

    def interrupt(self) -> None:
        self._is_interrupted.set()
        if (connection := self._connection) is not None:
            connection.interrupt()


def source_bytes(fd: int) -> int:
    """Return how many bytes the lines had of which the open Parquet file *fd* was made.

    Raises:
        NotConverted: It is no Parquet file of ours.
        OSError: It can't be read.

    """
    try:
        with duckdb.connect(":memory:", config=_SETTINGS) as connection:
            rows = connection.execute(
                "SELECT value FROM parquet_kv_metadata(?) WHERE key = ?",
                [f"/dev/fd/{fd}", SOURCE_BYTES.encode()],
            ).fetchall()
        return int(rows[0][0])
    except duckdb.IOException as error:
        raise _system_error(error) from error
    except (duckdb.Error, IndexError, ValueError) as error:
        raise NotConverted(f"no Parquet file of segsrv: {_first_line(error)}") from error


class _Scratch:
    """An open file without a name, in memory where the system has such files."""

    def __enter__(self) -> Self:
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("segsrv-parquet")
        else:
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.fd)


def _pieces(parts: Sequence[Lines], facts: Sequence[Facts] | None) -> Iterator[Lines]:
    """Yield the lines of *parts*, each with its facts before it if there are any."""
    if facts is None:
        yield from parts
        return
    known = iter(facts)
    for part in parts:
        lines = bytes(part).splitlines()
        yield b"".join(
            itertools.chain.from_iterable(
                (_head(fact), line, b"]\n") for line, fact in zip(lines, known, strict=False)
            )
        )


def _head(fact: Facts) -> bytes:
    head = orjson.dumps((fact.event_id, fact.received_ms, fact.type, fact.format, fact.key_id))
    # For the array's bracket, now before the number of characters, there is the comma at the end.
    chars = len(head.decode()) + HEAD_CHARS
    return b'["%0*d",%b,' % (HEAD_DIGITS, chars, head[1:-1])


def _measure(fd: int) -> _Extent:
    """Count the lines of an open file.

    Raises:
        NotConverted: They are no whole lines, or hold what a power cut leaves of a write.

    """
    events = size = longest = held = 0
    piece = b"\n"
    while more := os.pread(fd, PIECE_BYTES, size):
        piece = more
        size += len(piece)
        if b"\0" in piece:
            raise NotConverted(f"a zero byte in the {PIECE_BYTES} before byte {size}")
        first, *others = piece.split(b"\n")
        held += len(first)
        if others:
            events += len(others)
            longest = max(longest, held, *map(len, others))
            held = len(others[-1])
    if not piece.endswith(b"\n"):
        raise NotConverted("the last line has no end")
    return _Extent(events, size, longest)


def _system_error(error: duckdb.IOException) -> OSError:
    """Return the system's error that DuckDB tells of in words."""
    found = _ERRNO.search(str(error))
    if found is None:
        return OSError(errno.EIO, _first_line(error))
    number = int(found[1])
    return OSError(number, os.strerror(number))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:TEXT_CHARS_MAX]
