"""The C library's heap, told to keep what asyncio asks for and gives back thousands of times a second.

asyncio receives into a new object of 256 KiB each time and cuts it to what came. glibc maps anything from 128 KiB on
afresh and unmaps it, and each unmapping interrupts every core that runs a thread of the process. Source: mallopt(3).
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT = 4 * 1024 * 1024
"""Free octets at the end of the heap that are kept; smaller pieces are not mapped on their own."""


def keep() -> bool:
    """Set it for this process. False where the C library has no such thing; nothing is wrong then, only slower."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(option, KEPT) == 1 for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
