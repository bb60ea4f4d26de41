"""A process that writes five batches to its standard output, as one of several would.

`python stdout_writer.py LOCK_FILE` reads the batch's content from its standard input.
"""

import asyncio
import sys
from pathlib import Path

from segsrv.sinks.base import Batch
from segsrv.sinks.stdout.sink import StdoutSink

BATCHES = 5


async def main() -> None:
    content = sys.stdin.buffer.read()
    sink = StdoutSink(Path(sys.argv[1]))
    await sink.open()
    for number in range(BATCHES):
        await sink.send(Batch(f"test-{number}", [content], content.count(b"\n"), list), {})
    await sink.close()


if __name__ == "__main__":
    asyncio.run(main())
