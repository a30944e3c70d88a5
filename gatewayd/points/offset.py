"""How far a device's clock is from the gateway's, from the times of what it reports. Pure.

Receipt less device time is the offset plus the time on the way, which is never negative: so the smallest of a while is
closest to the offset (positive: the device's clock is behind). Two windows of five minutes take turns, so that an
estimate is never older than ten.
"""

from __future__ import annotations

WINDOW_NS = 300_000_000_000
ENOUGH = 3
"""So many reports before the estimate is believed."""


class ClockOffset:
    """The estimate for one device; `over` is whether it was past the limit when last judged."""

    def __init__(self) -> None:
        self._now: int | None = None
        self._before: int | None = None
        self._began_ns = 0
        self._seen = 0
        self.over = False

    def see(self, received_ns: int, device_ns: int, mono_ns: int) -> None:
        """A report with the device's own time; mono_ns decides which window it belongs to."""
        age = mono_ns - self._began_ns
        if age > WINDOW_NS:
            self._before = self._now if age <= 2 * WINDOW_NS else None
            self._now, self._began_ns = None, mono_ns
        offset = received_ns - device_ns
        self._now = offset if self._now is None else min(self._now, offset)
        self._seen += 1

    @property
    def offset_ns(self) -> int | None:
        """Gateway less device; None while it is not known."""
        if self._seen < ENOUGH or self._now is None:
            return None
        return self._now if self._before is None else min(self._now, self._before)

    def crossed(self, limit_ns: int) -> bool:
        """True when the estimate has gone past the limit or come back since the last call."""
        offset = self.offset_ns
        if offset is None:
            return False
        over = abs(offset) > limit_ns
        before, self.over = self.over, over
        return over is not before
