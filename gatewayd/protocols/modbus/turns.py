"""Whose turn it is on a line: one transaction at a time, commands before polls, polls in the order they came."""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum


class Urgency(Enum):
    """What waits."""

    COMMAND = 0
    POLL = 1


class Turns:
    """A lock with two queues."""

    def __init__(self) -> None:
        self._taken = False
        self._queues: dict[Urgency, deque[asyncio.Future[None]]] = {urgency: deque() for urgency in Urgency}

    def turn(self, urgency: Urgency) -> Turn:
        """One turn: `async with turns.turn(Urgency.POLL):`."""
        return Turn(self, urgency)

    async def acquire(self, urgency: Urgency) -> None:
        """Return when it is our turn."""
        if not self._taken:  # then nobody waits either: a turn is handed over, never put down between two
            self._taken = True
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues[urgency].append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()  # it became ours in the same moment
            raise

    def release(self) -> None:
        """Hand the turn over."""
        for queue in self._queues.values():
            while queue:
                waiter = queue.popleft()
                if not waiter.done():
                    waiter.set_result(None)
                    return
        self._taken = False


class Turn:
    """From entering to leaving."""

    def __init__(self, turns: Turns, urgency: Urgency) -> None:
        self._turns = turns
        self._urgency = urgency

    async def __aenter__(self) -> None:
        await self._turns.acquire(self._urgency)

    async def __aexit__(self, *_: object) -> None:
        self._turns.release()
