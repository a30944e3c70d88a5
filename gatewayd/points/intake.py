"""Every batch on its way into the point database: mapping, contacts, derived points, and what is worth telling. No I/O.

What comes out of each call is an `Applied`: the rows to publish, the rows that were touched at all, the events for the
journal in their order, and the image that belongs to them. Change is judged against the last value given to the
journal (`image`), never against what the gateway itself marked: a lost link is not an event of the point.

Until a device is `up` its samples go to the journal where they are events, and are kept aside otherwise: the database
shows them all at once when everything has been read, so that a backlog never passes for the present.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from gatewayd.points import quality as q
from gatewayd.points.contacts import Combiner, ContactPair, Which
from gatewayd.points.crosscheck import Derived
from gatewayd.points.database import Database, PointState
from gatewayd.points.deadband import passes
from gatewayd.points.mapping import compile_mapping
from gatewayd.points.types import Batch, Link, PointSpec, Sample, Value

HELD = q.QUESTIONABLE | q.OLD_DATA
"""What is added to a point while what is said of it waits for the disk."""
LINK_BITS = q.COMM_LOST | q.RESTART | q.NOT_INITIALISED
"""A derived point with one of these says nothing of the process: it makes no event."""
FUTURE_NS = 1_000_000_000
"""A device's time further than this ahead of the receipt is suspect."""
STALE_NS = 10_000_000_000
"""What a device reports with a time this much before the last contact should have come with that one: suspect."""


class Image(NamedTuple):
    """What the journal has of a point: its last value and quality there, and the time of it."""

    value: Value
    quality: int
    native: int
    time_ns: int


class PointEvent(NamedTuple):
    """One event of a point. historical: found out after a time without contact, it happened some time before."""

    row: int
    state: PointState
    historical: bool


class Applied(NamedTuple):
    """What one call did.

    rows:    to publish: value past the deadband, or another quality
    touched: all rows that got a sample, changed or not
    events:  for the journal, in order; image: rows whose image goes with them
    """

    rows: list[int]
    touched: list[int]
    events: list[PointEvent]
    image: list[int]


class Intake:
    """The one way into a database."""

    def __init__(
        self,
        database: Database,
        pairs: Sequence[ContactPair],
        derived: Sequence[Derived],
        image: Mapping[str, Image] | None = None,
    ) -> None:
        """image: by point name, what the journal has; points without one make an event at their first value."""
        specs = database.specs
        self.database = database
        self._states = database.states
        self._maps = [compile_mapping(spec) for spec in specs]
        self._events = [spec.event and not spec.contact for spec in specs]
        self._deadbands: list[PointSpec | None] = [
            spec if spec.deadband or spec.deadband_percent else None for spec in specs
        ]
        self._sent: list[Value] = [None] * len(specs)
        self._ranges = {
            device: (min(rows), max(rows) + 1) for device in database.devices() if (rows := database.rows(device))
        }
        self._up: set[str] = set()
        self._contact_ns: dict[str, int] = {}
        self._staged: dict[str, dict[int, Sample]] = {}
        self._held: dict[str, dict[int, int]] = {}
        stored = image or {}
        self.image: list[Image | None] = [stored.get(spec.name) for spec in specs]
        self._combiners: dict[int, tuple[Combiner, Which]] = {}
        self._pairs: dict[str, list[Combiner]] = {}
        self._settling: set[Combiner] = set()
        for pair in pairs:
            combiner = Combiner(pair)
            self._combiners[pair.open] = combiner, Which.OPEN
            self._combiners[pair.closed] = combiner, Which.CLOSED
            self._pairs.setdefault(specs[pair.double].device, []).append(combiner)
            self._restore(combiner)
        self._derived = list(derived)
        self._dependents: dict[int, list[int]] = {}
        for at, one in enumerate(self._derived):
            for name in one.expression.names:
                row = database.row(name)
                if row is not None:
                    self._dependents.setdefault(row, []).append(at)
        self.foreign_rows = 0
        """Samples of rows that are not their device's: a worker gone wrong. Dropped."""

    def _restore(self, combiner: Combiner) -> None:
        """A position that waited when the last run ended, so that a switch found moving then is not forgotten."""
        pair = combiner.pair
        double, opened, closed = (self.image[row] for row in (pair.double, pair.open, pair.closed))
        if double is not None and opened is not None and closed is not None:
            combiner.restore(_sample(pair.open, opened), _sample(pair.closed, closed), double.time_ns)

    # ---- batches

    def apply(self, batch: Batch, *, shift: int = 0, mono_ns: int = 0) -> Applied:
        """Take a batch. shift: added to each row, for a driver that runs with an older numbering of the points.

        mono_ns: CLOCK_MONOTONIC, for contacts that have to settle.
        """
        applied = Applied([], [], [], [])
        first, end = self._ranges.get(batch.device, (0, 0))
        up = batch.device in self._up
        staged = self._staged.setdefault(batch.device, {}) if not up else None
        recv_ns, reported = batch.t_recv_ns, batch.reported
        combiners, makes_events = self._combiners, self._events
        update = self._update
        future_ns = recv_ns + FUTURE_NS
        # A backlog is old and no less true for it: only what a device reports in the middle of a contact is judged.
        stale_ns = self._contact_ns.get(batch.device, 0) - STALE_NS if up and reported else 0
        self._contact_ns[batch.device] = recv_ns
        together: set[tuple[int, int]] | None = None
        for sample in batch.samples:
            row = sample.point + shift
            if not stale_ns <= sample.time_ns <= future_ns and not sample.quality & q.RECEIPT:
                sample = sample._replace(quality=sample.quality | q.SUSPECT)  # noqa: PLW2901
            if not first <= row < end:
                self.foreign_rows += 1
                continue
            if row in combiners:
                if together is None:
                    together = self._together(batch, shift)
                together.discard((row, sample.time_ns))
                awaited = (combiners[row][0].partner(row), sample.time_ns) in together
                self._contact(applied, row, sample, batch, mono_ns, awaited=awaited)
                continue
            if makes_events[row]:
                self._event(applied, row, sample, recv_ns, reported=reported, historical=not up)
            if staged is None:
                update(applied, row, sample, recv_ns)
            else:
                staged[row] = sample
        if applied.touched:
            self._derive(applied, recv_ns)
        return applied

    def _update(self, applied: Applied, row: int, sample: Sample, recv_ns: int) -> None:
        """The database's part: newest by arrival wins."""
        _, raw, quality, native, time_ns = sample
        value, bits = self._maps[row](raw)
        if bits:
            quality = q.worst(quality, bits)
        state = self._states[row]
        changed = quality != state.quality
        if changed or value != state.value:
            self._settle(applied, row, value, changed=changed)
            if changed:
                state.turn(quality, recv_ns)
        state.value, state.raw = value, raw
        state.native, state.time_ns, state.recv_ns = native, time_ns, recv_ns
        applied.touched.append(row)

    def _settle(self, applied: Applied, row: int, value: Value, *, changed: bool) -> None:
        spec = self._deadbands[row]
        if changed or spec is None or passes(spec, self._sent[row], value):
            self._sent[row] = value
            applied.rows.append(row)

    def _event(
        self, applied: Applied, row: int, sample: Sample, recv_ns: int, *, reported: bool, historical: bool
    ) -> None:
        """The journal's part: what changed since it was told, and all that the device itself reported."""
        _, raw, quality, native, time_ns = sample
        value, bits = self._maps[row](raw)
        if bits:
            quality = q.worst(quality, bits)
        before = self.image[row]
        own = quality & q.EVENT_MASK
        if before is not None and before.value == value and before.quality & q.EVENT_MASK == own:
            if not reported:
                return
            if before.time_ns == time_ns and not quality & q.RECEIPT:
                return  # the same event: it was read before the device reported it, or came before
        self.image[row] = Image(value, quality, native, time_ns)
        applied.image.append(row)
        # What the device reported has the device's own time; it is old only if that says so.
        found = historical and not reported
        applied.events.append(PointEvent(row, PointState(value, raw, quality, native, time_ns, recv_ns), found))

    # ---- double points made of two contacts

    def _together(self, batch: Batch, shift: int) -> set[tuple[int, int]]:
        """Contacts in a batch by row and time: what changed in the same moment is one change of the double point."""
        return {(row, one.time_ns) for one in batch.samples if (row := one.point + shift) in self._combiners}

    def _contact(
        self, applied: Applied, row: int, sample: Sample, batch: Batch, mono_ns: int, *, awaited: bool
    ) -> None:
        combiner, which = self._combiners[row]
        value, bits = self._maps[row](sample.value)
        quality = q.worst(sample.quality, bits) if bits else sample.quality
        known = self.image[row]
        if known is None or known.value != value or known.quality & q.EVENT_MASK != quality & q.EVENT_MASK:
            self.image[row] = Image(value, quality, sample.native, sample.time_ns)
            if self._events[combiner.pair.double]:
                applied.image.append(row)
        own = Sample(row, value, quality, sample.native, sample.time_ns)
        if batch.device in self._up:
            published = len(applied.rows)
            self._update(applied, row, own, batch.t_recv_ns)
            del applied.rows[published:]  # a contact is half of a point: known, never published
        else:
            self._staged[batch.device][row] = own
        made = combiner.update(which, own, mono_ns, awaited=awaited)
        if combiner.deadline_ns is not None:
            self._settling.add(combiner)
        else:
            self._settling.discard(combiner)
        self._double(applied, made, batch.t_recv_ns, reported=batch.reported)

    def _double(self, applied: Applied, samples: Iterable[Sample], recv_ns: int, *, reported: bool) -> None:
        for sample in samples:
            row = sample.point
            device = self.database.specs[row].device
            up = device in self._up
            if self._events[row]:
                self._event(applied, row, sample, recv_ns, reported=reported, historical=not up)
            if up:
                self._update(applied, row, sample, recv_ns)
            else:
                self._staged.setdefault(device, {})[row] = sample

    @property
    def deadline_ns(self) -> int | None:
        """CLOCK_MONOTONIC ns at which `expire` has something to say; None while no contact waits."""
        deadlines = [combiner.deadline_ns for combiner in self._settling if combiner.deadline_ns is not None]
        return min(deadlines, default=None)

    def expire(self, mono_ns: int, recv_ns: int) -> Applied:
        """Positions that have waited long enough."""
        applied = Applied([], [], [], [])
        for combiner in [one for one in self._settling if (one.deadline_ns or 0) <= mono_ns]:
            self._settling.discard(combiner)
            self._double(applied, combiner.expire(mono_ns), recv_ns, reported=False)
        if applied.touched:
            self._derive(applied, recv_ns)
        return applied

    # ---- links

    def link(self, device: str, link: Link, recv_ns: int) -> Applied:
        """A device's link changed: `up` shows what was read, everything else marks the points comm-lost."""
        applied = Applied([], [], [], [])
        if link is Link.UP:
            self._up.add(device)
            self._contact_ns[device] = recv_ns
            for row, sample in self._staged.pop(device, {}).items():
                self._update(applied, row, sample, recv_ns)
        else:
            self._up.discard(device)
            self._staged.pop(device, None)
            for combiner in self._pairs.get(device, ()):
                combiner.forget_contacts()
            applied.touched.extend(self.database.mark(device, q.COMM_LOST, recv_ns))
            return self._marked(applied, recv_ns)
        if applied.touched:
            self._derive(applied, recv_ns)
        return applied

    # ---- a disk that takes no events

    def hold(self, device: str, recv_ns: int) -> Applied:
        """What a device says of its points with events waits for the disk: what they show may not be the present.

        They are old-data until `release`, or until a sample comes. No event: it is the gateway's own doing.
        """
        applied = Applied([], [], [], [])
        held = self._held.setdefault(device, {})
        for row in self.database.rows(device):
            state, spec = self._states[row], self.database.specs[row]
            quality = q.worst(state.quality, HELD)
            if spec.event and not spec.derived and quality != state.quality:
                held.setdefault(row, state.quality)
                state.turn(quality, recv_ns)
                applied.touched.append(row)
        return self._marked(applied, recv_ns, LINK_BITS | q.OLD_DATA)

    def release(self, device: str, recv_ns: int) -> Applied:
        """The disk has taken it: what nothing else was learned of meanwhile is as it was."""
        applied = Applied([], [], [], [])
        for row, before in self._held.pop(device, {}).items():
            state = self._states[row]
            if device in self._up and state.quality == q.worst(before, HELD):
                state.turn(before, recv_ns)
                applied.touched.append(row)
        return self._marked(applied, recv_ns, LINK_BITS | q.OLD_DATA)

    def _marked(self, applied: Applied, recv_ns: int, own: int = LINK_BITS) -> Applied:
        specs = self.database.specs
        applied.rows.extend(row for row in applied.touched if not specs[row].contact)
        if applied.touched:
            self._derive(applied, recv_ns, own)
        return applied

    # ---- derived points

    def _derive(self, applied: Applied, recv_ns: int, own: int = LINK_BITS) -> None:
        """Evaluate what depends on the touched rows, each once, inputs before those that use them.

        own: bits that are of the gateway's making; with one of them a derived point makes no event.
        """
        dependents = self._dependents
        if not dependents:
            return
        due = {at for row in applied.touched if row in dependents for at in dependents[row]}
        waiting = list(due)
        heapify(waiting)
        while waiting:
            one = self._derived[heappop(waiting)]
            self._evaluate(applied, one, recv_ns, own)
            for at in dependents.get(one.row, ()):
                if at not in due:
                    due.add(at)
                    heappush(waiting, at)

    def _evaluate(self, applied: Applied, one: Derived, recv_ns: int, own: int = LINK_BITS) -> None:
        outcome = one.expression.evaluate(self.database.operand)
        sample = Sample(one.row, outcome.value, outcome.quality, 0, outcome.time_ns)
        if self._events[one.row] and not outcome.quality & own:
            self._event(applied, one.row, sample, recv_ns, reported=False, historical=False)
        self._update(applied, one.row, sample, recv_ns)

    # ---- a new configuration

    def adopt(self, old: Intake, unchanged: Iterable[str], recv_ns: int) -> Applied:
        """Go on where the intake of the old configuration stands, for devices whose own points did not change.

        Their rows may have other numbers now. All other points start anew; derived points are evaluated again.
        """
        applied = Applied([], [], [], [])
        for device in unchanged:
            moved = {
                before: after
                for after in self.database.rows(device)
                if not (spec := self.database.specs[after]).derived
                and (before := old.database.row(spec.name)) is not None
            }
            for before, after in moved.items():
                self._states[after] = old._states[before]
                self._sent[after] = old._sent[before]
                self.image[after] = old.image[before]
            if device in old._up:
                self._up.add(device)
            if device in old._held:
                self._held[device] = {moved[row]: before for row, before in old._held[device].items() if row in moved}
            self._staged[device] = {moved[row]: sample for row, sample in old._staged.get(device, {}).items()}
            for combiner, other in zip(self._pairs.get(device, ()), old._pairs.get(device, ()), strict=True):
                combiner.take_over(other)
                if combiner.deadline_ns is not None:
                    self._settling.add(combiner)
        for one in self._derived:
            self._evaluate(applied, one, recv_ns)
        return applied


def _sample(row: int, image: Image) -> Sample:
    return Sample(row, image.value, image.quality, image.native, image.time_ns)
