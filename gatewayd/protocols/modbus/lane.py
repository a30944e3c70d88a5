"""The way of events to the disk: in order, one batch at a time, while polling goes on.

A disk that is behind must not keep the other points of the device from being shown. What changed meanwhile waits
here; past MOST_WAITING the changes are lost, counted, and told as a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gatewayd.points.types import Batch
from gatewayd.protocols.driver import Sink
from gatewayd.protocols.modbus.memory import Memory

MOST_WAITING = 10_000
"""Samples that wait for the disk at most."""


class Lane:
    """Hands batches to `Sink.events`. What waits outlives the connection, in the driver's memory."""

    def __init__(self, device: str, sink: Sink, memory: Memory, through: Callable[[], None]) -> None:
        """through: called when nothing waits any more."""
        self._device = device
        self._sink = sink
        self._memory = memory
        self._told = through
        self._more = asyncio.Event()

    @property
    def behind(self) -> bool:
        """Something waits for the disk."""
        return bool(self._memory.waiting)

    def put(self, batch: Batch) -> bool:
        """Take a batch; False where it is lost because too much waits."""
        counts, size = self._memory.counts, len(batch.samples)
        if counts["waiting_events"] + size > MOST_WAITING and self.behind:
            self._memory.lost += size
            counts["lost_events"] += size
            return False
        counts["waiting_events"] += size
        self._memory.waiting.append(batch)
        self._more.set()
        return True

    async def run(self) -> None:
        """Until cancelled. A batch leaves the queue when it is on disk."""
        waiting, counts = self._memory.waiting, self._memory.counts
        while True:
            while waiting:
                await self._sink.events(waiting[0])
                counts["waiting_events"] -= len(waiting.popleft().samples)
            if lost := self._memory.lost:
                self._memory.lost = 0
                self._sink.gap(self._device, f"{lost} changes were not recorded: the journal took too long")
            self._told()
            self._more.clear()
            await self._more.wait()
