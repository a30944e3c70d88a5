"""A line: one transport to one place, with opendnp3 behind it, shared by the outstations that are reached through it.

    device <-- TCP, TLS, serial --> wire | gate | loopback <-- 127.0.0.1 --> opendnp3's channel, one master a device

Frames go through unchanged in both directions; what comes in is read along, what goes out passes the gate of its
outstation or does not go. The loopback takes exactly one connection, and only one that comes from this process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakKeyDictionary

from gatewayd import clock
from gatewayd.protocols.device import Device, Serial, Tls
from gatewayd.protocols.dnp3 import library
from gatewayd.protocols.dnp3.config import Options
from gatewayd.protocols.dnp3.frames import Splitter
from gatewayd.protocols.dnp3.route import Route
from gatewayd.protocols.dnp3.turn import Turn
from gatewayd.protocols.dnp3.wire import open_wire
from gatewayd.protocols.driver import DeviceFault, LinkLost
from gatewayd.protocols.loopback import Doorway
from gatewayd.protocols.sockets import Wire

LOOPBACK_LIMIT_S = 15.0
"""opendnp3 connects to its loopback within this time or the connection is given up."""
LONGEST_STOP_S = 5.0
"""How long a native shutdown may take before nobody waits for it any more."""
MOST_STRANGERS = 8

Key = tuple[str, int]
Settings = tuple[Serial | None, Tls | None]


class Line:
    """One transport and the opendnp3 channel on it. Made for the first device that needs it, gone with the last.

    lost:      set, with the cause, when the transport has ended
    strangers: addresses that frames came from and nobody here belongs to
    """

    def __init__(self, device: Device, options: Options) -> None:
        self.turn = Turn()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.strangers: set[int] = set()
        self.routes: list[Route] = []
        self.settings: Settings = device.serial, device.tls
        self._device = device
        self._options = options
        self._incoming, self._outgoing = Splitter(), Splitter()
        self._wire: Wire | None = None
        self._doorway: Doorway | None = None
        self._loopback: asyncio.Transport | None = None
        self._connected: asyncio.Task[None] | None = None
        self._channel: library.Channel | None = None

    async def open(self) -> None:
        """Open the transport and make the channel. Raises LinkLost, DeviceFault."""
        options = self._options
        self._wire = await open_wire(
            self._device,
            self._received,
            self._end,
            within_s=options.connect_timeout_s,
            unanswered_s=2 * options.response_timeout_s,
        )
        self._doorway = Doorway()
        self._channel = await library.off_loop(library.Channel, self._device.name, self._doorway.port)

    async def add_master(self, name: str, soe: Any, application: Any, options: Options) -> Any:
        """A master of one device, enabled; the first one makes the channel connect. Raises LinkLost, DeviceFault."""
        assert self._channel is not None
        config = library.stack_config(options)
        adding = asyncio.ensure_future(library.off_loop(self._channel.add_master, name, soe, application, config))
        try:
            master = await asyncio.shield(adding)
        except asyncio.CancelledError:
            if (master := await adding) is not None:
                await self.remove_master(master)
            raise
        if master is None:
            raise DeviceFault(f"outstation {options.remote_address} is taken already on this line")
        if self._connected is None:
            self._connected = asyncio.get_running_loop().create_task(self._connect(), name=f"{name}-loopback")
        try:
            await library.off_loop(master.Enable)
            await asyncio.shield(self._connected)
        except BaseException:
            await self.remove_master(master)
            raise
        return master

    async def remove_master(self, master: Any) -> bool:
        """Shut a master down; its callbacks have been let go of before. False where that did not end in time."""
        return await _within(library.off_loop(master.Shutdown))

    async def _connect(self) -> None:
        """Wait until opendnp3 is connected, then let the field speak."""
        assert self._doorway is not None
        try:
            async with asyncio.timeout(LOOPBACK_LIMIT_S):
                sock = await self._doorway.connection()
        except TimeoutError:
            raise LinkLost("opendnp3 did not connect to its loopback") from None
        loop = asyncio.get_running_loop()
        self._loopback, _ = await loop.connect_accepted_socket(lambda: _Loopback(self), sock)
        self.resume()

    # octets
    def _received(self, data: bytes) -> None:
        """From the field: read along, then on to opendnp3."""
        now = clock.moment()
        for frame in self._incoming.feed(data):
            if frame.from_master:
                continue
            for route in self.routes:
                if frame.source == route.remote and frame.destination == route.local:
                    route.hear(frame, now)
                    break
            else:
                if len(self.strangers) < MOST_STRANGERS:
                    self.strangers.add(frame.source)
        if self._loopback is not None and not self._loopback.is_closing():
            self._loopback.write(data)

    def send(self, data: bytes) -> None:
        """From opendnp3: what the gate of the outstation lets pass goes out, frame by frame."""
        now = clock.moment()
        passing = [
            frame.octets
            for frame in self._outgoing.feed(data)
            for route in self.routes
            if frame.destination == route.remote and frame.source == route.local and route.passes(frame, now)
        ]
        if passing and self._wire is not None:
            self._wire.write(b"".join(passing))

    def pause(self) -> None:
        """opendnp3 is behind: the field is not read."""
        if self._wire is not None:
            self._wire.pause()

    def resume(self) -> None:
        """opendnp3 has caught up."""
        if self._wire is not None:
            self._wire.resume()

    @property
    def garbage(self) -> int:
        """Octets from the field that belonged to no frame."""
        return self._incoming.garbage

    # the end
    def _end(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(why)

    def loopback_lost(self) -> None:
        """opendnp3 closed its end, which it does not do by itself."""
        self._end("opendnp3 closed the connection")

    async def close(self) -> None:
        """Close everything: the field first, so that nothing can go out any more. May be called twice."""
        self._end("closed")
        if self._wire is not None:
            self._wire.close()
        if self._connected is not None:
            self._connected.cancel()
            await asyncio.gather(self._connected, return_exceptions=True)
        if self._loopback is not None:
            self._loopback.abort()
        if self._doorway is not None:
            self._doorway.close()
        channel, self._channel = self._channel, None
        if channel is not None:
            await _within(library.off_loop(channel.shutdown))


class _Loopback(asyncio.Protocol):
    """opendnp3's end of a line."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def data_received(self, data: bytes) -> None:
        self._line.send(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._line.loopback_lost()

    def pause_writing(self) -> None:
        self._line.pause()

    def resume_writing(self) -> None:
        self._line.resume()


async def _within(work: Any) -> bool:
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=LONGEST_STOP_S)
    return bool(done)


# ---- all lines of a process


class Lines:
    """The lines of one event loop, by host and port or serial port."""

    def __init__(self) -> None:
        self._lines: dict[Key, Line] = {}
        self._opening: dict[Key, asyncio.Lock] = {}

    @contextlib.asynccontextmanager
    async def seat(self, device: Device, options: Options, route: Route) -> AsyncIterator[Line]:
        """The open line of a device, with the route on it. Raises LinkLost, DeviceFault."""
        key = (device.serial.port, 0) if device.serial is not None else (device.host, device.port)
        async with self._opening.setdefault(key, asyncio.Lock()):
            line = self._lines.get(key)
            if line is None or line.lost.done():
                line = Line(device, options)
                try:
                    await line.open()
                except BaseException:
                    await line.close()
                    raise
                self._lines[key] = line
            _check_fits(line, device, route)
            line.routes.append(route)
        try:
            yield line
        finally:
            route.gate.close()
            line.routes.remove(route)
            if not line.routes:
                if self._lines.get(key) is line:
                    del self._lines[key]
                await asyncio.shield(line.close())


def _check_fits(line: Line, device: Device, route: Route) -> None:
    """Devices on one line agree about its settings and differ in their addresses."""
    if not line.routes:
        return
    other = line.routes[0].name
    where = device.serial.port if device.serial is not None else f"{device.host} port {device.port}"
    if line.settings != (device.serial, device.tls):
        raise DeviceFault(f"{where} is open already for {other} with other settings of `serial` or `tls`")
    for taken in line.routes:
        if (taken.local, taken.remote) == (route.local, route.remote):
            raise DeviceFault(f"outstation {route.remote} at {where} is taken already by {taken.name}")


_all: WeakKeyDictionary[asyncio.AbstractEventLoop, Lines] = WeakKeyDictionary()


def lines() -> Lines:
    """The lines of the running event loop."""
    return _all.setdefault(asyncio.get_running_loop(), Lines())
