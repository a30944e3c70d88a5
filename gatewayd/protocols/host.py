"""Where drivers run, as the core sees it: a worker process (`child.py`) or this process (`InProcess`, for tests)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Control, Reply, Verdict
from gatewayd.points.types import Batch, Cursor
from gatewayd.protocols import registry
from gatewayd.protocols.device import Device
from gatewayd.protocols.driver import Counting, Driver, Interrogable, Operable, Sink
from gatewayd.protocols.supervise import keep_running

VERBS = ("select", "operate", "cancel", "interrogate")
OFFLINE = Reply(Verdict.REFUSED, Reason.DEVICE_OFFLINE)
UNABLE = Reply(Verdict.REFUSED, Reason.UNSUPPORTED)
UNSURE = Reply(Verdict.UNKNOWN, Reason.UNKNOWN)


class Core(Sink, Protocol):
    """The core's side of the seam: a sink that can also be asked without waiting."""

    def take(self, batch: Batch, cursor: Cursor | None) -> asyncio.Future[int] | None:
        """Like `events`, returning what to wait for: None where there is nothing."""


class Host(Protocol):
    """Runs some devices. `ended` is set, with the cause, when it cannot go on."""

    name: str
    ended: asyncio.Future[str]

    async def open(self) -> None:
        """Make it ready. Raises OSError."""

    def start(self, device: Device, cursors: Iterable[Cursor]) -> None:
        """Run a device's driver."""

    async def stop(self, name: str) -> None:
        """Return when the device's driver has ended; nothing of it comes after that."""

    async def ask(self, verb: str, device: str, control: Control | None) -> Reply:
        """One request to a driver. What was on its way when the host ended is UNKNOWN for an operate."""

    async def close(self) -> None:
        """End it, whatever it does."""

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Counters by device, as last told."""


async def ask_driver(driver: Driver | None, verb: str, control: Control | None) -> Reply:
    """One request to a driver that is here; for `interrogate` the reply says no more than that it was asked."""
    if verb == "interrogate":
        if driver is None:
            return OFFLINE
        if not isinstance(driver, Interrogable):
            return UNABLE
        await driver.interrogate()
        return Reply(Verdict.DONE)
    if driver is None or control is None:
        return OFFLINE
    if not isinstance(driver, Operable):
        return UNABLE
    if verb == "select":
        return await driver.select(control)
    if verb == "operate":
        return await driver.operate(control)
    return await driver.cancel(control)


class InProcess:
    """Drivers in this very process: a native stack that crashes takes everything along."""

    def __init__(self, name: str, core: Core, create: Callable[[Device], Driver] = registry.create) -> None:
        self.name = name
        self._core = core
        self._create = create
        self._drivers: dict[str, Driver] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    async def open(self) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def start(self, device: Device, cursors: Iterable[Cursor]) -> None:
        driver = self._drivers[device.name] = self._create(device)
        remembering = RememberingSink(self._core, cursors)
        self._running[device.name] = asyncio.get_running_loop().create_task(
            keep_running(driver, device.name, remembering, remembering.cursors), name=device.name
        )

    async def stop(self, name: str) -> None:
        self._drivers.pop(name, None)
        task = self._running.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def ask(self, verb: str, device: str, control: Control | None) -> Reply:
        return await ask_driver(self._drivers.get(device), verb, control)

    async def close(self) -> None:
        for name in list(self._running):
            await self.stop(name)
        if not self.ended.done():
            self.ended.set_result("closed")

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        return {name: driver.counters() for name, driver in self._drivers.items() if isinstance(driver, Counting)}


class RememberingSink:
    """Passes everything on; remembers the cursors that are on disk, for the next connection."""

    def __init__(self, sink: Sink, cursors: Iterable[Cursor]) -> None:
        self._sink = sink
        self._cursors = {cursor.source: cursor for cursor in cursors}
        self.state = sink.state
        self.device = sink.device
        self.gap = sink.gap
        self.progress = sink.progress

    async def events(self, batch: Batch, cursor: Cursor | None = None) -> None:
        """Wait for the disk; only then the cursor has moved."""
        await self._sink.events(batch, cursor)
        if cursor is not None:
            self._cursors[cursor.source] = cursor

    def cursors(self) -> dict[str, Cursor]:
        """Where the device's buffers stand."""
        return dict(self._cursors)
