"""One connection to one unit or several: TCP, TLS or a serial line, and one transaction at a time on it.

Whoever has the turn asks. A request is sent once; its outcome is the checked answer or a ModbusError that says
whether it was sent. After a write whose answer is not clear a TCP connection is closed at once, so that a late echo
can never be taken for the next command's; on RTU what comes late is let pass before anything else is sent.
"""

from __future__ import annotations

import asyncio
import errno
import random
import ssl
import termios
from collections.abc import Callable

from gatewayd import clock
from gatewayd.protocols.device import Serial
from gatewayd.protocols.driver import DeviceFault, LinkLost
from gatewayd.protocols.modbus.framing import BrokenStreamError, Framing, Mbap, Rtu
from gatewayd.protocols.modbus.pdu import (
    BadAnswer,
    ConnectionLost,
    ExceptionAnswer,
    ExpiredError,
    NoAnswer,
    NotSentError,
    Request,
    UnansweredError,
    data_of,
)
from gatewayd.protocols.modbus.settings import LineSettings
from gatewayd.protocols.modbus.turns import Turn, Turns, Urgency
from gatewayd.protocols.tls import client_context, reason, server_name

QUIET_AFTER_LATE_S = 0.05
"""Silence that ends what came too late; USB adapters hand it over in pieces."""
LONGEST_BABBLE_S = 5.0
"""A line that is never silent is closed."""

_PARITIES = {"none": "N", "even": "E", "odd": "O"}


class OutOfStep(NotSentError):
    """A unit sent more answers than it was asked for: the last one accepted may have been of an earlier request."""


class Line(asyncio.Protocol):
    """One connection, from opening to its end; never opened again.

    writes: requests sent so far that may have changed something
    sent:   the moment before the last request went out
    """

    def __init__(self, settings: LineSettings) -> None:
        self.settings = settings
        self.writes = 0
        self.sent = clock.Moment(0, 0)
        self.why = ""
        """Why it ended, "" while it lives."""
        self._rtu = settings.rtu
        self._octet_s = settings.octet_s
        self._loop = asyncio.get_running_loop()
        self._framing: Framing = Rtu(echo=settings.echo) if settings.rtu else Mbap(random.randrange(0x10000))
        self._turns = Turns()
        self._transport: asyncio.Transport | None = None
        self._made = asyncio.Event()
        self._gone = asyncio.Event()
        self._heard = asyncio.Event()
        self._watchers: set[Callable[[], None]] = set()
        self._waiter: asyncio.Future[bytes] | None = None
        self._last_octet = 0.0
        self._last_octet_in = 0.0
        self._failed_at = 0.0
        self._late_until = 0.0
        self._settled: set[int] = set()
        self._out_of_step: set[int] = set()

    # ---- opening and ending

    async def open(self, within_s: float) -> None:
        """Connect. Raises LinkLost, DeviceFault where someone must change something; the line is of no use then."""
        place = self.settings.place
        try:
            async with asyncio.timeout(within_s):
                if self.settings.serial:
                    await self._open_serial(self.settings.serial)
                else:
                    await self._open_tcp()
        except TimeoutError:
            cause: LinkLost | DeviceFault = LinkLost(f"no connection to {place} within {within_s:g} s")
        except ssl.SSLError as error:
            cause = LinkLost(f"{place}: TLS: {reason(error)}")
        except OSError as error:
            cause = LinkLost(f"{place}: {error.strerror or error}")
        except ValueError as error:
            cause = DeviceFault(f"{place} cannot be set up: {error}")
        except termios.error as error:  # EINVAL: the port does not do these settings; else it may have been pulled out
            kind = DeviceFault if error.args[0] == errno.EINVAL else LinkLost
            cause = kind(f"{place} cannot be set up: {error.args[-1]}")
        except asyncio.CancelledError:
            self.close("given up")
            raise
        else:
            if not self.why:
                return
            cause = LinkLost(self.why)
        self.close(str(cause))
        raise cause

    async def _open_tcp(self) -> None:
        settings, context, name = self.settings, None, None
        if settings.tls:
            try:
                context = client_context(settings.tls)
            except OSError as error:
                raise ValueError(f"TLS files: {error}") from error
            name = server_name(settings.tls, settings.host)
        await self._loop.create_connection(
            lambda: self, settings.host, settings.port, ssl=context, server_hostname=name
        )

    async def _open_serial(self, serial: Serial) -> None:
        from pymodbus.transport.serialtransport import create_serial_connection

        self._transport, _ = await create_serial_connection(
            self._loop,
            lambda: self,
            serial.port,
            baudrate=serial.baud,
            bytesize=8,
            parity=_PARITIES[serial.parity],
            stopbits=serial.stop_bits,
        )
        await self._made.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio.Protocol."""
        self._transport = transport  # type: ignore[assignment]  # a stream's
        self._made.set()
        if self.why:
            self._drop_transport()

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio.Protocol."""
        self._transport = None
        if exc is None and self.settings.tls and not self._last_octet_in:
            own = "does it accept ours?" if self.settings.tls.cert_file else "does it want one of ours (cert_file)?"
            why = f"the device closed the TLS connection before its first answer; certificate: {own}"
        elif exc is None:
            why = "the device closed the connection"
        elif isinstance(exc, ssl.SSLError):
            why = f"TLS: {reason(exc)}"
        else:
            why = f"the connection was lost: {getattr(exc, 'strerror', None) or exc}"
        self._end(why)
        self._gone.set()

    def close(self, why: str) -> None:
        """End it at once; what is asked now gets ConnectionLost."""
        self._end(why)
        self._drop_transport()

    def _drop_transport(self) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            if not self._made.is_set():
                self._gone.set()
        elif not self.settings.serial:
            transport.abort()
        elif self._made.is_set():  # before that it cannot be closed; connection_made does it then
            transport.close()
            self._gone.set()  # it does not tell

    def _end(self, why: str) -> None:
        if self.why:
            return
        self.why = why or "closed"
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionLost(why))
        for watcher in tuple(self._watchers):
            watcher()

    async def gone(self) -> None:
        """Return when the socket is closed."""
        await self._gone.wait()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call it when the line ends."""
        self._watchers.add(watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        """No more."""
        self._watchers.discard(watcher)

    # ---- transactions

    def turn(self, urgency: Urgency) -> Turn:
        """Only who has the turn may ask."""
        return self._turns.turn(urgency)

    @property
    def unasked(self) -> int:
        """Frames (TCP) or octets (RTU) that came without being asked for, or too late."""
        return self._framing.unasked

    @property
    def noise(self) -> int:
        """Octets passed over before answers."""
        return self._framing.noise

    async def ask(
        self, unit: int, request: Request, *, timeout_s: float, pause_s: float = 0.0, not_after_ns: int | None = None
    ) -> bytes:
        """Send a request once and give what its answer carries (b"" for a write).

        timeout_s:    from the end of the request to the answer, without the time octets take on a serial line
        pause_s:      silence before it at least
        not_after_ns: CLOCK_MONOTONIC; past it nothing is sent
        Raises NotSentError, ExpiredError, OutOfStep; NoAnswer, BadAnswer, ConnectionLost; ExceptionAnswer.
        """
        if self._rtu or pause_s:
            await self._silence(pause_s)
        if self._rtu:
            self._judge_unasked(unit)
        if self._transport is None or self._transport.is_closing():
            raise NotSentError(self.why or "the connection is being closed")
        if not_after_ns is not None and clock.mono_ns() > not_after_ns:
            raise ExpiredError("too late to be sent")
        frame = self._framing.ask(unit, request)
        loop = self._loop
        waiter = self._waiter = loop.create_future()
        allowed_s = timeout_s + (len(frame) + request.answer + 3) * self._octet_s
        timer = loop.call_later(allowed_s, _time_out, waiter, allowed_s)
        self.writes += request.writes
        self._last_octet = loop.time()
        self.sent = clock.moment()
        self._transport.write(frame)
        try:
            data = data_of(request, await waiter)
        except ExceptionAnswer:
            self._settled.add(unit)
            raise
        except (UnansweredError, asyncio.CancelledError) as error:
            self._unclear(request, error, timeout_s)
            raise
        finally:
            timer.cancel()
            self._waiter = None
            self._framing.forget()
            if waiter.done() and not waiter.cancelled():
                waiter.exception()  # seen, also where the asker was cancelled in the same moment
        self._settled.add(unit)
        return data

    def _judge_unasked(self, unit: int) -> None:
        """RTU: an answer nobody asked for, from a unit whose last one was accepted: that may have been a late one."""
        self._out_of_step |= self._framing.discard() & self._settled
        self._settled.discard(unit)
        if unit in self._out_of_step:
            self._out_of_step.discard(unit)
            raise OutOfStep(f"unit {unit} answered twice, or later than timeout_s")

    def _unclear(self, request: Request, error: BaseException, timeout_s: float) -> None:
        if request.writes and not self.settings.serial:
            self.close(f"closed after a write without a clear answer: {error or 'given up'}")
        elif self._rtu:
            self._failed_at = self._loop.time()
            self._late_until = self._failed_at + timeout_s

    async def _silence(self, pause_s: float) -> None:
        """Let a late answer pass, and the silence that begins a frame. Returns at once when the line has ended."""
        loop = self._loop
        quiet_s = max(self.settings.quiet_s, pause_s)
        gives_up = max(loop.time(), self._late_until) + quiet_s + LONGEST_BABBLE_S
        while not self.why:
            now = loop.time()
            until = self._last_octet + quiet_s
            if now < self._late_until:
                if self._last_octet_in > self._failed_at:  # here it is
                    self._late_until = self._last_octet_in + QUIET_AFTER_LATE_S
                until = max(until, self._late_until)
            if now >= until:
                heard = self._last_octet_in
                for _ in range(2):  # so that what the kernel holds already is seen, however late this loop is
                    await asyncio.sleep(0)
                if self._last_octet_in == heard:
                    return
                continue
            if now > gives_up:
                self.close("the line is never silent")
                return
            self._heard.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._heard.wait()
            except TimeoutError:
                pass

    def data_received(self, data: bytes) -> None:
        """Of asyncio.Protocol."""
        self._last_octet = self._last_octet_in = self._loop.time()
        self._heard.set()
        waiter, framing = self._waiter, self._framing
        framing.feed(data)
        try:
            if waiter is not None and not waiter.done():
                if (pdu := framing.answer()) is not None:
                    waiter.set_result(pdu)
            elif not self._rtu:
                framing.discard()
        except BadAnswer as error:
            assert waiter is not None
            waiter.set_exception(error)
        except BrokenStreamError as error:
            self.close(str(error))


def _time_out(waiter: asyncio.Future[bytes], allowed_s: float) -> None:
    if not waiter.done():
        waiter.set_exception(NoAnswer(f"no answer within {allowed_s:.3g} s"))
