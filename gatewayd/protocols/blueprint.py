"""A driver to copy: everything the seam wants, in its simplest form. It talks to nothing; its device is a sawtooth.

A real driver replaces `_connect`, `_read` and what the three requests do. What stays: the constructor keeps its
arguments; configuration was checked before; `run` says UP only when all points have been read once; batches with a
point that makes events go through `events` and are awaited; nothing is sent after `not_after_ns`; nothing is sent
twice; the end is told by raising.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gatewayd import clock
from gatewayd.control.reasons import Reason
from gatewayd.control.types import Control, Native, Reply, Verdict
from gatewayd.points import quality as q
from gatewayd.points.types import Batch, Cursor, Kind, Link, Sample, Value
from gatewayd.protocols.device import Device
from gatewayd.protocols.driver import LinkLost, Sink

POLL_S = 1.0
OFFLINE = Reply(Verdict.REFUSED, Reason.DEVICE_OFFLINE)


class BlueprintDriver:
    """Driver, Operable, Interrogable and Counting of a device that is not there."""

    def __init__(self, device: Device, *, polls: int | None = None) -> None:
        """polls: after so many the link is lost, for tests; None goes on for ever."""
        self._device = device
        self._polls = polls
        self._events = any(point.event for point in device.points)
        self._again = asyncio.Event()
        self._connected = False
        self._raw = 0
        self._counts = {"polls": 0, "commands": 0}

    async def run(self, sink: Sink, cursors: Mapping[str, Cursor]) -> None:
        """Serve one connection. Raises LinkLost when it ends; CancelledError passes."""
        del cursors  # this device has no event buffer to resume
        await self._connect()
        try:
            await self._poll(sink)
            self._connected = True
            sink.device(self._device.name, Link.UP)
            while self._polls is None or self._counts["polls"] < self._polls:
                try:
                    async with asyncio.timeout(POLL_S):
                        await self._again.wait()
                except TimeoutError:
                    pass
                self._again.clear()
                await self._poll(sink)
            raise LinkLost("the device closed the connection")
        finally:
            self._connected = False

    async def _connect(self) -> None:
        """Open the connection; OSError and the like become LinkLost with a cause people understand."""

    async def _poll(self, sink: Sink) -> None:
        self._counts["polls"] += 1
        began = clock.moment()
        samples = self._read(began.utc_ns)
        batch = Batch(self._device.name, samples, began.utc_ns, mono_ns=began.mono_ns)
        if self._events:
            await sink.events(batch)
        else:
            sink.state(batch)

    def _read(self, now_ns: int) -> list[Sample]:
        self._raw += 1
        quality = q.GOOD | q.SAMPLED | q.RECEIPT
        return [Sample(point.row, _value(point.kind, self._raw), quality, 0, now_ns) for point in self._device.points]

    async def select(self, cmd: Control) -> Reply:
        """Nothing to do: the gateway holds the select."""
        del cmd
        return Reply(Verdict.DONE) if self._connected else OFFLINE

    async def operate(self, cmd: Control) -> Reply:
        """Carry out, once."""
        if not self._connected:
            return OFFLINE
        if clock.mono_ns() > cmd.not_after_ns:
            return Reply(Verdict.REFUSED, Reason.EXPIRED)
        self._counts["commands"] += 1
        return Reply(Verdict.DONE, native=Native("blueprint", 0, "accepted"))

    async def cancel(self, cmd: Control) -> Reply:
        """Nothing is selected at this device."""
        del cmd
        return Reply(Verdict.DONE) if self._connected else OFFLINE

    async def interrogate(self) -> None:
        """Read everything again now."""
        self._again.set()

    def counters(self) -> dict[str, int]:
        """Plain integers by name."""
        return dict(self._counts)


def _value(kind: Kind, raw: int) -> Value:
    if kind is Kind.BINARY:
        return raw % 2 == 0
    if kind is Kind.DOUBLE:
        return 1 + raw % 2
    return str(raw) if kind is Kind.STRING else raw


def create(device: Device) -> BlueprintDriver:
    """A driver for a checked device."""
    return BlueprintDriver(device)
