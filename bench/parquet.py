"""What a Parquet file costs: time, memory and the event loop's waiting, by who makes it.

    pip install pyarrow polars
    python bench/parquet.py [--events 20000] [--rounds 5]

Stored events of about 1.5 KB become one file with the columns of `segsrv.events.columns`: by
DuckDB, as segsrv does it, and by pyarrow and polars from columns that Python takes out of the
parsed lines. Each has a process of its own, and encodes in a thread; an event loop beside it
says how late its timer was. Each file is read again and compared. Packages that are not installed
are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import io
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine
import orjson
import payloads

from segsrv.events import COMPAT, FLAT, Pipeline, Sender, parse
from segsrv.events.columns import COLUMNS, EVENT
from segsrv.events.user_agents import UserAgents

if TYPE_CHECKING:
    from collections.abc import Callable

    from segsrv.events.columns import Column

TICK_S = 0.001
PACKAGES = {
    "duckdb": ("duckdb",),
    "pyarrow": ("pyarrow",),
    "polars": ("polars", "polars-runtime-32"),
}
HEADS = (
    "encoder",
    "CPU µs an event",
    "s for 10,000 events",
    "memory MiB",
    "loop late p99 (max) ms",
    "without it",
    "lines are larger by",
    "installed MB",
)
TYPES: dict[str, type | tuple[type, ...]] = {"text": str, "float": (int, float), "bool": bool}


def stored_lines(events: int) -> list[bytes]:
    rng = random.Random(1)
    clients = payloads.make_clients(rng)
    pipeline = Pipeline(
        event_bytes_max=1_000_000,
        parse_user_agent=UserAgents(entries_max=50_000).parse,
        locate=lambda _address: {"country": "GB", "city": "London", "latitude": 51.5},
    )
    lines: list[bytes] = []
    for number in range(events):
        client = rng.choice(clients)
        body = payloads.browser_event(rng, client, now_ms=1_795_597_831_001 + number)
        payload = parse(body, batch_events_max=1, batch_shared_bytes_max=1 << 20)
        sender = Sender(api_key="bench", address=client.address, user_agent=client.user_agent)
        lines += pipeline.run(payload, sender, FLAT if number % 4 else COMPAT).lines
    return lines


def by_duckdb(lines: list[bytes]) -> bytes:
    from segsrv.sinks.parquet import encode  # noqa: PLC0415 - Only in the process of this one.

    return encode([b"".join(lines)])


def by_pyarrow(lines: list[bytes]) -> bytes:
    arrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    types = {
        "text": arrow.string(),
        "float": arrow.float64(),
        "bool": arrow.bool_(),
        "timestamp": arrow.timestamp("us", tz="UTC"),
    }
    values = taken_out(lines)
    table = arrow.table(
        {column.name: arrow.array(values[column.name], types[column.type]) for column in COLUMNS}
        | {EVENT: arrow.array(values[EVENT], arrow.string())}
    )
    target = io.BytesIO()
    parquet.write_table(table, target, compression="zstd")
    return target.getvalue()


def by_polars(lines: list[bytes]) -> bytes:
    polars = importlib.import_module("polars")
    types = {
        "text": polars.String,
        "float": polars.Float64,
        "bool": polars.Boolean,
        "timestamp": polars.Datetime("us", "UTC"),
    }
    schema = {column.name: types[column.type] for column in COLUMNS} | {EVENT: polars.String}
    target = io.BytesIO()
    polars.DataFrame(taken_out(lines), schema=schema).write_parquet(target, compression="zstd")
    return target.getvalue()


ENCODERS = {"duckdb": by_duckdb, "pyarrow": by_pyarrow, "polars": by_polars}


def taken_out(lines: list[bytes]) -> dict[str, list[Any]]:
    """Return the columns of *lines*, read by Python."""
    values: dict[str, list[Any]] = {column.name: [] for column in COLUMNS}
    for line in lines:
        event = orjson.loads(line)
        nests = isinstance(event.get("eventn_ctx"), dict)
        for column in COLUMNS:
            values[column.name].append(value_of(event, column, nests=nests))
    return values | {EVENT: [line[:-1].decode() for line in lines]}


def value_of(event: dict[str, Any], column: Column, *, nests: bool) -> Any:
    value: Any = event
    for key in column.compat if nests else column.flat:
        value = value.get(key) if isinstance(value, dict) else None
    if column.type == "timestamp":
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    return value if isinstance(value, TYPES[column.type]) else None


async def late_ms(work: Callable[[], object]) -> list[float]:
    """Run *work* in a thread; return how late a timer of the event loop was meanwhile."""
    late = []
    task = asyncio.create_task(asyncio.to_thread(work))
    while not task.done():
        due = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        late.append((time.perf_counter() - due) * 1e3)
    await task
    return sorted(late)


def measure(encoder: str, events: int, rounds: int) -> dict[str, float]:
    lines = stored_lines(events)
    encode = ENCODERS[encoder]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check(encode(lines), lines)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, wall = [], []
    late: list[float] = []
    idle: list[float] = []
    for _round in range(rounds):
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        encode(lines)
        cpu.append((time.process_time() - cpu_s) / events * 1e6)
        wall.append((time.perf_counter() - wall_s) / events * 10_000)
        late += asyncio.run(late_ms(lambda: encode(lines)))
        idle += asyncio.run(late_ms(lambda: time.sleep(1)))
    late.sort()
    idle.sort()
    return {
        "cpu_us": statistics.median(cpu),
        "wall_s": statistics.median(wall),
        "memory_mib": (peak - before) / 1024,
        "late_p99_ms": late[int(len(late) * 0.99)],
        "late_max_ms": late[-1],
        "idle_p99_ms": idle[int(len(idle) * 0.99)],
        "idle_max_ms": idle[-1],
        "ratio": sum(map(len, lines)) / len(encode(lines)),
    }


def check(data: bytes, lines: list[bytes]) -> None:
    """Insist on the same columns and lines whoever made the file; DuckDB reads it."""
    duckdb = importlib.import_module("duckdb")
    names = ", ".join(f'"{column.name}"' for column in COLUMNS)
    expected = taken_out(lines)
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file, duckdb.connect() as connection:
        file.write(data)
        file.flush()
        connection.execute("SET TimeZone = 'UTC'")
        query = f"SELECT {names}, {EVENT} FROM '{file.name}'"
        found = connection.execute(query).fetchall()
    if found != list(zip(*expected.values(), strict=True)):
        raise SystemExit("a file differs from the lines that it was made of")


def installed_mb(encoder: str) -> float:
    """Return what the packages take, as they are now, without compiled Python."""
    size = 0
    for package in PACKAGES[encoder]:
        for file in files(package) or ():
            path = Path(str(file.locate()))
            size += path.stat().st_size if path.suffix != ".pyc" and path.exists() else 0
    return size / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--encoder", choices=ENCODERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.encoder:
        print(json.dumps(measure(options.encoder, options.events, options.rounds)))
        return
    for name, value in machine.describe().items():
        print(f"{name}: {value}")
    print(f"| {' | '.join(HEADS)} |")
    print("|---" * len(HEADS) + "|")
    for encoder in ENCODERS:
        try:
            installed = installed_mb(encoder)
        except PackageNotFoundError:
            print(f"| {encoder} | not installed |")
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--encoder", encoder]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        print(
            f"| {encoder} | {found['cpu_us']:.1f} | {found['wall_s']:.2f} "
            f"| {found['memory_mib']:.0f} "
            f"| {found['late_p99_ms']:.1f} ({found['late_max_ms']:.1f}) "
            f"| {found['idle_p99_ms']:.1f} ({found['idle_max_ms']:.1f}) "
            f"| {found['ratio']:.1f} times | {installed:.0f} |"
        )


if __name__ == "__main__":
    main()
