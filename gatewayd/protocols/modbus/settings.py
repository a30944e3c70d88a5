"""Where a line goes, how it speaks, and how long octets take on it. Pure."""

from __future__ import annotations

from typing import NamedTuple

from gatewayd.protocols.device import Device, Serial, Tls

QUIET_CHARACTERS = 3.5
"""Silence between two RTU frames (Modbus over serial line 1.02, 2.5.1.1)."""
SHORTEST_QUIET_S = 0.00175
"""Above 19200 baud."""


class LineSettings(NamedTuple):
    """One connection. Devices of one line have the same.

    shared: RTU always, since frames of two connections to one bus would collide; TCP where the devices say so
    """

    host: str
    port: int
    serial: Serial | None
    tls: Tls | None
    rtu: bool
    echo: bool
    shared: bool

    @property
    def place(self) -> str:
        """For messages, and the same for devices of one line."""
        return self.serial.port if self.serial else f"{self.host}:{self.port}"

    @property
    def octet_s(self) -> float:
        """What one octet takes on a serial line, 0 elsewhere."""
        return octet_s(self.serial) if self.serial else 0.0

    @property
    def quiet_s(self) -> float:
        """The silence before a frame, 0 where nothing is known of the line behind."""
        return quiet_s(self.serial) if self.serial else 0.0


def line_settings(device: Device, *, one_connection: bool, echo: bool) -> LineSettings:
    """The line of a checked device."""
    rtu = is_rtu(device)
    return LineSettings(
        device.host, device.port, device.serial, device.tls, rtu=rtu, echo=echo, shared=rtu or one_connection
    )


def is_rtu(device: Device) -> bool:
    """Frames are RTU: on a serial line, or through a serial server."""
    return device.framer in ("rtu", "rtu-over-tcp")


def octet_s(serial: Serial) -> float:
    """Start bit, 8 data bits, parity, stop bits."""
    return (9 + (serial.parity != "none") + serial.stop_bits) / serial.baud


def quiet_s(serial: Serial) -> float:
    """The silence before a frame."""
    return max(QUIET_CHARACTERS * octet_s(serial), SHORTEST_QUIET_S)
