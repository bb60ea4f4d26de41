"""The fault matrix in the documentation, made from what a run of its tests has written down."""

import dataclasses
import json
from pathlib import Path

from tests.server_process import REPOSITORY
from tests.services.targets import TARGETS, target_class
from tests.sinks.matrix import FAULTS, cells, why_not
from tests.sinks.rig import Outcome

PAGE = REPOSITORY / "docs" / "faults.md"
FIGURES = Path(__file__).with_name("fault_matrix.json")
BEGIN, END = "<!-- fault-matrix -->\n", "<!-- /fault-matrix -->\n"

Figures = dict[str, dict[str, dict[str, int]]]


def load() -> Figures:
    return json.loads(FIGURES.read_text("utf-8")) if FIGURES.exists() else {}


def add(outcomes: dict[tuple[str, str], Outcome]) -> None:
    """Write down how cells ended, beside those that are known, and make the page's table anew."""
    figures = load()
    for (kind, fault), outcome in outcomes.items():
        figures.setdefault(kind, {})[fault] = dataclasses.asdict(outcome)
    existing = cells()
    figures = {
        kind: {fault: figures[kind][fault] for known, fault in existing if known == kind}
        for kind in TARGETS
        if figures.get(kind)
    }
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    before, _table, after = documented()
    PAGE.write_text(before + BEGIN + table(figures) + END + after, "utf-8")


def documented() -> tuple[str, str, str]:
    """Return what stands before the table in the page, the table, and what stands behind it."""
    before, begin, rest = PAGE.read_text("utf-8").partition(BEGIN)
    text, end, after = rest.partition(END)
    assert begin, f"{PAGE} has no {BEGIN}"
    assert end, f"{PAGE} has no {END}"
    return before, text, after


def table(figures: Figures) -> str:
    """Return the table, with the reasons for the cells that can't exist."""
    reasons: list[str] = []
    lines = ["| fault | " + " | ".join(TARGETS) + " |", "|---" * (len(TARGETS) + 1) + "|"]
    for name, fault in FAULTS.items():
        row = [_cell(figures, kind, name, reasons) for kind in TARGETS]
        lines.append(f"| {fault.title} | " + " | ".join(row) + " |")
    grown = [max(c["growth_mib"] for c in figures[kind].values()) for kind in TARGETS]
    lines.append("| most that a process grew (MiB) | " + " | ".join(map(str, grown)) + " |")
    lines += ["", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))]
    return "\n".join(lines) + "\n"


def _cell(figures: Figures, kind: str, fault: str, reasons: list[str]) -> str:
    if reason := why_not(kind, fault):
        if reason not in reasons:
            reasons.append(reason)
        return f"- ({reasons.index(reason) + 1})"
    found = figures[kind][fault]
    count = f"{found['acknowledged']:,}"
    if target_class(kind).is_exactly_once:
        return f"{count} once"
    return f"{count}, {found['copies']:,} twice"
