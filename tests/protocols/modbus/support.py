"""What the tests of Modbus share: points, a driver on its task, a sink that watches, conditions with a deadline."""

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
from gatewayd.protocols.modbus import config
from gatewayd.protocols.modbus.driver import ModbusDriver, create
from gatewayd.protocols.supervise import RecordingSink

_ids = itertools.count(1)


class Watch(RecordingSink):
    """A sink that keeps everything."""

    def __init__(self) -> None:
        super().__init__()
        self.disk: asyncio.Event | None = None
        """Unset: the disk does not take anything."""

    async def events(self, batch: Batch, cursor: Cursor | None = None) -> None:
        if self.disk is not None:
            await self.disk.wait()
        await super().events(batch, cursor)

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] == kind]

    @property
    def batches(self) -> list[Batch]:
        return [call[1] for call in self.calls if call[0] in ("state", "events")]

    def samples(self, row: int) -> list[Sample]:
        return [sample for batch in self.batches for sample in batch.samples if sample.point == row]

    def values(self, row: int) -> list[Value]:
        return [sample.value for sample in self.samples(row)]

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


def point(row: int, kind: Kind, address: str, *, event: bool | None = None, **more: Any) -> PointSpec:
    events = kind not in (Kind.ANALOG, Kind.COUNTER) if event is None else event
    return PointSpec(row=row, name=f"P{row}", kind=kind, device="M1", address=address, event=events, **more)


def commanded(row: int, kind: Kind, command: str, address: str = "", **more: Any) -> PointSpec:
    return point(row, kind, address, control=ControlMode.SBO, command=command, feedback="none", **more)


def device(port: int, points: Iterable[PointSpec], *, framer: str = "tcp", tls: Any = None, **options: Any) -> Device:
    given = {"timeout_s": 0.3, "connect_timeout_s": 3, "poll_s": 0.1, **options}
    made = Device(
        name="M1", protocol="modbus", host="127.0.0.1", port=port, framer=framer, tls=tls, options=given,
        points=tuple(points),
    )  # fmt: skip
    assert config.check(made) == []
    return made


@contextlib.asynccontextmanager
async def driving(
    made: Device | ModbusDriver, watch: Watch, *, wait: bool = True
) -> AsyncIterator[tuple[ModbusDriver, asyncio.Task[None]]]:
    """A driver for one connection; wait: until it is up."""
    driver = made if isinstance(made, ModbusDriver) else create(made)
    before = watch.ups
    task = asyncio.create_task(driver.run(watch, {}))
    try:
        if wait:
            await until(lambda: watch.ups > before or task.done(), what="up")
            if task.done():
                task.result()
        yield driver, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def command(row: int, value: Value, *, within_s: float = 5.0, **more: Any) -> Control:
    return Control(
        id=f"tx{next(_ids)}",
        point=row,
        value=value,
        operator="alice",
        sbo=True,
        not_after_ns=time.monotonic_ns() + int(within_s * 1e9),
        **more,
    )
