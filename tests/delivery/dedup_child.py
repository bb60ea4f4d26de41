"""Delivers batches of repeated ids for ever, through an index, until it is killed.

    python dedup_child.py FOLDER

A batch's events depend on its number only. What was decided is written down before the next batch,
as delivery does with a cursor: `N` holds the mask of batch N.
"""

import random
import sys
from pathlib import Path

from segsrv.delivery.dedup import DedupIndex, Sent
from segsrv.files import replace_file

IDS_MAX = 3_000
EVENTS = 400


def batch(number: int) -> list[Sent]:
    """Return a request of *number*'s journal, in which most ids were in batches before."""
    rng = random.Random(number)
    ids = [f"id-{rng.randrange(number * 100 + 200)}" for _ in range(EVENTS)]
    start = number * EVENTS
    return [Sent("web", "flat", number, str(number % 2), ids, range(start, start + EVENTS))]


def open_index(folder: Path) -> DedupIndex:
    return DedupIndex(folder / "index", window_s=1e9, ids_max=IDS_MAX)


def next_number(folder: Path) -> int:
    return 1 + max((int(path.name) for path in folder.glob("[0-9]*[0-9]")), default=-1)


def deliver(folder: Path, index: DedupIndex, number: int) -> None:
    mask = index.judge(batch(number))
    assert index.sync()
    replace_file(folder / f"{number}", mask, is_synced=False)
    index.settle()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    index = open_index(folder)
    sys.stdout.write("open\n")
    sys.stdout.flush()
    number = next_number(folder)
    while True:
        deliver(folder, index, number)
        number += 1
