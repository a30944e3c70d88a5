"""The Modbus driver: one unit, polled on a fixed schedule, commanded by single writes."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Mapping

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Control, Reply
from gatewayd.points.types import Cursor, Link
from gatewayd.protocols.device import Device
from gatewayd.protocols.driver import Sink
from gatewayd.protocols.modbus import outcome
from gatewayd.protocols.modbus.config import blocks, commands, options
from gatewayd.protocols.modbus.execution import Execution
from gatewayd.protocols.modbus.lane import Lane
from gatewayd.protocols.modbus.line import Line
from gatewayd.protocols.modbus.lines import Lines
from gatewayd.protocols.modbus.memory import Memory
from gatewayd.protocols.modbus.polling import Poller
from gatewayd.protocols.modbus.program import Program, RefusedError
from gatewayd.protocols.modbus.session import Session
from gatewayd.protocols.modbus.settings import line_settings

REFRESH_S = 5.0
"""What does not change is handed on again so often: a HOLD may end by it, and its time says that it is still so."""
LONGEST_STOP_S = 3.0
"""How long a stop waits for pulses before it ends them early."""

LINES = Lines()
"""Of this process: units of one line share it."""


class ModbusDriver:
    """Driver, Operable, Interrogable and Counting of one unit."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._options = options(device)
        self._commands = commands(device, self._options)
        self._settings = line_settings(device, one_connection=self._options.one_connection, echo=self._options.echo)
        self._memory = Memory(blocks(device, self._options))
        self._execution = Execution(device.name, self._options, self._memory, self._connected)
        self._wake = asyncio.Event()
        self._session: Session | None = None
        self._stopping = False
        self._asked: list[asyncio.Future[None]] = []

    async def run(self, sink: Sink, cursors: Mapping[str, Cursor]) -> None:
        """Serve one connection. Raises LinkLost, DeviceFault; CancelledError passes, once no output is left on."""
        del cursors  # Modbus has no event buffer to take up
        self._stopping = False
        try:
            async with LINES.using(self._settings, self._options.connect_timeout_s) as line:
                self._memory.counts["connections"] += 1
                with Session(line, self._wake.set, sink.progress) as session:
                    await self._serve(session, sink)
        except asyncio.CancelledError:
            await self._stop()
            raise

    async def _stop(self) -> None:
        """Let commands under way end: pulses and recipes are brought to their end, new ones are refused."""
        self._stopping = True
        await self._execution.finish(LONGEST_STOP_S)

    async def _serve(self, session: Session, sink: Sink) -> None:
        line, memory = session.line, self._memory
        before = (line.unasked, line.noise)
        lane = Lane(self._device.name, sink, memory, self._wake.set)
        storing = asyncio.create_task(lane.run(), name=f"{self._device.name} events")
        storing.add_done_callback(lambda _: self._wake.set())
        poller = Poller(self._device, self._options, session, sink, lane, memory)
        try:
            await poller.poll(everything=True)
            while lane.behind:  # only with its events on disk is the device complete
                self._wake.clear()
                _check(storing, session)
                await self._wake.wait()
            self._session = session
            sink.device(self._device.name, Link.UP)
            await self._keep_polling(poller, lane, storing, session)
        except asyncio.CancelledError:
            await self._stop()  # while the connection is there
            raise
        finally:
            self._session = None
            storing.cancel()
            await asyncio.gather(storing, return_exceptions=True)
            memory.counts["unasked"] += line.unasked - before[0]
            memory.counts["noise"] += line.noise - before[1]
            for asked in self._asked:
                asked.cancel()
            self._asked.clear()

    async def _keep_polling(self, poller: Poller, lane: Lane, storing: asyncio.Task[None], session: Session) -> None:
        """On a fixed schedule: a poll that comes too late is left out and counted, never caught up."""
        loop, period = asyncio.get_running_loop(), self._options.poll_s
        due = loop.time() + period * _spread(self._device.name)
        refresh_at = loop.time() + REFRESH_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            self._wake.clear()
            _check(storing, session)
            now = loop.time()
            asked, self._asked = self._asked, []
            if now < due and not asked:
                continue
            if now >= due:
                late = int((now - due) / period)
                self._memory.counts["late_polls"] += late
                due += (late + 1) * period
            refresh = now >= refresh_at and not lane.behind
            if refresh:
                refresh_at = now + REFRESH_S
            if asked:
                poller.wake()
            try:
                await poller.poll(everything=bool(asked) or refresh)
            finally:
                for each in asked:
                    each.cancel()

    # ---- commands

    async def select(self, cmd: Control) -> Reply:
        """Nothing is sent: the gateway holds the select. A value that cannot be sent is refused here already."""
        ready = self._ready(cmd)
        return ready if isinstance(ready, Reply) else outcome.DONE

    async def operate(self, cmd: Control) -> Reply:
        """Guards, one write, its echo; a recipe's steps around it."""
        ready = self._ready(cmd)
        if isinstance(ready, Reply):
            return ready
        session = self._session
        assert session is not None
        return await self._execution.carry_out(ready, cmd, session)

    async def cancel(self, cmd: Control) -> Reply:
        """Nothing is selected at the device."""
        del cmd
        return outcome.DONE if self._session else outcome.OFFLINE

    def _ready(self, cmd: Control) -> Reply | Program:
        command = self._commands.get(cmd.point)
        if command is None:
            return outcome.refused(Reason.UNSUPPORTED, "the point has no command")
        if cmd.test:
            return outcome.refused(Reason.UNSUPPORTED, "Modbus cannot tell a test from a command")
        if self._session is None or self._session.lost or self._stopping:
            return outcome.OFFLINE
        try:
            return command.program(cmd.value)
        except RefusedError as error:
            return outcome.refused(error.reason, str(error))

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Line]:
        """The present connection, or one of its own while there is none: for what must follow a command."""
        session = self._session
        if session is not None and not session.lost:
            yield session.line
            return
        async with LINES.using(self._settings, self._options.connect_timeout_s) as line:
            yield line

    # ---- the rest of the seam

    async def interrogate(self) -> None:
        """Read everything now and hand all of it on, also what the device refused before."""
        if self._session is None:
            return
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        self._wake.set()
        await asyncio.wait({asked})

    def counters(self) -> dict[str, int]:
        """Plain integers by name, over all connections."""
        return dict(self._memory.counts)


def _check(storing: asyncio.Task[None], session: Session) -> None:
    """Raises what ended the connection, if anything has."""
    if storing.done():
        storing.result()
    session.check()


def _spread(name: str) -> float:
    """0 to 1: where in the period a device is polled, so that not all are asked in the same instant."""
    return zlib.crc32(name.encode()) % 1000 / 1000


def create(device: Device) -> ModbusDriver:
    """A driver for a checked device."""
    return ModbusDriver(device)
