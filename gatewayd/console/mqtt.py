"""A console's connection to the broker: what is stored and what comes, publishing, waiting for a condition."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, MutableMapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import structlog

from gatewayd.mqtt.client import REFUSED, Connection, Incoming, Session
from gatewayd.mqtt.settings import MqttSettings

T = TypeVar("T")

SETTLE_S = 0.3
"""After the first gateway has been heard: so long for others that stand in the same broker."""


class Disconnected(Exception):
    """The broker is away; nothing is known about a message that was under way."""


class NoGateway(Exception):
    """Nobody, or more than one, reported as a gateway; the text says what to do."""


class _Cause:
    """Keeps the connection's own words (they go to a log in the daemon) for the console's status line."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if cause := event.get("cause"):
            self.text = str(cause)
        raise structlog.DropEvent


_cause = _Cause()


def quiet_logs() -> None:
    """Log lines of the connection become the console's status line instead of breaking up the picture."""
    structlog.configure(processors=[_cause], wrapper_class=structlog.make_filtering_bound_logger("info"))


class Broker:
    """A connection that comes back by itself. Use `async with`; every method belongs to one event loop.

    on_message: called with topic and payload of everything subscribed, in order
    """

    def __init__(self, settings: MqttSettings, on_message: Callable[[str, bytes], None]) -> None:
        name = settings.client_id or f"gatewayd-console-{secrets.token_hex(4)}"
        self.url = settings.url
        self._on_message = on_message
        self._connection = Connection(
            msgspec.structs.replace(settings, reconnect_max_s=min(settings.reconnect_max_s, 2.0)),
            client_id=name,
            on_message=self._receive,
            only_mqtt5=True,
            max_packet=1024 * 1024,
        )
        self._filters: list[str] = []
        self._session: Session | None = None
        self._lost = asyncio.Event()
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.refused: list[str] = []

    @property
    def connected(self) -> bool:
        """Connected and subscribed."""
        return self._session is not None

    @property
    def trouble(self) -> str:
        """Why there is no connection; empty while there is one."""
        if self.connected:
            return f"the broker refuses to let us read {', '.join(self.refused)}" if self.refused else ""
        return f"no connection to {self.url}" + (f": {_cause.text}" if _cause.text else "")

    async def subscribe(self, *filters: str) -> None:
        """Read these topics, now and after each reconnect; what is stored comes first."""
        self._filters += filters
        if self._session is not None:
            await self._ask(self._session, filters)

    async def publish(self, topic: str, body: object, user: Sequence[tuple[str, str]] = ()) -> int:
        """Publish one JSON object (or its octets) once, QoS 1, never retained, with these user properties.

        Returns the PUBACK's reason code. Raises Disconnected.
        """
        session = self._session
        if session is None:
            raise Disconnected(self.trouble)
        payload = body if isinstance(body, bytes) else msgspec.json.encode(body)
        sending = asyncio.ensure_future(session.publish(topic, payload, user=user))
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait({sending, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise Disconnected(self.trouble)
            return sending.result()
        finally:
            sending.cancel()
            lost.cancel()

    async def until(self, condition: Callable[[], T], timeout_s: float) -> T:
        """Wait until the condition holds, looked at after every message and change; its last value in any case."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not (found := condition()):
                    self._moved.clear()
                    await self._moved.wait()
                return found
        return condition()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._connection.run(self._serve))
        return self

    async def __aexit__(self, a: type[BaseException] | None, b: BaseException | None, c: TracebackType | None) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _serve(self, session: Session) -> None:
        try:
            self.refused = []
            if self._filters:
                await self._ask(session, self._filters)
            self._lost = asyncio.Event()
            self._session = session
            self._moved.set()
            await asyncio.Event().wait()
        finally:
            self._session = None
            self._lost.set()
            self._moved.set()

    async def _ask(self, session: Session, filters: Sequence[str]) -> None:
        codes = await session.subscribe(list(filters), stored=True)
        self.refused += [one for one, code in zip(filters, codes, strict=True) if code >= REFUSED]

    def _receive(self, message: Incoming) -> None:
        self._on_message(message.topic, message.payload)
        self._moved.set()


async def find_base(settings: MqttSettings, timeout_s: float) -> str:
    """The base topic of the one gateway on this broker: from its retained status.

    Raises NoGateway when none or several are there, or the broker is not.
    """
    found: set[str] = set()

    def heard(topic: str, payload: bytes) -> None:
        if payload:
            found.add(topic.removesuffix("/status"))

    async with Broker(settings, heard) as broker:
        await broker.subscribe("gw/+/status")
        if not await broker.until(lambda: found, timeout_s):
            raise NoGateway(
                broker.trouble
                or f"no gateway has reported at {broker.url}: nothing is stored on gw/+/status; is it running? "
                "A base other than gw/<gateway> is given with --base"
            )
        await broker.until(lambda: False, SETTLE_S)
    if len(found) > 1:
        raise NoGateway(f"several gateways report here: {', '.join(sorted(found))}; choose one with --base")
    return found.pop()
