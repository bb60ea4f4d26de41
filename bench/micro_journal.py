"""What the journal's format costs, without any server.

    python bench/micro_journal.py [--rounds 7]

* Facts: microseconds an event for the JSON that travels beside a request's lines, beside the event
  path that makes the lines.
* Delivery: many small segments against one large one, read through the reader that delivery uses
  and written to a file without a sync, as a ratio of bytes a second of processor time, taken in
  turns. The journal is in memory. All lines are counted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import load
import machine
from micro_events import make_pipeline, microseconds, run_pipeline

from segsrv.events import FLAT
from segsrv.journal import facts
from segsrv.journal.facts import Run
from segsrv.journal.log import SegmentLog
from segsrv.journal.reader import Reader

SMALL_BYTES, LARGE_BYTES = 64 << 10, 1 << 32
READ_BYTES = 1 << 20


def measure_facts(options: argparse.Namespace) -> None:
    pipeline = make_pipeline([])
    print("| load | facts µs an event | event path µs | bytes an event: facts | lines |")
    print("|---|---|---|---|---|")
    for shape in load.make_shapes(options.batch_events).values():
        requests = load.prepare(shape, path="", write_key="bench", event_bytes=0, seed=1)
        answers = run_pipeline(pipeline, requests, FLAT)
        known = [
            (lines, list(request.event_ids), ["track"] * len(lines))
            for lines, request in zip(answers, requests, strict=True)
        ]
        events = sum(map(len, answers))

        def encode(known: list[tuple[list[bytes], list[str], list[str]]] = known) -> int:
            encoded = [
                facts.encode(Run("0123abcd", "flat", 1, types, list(map(len, lines)), ids))
                for lines, ids, types in known
            ]
            return len(facts.join(encoded))

        cost_us = statistics.median(
            microseconds(encode, events, 0.3) for _ in range(options.rounds)
        )
        path_us = microseconds(lambda: run_pipeline(pipeline, requests, FLAT), events, 1.0)  # noqa: B023
        line_bytes = sum(len(line) for lines in answers for line in lines)
        print(
            f"| {shape.name} | {cost_us:.2f} | {path_us:.1f} "
            f"| {encode() / events:.0f} | {line_bytes / events:.0f} |"
        )


def fill(directory: Path, *, segment_bytes_max: int, frame_bytes: int, total_bytes: int) -> int:
    """Write a journal; return how many lines it holds."""
    line = b'{"event_type":"track","pad":"%s"}\n' % (b"x" * 760)
    events = max(frame_bytes // len(line), 1)
    ids = [f"{number:036d}" for number in range(events)]
    run = facts.join([facts.encode(Run("k", "flat", 1, "track", [len(line)] * events, ids))])
    log = SegmentLog(
        directory,
        segment_bytes_max=segment_bytes_max,
        disk_free_bytes_min=0,
        is_synced=False,
    )
    written = 0
    while log.end < total_bytes:
        log.append(line * events, events, run)
        written += events
    log.close()
    return written


def deliver(directory: Path, target: Path) -> int:
    """Read a batch at a time and write it to a file; return the count of lines."""
    reader = Reader(directory)
    position = events = 0
    with target.open("wb", buffering=0) as file:
        while (chunk := reader.read(position, bytes_max=READ_BYTES)).end > position:
            file.write(chunk.lines)
            events += chunk.events
            position = chunk.end
    return events


def measure_delivery(options: argparse.Namespace) -> None:
    print("\n| frames | segments small | MiB/s small | one large | ratio (min to max) | correct |")
    print("|---|---|---|---|---|---|")
    for frame_bytes in (1_000, 16_000, 64_000):
        root = Path(tempfile.mkdtemp(prefix="segsrv-micro-journal-", dir=options.dir))
        try:
            lines = {
                name: fill(
                    root / name,
                    segment_bytes_max=size,
                    frame_bytes=frame_bytes,
                    total_bytes=options.mib << 20,
                )
                for name, size in (("small", SMALL_BYTES), ("large", LARGE_BYTES))
            }
            size = {name: sum(p.stat().st_size for p in (root / name).iterdir()) for name in lines}
            ratios, speeds = [], []
            for _round in range(options.rounds):
                speed = {}
                for name, expected in lines.items():
                    started_s = time.process_time()
                    if deliver(root / name, root / "delivered.ndjson") != expected:
                        raise SystemExit(f"{name}: lines are missing")
                    speed[name] = size[name] / (time.process_time() - started_s) / (1 << 20)
                ratios.append(speed["small"] / speed["large"])
                speeds.append(speed)
            count = len(list((root / "small").glob("*.segment")))
        finally:
            shutil.rmtree(root)
        print(
            f"| {frame_bytes:,} B | {count:,} "
            f"| {statistics.median(one['small'] for one in speeds):.0f} "
            f"| {statistics.median(one['large'] for one in speeds):.0f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {sum(lines.values()):,} lines counted |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-events", type=int, default=100)
    parser.add_argument("--mib", type=int, default=128, help="size of each journal (default: 128)")
    parser.add_argument("--dir", type=Path, default=None, help="where to make them (default: /tmp)")
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)))
    options = parser.parse_args()
    for name, text in machine.describe().items():
        print(f"* {name}: {text}")
    print()
    with machine.pinned(options.core):
        measure_facts(options)
        measure_delivery(options)


if __name__ == "__main__":
    main()
