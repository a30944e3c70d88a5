"""The connection to the broker: the only module that touches aiomqtt and paho.

`Connection` owns the reconnecting and hands a `Session` to whoever serves it. CONNECT, subscriptions, keep-alive and
everything that comes in are aiomqtt's and paho's; a session makes its own PUBLISH packets (`packets.py`), all of a turn
of the loop in one write, and reports the PUBACK's reason code, which aiomqtt drops.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import aiomqtt
import paho.mqtt.client as paho
import structlog
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from gatewayd import tls
from gatewayd.mqtt import packets
from gatewayd.mqtt.contract import Properties
from gatewayd.mqtt.settings import Endpoint, MqttSettings, endpoint
from gatewayd.mqtt.sockets import CONNECT_TIMEOUT_S, open_socket, password

log = structlog.get_logger("mqtt")

OWN_WINDOW = 200
"""QoS 1 messages in flight at most, where the broker's Receive Maximum allows as many."""
WINDOW_3_1_1 = 20
"""The same for a broker of MQTT 3.1.1, which cannot say its limit (mosquitto's default is 20)."""
FAREWELL_TIMEOUT_S = 2.0
FIRST_PAUSE_S = 0.2
STABLE_AFTER_S = 10.0
"""A session that lived longer starts the pauses from the beginning again."""
HINTS_OF_AGE = 3
"""Connections closed before CONNACK, one after the other, after which MQTT 3.1.1 is tried."""
REFUSED = 0x80
"""Reason codes from here on are refusals, not acknowledgements (MQTT 5, 2.4)."""
PACKET_TOO_LARGE = 0x95
UNLIMITED = 1 << 28
"""Octets of a packet where the broker names no Maximum Packet Size: more than MQTT can carry."""


class SessionLost(Exception):
    """The connection to the broker ended; the text is the cause people read."""


class Will(NamedTuple):
    """What the broker publishes when we vanish: retained, QoS 1."""

    topic: str
    payload: bytes


class Granted:
    """What the broker allows, as its CONNACK says (MQTT 5, 3.2.2.3).

    window: QoS 1 messages in flight; packet: octets of a packet; qos: the highest
    """

    def __init__(self) -> None:
        self.read(None)

    def read(self, properties: Any) -> None:
        """Take over a CONNACK's properties; None, as of MQTT 3.1.1: nothing is limited."""
        self.window = max(1, min(OWN_WINDOW, getattr(properties, "ReceiveMaximum", OWN_WINDOW)))
        self.packet = getattr(properties, "MaximumPacketSize", 0) or UNLIMITED  # 0 is not allowed
        self.qos = getattr(properties, "MaximumQoS", 2)


class Incoming(NamedTuple):
    """One message as it came."""

    topic: str
    payload: bytes
    retained: bool
    properties: Properties


def _properties(packet: int) -> PahoProperties:
    return PahoProperties(packet)  # type: ignore[no-untyped-call]


Done = Callable[[int], None]
"""Called once with the PUBACK's reason code; never when the session ends first."""


class Session:
    """A live connection. Ends when `Connection` cancels its server; nothing of it may be used afterwards."""

    def __init__(self, client: aiomqtt.Client, *, mqtt5: bool, window: int, largest: int = UNLIMITED) -> None:
        self.mqtt5 = mqtt5
        self.window = window
        self._largest = largest
        self.too_large = 0
        """Messages the broker would not have taken."""
        self.alive = True
        self._paho = client._client  # noqa: SLF001
        self._client = client
        self._pending: dict[int, Done | None] = {}
        self._moved = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._blocked_fd = -1
        self._unsent = bytearray()
        self._flush_due = False
        self._paho.on_publish = None
        self._paho_puback = self._paho._handle_pubackcomp  # noqa: SLF001
        self._paho._handle_pubackcomp = self._on_puback  # type: ignore[method-assign,assignment]  # noqa: SLF001
        # paho would make a system call for each packet; gathered, all of one turn of the loop are one.
        self._paho._sock_send = self._gather  # type: ignore[method-assign,assignment]  # noqa: SLF001
        self._paho.on_socket_register_write = self._on_want_write
        self._paho.on_socket_unregister_write = self._on_written

    # --- publishing -------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many QoS 1 messages may be sent now without passing the broker's Receive Maximum."""
        return self.window - len(self._pending) if self.alive else 0

    @property
    def stalled(self) -> bool:
        """The broker does not take what was written: hold back what has no acknowledgement to wait for."""
        return self._blocked_fd >= 0

    async def wait_room(self) -> None:
        """Wait until a QoS 1 message may be sent."""
        while self.room <= 0:
            self._moved.clear()
            await self._moved.wait()

    async def wait_flowing(self) -> None:
        """Wait until the socket takes data again."""
        while self.stalled:
            self._moved.clear()
            await self._moved.wait()

    def send(
        self,
        topic: str,
        payload: bytes,
        done: Done | None = None,
        *,
        retain: bool = False,
        correlation: bytes | None = None,
        user: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Publish with QoS 1. The caller has seen that there is `room`; the topic is a sound one.

        A packet larger than the broker takes is not sent, which would end the connection: `done` gets the refusal.
        """
        if not self.alive:
            return
        packet_id = self._paho._mid_generate()  # noqa: SLF001  (paho's own packets have ids too)
        while packet_id in self._pending:  # still in flight after a whole round of 65,535
            packet_id = self._paho._mid_generate()  # noqa: SLF001
        packet = packets.publish(
            topic,
            payload,
            retain=retain,
            mqtt5=self.mqtt5,
            packet_id=packet_id,
            correlation=correlation,
            user=user,
        )
        if len(packet) > self._largest:
            self._too_large(topic, packet)
            if done is not None:
                self._loop.call_soon(self._refuse, done)
            return
        self._pending[packet_id] = done
        self._write(packet)

    def send_unconfirmed(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish with QoS 0. The topic is a sound one."""
        if self.alive:
            packet = packets.publish(topic, payload, retain=retain, mqtt5=self.mqtt5)
            if len(packet) > self._largest:
                self._too_large(topic, packet)
            else:
                self._write(packet)

    def _refuse(self, done: Done) -> None:
        if self.alive:
            done(PACKET_TOO_LARGE)

    def _too_large(self, topic: str, packet: bytes) -> None:
        if self.too_large == 0:
            log.error(
                "a message is larger than the broker takes, and is not sent; allow larger ones there",
                topic=topic,
                octets=len(packet),
                limit=self._largest,
            )
        self.too_large += 1

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, user: Sequence[tuple[str, str]] = ()
    ) -> int:
        """Publish with QoS 1 and wait for the PUBACK. Returns its reason code, below REFUSED when it was taken."""
        await self.wait_room()
        answer: asyncio.Future[int] = self._loop.create_future()

        def done(code: int) -> None:
            if not answer.done():
                answer.set_result(code)

        self.send(topic, payload, done, retain=retain, user=user)
        return await answer

    async def subscribe(self, filters: Sequence[str], *, stored: bool) -> list[int]:
        """Subscribe with QoS 1, No Local and Retain As Published; `stored`: retained messages are wanted too.

        Returns the reason code for each filter.
        """
        if self.mqtt5:
            handling = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE if stored else SubscribeOptions.RETAIN_DO_NOT_SEND
            options = SubscribeOptions(qos=1, noLocal=True, retainAsPublished=True, retainHandling=handling)
            wanted: Any = [(one, options) for one in filters]
        else:
            wanted = [(one, 1) for one in filters]
        try:
            codes = await self._client.subscribe(wanted)
        except aiomqtt.MqttError as error:
            raise SessionLost(str(error)) from None
        return [code.value if isinstance(code, ReasonCode) else int(code) for code in codes]

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Take subscriptions back."""
        try:
            await self._client.unsubscribe(list(filters))
        except aiomqtt.MqttError as error:
            raise SessionLost(str(error)) from None

    # --- paho's callbacks -------------------------------------------------------------------------------------------

    def _on_puback(self, command: str) -> Any:
        found = packets.puback(self._paho._in_packet["packet"]) if command == "PUBACK" else None  # noqa: SLF001
        if found is None:
            return self._paho_puback(command)  # type: ignore[arg-type]
        done = self._pending.pop(found.packet_id, None)
        self._moved.set()
        if done is not None and self.alive:
            done(found.reason)
        return paho.MQTT_ERR_SUCCESS

    def _write(self, packet: bytes) -> None:
        self._unsent += packet
        self._flush_soon()

    def _on_want_write(self, _: Any, __: Any, ___: Any) -> None:
        self._flush_soon()

    def _flush_soon(self) -> None:
        # One write for all that is published in this turn of the loop, without going through the selector.
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        try:
            self._paho.loop_write()
        except Exception as error:  # whatever it is, the connection is over, as in aiomqtt
            _fail(self._client, error)
        self._write_out()

    def _gather(self, data: bytes | bytearray) -> int:
        self._unsent += data
        return len(data)

    def _write_out(self) -> None:
        sock = self._paho.socket()
        if sock is None or not self._unsent:
            self._unblock()
            return
        try:
            sent = sock.send(self._unsent)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            sent = 0
        except OSError as error:
            _fail(self._client, error)
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._unblock()
        elif self._blocked_fd < 0:
            self._blocked_fd = sock.fileno()
            self._loop.add_writer(self._blocked_fd, self._write_out)

    def _on_written(self, _: Any, __: Any, ___: Any) -> None:
        """What paho thinks is written may still be with us: `_write_out` knows."""

    async def finish(self) -> None:
        """Wait until all is written; from then on paho writes by itself (its DISCONNECT closes the socket)."""
        self._flush()
        await self.wait_flowing()
        self._paho.__dict__.pop("_sock_send", None)

    def _unblock(self) -> None:
        if self._blocked_fd >= 0:
            self._loop.remove_writer(self._blocked_fd)
            self._blocked_fd = -1
            self._moved.set()

    def close(self) -> None:
        """Nothing is called back any more."""
        self.alive = False
        self._unblock()
        self._pending.clear()


Serve = Callable[[Session], Awaitable[None]]


class Connection:
    """Connects, serves, and connects again for ever. Says once that the broker is away and once that it is back."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        client_id: str,
        will: Callable[[], Will] | None = None,
        on_message: Callable[[Incoming], None] | None = None,
        only_mqtt5: bool = False,
        max_packet: int = 128 * 1024,
    ) -> None:
        self._settings = settings
        self._client_id = client_id
        self._will = will
        self._on_message = on_message
        self._only_mqtt5 = only_mqtt5
        self._max_packet = max_packet
        self._hints_of_age = 0
        self._said_down = False
        self.attempts = 0
        self.connects = 0
        self.connected = False

    async def run(self, serve: Serve, farewell: Serve | None = None) -> None:
        """Until cancelled. `serve` is cancelled when its session is lost; `farewell` gets 2 s when we are."""
        pause = FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self._one_session(serve, farewell)
            except SessionLost as error:
                self._say_down(error)
            if loop.time() - started > STABLE_AFTER_S:
                pause = FIRST_PAUSE_S
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, self._settings.reconnect_max_s)

    def _say_down(self, error: Exception) -> None:
        if not self._said_down:
            self._said_down = True
            log.warning("no connection to the broker", client=self._client_id, url=self._settings.url, cause=str(error))

    def _say_up(self, session: Session) -> None:
        self._said_down = False
        version = "5" if session.mqtt5 else "3.1.1"
        log.info("connected to the broker", client=self._client_id, url=self._settings.url, mqtt=version)
        if not session.mqtt5:
            log.warning("the broker does not speak MQTT 5: data goes out, commands are refused", client=self._client_id)

    async def _one_session(self, serve: Serve, farewell: Serve | None) -> None:
        where = endpoint(self._settings.url)
        mqtt5 = self._only_mqtt5 or self._hints_of_age < HINTS_OF_AGE
        if not mqtt5:
            self._hints_of_age = 0  # whatever comes of it, the next attempts are with MQTT 5 again
        self.attempts += 1
        try:
            sock = await open_socket(where, self._settings)
            client, granted = self._client(where, sock, mqtt5=mqtt5)
            await _connect(client)
        except ssl.SSLError as error:
            raise SessionLost(f"TLS: {tls.reason(error)}") from None
        except (OSError, ValueError) as error:  # refused, certificates, a password file that is not there
            raise SessionLost(str(error)) from None
        except aiomqtt.MqttError as error:
            self._hints_of_age += _hint_of_age(error) if mqtt5 else 0
            old = "; commands need MQTT 5" if self._only_mqtt5 and _hint_of_age(error) == HINTS_OF_AGE else ""
            raise SessionLost(f"{error}{old}") from None
        self._hints_of_age = 0
        if granted.qos < 1:
            _abandon(client)
            raise SessionLost("the broker allows only QoS 0: nothing that it took would be known to have arrived")
        window = granted.window if mqtt5 else WINDOW_3_1_1
        session = Session(client, mqtt5=mqtt5, window=window, largest=granted.packet)
        self.connects += 1
        self.connected = True
        self._say_up(session)
        try:
            await _serve_until_lost(client, session, serve)
        except asyncio.CancelledError:
            if farewell is not None:
                with contextlib.suppress(TimeoutError, aiomqtt.MqttError):
                    async with asyncio.timeout(FAREWELL_TIMEOUT_S):
                        await farewell(session)
            with contextlib.suppress(TimeoutError, aiomqtt.MqttError):
                async with asyncio.timeout(FAREWELL_TIMEOUT_S):
                    await session.finish()
                    await client.__aexit__(None, None, None)
            raise
        finally:
            self.connected = False
            session.close()
            _abandon(client)

    def _client(self, where: Endpoint, sock: socket.socket, *, mqtt5: bool) -> tuple[aiomqtt.Client, Granted]:
        properties = None
        if mqtt5:
            properties = _properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0
            properties.MaximumPacketSize = self._max_packet
        will = None
        if self._will is not None:
            topic, payload = self._will()
            will = aiomqtt.Will(topic, payload, qos=1, retain=True)
        client = aiomqtt.Client(
            where.host,
            where.port,
            identifier=self._client_id,
            username=self._settings.username or None,
            password=password(self._settings),
            protocol=aiomqtt.ProtocolVersion.V5 if mqtt5 else aiomqtt.ProtocolVersion.V311,
            clean_session=None if mqtt5 else True,
            clean_start=True if mqtt5 else paho.MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
            will=will,
            keepalive=self._settings.keepalive_s,
            timeout=CONNECT_TIMEOUT_S,
            max_inflight_messages=0,  # the session counts; paho would search its whole list at each PUBACK
        )
        granted = Granted()
        inner = client._client  # noqa: SLF001
        inner._create_socket = lambda: sock  # type: ignore[method-assign]  # noqa: SLF001  (connected by asyncio)
        inner.disable_logger()

        def on_connect(a: Any, b: Any, flags: Any, reason: Any, properties: Any = None) -> None:
            granted.read(properties)
            client._on_connect(a, b, flags, reason, properties)  # noqa: SLF001

        def on_disconnect(a: Any, b: Any, flags: Any, reason: Any, properties: Any = None) -> None:
            # aiomqtt would wait out its time where the broker closes before CONNACK (an old one does).
            if not client._connected.done():  # noqa: SLF001
                client._connected.set_exception(_ClosedEarly("the broker closed before CONNACK"))  # noqa: SLF001
            client._on_disconnect(a, b, flags, reason, properties)  # noqa: SLF001

        inner.on_connect = on_connect
        inner.on_disconnect = on_disconnect
        inner.on_message = self._receive
        return client, granted

    def _receive(self, _: Any, __: Any, message: paho.MQTTMessage) -> None:
        if self._on_message is None:
            return
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        found = message.properties
        properties = Properties(
            getattr(found, "ResponseTopic", ""),
            getattr(found, "CorrelationData", None),
            tuple(getattr(found, "UserProperty", ())),
        )
        self._on_message(Incoming(topic, bytes(message.payload), bool(message.retain), properties))


class _ClosedEarly(aiomqtt.MqttError):
    """The broker closed the connection before it answered CONNECT."""


def _hint_of_age(error: aiomqtt.MqttError) -> int:
    """How sure it is that this is a broker of MQTT 3.1.1: it says `unsupported protocol version`, closes, or is silent.

    A broker that is only starting closes or is silent too, and MQTT 3.1.1 has no refusals in its PUBACK: so it takes
    several. (amqtt says nothing at all to a CONNECT of MQTT 5.)
    """
    if isinstance(error, _ClosedEarly) or "timed out" in str(error).lower():
        return 1
    return HINTS_OF_AGE if "unsupported protocol" in str(error).lower() else 0


async def _connect(client: aiomqtt.Client) -> None:
    """CONNECT and CONNACK. Leaves no socket behind, whatever happens. Raises aiomqtt.MqttError."""
    entering = asyncio.ensure_future(client.__aenter__())
    try:
        await asyncio.shield(entering)
    except BaseException as error:
        if not entering.done():
            # aiomqtt connects in a thread; let it end before the socket is taken away.
            if not client._connected.done():  # noqa: SLF001
                client._connected.set_exception(_ClosedEarly("given up"))  # noqa: SLF001
            await asyncio.wait({entering})
            if not entering.cancelled():
                entering.exception()
        _abandon(client)
        if isinstance(error, ValueError):
            raise aiomqtt.MqttError(str(error)) from None
        raise


async def _serve_until_lost(client: aiomqtt.Client, session: Session, serve: Serve) -> None:
    """Serve until the connection ends. Raises SessionLost, or what `serve` raised."""
    lost = client._disconnected  # noqa: SLF001
    serving = asyncio.ensure_future(serve(session))
    try:
        await asyncio.wait({serving, lost}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not serving.done():
            serving.cancel()
            await asyncio.wait({serving})
    if not serving.cancelled() and (error := serving.exception()) is not None:
        if isinstance(error, BaseExceptionGroup) and error.split(SessionLost)[1] is None:
            raise SessionLost(str(error.exceptions[0]))
        raise error
    if lost.done() and not lost.cancelled():
        raise SessionLost(str(lost.exception() or "the broker said good-bye"))


def _fail(client: aiomqtt.Client, error: Exception) -> None:
    if not client._disconnected.done():  # noqa: SLF001
        client._disconnected.set_exception(error)  # noqa: SLF001


def _abandon(client: aiomqtt.Client) -> None:
    """Close the socket without a word (a no-op after a clean end) and stop aiomqtt's housekeeping."""
    inner = client._client  # noqa: SLF001
    inner.on_disconnect = None
    inner._sock_close()  # noqa: SLF001
    for future in (client._connected, client._disconnected):  # noqa: SLF001
        if future.done() and not future.cancelled():
            future.exception()  # looked at, so that asyncio does not complain about it later
    if client._misc_task is not None:  # noqa: SLF001
        client._misc_task.cancel()  # noqa: SLF001
