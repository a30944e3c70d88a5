"""The broker: does it answer, may we, and can it do what delivery and commands rest on. Pure but for `look`."""

from __future__ import annotations

from gatewayd.engineering.doctor.finding import Finding, broken, ok, warning
from gatewayd.mqtt.probe import WEEK_S, Broker, ask, refused
from gatewayd.mqtt.settings import MqttSettings, endpoint
from gatewayd.mqtt.topics import MAX_MESSAGE, MAX_TOPIC

LEAST_PACKET = MAX_MESSAGE + MAX_TOPIC + 64
"""Octets of the largest PUBLISH there is: payload, topic, headers."""
FEW_IN_FLIGHT = 100
DAY_S = 86400


def look(settings: MqttSettings) -> list[Finding]:
    """Ask the broker and judge what it says. Blocks for some seconds where it does not answer."""
    found = ask(settings)
    if found.error:
        return [reachable(settings, found)]
    return [
        reachable(settings, found),
        receive_maximum(found),
        packet_size(found),
        quality_of_service(found),
        retained(found),
        sessions(found),
        rights(settings, found),
    ]


def reachable(settings: MqttSettings, found: Broker) -> Finding:
    where = endpoint(settings.url)
    name = f"{where.host}:{where.port}"
    if found.old:
        return broken(
            "broker",
            f"{name} answers, but not with MQTT 5: {found.error}",
            "use a broker that speaks MQTT 5: an older one takes no commands and loses refused messages in silence",
        )
    if found.error:
        return broken(
            "broker",
            f"{name} cannot be used: {found.error}",
            "look at url, username and the TLS files in [mqtt], and at the broker's own log",
        )
    version = f", {found.version}" if found.version else ""
    return ok("broker", f"{name} answers and speaks MQTT 5{version}")


def receive_maximum(found: Broker) -> Finding:
    if found.receive_maximum < FEW_IN_FLIGHT:
        return warning(
            "broker: Receive Maximum",
            f"{found.receive_maximum} messages may be on their way at once: slow where the line is slow",
            "mosquitto: max_inflight_messages 200",
        )
    return ok("broker: Receive Maximum", f"{found.receive_maximum} messages may be on their way at once")


def packet_size(found: Broker) -> Finding:
    if found.maximum_packet < LEAST_PACKET:
        return broken(
            "broker: packet size",
            f"at most {found.maximum_packet} octets are taken; the gateway's messages have up to {LEAST_PACKET}: "
            "larger ones are not sent",
            "mosquitto: max_packet_size 131072 or more",
        )
    return ok("broker: packet size", f"messages of {LEAST_PACKET} octets are taken")


def quality_of_service(found: Broker) -> Finding:
    if found.maximum_qos < 1:
        return broken(
            "broker: QoS",
            "only QoS 0 is allowed: nothing is acknowledged, so nothing is known to have arrived",
            "mosquitto: max_qos 2 at the listener",
        )
    return ok("broker: QoS", f"up to QoS {found.maximum_qos}")


def retained(found: Broker) -> Finding:
    if not found.retain:
        return broken(
            "broker: retain",
            "retained messages are not available: whoever comes later misses status, catalog and snapshots, and the "
            "gateway's own connection, whose will is retained, is refused",
            "mosquitto: retain_available true",
        )
    return ok("broker: retain", "retained messages are available")


def sessions(found: Broker) -> Finding:
    if found.session_expiry_s < DAY_S:
        return warning(
            "broker: sessions",
            f"a session ends after {found.session_expiry_s} s whatever was asked: what a consumer misses in a longer "
            "absence it must ask for again",
            "mosquitto: persistent_client_expiration left out",
        )
    kept = "a week and more" if found.session_expiry_s >= WEEK_S else f"{found.session_expiry_s} s"
    return ok("broker: sessions", f"sessions of consumers are kept for {kept}")


def rights(settings: MqttSettings, found: Broker) -> Finding:
    login = f"the login {settings.username!r}" if settings.username else "our connection"
    denied = [topic for topic, code in found.subscribe.items() if refused(code)]
    if refused(found.publish):
        return broken(
            "broker: rights",
            f"{login} may not publish under {settings.base} (reason code {found.publish:#04x}): no event goes out",
            f"mosquitto: `topic readwrite {settings.base}/#` in the ACL file; docs/mqtt.md has the whole of it",
        )
    if found.publish is None and found.maximum_qos >= 1:
        return broken(
            "broker: rights",
            f"a message under {settings.base} was not acknowledged within the time",
            "look at the broker's log",
        )
    if denied:
        return broken(
            "broker: rights",
            f"{login} may not subscribe to {', '.join(denied)}: those requests never arrive",
            f"mosquitto: `topic readwrite {settings.base}/#` in the ACL file",
        )
    if not found.wildcards:
        return broken(
            "broker: rights", "wildcard subscriptions are not available: no request arrives", "use another broker"
        )
    return ok("broker: rights", f"{login} may publish and subscribe under {settings.base}")
