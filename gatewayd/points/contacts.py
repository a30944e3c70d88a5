"""A double point made of two contacts (`BI:3|BI:4`): open contact and closed contact, combined without I/O or clock.

Both contacts together give 01 open or 10 closed at once. Neither (00 intermediate) or both (11 bad) is held back for
`settle_ms`, because the two contacts of one switch never change in the same instant. Time is the later of the two,
quality the worse of the two. Nothing is said before both contacts are known.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from gatewayd.points import quality as q
from gatewayd.points.types import DOUBLE_BAD, DOUBLE_CLOSED, DOUBLE_INTERMEDIATE, DOUBLE_OPEN, Sample, Value


class ContactPair(NamedTuple):
    """The rows of a double point and of its two contacts."""

    double: int
    open: int
    closed: int
    settle_ms: int


class Which(Enum):
    """The two contacts."""

    OPEN = 0
    CLOSED = 1


_CODES: dict[tuple[Value, Value], int] = {
    (True, False): DOUBLE_OPEN,
    (False, True): DOUBLE_CLOSED,
    (False, False): DOUBLE_INTERMEDIATE,
    (True, True): DOUBLE_BAD,
}
_AT_ONCE = (DOUBLE_OPEN, DOUBLE_CLOSED, None)


class Combiner:
    """The state of one pair. Give it each contact's sample; it gives back the double point's samples.

    deadline_ns: CLOCK_MONOTONIC ns at which `expire` has something to say, None when nothing waits
    """

    def __init__(self, pair: ContactPair) -> None:
        self.pair = pair
        self.deadline_ns: int | None = None
        self._contacts: list[Sample | None] = [None, None]
        self._waiting: Sample | None = None
        self._last: Sample | None = None

    def partner(self, row: int) -> int:
        """The other contact's row."""
        return self.pair.closed if row == self.pair.open else self.pair.open

    def update(self, which: Which, sample: Sample, now_mono_ns: int, *, awaited: bool = False) -> list[Sample]:
        """Take a contact's sample (raw, as the device said it); what the double point is now, oldest first.

        awaited: the other contact's sample of the same moment comes next: half of a change is not a position, and
        0,0 -> 1,1 is never open or closed on its way.

        A position that waits and turns out, by the contacts' own times, to have lasted longer than `settle_ms` is
        told before the new one: so a sequence of events read later is the same as one seen live.
        """
        self._contacts[which.value] = sample
        opened, closed = self._contacts
        if opened is None or closed is None or awaited:
            return []
        out: list[Sample] = []
        waiting = self._waiting
        settle_ns = self.pair.settle_ms * 1_000_000
        combined = self._combine(opened, closed)
        if waiting is not None and sample.time_ns - waiting.time_ns > settle_ns and combined.value != waiting.value:
            out += self._tell(waiting)
        again = self._last is not None and self._last.value == combined.value
        if combined.value in _AT_ONCE or combined.quality & q.VALIDITY_MASK or again:
            self._waiting = self.deadline_ns = None
            out += self._tell(combined)
        elif waiting is None or waiting.value != combined.value:
            self._waiting = combined
            self.deadline_ns = now_mono_ns + settle_ns
        else:
            self._waiting = waiting._replace(quality=combined.quality)  # the same position again: its time stays
        return out

    def expire(self, now_mono_ns: int) -> list[Sample]:
        """What has waited long enough by now; an empty list before the deadline."""
        if self._waiting is None or self.deadline_ns is None or now_mono_ns < self.deadline_ns:
            return []
        waiting, self._waiting, self.deadline_ns = self._waiting, None, None
        return self._tell(waiting)

    def forget_contacts(self) -> None:
        """The link is lost: both contacts must be read again before anything is said."""
        self._contacts = [None, None]

    def restore(self, opened: Sample, closed: Sample, told_ns: int) -> None:
        """Take up what the journal has of the contacts: a position that was waiting when the last run ended.

        told_ns: the time of the last position told. What waited is told before the next one, if by the times of the
        contacts it has lasted; no timer runs for it.
        """
        combined = self._combine(opened, closed)
        if combined.value not in _AT_ONCE and combined.time_ns > told_ns:
            self._waiting = combined

    def take_over(self, other: Combiner) -> None:
        """Go on where another combiner of the same contacts stands; the rows are our own."""
        self._contacts = list(other._contacts)
        self.deadline_ns = other.deadline_ns
        self._waiting, self._last = (
            None if sample is None else sample._replace(point=self.pair.double)
            for sample in (other._waiting, other._last)
        )

    def _combine(self, opened: Sample, closed: Sample) -> Sample:
        code = _CODES.get((opened.value, closed.value))
        quality = q.worst(opened.quality, closed.quality)
        if code is None:
            quality = q.worst(quality, q.INVALID)
        return Sample(self.pair.double, code, quality, 0, max(opened.time_ns, closed.time_ns))

    def _tell(self, sample: Sample) -> list[Sample]:
        if sample == self._last:
            return []
        self._last = sample
        return [sample]
