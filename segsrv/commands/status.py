"""`segsrv status`: how a server on this machine is, on one screen."""

from __future__ import annotations

import argparse
import time
from typing import Any

from segsrv.commands.output import print_json, print_table, size
from segsrv.commands.parts import add_common_flags, guarded, load
from segsrv.live.reports import Reports

NOT_READY = 1
RATE_S = 2.5
"""Over so long rates are taken; processes report once a second."""
REFUSED_SHOWN_MAX = 5
SINK_FIELDS = (
    *("name", "process", "state", "lag_events", "lag_bytes", "lag_s", "events_per_s"),
    "message",
)


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the parser."""
    text = "say how the server on this data directory is: workers, sinks, keys, refusals"
    parser = commands.add_parser("status", help=text, description=text, allow_abbrev=False)
    add_common_flags(parser)
    parser.add_argument("--json", action="store_true", dest="is_json", help="for scripts")
    parser.set_defaults(run=guarded(run))


def run(flags: argparse.Namespace) -> int:
    """Print it; return 0 if every worker that runs takes events, else 1."""
    settings = load(flags)
    reports = Reports(settings.data_dir)
    reports.read()
    before, began_s = _counted(reports), time.monotonic()
    if reports.by_name:
        time.sleep(RATE_S)
        reports.read()
    status = _status(reports, before, time.monotonic() - began_s)
    if flags.is_json:
        print_json(status)
    else:
        _print(status)
    is_ready = all(worker["ready"] for worker in status["workers"])
    return 0 if status["workers"] and is_ready else NOT_READY


def _counted(reports: Reports) -> dict[str, dict[str, float]]:
    return {
        "keys": reports.total("segsrv_key_events", "key"),
        "types": reports.total("segsrv_events", "type"),
        "answers": reports.total("segsrv_answers", "code"),
    }


def _status(
    reports: Reports, before: dict[str, dict[str, float]], passed_s: float
) -> dict[str, Any]:
    counted = _counted(reports)
    refused = [
        {**one, "worker": name}
        for name, report in reports.workers.items()
        for one in report.get("refused", ())
    ]
    refused.sort(key=lambda one: one["at_ms"])
    return {
        "workers": [
            {
                "worker": name,
                "pid": report.get("pid"),
                "ready": report["ready"]["ready"],
                "message": report["ready"].get("message", ""),
                "undelivered_bytes": report["ready"].get("undelivered_bytes"),
            }
            for name, report in reports.workers.items()
        ],
        "sinks": [{name: sink[name] for name in SINK_FIELDS} for sink in reports.sinks()],
        **{
            group: [
                {
                    group[:-1]: name,
                    "total": int(total),
                    "per_s": round((total - before[group].get(name, 0.0)) / passed_s, 1),
                }
                for name, total in sorted(found.items())
                if total
            ]
            for group, found in counted.items()
        },
        "refused": refused[-REFUSED_SHOWN_MAX:],
    }


def _print(status: dict[str, Any]) -> None:
    if not status["workers"]:
        print("no server runs on this data directory")
        return
    is_first = True
    for group, rows in status.items():
        if not rows:
            continue
        if not is_first:
            print()
        is_first = False
        headers = [name for name in rows[0] if name not in ("kind", "number", "excerpt", "path")]
        print_table(
            ["time" if name == "at_ms" else name.replace("_", " ") for name in headers],
            [[_cell(name, row[name]) for name in headers] for row in rows],
        )
        if group == "refused":
            print("segsrv tail --refused shows what was in them")


def _cell(name: str, value: Any) -> Any:
    if name == "at_ms":
        return time.strftime("%H:%M:%S", time.localtime(value / 1_000))
    if name.endswith("_bytes") and value is not None:
        return size(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value
