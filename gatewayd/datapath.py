"""What becomes of all that drivers tell: into the database, on disk, then confirmed, published, shown to control.

    driver -> host -> DataPath -> Intake -> journal (commit) -> confirm to the driver
                                       \\-> publisher and desk, at once

The field never waits for the broker; what is an event waits for the disk.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import structlog

from gatewayd import clock
from gatewayd.control.types import Step
from gatewayd.mqtt import contract
from gatewayd.points import quality as q
from gatewayd.points.intake import Applied, Intake
from gatewayd.points.offset import ClockOffset
from gatewayd.points.types import Batch, Cursor, Link
from gatewayd.store.journal import ImageRow, Journal, JournalError, NewEvent

log = structlog.get_logger("datapath")

MOST_NOTES = 10_000
"""Records of our own (links, gaps, derived points) that may wait for the disk; past it they are counted and dropped,
and one gap record says so when the disk takes data again."""
NOTES_DROPPED = "gateway-records-dropped"
LOOK_S = 1.0
HELD_S = 10.0
"""Events of a device that wait longer for the disk make its points with events old-data: newer ones may wait behind."""


class LinkState(NamedTuple):
    """How a device's link is, since when (UTC ns) and why."""

    link: Link
    since_ns: int
    cause: str


class _InFlight(NamedTuple):
    """The newest events of a device on their way to the disk, and since when (CLOCK_MONOTONIC ns)."""

    committed: asyncio.Future[int]
    since_ns: int


class Outward(Protocol):
    """What the data path needs of the publisher. Every call returns at once."""

    def changed(self, rows: Iterable[int]) -> None: ...

    def link(self, device: str, protocol: str, link: Link, since_ns: int, cause: str = "") -> None: ...


class Watching(Protocol):
    """What the data path needs of the desk. Every call returns at once."""

    def changed(self, rows: Iterable[int], mono_ns: int) -> None: ...

    def link(self, device: str, link: Link) -> None: ...

    def progress(self, command_id: str, step: Step) -> None: ...


class DataPath:
    """The core's side of the seam (`protocols.host.Core`)."""

    def __init__(
        self,
        journal: Journal,
        intake: Intake,
        protocols: Mapping[str, str],
        *,
        publisher: Outward,
        desk: Watching,
        moment: Callable[[], clock.Moment] = clock.moment,
    ) -> None:
        """protocols: of the devices by name."""
        self._journal = journal
        self._publisher = publisher
        self._desk = desk
        self._moment = moment
        self.intake = intake
        self._protocols = dict(protocols)
        self.shifts: dict[str, int] = {}
        """Rows of a driver that runs on from an earlier configuration are moved by so much."""
        now = moment().utc_ns
        self.links = {name: LinkState(Link.CONNECTING, now, "") for name in protocols}
        self._told: dict[str, Link] = {}
        self._heard_ns: dict[str, int] = {}
        self._cursors: dict[str, dict[str, Cursor]] = {}
        self._in_flight: dict[str, _InFlight] = {}
        self._held: set[str] = set()
        self._notes = 0
        self._dropped_since_ns = 0
        self._settling: asyncio.TimerHandle | None = None
        self._settles_ns: int | None = None
        self.counts: Counter[str] = Counter()
        self.offsets: dict[str, ClockOffset] = {}
        self.clock_limits: Mapping[str, float] = {}
        """By device, how far its clock may be from ours, s."""

    # --- batches ----------------------------------------------------------------------------------------------------

    def state(self, batch: Batch) -> None:
        """Newest value wins. What is an event all the same (a derived point) is noted."""
        applied = self._apply(batch)
        if applied.events:
            self._note(self._events(applied, batch), self._image(applied))

    async def events(self, batch: Batch, cursor: Cursor | None = None) -> None:
        """Return when the batch is on disk."""
        committed = self.take(batch, cursor)
        if committed is not None:
            await asyncio.shield(committed)

    def take(self, batch: Batch, cursor: Cursor | None) -> asyncio.Future[int] | None:
        """Like `events`; returns what to wait for, None where nothing has to reach the disk."""
        applied = self._apply(batch)
        if not applied.events and not applied.image and cursor is None:
            return None
        device = batch.device
        self.counts["events"] += len(applied.events)
        place = None if cursor is None else (device, cursor)
        committed = self._journal.append(self._events(applied, batch), self._image(applied), place)
        self._in_flight[device] = _InFlight(committed, self._moment().mono_ns)
        committed.add_done_callback(lambda done: self._committed(device, cursor, done))
        return committed

    def _apply(self, batch: Batch) -> Applied:
        self.counts["batches"] += 1
        self.counts["samples"] += len(batch.samples)
        self._heard_ns[batch.device] = batch.t_recv_ns
        mono_ns = batch.mono_ns or self._moment().mono_ns
        if batch.reported and batch.samples:
            self._see_clock(batch, mono_ns)
        applied = self.intake.apply(batch, shift=self.shifts.get(batch.device, 0), mono_ns=mono_ns)
        self._tell(applied, mono_ns)
        return applied

    def _see_clock(self, batch: Batch, mono_ns: int) -> None:
        """The newest of a batch tells most of the device's clock; a backlog tells nothing."""
        state, last = self.links.get(batch.device), batch.samples[-1]
        if state is None or state.link is not Link.UP or last.quality & q.RECEIPT:
            return
        offset = self.offsets.setdefault(batch.device, ClockOffset())
        offset.see(batch.t_recv_ns, last.time_ns, mono_ns)
        limit_s = self.clock_limits.get(batch.device, 1.0)
        if offset.crossed(int(limit_s * 1e9)) and (offset_ns := offset.offset_ns) is not None:
            say = log.warning if offset.over else log.info
            say(
                "a device's clock is off" if offset.over else "a device's clock is right again",
                device=batch.device,
                offset_s=offset_ns / 1e9,
                limit_s=limit_s,
            )
            payload = contract.device_clock_event(batch.device, offset_ns, limit_s, batch.t_recv_ns)
            self._note([NewEvent("clock", batch.device, payload, batch.t_recv_ns)])

    def _tell(self, applied: Applied, mono_ns: int) -> None:
        if applied.rows:
            self._publisher.changed(applied.rows)
        if applied.touched:
            self._desk.changed(applied.touched, mono_ns)
        self._mind_contacts()

    def _events(self, applied: Applied, batch: Batch | None = None) -> list[NewEvent]:
        specs = self.intake.database.specs
        repeat = batch is not None and batch.repeat
        encode = contract.point_event
        return [
            NewEvent(
                "point",
                specs[event.row].device,
                encode(specs[event.row], event.state, repeat=repeat, historical=event.historical),
                event.state.time_ns,
            )
            for event in applied.events
        ]

    def _image(self, applied: Applied) -> list[ImageRow]:
        specs, image = self.intake.database.specs, self.intake.image
        return [ImageRow(specs[row].name, *known) for row in applied.image if (known := image[row]) is not None]

    def _committed(self, device: str, cursor: Cursor | None, done: asyncio.Future[int]) -> None:
        last = self._in_flight.get(device)
        if last is not None and last.committed is done:
            del self._in_flight[device]
            self._release(device)
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            if cursor is not None:
                self._cursors.setdefault(device, {})[cursor.source] = cursor
            return
        # The driver is not told: nothing may be confirmed. Either we are ending, or someone has to look.
        self.counts["not_stored"] += 1
        log.error("events could not be stored; their device is not confirmed to", device=device, cause=str(error))
        self.device(device, Link.FAULT, f"events could not be stored: {error}")

    async def cursors(self, device: str) -> Iterable[Cursor]:
        """Where the device's buffers stand on disk, once all that was given to the journal for it is there."""
        while (waiting := self._in_flight.get(device)) is not None:
            await asyncio.wait({waiting.committed})
        known = dict(self._journal.cursors(device))
        known.update(self._cursors.get(device, {}))
        return known.values()

    # --- a disk that takes no events --------------------------------------------------------------------------------

    async def watch_disk(self) -> None:
        """Until cancelled: points must not pass for the present while what their device says of them waits."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Mark the points of devices whose events have waited too long."""
        now = self._moment()
        for device, waiting in self._in_flight.items():
            if device not in self._held and now.mono_ns - waiting.since_ns > HELD_S * 1e9:
                self._held.add(device)
                self.counts["held"] += 1
                log.warning("events wait for the disk: the device's points with events are old-data", device=device)
                self._tell(self.intake.hold(device, now.utc_ns), now.mono_ns)

    def _release(self, device: str) -> None:
        if device in self._held:
            self._held.discard(device)
            now = self._moment()
            log.info("the disk takes the device's events again", device=device)
            self._tell(self.intake.release(device, now.utc_ns), now.mono_ns)

    # --- contacts that have to settle -------------------------------------------------------------------------------

    def _mind_contacts(self) -> None:
        deadline_ns = self.intake.deadline_ns
        if deadline_ns == self._settles_ns:
            return
        self._settles_ns = deadline_ns
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        if deadline_ns is not None:
            wait_s = max(0.0, (deadline_ns - self._moment().mono_ns) / 1e9)
            self._settling = asyncio.get_running_loop().call_later(wait_s, self._settled)

    def _settled(self) -> None:
        self._settling, self._settles_ns = None, None
        now = self._moment()
        applied = self.intake.expire(now.mono_ns, now.utc_ns)
        self._note(self._events(applied), self._image(applied))
        self._tell(applied, now.mono_ns)

    # --- links, gaps, progress --------------------------------------------------------------------------------------

    def device(self, name: str, link: Link, why: str = "") -> None:
        """A device's link. While it is down, the attempts to connect are no news."""
        before = self.links.get(name)
        if before is None:
            return
        if link is Link.CONNECTING and not why and before.link in (Link.DOWN, Link.FAULT):
            return
        now = self._moment()
        if link is not Link.CONNECTING or before.link is Link.UP:
            applied = self.intake.link(name, link, now.utc_ns)
            self._note(self._events(applied), self._image(applied))
            self._tell(applied, now.mono_ns)
        if (link, why) == (before.link, before.cause):
            return
        since_ns = before.since_ns if link is before.link else now.utc_ns
        self.links[name] = LinkState(link, since_ns, why)
        self._publisher.link(name, self._protocols.get(name, ""), link, since_ns, why)
        if link is not before.link:
            self._desk.link(name, link)
        self._say(name, link, why)
        if link is not Link.CONNECTING and self._told.get(name) is not link:
            self._told[name] = link
            self._note([NewEvent("device", name, contract.device_event(name, link, why, now.utc_ns), now.utc_ns)])

    def _say(self, name: str, link: Link, why: str) -> None:
        """One line when it breaks and one when it heals."""
        told = self._told.get(name)
        if link is told:
            return
        if link is Link.UP:
            log.info("device is up", device=name)
        elif link is Link.DOWN:
            log.warning("device is down", device=name, cause=why)
        elif link is Link.FAULT:
            log.error("device needs attention", device=name, cause=why)

    def gap(self, device: str, cause: str) -> None:
        """The device itself lost events."""
        now_ns = self._moment().utc_ns
        self.counts["gaps"] += 1
        log.warning("events were lost before they could be read", device=device, cause=cause)
        payload = contract.gap_event(device, cause, from_ns=self._heard_ns.get(device), to_ns=now_ns)
        self._note([NewEvent("gap", device, payload, now_ns)])

    def progress(self, command_id: str, step: Step) -> None:
        """A later word on a command."""
        self._desk.progress(command_id, step)

    def clock_stepped(self, step_ns: int) -> None:
        """The gateway's own clock was moved."""
        now_ns = self._moment().utc_ns
        self._note([NewEvent("clock", "gateway", contract.clock_event(step_ns, now_ns), now_ns)])

    # --- what nobody waits for --------------------------------------------------------------------------------------

    def _note(self, events: list[NewEvent], image: Iterable[ImageRow] = ()) -> None:
        rows = list(image)
        if not events and not rows:
            return
        if self._notes >= MOST_NOTES:
            self._dropped_since_ns = self._dropped_since_ns or self._moment().utc_ns
            self.counts["notes_dropped"] += len(events)
            return
        self._notes += 1
        self._journal.append(events, rows).add_done_callback(self._noted)

    def _noted(self, done: asyncio.Future[int]) -> None:
        self._notes -= 1
        if not done.cancelled() and isinstance(error := done.exception(), JournalError):
            self.counts["not_stored"] += 1
            log.error("a record of our own could not be stored", cause=str(error))
        if self._dropped_since_ns and self._notes < MOST_NOTES // 2:
            since, self._dropped_since_ns = self._dropped_since_ns, 0
            now_ns = self._moment().utc_ns
            payload = contract.gap_event(
                "gateway", NOTES_DROPPED, from_ns=since, to_ns=now_ns, lost=self.counts["notes_dropped"]
            )
            self._note([NewEvent("gap", "gateway", payload, now_ns)])

    # --- a new configuration ----------------------------------------------------------------------------------------

    def configure(self, intake: Intake, protocols: Mapping[str, str], shifts: Mapping[str, int]) -> None:
        """Take a new set of points. shifts: of the devices whose drivers run on; their state goes on too."""
        now = self._moment()
        applied = intake.adopt(self.intake, shifts, now.utc_ns)
        self.intake = intake
        self._protocols = dict(protocols)
        self.shifts = {device: shift for device, shift in shifts.items() if shift}
        fresh = LinkState(Link.CONNECTING, now.utc_ns, "")
        self.links = {name: self.links[name] if name in shifts else fresh for name in protocols}
        tables: tuple[dict[str, Any], ...] = (self._told, self.offsets, self._heard_ns)
        for table in tables:
            for name in table.keys() - protocols.keys():
                del table[name]
        self._note(self._events(applied), self._image(applied))
        self._mind_contacts()

    def close(self) -> None:
        """No timer is left behind."""
        if self._settling is not None:
            self._settling.cancel()
