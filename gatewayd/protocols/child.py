"""One worker process from the core's side: started with exec, spoken to over a socketpair, killed when it is mute."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence

import structlog

from gatewayd.control.types import Control, Reply
from gatewayd.points.types import Cursor, Link
from gatewayd.protocols import wire
from gatewayd.protocols.device import Device
from gatewayd.protocols.host import OFFLINE, UNSURE, Core

log = structlog.get_logger("worker")

PING_S = 0.5
MUTE_S = 5.0
"""A worker that answers no ping for so long is killed."""
START_S = 60.0
"""So long it may take to its first driver's first word: native stacks are loaded, eight at once perhaps, on a small
machine that is busy."""
LINGER_S = 1.0
STOP_S = 10.0
"""A driver that has not ended by then takes its worker along."""
WORKER = (sys.executable, "-P", "-m", "gatewayd.protocols.worker")
"""The command of a worker; -P: nothing is ever imported from the folder we happen to be in."""


class Child(asyncio.Protocol):
    """A worker process; a Host.

    core: takes everything the drivers tell
    log_level: of the worker's own log, which goes to our standard error
    command: the program, for tests
    """

    def __init__(self, name: str, core: Core, *, log_level: str = "info", command: Sequence[str] = WORKER) -> None:
        self.name = name
        self._core = core
        self._log_level = log_level
        self._command = command
        self._inbox = wire.CoreInbox()
        self._transport: asyncio.Transport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._watching: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[str, asyncio.Future[Reply]]] = {}
        self._stopping: dict[str, asyncio.Future[None]] = {}
        self._devices: set[str] = set()
        self._heard = 0.0
        self._at_work = False
        self._counters: Mapping[str, Mapping[str, int]] = {}
        self._cause = ""

    @property
    def pid(self) -> int:
        """The process id, 0 before it is open."""
        return self._process.pid if self._process is not None else 0

    # --- Host -------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Start the process. Raises OSError."""
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = loop.create_future()
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *("--fd", str(theirs.fileno()), "--core", str(os.getpid()), "--log-level", self._log_level),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,  # native stacks print there
                pass_fds=(theirs.fileno(),),
                process_group=0,  # what ends our whole group must not end workers before the core has ended them
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        await loop.create_connection(lambda: self, sock=ours)
        self._heard = loop.time()
        for work in (self._watch_process(self._process), self._watch_silence()):
            task = loop.create_task(work, name=f"{self.name}-watch")
            self._watching.add(task)
            task.add_done_callback(self._watching.discard)

    def start(self, device: Device, cursors: Iterable[Cursor]) -> None:
        """Run a device's driver there."""
        self._devices.add(device.name)
        self._send(wire.Start(device, list(cursors)))

    async def stop(self, name: str) -> None:
        """Return when the driver has ended; a worker that cannot end it is killed."""
        if self.ended.done() or name not in self._devices:
            return
        stopped = self._stopping.setdefault(name, asyncio.get_running_loop().create_future())
        self._send(wire.Stop(name))
        try:
            async with asyncio.timeout(STOP_S):
                await asyncio.shield(stopped)
        except TimeoutError:
            self.kill(f"the driver of {name} did not end within {STOP_S:g} s")
            await asyncio.wait({self.ended})

    async def ask(self, verb: str, device: str, control: Control | None) -> Reply:
        """One request to a driver there."""
        if self.ended.done():
            return OFFLINE
        number = next(self._numbers)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asked[number] = verb, answer
        self._send(wire.Ask(number, verb, device, control))
        try:
            return await answer
        finally:
            self._asked.pop(number, None)

    async def close(self) -> None:
        """End the process: a closed socket ends it at once, SIGKILL if not."""
        self._cause = self._cause or "closed"
        if self._transport is not None:
            self._transport.close()
        if self._process is not None:
            try:
                async with asyncio.timeout(2.0):
                    await self._process.wait()
            except TimeoutError:
                self.kill("it did not end")
                await self._process.wait()
        for task in list(self._watching):
            task.cancel()
        if self._watching:
            await asyncio.wait(set(self._watching))
        self._end()

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Counters by device, as last told."""
        return self._counters

    def kill(self, cause: str) -> None:
        """SIGKILL."""
        self._cause = self._cause or cause
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    # --- watching ---------------------------------------------------------------------------------------------------

    async def _watch_process(self, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        cause = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self._cause = f"{self._cause} ({cause})" if self._cause else cause
        if self._transport is not None:
            self._transport.close()
        self._end()

    async def _watch_silence(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._send(wire.Ping(next(self._numbers)))
            await asyncio.sleep(PING_S)
            allowed_s = MUTE_S if self._at_work else START_S
            if loop.time() - self._heard > allowed_s:
                self.kill(f"no answer for {allowed_s:g} s")
                return

    def _end(self) -> None:
        for verb, answer in self._asked.values():
            if not answer.done():
                answer.set_result(UNSURE if verb == "operate" else OFFLINE)
        for stopped in self._stopping.values():
            if not stopped.done():
                stopped.set_result(None)
        if not self.ended.done():
            self.ended.set_result(self._cause)

    # --- the socket -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _exc: Exception | None) -> None:
        # As a rule because it has ended, which is told by then with its own cause.
        asyncio.get_running_loop().call_later(LINGER_S, self.kill, "it closed the connection to the core")

    def data_received(self, data: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        try:
            for message in self._inbox.messages(data):
                self._received(message)
        except wire.BrokenStreamError as error:
            log.error("a worker said what is no message", worker=self.name, cause=str(error))
            self.kill(f"it said what is no message: {error}")

    def _send(self, message: wire.Message) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire.pack(message))

    def _received(self, message: wire.ToCore) -> None:
        match message:
            case wire.State(batch):
                if batch.device in self._devices:
                    self._core.state(batch)
            case wire.Events(number, batch, cursor):
                if batch.device in self._devices:
                    self._take(number, self._core.take(batch, cursor))
            case wire.LinkIs(name, link, why):
                self._at_work = True
                if name in self._devices:
                    self._core.device(name, Link(link), why)
            case wire.GapAt(device, cause):
                if device in self._devices:
                    self._core.gap(device, cause)
            case wire.Progressed(command_id, step):
                self._core.progress(command_id, step)
            case wire.Answered(number, reply):
                asked = self._asked.get(number)
                if asked is not None and not asked[1].done():
                    asked[1].set_result(reply)
            case wire.Stopped(name):
                self._devices.discard(name)
                stopped = self._stopping.pop(name, None)
                if stopped is not None and not stopped.done():
                    stopped.set_result(None)
            case wire.Pong(_, counters):
                self._counters = counters

    def _take(self, number: int, committed: asyncio.Future[int] | None) -> None:
        if committed is None:
            self._send(wire.Committed(number))
        else:
            committed.add_done_callback(lambda done: self._committed(number, done))

    def _committed(self, number: int, done: asyncio.Future[int]) -> None:
        # Not committed: nothing is confirmed, the driver goes on waiting. The core has said why.
        if not done.cancelled() and done.exception() is None:
            self._send(wire.Committed(number))
