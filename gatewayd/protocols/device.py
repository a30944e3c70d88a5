"""One device as a driver gets it: where it is, what it is asked, which points it has. Plain data."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from gatewayd.points.types import PointSpec


class Serial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A serial line: `serial = { port = "/dev/ttyS1", baud = 9600, parity = "none", stop_bits = 1 }`."""

    port: str
    baud: int = 9600
    parity: str = "none"
    stop_bits: int = 1


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """TLS towards a device; paths, or names of systemd credentials.

    server_name: the name in the device's certificate, where it is not the host
    crl_file:    revoked certificates; past its own date every connection is refused
    """

    ca_file: str
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""
    crl_file: str = ""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One `[[device]]` of the configuration with its points.

    options: the protocol's own table (`[device.dnp3]`), already checked by the protocol's config.py,
             which also turns it into its typed Options again: `msgspec.convert(device.options, Options)`
    """

    name: str
    protocol: str
    host: str = ""
    port: int = 0
    serial: Serial | None = None
    tls: Tls | None = None
    framer: str = ""
    options: dict[str, Any] = {}
    points: tuple[PointSpec, ...] = ()


class Mistake(NamedTuple):
    """Something wrong in a device's configuration, found without opening a socket.

    point:   the row concerned, or None when an option of the device is wrong
    column:  the point-list column, or the option's key
    message: what was found; what is allowed
    """

    point: PointSpec | None
    column: str
    message: str
