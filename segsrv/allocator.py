"""Gives memory that is free inside the process back to the system, now and then.

Large bodies leave holes between small blocks that stay. glibc gives back only what is free at the
end of its heap, so after a minute of large batches a process kept 190 MB where it needs 90. Fixing
the size from which blocks are the system's own (M_MMAP_THRESHOLD) keeps it small as well, but takes
a tenth of the events a second.
"""

from __future__ import annotations

import asyncio
import ctypes
from typing import NoReturn

INTERVAL_S = 20.0


async def trim_for_ever() -> NoReturn:
    """Trim every INTERVAL_S in a thread; with another C library, do nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while True:
        await asyncio.sleep(INTERVAL_S)
        if trim is not None:
            # The call lets the interpreter go on.
            await asyncio.to_thread(trim, 0)
