"""What the functions of each sink make of events, found out once and delivered nowhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import orjson

from segsrv.errors import SegsrvError
from segsrv.journal.facts import Facts
from segsrv.settings import Settings
from segsrv.transform.configured import MADE_BYTES_MAX, hello_of
from segsrv.transform.transformer import Transformer

T = TypeVar("T")


async def tried(
    settings: Settings, lines: Sequence[bytes], facts: Sequence[Facts]
) -> dict[str, dict[str, Any]]:
    """Return, for each sink that has functions, the `events` that come out and the `faults`.

    A sink's filter is not looked at. Each fault has the `number` of the event that was set aside,
    from 0 on, with `reason`, `message` and `traceback`.
    """
    found: dict[str, dict[str, Any]] = {}
    for config in settings.all_sinks():
        hello = hello_of(settings, config)
        if not (hello.has_functions and lines):
            continue
        transformer = Transformer(
            config.name,
            hello,
            timeout_s=settings.transform_timeout_s,
            made_bytes_max=MADE_BYTES_MAX,
            retry=_once,
        )
        try:
            made = await transformer.apply(lines, facts)
        except (SegsrvError, OSError) as error:
            found[config.name] = {"events": [], "faults": [], "message": str(error)}
        else:
            found[config.name] = {
                "events": [orjson.loads(line) for line in made.lines],
                "faults": [fault._asdict() for fault in made.faults],
                "message": "",
            }
        finally:
            await transformer.close()
    return found


async def _once(call: Callable[[], Awaitable[T]]) -> T:
    return await call()
