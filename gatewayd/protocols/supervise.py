"""The one retry loop: runs a driver again and again with jittered backoff, and says how the link is.

A driver's `run` serves one connection and ends by raising; whether that is worth retrying is decided here, by the
two exception classes of the seam, and nowhere else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping

import structlog

from gatewayd.control.types import Step
from gatewayd.points.types import Batch, Cursor, Link
from gatewayd.protocols.driver import DeviceFault, Driver, LinkLost, Sink

log = structlog.get_logger("supervise")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
FACTOR = 1.618
CALM_S = 10.0
"""A connection that was up this long starts the pauses from the beginning again."""
FAULT_PAUSE_S = 60.0
"""A fault goes away when somebody changes something; nobody has to tell the gateway that it was done."""


def backoff(
    first_s: float = FIRST_PAUSE_S, longest_s: float = LONGEST_PAUSE_S, jitter: Callable[[], float] = random.random
) -> Iterator[float]:
    """Pauses in seconds: growing by 1.618 to the longest, each 50 to 100 % of its step so that 200 RTUs spread out."""
    pause = first_s
    while True:
        yield pause * (0.5 + jitter() / 2)
        pause = min(pause * FACTOR, longest_s)


class _Watching:
    """A sink that passes everything on and remembers whether the driver said UP."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.was_up = False
        self.state = sink.state
        self.events: Callable[..., object] = sink.events
        self.gap = sink.gap
        self.progress = sink.progress

    def device(self, name: str, link: Link, why: str = "") -> None:
        self.was_up = self.was_up or link is Link.UP
        self._sink.device(name, link, why)


async def keep_running(
    driver: Driver,
    name: str,
    sink: Sink,
    cursors: Callable[[], Awaitable[Mapping[str, Cursor]]],
    *,
    pauses: Callable[[], Iterator[float]] = backoff,
    fault_pause_s: float = FAULT_PAUSE_S,
) -> None:
    """Run the driver until cancelled. LinkLost and unforeseen errors are retried after `pauses`, a DeviceFault later.

    name:    the device's name, for the link's state and the log
    cursors: asked anew before each connection, since every connection moves them; waits for what one left on its way
             to the disk
    """
    loop = asyncio.get_running_loop()
    pause = pauses()
    fault = ""
    while True:
        watching = _Watching(sink)
        known = await cursors()
        if not fault:
            sink.device(name, Link.CONNECTING)
        began = loop.time()
        try:
            await driver.run(watching, known)  # type: ignore[arg-type]  # a Sink by its attributes
            why = "the driver ended without a cause"
        except LinkLost as error:
            why = str(error) or "link lost"
        except DeviceFault as error:
            if str(error) != fault:  # said once, however often it is tried
                fault = str(error)
                sink.device(name, Link.FAULT, fault)
                log.error("device needs attention", device=name, cause=fault, tried_again_in_s=fault_pause_s)
            await asyncio.sleep(fault_pause_s)
            continue
        except Exception as error:  # a bug in a driver costs its device, never the others
            log.exception("driver failed", device=name)
            why = f"internal error: {type(error).__name__}: {error}"
        fault = ""
        sink.device(name, Link.DOWN, why)
        if watching.was_up and loop.time() - began >= CALM_S:
            pause = pauses()
        await asyncio.sleep(next(pause))


class RecordingSink:
    """A sink that keeps what it is given, for tests and the blueprint: every call in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def state(self, batch: Batch) -> None:
        self.calls.append(("state", batch))

    async def events(self, batch: Batch, cursor: Cursor | None = None) -> None:
        self.calls.append(("events", batch, cursor))

    def device(self, name: str, link: Link, why: str = "") -> None:
        self.calls.append(("device", name, link, why))

    def gap(self, device: str, cause: str) -> None:
        self.calls.append(("gap", device, cause))

    def progress(self, command_id: str, step: Step) -> None:
        self.calls.append(("progress", command_id, step))
