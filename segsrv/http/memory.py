"""Whether there is memory for what a body becomes, asked before it is parsed.

orjson ends the process where it finds no memory for an object or for its output, so running out has
to be noticed beforehand. Only a limit of the address space (`ulimit -v`, strict overcommit) can be
noticed; what the kernel has promised it may still not have.
"""

from __future__ import annotations

import mmap

from segsrv.errors import Overloaded

PARSER_BYTES = 12
"""What orjson allocates for each byte of a body; when it is done, the lines take that place."""
OBJECT_BYTES = 256
VALUE_BYTES = 104
SAMPLE_STEP = 17
SPARE_BYTES = 8 << 20
"""For what else is under way."""


def check_memory(body: bytes) -> None:
    """Refuse *body* unless so much can be allocated as it may take until it is stored.

    Nothing of it is touched, so this takes a few microseconds, and counting in a sample.

    Raises:
        Overloaded: There is not enough memory.

    """
    needed = SPARE_BYTES + len(body) * (PARSER_BYTES + 1)
    sample = body[::SAMPLE_STEP]
    values = sample.count(b",") + sample.count(b"[")
    needed += SAMPLE_STEP * (OBJECT_BYTES * sample.count(b"{") + VALUE_BYTES * values)
    try:
        mmap.mmap(-1, needed, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError) as error:
        raise out_of_memory() from error


def out_of_memory() -> Overloaded:
    """Return what a request is refused with that there is no memory for."""
    return Overloaded("there is not enough memory for this request now")
