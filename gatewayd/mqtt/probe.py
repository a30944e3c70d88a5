"""What a broker says of itself and of our rights, asked once over a connection of its own: for `gatewayd doctor`.

Under another client id than the gateway's, so that a running one keeps its connection; nothing stays on the broker.
"""

from __future__ import annotations

import threading
import uuid
from typing import Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gatewayd.mqtt.client import REFUSED
from gatewayd.mqtt.settings import MqttSettings, endpoint
from gatewayd.mqtt.sockets import password
from gatewayd.mqtt.topics import Topics
from gatewayd.tls import client_context

ANSWER_S = 5.0
VERSION_S = 1.0
VERSION_TOPIC = "$SYS/broker/version"
WEEK_S = 7 * 86400


class Broker(msgspec.Struct, kw_only=True):
    """What was found. error: why there is no MQTT 5 connection, "" where there is; all else is then as it was made.

    old: it answers, but only to MQTT 3.1.1
    receive_maximum … session_expiry_s: from CONNACK, what MQTT 5 means by their absence filled in;
    session_expiry_s is what the broker makes of a week
    publish: the reason code of a message under our base; subscribe: of our requests' topics (0x80 on: refused)
    version: as in $SYS/broker/version, "" where the broker does not say
    """

    error: str = ""
    old: bool = False
    receive_maximum: int = 65535
    maximum_packet: int = 0xFFFF_FFFF
    maximum_qos: int = 2
    retain: bool = True
    wildcards: bool = True
    session_expiry_s: int = WEEK_S
    publish: int | None = None
    subscribe: dict[str, int] = {}
    version: str = ""


def ask(settings: MqttSettings, timeout_s: float = ANSWER_S) -> Broker:
    """Connect, look, disconnect; blocks a few seconds at most. Never raises for what is wrong with the broker."""
    found = Broker()
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"{settings.client_id}-doctor-{uuid.uuid4().hex[:8]}",
        protocol=paho.MQTTv5,
    )
    one = _Probe(client, found)
    try:
        where = endpoint(settings.url)
        if settings.username:
            client.username_pw_set(settings.username, password(settings))
        if where.tls:
            client.tls_set_context(
                client_context(settings.ca_file, settings.cert_file, settings.key_file, settings.crl_file)
            )
        client.connect_timeout = timeout_s
        wanted = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        wanted.SessionExpiryInterval = WEEK_S
        client.connect(where.host, where.port, keepalive=15, clean_start=True, properties=wanted)
    except (OSError, ValueError) as error:
        found.error = str(error) or type(error).__name__
        return found
    client.loop_start()
    try:
        one.look(Topics(settings.base), timeout_s)
    finally:
        ended = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
        ended.SessionExpiryInterval = 0
        client.disconnect(properties=ended)
        client.loop_stop()
    return found


class _Probe:
    def __init__(self, client: paho.Client, found: Broker) -> None:
        self._client = client
        self._found = found
        self._connected = threading.Event()
        self._published = threading.Event()
        self._subscribed = threading.Event()
        self._said_version = threading.Event()
        self._codes: dict[int, list[int]] = {}
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message

    def look(self, topics: Topics, timeout_s: float) -> None:
        """All questions, after the socket is there."""
        found, client = self._found, self._client
        if not self._connected.wait(timeout_s):
            found.error = f"the broker takes the connection, but does not answer within {timeout_s:g} s"
            client.on_disconnect = None  # that will be our own
        if found.error:
            return
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        filters = [*topics.requests] if found.wildcards else []
        client.subscribe([*((one, options) for one in filters), (VERSION_TOPIC, SubscribeOptions(qos=0))])
        if found.maximum_qos >= 1:
            client.publish(f"{topics.base}/doctor", b"{}", qos=1)
            self._published.wait(timeout_s)
        if self._subscribed.wait(timeout_s):
            codes = next(iter(self._codes.values()))
            found.subscribe = dict(zip(filters, codes, strict=False))
        self._said_version.wait(VERSION_S)

    def _on_connect(self, _: Any, __: Any, ___: Any, reason: Any, properties: Any) -> None:
        found = self._found
        if reason.is_failure:
            found.error = f"the broker refuses the connection: {str(reason).lower()}"
            found.old = "protocol version" in found.error
        for name, field in (
            ("ReceiveMaximum", "receive_maximum"),
            ("MaximumPacketSize", "maximum_packet"),
            ("MaximumQoS", "maximum_qos"),
            ("SessionExpiryInterval", "session_expiry_s"),
        ):
            setattr(found, field, getattr(properties, name, getattr(found, field)))
        found.retain = bool(getattr(properties, "RetainAvailable", 1))
        found.wildcards = bool(getattr(properties, "WildcardSubscriptionAvailable", 1))
        self._connected.set()

    def _on_disconnect(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        if not self._connected.is_set():
            self._found.error = f"the broker closed the connection before it answered: {str(reason).lower()}"
            self._found.old = True  # a broker of MQTT 3.1.1 does just this
            self._connected.set()

    def _on_publish(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        self._found.publish = reason.value
        self._published.set()

    def _on_subscribe(self, _: Any, __: Any, mid: int, codes: Any, ___: Any) -> None:
        self._codes[mid] = [code.value for code in codes]
        self._subscribed.set()

    def _on_message(self, _: Any, __: Any, message: paho.MQTTMessage) -> None:
        if message.topic == VERSION_TOPIC:
            self._found.version = message.payload.decode("utf-8", "replace")[:80]
            self._said_version.set()


def refused(code: int | None) -> bool:
    """Whether a reason code is a refusal."""
    return code is not None and code >= REFUSED
