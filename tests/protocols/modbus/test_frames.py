"""Frames and answers, octet by octet: what is an answer, and what never is one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Verdict
from gatewayd.points import quality as q
from gatewayd.protocols.modbus import outcome, pdu
from gatewayd.protocols.modbus.address import Table
from gatewayd.protocols.modbus.framing import BrokenStreamError, Mbap, Rtu, crc
from gatewayd.protocols.modbus.pdu import BadAnswer, ExceptionAnswer, Request, data_of

READ = pdu.read(Table.HR, 10, 2)
WRITE = pdu.write_coil(7, on=True)


@pytest.mark.parametrize(
    ("request_", "octets", "answer"),
    [
        (pdu.read(Table.CO, 19, 19), "0100130013", 2 + 3),
        (pdu.read(Table.DI, 196, 22), "0200c40016", 2 + 3),
        (pdu.read(Table.HR, 107, 3), "03006b0003", 2 + 6),
        (pdu.read(Table.IR, 8, 1), "0400080001", 2 + 2),
        (pdu.write_coil(172, on=True), "0500acff00", 5),
        (pdu.write_coil(172, on=False), "0500ac0000", 5),
        (pdu.write_register(1, b"\0\3"), "0600010003", 5),
        (pdu.write_coils(19, [c == "1" for c in "1011001110"]), "0f0013000a02cd01", 5),
        (pdu.write_registers(1, b"\0\x0a\1\2"), "100001000204000a0102", 5),
    ],
)
def test_requests_are_those_of_the_specification(request_: Request, octets: str, answer: int):
    """The examples of 1.1b3, chapter 6."""
    assert request_.pdu.hex() == octets
    assert request_.answer == answer


@pytest.mark.parametrize(
    ("request_", "answer", "data"),
    [
        (READ, "030400010002", "00010002"),
        (pdu.read(Table.CO, 0, 9), "0102ff01", "ff01"),
        (WRITE, "050007ff00", ""),
        (pdu.write_registers(1, b"\0\x0a\1\2"), "1000010002", ""),
        (pdu.write_coils(19, [True] * 10), "0f0013000a", ""),
    ],
)
def test_an_answer_gives_its_data(request_: Request, answer: str, data: str):
    assert data_of(request_, bytes.fromhex(answer)).hex() == data


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (READ, "040400010002"),  # another function
        (READ, "0302000100"),
        (READ, "03020001"),  # fewer registers
        (READ, "0306000100020003"),  # more registers
        (READ, "0304000100"),  # cut short
        (READ, "03040001000200"),  # something behind it
        (READ, "0300"),
        (READ, "03"),
        (READ, "8402"),  # exception of another function
        (READ, "83"),
        (READ, "830200"),
        (READ, "00"),
        (READ, "80"),
        (WRITE, "050007ff"),
        (WRITE, "0500070000"),  # the opposite
        (WRITE, "050008ff00"),  # another coil
        (WRITE, "050007ff0000"),
        (WRITE, "060007ff00"),
        (pdu.write_registers(1, b"\0\x0a\1\2"), "1000010001"),
        (pdu.write_registers(1, b"\0\x0a\1\2"), "1000020002"),
    ],
)
def test_what_is_not_exactly_the_answer_is_refused(request_: Request, answer: str):
    with pytest.raises(BadAnswer):
        data_of(request_, bytes.fromhex(answer))


@given(st.binary(min_size=1, max_size=300), st.sampled_from([READ, WRITE, pdu.write_registers(1, b"\0\1")]))
def test_any_octets_are_an_answer_an_exception_or_a_bad_answer(octets: bytes, request_: Request):
    try:
        data = data_of(request_, octets)
    except (BadAnswer, ExceptionAnswer):
        return
    assert octets[0] == request_.function
    assert len(data) == (0 if request_.writes else request_.answer - 2)


# ---- MBAP


def tcp(tid: int, unit: int, body: str, *, protocol: int = 0, length: int | None = None) -> bytes:
    octets = bytes.fromhex(body)
    size = len(octets) + 1 if length is None else length
    return tid.to_bytes(2, "big") + protocol.to_bytes(2, "big") + size.to_bytes(2, "big") + bytes((unit,)) + octets


GOOD = "030400010002"


def test_mbap_frames_and_their_answers():
    framing = Mbap(first_tid=41)
    assert framing.ask(17, READ) == bytes.fromhex("002a 0000 0006 11 03 000a 0002")
    framing.feed(tcp(42, 17, GOOD))
    assert framing.answer() == bytes.fromhex(GOOD)
    assert framing.ask(17, READ)[:2] == b"\0\x2b"


def test_the_transaction_identifier_is_never_0():
    framing = Mbap(first_tid=0xFFFE)
    tids = [framing.ask(1, READ)[:2] for _ in range(3)]
    assert tids == [b"\xff\xff", b"\0\1", b"\0\2"]


@given(st.binary(min_size=1, max_size=60).map(lambda cuts: [1 + cut % 7 for cut in cuts]))
def test_an_answer_in_pieces(cuts: list[int]):
    framing = Mbap(first_tid=1)
    framing.ask(1, READ)
    frame = tcp(2, 1, GOOD)
    at = 0
    for cut in [*cuts, len(frame)]:
        assert framing.answer() is None
        framing.feed(frame[at : at + cut])
        at += cut
        if at >= len(frame):
            break
    assert framing.answer() == bytes.fromhex(GOOD)


def test_a_late_answer_is_dropped_by_its_identifier():
    framing = Mbap(first_tid=1)
    framing.ask(1, READ)
    framing.forget()
    framing.feed(tcp(2, 1, "030499999999"))
    assert framing.answer() is None
    framing.ask(1, READ)
    framing.feed(tcp(2, 1, "030499999999") + tcp(0, 1, "030499999999") + tcp(3, 1, GOOD))
    assert framing.answer() == bytes.fromhex(GOOD)
    assert framing.unasked == 3


def test_another_unit_does_not_answer_for_ours():
    framing = Mbap(first_tid=1)
    framing.ask(1, READ)
    framing.feed(tcp(2, 5, GOOD))
    with pytest.raises(BadAnswer, match="unit 5 answered for unit 1"):
        framing.answer()


@pytest.mark.parametrize(
    "octets",
    [
        tcp(2, 1, GOOD, protocol=1), tcp(2, 1, GOOD, length=0), tcp(2, 1, GOOD, length=1), tcp(2, 1, GOOD, length=255),
        tcp(2, 1, GOOD, length=65535), b"HTTP/1.1 400 Bad Request\r\n", b"\x15\x03\x01\0\2\2F",
    ],
)  # fmt: skip
def test_what_is_no_modbus_ends_the_stream(octets: bytes):
    framing = Mbap(first_tid=1)
    framing.ask(1, READ)
    framing.feed(octets)
    with pytest.raises(BrokenStreamError):
        framing.answer()


# ---- RTU


def rtu(unit: int, body: str) -> bytes:
    octets = bytes((unit,)) + bytes.fromhex(body)
    return octets + crc(octets)


def asked(*, echo: bool = False) -> Rtu:
    framing = Rtu(echo=echo)
    framing.ask(17, READ)
    return framing


def test_the_crc_is_that_of_the_specification():
    assert Rtu().ask(17, pdu.read(Table.HR, 107, 3)).hex() == "1103006b00037687"
    assert crc(b"123456789").hex() == "374b"


@pytest.mark.parametrize("noise", [b"", b"\0", b"\xff\xff\xff", b"\x11", b"\x11\x03", bytes(3)])
def test_an_answer_behind_noise(noise: bytes):
    framing = asked()
    framing.feed(noise + rtu(17, GOOD))
    assert framing.answer() == bytes.fromhex(GOOD)
    assert framing.noise == len(noise)


@pytest.mark.parametrize("noise", [b"", b"\xff\xff"])
def test_an_exception_in_single_octets(noise: bytes):
    framing = asked()
    for octet in noise + rtu(17, "8302"):
        assert framing.answer() is None
        framing.feed(bytes((octet,)))
    assert framing.answer() == b"\x83\x02"


def test_a_wrong_crc_is_a_bad_answer():
    framing = asked()
    framing.feed(rtu(17, GOOD)[:-1] + b"\0")
    with pytest.raises(BadAnswer, match="CRC"):
        framing.answer()
    assert framing.discard() == set()


def test_the_late_answer_of_another_unit_is_passed_over_and_told():
    framing = asked()
    framing.feed(rtu(5, "030499999999") + rtu(17, GOOD))
    assert framing.answer() == bytes.fromhex(GOOD)
    assert framing.discard() == {5}


def test_a_frame_of_our_unit_that_is_another_answer_is_given_to_be_judged():
    framing = asked()
    framing.feed(rtu(17, "0302ffff"))
    assert framing.answer() == bytes.fromhex("0302ffff")  # which data_of refuses


def test_garbage_is_a_bad_answer_once_there_is_too_much_of_it():
    framing = asked()
    framing.feed(b"\xaa" * 12)
    assert framing.answer() is None
    framing.feed(b"\xaa")
    with pytest.raises(BadAnswer, match="13 octets"):
        framing.answer()


@pytest.mark.parametrize("count", [1, 2, 50, 125])
def test_an_echo_nobody_told_of_is_no_noise(count: int):
    """Reads fail, so that the device is never up and no write can be confirmed by its own echo."""
    framing = Rtu()
    frame = framing.ask(17, pdu.read(Table.HR, 10, count))
    framing.feed(frame + rtu(17, f"03{2 * count:02x}" + "abcd" * count))
    with pytest.raises(BadAnswer):
        framing.answer()


def test_what_comes_unasked_is_dropped_and_its_unit_told():
    framing = Rtu()
    framing.feed(b"\xff\xff" + rtu(17, GOOD)[:4])
    framing.feed(rtu(17, GOOD)[4:] + b"\0" + rtu(3, "8302"))
    assert framing.discard() == {17, 3}
    assert framing.discard() == set()
    for _ in range(100):
        framing.feed(bytes(range(256)))
    assert len(framing._buffer) <= 600


def test_the_adapters_own_echo_is_not_the_echo_of_a_write():
    framing = Rtu(echo=True)
    frame = framing.ask(17, WRITE)
    framing.feed(frame)
    assert framing.answer() is None  # the request heard back, octet for octet what the device would answer
    framing.feed(frame)
    assert framing.answer() == WRITE.pdu


def test_a_missing_or_changed_echo_is_told():
    framing = asked(echo=True)
    framing.feed(rtu(17, GOOD))
    with pytest.raises(BadAnswer, match="not heard back"):
        framing.answer()


@given(st.binary(max_size=120), st.booleans())
def test_any_octets_give_an_answer_nothing_or_a_bad_answer(octets: bytes, echo: bool):
    framing = asked(echo=echo)
    framing.feed(octets)
    try:
        answer = framing.answer()
    except BadAnswer:
        return
    if answer is not None:
        body = bytes((17,)) + answer
        assert body + crc(body) in octets


@given(st.binary(min_size=1, max_size=8), st.integers(0, 7))
def test_a_flipped_bit_is_never_an_answer(flips: bytes, bit: int):
    frame = bytearray(rtu(17, GOOD))
    frame[flips[0] % len(frame)] ^= 1 << bit
    framing = asked()
    framing.feed(bytes(frame))
    try:
        answer = framing.answer()
    except BadAnswer:
        return
    assert answer is None


# ---- what results mean


@pytest.mark.parametrize(
    ("code", "quality"),
    [
        (1, q.INVALID | q.CONFIG_ERROR), (2, q.INVALID | q.CONFIG_ERROR), (3, q.INVALID | q.CONFIG_ERROR),
        (4, q.INVALID | q.FAILURE), (8, q.INVALID | q.FAILURE), (7, q.INVALID | q.FAILURE),
        (0x0A, q.QUESTIONABLE | q.COMM_LOST), (0x0B, q.QUESTIONABLE | q.COMM_LOST), (0x55, q.INVALID | q.FAILURE),
    ],
)  # fmt: skip
def test_what_an_exception_of_a_read_means(code: int, quality: int):
    assert outcome.read_quality(code) == quality | q.SAMPLED | q.RECEIPT


@pytest.mark.parametrize(
    ("code", "verdict", "reason"),
    [
        (1, Verdict.REFUSED, Reason.UNSUPPORTED), (2, Verdict.REFUSED, Reason.UNKNOWN_POINT),
        (3, Verdict.REFUSED, Reason.OUT_OF_RANGE), (4, Verdict.UNKNOWN, Reason.UNKNOWN), (5, Verdict.DONE, Reason.OK),
        (6, Verdict.REFUSED, Reason.DEVICE_BUSY), (7, Verdict.UNKNOWN, Reason.UNKNOWN),
        (8, Verdict.UNKNOWN, Reason.UNKNOWN), (0x0A, Verdict.REFUSED, Reason.DEVICE_OFFLINE),
        (0x0B, Verdict.UNKNOWN, Reason.UNKNOWN), (0, Verdict.UNKNOWN, Reason.UNKNOWN),
        (0xFF, Verdict.UNKNOWN, Reason.UNKNOWN),
    ],
)  # fmt: skip
def test_what_an_exception_of_a_write_means(code: int, verdict: Verdict, reason: Reason):
    reply = outcome.written(ExceptionAnswer(code))
    assert (reply.verdict, reply.reason) == (verdict, reason)
    assert reply.native is not None
    assert (reply.native.proto, reply.native.code) == ("modbus", code)
    assert re.fullmatch("[a-z-]+", reply.native.name)


@pytest.mark.parametrize("code", range(256))
def test_before_the_operating_write_every_exception_is_a_refusal(code: int):
    reply = outcome.before_write(ExceptionAnswer(code))
    assert reply.verdict is Verdict.REFUSED
    assert reply.reason not in (Reason.OK, Reason.UNKNOWN)


@pytest.mark.parametrize("error", [pdu.NoAnswer("x"), BadAnswer("x"), pdu.ConnectionLost("x")])
def test_no_clear_answer_to_a_write_is_unknown(error: pdu.ModbusError):
    assert outcome.written(error)[:2] == (Verdict.UNKNOWN, Reason.UNKNOWN)
    assert outcome.before_write(error)[:2] == (Verdict.REFUSED, Reason.DEVICE_NO_ANSWER)


def test_what_was_not_sent_is_refused():
    assert outcome.written(pdu.ExpiredError("x"))[:2] == (Verdict.REFUSED, Reason.EXPIRED)
    assert outcome.written(pdu.NotSentError("x"))[:2] == (Verdict.REFUSED, Reason.DEVICE_OFFLINE)
