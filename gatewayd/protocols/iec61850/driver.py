"""The IEC 61850 driver: one IED, one association at a time, on a thread of its own.

This side is asyncio: it hands batches to the core and waits for the disk; the thread does everything native.
"""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from collections.abc import Mapping

from gatewayd.control.types import Control, Reply
from gatewayd.points.types import Cursor, Link
from gatewayd.protocols import wedged
from gatewayd.protocols.device import Device
from gatewayd.protocols.driver import LinkLost, Sink
from gatewayd.protocols.iec61850.association import Association
from gatewayd.protocols.iec61850.config import options
from gatewayd.protocols.iec61850.exchange import OFFLINE, Complete, Deliver, Ended, Exchange, Gap, Memory, Verb
from gatewayd.protocols.iec61850.relay import Relay

LOOK_S = 1.0
STUCK_S = 15.0
"""No native call of the threadless library waits longer than 10 ms."""
COMMIT_LIMIT_S = 30.0
"""The disk takes events within this time, or the association is ended: what is shown would not be the present."""
LONGEST_STOP_S = 3.0
"""How long a stop waits for the thread; it ends itself when the native call it is in returns."""


class Iec61850Driver:
    """Driver, Operable, Interrogable and Counting of one IED."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._options = options(device)
        self._memory = Memory()
        self._exchange: Exchange | None = None
        self._at_disk_since = math.inf

    async def run(self, sink: Sink, cursors: Mapping[str, Cursor]) -> None:
        """Serve one association. Raises LinkLost when it ends, DeviceFault; CancelledError passes."""
        if self._device.tls is None:
            await self._serve(sink, cursors, await self._resolve())
            return
        async with Relay(self._device, self._options) as relay:
            try:
                await self._serve(sink, cursors, relay.address)
            except LinkLost as error:
                raise LinkLost(relay.why or str(error)) from error

    async def _serve(self, sink: Sink, cursors: Mapping[str, Cursor], address: tuple[str, int]) -> None:
        self._at_disk_since = math.inf
        exchange = Exchange()
        association = Association(self._device, self._options, address, cursors, exchange, self._memory, sink.progress)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def main() -> None:
            association.run()
            try:
                loop.call_soon_threadsafe(ended.set)
            except RuntimeError:
                pass  # the loop was closed before the thread ended

        thread = threading.Thread(target=main, name=f"iec61850-{self._device.name}", daemon=True)
        thread.start()
        self._exchange = exchange
        try:
            await self._watched(exchange, sink)
        finally:
            exchange.ready = False
            exchange.stop()
            self._exchange = None
            try:
                async with asyncio.timeout(LONGEST_STOP_S):
                    await ended.wait()
            except TimeoutError:
                pass

    async def _watched(self, exchange: Exchange, sink: Sink) -> None:
        """Hand over until the association has ended and the core has all that came of it.

        Gives up where the thread is stuck in a native call; ends the association where the disk takes too long.
        """
        handing = asyncio.ensure_future(self._hand_over(exchange, sink))
        why = ""
        try:
            while not (await asyncio.wait({handing}, timeout=LOOK_S))[0]:
                now = time.monotonic()
                if exchange.ended is None and now - exchange.alive > STUCK_S:
                    wedged.give_up(self._device.name, "libiec61850")
                if why:
                    continue
                if exchange.ended is not None:
                    why = exchange.ended.why
                elif now - self._at_disk_since > COMMIT_LIMIT_S:
                    why = f"the journal did not take events within {COMMIT_LIMIT_S:g} s; the IED keeps its own"
                    exchange.stop()
                if why:  # told now: what waits for the disk may do so for long
                    exchange.ready = False
                    sink.device(self._device.name, Link.DOWN, why)
            try:
                handing.result()
            except LinkLost as error:
                raise LinkLost(why or str(error)) from error
        finally:
            handing.cancel()
            await asyncio.wait({handing})

    async def _resolve(self) -> tuple[str, int]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                found = await loop.getaddrinfo(self._device.host, self._device.port, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise LinkLost(f"the name {self._device.host} was not resolved in time") from None
        except OSError as error:
            raise LinkLost(f"the name {self._device.host} cannot be resolved: {error.strerror or error}") from error
        ordered = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
        return str(ordered[0][4][0]), self._device.port

    async def _hand_over(self, exchange: Exchange, sink: Sink) -> None:
        while True:
            match await exchange.next():
                case Deliver(batch, True, cursor):
                    self._at_disk_since = time.monotonic()
                    await sink.events(batch, cursor)
                    self._at_disk_since = math.inf
                case Deliver(batch, False, _):
                    sink.state(batch)
                case Gap(cause):
                    sink.gap(self._device.name, cause)
                case Complete():
                    if exchange.ended is None:
                        exchange.ready = True
                        sink.device(self._device.name, Link.UP)
                case Ended(why, fault):
                    if fault is not None:
                        raise RuntimeError(why) from fault
                    raise LinkLost(why)
            exchange.taken()

    async def select(self, cmd: Control) -> Reply:
        """SBO or SBOw at the IED; DONE at once where its control model has no select."""
        return await self._ask(Verb.SELECT, cmd)

    async def operate(self, cmd: Control) -> Reply:
        """Oper; with enhanced security a termination follows as progress."""
        return await self._ask(Verb.OPERATE, cmd)

    async def cancel(self, cmd: Control) -> Reply:
        """Cancel; DONE at once where nothing is selected."""
        return await self._ask(Verb.CANCEL, cmd)

    async def interrogate(self) -> None:
        """GI on every control block, and a read of the other points."""
        await self._ask(Verb.INTERROGATE, None)

    async def _ask(self, verb: Verb, cmd: Control | None) -> Reply:
        exchange = self._exchange
        if exchange is None:
            return OFFLINE
        return await exchange.ask(verb, cmd)

    def counters(self) -> dict[str, int]:
        """Plain integers by name, over all associations."""
        return dict(self._memory.counts)


def create(device: Device) -> Iec61850Driver:
    """A driver for a checked device."""
    return Iec61850Driver(device)
