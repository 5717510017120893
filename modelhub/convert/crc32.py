"""CRC-32 as zip archives have it (IEEE 802.3, reflected), by the fastest implementation that is installed."""

from __future__ import annotations

import zlib
from collections.abc import Callable

Crc32 = Callable[[memoryview, int], int]


def fastest_crc32() -> Crc32:
    """A function of bytes and the CRC-32 of those before them: ISA-L's with the extra ``fast``, else zlib's.

    ISA-L's takes 20 to 50 GB/s of one core, zlib's 2 to 6 (``benchmarks/convert.py`` measures conversions with both).
    """
    try:
        from isal.isal_zlib import crc32
    except ImportError:
        return zlib.crc32
    found: Crc32 = crc32
    return found
