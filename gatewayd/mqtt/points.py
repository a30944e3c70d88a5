"""Points on their way out: state messages at once, retained points at a pace, snapshots now and then.

Newest wins everywhere: a point that changes twice before it is sent is sent once. What was on its way when a session
ended is sent again in the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial

from gatewayd.mqtt import contract
from gatewayd.mqtt.client import REFUSED, Session
from gatewayd.mqtt.contract import Topics
from gatewayd.mqtt.pace import Backoff, Pace, Refusals
from gatewayd.points import quality as q
from gatewayd.points.database import Database

STATE_IN_FLIGHT = 4
"""State messages of one device on their way at most; what changes meanwhile gathers for the next."""
RETAINED_TOGETHER = 25
RETAINED_AT_ONCE = 50
"""Retained points written before the loop gets a turn."""


class Group:
    """The published points of one device."""

    def __init__(self, device: str, rows: Sequence[int], *, retain: bool) -> None:
        self.device = device
        self.rows = list(rows)
        self.retain = retain
        self.dirty: dict[int, None] = dict.fromkeys(rows)
        self.in_flight: dict[int, Iterable[int]] = {}
        self.backoff = Backoff()
        self.paused = False
        self.snapshot_old = True
        self.snapshot_after = 0.0
        self.snapshot_parts = 0


class PointFeed:
    """State, retained points and snapshots of all devices, out of the database."""

    def __init__(self, topics: Topics, *, retain_rate: int, refusals: Refusals) -> None:
        self._topics = topics
        self._retain_rate = retain_rate
        self._refusals = refusals
        self._groups: list[Group] = []
        self._group_of: list[Group | None] = []
        self._database = Database([])
        self._wake = asyncio.Event()
        self._retain_wake = asyncio.Event()
        self._retain: dict[int, None] = {}
        self._first: set[int] = set()
        self._urgent: dict[int, None] = {}
        self._numbers = 0
        self.state_messages = 0
        self.state_records = 0
        self.retained_records = 0

    @property
    def groups(self) -> Sequence[Group]:
        return self._groups

    def configure(self, database: Database, retain: dict[str, bool]) -> None:
        """Take a new set of points; everything is sent anew. Contacts are the halves of a double and never go out."""
        self._database = database
        self._group_of = [None] * len(database)
        parts = {group.device: group.snapshot_parts for group in self._groups}
        self._groups = []
        for device in database.devices():
            rows = [row for row in database.rows(device) if not database.specs[row].contact]
            group = Group(device, rows, retain=retain.get(device, True))
            group.snapshot_parts = parts.get(device, 0)
            self._groups.append(group)
            for row in rows:
                self._group_of[row] = group
        self._first = {row for group in self._groups if group.retain for row in group.rows}
        self._urgent = dict.fromkeys(self._first)
        self._retain = {}
        self._wake.set()
        self._retain_wake.set()

    def changed(self, rows: Iterable[int]) -> None:
        """Mark points as changed: the hot path, called for every batch."""
        groups = self._group_of
        for row in rows:
            group = groups[row]
            if group is not None:
                group.dirty[row] = None
        self._wake.set()

    def republish(self, device: str | None) -> None:
        """Send everything of a device (None: of all) again."""
        for group in self._groups:
            if device is None or group.device == device:
                self._again(group, group.rows)
                self._mark_retained(group, group.rows)
                group.snapshot_old = True

    def snapshot_now(self, device: str) -> None:
        """Refresh the device's snapshot without waiting for its turn."""
        for group in self._groups:
            if group.device == device:
                group.snapshot_old, group.snapshot_after = True, 0.0

    def _mark_retained(self, group: Group, rows: Iterable[int]) -> None:
        if group.retain:
            for row in rows:
                (self._urgent if row in self._first else self._retain)[row] = None
            self._retain_wake.set()

    def _again(self, group: Group, rows: Iterable[int]) -> None:
        group.dirty.update(dict.fromkeys(rows))
        self._wake.set()

    # --- one session ------------------------------------------------------------------------------------------------

    def session_starts(self) -> None:
        """What was on its way is not known to have arrived; the broker may have lost what it kept."""
        for group in self._groups:
            for rows in group.in_flight.values():
                self._again(group, rows)
            group.in_flight.clear()
            group.paused = False
            group.snapshot_old = True
            group.snapshot_after = 0.0
            self._mark_retained(group, group.rows)
        self._wake.set()

    async def send_state(self, session: Session) -> None:
        """`state/<device>`: at once when the line is free, all that changed since in one message."""
        while True:
            self._wake.clear()
            groups = self._groups
            for group in groups:
                if group.dirty and len(group.in_flight) < STATE_IN_FLIGHT and not group.paused:
                    await session.wait_room()
                    if self._groups is not groups:
                        break  # reconfigured meanwhile: these rows mean other points now
                    await self._send_group(session, group)
            await self._wake.wait()

    async def _send_group(self, session: Session, group: Group) -> None:
        rows = list(group.dirty)
        group.dirty.clear()
        group.snapshot_old = True
        database = self._database
        self._mark_retained(group, rows)
        messages = contract.state_messages(
            [database.specs[row] for row in rows], [database.states[row] for row in rows]
        )
        topic = self._topics.state(group.device)
        start = 0
        parts = []
        for payload, count in messages:
            parts.append((payload, rows[start : start + count]))
            start += count
            self._numbers += 1
            group.in_flight[self._numbers] = parts[-1][1]
        first = self._numbers - len(parts) + 1
        for number, (payload, part) in enumerate(parts, first):
            await session.wait_room()
            session.send(topic, payload, partial(self._state_done, group, number))
            self.state_messages += 1
            self.state_records += len(part)

    def _state_done(self, group: Group, number: int, code: int) -> None:
        rows = group.in_flight.pop(number, ())
        if code >= REFUSED:
            self._refusals.refused(self._topics.state(group.device), code)
            group.paused = True
            group.dirty.update(dict.fromkeys(rows))
            asyncio.get_running_loop().call_later(group.backoff.next(), self._resume, group)
            return
        group.backoff.reset()
        self._refusals.taken(self._topics.state(group.device))
        if group.dirty:
            self._wake.set()

    def _resume(self, group: Group) -> None:
        group.paused = False
        self._wake.set()

    async def send_retained(self, session: Session) -> None:
        """`point/<point>`: QoS 0, paced, so that it never holds up the others; a first value is not held back."""
        pace = Pace(self._retain_rate)
        while True:
            await self._retain_wake.wait()
            await session.wait_flowing()
            for _ in range(RETAINED_AT_ONCE):
                if self._urgent:
                    self._send_point(session, self._urgent)
                elif self._retain and pace.take(1):
                    self._send_point(session, self._retain)
                else:
                    break
            if not self._urgent and not self._retain:
                self._retain_wake.clear()
            else:
                # Without a token left, several are waited for: each wake-up and each write cost more than a message.
                together = min(len(self._retain), RETAINED_TOGETHER, max(self._retain_rate // 10, 1))
                await asyncio.sleep(0 if self._urgent else pace.wait_s(together))

    def _send_point(self, session: Session, queue: dict[int, None]) -> None:
        row = next(iter(queue))
        del queue[row]
        spec, state = self._database.specs[row], self._database.states[row]
        if not state.quality & q.NOT_INITIALISED:
            self._first.discard(row)
        session.send_unconfirmed(self._topics.point(spec.name), contract.record(spec, state), retain=True)
        self.retained_records += 1

    def snapshot(self, group: Group) -> list[tuple[str, bytes]]:
        """The retained snapshot of a device now: (topic, payload) for each part; empty payloads for parts too many."""
        database = self._database
        payloads = contract.snapshot_messages(
            [database.specs[row] for row in group.rows], [database.states[row] for row in group.rows]
        )
        before, group.snapshot_parts = group.snapshot_parts, len(payloads)
        payloads += [b""] * (before - len(payloads))
        return [(self._topics.snapshot(group.device, n), payload) for n, payload in enumerate(payloads)]
