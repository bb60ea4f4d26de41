"""Where a sink stands in a journal, kept so that a batch is the same again after a crash."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segsrv.errors import SegsrvError
from segsrv.files import FILE_MODE, make_dir, replace_file


class CursorUnreadable(SegsrvError):
    """A cursor file holds something else than a cursor."""

    code = "cursor_unreadable"


@dataclass(slots=True, frozen=True)
class Cursor:
    """All below `start` is delivered; with `end` above it, that batch was being sent.

    `placement` is what the sink wrote down for its newest batch: where it put it, or under what
    name, so that sending it again changes nothing.
    """

    start: int
    end: int
    placement: dict[str, Any] = field(default_factory=dict)


def load(path: Path) -> Cursor | None:
    """Return the cursor kept at *path*, or None if there is none.

    Raises:
        CursorUnreadable: The file is no cursor; it names the file, for the operator to decide.

    """
    try:
        cursor = Cursor(**json.loads(path.read_text("utf-8")))
        if not 0 <= cursor.start <= cursor.end:
            raise ValueError(f"start {cursor.start} and end {cursor.end} are no range")
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise CursorUnreadable(
            f"{path} is not a cursor ({error}); move it away to deliver from the oldest event on"
        ) from error
    return cursor


def save(path: Path, cursor: Cursor, file_mode: int = FILE_MODE) -> None:
    """Put *cursor* on stable storage in place of the one before."""
    data = json.dumps(asdict(cursor)).encode()
    try:
        replace_file(path, data, file_mode=file_mode)
    except FileNotFoundError:
        make_dir(path.parent, file_mode)
        replace_file(path, data, file_mode=file_mode)
