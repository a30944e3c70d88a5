"""TLS to an IED (IEC 62351-3, -4): a session of Python's ssl, with libiec61850 behind it on the loopback.

    IED <-- TLS --> sockets.py | relay | loopback <-- 127.0.0.1 --> libiec61850

The library's own TLS compares no name, reads no revocation list of ours and brings a TLS stack that nobody updates with
the system. Octets go through unchanged. The loopback takes one connection, and only from this process.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from gatewayd.protocols.device import Device
from gatewayd.protocols.iec61850.config import Options
from gatewayd.protocols.loopback import HOST, Doorway
from gatewayd.protocols.sockets import Wire, open_socket


class Relay(asyncio.Protocol):
    """One TLS session. As a protocol of asyncio it is the loopback's end.

    why: the cause of its end, "" while it lives
    """

    def __init__(self, device: Device, options: Options) -> None:
        self._device = device
        self._options = options
        self._wire: Wire | None = None
        self._doorway: Doorway | None = None
        self._letting_in: asyncio.Task[None] | None = None
        self._loopback: asyncio.Transport | None = None
        self.why = ""

    async def __aenter__(self) -> Self:
        """Raises LinkLost, DeviceFault."""
        options = self._options
        self._wire = await open_socket(
            self._device,
            self._received,
            self._lost,
            within_s=options.connect_timeout_s,
            unanswered_s=2 * options.timeout_s,
        )
        try:
            self._doorway = Doorway()
        except BaseException:
            self._wire.close()
            raise
        self._letting_in = asyncio.create_task(self._let_in(self._doorway), name=f"{self._device.name}-loopback")
        return self

    async def __aexit__(self, a: type[BaseException] | None, b: BaseException | None, c: TracebackType | None) -> None:
        if self._wire is not None:
            self._wire.close()
        if self._letting_in is not None:
            self._letting_in.cancel()
            await asyncio.gather(self._letting_in, return_exceptions=True)
        if self._doorway is not None:
            self._doorway.close()
        if self._loopback is not None:
            self._loopback.abort()

    @property
    def address(self) -> tuple[str, int]:
        """Where libiec61850 connects to."""
        assert self._doorway is not None
        return HOST, self._doorway.port

    async def _let_in(self, doorway: Doorway) -> None:
        sock = await doorway.connection()
        with contextlib.suppress(OSError):  # it has gone again
            await asyncio.get_running_loop().connect_accepted_socket(lambda: self, sock)

    # from the IED
    def _received(self, data: bytes) -> None:
        if self._loopback is not None and not self._loopback.is_closing():
            self._loopback.write(data)

    def _lost(self, why: str) -> None:
        self.why = self.why or why
        if self._doorway is not None:
            self._doorway.close()
        if self._loopback is not None:
            self._loopback.close()  # behind what came before the end

    # from libiec61850, which has one request outstanding: what it sends needs no bound here
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio.Protocol: the IED may speak now."""
        assert isinstance(transport, asyncio.Transport)
        self._loopback = transport
        if self.why:
            transport.close()
        elif self._wire is not None:
            self._wire.resume()

    def data_received(self, data: bytes) -> None:
        """Of asyncio.Protocol."""
        if self._wire is not None:
            self._wire.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio.Protocol: libiec61850 has ended the association."""
        del exc
        if self._wire is not None:
            self._wire.close()

    def pause_writing(self) -> None:
        """Of asyncio.Protocol: libiec61850 is behind, or held back by the disk; then TCP holds the IED back."""
        if self._wire is not None:
            self._wire.pause()

    def resume_writing(self) -> None:
        """Of asyncio.Protocol."""
        if self._wire is not None:
            self._wire.resume()
