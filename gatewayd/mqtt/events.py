"""The numbered events: out of the journal in order, a bounded number on their way, and again on request.

The journal on disk is the session: after any loss the feed goes on behind the last event the broker acknowledged
without a hole. A PUBACK with a refusal acknowledges nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from gatewayd import failpoint
from gatewayd.mqtt import contract
from gatewayd.mqtt.client import REFUSED, Session
from gatewayd.mqtt.contract import EventMessage, Numbered, ReplayRequest, Tail, Topics
from gatewayd.mqtt.pace import Backoff, Pace, Refusals

log = structlog.get_logger("mqtt")

BYTES_IN_FLIGHT = 256 * 1024
"""Octets of events on their way at most: on a slow line the newest state waits behind no more than this."""
READ_BYTES = 56 * 1024
"""Octets asked of the journal at once: one message with the numbers added."""
REPLAYS_AT_ONCE = 2
REPLAYS_WAITING = 16


class JournalReader(Protocol):
    """What the publisher needs of the journal. Numbers count from 1 without gaps within an epoch."""

    @property
    def epoch(self) -> str | int: ...
    @property
    def oldest(self) -> int: ...
    @property
    def newest(self) -> int: ...
    @property
    def handed_over(self) -> int: ...

    async def read(self, first: int, limit: int, max_bytes: int) -> Sequence[Numbered]:
        """Events from `first` on in order (from the oldest kept, where `first` is gone); one at least if there is."""
        ...

    def mark_handed_over(self, seq: int) -> None: ...

    def subscribe(self, wake: Callable[[int], None]) -> object: ...


def tail(journal: JournalReader) -> Tail:
    """Where the event stream stands now."""
    return Tail(journal.epoch, journal.oldest, journal.newest, journal.handed_over)


class EventFeed:
    """`event`, `gap` and `replayed/<client>`."""

    def __init__(
        self, topics: Topics, journal: JournalReader, *, backlog_rate: int, replay_rate: int, refusals: Refusals
    ) -> None:
        self._topics = topics
        self._journal = journal
        self._backlog_rate = backlog_rate
        self._replay_rate = replay_rate
        self._refusals = refusals
        self._wake = asyncio.Event()
        self._backoff = Backoff()
        self._waiting: dict[int, EventMessage] = {}
        self._acknowledged: set[int] = set()
        self._bytes = 0
        self._refused = False
        self._trouble = False
        self._replays: asyncio.Queue[ReplayRequest] = asyncio.Queue(REPLAYS_WAITING)
        self._too_many: list[ReplayRequest] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.events_sent = 0
        self.event_messages = 0
        self.replayed = 0
        self.replays_refused = 0

    def start(self) -> None:
        """Listen to the journal; once, in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._journal.subscribe(self._committed)

    def _committed(self, _: int) -> None:
        # The journal may call from its writer thread.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    # --- the stream -------------------------------------------------------------------------------------------------

    async def send_events(self, session: Session) -> None:
        """From the first event the broker has not acknowledged, in order, until cancelled."""
        pace = Pace(self._backlog_rate, max(self._backlog_rate, contract.MAX_EVENTS))
        most = max(1, session.window // 2)
        self._rewind()
        following = self._journal.handed_over + 1
        while True:
            self._wake.clear()
            if self._refused:
                if not self._waiting:
                    await asyncio.sleep(self._backoff.next())
                    self._rewind()
                    following = self._journal.handed_over + 1
                    continue
            elif self._journal.newest >= following and len(self._waiting) < most and self._bytes < BYTES_IN_FLIGHT:
                events = await self._read(following)
                for message in contract.event_messages(self._journal.epoch, events, time.time_ns()):
                    await session.wait_room()
                    self._send(session, message)
                await self._send_gaps(session, events)
                if events:
                    following = events[-1].seq + 1
                    await asyncio.sleep(pace.owe(len(events)))
                else:
                    await asyncio.sleep(1)
                continue
            await self._wake.wait()

    def _rewind(self) -> None:
        self._waiting.clear()
        self._acknowledged.clear()
        self._bytes = 0
        self._refused = False

    async def _read(self, first: int) -> Sequence[Numbered]:
        """Empty where the journal cannot be read: said once, tried again."""
        try:
            events = await self._journal.read(first, contract.MAX_EVENTS, READ_BYTES)
        except Exception as error:  # a sick disk must not take the live state with it
            if not self._trouble:
                log.error("the journal cannot be read", first=first, cause=repr(error))
            self._trouble = True
            return ()
        if self._trouble and events:
            self._trouble = False
            log.info("the journal can be read again", first=first)
        return events

    def _send(self, session: Session, message: EventMessage) -> None:
        waiting = self._waiting
        waiting[message.first] = message
        self._bytes += len(message.payload)
        session.send(self._topics.event, message.payload, lambda code: self._done(message, code))
        self.event_messages += 1
        failpoint.here("events-published")

    def _done(self, message: EventMessage, code: int) -> None:
        if self._waiting.get(message.first) is not message:
            return
        self._wake.set()
        self._bytes -= len(message.payload)
        if code >= REFUSED:
            del self._waiting[message.first]
            self._refusals.refused(self._topics.event, code)
            self._refused = True
            return
        self._acknowledged.add(message.first)
        handed_over = 0
        # dicts keep the order of sending, which is the order of the numbers
        for first in list(self._waiting):
            if first not in self._acknowledged:
                break
            done = self._waiting.pop(first)
            self._acknowledged.discard(first)
            if not self._refused:
                handed_over = done.last
                self.events_sent += done.last - done.first + 1
        if handed_over:
            self._backoff.reset()
            self._refusals.taken(self._topics.event)
            failpoint.here("events-acknowledged")
            self._journal.mark_handed_over(handed_over)

    async def _send_gaps(self, session: Session, events: Sequence[Numbered]) -> None:
        for event in events:
            payload = contract.gap_message(self._journal.epoch, event)
            if payload is not None:
                await session.wait_room()
                session.send(self._topics.gap, payload)

    # --- replay -----------------------------------------------------------------------------------------------------

    def replay(self, request: ReplayRequest) -> None:
        """Take a request; it is served as soon as there is a session and a place."""
        try:
            self._replays.put_nowait(request)
        except asyncio.QueueFull:
            self.replays_refused += 1
            if len(self._too_many) < REPLAYS_WAITING:
                self._too_many.append(request)

    async def send_replays(self, session: Session) -> None:
        """Serve requests one after the other; run REPLAYS_AT_ONCE of these."""
        while True:
            request = await self._replays.get()
            while self._too_many:
                await self._end(session, self._too_many.pop(), 0, -1, "busy")
            await self._replay(session, request)

    async def _replay(self, session: Session, request: ReplayRequest) -> None:
        journal = self._journal
        if request.bad:
            if contract.sound_name(request.client):
                await self._end(session, request, 0, -1, request.bad)
            return
        if str(request.epoch) != str(journal.epoch):
            await self._end(session, request, 0, -1, "unknown-epoch")
            return
        reason = "ok"
        last = request.last
        if last > journal.newest:
            last, reason = journal.newest, "beyond-newest"
        if request.first < journal.oldest:
            reason = "trimmed"
        pace = Pace(self._replay_rate, contract.MAX_EVENTS)
        topic = self._topics.replayed(request.client)
        missing: list[tuple[int, int]] = []
        following = max(request.first, 1)
        while following <= last:
            found = await self._read(following)
            events = [event for event in found if event.seq <= last]
            if not events:
                reason = reason if found else "unreadable"
                break
            if events[0].seq > following:
                missing.append((following, events[0].seq - 1))
            for message in contract.event_messages(journal.epoch, events, time.time_ns()):
                if await session.publish(topic, message.payload) >= REFUSED:
                    self._refusals.count += 1
                    return
                self.replayed += message.last - message.first + 1
            following = events[-1].seq + 1
            await asyncio.sleep(pace.owe(len(events)))
        if following <= request.last:
            missing.append((following, request.last))
        await self._end(session, request, request.first, following - 1, reason, missing)

    async def _end(
        self,
        session: Session,
        request: ReplayRequest,
        first: int,
        last: int,
        reason: str,
        missing: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        if missing is None:
            missing = [(request.first, request.last)] if request.first <= request.last else []
        payload = contract.replay_done(first, last, missing, reason)
        await session.publish(self._topics.replayed(request.client), payload)
