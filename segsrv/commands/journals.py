"""The journals of a data directory, for commands that only look."""

from __future__ import annotations

import re
from pathlib import Path

from segsrv.delivery.journals import folders
from segsrv.journal.survey import Survey
from segsrv.settings import Settings

_ASIDE = re.compile(r"\d{20}\.(?:segment|journal)\.(damaged|torn)-\d+(?:\.\d+)?")


def surveys(settings: Settings) -> dict[str, Survey]:
    """Return what every journal holds, in the order of the workers.

    Raises:
        OSError: A folder can't be listed, or a file not read.

    """
    return {path.name: Survey(path) for path in folders(settings)}


def aside(directory: Path) -> list[Path]:
    """Return the files with damaged and torn pieces that are kept beside the segments."""
    return sorted(path for path in directory.iterdir() if _ASIDE.fullmatch(path.name))
