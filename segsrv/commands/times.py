"""Times as people give them: `2026-11-25T10:00:00Z`, `2026-11-25`, or `2h` for two hours ago."""

from __future__ import annotations

import argparse
import re
import time
from datetime import UTC, datetime

from segsrv.errors import SettingsError

_AGO = re.compile(r"(\d{1,9})([smhdw])")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give *parser* `--since` and `--until`."""
    parser.add_argument(
        "--since", metavar="TIME", help="from this time on: 2026-11-25T10:00:00Z, or 2h, 3d ago"
    )
    parser.add_argument("--until", metavar="TIME", help="before this time")


def span_ms(flags: argparse.Namespace) -> tuple[int | None, int | None]:
    """Return the times of `--since` and `--until` in ms since 1970.

    Raises:
        SettingsError: One is no time, or they are the wrong way round.

    """
    now_ms = time.time_ns() // 1_000_000
    since, until = (
        None if text is None else parse_ms(text, flag, now_ms)
        for flag, text in (("--since", flags.since), ("--until", flags.until))
    )
    if since is not None and until is not None and since >= until:
        raise SettingsError(f"--since={flags.since}: not before --until={flags.until}")
    return since, until


def parse_ms(text: str, flag: str, now_ms: int) -> int:
    """Return the time that *text* names; one without an offset is UTC."""
    if match := _AGO.fullmatch(text):
        return now_ms - int(match[1]) * _UNIT_S[match[2]] * 1000
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise SettingsError(
            f"{flag}={text}: expected a time such as 2026-11-25T10:00:00Z, or 2h or 3d for ago"
        ) from error
