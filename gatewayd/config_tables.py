"""The tables of gatewayd.toml: as they stand in the file (`…Table`), and as the daemon uses them (`…Settings`)."""

from __future__ import annotations

import ipaddress
import re
import stat
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from gatewayd.problems import shown
from gatewayd.protocols.device import Serial, Tls


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[gateway]`: the topic level and status name; the folder of journal and audit."""

    name: str
    state_dir: Path = Path("/var/lib/gatewayd")


class JournalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[journal]`: how long and how much is kept, seconds and octets; what happens when only unsent events are left.

    consumers: names of those whose acknowledgements hold back trimming by age
    """

    keep_s: float = 7 * 86400.0
    max_size: int = 4 * 1024**3
    when_full: Literal["block", "drop-oldest"] = "block"
    consumers: tuple[str, ...] = ()


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[workers]`: worker processes per protocol (1 where not named), or none at all (for debugging only)."""

    in_process: bool = False
    shards: dict[str, Annotated[int, msgspec.Meta(ge=1, le=64)]] = {}


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[metrics]`: where Prometheus may ask, an address of this machine alone; "" is nowhere."""

    listen: str = ""


class GatewayTable(msgspec.Struct, forbid_unknown_fields=True):
    """`[gateway]`."""

    name: str
    state_dir: str = "/var/lib/gatewayd"


class JournalTable(msgspec.Struct, forbid_unknown_fields=True):
    """`[journal]`: `7d`, `4GiB`."""

    keep: str = "7d"
    max_size: str = "4GiB"
    when_full: Literal["block", "drop-oldest"] = "block"
    consumers: tuple[str, ...] = ()


class StationTable(msgspec.Struct, forbid_unknown_fields=True):
    """`[station]`: the list of derived points."""

    points: str


class DeviceTable(msgspec.Struct, forbid_unknown_fields=True):
    """One `[[device]]`; the tables of the protocols are judged by the protocols."""

    name: str
    protocol: str
    points: str
    host: str = ""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    serial: Serial | None = None
    tls: Tls | None = None
    framer: Literal["", "tcp", "rtu", "rtu-over-tcp"] = ""
    enabled: bool = True
    retain_points: bool = True
    clock_limit_s: Annotated[float, msgspec.Meta(ge=0.001, le=86400)] = 1.0
    dnp3: dict[str, Any] | None = None
    iec61850: dict[str, Any] | None = None
    modbus: dict[str, Any] | None = None


class FileTable(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file; the tables are judged one by one, so that every mistake is found."""

    gateway: dict[str, Any]
    device: list[Any] = []
    station: StationTable | None = None
    mqtt: dict[str, Any] = {}
    journal: dict[str, Any] = {}
    control: dict[str, Any] = {}
    workers: dict[str, Any] = {}
    metrics: dict[str, Any] = {}


DURATIONS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
SIZES = {
    "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3, "TiB": 1024.0**4,
}  # fmt: skip


def listening(text: str) -> tuple[str, int] | None:
    """Host and port of `127.0.0.1:9464` or `[::1]:9464`; None where it is no address of this machine alone."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        return None
    if not colon or not loopback or not port.isdecimal() or not 0 <= int(port) <= 65535:
        return None
    return host, int(port)


def exposed(path: Path) -> str:
    """What is wrong with the rights of a secret's file; "" where nothing is, or it is not there.

    A secret that everybody on the machine can read is none; the group is the service's own.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return ""
    if mode & stat.S_IRWXO:
        return f"mode {mode:04o} lets everybody on this machine at it; 0640 or 0600 is allowed"
    return ""


def bad_name(name: str) -> str:
    """What is wrong with the name of a gateway or device, which is one level of a topic."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        return ""
    return f"found {shown(name)}; letters, digits, . _ - are allowed, 64 at most, a letter or digit first"
