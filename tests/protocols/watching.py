"""What the tests of all drivers share: a sink that watches, a driver on its task, conditions with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from gatewayd.control.types import Control, Step
from gatewayd.points.types import Batch, Cursor, Kind, Link, PointSpec, Sample, Value
from gatewayd.protocols.driver import Driver
from gatewayd.protocols.supervise import RecordingSink

_ids = itertools.count(1)


class Watch(RecordingSink):
    """A sink that keeps everything, and cursors as the core does: stored with the events they came with.

    disk: unset, it does not take anything; waiting: batches that wait for it
    """

    def __init__(self) -> None:
        super().__init__()
        self.cursors: dict[str, Cursor] = {}
        self.disk: asyncio.Event | None = None
        self.waiting = 0

    async def events(self, batch: Batch, cursor: Cursor | None = None) -> None:
        self.waiting += 1
        try:
            if self.disk is not None:
                await self.disk.wait()
        finally:
            self.waiting -= 1
        await super().events(batch, cursor)
        if cursor is not None:
            self.cursors[cursor.source] = cursor

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] == kind]

    @property
    def batches(self) -> list[Batch]:
        return [call[1] for call in self.calls if call[0] in ("state", "events")]

    def samples(self, row: int, *, reported: bool | None = None) -> list[Sample]:
        return [
            sample
            for batch in self.batches
            if reported is None or batch.reported is reported
            for sample in batch.samples
            if sample.point == row
        ]

    def values(self, row: int, *, reported: bool | None = None) -> list[Value]:
        return [sample.value for sample in self.samples(row, reported=reported)]

    def last(self, row: int) -> Sample | None:
        samples = self.samples(row)
        return samples[-1] if samples else None

    def value(self, row: int) -> Value:
        last = self.last(row)
        return last.value if last else None

    def quality(self, row: int) -> int | None:
        last = self.last(row)
        return last.quality if last else None

    @property
    def ups(self) -> int:
        return sum(call[2] is Link.UP for call in self.of("device"))

    @property
    def gaps(self) -> list[str]:
        return [call[2] for call in self.of("gap")]

    @property
    def steps(self) -> list[tuple[str, Step]]:
        return [(call[1], call[2]) for call in self.of("progress")]


async def until(condition: Callable[[], object], within_s: float = 8.0, what: str = "condition") -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} not within {within_s} s"
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def running(driver: Driver, watch: Watch, *, wait: bool) -> AsyncIterator[asyncio.Task[None]]:
    """One connection of a driver; wait: until it is up, or has ended, which raises."""
    before = watch.ups
    task = asyncio.create_task(driver.run(watch, dict(watch.cursors)))
    try:
        if wait:
            await until(lambda: watch.ups > before or task.done(), what="up")
            if task.done():
                task.result()
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ended(task: asyncio.Task[None], within_s: float = 8.0) -> BaseException:
    """What a run ended by."""
    await until(task.done, within_s, "the end of the run")
    error = task.exception()
    assert error is not None
    return error


def point_of(device: str, row: int, kind: Kind, address: str, event: bool | None = None, **more: Any) -> PointSpec:
    """event: left out, as point lists have it: analogs and counters make none."""
    events = kind not in (Kind.ANALOG, Kind.COUNTER) if event is None else event
    return PointSpec(row=row, name=f"P{row}", kind=kind, device=device, address=address, event=events, **more)


def command(
    row: int, value: Value, *, within_s: float = 5.0, operator: str = "alice", sbo: bool = True, **more: Any
) -> Control:
    return Control(
        id=f"tx{next(_ids)}",
        point=row,
        value=value,
        operator=operator,
        sbo=sbo,
        not_after_ns=time.monotonic_ns() + int(within_s * 1e9),
        **more,
    )
