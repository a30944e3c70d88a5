"""What `gatewayd check` and `gatewayd points` say: a checked configuration as text and as plain data for JSON. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gatewayd.config import Config, Purpose, load
from gatewayd.points.pointlist import STATION
from gatewayd.points.types import ControlMode, Kind, PointSpec
from gatewayd.problems import ConfigError
from gatewayd.protocols.device import Device
from gatewayd.protocols.registry import configuration

COLUMNS = ("point", "kind", "address", "unit", "mapping", "deadband", "event", "control", "command", "feedback")
"""The columns of the table that `gatewayd points` prints."""


def summary(config: Config) -> dict[str, Any]:
    """The result of a check without mistakes, for `--json`."""
    devices = [
        {
            "name": device.name,
            "protocol": device.protocol,
            "address": endpoint(device),
            "tls": device.tls is not None,
            "enabled": device.name not in config.disabled,
            **_counts([spec for spec in published(config) if spec.device == device.name]),
        }
        for device in config.devices
    ]
    return {
        "ok": True,
        "gateway": config.gateway.name,
        "devices": devices,
        **_counts(published(config)),
        "sha256": config.sha256,
        "files": list(config.sources),
    }


def summary_text(config: Config) -> str:
    """The result of a check without mistakes, for people: one line in all, one a device."""
    data = summary(config)
    lines = [
        f"{config.path}: no mistakes; gateway {data['gateway']}: {_count(len(config.devices), 'device')}, {_line(data)}"
    ]
    width = max(len(STATION), *(len(device["name"]) for device in data["devices"]))
    lines += [
        f"  {device['name']:<{width}}  {device['protocol']:<8}  {device['address']}: {_line(device)}"
        f"{'' if device['enabled'] else ' (disabled)'}"
        for device in data["devices"]
    ]
    station = [spec for spec in published(config) if spec.device == STATION]
    if station:
        lines.append(f"  {STATION:<{width}}  {'derived':<8}  {_count(len(station), 'point')}")
    return "\n".join(lines)


def check_text(path: Path) -> tuple[str, bool]:
    """What `gatewayd check` prints for this configuration, and whether it may be used."""
    try:
        return summary_text(load(path, Purpose.CHECK)), True
    except ConfigError as error:
        return str(error), False


def mistakes(error: ConfigError) -> dict[str, Any]:
    """The result of a check with mistakes, for `--json`. For people `str(error)` is the form."""
    return {"ok": False, "mistakes": [mistake._asdict() for mistake in error.mistakes]}


def points_table(config: Config) -> list[dict[str, Any]]:
    """Each published point as understood: everything that is not empty, with `contacts` for a double made of two."""
    contacts = {
        pair.double: [config.points[pair.open].address, config.points[pair.closed].address] for pair in config.pairs
    }
    return [_point(spec, contacts.get(spec.row, [])) for spec in published(config)]


def points_text(config: Config) -> str:
    """The table of points by device, each followed by how the device will be read."""
    plan = plans(config)
    parts = []
    names = [device.name for device in config.devices]
    rows = points_table(config)
    for name in [*names, *([STATION] if any(row["device"] == STATION for row in rows) else [])]:
        cells = [COLUMNS, *([_cell(row, column) for column in COLUMNS] for row in rows if row["device"] == name)]
        widths = [max(len(row[at]) for row in cells) for at in range(len(COLUMNS))]
        lines = ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)) for row in cells]
        parts.append(
            "\n".join([name, *(f"  {line.rstrip()}" for line in lines), *(f"  {line}" for line in plan.get(name, []))])
        )
    return "\n\n".join(parts)


def plans(config: Config) -> dict[str, list[str]]:
    """How each device will be read, by its name: one line a request or scan, in the protocol's own words."""
    return {device.name: configuration(device.protocol).plan(device) for device in config.devices}


def points_json(config: Config) -> dict[str, Any]:
    """Points and read plans together, for `--json`."""
    return {"gateway": config.gateway.name, "points": points_table(config), "plans": plans(config)}


def published(config: Config) -> list[PointSpec]:
    """The points people know: all but the contacts behind double points."""
    return [spec for spec in config.points if not spec.contact]


def endpoint(device: Device) -> str:
    """`10.1.1.12:20000` or `/dev/ttyS1 9600`."""
    if device.serial is not None:
        return f"{device.serial.port} {device.serial.baud}"
    host = f"[{device.host}]" if ":" in device.host else device.host
    return f"{host}:{device.port}"


def _counts(specs: list[PointSpec]) -> dict[str, int]:
    return {
        "points": len(specs),
        "events": sum(spec.event for spec in specs),
        "controls": sum(spec.control is not ControlMode.NONE for spec in specs),
        "derived": sum(spec.derived for spec in specs),
    }


def _line(data: dict[str, Any]) -> str:
    text = f"{_count(data['points'], 'point')}, {data['events']} with events, {data['controls']} controllable"
    return f"{text}, {data['derived']} derived" if data["derived"] else text


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _point(spec: PointSpec, contacts: list[str]) -> dict[str, Any]:
    data: dict[str, Any] = {
        "row": spec.row,
        "point": spec.name,
        "device": spec.device,
        "kind": spec.kind.value,
        "address": spec.address,
        "contacts": contacts,
        "unit": spec.unit,
        "states": {str(code): text for code, text in spec.states.items()},
        "event": spec.event,
        "file": spec.file,
        "line": spec.line,
    }
    if spec.kind in (Kind.ANALOG, Kind.COUNTER):
        data |= {"scale": spec.scale, "offset": spec.offset}
    if spec.deadband or spec.deadband_percent:
        data["deadband"] = f"{spec.deadband_percent:g}%" if spec.deadband_percent else f"{spec.deadband:g}"
    if spec.control is not ControlMode.NONE:
        data |= {
            "control": spec.control.value,
            "lock_scope": spec.lock_scope.value,
            "select_timeout_s": spec.select_timeout_s,
        }
        data |= {
            "min": spec.min,
            "max": spec.max,
            "feedback_timeout_s": spec.feedback_timeout_s,
            "check": list(spec.check),
        }
    for name in ("invert", "command", "feedback", "tolerance", "bay", "local", "guard", "readback", "interlock"):
        data[name] = getattr(spec, name)
    data |= {"area": spec.area, "description": spec.description, "derived": spec.derived}
    always = ("row", "event", "scale", "offset")
    return {key: value for key, value in data.items() if key in always or value not in ("", [], {}, None, False, 0)}


def _cell(row: dict[str, Any], column: str) -> str:
    if column == "event":
        return "yes" if row["event"] else "no"
    if column == "mapping":
        return _mapping(row)
    return str(row.get(column, ""))


def _mapping(row: dict[str, Any]) -> str:
    parts = []
    if row.get("scale", 1) != 1:
        parts.append(f"x {row['scale']:g}")
    if row.get("offset", 0):
        parts.append(f"{row['offset']:+g}")
    if row.get("invert"):
        parts.append("inverted")
    if states := row.get("states"):
        parts.append(";".join(f"{code}={text}" for code, text in states.items()))
    return " ".join(parts)
