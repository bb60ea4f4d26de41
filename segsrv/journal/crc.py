"""CRC-32 as zlib has it, by the processor's own instructions where `isal` is there.

It is not made for every kind of processor; the numbers are the same.
"""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
