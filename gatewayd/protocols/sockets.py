"""The gateway's own end of a TCP connection to the field, with or without TLS, where a native stack must not open it.

DNP3 and IEC 61850 do TLS here and not in their native stacks: by the one policy of `gatewayd.tls`, with the name in the
certificate checked. So both end for causes people understand, said in the same words.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from gatewayd.protocols import tls
from gatewayd.protocols.device import Device, Tls
from gatewayd.protocols.driver import DeviceFault, LinkLost

Received = Callable[[bytes], None]
Lost = Callable[[str], None]
LARGEST_READ = 65536


class Wire(Protocol):
    """An open transport. What comes in goes to `received`; its end, once and with the cause, to `lost`.

    It begins paused: an outstation may speak before there is anybody to listen.
    """

    def write(self, data: bytes) -> None:
        """Send in order; after the end nothing happens."""

    def pause(self) -> None:
        """Take nothing in for a while."""

    def resume(self) -> None:
        """Take in again."""

    def close(self) -> None:
        """End it at once, whatever waits to go out; `lost` is not called any more."""


async def open_socket(
    device: Device, received: Received, lost: Lost, *, within_s: float, unanswered_s: float
) -> SocketWire:
    """Connect to a device's host and port. Raises LinkLost with the cause, DeviceFault where a file cannot be used.

    within_s:     connection and TLS handshake together
    unanswered_s: a connection that is not acknowledged for so long is given up by the kernel
    """
    context = _context(device.tls) if device.tls is not None else None
    where = f"{device.host} port {device.port}"
    wire = SocketWire(received, lost)
    loop = asyncio.get_running_loop()
    name = tls.server_name(device.tls, device.host) if device.tls is not None else None
    try:
        async with asyncio.timeout(within_s):
            await loop.create_connection(
                lambda: wire, device.host, device.port, ssl=context, server_hostname=name, happy_eyeballs_delay=0.25
            )
    except TimeoutError:
        doing = "no connection and TLS handshake with" if context else "no connection to"
        raise LinkLost(f"{doing} {where} within {within_s:g} s") from None
    except (OSError, ssl.CertificateError) as error:
        raise LinkLost(f"no connection to {where}: {cause(error)}") from error
    wire.set_unanswered(unanswered_s)
    return wire


def _context(settings: Tls) -> ssl.SSLContext:
    try:
        return tls.client_context(settings)
    except (OSError, ValueError) as error:
        raise DeviceFault(f"tls: a file cannot be used: {cause(error)}") from error


def cause(error: Exception) -> str:
    """An error of the transport, for people."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {tls.reason(error)}"
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved: {error.strerror}"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


class SocketWire(asyncio.Protocol):
    """TCP, with or without TLS.

    What comes before the first `resume` is kept, and not left in the kernel: of a TLS session that the device ends
    right after the handshake the cause would be lost otherwise.
    """

    def __init__(self, received: Received, lost: Lost) -> None:
        self._received = received
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._early: bytearray | None = bytearray()
        self._spoke = False
        self._closed = False
        self._held = True
        self._untaken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def set_unanswered(self, seconds: float) -> None:
        """TCP_USER_TIMEOUT: what was sent and not acknowledged, a command perhaps, dies with the connection."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        self._spoke = True
        if self._early is None:
            self._received(data)
            return
        self._early += data
        if len(self._early) > LARGEST_READ:
            self.pause()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        if exc is not None:
            self._lost(f"the connection broke: {cause(exc)}")
        elif self._spoke or self._transport is None or self._transport.get_extra_info("ssl_object") is None:
            self._lost("the device closed the connection")
        else:
            self._lost("the device closed the connection after the TLS handshake: it may not accept our certificate")

    def write(self, data: bytes) -> None:
        if not self._closed and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause(self) -> None:
        self._held = True
        if not self._closed and self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        early, self._early = self._early, None
        self._held = False
        if self._closed or self._transport is None:
            return
        if early:
            self._received(bytes(early))
        if not self._untaken:
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The device does not take what it is sent: nor is it read, or answers to it would pile up without bound."""
        self._untaken = True
        if not self._closed and self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It takes again."""
        self._untaken = False
        if not self._closed and not self._held and self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.abort()
