"""The DNP3 driver: one outstation, one connection at a time, over opendnp3.

opendnp3 is imported when a device is run, so that this module can be imported where there is no build of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gatewayd import clock
from gatewayd.clock import ClockState
from gatewayd.control.reasons import Reason
from gatewayd.control.types import Control, Reply, Verdict
from gatewayd.points.types import Cursor
from gatewayd.protocols.device import Device
from gatewayd.protocols.dnp3 import repeats
from gatewayd.protocols.dnp3.config import options
from gatewayd.protocols.dnp3.memory import Memory
from gatewayd.protocols.dnp3.points import PointTable
from gatewayd.protocols.dnp3.route import Route
from gatewayd.protocols.driver import DeviceFault, Sink

if TYPE_CHECKING:
    from gatewayd.protocols.dnp3.session import Session

OFFLINE = Reply(Verdict.REFUSED, Reason.DEVICE_OFFLINE)


class Dnp3Driver:
    """Driver, Operable, Interrogable and Counting of one outstation."""

    def __init__(self, device: Device, *, clock_state: Callable[[], ClockState] = clock.state) -> None:
        """clock_state: how far the gateway's own clock may be trusted; tests give another one."""
        self._device = device
        self._clock_state = clock_state
        self._memory = Memory()
        self._session: Session | None = None

    async def run(self, sink: Sink, cursors: Mapping[str, Cursor]) -> None:
        """Serve one connection. Raises LinkLost when it ends, DeviceFault; CancelledError passes."""
        try:
            from gatewayd.protocols.dnp3.line import lines
            from gatewayd.protocols.dnp3.session import Session
        except ImportError as error:
            raise DeviceFault(f"DNP3 is not available on this machine: {error}") from error
        device, memory = self._device, self._memory
        settings = options(device)
        cursor = cursors.get(repeats.SOURCE)
        if cursor is not None:
            memory.last, stored = repeats.decode(cursor.data)
            memory.stored = memory.stored or stored
            memory.recalled = list(memory.stored)
            memory.contacted = True
        route = Route(device.name, settings)
        try:
            async with lines().seat(device, settings, route) as line:
                self._session = Session(
                    device.name,
                    settings,
                    PointTable(device),
                    memory,
                    sink,
                    line,
                    route,
                    self._clock_state,
                )
                try:
                    await self._session.run()
                finally:
                    self._session = None
                    memory.counts["garbage_octets"] += line.garbage
        finally:
            memory.counts["frames_stopped"] += sum(route.gate.stopped.values())

    async def select(self, cmd: Control) -> Reply:
        """Nothing is sent: the gateway holds the select, SELECT and OPERATE go out back to back at operate."""
        del cmd
        return Reply(Verdict.DONE) if self._ready else OFFLINE

    async def operate(self, cmd: Control) -> Reply:
        """SELECT and OPERATE back to back, or DIRECT_OPERATE; once."""
        session = self._session
        return OFFLINE if session is None else await session.operate(cmd)

    async def cancel(self, cmd: Control) -> Reply:
        """Nothing is sent: nothing is selected at the device."""
        del cmd
        return Reply(Verdict.DONE) if self._ready else OFFLINE

    async def interrogate(self) -> None:
        """An integrity poll, as soon as may be."""
        if self._session is not None:
            self._session.interrogate()

    @property
    def _ready(self) -> bool:
        return self._session is not None and self._session.ready

    def counters(self) -> dict[str, int]:
        """Plain integers by name, over all connections."""
        return dict(self._memory.counts)


def create(device: Device) -> Dnp3Driver:
    """A driver for a checked device."""
    return Dnp3Driver(device)
