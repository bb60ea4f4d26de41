"""The figures of delivery, for metrics and for `/ready`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from segsrv.delivery.delivery import Delivery
from segsrv.delivery.shipper import Shipper
from segsrv.journal.dead_letters import DeadLetters
from segsrv.ops.family import Family, counter, gauge
from segsrv.ops.process_figures import ProcessFigures
from segsrv.sinks.base import Sink

_COUNTERS: tuple[tuple[str, str, Callable[[Shipper], float]], ...] = (
    ("events", "Events delivered.", lambda shipper: shipper.stats.events),
    ("batches", "Batches delivered.", lambda shipper: shipper.stats.batches),
    ("retries", "Tries that failed.", lambda shipper: shipper.failures),
    (
        "rejected_events",
        "Events that a sink refused for good.",
        lambda shipper: shipper.rejects.events,
    ),
    (
        "filtered_events",
        "Events that a sink's filter left out.",
        lambda shipper: shipper.stats.filtered_events,
    ),
)
_DEDUP_COUNTERS: tuple[tuple[str, str, str], ...] = (
    ("duplicates", "duplicates", "Events left out as repetitions of earlier ones."),
    ("dedup_evicted_early", "evicted_early", "Ids forgotten within the window, for want of room."),
    ("dedup_unrecorded", "unrecorded", "Events whose ids the disk did not take."),
    ("dedup_damaged", "damaged", "Ids lost to damage."),
)
_TRANSFORM_COUNTERS: tuple[tuple[str, str, str], ...] = (
    ("transformed_events", "events", "Events that transformations were asked about."),
    ("transform_changed_events", "changed", "Events that transformations changed."),
    ("transform_dropped_events", "dropped", "Events that transformations dropped."),
    ("transform_made_events", "made", "Events that transformations made beside the first of each."),
    ("transform_set_aside_events", "set_aside", "Events set aside as transformations failed."),
    ("transform_restarts", "restarts", "Processes of transformations that ended, or were ended."),
    ("transform_reloads", "reloads", "Changes of transformations' files that took effect."),
)


def delivery_figures(delivery: Delivery) -> ProcessFigures:
    """Return the system's figures of a process that delivers and does nothing else."""
    return ProcessFigures(lambda: sink_letters(delivery))


def sink_letters(delivery: Delivery) -> dict[str, DeadLetters]:
    """Return the dead letters of all sinks."""
    return {shipper.name: shipper.rejects.dead_letters for shipper in delivery.shippers}


async def delivery_report(delivery: Delivery, figures: ProcessFigures) -> dict[str, Any]:
    """Return what the process that delivers tells those that answer for it."""
    await figures.look()
    return {
        "sinks": delivery.report(),
        "families": [*sink_families(delivery), *figures.families()],
    }


def sink_families(delivery: Delivery) -> Iterator[Family]:
    """Return the metrics of all sinks."""
    shippers = delivery.shippers
    yield from _lag_families(delivery)
    yield gauge(
        "sink_up",
        "1 while a sink takes batches.",
        _by_sink(shippers, lambda shipper: not shipper.is_failing),
    )
    yield gauge(
        "sink_misconfigured",
        "1 while a sink takes nothing as it is configured.",
        _by_sink(shippers, lambda shipper: shipper.state == "misconfigured"),
    )
    for name, text, figure in _COUNTERS:
        yield counter(f"sink_{name}", text, _by_sink(shippers, figure))
    yield counter(
        "sink_own",
        "What a kind of sink counts by itself, such as files that it deleted.",
        [
            ({"sink": shipper.name, "count": field}, value)
            for shipper in shippers
            for field, value in _own_counts(shipper.sink).items()
        ],
    )
    yield from _dedup_families(shippers)
    yield from _transform_families(shippers)
    aside = delivery.set_aside_bytes()
    if aside:
        yield gauge(
            "sink_set_aside_bytes",
            "Journal bytes set aside for a sink that lagged too far.",
            (({"sink": name}, held) for name, (held, _lost) in aside.items()),
        )
        yield counter(
            "sink_set_aside_lost_bytes",
            "Bytes set aside that had to go for want of room.",
            (({"sink": name}, lost) for name, (_held, lost) in aside.items()),
        )
    yield counter(
        "delivery_damaged_frames",
        "Damaged pieces met while reading journals, and files that were removed.",
        (({"journal": source.name}, source.damaged_frames) for source in delivery.sources),
    )


def _lag_families(delivery: Delivery) -> Iterator[Family]:
    shippers = delivery.shippers
    yield gauge(
        "sink_lag_bytes",
        "Journal bytes that a sink does not have yet.",
        _by_sink(shippers, lambda shipper: shipper.lag_bytes),
    )
    yield gauge(
        "sink_lag_max_bytes",
        "What a sink may lack before its on_full decides, in bytes.",
        (({"sink": built.name}, built.config.lag_bytes_max) for built in delivery.built),
    )
    yield gauge(
        "sink_lag_events",
        "Events that a sink does not have yet, estimated from lag_bytes and the events read last.",
        _by_sink(shippers, lambda shipper: shipper.standing.lag_events),
    )
    yield gauge(
        "sink_lag_seconds",
        "Age of the oldest event that is being delivered.",
        _by_sink(shippers, lambda shipper: shipper.lag_s),
    )
    yield gauge(
        "sink_events_per_second",
        "Events delivered a second, over the last half minute.",
        (({"sink": name}, progress.events_per_s) for name, progress in delivery.progress.items()),
    )
    yield gauge(
        "sink_eta_seconds",
        "Time until a sink has all, if it goes on like this; none while its lag doesn't shrink.",
        (
            ({"sink": name}, progress.eta_s)
            for name, progress in delivery.progress.items()
            if progress.eta_s is not None
        ),
    )


def _dedup_families(shippers: Iterable[Shipper]) -> Iterator[Family]:
    judged = [
        (shipper.name, shipper.judge.index)
        for shipper in shippers
        if shipper.judge is not None and shipper.judge.index is not None
    ]
    if judged:
        yield gauge(
            "sink_dedup_ids",
            "Ids in a sink's deduplication index.",
            (({"sink": name}, index.ids) for name, index in judged),
        )
        for name, field, text in _DEDUP_COUNTERS:
            yield counter(
                f"sink_{name}",
                text,
                [({"sink": sink}, getattr(index, field)) for sink, index in judged],
            )


def _transform_families(shippers: Iterable[Shipper]) -> Iterator[Family]:
    transforming = [
        (shipper.name, shipper.transforming.stats)
        for shipper in shippers
        if shipper.transforming is not None and shipper.transforming.has_functions
    ]
    if transforming:
        for name, field, text in _TRANSFORM_COUNTERS:
            yield counter(
                f"sink_{name}",
                text,
                [({"sink": sink}, getattr(stats, field)) for sink, stats in transforming],
            )


def _own_counts(sink: Sink) -> dict[str, int]:
    stats = getattr(sink, "stats", None)
    return dataclasses.asdict(stats) if dataclasses.is_dataclass(stats) else {}  # type: ignore[arg-type]


def _by_sink(
    shippers: Iterable[Shipper], figure: Callable[[Shipper], float]
) -> list[tuple[dict[str, str], float]]:
    return [({"sink": shipper.name}, figure(shipper)) for shipper in shippers]
