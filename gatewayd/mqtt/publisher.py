"""Data out: everything under `<base>` but commands and their answers, over one connection of its own.

Holds what must be on the broker (documents, points, the place in the event stream) and brings it there in every
session anew. Never waits for the broker with anything that comes from the field.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import structlog

from gatewayd.mqtt import contract
from gatewayd.mqtt.client import REFUSED, Connection, Incoming, Session, Will
from gatewayd.mqtt.contract import GatewayInfo, ReplayRequest, Topics
from gatewayd.mqtt.events import REPLAYS_AT_ONCE, EventFeed, JournalReader, tail
from gatewayd.mqtt.pace import Backoff, Refusals
from gatewayd.mqtt.points import PointFeed
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.points.database import Database
from gatewayd.points.types import Link

log = structlog.get_logger("mqtt")

STATUS_S = 60.0
NEWEST_S = 10.0
"""The retained status is refreshed so often, and so often when there were events: the end of the stream in it is not
old."""
DOCUMENTS_AT_ONCE = 8
MAX_PARTS = 10_000
CLEAN_UP_S = 10.0
"""So long after the first connect the broker's store is looked through for what an earlier configuration left."""


class DeviceInfo(NamedTuple):
    """One device as the catalog says it; `retain_points` False switches its retained per-point topics off."""

    name: str
    protocol: str
    retain_points: bool = True


class _Catalog(msgspec.Struct):
    class Entry(msgspec.Struct):
        point: str

    device: str = ""
    points: list[Entry] = []


class Publisher:
    """Publishes until cancelled, then says `offline`. All methods but `run` return at once; call them at any time."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        database: Database,
        devices: Sequence[DeviceInfo] = (),
        journal: JournalReader,
        gateway: GatewayInfo,
        clock: Callable[[], Mapping[str, object]],
    ) -> None:
        self._settings = settings
        self._topics = Topics(settings.base)
        self._journal = journal
        self._gateway = gateway
        self._clock = clock
        self._refusals = Refusals(settings.base)
        self._points = PointFeed(self._topics, retain_rate=settings.retain_rate, refusals=self._refusals)
        self._events = EventFeed(
            self._topics,
            journal,
            backlog_rate=settings.backlog_rate,
            replay_rate=settings.replay_rate,
            refusals=self._refusals,
        )
        self._links: dict[str, bytes] = {}
        self._tags: dict[str, bytes] = {}
        self._tags_known = False
        self._tags_found: set[str] = set()
        """Tag topics the broker has stored, until it is known which of them still hang."""
        self._catalog: dict[str, bytes] = {}
        self._devices: dict[str, DeviceInfo] = {}
        self._point_names: set[str] = set()
        self._outbox: dict[str, bytes | None] = {}
        """Retained topics to bring up to date: payload, or None for `make it when it is sent` (status)."""
        self._held: dict[str, bytes | None] = {}
        """What the broker refused, until the next try."""
        self._wake = asyncio.Event()
        self._session: Session | None = None
        self._cleaned = False
        self._told_newest = 0
        self.connection = Connection(
            settings, client_id=settings.client_id, will=self._offline_will, on_message=self._stored
        )
        self.configure(database, devices, gateway.config_sha256)

    # --- what the daemon tells --------------------------------------------------------------------------------------

    def changed(self, rows: Iterable[int]) -> None:
        """Points of these rows changed: newest wins. The hot path."""
        self._points.changed(rows)

    def link(self, device: str, protocol: str, link: Link, since_ns: int, cause: str = "") -> None:
        """A device's link changed (`device/<device>`)."""
        topic = self._topics.device(device)
        self._links[topic] = self._put(topic, contract.device(link, since_ns, cause, protocol))
        if link is Link.UP:  # everything has just been read: whoever comes now shall not see what was before
            self._points.snapshot_now(device)

    def configure(self, database: Database, devices: Sequence[DeviceInfo], config_sha256: str) -> None:
        """Take a new configuration: catalog and points anew; retained topics of what left are cleared."""
        self._gateway = self._gateway._replace(config_sha256=config_sha256)
        self._devices = {device.name: device for device in devices}
        groups_before = list(self._points.groups)
        names_before, catalog_before = self._point_names, self._catalog
        self._point_names = {spec.name for spec in database.specs if not spec.contact}
        self._catalog = {}
        known = list(self._devices) + [device for device in database.devices() if device not in self._devices]
        for device in known:
            specs = [database.specs[row] for row in database.rows(device)]
            protocol = self._devices[device].protocol if device in self._devices else ""
            parts = contract.catalog_messages(device, protocol, [spec for spec in specs if not spec.contact])
            for n, payload in enumerate(parts):
                self._catalog[self._topics.catalog(device, n if len(parts) > 1 else None)] = payload
        self._points.configure(database, {device.name: device.retain_points for device in devices})
        topics_of_devices = {self._topics.device(device) for device in known}
        left = {self._topics.point(name) for name in names_before - self._point_names}
        left |= {
            self._topics.snapshot(group.device, n)
            for group in groups_before
            if group.device not in self._known()
            for n in range(group.snapshot_parts)
        }
        left |= catalog_before.keys() - self._catalog.keys()
        left |= self._links.keys() - topics_of_devices
        self._links = {topic: payload for topic, payload in self._links.items() if topic in topics_of_devices}
        for topic in left:
            self._put(topic, b"")
        for name in self._point_names - names_before:  # back before its topic was cleared
            for waiting in (self._outbox, self._held):
                waiting.pop(self._topics.point(name), None)
        for topic, payload in self._catalog.items():
            self._put(topic, payload)
        self._outbox[self._topics.status] = None
        self._wake.set()

    def republish(self, device: str | None = None) -> None:
        """Send state, retained points and snapshot again (of all devices when None): after an interrogation."""
        self._points.republish(device)
        self._wake.set()

    def replay(self, request: ReplayRequest) -> None:
        """Send events again on `replayed/<client>`."""
        self._events.replay(request)

    def tag(self, key: str, payload: bytes) -> None:
        """What hangs on a point, a bay, a device or the gateway (`tag/<key>`); b"" when nothing does any more."""
        topic = self._topics.tag(key)
        if not contract.sound_topic(topic):
            log.warning("a tag is in force but cannot be shown: its topic would be too long", topic=topic[:100])
            return
        self._put(topic, payload)
        if payload:
            self._tags[topic] = payload
        else:
            self._tags.pop(topic, None)

    def tags_known(self) -> None:
        """All tags that hang have been told: whatever else the broker has stored of them is cleared."""
        self._tags_known = True
        for topic in self._tags_found - self._tags.keys():
            self._put(topic, b"")
        self._tags_found.clear()

    def audit_head(self, payload: bytes) -> None:
        """Where the audit trail ends (`audit`)."""
        self._put(self._topics.audit, payload)

    def status(self) -> None:
        """Publish the status again: the clock's trust or the journal's epoch changed."""
        self._outbox[self._topics.status] = None
        self._wake.set()

    def health(self, counters: Mapping[str, object]) -> None:
        """Publish counters on `health`, with our own; dropped while there is no broker."""
        session = self._session
        if session is not None and not session.stalled:
            payload = contract.health({**counters, "mqtt": self.counters()}, tail(self._journal), time.time_ns())
            session.send_unconfirmed(self._topics.health, payload)

    def counters(self) -> dict[str, int]:
        """Our own counters, plain integers by name."""
        return {
            "connected": int(self.connection.connected),
            "connects": self.connection.connects,
            "state_messages": self._points.state_messages,
            "state_records": self._points.state_records,
            "retained_records": self._points.retained_records,
            "event_messages": self._events.event_messages,
            "events": self._events.events_sent,
            "replayed": self._events.replayed,
            "replays_refused": self._events.replays_refused,
            "refused": self._refusals.count,
        }

    # --- the shell --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect and publish until cancelled; then the status is `offline`."""
        self._events.start()
        await self.connection.run(self._serve, self._farewell)

    async def _serve(self, session: Session) -> None:
        self._session = session
        self._points.session_starts()
        self._outbox = self._held | self._outbox
        self._held.clear()
        self._outbox |= self._links | self._catalog | self._tags | {self._topics.status: None}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send_documents(session))
                tasks.create_task(self._points.send_state(session))
                tasks.create_task(self._points.send_retained(session))
                tasks.create_task(self._events.send_events(session))
                for _ in range(REPLAYS_AT_ONCE):
                    tasks.create_task(self._events.send_replays(session))
                if not self._cleaned:
                    tasks.create_task(self._clean_up(session))
        finally:
            self._session = None

    async def _farewell(self, session: Session) -> None:
        await session.publish(self._topics.status, self._status(online=False), retain=True)

    def _offline_will(self) -> Will:
        return Will(self._topics.status, self._status(online=False))

    def _status(self, *, online: bool) -> bytes:
        self._told_newest = self._journal.newest
        return contract.status(self._gateway, tail(self._journal), self._clock(), time.time_ns(), online=online)

    def _put(self, topic: str, payload: bytes) -> bytes:
        self._outbox[topic] = payload
        self._wake.set()
        return payload

    async def _send_documents(self, session: Session) -> None:
        """Retained documents and snapshots; links and status first. What is refused is tried again after a pause."""
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        status_at = loop.time() + STATUS_S
        retry_at = 0.0
        while True:
            self._wake.clear()
            if loop.time() >= status_at or (
                loop.time() >= status_at - STATUS_S + NEWEST_S and self._journal.newest != self._told_newest
            ):
                self._outbox[self._topics.status] = None
                status_at = loop.time() + STATUS_S
            if self._held and loop.time() >= retry_at:
                self._outbox = self._held | self._outbox
            held = len(self._held)
            await self._send_outbox(session)
            next_s = min(status_at - loop.time(), NEWEST_S, await self._send_snapshots(session, loop))
            if len(self._held) > held or (self._held and loop.time() >= retry_at):
                retry_at = loop.time() + backoff.next()
            elif not self._held:
                backoff.reset()
            if self._held:
                next_s = min(next_s, retry_at - loop.time())
            try:
                async with asyncio.timeout(max(next_s, 0.01)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _send_outbox(self, session: Session) -> None:
        """Send all that waits, a few at once; what is refused is held for a later try, unless it is newer by then."""
        while self._outbox:
            # A status that says online makes what is stored count again: the links of this run must be there before it.
            topics = [topic for topic in self._links if topic in self._outbox]
            if not topics:
                topics = [self._topics.status] if self._topics.status in self._outbox else list(self._outbox)
            batch = {topic: self._outbox.pop(topic) for topic in topics[:DOCUMENTS_AT_ONCE]}
            for topic in batch:
                self._held.pop(topic, None)
            try:
                taken = await asyncio.gather(
                    *(
                        self._deliver(session, topic, self._status(online=True) if payload is None else payload)
                        for topic, payload in batch.items()
                    )
                )
            except BaseException:
                self._outbox = batch | self._outbox  # for the next session
                raise
            self._held |= {topic: batch[topic] for topic, fine in zip(batch, taken, strict=True) if not fine}

    async def _send_snapshots(self, session: Session, loop: asyncio.AbstractEventLoop) -> float:
        """Send the snapshots that are due. Returns the seconds until the next may be."""
        next_s = self._settings.snapshot_s
        for group in list(self._points.groups):
            wait_s = group.snapshot_after - loop.time()
            if wait_s > 0:
                next_s = min(next_s, wait_s)
            elif group.snapshot_old and group in self._points.groups:
                group.snapshot_old = False
                group.snapshot_after = loop.time() + self._settings.snapshot_s
                taken = await asyncio.gather(
                    *(self._deliver(session, topic, payload) for topic, payload in self._points.snapshot(group))
                )
                group.snapshot_old |= not all(taken)
        return next_s

    async def _deliver(self, session: Session, topic: str, payload: bytes) -> bool:
        code = await session.publish(topic, payload, retain=True)
        if code >= REFUSED:
            self._refusals.refused(topic, code)
            return False
        self._refusals.taken(topic)
        return True

    # --- what an earlier configuration left on the broker -----------------------------------------------------------

    async def _clean_up(self, session: Session) -> None:
        """Look once at what we ourselves have stored there; what is no longer configured is cleared by `_stored`."""
        codes = await session.subscribe(self._topics.retained_by_us, stored=True)
        await asyncio.sleep(CLEAN_UP_S)
        if any(code < REFUSED for code in codes):
            await session.unsubscribe(self._topics.retained_by_us)
        self._cleaned = True

    def _stored(self, message: Incoming) -> None:
        if not message.retained or not message.payload:
            return
        topic, base = message.topic, self._topics.base
        match topic.removeprefix(f"{base}/").split("/"):
            case ["catalog", device, *_]:
                self._forget_points(message.payload)
                if topic not in self._catalog:
                    self._put(topic, b"")
                    if device not in self._known():
                        self._put(self._topics.device(device), b"")
            case ["tag", *_] if topic not in self._tags:
                self._tags_found.add(topic)
                if self._tags_known:
                    self.tags_known()
            case ["device", device] if device not in self._known():
                self._put(topic, b"")
            case ["snapshot", device, part]:
                group = next((group for group in self._points.groups if group.device == device), None)
                if group is None or not part.isdecimal() or int(part) > MAX_PARTS:
                    self._put(topic, b"")
                elif int(part) >= group.snapshot_parts:
                    # The next refresh clears the parts that are too many.
                    group.snapshot_parts = int(part) + 1
                    group.snapshot_old = True

    def _known(self) -> set[str]:
        return self._devices.keys() | {group.device for group in self._points.groups}

    def _forget_points(self, catalog: bytes) -> None:
        try:
            found = msgspec.json.decode(catalog, type=_Catalog)
        except msgspec.DecodeError:
            return
        for entry in found.points:
            if entry.point not in self._point_names and contract.sound_topic(entry.point):
                self._put(self._topics.point(entry.point), b"")
