"""A journal full of events that wait for a sink, each with an id of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import payloads
from micro_events import make_pipeline

from segsrv.delivery import bundle as bundles
from segsrv.delivery.bundle import Limits, batch_of
from segsrv.delivery.cursor import Mark
from segsrv.delivery.source import LeftSource
from segsrv.events import FLAT, Sender, parse
from segsrv.journal import facts
from segsrv.journal.facts import Run
from segsrv.journal.log import SegmentLog
from segsrv.sinks.base import Batch

NAME = "w0"
SEGMENT_BYTES = 64 << 20
KEPT_S = 1e9
"""Nothing is deleted from the journal: each measurement reads it from its beginning."""
BATCH_EVENTS = 100
COMMIT_SINGLES = 64
SENDER = Sender(api_key="bench", address="81.2.69.142", user_agent="analytics-node-next/latest")


def fill(directory: Path, *, events: int, is_single: bool, seed: int = 1) -> list[str]:
    """Write what a server stores of that many events; return their ids.

    A commit holds one batch, or as many single events as come from 64 connections.
    """
    rng, pipeline = random.Random(seed), make_pipeline([])
    clients = payloads.make_clients(rng)
    ids: list[str] = []
    log = _open(directory)
    while len(ids) < events:
        lines: list[bytes] = []
        runs: list[bytes] = []
        left = events - len(ids)
        for _request in range(min(COMMIT_SINGLES, left) if is_single else 1):
            if is_single:
                body = payloads.browser_event(rng, rng.choice(clients))
            else:
                body = payloads.server_batch(rng, clients, events=min(BATCH_EVENTS, left))
            payload = parse(body, batch_events_max=2_500, batch_shared_bytes_max=16 << 20)
            out = pipeline.run(payload, SENDER, FLAT)
            kinds = out.kinds if len(out.types) > 1 else out.kinds[0]
            lengths = list(map(len, out.lines))
            runs.append(
                facts.encode(Run("0123abcd", "flat", out.received_ms, kinds, lengths, out.ids))
            )
            lines += out.lines
            ids += out.ids
        log.append(b"".join(lines), len(lines), facts.join(runs))
    log.close()
    return ids


def open_source(directory: Path) -> LeftSource:
    """Return the journal as delivery takes it."""
    return LeftSource(NAME, _open(directory), retention_s=KEPT_S)


def batches(source: LeftSource, limits: Limits) -> Iterator[Batch]:
    """Yield all events in the batches in which a sink with these limits gets them."""
    marks = {NAME: Mark(0)}
    while (bundle := bundles.read([source], marks, limits)).spans:
        marks = {NAME: bundle.spans[NAME].end}
        if bundle.events:
            yield batch_of(bundle.batch_id(), bundle.slices)


def _open(directory: Path) -> SegmentLog:
    return SegmentLog(
        directory, segment_bytes_max=SEGMENT_BYTES, disk_free_bytes_min=0, is_synced=False
    )
