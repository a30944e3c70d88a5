"""The one MQTT packet we make ourselves: PUBLISH with QoS 0, twenty times cheaper than through paho. Pure.

Source: MQTT 5.0 and 3.1.1, 3.3 (PUBLISH), 2.1.4 (remaining length).
"""

from __future__ import annotations

from functools import lru_cache

_PUBLISH, _RETAIN = 0x30, 0x01


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
def _topic(topic: str, *, mqtt5: bool) -> bytes:
    name = topic.encode()
    return len(name).to_bytes(2, "big") + name + (b"\0" if mqtt5 else b"")  # no properties


def publish(topic: str, payload: bytes, *, retain: bool, mqtt5: bool) -> bytes:
    """PUBLISH with QoS 0, without properties. The topic has been checked (`sound_topic`)."""
    head = _topic(topic, mqtt5=mqtt5)
    first = _PUBLISH | _RETAIN if retain else _PUBLISH
    return bytes((first,)) + remaining_length(len(head) + len(payload)) + head + payload
