"""Garbage collection that fits a process which runs for years on objects that are many, short-lived and hold no cycles.

Python's own rhythm looks at every sample and finds nothing. Ours looks rarely at what is young, and once a minute at
everything that came after the start: ended connections leave cycles behind (tasks, exceptions, callbacks), some 300
objects each, which would otherwise stay for hours. What is there at the start is never looked at again.
"""

from __future__ import annotations

import asyncio
import gc

THRESHOLD = (50_000, 20, 100)
TIDY_S = 60.0


def settle() -> None:
    """Everything that is there now stays: call it once, when the process is built."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLD)


async def keep_tidy() -> None:
    """Collect what is left behind, until cancelled."""
    while True:
        await asyncio.sleep(TIDY_S)
        gc.collect()
