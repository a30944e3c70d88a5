"""What the tests of DNP3 share: points, a driver on its task, conditions with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from gatewayd.clock import ClockState
from gatewayd.control.types import Control
from gatewayd.points.types import Batch, Cursor, Kind, Link, PointSpec, Sample, Value
from gatewayd.protocols.device import Device
from gatewayd.protocols.dnp3.driver import Dnp3Driver
from gatewayd.protocols.supervise import RecordingSink

NAME = "FDR12"
HUNG_UP = ("the device closed the connection", "the connection broke: Connection reset by peer")
"""How it is told that the far end closed; the second where it had not read all."""
_ids = itertools.count(1)


class Watch(RecordingSink):
    """A sink that keeps everything, and cursors as the core does: stored with the events they came with."""

    def __init__(self) -> None:
        super().__init__()
        self.cursors: dict[str, Cursor] = {}
        self.disk: asyncio.Event | None = None
        """Unset: the disk does not take anything."""
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

    def last(self, row: int) -> Sample | None:
        samples = self.samples(row)
        return samples[-1] if samples else None

    def values(self, row: int, *, reported: bool | None = None) -> list[Value]:
        return [sample.value for sample in self.samples(row, reported=reported)]

    @property
    def ups(self) -> int:
        return sum(call[2] is Link.UP for call in self.of("device"))

    @property
    def gaps(self) -> list[str]:
        return [call[2] for call in self.of("gap")]


async def until(condition: Callable[[], object], within_s: float = 8.0, what: str = "condition") -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} not within {within_s} s"
        await asyncio.sleep(0.005)


def point(row: int, kind: Kind, address: str, *, event: bool | None = None, **more: Any) -> PointSpec:
    events = kind not in (Kind.ANALOG, Kind.COUNTER) if event is None else event
    return PointSpec(row=row, name=f"P{row}", kind=kind, device=NAME, address=address, event=events, **more)


def device(port: int, points: Iterable[PointSpec], *, name: str = NAME, **options: Any) -> Device:
    more = {key: options.pop(key) for key in ("tls", "serial", "host") if key in options}
    given = {"response_timeout_s": 0.5, "connect_timeout_s": 3, "event_poll_s": 0.2, **options}
    where = {"host": "127.0.0.1", "port": port} if "serial" not in more else {}
    return Device(name=name, protocol="dnp3", options=given, points=tuple(points), **{**where, **more})


def clock_in_step() -> ClockState:
    return ClockState(True, 1.0, 0.1)


def clock_adrift() -> ClockState:
    return ClockState(False)


@contextlib.asynccontextmanager
async def driving(
    made: Device | Dnp3Driver, watch: Watch, *, wait: bool = True, clock: Callable[[], ClockState] = clock_in_step
) -> AsyncIterator[tuple[Dnp3Driver, asyncio.Task[None]]]:
    """Run one connection of a driver; wait: until it is up."""
    driver = made if isinstance(made, Dnp3Driver) else Dnp3Driver(made, clock_state=clock)
    before = watch.ups
    task = asyncio.create_task(driver.run(watch, dict(watch.cursors)))
    try:
        if wait:
            await until(lambda: watch.ups > before or task.done(), what="up")
            if task.done():
                task.result()
        yield driver, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ended(task: asyncio.Task[None], within_s: float = 8.0) -> BaseException:
    """What a run ended by."""
    await until(task.done, within_s, "the end of the run")
    error = task.exception()
    assert error is not None
    return error


def command(row: int, value: Value, *, within_s: float = 5.0, sbo: bool = True, **more: Any) -> Control:
    return Control(
        id=f"tx{next(_ids)}",
        point=row,
        value=value,
        operator="alice",
        sbo=sbo,
        not_after_ns=time.monotonic_ns() + int(within_s * 1e9),
        **more,
    )
