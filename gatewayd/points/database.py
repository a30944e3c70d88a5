"""The one point database: the current value, quality and time of every point, in a list by row.

Shells apply batches and read states; nothing here does I/O, knows a device or waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from gatewayd.points import quality as q
from gatewayd.points.expressions import Operand
from gatewayd.points.types import PointSpec, Value


class PointState(msgspec.Struct, gc=False):
    """What is known of one point now.

    value:   engineering value: scaled number, state text of a double or enum, bool of a binary, None where unknown
    raw:     as the device said it
    quality: bits of points.quality; native: the device's own flags
    time_ns: UTC ns, see RECEIPT for whose; recv_ns: UTC ns of receipt
    since_ns: UTC ns of the receipt at which the quality became what it is
    good_value, good_ns: the last value that was good, and its time (0: there was none), while this one is not
    """

    value: Value = None
    raw: Value = None
    quality: int = q.START
    native: int = 0
    time_ns: int = 0
    recv_ns: int = 0
    since_ns: int = 0
    good_value: Value = None
    good_ns: int = 0

    def turn(self, quality: int, now_ns: int) -> None:
        """Take another quality, remembering what was good before; value and time follow if they change too."""
        if not self.quality & q.VALIDITY_MASK:
            self.good_value, self.good_ns = self.value, self.time_ns
        self.quality, self.since_ns = quality, now_ns


class Database:
    """All points of the station by row and by name."""

    def __init__(self, specs: Sequence[PointSpec]) -> None:
        self.specs: list[PointSpec] = list(specs)
        self.states: list[PointState] = [PointState() for _ in self.specs]
        self._rows: dict[str, int] = {spec.name: spec.row for spec in self.specs}
        self._by_device: dict[str, list[int]] = {}
        for spec in self.specs:
            self._by_device.setdefault(spec.device, []).append(spec.row)

    def __len__(self) -> int:
        return len(self.specs)

    def row(self, name: str) -> int | None:
        """The row of a point's name, None where there is no such point."""
        return self._rows.get(name)

    def state(self, name: str) -> PointState | None:
        """The state of a point by its name, None where there is no such point."""
        row = self._rows.get(name)
        return None if row is None else self.states[row]

    def operand(self, name: str) -> Operand | None:
        """What an expression sees of a point; None where there is no such point."""
        row = self._rows.get(name)
        if row is None:
            return None
        state = self.states[row]
        return Operand(state.value, state.quality, state.time_ns)

    def rows(self, device: str) -> Sequence[int]:
        """The rows of a device (or of the pseudo-device `station`), contacts included."""
        return self._by_device.get(device, ())

    def devices(self) -> Iterator[str]:
        """The devices that have points."""
        return iter(self._by_device)

    def mark(self, device: str, bits: int, now_ns: int) -> list[int]:
        """Make the device's points at least questionable with these flags; returns the rows that changed.

        Value and time stay. Derived points are left alone: theirs is the quality of their inputs.
        """
        changed = []
        for row in self.rows(device):
            state = self.states[row]
            quality = q.worst(state.quality, q.QUESTIONABLE | bits)
            if quality != state.quality and not self.specs[row].derived:
                state.turn(quality, now_ns)
                changed.append(row)
        return changed
