"""How often the collector looks for garbage, and when free memory goes back to the system.

Large bodies leave holes between small blocks that stay. glibc gives back only what is free at the
end of its heap, so after a minute of large batches a process kept 190 MB where it needs 90. Fixing
the size from which blocks are the system's own (M_MMAP_THRESHOLD) keeps it small as well, but takes
a tenth of the events a second.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from typing import NoReturn

INTERVAL_S = 20.0
GC_THRESHOLD = 50_000


def collect_seldom() -> None:
    """Leave to the collector only what is made from now on, and have it look less often.

    What the start made stays for good. Events, and what is known of them, are trees that reference
    counting frees: looking through them at Python's own pace takes up to 1 µs an event of delivery.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)


async def trim_for_ever() -> NoReturn:
    """Trim every INTERVAL_S in a thread; with another C library, do nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while True:
        await asyncio.sleep(INTERVAL_S)
        if trim is not None:
            # The call lets the interpreter go on.
            await asyncio.to_thread(trim, 0)
