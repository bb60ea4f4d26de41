"""How long the disk itself takes to sync, while something else is measured.

It writes 4 KiB over themselves and syncs them, a hundred times a second, until its standard input
ends; then it prints how long that took, and each time that it took long: the disk's own stalls.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import time
from pathlib import Path

import orjson
from open_loop import Histogram

PAUSE_S = 0.01
LONG_S = 0.01
LONG_MAX = 10_000
BLOCK = b"x" * 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    times = Histogram()
    long: list[tuple[float, float]] = []
    file = os.open(options.file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(file, BLOCK, 0)
        os.fsync(file)
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
            started = time.perf_counter()
            os.pwrite(file, BLOCK, 0)
            os.fdatasync(file)
            ended = time.perf_counter()
            times.add(ended - started)
            if ended - started > LONG_S and len(long) < LONG_MAX:
                long.append((started, ended))
    finally:
        os.close(file)
        options.file.unlink()
    print("RESULT", orjson.dumps({**times.summary(), "long": long}).decode())


if __name__ == "__main__":
    main()
