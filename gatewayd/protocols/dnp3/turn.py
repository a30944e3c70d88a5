"""One request at a time on a line, commands first: opendnp3 runs one task at a time anyway, this says whose is next."""

from __future__ import annotations

import asyncio
from collections import deque


class Turn:
    """A lock with two classes of waiters: an urgent one is served before all others, and never interrupts."""

    def __init__(self) -> None:
        self._held = False
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._usual: deque[asyncio.Future[None]] = deque()

    async def take(self, *, urgent: bool = False) -> None:
        """Wait for the turn. The caller gives it back, once."""
        if not self._held:
            self._held = True
            return
        waiters = self._urgent if urgent else self._usual
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.give()  # it was ours already
            else:
                waiters.remove(waiter)
            raise

    def give(self) -> None:
        """Let the next one have it."""
        for waiters in (self._urgent, self._usual):
            while waiters:
                waiter = waiters.popleft()
                if not waiter.done():
                    waiter.set_result(None)
                    return
        self._held = False
