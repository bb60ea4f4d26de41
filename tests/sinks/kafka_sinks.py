"""Kafka sinks and batches for their tests."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from segsrv.errors import SinkRejected, SinkUnavailable
from segsrv.journal.facts import Facts
from segsrv.settings import Settings
from segsrv.sinks import registry
from segsrv.sinks.base import Batch, Ends
from tests.services.kafka_service import USERS

RECEIVED_MS = 1_700_000_000_000
RETRY_S = 0.1
TRIES_MAX = 300

_numbers = itertools.count()


def new_topic() -> str:
    """Return a name that no other test uses."""
    return f"topic-{next(_numbers)}"


def settings_of(url: str, secrets: Sequence[str] = (), **options: Any) -> Settings:
    table = {
        "name": "kafka",
        "url": url,
        "send_timeout_s": options.pop("send_timeout_s", 10.0),
        "options": options,
        "secrets": {name: {"env": name.upper()} for name in secrets},
    }
    return Settings(sinks=[table])


@contextlib.asynccontextmanager
async def opened(sink: Any) -> AsyncIterator[Any]:
    """Open *sink*, and close it at the end."""
    try:
        await sink.open()
        yield sink
    finally:
        await sink.close()


def make_sink(
    port: int, topic: str, *, origin: str = "origin", is_once: bool = False, **options: Any
) -> Any:
    """Return the sink that `[[sinks]]` with these options makes, not opened yet."""
    user = options.pop("user", "")
    environ = {}
    if user:
        environ["PASSWORD"] = options.pop("password", USERS.get(user, ""))
        options["username"] = user
        options.setdefault("security_protocol", "sasl_plaintext")
    settings = settings_of(
        f"kafka://127.0.0.1:{port}/{topic}", ["password"] if user else [], **options
    )
    (built,) = registry.build(settings, environ, is_once=is_once, origin=origin)
    return built.sink


def event(number: int, *, size: int = 200, **fields: Any) -> dict[str, Any]:
    """Return a stored event of the compat format, which compresses badly."""
    padding = random.Random(number).randbytes(size).hex()[:size]
    context = {"event_id": f"id-{number}", "ids": {"ajs_user_id": f"user-{number % 10}"}}
    return {"eventn_ctx": context | fields, "event_type": "track", "padding": padding}


def batch_of(
    batch_id: str, events: Sequence[dict[str, Any]], *, ends: Ends | None = None, **known: Any
) -> Batch:
    """Return a batch of stored events; *known* are facts that differ from the usual ones."""
    lines = [orjson.dumps(each) + b"\n" for each in events]
    facts = [
        Facts(
            known.get("key_id", "key"),
            known.get("format", "compat"),
            known.get("received_ms", RECEIVED_MS),
            known.get("type", "track"),
            len(line),
            each["eventn_ctx"]["event_id"],
        )
        for each, line in zip(events, lines, strict=True)
    ]
    return Batch(batch_id, [b"".join(lines)], len(lines), lambda: facts, ends)


def batch(batch_id: str, numbers: Sequence[int], *, size: int = 200, **more: Any) -> Batch:
    return batch_of(batch_id, [event(number, size=size) for number in numbers], **more)


def part_of(whole: Batch, numbers: Sequence[int], label: str) -> Batch:
    lines = whole.lines()
    return Batch(
        f"{whole.id}-{label}",
        [lines[number] for number in numbers],
        len(numbers),
        lambda: [whole.facts[number] for number in numbers],
    )


async def until_taken(sink: Any, unit: Batch, *, timeout_s: float = 20.0) -> None:
    """Send until it works, as delivery does; what is cancelled or refused for now comes again."""
    for _ in range(TRIES_MAX):
        with contextlib.suppress(SinkUnavailable, TimeoutError):
            async with asyncio.timeout(timeout_s):
                await sink.send(unit, {})
            return
        await asyncio.sleep(RETRY_S)
    raise AssertionError(f"{unit.id} was never taken")


async def deliver(sink: Any, whole: Batch) -> list[str]:
    """Send *whole*, in parts where events are refused, and return the ids of those."""
    refused: list[str] = []
    todo = [whole]
    while todo:
        unit = todo.pop()
        try:
            await until_taken(sink, unit)
        except SinkRejected as error:
            named = set(error.indexes) or ({0} if unit.events == 1 else set())
            refused += [unit.facts[number].event_id for number in sorted(named)]
            rest = [number for number in range(unit.events) if number not in named]
            middle = len(rest) if named else len(rest) // 2
            todo += [
                part_of(unit, numbers, label)
                for label, numbers in (("b", rest[middle:]), ("a", rest[:middle]))
                if numbers
            ]
    return refused
