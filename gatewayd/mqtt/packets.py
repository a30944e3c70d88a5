"""The two MQTT packets we handle ourselves, PUBLISH and PUBACK: twenty times cheaper than through paho. Pure.

Source: MQTT 5.0 and 3.1.1, 3.3 (PUBLISH), 3.4 (PUBACK), 2.1.4 and 1.5.5 (lengths).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

_PUBLISH, _RETAIN, _QOS_1 = 0x30, 0x01, 0x02
_CORRELATION_DATA, _USER_PROPERTY = 0x09, 0x26


class Puback(NamedTuple):
    """An acknowledgement: of which packet, and its reason code (0 where MQTT 3.1.1 has none)."""

    packet_id: int
    reason: int


def remaining_length(size: int) -> bytes:
    """A length as a variable byte integer."""
    if size < 0x80:
        return bytes((size,))
    out = bytearray()
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


@lru_cache(65536)
def _topic(topic: str) -> bytes:
    return _binary(topic.encode())


def publish(
    topic: str,
    payload: bytes,
    *,
    retain: bool,
    mqtt5: bool,
    packet_id: int | None = None,
    correlation: bytes | None = None,
    user: Sequence[tuple[str, str]] = (),
) -> bytes:
    """PUBLISH, with QoS 1 where there is a packet_id. The topic has been checked (`sound_topic`).

    correlation: Correlation Data; user: User Properties; both MQTT 5 only (left out else)
    """
    first = _PUBLISH | _RETAIN if retain else _PUBLISH
    head = _topic(topic)
    if packet_id is not None:
        first |= _QOS_1
        head += packet_id.to_bytes(2, "big")
    if mqtt5:
        head += b"\0" if correlation is None and not user else _properties(correlation, user)
    return bytes((first,)) + remaining_length(len(head) + len(payload)) + head + payload


def _properties(correlation: bytes | None, user: Sequence[tuple[str, str]]) -> bytes:
    body = b"" if correlation is None else bytes((_CORRELATION_DATA,)) + _binary(correlation)
    for name, value in user:
        body += bytes((_USER_PROPERTY,)) + _binary(name.encode()) + _binary(value.encode())
    return remaining_length(len(body)) + body


def _binary(octets: bytes) -> bytes:
    return len(octets).to_bytes(2, "big") + octets


def puback(body: bytes | bytearray) -> Puback | None:
    """What follows the fixed header of a PUBACK; None where it is too short to be one."""
    if len(body) < 2:
        return None
    return Puback(int.from_bytes(body[:2], "big"), body[2] if len(body) > 2 else 0)
