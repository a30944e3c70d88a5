"""The gateway's own end towards an outstation: a TCP connection, a TLS session or a serial line, as one kind of thing.

opendnp3 never opens any of them: it talks to `line.py` on the loopback. So TLS, serial lines and TCP end for causes
people understand, and nothing reaches a device that the gate has not seen.
"""

from __future__ import annotations

import asyncio
import os

import serial  # type: ignore[import-untyped]

from gatewayd.protocols.device import Device, Serial
from gatewayd.protocols.driver import DeviceFault, LinkLost
from gatewayd.protocols.sockets import LARGEST_READ, Lost, Received, Wire, cause, open_socket


async def open_wire(device: Device, received: Received, lost: Lost, *, within_s: float, unanswered_s: float) -> Wire:
    """Open a device's transport, as `sockets.open_socket`. Raises LinkLost, DeviceFault."""
    if device.serial is not None:
        return SerialWire(device.serial, received, lost)
    return await open_socket(device, received, lost, within_s=within_s, unanswered_s=unanswered_s)


_PARITY = {"none": serial.PARITY_NONE, "even": serial.PARITY_EVEN, "odd": serial.PARITY_ODD}


class SerialWire:
    """A serial line, opened for us alone."""

    def __init__(self, settings: Serial, received: Received, lost: Lost) -> None:
        self._received = received
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._waiting = bytearray()
        try:
            self._port = serial.Serial(
                settings.port,
                settings.baud,
                parity=_PARITY[settings.parity],
                stopbits=settings.stop_bits,
                timeout=0,
                exclusive=True,
            )
        except serial.SerialException as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise LinkLost(f"{settings.port} cannot be opened: {why}") from error
        except (ValueError, OverflowError) as error:
            raise DeviceFault(f"{settings.port} does not take these settings: {error}") from error
        self._fd: int = self._port.fileno()
        self._closed = False

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, LARGEST_READ)
        except BlockingIOError:
            return
        except OSError as error:
            self._broke(cause(error))
            return
        if data:
            self._received(data)
        else:
            self._broke("the port is gone")

    def _broke(self, why: str) -> None:
        if not self._closed:
            self.close()
            self._lost(f"the serial line broke: {why}")

    def write(self, data: bytes) -> None:
        if self._closed:
            return
        if not self._waiting:
            self._loop.add_writer(self._fd, self._writable)
        self._waiting += data

    def _writable(self) -> None:
        try:
            del self._waiting[: os.write(self._fd, self._waiting)]
        except BlockingIOError:
            return
        except OSError as error:
            self._broke(cause(error))
            return
        if not self._waiting:
            self._loop.remove_writer(self._fd)

    def pause(self) -> None:
        if not self._closed:
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._fd, self._readable)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._port.close()
