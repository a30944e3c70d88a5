"""gatewayd.toml and its point lists to one checked `Config`; every mistake of all files at once, opening no socket.

`load` is the only way in. Unknown keys are mistakes everywhere, with the key that was probably meant. Paths are
relative to the configuration's own folder.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gatewayd.config_tables import (
    DURATIONS,
    SIZES,
    DeviceTable,
    FileTable,
    GatewaySettings,
    GatewayTable,
    JournalSettings,
    JournalTable,
    MetricsSettings,
    WorkerSettings,
    bad_name,
    exposed,
    listening,
)
from gatewayd.control import settings as control_settings
from gatewayd.control.settings import ControlSettings
from gatewayd.mqtt import settings as mqtt_settings
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.mqtt.topics import sound_name
from gatewayd.points.contacts import ContactPair
from gatewayd.points.crosscheck import Derived, cross_check
from gatewayd.points.expressions import Expression
from gatewayd.points.pointlist import STATION, Draft, PointList, read_points
from gatewayd.points.types import ControlMode, PointSpec
from gatewayd.problems import ConfigError, Problem, listed, shown, suggestion
from gatewayd.protocols.device import Device, Tls
from gatewayd.protocols.registry import PROTOCOLS, configuration
from gatewayd.toml_check import Source, checked, read_table
from gatewayd.toml_locate import Path as TomlPath

__all__ = ["Config", "ConfigError", "GatewaySettings", "JournalSettings", "Problem", "WorkerSettings", "load"]

S = TypeVar("S", bound=msgspec.Struct)

SECRET_FILES = ("key_file", "password_file")
MOST_OCTETS = 16 * 1024 * 1024


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole station, checked.

    devices:    with their points as the driver gets them: no derived points; of a double point made of two contacts
                the contacts, and the double itself (address "") only where it is commanded
    points:     all points; `points[i].row == i`, contacts and derived ones included
    pairs:      the double points made of two contacts
    derived:    derived points in the order in which they are to be evaluated
    interlocks, locals: conditions by the row of the commanded point
    disabled:   devices with `enabled = false`; unretained: devices with `retain_points = false`
    clock_limits: by device, how far its clock may be from ours, s
    sha256:     of all files; sources: their names, gatewayd.toml first
    """

    path: Path
    gateway: GatewaySettings
    mqtt: MqttSettings
    journal: JournalSettings
    control: ControlSettings
    workers: WorkerSettings
    metrics: MetricsSettings
    devices: tuple[Device, ...]
    points: tuple[PointSpec, ...]
    pairs: tuple[ContactPair, ...]
    derived: tuple[Derived, ...]
    interlocks: dict[int, Expression]
    locals: dict[int, Expression]
    disabled: frozenset[str]
    unretained: frozenset[str]
    clock_limits: dict[str, float]
    sha256: str
    sources: tuple[str, ...]


class Purpose(Enum):
    """What a configuration is read for."""

    RUN = auto()
    """A rights file with mistakes is the desk's: it refuses all commands, and data goes on."""
    CHECK = auto()
    """Every mistake is wanted."""


def load(path: Path, purpose: Purpose = Purpose.RUN) -> Config:
    """Read and check a configuration and all its point lists; for a check the rights file too.

    Raises ConfigError with every mistake of all files, in the order of the files and their lines.
    """
    return _Loader(Path(path), purpose).load()


def named_files(config: Config) -> list[tuple[str, str, str]]:
    """Every TLS file of the configuration: of (`mqtt` or a device's name), use (`ca`, `cert`, `key`, `crl`), name."""
    tables: list[tuple[str, MqttSettings | Tls]] = [("mqtt", config.mqtt)]
    tables += [(device.name, device.tls) for device in config.devices if device.tls is not None]
    return [
        (of, use, name)
        for of, table in tables
        for use in ("ca", "cert", "key", "crl")
        if (name := getattr(table, f"{use}_file"))
    ]


class _Loader:
    """One reading of one configuration; collects mistakes, files and points as it goes."""

    def __init__(self, path: Path, purpose: Purpose) -> None:
        self._path = path
        self._purpose = purpose
        self._folder = path.parent
        self._problems: list[Problem] = []
        self._files: dict[str, bytes] = {}
        self._drafts: list[Draft] = []
        self._pairs: list[ContactPair] = []
        self._own_feedback: set[int] = set()
        self._devices: list[Device] = []
        self._names: set[str] = set()
        self._select_timeout_s = 0.0
        self._switched_off: set[str] = set()
        self._unretained: set[str] = set()
        self._clock_limits: dict[str, float] = {}
        self._source = Source(str(path), self._octets(path), self._problems)

    def _octets(self, path: Path) -> bytes:
        try:
            if path.stat().st_size > MOST_OCTETS:
                self._problems.append(Problem(str(path), 1, 1, f"the file is larger than {MOST_OCTETS} octets"))
                return b""
            data = path.read_bytes()
        except OSError as error:
            self._problems.append(Problem(str(path), 1, 1, f"cannot be read: {error.strerror or error}"))
            return b""
        self._files[str(path)] = data
        return data

    def load(self) -> Config:
        if self._problems:  # unreadable or no TOML: all else would only follow from it
            raise ConfigError(self._problems)
        table, _ = checked(self._source, FileTable, self._source.table, ())
        gateway = self._gateway(table.get("gateway", {}), present="gateway" in table)
        mqtt = self._mqtt(table.get("mqtt", {}), gateway.name)
        control = self._control(table.get("control", {}))
        journal = self._journal(table.get("journal", {}))
        workers = self._workers(table.get("workers", {}))
        metrics = self._metrics(table.get("metrics", {}))
        devices = table.get("device", [])
        if not devices and "device" not in self._source.table:
            self._source.mistake((), "no [[device]] found; at least one is needed")
        for at, device in enumerate(devices):
            self._device(device, ("device", at))
        if "station" in table and "points" in table["station"]:
            self._point_list(table["station"]["points"], STATION, ("station", "points"))
        cross = cross_check(self._drafts, self._own_feedback)
        self._problems += cross.problems
        if self._problems:
            raise ConfigError(self._sorted())
        return Config(
            path=self._path,
            gateway=gateway,
            mqtt=mqtt,
            journal=journal,
            control=control,
            workers=workers,
            metrics=metrics,
            devices=tuple(self._devices),
            points=tuple(draft.spec for draft in self._drafts),
            pairs=tuple(self._pairs),
            derived=tuple(cross.derived),
            interlocks=cross.interlocks,
            locals=cross.locals,
            disabled=frozenset(self._switched_off),
            unretained=frozenset(self._unretained),
            clock_limits=self._clock_limits,
            sha256=_digest(self._files),
            sources=tuple(self._files),
        )

    def _sorted(self) -> list[Problem]:
        order = {file: at for at, file in enumerate([str(self._path), *self._files])}
        unique = dict.fromkeys(self._problems)
        return sorted(unique, key=lambda problem: (order.get(problem.file, 0), problem.line, problem.column))

    # ---- tables

    def _gateway(self, table: Mapping[str, Any], *, present: bool) -> GatewaySettings:
        read = read_table(self._source, GatewayTable, table, ("gateway",)) if present else None
        if read is None:
            return GatewaySettings(name="unnamed")
        if bad := bad_name(read.name):
            self._source.mistake(("gateway", "name"), f"name: {bad}")
        return GatewaySettings(name=read.name, state_dir=self._folder / read.state_dir)

    def _mqtt(self, table: Mapping[str, Any], gateway: str) -> MqttSettings:
        read = read_table(self._source, MqttSettings, table, ("mqtt",)) or MqttSettings()
        for key, message in mqtt_settings.check(read):
            self._source.mistake(("mqtt", key), _prefixed(key, message))
        return self._with_paths(read, ("mqtt",)).completed(gateway)

    def _control(self, table: Mapping[str, Any]) -> ControlSettings:
        read = read_table(self._source, ControlSettings, table, ("control",)) or ControlSettings()
        for key, message in control_settings.check(read):
            self._source.mistake(("control", key), _prefixed(key, message))
        self._select_timeout_s = read.select_timeout_s
        if self._purpose is Purpose.CHECK and "/" in read.rights_file and (self._folder / read.rights_file).is_file():
            self._rights(self._folder / read.rights_file)
        return self._with_paths(read, ("control",))

    def _rights(self, path: Path) -> None:
        from gatewayd.control import identity  # brings cryptography with it

        try:
            identity.load(path)
        except ConfigError as error:
            self._problems += error.mistakes

    def _journal(self, table: Mapping[str, Any]) -> JournalSettings:
        read = read_table(self._source, JournalTable, table, ("journal",)) or JournalTable()
        for at, name in enumerate(read.consumers):
            if not sound_name(name):
                message = f"consumers: found {shown(name)}; 1 to 64 letters, digits and . _ @ - are allowed"
                self._source.mistake(("journal", "consumers", at), message)
        return JournalSettings(
            consumers=read.consumers,
            keep_s=self._unit(read.keep, DURATIONS, ("journal", "keep"), "a time such as 12h or 7d"),
            max_size=int(self._unit(read.max_size, SIZES, ("journal", "max_size"), "a size such as 500MB or 4GiB")),
            when_full=read.when_full,
        )

    def _unit(self, text: str, units: Mapping[str, float], path: TomlPath, allowed: str) -> float:
        match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?([A-Za-z]+)", text, re.ASCII)
        number = float(match[1]) * units.get(match[2], 0) if match else 0
        if not number:
            message = f"found {shown(text)}; {allowed} is allowed (units {', '.join(units)})"
            self._source.mistake(path, f"{path[-1]}: {message}")
        return number

    def _workers(self, table: Mapping[str, Any]) -> WorkerSettings:
        read = read_table(self._source, WorkerSettings, table, ("workers",)) or WorkerSettings()
        for name in read.shards:
            if name not in PROTOCOLS:
                message = f"found {shown(name)}; allowed are {listed(PROTOCOLS)}{suggestion(name, PROTOCOLS)}"
                self._source.mistake_of_key(("workers", "shards", name), f"shards: {message}")
        return read

    def _metrics(self, table: Mapping[str, Any]) -> MetricsSettings:
        read = read_table(self._source, MetricsSettings, table, ("metrics",)) or MetricsSettings()
        if read.listen and listening(read.listen) is None:
            allowed = "an address of this machine alone is allowed, as in 127.0.0.1:9464"
            self._source.mistake(("metrics", "listen"), f"listen: found {shown(read.listen)}; {allowed}")
        return read

    def _with_paths(self, settings: S, path: TomlPath) -> S:
        """The same struct with its `*_file` paths made absolute. A bare name is a systemd credential and stays."""
        changed = {}
        for field in settings.__struct_fields__:
            name = getattr(settings, field)
            if field.endswith("_file") and isinstance(name, str) and "/" in name:
                changed[field] = str((self._folder / name).absolute())
                if not Path(changed[field]).is_file():
                    if field == "rights_file" and self._purpose is Purpose.RUN:
                        continue
                    self._source.mistake(
                        (*path, field), f"{field}: found {shown(name)}, which is no file; {_FILE_HELP}"
                    )
                elif field in SECRET_FILES and (trouble := exposed(Path(changed[field]))):
                    self._source.mistake((*path, field), f"{field}: found {shown(name)}: {trouble}")
        return msgspec.structs.replace(settings, **changed) if changed else settings

    # ---- devices

    def _device(self, table: object, path: TomlPath) -> None:
        read = read_table(self._source, DeviceTable, table, path)
        if read is None:
            return
        source = self._source
        bad = bad_name(read.name) or ("the name is taken by derived points" if read.name == STATION else "")
        if bad:
            source.mistake((*path, "name"), f"name: {bad}")
        if read.name in self._names:
            source.mistake(
                (*path, "name"), f"name: found {shown(read.name)} a second time; names of devices are unique"
            )
        self._names.add(read.name)
        if read.protocol not in PROTOCOLS:
            hint = suggestion(read.protocol, PROTOCOLS)
            message = f"protocol: found {shown(read.protocol)}; {listed(PROTOCOLS)} is allowed{hint}"
            source.mistake((*path, "protocol"), message)
            self._point_list(read.points, read.name, (*path, "points"))
            return
        self._check_line(read, path)
        protocol = configuration(read.protocol)
        options, complete = checked(
            source, protocol.Options, getattr(read, read.protocol) or {}, (*path, read.protocol)
        )
        listing = self._point_list(read.points, read.name, (*path, "points"))
        device = Device(
            name=read.name,
            protocol=read.protocol,
            host=read.host,
            port=read.port or (protocol.DEFAULT_PORT if read.host else 0),
            serial=read.serial,
            tls=self._with_paths(read.tls, (*path, "tls")) if read.tls else None,
            framer=read.framer or _framer(read),
            options=options,
            points=tuple(_for_driver(listing)),
        )
        if complete:
            device = self._check_protocol(device, listing, path)
        self._devices.append(device)
        self._switched_off |= set() if read.enabled else {read.name}
        self._unretained |= set() if read.retain_points else {read.name}
        self._clock_limits[read.name] = read.clock_limit_s

    def _check_line(self, read: DeviceTable, path: TomlPath) -> None:
        source = self._source
        if bool(read.host) == (read.serial is not None):
            found = "both host and serial" if read.host else "neither host nor serial"
            source.mistake(path, f"device {read.name}: found {found}; exactly one of them is needed")
        if read.host and not _is_host(read.host):
            message = (
                f"host: found {shown(read.host)}; a name or an IP address is allowed (the port has a key of its own)"
            )
            source.mistake((*path, "host"), message)
        if read.serial is not None:
            for key in ("port", "tls"):
                if getattr(read, key) is not None:
                    source.mistake((*path, key), f"{key}: means nothing on a serial line; only with host")
            for key, allowed in (("parity", ("none", "even", "odd")), ("stop_bits", ("1", "2"))):
                if str(getattr(read.serial, key)) not in allowed:
                    message = f"{key}: found {getattr(read.serial, key)}; {listed(allowed)} is allowed"
                    source.mistake((*path, "serial", key), message)
            if not 50 <= read.serial.baud <= 4_000_000:
                source.mistake((*path, "serial", "baud"), f"baud: found {read.serial.baud}; 50 to 4000000 is allowed")
        if read.framer and read.protocol != "modbus":
            source.mistake((*path, "framer"), "framer: means nothing here; only with protocol modbus")
        elif read.framer and (read.framer == "rtu") != (read.serial is not None):
            framers = "rtu" if read.serial is not None else "tcp or rtu-over-tcp"
            source.mistake((*path, "framer"), f"framer: found {shown(read.framer)}; {framers} is allowed here")
        for other in PROTOCOLS:
            if other != read.protocol and getattr(read, other) is not None:
                message = f"[device.{other}] at a device with protocol {read.protocol}; only its own table is allowed"
                source.mistake((*path, other), message)

    def _point_list(self, name: str, device: str, key: TomlPath) -> PointList:
        path = self._folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            message = f"points: {shown(name)} cannot be read: {error.strerror or error}; a CSV or XLSX file is needed"
            self._source.mistake(key, message)
            return PointList([], [], [], frozenset())
        self._files[str(path)] = data
        listing = read_points(path, device=device, first_row=len(self._drafts), file=str(path), data=data)
        listing = listing._replace(drafts=[self._with_defaults(draft) for draft in listing.drafts])
        self._drafts += listing.drafts
        self._pairs += listing.pairs
        self._problems += listing.problems
        return listing

    def _with_defaults(self, draft: Draft) -> Draft:
        """What a row leaves open and `[control]` decides for the whole station."""
        if draft.spec.control is ControlMode.NONE or "select_timeout_s" in draft.row.cells:
            return draft
        return draft._replace(spec=msgspec.structs.replace(draft.spec, select_timeout_s=self._select_timeout_s))

    def _check_protocol(self, device: Device, listing: PointList, path: TomlPath) -> Device:
        """The protocol's own check; gives back the device with `feedback` filled in where a point is its own proof.

        Rows whose address, kind or command is wrong already are left out: what else is said of them would be noise.
        """
        protocol = configuration(device.protocol)
        drafts = {draft.spec.row: draft for draft in listing.drafts}
        sure = msgspec.structs.replace(device, points=tuple(p for p in device.points if p.row not in listing.unsure))
        unsure = set(listing.unsure)
        for point, column, message in protocol.check(sure):
            if point is not None and point.row in drafts:
                unsure.add(point.row)
                self._problems.append(drafts[point.row].problem(column, message))
                continue
            keys = tuple(column.split("."))
            of_device = keys[0] in DeviceTable.__struct_fields__ and keys[0] not in device.options
            self._source.mistake((*path, *(() if of_device else (device.protocol,)), *keys), _prefixed(column, message))
        for draft in listing.drafts:
            for column, only in (("check", "iec61850"), ("guard", "modbus"), ("readback", "modbus")):
                if getattr(draft.spec, column) and device.protocol != only:
                    self._problems.append(draft.problem(column, f"means nothing here; only with protocol {only}"))
        clean = msgspec.structs.replace(device, points=tuple(p for p in device.points if p.row not in unsure))
        own = protocol.own_feedback(clean)
        self._own_feedback |= own | unsure
        return self._with_own_feedback(device, own)

    def _with_own_feedback(self, device: Device, own: frozenset[int]) -> Device:
        named = {
            point.row: msgspec.structs.replace(point, feedback=point.name)
            for point in device.points
            if point.row in own and point.control is not ControlMode.NONE and not point.feedback
        }
        if not named:
            return device
        self._drafts = [draft._replace(spec=named.get(draft.spec.row, draft.spec)) for draft in self._drafts]
        return msgspec.structs.replace(device, points=tuple(named.get(point.row, point) for point in device.points))


def _for_driver(listing: PointList) -> Iterable[PointSpec]:
    doubles = {pair.double for pair in listing.pairs}
    for spec in (draft.spec for draft in listing.drafts):
        if spec.row in doubles:
            if spec.control is not ControlMode.NONE:  # nothing to read, but its command is the driver's
                yield msgspec.structs.replace(spec, address="")
        elif not spec.derived:
            yield spec


def _is_host(text: str) -> bool:
    if ":" not in text:
        return re.fullmatch(r"[A-Za-z0-9._-]+", text) is not None
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _framer(read: DeviceTable) -> str:
    if read.protocol != "modbus":
        return ""
    return "rtu" if read.serial is not None else "tcp"


_FILE_HELP = "a path relative to this file, or the bare name of a systemd credential"


def _prefixed(key: str, message: str) -> str:
    return message if key in message.split(";")[0] else f"{key}: {message}"


def _digest(files: Mapping[str, bytes]) -> str:
    """One hash over all files: the contents and their order, not where they lie."""
    digest = hashlib.sha256()
    for data in files.values():
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
