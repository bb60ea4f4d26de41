"""The functions that settings put in the way of each sink's events, and whether they are there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from segsrv.errors import SettingsError
from segsrv.settings import Settings
from segsrv.settings.sink import SinkConfig
from segsrv.transform.loading import NotLoaded
from segsrv.transform.process import Child, Hello, working_directory

MADE_BYTES_MAX = 8 << 20
"""All that one event becomes takes no more, unless one stored event may be larger."""


def hello_of(settings: Settings, config: SinkConfig) -> Hello:
    """Return what the child of a sink is told: the key's function, the server's, the sink's."""
    last = [settings.transform, config.transform]
    chains: dict[str | None, list[str]] = {None: [name for name in last if name]}
    for key in settings.all_keys():
        if key.transform and (not config.key_ids or key.id in config.key_ids):
            chains[key.id] = [name for name in (key.transform, *last) if name]
    return Hello(
        chains=chains,
        sink=config.name,
        directory=working_directory(),
        event_bytes_max=settings.event_bytes_max,
        total_bytes_max=max(MADE_BYTES_MAX, settings.event_bytes_max),
        memory_bytes_max=settings.transform_memory_bytes_max,
    )


def names_of(settings: Settings, configs: Iterable[SinkConfig]) -> dict[str, str]:
    """Return the names of all functions, each with a setting that has it."""
    found: dict[str, str] = {}
    if settings.transform:
        found[settings.transform] = "transform"
    for key in settings.all_keys():
        if key.transform:
            found.setdefault(key.transform, f"keys.{key.id}.transform")
    for config in configs:
        if config.transform:
            found.setdefault(config.transform, f"{config.where}.transform")
    return found


def check_functions(settings: Settings, configs: Iterable[SinkConfig]) -> None:
    """Load all functions in a process that ends then; blocks, so call it outside of a loop.

    Raises:
        SettingsError: One can't be loaded; the text names the setting.

    """
    if found := names_of(settings, configs):
        asyncio.run(_check(settings, found))


async def _check(settings: Settings, wheres: dict[str, str]) -> None:
    hello = Hello(
        chains={None: list(wheres)},
        sink="",
        directory=working_directory(),
        event_bytes_max=settings.event_bytes_max,
        total_bytes_max=max(MADE_BYTES_MAX, settings.event_bytes_max),
        memory_bytes_max=settings.transform_memory_bytes_max,
    )
    try:
        child = await Child.start(hello)
    except NotLoaded as error:
        found = (where for name, where in wheres.items() if str(error).startswith(f"{name}: "))
        raise SettingsError(f"{next(found, 'transform')}={error}") from error
    except OSError as error:
        raise SettingsError(f"transform: no process for it: {error.strerror}") from error
    await child.kill()
