"""The points of one outstation as the driver needs them: rows by type and index, commands by row. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from gatewayd.points.types import ControlMode, Kind
from gatewayd.protocols.device import Device
from gatewayd.protocols.dnp3.address import TYPES, Address, parse
from gatewayd.protocols.dnp3.command import Command, parse_command


@dataclass(frozen=True, slots=True)
class TypeTable:
    """The points of one type.

    rows:     row by index, looked up once for each value
    eventful: rows whose batches go to disk
    whole:    rows that take whole numbers only (an enum or a counter read from an analog)
    """

    rows: dict[int, int] = field(default_factory=dict)
    eventful: set[int] = field(default_factory=set)
    whole: set[int] = field(default_factory=set)


class PointTable:
    """All points of a device. codes: a number for each row's address, the same whatever the configuration is."""

    def __init__(self, device: Device) -> None:
        self.types = {name: TypeTable() for name in TYPES}
        self.codes: dict[int, int] = {}
        self.commands: dict[int, Command] = {}
        self._names: dict[int, tuple[Address, str]] = {}
        numbers = {name: number for number, name in enumerate(TYPES)}
        for point in device.points:
            if point.control is not ControlMode.NONE:
                self.commands[point.row] = parse_command(point.command)
            if not point.address:
                continue
            address = parse(point.address)
            table = self.types[address.type]
            table.rows[address.index] = point.row
            if point.event:
                table.eventful.add(point.row)
            if point.kind in (Kind.ENUM, Kind.COUNTER) and address.type in ("AI", "AO"):
                table.whole.add(point.row)
            self.codes[point.row] = numbers[address.type] << 16 | address.index
            self._names[point.row] = address, point.name

    def missing(self, seen: set[int]) -> dict[str, list[int]]:
        """Rows that were not seen, by type; types without any are left out."""
        found = {name: [row for row in table.rows.values() if row not in seen] for name, table in self.types.items()}
        return {name: rows for name, rows in found.items() if rows}

    def describe(self, row: int) -> str:
        """`BI:12 (FDR12/LOCAL)`, for messages."""
        address, name = self._names[row]
        return f"{address} ({name})"
