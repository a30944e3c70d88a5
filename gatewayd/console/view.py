"""The station as a console sees it, from the gateway's topics; pure: messages in, rows out.

A point is only as good as its device's link and the gateway's status: `rows` combines them. A console that connects
late is complete from what the broker has stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from gatewayd.points.types import Value
from gatewayd.problems import printable

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Record(msgspec.Struct, frozen=True):
    """One point as published (docs/mqtt.md)."""

    point: str
    value: Value
    quality: str
    t: str
    t_src: str = ""
    t_sync: str = "yes"
    t_recv: str = ""
    flags: tuple[str, ...] = ()
    source: str = "process"
    test: bool = False
    blocked: bool = False


class Entry(msgspec.Struct, frozen=True):
    """What the catalog says of a point."""

    point: str
    kind: str = ""
    unit: str = ""
    states: dict[str, str] = {}
    control: str = "none"
    min: float | None = None
    max: float | None = None
    description: str = ""
    bay: str = ""


class Status(msgspec.Struct, frozen=True):
    """The gateway's own status."""

    state: str
    boot: str = ""
    newest: int = 0
    version: str = ""
    time: str = ""
    clock: dict[str, Any] = {}


class DeviceLink(msgspec.Struct, frozen=True):
    """A device's link."""

    link: str = ""
    since: str = ""
    cause: str = ""
    protocol: str = ""


class _Records(msgspec.Struct):
    points: list[Record] = []
    t_recv: str = ""


class _Catalog(msgspec.Struct):
    device: str = ""
    parts: int = 1
    points: list[Entry] = []


class _Tags(msgspec.Struct):
    on: str = ""
    tags: list[dict[str, Any]] = []


class _Events(msgspec.Struct):
    events: list[msgspec.Raw] = []


class Row(NamedTuple):
    """One point ready to be shown: quality and flags already say what link and gateway make of them."""

    point: str
    device: str
    link: str
    value: Value
    text: str
    unit: str
    quality: str
    flags: tuple[str, ...]
    t: str
    t_src: str
    t_sync: str
    age_s: float | None


class Filter(NamedTuple):
    """Which points are wanted; empty means all. Patterns are globs over point names: `FDR12/*`."""

    devices: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()

    def __call__(self, point: str, device: str) -> bool:
        return (not self.devices or device in self.devices) and (
            not self.patterns or any(fnmatchcase(point, pattern) for pattern in self.patterns)
        )


class StationView:
    """Feed it every message under `<base>`; ask for rows."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.status: Status | None = None
        self.links: dict[str, DeviceLink] = {}
        self.catalog: dict[str, Entry] = {}
        self.records: dict[str, Record] = {}
        self.device_of: dict[str, str] = {}
        self.tags: dict[str, list[dict[str, Any]]] = {}
        """Tags and inhibits by what they hang on: `gateway`, `device/<device>`, `bay/<bay>`, `point/<point>`."""
        self.event_messages = self.events = self.state_messages = self.odd_messages = 0
        self._parts: dict[str, dict[str, _Catalog]] = {}
        self._missing: set[str] = set()

    def topics(self) -> tuple[str, ...]:
        """What a console subscribes to."""
        return tuple(
            f"{self.base}/{one}"
            for one in ("status", "tag/#", "device/+", "catalog/#", "snapshot/#", "point/#", "state/+", "event")
        )

    def feed(self, topic: str, payload: bytes) -> list[str]:
        """Take one message; the names of the points that it changed. A payload that is not understood is counted."""
        what, _, rest = topic.removeprefix(self.base + "/").partition("/")
        try:
            return self._take(what, rest, payload)
        except (msgspec.MsgspecError, ValueError):
            self.odd_messages += 1
            return []

    def _take(self, what: str, rest: str, payload: bytes) -> list[str]:
        match what:
            case "status":
                return self._take_status(payload)
            case "device":
                self._put_link(rest, payload)
                return [point for point, device in self.device_of.items() if device == rest]
            case "catalog":
                self._take_catalog(rest, payload)
            case "state":
                self.state_messages += 1
                message = msgspec.json.decode(payload, type=_Records)
                return [self._put(record, message.t_recv, rest) for record in message.points]
            case "snapshot" if payload:
                message = msgspec.json.decode(payload, type=_Records)
                device = rest.rpartition("/")[0]
                return [self._put(record, "", device) for record in message.points if self._newer(record)]
            case "point" if payload:
                record = msgspec.json.decode(payload, type=Record)
                return [self._put(record, "", "")] if self._newer(record) else []
            case "point":
                self.records.pop(rest, None)
                self._missing |= {rest} & self.catalog.keys()
            case "tag":
                return self._take_tags(rest, payload)
            case "event":
                self.event_messages += 1
                self.events += len(msgspec.json.decode(payload, type=_Events).events)
        return []

    def _take_status(self, payload: bytes) -> list[str]:
        before = self.status
        self.status = msgspec.json.decode(payload, type=Status) if payload else None
        if before is not None and self.status is not None and before.boot != self.status.boot:
            # A new run of the gateway knows nothing until it has read it.
            self.records.clear()
            self._missing = set(self.catalog)
        return list(self.catalog) if before is None or self.status is None or before.state != self.status.state else []

    def _take_tags(self, key: str, payload: bytes) -> list[str]:
        on, message = unquote(key), msgspec.json.decode(payload or b"{}", type=_Tags)
        if message.tags:
            self.tags[on] = message.tags
        else:
            self.tags.pop(on, None)
        return []

    def _put_link(self, device: str, payload: bytes) -> None:
        if payload:
            self.links[device] = msgspec.json.decode(payload, type=DeviceLink)
        else:
            self.links.pop(device, None)

    def _take_catalog(self, rest: str, payload: bytes) -> None:
        device, _, part = rest.partition("/")
        parts = self._parts.setdefault(device, {})
        if payload:
            parts[part] = msgspec.json.decode(payload, type=_Catalog)
        else:
            parts.pop(part, None)
        if not parts:
            del self._parts[device]
        entries = [(name, entry) for name, all_ in self._parts.items() for one in all_.values() for entry in one.points]
        self.catalog = {entry.point: entry for _, entry in entries}
        self.device_of = {entry.point: name for name, entry in entries}
        self._missing = self.catalog.keys() - self.records.keys()

    def _put(self, record: Record, t_recv: str, device: str) -> str:
        if t_recv and not record.t_recv:
            record = msgspec.structs.replace(record, t_recv=t_recv)
        self.records[record.point] = record
        self._missing.discard(record.point)
        if device:
            self.device_of.setdefault(record.point, device)
        return record.point

    def _newer(self, record: Record) -> bool:
        """Stored records come in any order: the later receipt counts. `state` always does."""
        held = self.records.get(record.point)
        return held is None or (_received(record) >= _received(held) and record != held)

    # --- what there is to see ---------------------------------------------------------------------------------------

    @property
    def online(self) -> bool:
        return self.status is not None and self.status.state == "online"

    @property
    def complete(self) -> bool:
        """Everything the gateway has stored is here: status, each device's catalog, a record for each point."""
        return (
            self.status is not None
            and bool(self._parts)
            and all(device in self._parts for device in self.links)
            and all(len(parts) >= max(one.parts for one in parts.values()) for parts in self._parts.values())
            and not self._missing
        )

    def protocol(self, point: str) -> str:
        """The protocol of the point's device, "" while it is not known."""
        link = self.links.get(self.device_of.get(point, ""))
        return link.protocol if link is not None else ""

    def tags_of(self, point: str) -> list[dict[str, Any]]:
        """The tags and inhibits that concern a point, wherever they hang."""
        entry = self.catalog.get(point)
        bay = [f"bay/{entry.bay}"] if entry is not None and entry.bay else []
        keys = ["gateway", f"device/{self.device_of.get(point, '')}", *bay, f"point/{point}"]
        return [tag for key in keys for tag in self.tags.get(key, ())]

    def names(self, wanted: Filter = Filter()) -> Iterator[str]:  # noqa: B008 (a NamedTuple cannot change)
        """The points in the order of the catalogs, those of no catalog behind."""
        for point in [*self.catalog, *(name for name in self.records if name not in self.catalog)]:
            if wanted(point, self.device_of.get(point, "")):
                yield point

    def rows(self, names: Iterable[str], now: datetime, *, connected: bool = True) -> Iterator[Row]:
        """The points as they are to be believed now."""
        for name in names:
            yield self.row(name, now, connected=connected)

    def row(self, point: str, now: datetime, *, connected: bool = True) -> Row:
        """One point as it is to be believed now; a point nothing is known of is invalid."""
        device = self.device_of.get(point, "")
        entry = self.catalog.get(point, Entry(point))
        link = self.links[device].link if device in self.links else ""
        record = self.records.get(point)
        if record is None:
            return Row(point, device, link, None, "-", entry.unit, "invalid", ("not-received",), "", "", "", None)
        flags = list(record.flags)
        flags += [word for word in (record.source,) if word != "process"]
        flags += [word for word, is_set in (("test", record.test), ("blocked", record.blocked)) if is_set]
        doubts = []
        if not connected:
            doubts.append("broker-lost")
        elif not self.online:
            doubts.append("gateway-offline")
        if link not in ("up", ""):
            doubts.append(f"link-{link}")
        quality = "questionable" if doubts and record.quality == "good" else record.quality
        when = _time(record.t)
        return Row(
            point,
            device,
            link,
            record.value,
            value_text(record.value, entry),
            entry.unit,
            quality,
            tuple(flags + doubts),
            record.t,
            record.t_src,
            record.t_sync,
            None if when <= _LONG_AGO else max((now - when).total_seconds(), 0.0),
        )


def as_json(row: Row) -> bytes:
    """A row as one line of JSON."""
    body = {key: value for key, value in row._asdict().items() if key != "text"}
    if row.age_s is not None:
        body["age_s"] = round(row.age_s, 3)
    return msgspec.json.encode(body)


def value_text(value: Value, entry: Entry) -> str:
    """A value for people: the state's text for a contact, numbers with six digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return entry.states.get("1" if value else "0", "on" if value else "off")
    if isinstance(value, float):
        return f"{value:.1f}" if 1000 <= abs(value) < 1e12 else f"{value:.6g}"
    return printable(value) if isinstance(value, str) else str(value)


def age_text(age_s: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`."""
    if age_s is None:
        return "never"
    for limit, unit, divisor in ((10, "s", 1), (120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if age_s < limit:
            return f"{age_s:.1f} s" if limit == 10 else f"{age_s / divisor:.0f} {unit}"
    return f"{age_s / 86_400:.0f} d"


def _received(record: Record) -> datetime:
    return _time(record.t_recv or record.t)


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return _LONG_AGO
    return found if found.tzinfo else found.replace(tzinfo=UTC)
