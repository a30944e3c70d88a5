"""The lines of this process: units behind one serial port, serial server or gateway share one connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from gatewayd.protocols.driver import LinkLost
from gatewayd.protocols.modbus.line import Line
from gatewayd.protocols.modbus.settings import LineSettings


class _Shared:
    """A line with its users; the opening belongs to all of them, so that none takes it along when it goes."""

    def __init__(self, line: Line, within_s: float) -> None:
        self.line = line
        self.users = 0
        self.opening = asyncio.create_task(line.open(within_s), name=f"open {line.settings.place}")


class Lines:
    """Opens a line for its first user and closes it behind the last one."""

    def __init__(self) -> None:
        self._shared: dict[str, _Shared] = {}

    @contextlib.asynccontextmanager
    async def using(self, settings: LineSettings, within_s: float) -> AsyncIterator[Line]:
        """An open line. Raises LinkLost, DeviceFault where it cannot be opened or is in use with other settings."""
        shared = self._take(settings, within_s)
        shared.users += 1
        try:
            await asyncio.shield(shared.opening)
            yield shared.line
        finally:
            shared.users -= 1
            if not shared.users:
                await self._end(shared)

    def _take(self, settings: LineSettings, within_s: float) -> _Shared:
        if not settings.shared:
            return _Shared(Line(settings), within_s)
        there = self._shared.get(settings.place)
        if there is None or there.line.why:
            there = self._shared[settings.place] = _Shared(Line(settings), within_s)
        elif there.line.settings != settings:  # may be so for a moment only, while a reload restarts them one by one
            raise LinkLost(
                f"{settings.place} is in use with {_described(there.line.settings)}, this device has"
                f" {_described(settings)}; all devices of a line have the same settings"
            )
        return there

    async def _end(self, shared: _Shared) -> None:
        if self._shared.get(shared.line.settings.place) is shared:
            del self._shared[shared.line.settings.place]
        shared.opening.cancel()
        shared.line.close("not used any more")
        await asyncio.gather(shared.opening, return_exceptions=True)
        await shared.line.gone()


def _described(settings: LineSettings) -> str:
    serial = settings.serial
    form = "rtu" if settings.rtu else "tcp"
    parts = [f"{serial.baud} baud, parity {serial.parity}, {serial.stop_bits} stop bits" if serial else form]
    if settings.echo:
        parts.append("echo")
    if settings.tls:
        parts.append("TLS")
    return ", ".join(parts)
