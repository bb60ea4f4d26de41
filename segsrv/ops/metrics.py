"""The metrics of a process as Prometheus text; with several workers, of all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import CollectorRegistry

from segsrv.delivery.station import Station
from segsrv.errors import Unavailable
from segsrv.events.counters import Counters
from segsrv.events.lookups import Hits
from segsrv.events.user_agents import UserAgents
from segsrv.geoip.databases import Databases
from segsrv.journal.commit_stats import COMMIT_SECONDS_BOUNDS
from segsrv.journal.group_commit import GroupCommit
from segsrv.ops.family import Family, Sample, counter, gauge
from segsrv.ops.peers import Peers, Report
from segsrv.ops.sink_metrics import sink_families

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Collects this process's counters, and those that the other processes reported."""

    def __init__(
        self,
        counters: Counters,
        station: Station,
        user_agents: UserAgents,
        databases: Databases,
        peers: Peers,
        hits: Hits,
    ) -> None:
        self._counters = counters
        self._station = station
        self._user_agents = user_agents
        self._databases = databases
        self._peers = peers
        self._hits = hits

    def render(self, own: list[Family], others: Mapping[str, Report]) -> bytes:
        """Return *own* figures and those of *others*, by their names, as Prometheus text."""
        merged: dict[str, Metric] = {}
        reported = {name: report["families"] for name, report in others.items()}
        for reporter, families in ({self._peers.name: own} | reported).items():
            for name, kind, text, samples in families:
                metric = merged.setdefault(name, Metric(name, text, kind))
                for suffix, labels, value in samples:
                    metric.add_sample(name + suffix, {**labels, "worker": reporter}, value)
        registry = CollectorRegistry()
        registry.register(_Fixed(merged.values()))
        return generate_latest(registry)

    def families(self) -> list[Family]:
        """Return this worker's figures."""
        return list(self._families())

    def _families(self) -> Iterator[Family]:
        counters = self._counters
        yield counter(
            "requests",
            "Ingest requests by the status of their answer.",
            (
                ({"status": str(status)}, count)
                for status, count in counters.ingest_statuses().items()
            ),
        )
        yield counter(
            "answers",
            "All answers, by code, status, kind of path and key id.",
            (
                ({"code": code, "status": str(status), "path": path, "key": key_id}, count)
                for (code, status, path, key_id), count in list(counters.answers.items())
            ),
        )
        yield counter(
            "events",
            "Events accepted, by Segment type and stored format.",
            (
                ({"format": output, "type": kind}, count)
                for (output, kind), count in list(counters.events.items())
            ),
        )
        yield counter(
            "set_aside",
            "Batch items that were set aside, by reason.",
            (({"reason": reason}, count) for reason, count in list(counters.set_aside.items())),
        )
        yield from self._cache_families()
        yield from self._journal_families()
        if self._station.delivery is not None:
            yield from sink_families(self._station.delivery)

    def _cache_families(self) -> Iterator[Family]:
        # What the pipeline found among the latest look-ups never came to the caches behind it.
        info, latest = self._user_agents.cached.cache_info(), self._hits
        locations = latest.locations if self._databases.paths else 0
        hits = (
            ({"cache": "user_agent"}, info.hits + latest.user_agents),
            ({"cache": "geoip"}, self._databases.hits + locations),
        )
        misses = (
            ({"cache": "user_agent"}, info.misses),
            ({"cache": "geoip"}, self._databases.misses),
        )
        yield counter("cache_hits", "Look-ups answered from a cache.", hits)
        yield counter("cache_misses", "Look-ups that were computed.", misses)
        yield counter("geoip_reloads", "GeoIP databases replaced.", [({}, self._databases.reloads)])

    def _journal_families(self) -> Iterator[Family]:
        commit = self._station.commit
        if commit is None:
            return
        stats = commit.stats
        yield gauge("journal_bytes", "Bytes in journal files.", [({}, commit.held_bytes)])
        yield gauge(
            "journal_pending_bytes", "Bytes that wait for a commit.", [({}, commit.pending_bytes)]
        )
        yield gauge("journal_ready", "1 while the journal takes events.", [({}, _is_ready(commit))])
        yield counter(
            "journal_damaged_frames",
            "Damaged pieces set aside, and files that were removed.",
            [({}, commit.log.damaged_frames)],
        )
        yield counter(
            "journal_torn_tails",
            "Commits that a crash left unfinished, cut off at the start.",
            [({}, commit.log.torn_tails)],
        )
        yield counter("commit_failures", "Commits that the disk refused.", [({}, stats.failures)])
        yield counter("commit_events", "Events in commits.", [({}, stats.events)])
        bounds = [*map(str, COMMIT_SECONDS_BOUNDS), "+Inf"]
        buckets: list[Sample] = [
            ("_bucket", {"le": bound}, float(count))
            for bound, count in zip(bounds, itertools.accumulate(stats.seconds_counts), strict=True)
        ]
        buckets += [("_count", {}, float(stats.commits)), ("_sum", {}, stats.seconds_sum)]
        yield "segsrv_commit_seconds", "histogram", "Time of a group commit.", buckets


def _is_ready(commit: GroupCommit) -> bool:
    try:
        commit.check()
    except Unavailable:
        return False
    return True


class _Fixed:
    """A collector of metrics that are there already, as prometheus_client wants one."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> list[Metric]:
        return self._metrics
