"""Where drivers run, as the core sees it: a worker process (`child.py`) or this process (`InProcess`, for tests)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Control, Reply, Verdict
from gatewayd.points.types import Batch, Cursor
from gatewayd.protocols import registry
from gatewayd.protocols.device import Device
from gatewayd.protocols.driver import Counting, Driver, Interrogable, Operable, Sink, Telling
from gatewayd.protocols.supervise import keep_running

VERBS = ("select", "operate", "cancel", "interrogate")
OFFLINE = Reply(Verdict.REFUSED, Reason.DEVICE_OFFLINE)
UNABLE = Reply(Verdict.REFUSED, Reason.UNSUPPORTED)
UNSURE = Reply(Verdict.UNKNOWN, Reason.UNKNOWN)


class Committing(Telling, Protocol):
    """What a RememberingSink passes on to: the core, or in a worker the way to it."""

    def take(self, batch: Batch, cursor: Cursor | None) -> asyncio.Future[Any] | None:
        """Hand a batch over; what to wait for until it is on disk, None where nothing of it has to be."""


class Core(Sink, Committing, Protocol):
    """The core's side of the seam: a sink that can also be asked without waiting."""


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
    """The sink of one device's driver: over all connections it knows what is on disk and what is on its way there."""

    def __init__(self, to: Committing, cursors: Iterable[Cursor]) -> None:
        self._take = to.take
        self._cursors = {cursor.source: cursor for cursor in cursors}
        self._on_its_way: asyncio.Future[Any] | None = None
        self.state = to.state
        self.device = to.device
        self.gap = to.gap
        self.progress = to.progress

    async def events(self, batch: Batch, cursor: Cursor | None = None) -> None:
        """Wait for the disk; only then the cursor has moved."""
        committed = self._take(batch, cursor)
        if committed is None:
            return
        if batch.reported or cursor is not None:  # what is polled is not sent again
            self._on_its_way = committed
        if cursor is not None:
            committed.add_done_callback(lambda done: self._moved(cursor, done))
        await asyncio.shield(committed)

    def _moved(self, cursor: Cursor, done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._cursors[cursor.source] = cursor

    async def cursors(self) -> dict[str, Cursor]:
        """Where the device's buffers stand, once the disk has what a connection that ended left on its way there.

        Without the wait a device whose connections end while the disk is held would send the same events again and
        again, and each time they would join the line.
        """
        while (left := self._on_its_way) is not None and not left.done():
            await asyncio.wait({left})
        return dict(self._cursors)
