from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.mqtt import packets


@pytest.mark.parametrize(
    ("size", "octets"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (16383, "ff7f"),
        (16384, "808001"),
        (2097151, "ffff7f"),
        (2097152, "80808001"),
    ],
)
def test_the_lengths_of_the_standard(size: int, octets: str) -> None:
    """MQTT 5.0, table 1-1."""
    assert packets.remaining_length(size).hex() == octets


@given(st.text(min_size=1, max_size=100), st.binary(max_size=300), st.booleans(), st.booleans())
def test_a_packet_says_what_it_was_given(topic: str, payload: bytes, retain: bool, mqtt5: bool) -> None:
    made = packets.publish(topic, payload, retain=retain, mqtt5=mqtt5)
    assert made[0] == (0x31 if retain else 0x30)
    size, at, shift = 0, 1, 0
    while True:
        size |= (made[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not made[at - 1] & 0x80:
            break
    assert size == len(made) - at
    length = int.from_bytes(made[at : at + 2], "big")
    assert made[at + 2 : at + 2 + length] == topic.encode()
    rest = made[at + 2 + length :]
    assert rest == (b"\0" + payload if mqtt5 else payload)
