"""What the MQTT tests share: a console that listens and asks, a journal in memory, a station of points."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gatewayd.mqtt.contract import GatewayInfo
from gatewayd.mqtt.publisher import DeviceInfo, Publisher
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.points.database import Database
from gatewayd.points.types import Kind, PointSpec

BASE = "gw/test"


def settings(url: str, **more: Any) -> MqttSettings:
    return MqttSettings(**{"url": url, "reconnect_max_s": 0.5, **more}).completed("test")


class Message(NamedTuple):
    topic: str
    payload: bytes
    qos: int
    retain: bool
    correlation: bytes | None

    @property
    def body(self) -> Any:
        return json.loads(self.payload)


class Console:
    """A client of another stack (aiomqtt) that keeps all it hears."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self.heard: list[Message] = []

    async def listen(self) -> None:
        with contextlib.suppress(aiomqtt.MqttError):
            async for m in self.client.messages:
                correlation = getattr(m.properties, "CorrelationData", None)
                self.heard.append(Message(m.topic.value, bytes(m.payload), m.qos, m.retain, correlation))  # type: ignore[arg-type]

    def on(self, topic: str) -> list[Message]:
        """What was heard on `<base>/<topic>`, or under it where the topic ends with a slash."""
        full = f"{BASE}/{topic}"
        return [m for m in self.heard if m.topic == full or (topic.endswith("/") and m.topic.startswith(full))]

    def last(self, topic: str) -> Any:
        found = self.on(topic)
        return found[-1].body if found and found[-1].payload else None

    async def publish(
        self,
        topic: str,
        body: object,
        *,
        retain: bool = False,
        response_topic: str = "",
        correlation: bytes | None = None,
        user: Sequence[tuple[str, str]] = (),
    ) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        if response_topic:
            properties.ResponseTopic = response_topic
        if correlation is not None:
            properties.CorrelationData = correlation
        if user:
            properties.UserProperty = list(user)
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.client.publish(f"{BASE}/{topic}", payload, qos=1, retain=retain, properties=properties)

    def events(self) -> list[Any]:
        return [event for message in self.on("event") for event in message.body["events"]]


@contextlib.asynccontextmanager
async def console(url: str, *topics: str, username: str = "", password: str = "") -> AsyncIterator[Console]:
    host, port = url.removeprefix("mqtt://").split(":")
    async with aiomqtt.Client(
        host,
        int(port),
        protocol=aiomqtt.ProtocolVersion.V5,
        username=username or None,
        password=password or None,
        max_inflight_messages=500,
    ) as client:
        one = Console(client)
        task = asyncio.create_task(one.listen())
        options = SubscribeOptions(qos=1, retainAsPublished=True)
        for topic in topics or (f"{BASE}/#",):
            await client.subscribe(topic, options=options)
        try:
            yield one
        finally:
            task.cancel()
            await asyncio.wait({task})


class Event(NamedTuple):
    seq: int
    recorded_ns: int
    payload: bytes


class MemoryJournal:
    """The journal's reading side, in memory."""

    def __init__(self, epoch: str = "e1", oldest: int = 1) -> None:
        self.epoch = epoch
        self.oldest = oldest
        self.events: list[Event] = []
        self.handed_over = oldest - 1
        self.marks: list[int] = []
        self._wakes: list[Callable[[int], None]] = []

    @property
    def newest(self) -> int:
        return self.oldest + len(self.events) - 1

    def add(self, *payloads: bytes, recorded_ns: int | None = None) -> None:
        for payload in payloads:
            self.events.append(Event(self.newest + 1, recorded_ns or time.time_ns(), payload))
        for wake in self._wakes:
            wake(self.newest)

    async def read(self, first: int, limit: int, max_bytes: int) -> Sequence[Event]:
        start = max(first - self.oldest, 0)
        found: list[Event] = []
        size = 0
        for event in self.events[start : start + limit]:
            size += len(event.payload)
            if found and size > max_bytes:
                break
            found.append(event)
        return found

    def mark_handed_over(self, seq: int) -> None:
        self.marks.append(seq)
        self.handed_over = seq

    def subscribe(self, wake: Callable[[int], None]) -> None:
        self._wakes.append(wake)


def analogs(device: str, count: int, *, start: int = 0, **more: Any) -> list[PointSpec]:
    return [
        PointSpec(
            row=start + n,
            name=f"{device}/P{n}",
            kind=Kind.ANALOG,
            device=device,
            address=f"AI:{n}",
            unit="kW",
            **more,
        )
        for n in range(count)
    ]


def good(database: Database, row: int, value: Any, t_ns: int | None = None) -> int:
    state = database.states[row]
    now = time.time_ns()
    state.value, state.quality, state.time_ns, state.recv_ns = value, 0, t_ns or now, now
    return row


GATEWAY = GatewayInfo(name="test", version="0.0", config_sha256="c0ffee", boot="b1")


def publisher(url: str, database: Database, journal: MemoryJournal | None = None, **more: Any) -> Publisher:
    return Publisher(
        settings(url, **more),
        database=database,
        devices=[DeviceInfo(device, "dnp3") for device in database.devices()],
        journal=journal or MemoryJournal(),
        gateway=GATEWAY,
        clock=lambda: {"synchronised": True},
    )


@contextlib.asynccontextmanager
async def running(thing: Any) -> AsyncIterator[None]:
    """Run a Publisher or Commands; end it as the daemon does."""
    task = asyncio.create_task(thing.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
