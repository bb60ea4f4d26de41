"""A report's samples as Markdown tables, as a page with plots, and as the README's results."""

from __future__ import annotations

import re
import statistics
from html import escape
from typing import TYPE_CHECKING, Any

import aims
import event_path
import latency
import linear
import plots
import soak
from rounds import (
    BASELINE,
    FLOOR,
    NAIVE,
    OURS,
    VICTORIA,
    Rows,
    Samples,
    grid,
    ratios,
    spread,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GENERATOR_SATURATED = 0.95
BEGIN = "<!-- Made by `python bench/report.py --write-readme`: do not edit by hand. -->"
END = "<!-- The end of what it made. -->"
SHOWN = {OURS: "segsrv", BASELINE: "empty aiohttp handler"}
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;margin:1em 0;font-size:13px}td,th{border:1px solid #ccc;
padding:3px 8px;text-align:left}svg{margin:0 1em 1em 0}svg text{font:11px sans-serif}
svg .title{font:bold 14px sans-serif}svg .x{text-anchor:middle}svg .y{text-anchor:end}
pre{background:#f4f4f4;padding:.7em;overflow-x:auto}"""


def trials_table(rows: Rows) -> str:
    """Render each server under each load: rate, CPU, ratios to the baseline and the floor."""
    head = ["load", "connections", "heads", "server", "a 200 means", "events/s (min to max)"]
    head += ["CPU µs an event", "of baseline", "orjson's CPU ÷ its own", "p50 / p99 / p99.9 ms"]
    head += ["generator CPU", "server core", "MiB", "readable after", "lost"]
    samples, table = Samples(rows), []
    for key in dict.fromkeys(
        (row["shape"], row["connections"], row["heads"], row["server"]) for row in rows
    ):
        shape, connections, heads, server = key
        group = [
            row
            for row in rows
            if (row["shape"], row["connections"], row["heads"], row["server"]) == key
        ]

        def median(name: str, group: Rows = group) -> float:
            return statistics.median(float(row[name]) for row in group)

        is_floor = server == FLOOR
        # The floor's CPU over the server's: 1 would be as cheap as parsing alone.
        floor = ratios(samples.of(FLOOR, shape), group, "cpu_us")
        stored = group[0]["events_stored"] is not None
        times = " / ".join(f"{median(name):.1f}" for name in ("p50_ms", "p99_ms", "p999_ms"))
        waits = [row["readable_after_s"] for row in group]
        readable = "never" if None in waits else f"{max(wait or 0 for wait in waits):.1f} s"
        lost = sum(
            max(0, row["events_acknowledged"] - (row["events_stored"] or 0)) for row in group
        )
        cells = [shape, "" if is_floor else str(connections), "" if is_floor else heads]
        cells += [SHOWN.get(server, server), group[0]["meaning"]]
        cells += [spread([row["events_per_s"] for row in group], 0), f"{median('cpu_us'):.1f}"]
        cells.append(
            "" if is_floor else spread(ratios(group, samples.of(BASELINE, shape, connections)))
        )
        cells.append("" if is_floor else spread(floor))
        cells += (
            [""] * 4
            if is_floor
            else [
                times,
                # A busy generator means that the server could take more than the figure says.
                f"{median('generator_cpu'):.0%}"
                + (" (saturated)" if median("generator_cpu") >= GENERATOR_SATURATED else ""),
                f"{median('server_core_busy'):.0%}",
                f"{median('memory_mib'):.0f}",
            ]
        )
        table.append([*cells, readable if stored else "", str(lost) if stored else ""])
    return grid(head, table)


def sections(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return each part's title and Markdown."""
    parts = report["parts"]
    made = [("Aims", aims.table(report))]
    renders: dict[str, tuple[str, Callable[[Rows], str]]] = {
        "micro": (
            "Event path alone",
            lambda rows: event_path.table([event_path.Cost(**row) for row in rows]),
        ),
        "linear": (
            "Cost by size",
            lambda rows: linear.table([linear.Point(**row) for row in rows]),
        ),
        "saturation": ("Full load", trials_table),
        "connections": ("Full load by connections", trials_table),
        "batches": ("Full load by events in a batch", trials_table),
        "durability": ("Full load by durability", trials_table),
        "workers": ("Workers", trials_table),
        "latency": (
            "Latency at fixed rates",
            lambda rows: latency.table([latency.Latency(**row) for row in rows]),
        ),
        "memory": (
            "Memory over time",
            lambda rows: soak.table([soak.Sample(**row) for row in rows]),
        ),
    }
    return made + [
        (title, render(parts[name])) for name, (title, render) in renders.items() if parts.get(name)
    ]


def markdown(report: dict[str, Any]) -> str:
    lines = [f"* {name}: {text}" for name, text in report["machine"].items()]
    for title, text in sections(report):
        lines += ["", f"### {title}", "", text]
    problems = report["problems"] or ["no failed request, no lost, doubled or unreadable event"]
    return "\n".join([*lines, "", *problems])


def drawings(report: dict[str, Any]) -> list[str]:
    parts = report["parts"]
    rate, ms = plots.Axis(label="events/s"), plots.Axis(label="ms", is_log=True)

    def by(part: str, name: str, value: str, servers: dict[str, str]) -> dict[str, plots.Points]:
        return {
            shown: [
                (row[name], row[value]) for row in parts.get(part, []) if row["server"] == server
            ]
            for server, shown in servers.items()
        }

    compared = {OURS: "segsrv", BASELINE: "empty aiohttp handler"}
    count = plots.Axis(label="connections", is_log=True)
    events = plots.Axis(label="events in a batch", is_log=True)
    late = latency_medians(parts.get("latency", []))
    quantiles = {
        name: [(row["rate"], row[f"{key}_ms"]) for row in late]
        for name, key in (
            ("p50", "p50"),
            ("p99", "p99"),
            ("p99.9", "p999"),
            ("disk's p99", "disk_p99"),
        )
    }
    memory = parts.get("memory", [])
    processes = {
        f"process {pid}": [(row["at_s"] / 60, row["mib"]) for row in memory if row["pid"] == pid]
        for pid in dict.fromkeys(row["pid"] for row in memory)
    }
    cpu = plots.Axis(label="CPU µs an event")
    return [
        plots.lines(
            "Single events by connections",
            by("connections", "connections", "events_per_s", compared),
            count,
            rate,
        ),
        plots.lines(
            "Batches by size",
            by("batches", "events", "events_per_s", {OURS: "segsrv"}),
            events,
            rate,
        ),
        plots.lines(
            "Cost by size of batch",
            by("batches", "events", "cpu_us", {OURS: "segsrv", FLOOR: FLOOR}),
            events,
            cpu,
        ),
        plots.lines(
            "Latency by load, single events", quantiles, plots.Axis(label="requests/s"), ms
        ),
        plots.lines(
            "Anonymous memory over time",
            processes,
            plots.Axis(label="minutes"),
            plots.Axis(label="MiB"),
        ),
        bars("Single events by durability", parts.get("durability", []), "single"),
        bars("Batches by durability", parts.get("durability", []), "batch"),
        bars("Single events by workers", parts.get("workers", []), "single"),
        bars("Batches by workers", parts.get("workers", []), "batch"),
    ]


def latency_medians(rows: Rows) -> Rows:
    """Return one row for each share of saturation, of medians over its rounds."""
    names = ("rate", "p50_ms", "p99_ms", "p999_ms", "disk_p99_ms")
    shares: dict[float, Rows] = {}
    for row in rows:
        shares.setdefault(row["share"], []).append(row)
    return [
        {name: statistics.median(row[name] for row in group) for name in names}
        for group in shares.values()
    ]


def bars(title: str, rows: Rows, shape: str) -> str:
    """Draw the median rate of each server of a part."""
    rates: dict[str, list[float]] = {}
    for row in rows:
        if row["shape"].startswith(shape) and row["server"] != FLOOR:
            rates.setdefault(row["server"], []).append(row["events_per_s"])
    return plots.bars(title, {name: statistics.median(some) for name, some in rates.items()})


def page(report: dict[str, Any]) -> str:
    """Return one HTML page that needs nothing else."""
    facts = "\n".join(f"{name}: {text}" for name, text in report["machine"].items())
    parts = [f"<h2>{escape(title)}</h2>\n{html_tables(text)}" for title, text in sections(report)]
    problems = "\n".join(report["problems"]) or "no failed request, no lost or doubled event"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>segsrv: benchmarks</title>
<style>{STYLE}</style></head><body>
<h1>segsrv: benchmarks</h1>
<pre>{escape(facts)}</pre>
<p>{escape(problems)}</p>
{"".join(drawings(report))}
{"".join(parts)}
</body></html>
"""


def html_tables(text: str) -> str:
    """Turn Markdown that has nothing but tables and paragraphs into HTML."""
    made = []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if len(lines) < 2 or not lines[1].startswith("|---"):
            made.append(f"<p>{escape(block)}</p>")
            continue
        cells = [[cell.strip() for cell in line.strip("| ").split(" |")] for line in lines]
        rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in cells[2:]]
        head = "".join(f"<th>{escape(cell)}</th>" for cell in cells[0])
        body = "".join(f"<tr>{row}</tr>\n" for row in rows)
        made.append(f"<table><tr>{head}</tr>\n{body}</table>")
    return "\n".join(made)


def readme_table(report: dict[str, Any]) -> str:
    """Render the results that the README shows, and below them how they came about.

    Raises:
        ValueError: Full load was not measured.
    """
    samples = Samples(report["parts"].get("saturation", []))
    if not samples.of(OURS, "single"):
        raise ValueError("the README's table needs the part saturation")
    head = ["one core, events of ~1 KB", "events/s", "CPU µs an event"]
    head += ["requests/s ÷ empty aiohttp handler", "orjson's CPU ÷ its own"]
    head += ["a 200 means", "readable after", "lost"]
    rows = []
    for server in (OURS, NAIVE, VICTORIA):
        for shape, name in (("single", "one a request"), ("batch", "100 a request")):
            group = samples.of(server, shape)
            if not group:
                continue
            rate = statistics.median(row["events_per_s"] for row in group)
            cpu = statistics.median(row["cpu_us"] for row in group)
            ratio = statistics.median(ratios(group, samples.of(BASELINE, shape)) or [0])
            after = max(row["readable_after_s"] or 0 for row in group)
            lost = sum(max(0, row["events_acknowledged"] - row["events_stored"]) for row in group)
            cells = [f"{SHOWN.get(server, server)}, {name}", f"{rate:,.0f}", f"{cpu:.1f}"]
            floor = ratios(samples.of(FLOOR, shape), group, "cpu_us")
            cells += [f"{ratio:.2f}", f"{statistics.median(floor or [0]):.2f}"]
            cells += [group[0]["meaning"], f"{after:.1f} s", f"{lost:,}"]
            rows.append(cells)
    facts = report["machine"]
    text = (
        f"{facts['python']}, {facts['cpu']}; {facts['date'].split()[0]}, commit {facts['commit']}; "
        f"64 connections, medians of {report['rounds']} rounds in turns; ratios within rounds. "
        "*orjson's CPU* is what `loads` and `dumps` of the same bodies take; *readable after* is "
        "how long after the load's end the last event could be read. "
        "`python bench/report.py` repeats it; `bench/README.md` says how."
    )
    return f"{grid(head, rows)}\n\n{text}"


def write_readme(path: Path, report: dict[str, Any]) -> None:
    """Put the table of results between its two marks in the file at *path*.

    Raises:
        ValueError: The marks are not there, or full load was not measured.
    """
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{path} has no place for the results between its two marks")
    made = f"{BEGIN}\n{readme_table(report)}\n{END}"
    path.write_text(
        re.sub(re.escape(BEGIN) + ".*" + re.escape(END), lambda _: made, text, flags=re.DOTALL)
    )
