"""Frames against py1815's own link layer, and what passes the gate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from py1815 import crc as reference_crc
from py1815 import link

from gatewayd.protocols.dnp3.frames import Apdu, Frame, Function, Splitter, apdu, crc, frame_size
from gatewayd.protocols.dnp3.gate import Gate, Stop

ADDRESSES = st.integers(0, 65519)
PAYLOADS = st.binary(max_size=250)


def built(payload: bytes, *, source: int = 1, destination: int = 10, control: int = 0xC4) -> bytes:
    return link.build(control, destination, source, payload)


@given(st.binary(max_size=40))
def test_the_crc(data: bytes) -> None:
    assert data + crc(data) == reference_crc.encode(data)


@given(st.lists(st.tuples(PAYLOADS, ADDRESSES, ADDRESSES, st.integers(0, 255)), max_size=6), st.data())
def test_frames_come_out_however_the_stream_is_cut(
    parts: list[tuple[bytes, int, int, int]], data: st.DataObject
) -> None:
    frames = [built(payload, source=a, destination=b, control=c) for payload, a, b, c in parts]
    stream = b"".join(frames)
    splitter, found = Splitter(), []
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        found += splitter.feed(stream[at : at + size])
        at += size
    assert [frame.octets for frame in found] == frames
    assert [(frame.source, frame.destination, frame.control) for frame in found] == [(a, b, c) for _, a, b, c in parts]
    assert [frame.head for frame in found] == [payload[:16] for payload, *_ in parts]
    assert splitter.garbage == 0


@given(st.lists(st.one_of(st.binary(max_size=30), PAYLOADS.map(built)), max_size=8))
def test_garbage_between_frames_costs_nothing_else(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    ours, theirs = Splitter(), link.FrameReader()
    found = [(frame.destination, frame.source, frame.octets) for frame in ours.feed(stream)]
    for frame in theirs.feed(stream):  # py1815 leaves out frames with a wrong block, we only read the first
        assert (frame.destination, frame.source) in {(to, source) for to, source, _ in found}
    assert ours.garbage + sum(len(octets) for *_, octets in found) <= len(stream)


@given(st.binary(max_size=600))
def test_anything_is_taken(data: bytes) -> None:
    splitter = Splitter()
    frames = [frame for at in range(0, len(data), 7) for frame in splitter.feed(data[at : at + 7])]
    for frame in frames:
        apdu(frame)
    assert len(splitter._rest) <= 292


def test_a_first_block_with_a_wrong_crc_is_not_read() -> None:
    octets = bytearray(built(bytes((0xC0, 0xC1, Function.READ)) + bytes(20)))
    octets[12] ^= 0x01
    (frame,) = Splitter().feed(bytes(octets))
    assert frame.head == b""
    assert apdu(frame) is None


def test_sizes_are_those_of_the_standard() -> None:
    assert [frame_size(5), frame_size(6), frame_size(21), frame_size(22), frame_size(255)] == [10, 13, 28, 31, 292]


def request(function: int, objects: bytes = b"", *, first: bool = True) -> Frame:
    transport = 0x80 | (0x40 if first else 0)
    (frame,) = Splitter().feed(built(bytes((transport, 0xC0, function)) + objects))
    return frame


def response(iin: int, objects: bytes = b"", function: int = Function.RESPONSE) -> Frame:
    payload = bytes((0xC0, 0xE3, function)) + iin.to_bytes(2, "little") + objects
    (frame,) = Splitter().feed(built(payload, control=0x44))
    return frame


def test_what_a_fragment_begins_with() -> None:
    assert apdu(request(Function.READ, bytes((60, 2, 6)))) == Apdu(0xC0, Function.READ, 0, bytes((60, 2, 6)))
    assert apdu(response(0x0890, b"abc")) == Apdu(0xE3, Function.RESPONSE, 0x0890, b"abc")
    assert apdu(request(Function.READ, first=False)) is None


# ---- the gate

CROB = bytes((12, 1, 0x28, 1, 0, 2, 0, 0x41, 1))
SBO = (Function.SELECT, Function.OPERATE)


def test_reading_and_housekeeping_pass() -> None:
    gate = Gate(unsolicited=True)
    passing = [
        request(Function.CONFIRM),
        request(Function.READ, bytes((60, 2, 6))),
        request(Function.WRITE, bytes((80, 1, 0, 7, 7, 0))),
        request(Function.WRITE, bytes((50, 1, 7, 1)) + bytes(6)),
        request(Function.WRITE, bytes((50, 3, 7, 1)) + bytes(6)),
        request(Function.ENABLE_UNSOLICITED),
        request(Function.DISABLE_UNSOLICITED),
        request(Function.DELAY_MEASURE),
        request(Function.RECORD_CURRENT_TIME),
    ]
    assert all(gate.passes(frame, 0) for frame in passing)
    assert not any(gate.stopped.values())


@pytest.mark.parametrize("function", [n for n in range(131) if n not in (0, 1, 2, 3, 4, 5, 20, 21, 23, 24)])
def test_nothing_else_passes(function: int) -> None:
    gate = Gate(unsolicited=True)
    assert not gate.passes(request(function), 0)
    assert gate.stopped[Stop.NOT_ALLOWED] == 1


@pytest.mark.parametrize(
    "objects", [b"", bytes((80, 1, 0, 4, 4, 0)), bytes((80, 1, 0, 7, 7, 1)), bytes((41, 1, 0, 0, 0))]
)
def test_other_writes_do_not_pass(objects: bytes) -> None:
    gate = Gate(unsolicited=True)
    assert not gate.passes(request(Function.WRITE, objects), 0)


def test_unsolicited_off_is_off() -> None:
    gate = Gate(unsolicited=False)
    assert not gate.passes(request(Function.ENABLE_UNSOLICITED), 0)
    assert gate.passes(request(Function.DISABLE_UNSOLICITED), 0)


@pytest.mark.parametrize("function", [Function.SELECT, Function.OPERATE, Function.DIRECT_OPERATE])
def test_no_control_passes_unarmed(function: int) -> None:
    gate = Gate(unsolicited=True)
    assert not gate.passes(request(function, CROB), 0)
    assert gate.stopped[Stop.NOT_ARMED] == 1


def test_a_command_passes_once_and_in_order() -> None:
    gate = Gate(unsolicited=True)
    armed = gate.arm(SBO, 100)
    assert not gate.passes(request(Function.OPERATE, CROB), 1)
    assert not gate.passes(request(Function.DIRECT_OPERATE, CROB), 1)
    assert gate.passes(request(Function.SELECT, CROB), 1)
    assert not armed.acted
    assert not gate.passes(request(Function.SELECT, CROB), 2)
    assert gate.passes(request(Function.OPERATE, CROB), 100)
    assert armed.acted
    assert not gate.passes(request(Function.OPERATE, CROB), 3)
    assert armed.sent == list(SBO)


def test_a_command_does_not_pass_late() -> None:
    gate = Gate(unsolicited=True)
    armed = gate.arm(SBO, 100)
    assert gate.passes(request(Function.SELECT, CROB), 100)
    assert not gate.passes(request(Function.OPERATE, CROB), 101)
    assert armed.expired
    assert not armed.acted
    assert not gate.passes(request(Function.OPERATE, CROB), 50)  # not even when the clock says otherwise now


def test_nothing_of_a_command_passes_after_its_answer() -> None:
    gate = Gate(unsolicited=True)
    gate.arm((Function.DIRECT_OPERATE,), 100)
    gate.disarm()
    assert not gate.passes(request(Function.DIRECT_OPERATE, CROB), 1)


def test_nothing_at_all_passes_a_closed_gate() -> None:
    gate = Gate(unsolicited=True)
    gate.arm(SBO, 100)
    gate.close()
    link_status = Splitter().feed(built(b"", control=0xC9))[0]
    for frame in (request(Function.CONFIRM), request(Function.READ), request(Function.SELECT, CROB), link_status):
        assert not gate.passes(frame, 1)
    assert gate.stopped[Stop.CLOSED] == 4


def test_later_segments_share_the_fate_of_the_first() -> None:
    gate = Gate(unsolicited=True)
    assert gate.passes(request(Function.READ, bytes(200)), 0)
    assert gate.passes(request(0, first=False), 0)
    assert not gate.passes(request(Function.OPERATE, CROB), 0)
    assert not gate.passes(request(0, first=False), 0)


def test_what_cannot_be_read_does_not_pass() -> None:
    gate = Gate(unsolicited=True)
    assert gate.passes(request(Function.READ), 0)
    assert not gate.passes(Frame(0xC4, 10, 1, b"", b""), 0)
    assert not gate.passes(Frame(0xC4, 10, 1, b"\xc0", b""), 0)
    assert gate.passes(Frame(0xC9, 10, 1, b"", b""), 0)  # a link status request carries nothing
