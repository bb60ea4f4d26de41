"""`segsrv journal inspect`: what the journals hold, and how far behind the sinks are."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segsrv.commands import standing
from segsrv.commands.event_filter import EventFilter, Known
from segsrv.commands.journals import aside, surveys
from segsrv.commands.output import Bar, moment, print_json, print_table, size
from segsrv.commands.parts import load
from segsrv.commands.standing import Lag, Part
from segsrv.journal.survey import Survey, header_of

GROUPS_MAX = 10_000
ID_CHARS = 8
_Group = tuple[str, str, str]


@dataclass(slots=True)
class Count:
    """Events that have key, format and type in common."""

    events: int = 0
    bytes: int = 0
    oldest_ms: int = 0
    newest_ms: int = 0

    def add(self, known: Known) -> None:
        self.events += known.events
        self.bytes += known.bytes
        self.oldest_ms = min(self.oldest_ms or known.received_ms, known.received_ms)
        self.newest_ms = max(self.newest_ms, known.received_ms)


def run_inspect(flags: argparse.Namespace) -> int:
    """Print tables, or one JSON object."""
    settings = load(flags)
    journals = surveys(settings)
    chosen = EventFilter.of(flags)
    with Bar("sinks", sum(survey.bytes for survey in journals.values())) as bar:
        lags = standing.lags(settings, journals, bar)
    parts = standing.parts(settings)
    counts = _count(journals, chosen) if flags.events or chosen else {}
    report = {
        "journals": [_journal(name, survey) for name, survey in journals.items()],
        "sinks": [_lag(lag) for lag in lags],
        "set_aside": [_part(part) for part in parts],
    }
    if flags.segments:
        report["segments"] = [
            row for name, survey in journals.items() for row in _segments(name, survey)
        ]
    if flags.events or chosen:
        report["events"] = [_events(group, count) for group, count in sorted(counts.items())]
    if flags.is_json:
        print_json(report)
    else:
        _print(report)
    return 0


def _print(report: Mapping[str, list[dict[str, Any]]]) -> None:
    is_first = True
    for rows in report.values():
        if not rows:
            continue
        if not is_first:
            print()
        is_first = False
        headers = list(rows[0])
        print_table(
            [header.replace("_", " ") for header in headers],
            [[_shown(header, row[header]) for header in headers] for row in rows],
        )
    if is_first:
        print("no journals")


def _shown(header: str, value: Any) -> Any:
    if header in ("bytes", "behind_bytes", "aside_bytes"):
        return size(value)
    return value[:ID_CHARS] if header == "id" else value


def _journal(name: str, survey: Survey) -> dict[str, Any]:
    kept = aside(survey.directory)
    return {
        "journal": name,
        "id": survey.id,
        "segments": len(survey.segments),
        "first": survey.first,
        "end": survey.end,
        "bytes": survey.bytes,
        "kept_aside": len(kept),
        "oldest": _created(survey),
    }


def _created(survey: Survey) -> str | None:
    if not survey.segments:
        return None
    header = header_of(survey.segments[0])
    return moment(header.created_ms if header else None)


def _segments(name: str, survey: Survey) -> list[dict[str, Any]]:
    rows = []
    for segment, file_bytes in zip(survey.segments, survey.sizes, strict=True):
        header = header_of(segment)
        frames = list(survey.summaries(segment.base, min(segment.end, survey.end)))
        rows.append(
            {
                "journal": name,
                "segment": segment.path.name,
                "bytes": file_bytes,
                "frames": len(frames),
                "events": sum(frame.events for frame in frames),
                "created": moment(header.created_ms if header else None),
            }
        )
    return rows


def _lag(lag: Lag) -> dict[str, Any]:
    return {
        "sink": lag.sink,
        "journal": lag.journal,
        "position": lag.mark.position,
        "behind_events": lag.events,
        "behind_bytes": lag.bytes,
        "behind_s": round(lag.seconds, 1),
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "set_aside_for": part.sink,
        "journal": part.journal,
        "folder": part.folder.name,
        "bytes": part.bytes,
        "time": part.time,
    }


def _count(journals: Mapping[str, Survey], chosen: EventFilter) -> dict[_Group, Count]:
    """Count the events that are meant; those of the first releases are of no known kind."""
    counts: dict[_Group, Count] = {}
    with Bar("events", sum(survey.bytes for survey in journals.values())) as bar:
        for survey in journals.values():
            at = survey.first
            for frame in survey.summaries():
                for known in chosen.known(frame.runs):
                    group = (known.key_id, known.format, known.type)
                    if group not in counts and len(counts) >= GROUPS_MAX:
                        group = ("other", "", "")
                    counts.setdefault(group, Count()).add(known)
                if frame.events and not frame.facts and not chosen:
                    unknown = Known("", "", "", 0, frame.events, frame.end - frame.position)
                    counts.setdefault(("", "", ""), Count()).add(unknown)
                bar.add(frame.end - at)
                at = frame.end
    return counts


def _events(group: _Group, count: Count) -> dict[str, Any]:
    key_id, output, kind = group
    return {
        "key": key_id,
        "format": output,
        "type": kind,
        "events": count.events,
        "bytes": count.bytes,
        "oldest": moment(count.oldest_ms),
        "newest": moment(count.newest_ms),
    }
