"""Follows the files of dead letters."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

READ_BYTES_MAX = 1 << 20
TAIL_BYTES = 64 << 10
FILES_MAX = 2_000
EXCERPT_CHARS = 500


class LettersFollower:
    """Reads the letters that were written since it was last asked; at first the newest ones."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[str, int] | None = None

    def read(self) -> list[dict[str, Any]]:
        """Return what was added, by file and in order.

        Raises:
            OSError: The disk refused to read.

        """
        sizes = self._sizes()
        known, self._read = self._read, {}
        found: list[dict[str, Any]] = []
        for name, size in sizes.items():
            first = max(size - TAIL_BYTES, 0) if known is None else 0
            start = first if known is None else known.get(name, 0)
            # Letters may have been taken out of it.
            start = min(start, size)
            data = self._bytes(name, start, min(size - start, READ_BYTES_MAX))
            whole = data.rfind(b"\n") + 1
            self._read[name] = start + whole
            lines = data[:whole].splitlines()
            if known is None and first:
                lines = lines[1:]
            found += [letter for line in lines if (letter := _letter(line)) is not None]
        return found

    def _sizes(self) -> dict[str, int]:
        try:
            paths = sorted(self._directory.glob("*.ndjson"))[-FILES_MAX:]
            return {path.name: path.stat().st_size for path in paths}
        except FileNotFoundError:
            # Removed between the two, or never made.
            return {}

    def _bytes(self, name: str, start: int, size: int) -> bytes:
        if size <= 0:
            return b""
        try:
            with (self._directory / name).open("rb") as file:
                file.seek(start)
                return file.read(size)
        except FileNotFoundError:
            return b""


def _letter(line: bytes) -> dict[str, Any] | None:
    try:
        letter = orjson.loads(line)
        at_ms = int(datetime.fromisoformat(letter["time"]).timestamp() * 1_000)
    except (ValueError, TypeError, KeyError):
        return None
    item = letter.get("item", letter.get("item_text"))
    excerpt = item if isinstance(item, str) else orjson.dumps(item).decode()
    return {
        "kind": "letter",
        "at_ms": at_ms,
        "key": letter.get("key_id") or "",
        "sink": letter.get("sink") or "",
        "reason": letter.get("reason") or "",
        "message": letter.get("message") or "",
        "excerpt": excerpt[:EXCERPT_CHARS],
    }
