"""What the simulators of this suite have in common: a process of its own that makes events as its standard input says.

Lines on standard input are JSON: {"rate": 150} events a second from now on, {"burst": 3000} at once. The process
ends with its standard input, so it never outlives the suite.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.ledger import Books, Ledger

POINTS = 8
TICK_S = 0.02


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Maker:
    """Makes the numbered events of one device: in the ledger first, then offered."""

    def __init__(self, path: Path, offer: Callable[[int, int], None]) -> None:
        """offer: gives event n of a time in ms to the gateway."""
        self.books = Books(path).read()
        self.ledger = Ledger(path)
        self.ledger.born(now_ms())
        self._offer = offer
        self._next = self.books.newest + 1
        self._rate = 0.0

    def make(self) -> None:
        n, ms = self._next, now_ms()
        self._next += 1
        self.ledger.offered(n, ms)
        self._offer(n, ms)

    def newest_by_point(self) -> list[int]:
        """The present value of each point: the number of its newest event, 0 before the first."""
        last = self._next - 1
        return [last - (last - 1 - at) % POINTS if last > at else 0 for at in range(POINTS)]

    async def listen(self) -> None:
        """Do as standard input says; returns at its end."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        making = asyncio.create_task(self._run())
        while line := await reader.readline():
            told = json.loads(line)
            self._rate = told.get("rate", self._rate)
            for _ in range(told.get("burst", 0)):
                self.make()
        making.cancel()

    async def _run(self) -> None:
        owed, before = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            owed, before = min(owed + (now - before) * self._rate, 500.0), now
            while owed >= 1.0:
                self.make()
                owed -= 1.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--capacity", type=int, default=1000, help="events the device's buffer holds")
    parser.add_argument("--keep", action="store_true", help="the buffer survives the process")
    return parser.parse_args()
