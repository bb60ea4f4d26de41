"""What the processes of a server say of themselves, read from outside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segsrv.ops.peers import DELIVERY, SILENT_S, Report, read_report

Labels = dict[str, str]


class Reports:
    """Reads the reports of a data directory; `read` again for newer ones."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "state" / "metrics"
        self.by_name: dict[str, Report] = {}

    def read(self) -> None:
        """Read those of the processes that run: `w0` and so on, and `delivery`.

        Raises:
            OSError: The folder can't be listed.

        """
        # This clock is the same in all processes, and begins anew with the machine.
        now_s = time.monotonic()
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            report = read_report(path)
            if report is not None and 0 <= now_s - report["monotonic_s"] <= SILENT_S:
                found[path.stem] = report
        self.by_name = found

    @property
    def workers(self) -> dict[str, Report]:
        return {name: one for name, one in self.by_name.items() if name != DELIVERY}

    def sinks(self) -> list[dict[str, Any]]:
        """Return how each sink is, as its own process says; one entry a worker or one in all."""
        return [
            {**sink, "process": name}
            for name, report in self.by_name.items()
            for sink in report.get("sinks", ())
        ]

    def samples(self, metric: str, suffix: str = "") -> Iterator[tuple[Labels, float]]:
        """Yield the samples of a metric, named as on the metrics page without its suffix."""
        for report in self.by_name.values():
            for name, _kind, _text, samples in report.get("families", ()):
                if name == metric:
                    for found, labels, value in samples:
                        if found == suffix:
                            yield labels, value

    def total(self, metric: str, by: str, suffix: str = "_total") -> dict[str, float]:
        """Return the sums of a metric by one of its labels."""
        sums: dict[str, float] = {}
        for labels, value in self.samples(metric, suffix):
            sums[labels.get(by, "")] = sums.get(labels.get(by, ""), 0.0) + value
        return sums


class RefusalsFollower:
    """Tells which refusals are new since it was last asked; at first, all that are known."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], int] = {}

    def read(self, reports: Reports) -> list[dict[str, Any]]:
        """Return them by worker, the oldest first."""
        found = []
        for name, report in reports.workers.items():
            process = (name, report.get("pid", 0))
            last = self._seen.get(process, 0)
            new = [one for one in report.get("refused", ()) if one["number"] > last]
            if new:
                self._seen[process] = new[-1]["number"]
            found += [{**one, "worker": name} for one in new]
        return found
