"""The servers that a run compares: how each is started, what it stores, what its 200 means."""

from __future__ import annotations

import http.client
import re
import signal
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlencode

import load
import orjson
from machine import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WRITE_KEY = "bench-write-key"
PATH = "/api/v1/segment"
# What segsrv writes for one of our single events, frame and line: the floor writes as much.
JOURNAL_LINE_BYTES = 1536
VICTORIA_PATH = "/insert/jsonline?" + urlencode(
    {"_time_field": "timestamp", "_msg_field": "event", "_stream_fields": "type"}
)
Store = Literal["none", "files", "victoria-logs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A server beside others; `arguments` gets the folder that it may write to.

    `adapt` makes the same events what this server takes.
    """

    name: str
    meaning: str
    arguments: Callable[[Path], list[str]]
    program: str = sys.executable
    folder: Path = REPOSITORY
    store: Store = "files"
    is_json: bool = True
    exit_code: int = 0
    adapt: Callable[[load.Prepared], load.Prepared] = lambda request: request


def baseline(path: str, *endpoints: str) -> Contender:
    """An empty aiohttp handler that answers on *path* with each of *endpoints* after it."""
    paths = dict.fromkeys(path.rstrip("/") + endpoint or "/" for endpoint in endpoints)
    flags = [flag for path in paths for flag in ("--path", path)]
    command = [str(load.HERE / "baseline_server.py"), "--port", "0", *flags]
    return Contender(
        name="baseline", meaning="read", arguments=lambda _folder: command, store="none"
    )


def raw() -> Contender:
    command = [str(load.HERE / "raw_server.py"), "--port", "0"]
    return Contender(
        name="empty raw protocol", meaning="read", arguments=lambda _folder: command, store="none"
    )


def disk(*, is_zeroed: bool = False) -> Contender:
    """What commits alone take: a bound that no server which syncs can pass on this disk."""

    def arguments(folder: Path) -> list[str]:
        (folder / "data" / "events").mkdir(parents=True)
        file = folder / "data" / "events" / "commits.ndjson"
        flags = ["--journal", str(file), "--line-bytes", str(JOURNAL_LINE_BYTES)]
        zeroed = ["--zeroed"] if is_zeroed else []
        return [str(load.HERE / "raw_server.py"), "--port", "0", *flags, *zeroed]

    return Contender(
        name="commits alone, over zeroes" if is_zeroed else "commits alone",
        meaning="on stable storage as it came",
        arguments=arguments,
        store="none" if is_zeroed else "files",
    )


def naive() -> Contender:
    """FastAPI, pydantic and a file, as it would be written first."""

    def arguments(folder: Path) -> list[str]:
        (folder / "data" / "events").mkdir(parents=True)
        file = folder / "data" / "events" / "events.ndjson"
        command = [str(load.HERE / "naive_server.py"), "--port", "0", "--path", PATH]
        return [*command, "--write-key", WRITE_KEY, "--file", str(file)]

    def adapt(request: load.Prepared) -> load.Prepared:
        # FastAPI reads models from bodies that say they are JSON; browsers say text/plain.
        return replace(request, headers=request.headers | {"Content-Type": "application/json"})

    return Contender(
        name="FastAPI + pydantic",
        meaning="validated, in the page cache",
        arguments=arguments,
        # Uvicorn ends by the signal that it was sent.
        exit_code=-signal.SIGTERM,
        adapt=adapt,
    )


MEANINGS = {
    "fsync": "on stable storage, mapped, enriched",
    "write": "in the page cache, mapped, enriched",
    "memory": "in memory, mapped, enriched",
}


def segsrv(
    durability: str = "fsync",
    flags: tuple[str, ...] = (),
    *,
    name: str = "",
    tree: Path = REPOSITORY,
) -> Contender:
    """Segsrv of this tree, or of another one with its own environment or else with this one."""

    def arguments(folder: Path) -> list[str]:
        command = ["-m", "segsrv", "serve", "--host", "127.0.0.1", "--port", "0"]
        command += ["--data-dir", str(folder / "data"), "--write-key", WRITE_KEY]
        return [*command, "--durability", durability, *flags]

    python = tree / ".venv" / "bin" / "python"
    has_own = tree != REPOSITORY and python.exists()
    return Contender(
        name=name or durability,
        meaning=MEANINGS[durability],
        arguments=arguments,
        program=str(python) if has_own else sys.executable,
        folder=tree,
    )


def victoria_logs(binary: Path) -> Contender:
    """VictoriaLogs, which takes the same events as JSON lines."""

    def arguments(folder: Path) -> list[str]:
        return [f"-storageDataPath={folder / 'data'}", "-httpListenAddr=127.0.0.1:0"]

    def adapt(request: load.Prepared) -> load.Prepared:
        message = orjson.loads(request.body)
        lines = [orjson.dumps(event) for event in message.get("batch", [message])]
        return load.Prepared(
            path=VICTORIA_PATH,
            headers={"Content-Type": "application/stream+json"},
            body=b"\n".join(lines) + b"\n",
            event_ids=request.event_ids,
        )

    return Contender(
        name="VictoriaLogs",
        meaning="in memory, indexed, on disk some seconds later",
        arguments=arguments,
        program=str(binary.resolve()),
        store="victoria-logs",
        is_json=False,
        adapt=adapt,
    )


def count_victoria_logs(port: int) -> int:
    """Ask VictoriaLogs how many events can be found in it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        query = urlencode({"query": "* | stats count() events"})
        connection.request("GET", f"/select/logsql/query?{query}")
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"VictoriaLogs answered {response.status} {text[:200]!r} to a query")
    return int(orjson.loads(text)["events"]) if text.strip() else 0


def victoria_logs_version(binary: Path) -> str:
    """Read the version that Go's tools wrote into *binary*; it does not tell it when asked."""
    found = re.search(rb"VictoriaMetrics/VictoriaLogs\t(v[\w.-]+)", binary.read_bytes())
    return found[1].decode() if found else "unknown version"
