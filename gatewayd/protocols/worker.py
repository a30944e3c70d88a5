"""A worker process: the drivers of some devices of one protocol, on a socket to the core. Started by `child.py`.

    python -m gatewayd.protocols.worker --fd 7 --core PID

It never outlives the core: the kernel kills it with the core (PR_SET_PDEATHSIG), and a thread that makes no native
call ends it when the socket is closed at the other side. Native stacks live here and nowhere else.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import itertools
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine

import structlog

from gatewayd import failpoint, garbage, heap, log
from gatewayd.control.types import Step
from gatewayd.points.types import Batch, Cursor, Link, Sample
from gatewayd.protocols import registry, wedged, wire
from gatewayd.protocols.device import Device
from gatewayd.protocols.driver import Counting, Driver
from gatewayd.protocols.host import UNSURE, RememberingSink, ask_driver
from gatewayd.protocols.supervise import keep_running

logger = structlog.get_logger("worker")

PR_SET_PDEATHSIG = 1
WRITE_AHEAD = 1024 * 1024
"""Octets waiting for the core from which on state is gathered (newest wins) in place of being sent."""


class Outbox(asyncio.Protocol):
    """The socket to the core. State batches gather here while the core is slow; nothing grows without bound.

    received: takes each message of the core
    """

    def __init__(self, received: Callable[[wire.ToWorker], None]) -> None:
        self._received = received
        self._inbox = wire.WorkerInbox()
        self._transport: asyncio.WriteTransport | None = None
        self._paused = False
        self._gathered: dict[str, dict[int, tuple[Sample, Batch]]] = {}
        self.gathered_batches = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.set_write_buffer_limits(WRITE_AHEAD)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self._inbox.messages(data):
            self._received(message)

    def connection_lost(self, _exc: Exception | None) -> None:
        os._exit(0)  # the core is gone, or what it says makes no sense

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        for device in list(self._gathered):
            self._release(device)

    def send(self, message: wire.Message) -> None:
        """Send in order. Whoever sends without waiting for an answer is bounded by what it speaks of."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire.pack(message))

    def send_state(self, batch: Batch) -> None:
        """Send, or gather by point while the core is slow: newest wins, and the core is told how it is now."""
        if not self._paused:
            self.send(wire.State(batch))
            return
        self.gathered_batches += 1
        rows = self._gathered.setdefault(batch.device, {})
        for sample in batch.samples:
            rows.pop(sample.point, None)  # to the end: in order of arrival
            rows[sample.point] = sample, batch

    def send_after_state(self, device: str, message: wire.Message) -> None:
        """Send what must not overtake, or be overtaken by, the device's state."""
        self._release(device)
        self.send(message)

    def _release(self, device: str) -> None:
        gathered = self._gathered.pop(device, None)
        if gathered:
            last = next(reversed(gathered.values()))[1]
            samples = [sample for sample, _ in gathered.values()]
            self.send(wire.State(Batch(device, samples, last.t_recv_ns, mono_ns=last.mono_ns)))


class _ToCore:
    """The sink of the drivers here: every call becomes a message."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[str, asyncio.Future[None]]] = {}
        self.state = outbox.send_state

    def take(self, batch: Batch, cursor: Cursor | None) -> asyncio.Future[None]:
        number = next(self._numbers)
        committed = asyncio.get_running_loop().create_future()
        self._waiting[number] = batch.device, committed
        self._outbox.send_after_state(batch.device, wire.Events(number, batch, cursor))
        failpoint.here("worker-events-sent")
        return committed

    def committed(self, number: int) -> None:
        """The core has the batch of this number on disk."""
        failpoint.here("worker-events-committed")
        _, waiting = self._waiting.pop(number, ("", None))
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def forget(self, device: str) -> None:
        """The device's driver has ended for good: the core need not answer for it."""
        self._waiting = {number: one for number, one in self._waiting.items() if one[0] != device}

    def device(self, name: str, link: Link, why: str = "") -> None:
        self._outbox.send_after_state(name, wire.LinkIs(name, link, why))

    def gap(self, device: str, cause: str) -> None:
        self._outbox.send_after_state(device, wire.GapAt(device, cause))

    def progress(self, command_id: str, step: Step) -> None:
        self._outbox.send(wire.Progressed(command_id, step))


class Worker:
    """The devices of this process. `create` makes a driver; tests give another one."""

    def __init__(self, create: Callable[[Device], Driver] = registry.create) -> None:
        self._create = create
        self._outbox = Outbox(self._received)
        self._sink = _ToCore(self._outbox)
        self._drivers: dict[str, Driver] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, sock: socket.socket) -> None:
        """Serve until the core is gone, which ends the process."""
        await asyncio.get_running_loop().create_connection(lambda: self._outbox, sock=sock)
        await garbage.keep_tidy()

    def _received(self, message: wire.ToWorker) -> None:
        match message:
            case wire.Committed(number):
                self._sink.committed(number)
            case wire.Start(device, cursors):
                self._start(device, cursors)
            case wire.Stop(name):
                self._task(self._stop(name))
            case wire.Ask():
                self._task(self._ask(message))
            case wire.Ping(number):
                self._outbox.send(wire.Pong(number, self._counters()))

    def _task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _start(self, device: Device, cursors: list[Cursor]) -> None:
        sink = RememberingSink(self._sink, cursors)
        try:
            driver = self._create(device)
        except Exception as error:
            logger.exception("the driver cannot be made", device=device.name)
            sink.device(device.name, Link.FAULT, f"the driver cannot be made: {error}")
            return
        if not self._drivers:
            garbage.settle()  # the driver's modules are here now
        self._drivers[device.name] = driver
        self._running[device.name] = asyncio.get_running_loop().create_task(
            keep_running(driver, device.name, sink, sink.cursors), name=device.name
        )

    async def _stop(self, name: str) -> None:
        self._drivers.pop(name, None)
        task = self._running.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        self._sink.forget(name)
        self._outbox.send_after_state(name, wire.Stopped(name))

    async def _ask(self, ask: wire.Ask) -> None:
        try:
            reply = await ask_driver(self._drivers.get(ask.device), ask.verb, ask.control)
        except Exception:
            logger.exception("a request broke the driver", device=ask.device, verb=ask.verb)
            reply = UNSURE  # whatever broke, something may have been sent
        self._outbox.send_after_state(ask.device, wire.Answered(ask.number, reply))

    def _counters(self) -> dict[str, dict[str, int]]:
        counters = {name: driver.counters() for name, driver in self._drivers.items() if isinstance(driver, Counting)}
        counters[""] = {"gathered_batches": self._outbox.gathered_batches, "tasks": len(asyncio.all_tasks())}
        return counters


# --- the process ----------------------------------------------------------------------------------------------------


def die_with(core: int) -> None:
    """Have the kernel kill us when the core dies; end at once where it is gone already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != core:
        os._exit(0)


def end_with(sock: socket.socket) -> None:
    """End the process, from a thread that makes no native calls, when the core closes the socket."""
    fd = sock.fileno()

    def watch() -> None:
        poll = select.poll()
        poll.register(fd, select.POLLRDHUP)
        poll.poll()
        os._exit(0)

    threading.Thread(target=watch, name="core-gone", daemon=True).start()


def main(arguments: list[str] | None = None) -> int:
    """The command line; used by `child.py` only."""
    parser = argparse.ArgumentParser(prog="python -m gatewayd.protocols.worker")
    parser.add_argument("--fd", type=int, required=True, help="the socket to the core")
    parser.add_argument("--core", type=int, required=True, help="the core's process id")
    parser.add_argument("--log-level", default="info")
    given = parser.parse_args(arguments)
    die_with(given.core)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the terminal's Ctrl-C reaches us too; the core decides
    log.configure(given.log_level)
    wedged.in_worker()
    # Collecting early costs up to a quarter of the CPU.
    gc.set_threshold(*garbage.THRESHOLD)
    heap.keep()
    sock = socket.socket(fileno=given.fd)
    sock.setblocking(False)
    end_with(sock)
    asyncio.run(Worker().run(sock))
    return 0


if __name__ == "__main__":
    sys.exit(main())
