"""What the SDK tests saw, kept while they run, and the table in the documentation made from it.

A cell says only what a test of this very run observed; `docs/sdks.md` is written from it by
`pytest tests/sdk --write-sdk-table`, and the last SDK test fails where the two differ.
"""

from dataclasses import dataclass, field

COLUMNS = {
    "calls": "calls delivered",
    "auth": "auth form",
    "gzip": "gzip",
    "retry": "after 503 + Retry-After",
    "on_400": "on 400",
    "on_401": "on 401",
}

NOT_TESTED = "not tested"


@dataclass
class Row:
    sdk: str
    version: str
    facts: dict[str, str] = field(default_factory=dict)


_rows: dict[tuple[str, str], Row] = {}


def observe(sdk: str, version: str, **facts: str) -> None:
    """Note what a test saw of an SDK, by the names of `COLUMNS`; two tests may not disagree."""
    row = _rows.setdefault((sdk, version), Row(sdk, version))
    for name, text in facts.items():
        assert name in COLUMNS, f"no such column: {name}"
        assert row.facts.get(name, text) == text, f"{sdk} {version}: {row.facts[name]!r}, {text!r}"
        row.facts[name] = text


def dropped_after(requests: int) -> str:
    """Return what a cell says of an event that an SDK gave up after so many requests."""
    return f"dropped after {requests} request{'s' if requests > 1 else ''}"


def table() -> str:
    """Return the Markdown table of all that was seen."""
    head = ["SDK", "version", *COLUMNS.values()]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in sorted(_rows.values(), key=lambda row: (row.sdk.lower(), row.version)):
        cells = [row.sdk, row.version, *(row.facts.get(name, NOT_TESTED) for name in COLUMNS)]
        lines.append(" | ".join(cells))
    return "".join(f"| {line} |\n" for line in lines)
