"""Events for the tests of deduplication, and what a judgement says of them."""

from pathlib import Path

from segsrv.delivery.dedup import DedupIndex, Sent

JOURNAL = "1" * 32
OTHER_JOURNAL = "2" * 32
NOON_MS = 1_700_000_000_000
WINDOW_S = 3_600


def open_index(directory: Path, *, ids_max: int = 600, **options) -> DedupIndex:
    options.setdefault("window_s", WINDOW_S)
    return DedupIndex(directory, ids_max=ids_max, **options)


def sent(
    *ids: str,
    position: int = 0,
    key: str = "web",
    output: str = "flat",
    journal: str = JOURNAL,
    after_s: float = 0,
) -> Sent:
    """Return a request of events with *ids*, the first of them at *position*."""
    received_ms = NOON_MS + int(after_s * 1000)
    positions = range(position, position + len(ids))
    return Sent(key, output, received_ms, journal, ids, positions)


def kept(index: DedupIndex, *events: Sent) -> list[str]:
    """Judge *events* and return the ids that are kept, in order."""
    mask = index.judge(events)
    ids = [event_id for each in events for event_id in each.ids]
    return [event_id for event_id, is_kept in zip(ids, mask, strict=True) if is_kept]


def deliver(index: DedupIndex, *events: Sent) -> list[str]:
    """Judge *events*, with all that delivery does for a batch, and return the ids that are kept."""
    ids = kept(index, *events)
    assert index.sync()
    index.settle()
    return ids
