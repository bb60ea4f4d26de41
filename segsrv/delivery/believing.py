"""What a sink says it has stored, and how much of that is believed.

A sink's word counts more than the cursor, which may be lost. But a directory that was put back to
what it was before, from a snapshot or a backup, has other events where its sinks have been already:
they were accepted later. They are in segments that were begun later, too, since every start begins
one. So a position is believed only if the segment before it was there when the sink's last batch
was planned, which the batch's id says; each batch tells all positions, so that none is older.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from segsrv.delivery.bundle import planned_ms
from segsrv.delivery.cursor import Mark
from segsrv.delivery.standing import Standing
from segsrv.journal import segments
from segsrv.sinks.base import Delivered

logger = logging.getLogger(__name__)

IsOurs = Callable[[str, int, int], bool]
"""Says whether what stands before a position of a journal, given by its name, stood there already
at a time, in ms since 1970; raises OSError."""


def believed(standing: Standing, delivered: Delivered, is_ours: IsOurs) -> dict[str, Mark]:
    """Return where to go on in the journals of which the sink has more than *standing* says.

    Raises:
        OSError: The disk refused to read.

    """
    marks = {}
    for name, mark in standing.marks().items():
        source = standing.sources[name]
        end = Mark(*delivered.ends.get(source.id, mark))
        if end <= mark:
            continue
        if end.position <= source.end and is_ours(
            name, end.position, planned_ms(delivered.batch_id)
        ):
            marks[name] = end
        else:
            logger.warning(
                "sink: has events of another past, all that the cursor says goes out journal=%s",
                name,
            )
    return marks


def stood_at(directory: Path, position: int, time_ms: int) -> bool:
    """Say whether the journal's segment before *position* was begun by *time_ms*.

    Raises:
        OSError: The disk refused to read.

    """
    before = [segment for segment in segments.find(directory).segments if segment.base < position]
    return bool(before) and segments.created_ms(before[-1]) <= time_ms
