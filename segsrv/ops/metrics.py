"""The metrics of a process as Prometheus text; with several workers, of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import CollectorRegistry

from segsrv.delivery.station import Station
from segsrv.errors import Unavailable
from segsrv.events.counters import AnswersKey, Counters
from segsrv.events.lookups import Hits
from segsrv.events.user_agents import UserAgents
from segsrv.geoip.databases import Databases
from segsrv.journal.dead_letters import DeadLetters
from segsrv.journal.group_commit import GroupCommit
from segsrv.ops.family import Family, counter, gauge, histogram
from segsrv.ops.peers import Peers, Report
from segsrv.ops.process_figures import ProcessFigures
from segsrv.ops.sink_metrics import sink_families, sink_letters

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
KEYS_SHOWN_MAX = 1_000
"""Each is a series, and more with every other label, that somebody has to store."""
OTHER_KEYS = "other"


NO_ANSWERS = dict.fromkeys((200, 400, 401, 429, 500, 503), 0)
"""A counter that first appears with its first answer has not grown for Prometheus."""


class KeyLabels:
    """Gives keys their labels: the first *keys_max* that are used their ids, all others one."""

    def __init__(self, keys_max: int = KEYS_SHOWN_MAX) -> None:
        self._keys_max = keys_max
        self._shown: set[str] = set()

    def of(self, key_id: str) -> str:
        shown = self._shown
        if key_id not in shown and len(shown) < self._keys_max:
            shown.add(key_id)
        return key_id if key_id in shown else OTHER_KEYS


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
        self._key_labels = KeyLabels()
        self._figures = ProcessFigures(self._letters)

    def render(self, own: list[Family], others: Mapping[str, Report]) -> bytes:
        """Return *own* figures and those of *others*, by their names, as Prometheus text."""
        merged: dict[str, Metric] = {}
        reported = {
            name: [*report["families"], age_family(report["age_s"])]
            for name, report in others.items()
        }
        for reporter, families in ({self._peers.name: [*own, age_family(0.0)]} | reported).items():
            for name, kind, text, samples in families:
                metric = merged.setdefault(name, Metric(name, text, kind))
                for suffix, labels, value in samples:
                    metric.add_sample(name + suffix, {**labels, "worker": reporter}, value)
        registry = CollectorRegistry()
        registry.register(_Fixed(merged.values()))
        return generate_latest(registry)

    async def families(self) -> list[Family]:
        """Return this worker's figures."""
        await self._figures.look()
        # Taken here: in a thread the counters might grow while they are read.
        return list(self._families())

    def _families(self) -> Iterator[Family]:
        counters = self._counters
        yield counter(
            "requests",
            "Ingest requests by the status of their answer.",
            (
                ({"status": str(status)}, count)
                for status, count in (NO_ANSWERS | counters.ingest_statuses()).items()
            ),
        )
        yield counter(
            "answers",
            "All answers, by code, status, kind of path and key id.",
            (
                ({"code": code, "status": str(status), "path": path, "key": key_id}, count)
                for (code, status, path, key_id), count in self._answers().items()
            ),
        )
        yield histogram(
            "request_seconds",
            "Time from the last byte of a body with events to its answer.",
            counters.request_seconds,
        )
        yield from event_families(counters, self._key_labels)
        yield counter(
            "set_aside",
            "Batch items that were set aside, by reason.",
            (({"reason": reason}, count) for reason, count in list(counters.set_aside.items())),
        )
        yield from self._cache_families()
        yield from self._journal_families()
        if self._station.delivery is not None:
            yield from sink_families(self._station.delivery)
        yield from self._figures.families()

    def _letters(self) -> dict[str, DeadLetters]:
        station = self._station
        letters = {} if station.delivery is None else sink_letters(station.delivery)
        return letters if station.commit is None else {"": station.commit.dead_letters, **letters}

    def _answers(self) -> Counter[AnswersKey]:
        answers: Counter[AnswersKey] = Counter()
        for (code, status, path, key_id), count in list(self._counters.answers.items()):
            answers[code, status, path, self._key_labels.of(key_id)] += count
        return answers

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
            "journal_undelivered_bytes",
            "Bytes in journal files that a sink still has to get.",
            [({}, commit.undelivered_bytes)],
        )
        yield gauge(
            "journal_max_bytes",
            "Undelivered bytes at which a journal takes no more events.",
            [({}, self._station.settings.journal_bytes_max)],
        )
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
        yield histogram("commit_seconds", "Time of a group commit.", stats.seconds)


def event_families(counters: Counters, labels: KeyLabels) -> Iterator[Family]:
    """Return what was accepted, by format and type, and by key."""
    by_type: Counter[tuple[str, str]] = Counter()
    by_key: Counter[str] = Counter()
    for (output, kind, key_id), count in list(counters.events.items()):
        by_type[output, kind] += count
        by_key[labels.of(key_id)] += count
    yield counter(
        "events",
        "Events accepted, by Segment type and stored format.",
        (({"format": output, "type": kind}, by_type[output, kind]) for output, kind in by_type),
    )
    yield counter(
        "key_events",
        "Events accepted, by key id.",
        (({"key": key_id}, count) for key_id, count in by_key.items()),
    )


def age_family(age_s: float) -> Family:
    return gauge(
        "report_age_seconds",
        "Time since a process told these figures to the one that answers.",
        [({}, age_s)],
    )


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
