"""What the tests of IEC 61850 share: points of the simulated bay, a driver on its task, conditions with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from gatewayd.control.types import Control, Step
from gatewayd.points.types import Batch, ControlMode, Cursor, Kind, Link, PointSpec, Sample, Value
from gatewayd.protocols.device import Device
from gatewayd.protocols.iec61850.driver import Iec61850Driver, create
from gatewayd.protocols.supervise import RecordingSink

LD = "BAY1LD0"
REPORTS = [f"{LD}/LLN0.BR.brcbST", f"{LD}/LLN0.RP.urcbMX"]
BRCB = REPORTS[0]
_ids = itertools.count(1)


class Watch(RecordingSink):
    """A sink that keeps everything, and cursors as the core does: stored with the events they came with."""

    def __init__(self) -> None:
        super().__init__()
        self.cursors: dict[str, Cursor] = {}
        self.disk: asyncio.Event | None = None
        """Unset: the disk does not take anything."""

    async def events(self, batch: Batch, cursor: Cursor | None = None) -> None:
        if self.disk is not None:
            await self.disk.wait()
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

    @property
    def up(self) -> bool:
        return ("device", "BAY1", Link.UP, "") in self.calls

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


def point(row: int, kind: Kind, address: str, *, event: bool | None = None, **more: Any) -> PointSpec:
    events = kind not in (Kind.ANALOG, Kind.COUNTER) if event is None else event
    return PointSpec(row=row, name=f"P{row}", kind=kind, device="BAY1", address=address, event=events, **more)


def commanded(row: int, kind: Kind, name: str, mode: ControlMode = ControlMode.SBO, **more: Any) -> PointSpec:
    reference = f"{LD}/{name}"
    return point(row, kind, reference, control=mode, command=reference, **more)


def device(port: int, points: Iterable[PointSpec], **options: Any) -> Device:
    given = {"reports": REPORTS, "timeout_s": 0.5, "connect_timeout_s": 3, "integrity_s": 0, "poll_s": 0.2, **options}
    return Device(name="BAY1", protocol="iec61850", host="127.0.0.1", port=port, options=given, points=tuple(points))


@contextlib.asynccontextmanager
async def driving(
    made: Device | Iec61850Driver, watch: Watch, *, wait: bool = True
) -> AsyncIterator[tuple[Iec61850Driver, asyncio.Task[None]]]:
    driver = made if isinstance(made, Iec61850Driver) else create(made)
    before = len(watch.of("device"))
    task = asyncio.create_task(driver.run(watch, dict(watch.cursors)))
    try:
        if wait:
            await until(lambda: len(watch.of("device")) > before or task.done(), what="up")
            if task.done():
                task.result()
        yield driver, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def command(row: int, value: Value, *, within_s: float = 5.0, operator: str = "alice", **more: Any) -> Control:
    given = {"sbo": True, **more}
    return Control(
        id=f"tx{next(_ids)}",
        point=row,
        value=value,
        operator=operator,
        not_after_ns=time.monotonic_ns() + int(within_s * 1e9),
        **given,
    )
