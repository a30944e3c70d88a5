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


def taken_apart(made: bytes) -> tuple[int, bytes]:
    """First octet, and what follows the remaining length, which must be right."""
    size, at, shift = 0, 1, 0
    while True:
        size |= (made[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not made[at - 1] & 0x80:
            break
    assert size == len(made) - at
    return made[0], made[at:]


@given(
    st.text(min_size=1, max_size=100),
    st.binary(max_size=300),
    st.booleans(),
    st.none() | st.integers(1, 65535),
    st.none() | st.binary(max_size=200),
    st.booleans(),
)
def test_a_packet_says_what_it_was_given(
    topic: str, payload: bytes, retain: bool, packet_id: int | None, correlation: bytes | None, mqtt5: bool
) -> None:
    made = packets.publish(topic, payload, retain=retain, mqtt5=mqtt5, packet_id=packet_id, correlation=correlation)
    first, body = taken_apart(made)
    assert first == 0x30 | retain | (2 if packet_id is not None else 0)
    length = int.from_bytes(body[:2], "big")
    assert body[2 : 2 + length] == topic.encode()
    rest = body[2 + length :]
    if packet_id is not None:
        assert int.from_bytes(rest[:2], "big") == packet_id
        rest = rest[2:]
    if mqtt5:
        if correlation is None:
            assert rest[0] == 0
            rest = rest[1:]
        else:
            properties, rest = skip_properties(rest)
            assert properties == b"\x09" + len(correlation).to_bytes(2, "big") + correlation
    assert rest == payload


def skip_properties(octets: bytes) -> tuple[bytes, bytes]:
    size = octets[0] & 0x7F
    at = 1
    if octets[0] & 0x80:
        size |= octets[1] << 7
        at = 2
    return octets[at : at + size], octets[at + size :]


@pytest.mark.parametrize(
    ("octets", "found"),
    [("", None), ("00", None), ("0007", (7, 0)), ("ffff87", (65535, 0x87)), ("00011000", (1, 0x10))],
)
def test_an_acknowledgement_is_read_whatever_its_length(octets: str, found: tuple[int, int] | None) -> None:
    assert packets.puback(bytes.fromhex(octets)) == found
