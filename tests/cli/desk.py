"""A real desk behind a real mosquitto: publisher, commands, journal. The field is by script."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gatewayd import clock
from gatewayd.clock import ClockState
from gatewayd.control.desk import Desk
from gatewayd.control.types import Control, Reply, Request, Verdict
from gatewayd.mqtt import contract
from gatewayd.mqtt.commands import Commands
from gatewayd.mqtt.contract import AskRequest, GatewayInfo
from gatewayd.mqtt.events import tail
from gatewayd.mqtt.publisher import DeviceInfo, Publisher
from gatewayd.points.types import Link, Value
from gatewayd.store.journal import Journal, WhenFull
from tests.brokers import until
from tests.control.support import PROTOCOLS, Room
from tests.mqtt.support import running, settings

MOVES = {True: {"double": "closed"}, False: {"double": "open"}}


class DeskRoom(Room):
    """The room of the desk's own tests, but with the clocks running and everything over MQTT.

    requests: as they came; operated: what the field was told to do
    """

    def __init__(self, folder: Path, url: str, *, login: dict[str, str] | None = None, **control: Any) -> None:
        super().__init__(folder, **control)
        self.url = url
        self.login = login or {}
        self.requests: list[Request] = []

    async def open(self) -> None:
        self.now, self.mono = clock.now_ns(), clock.mono_ns()
        self.journal = Journal.open(self.folder, keep_s=86400, max_bytes=16 << 20, when_full=WhenFull.BLOCK)
        self.database = self._database()
        mqtt = settings(self.url, **self.login)
        self.publisher = Publisher(
            mqtt,
            database=self.database,
            devices=[DeviceInfo(name, protocol) for name, protocol in PROTOCOLS.items()],
            journal=self.journal,
            gateway=GatewayInfo("test", "0.1", "c0ffee", "b1"),
            clock=lambda: {"synchronised": True},
        )
        self.commands = Commands(
            mqtt,
            on_request=self._asked,
            on_interrogate=lambda _: None,
            on_replay=lambda _: None,
            on_ask=self._answer,
        )
        self.desk = Desk(
            self.settings,
            self.station(),
            journal=self.journal,
            field=self.field,
            publish=self.commands.answer,
            encode_event=contract.control_event,
            publish_tags=self.publisher.tag,
            publish_audit_head=self.publisher.audit_head,
            clock=lambda: ClockState(True),
        )
        self.field.on_operate = self.obey
        for name, protocol in PROTOCOLS.items():
            self.publisher.link(name, protocol, Link.UP, self.now)
        await self.desk.start()
        self.publisher.tags_known()
        self._running = asyncio.create_task(self.desk.run())

    async def _asked(self, request: Request) -> None:
        self.requests.append(request)
        await self.desk.request(request)

    def _answer(self, _: AskRequest) -> bytes:
        return contract.health({"control": self.desk.snapshot()}, tail(self.journal), clock.now_ns())

    def obey(self, cmd: Control) -> None:
        """The switch goes to where it was sent."""
        asyncio.get_running_loop().call_later(0.02, self.show_now, cmd)

    def show_now(self, cmd: Control) -> None:
        spec = self.spec(cmd.point)
        value: Value = MOVES[cmd.value].get(str(spec.kind), cmd.value) if isinstance(cmd.value, bool) else cmd.value
        self.now, self.mono = clock.now_ns(), clock.mono_ns()
        self.show(spec.name, value)
        self.publisher.changed([cmd.point])

    def answer_late(self) -> None:
        """Operates are not answered, and nothing moves: nobody knows."""
        self.field.replies["operate"] = Reply(Verdict.UNKNOWN)
        self.field.on_operate = lambda _: None

    def answer_in_time(self) -> None:
        """As usual again."""
        self.field.replies.clear()
        self.field.on_operate = self.obey

    async def stop(self) -> None:
        await self.desk.stop()


@contextlib.asynccontextmanager
async def desk_room(folder: Path, url: str, **more: Any) -> AsyncIterator[DeskRoom]:
    """Open until the end of the test, connected."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    room = DeskRoom(folder, url, **more)
    await room.open()
    try:
        async with running(room.publisher), running(room.commands):
            await until(lambda: room.commands.connection.connected and room.publisher.connection.connected, "connected")
            yield room
    finally:
        await room.close()
