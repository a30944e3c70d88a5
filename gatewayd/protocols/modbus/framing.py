"""Frames of Modbus: MBAP on TCP and TLS, RTU on serial lines and through serial servers. Pure: octets in, PDUs out.

One request is outstanding at a time. `ask` gives the frame to send, `feed` takes what came, `answer` gives the PDU
once it is complete. What came without being asked for is dropped and counted, never taken for a later answer.
Source: Modbus messaging on TCP/IP 1.0b, Modbus over serial line 1.02.
"""

from __future__ import annotations

from typing import Protocol

from gatewayd.protocols.modbus.pdu import EXCEPTION, BadAnswer, Request

LONGEST_PDU = 253
MBAP_HEADER = 7
MOST_NOISE = 3
"""Octets before an RTU answer that are passed over: a driver switched on gives a few.

Fewer than a frame has, so that an adapter's own echo is never passed over: it would confirm writes by itself.
"""

MOST_LEFT_OVER = 600
"""Octets kept of what comes unasked on RTU, to see whether there is an answer in it."""


class BrokenStreamError(Exception):
    """The octets are no Modbus frames any more; the connection cannot be used."""


class Framing(Protocol):
    """Cuts a stream into answers.

    unasked: octets or frames that came without being asked for, or too late
    noise:   octets passed over before an answer
    """

    unasked: int
    noise: int

    def ask(self, unit: int, request: Request) -> bytes:
        """The frame of a request, whose answer is expected now."""

    def forget(self) -> None:
        """The answer is not waited for any more."""

    def feed(self, data: bytes) -> None:
        """Octets have come."""

    def answer(self) -> bytes | None:
        """The PDU of the answer, None while it is not complete. Raises BadAnswer, BrokenStreamError."""

    def discard(self) -> set[int]:
        """Drop what is there and belongs to no answer. Raises BrokenStreamError.

        Gives the units of whose frames nothing says which request they answered: the last answer accepted from one
        of them may have been a late one.
        """


class Mbap:
    """Header: transaction identifier, protocol identifier 0, length, unit identifier."""

    def __init__(self, first_tid: int = 0) -> None:
        self.unasked = 0
        self.noise = 0
        self._tid = first_tid & 0xFFFF
        self._unit = 0
        self._waiting = False
        self._buffer = bytearray()

    def ask(self, unit: int, request: Request) -> bytes:
        self._tid = self._tid % 0xFFFF + 1  # never 0, which some devices put into every answer
        self._unit = unit
        self._waiting = True
        length = len(request.pdu) + 1
        return self._tid.to_bytes(2, "big") + b"\0\0" + length.to_bytes(2, "big") + bytes((unit,)) + request.pdu

    def forget(self) -> None:
        self._waiting = False

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def answer(self) -> bytes | None:
        while (frame := self._frame()) is not None:
            if not self._waiting or int.from_bytes(frame[:2], "big") != self._tid:
                self.unasked += 1
                continue
            self._waiting = False
            if frame[6] != self._unit:
                raise BadAnswer(f"unit {frame[6]} answered for unit {self._unit}")
            return frame[MBAP_HEADER:]
        return None

    def discard(self) -> set[int]:
        while self._frame() is not None:
            self.unasked += 1
        return set()  # the transaction identifier tells them apart

    def _frame(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < MBAP_HEADER:
            return None
        protocol, length = int.from_bytes(buffer[2:4], "big"), int.from_bytes(buffer[4:6], "big")
        if protocol != 0 or not 2 <= length <= LONGEST_PDU + 1:
            raise BrokenStreamError(f"no Modbus/TCP: protocol identifier {protocol}, length {length}")
        if len(buffer) < 6 + length:
            return None
        frame = bytes(buffer[: 6 + length])
        del buffer[: 6 + length]
        return frame


class Rtu:
    """Unit, PDU, CRC. Nothing says where a frame ends but its function and length, nothing which request it answers."""

    def __init__(self, *, echo: bool = False) -> None:
        """echo: the adapter hears what it sends itself."""
        self.unasked = 0
        self.noise = 0
        self._echo = echo
        self._own = b""
        self._unit = 0
        self._request: Request | None = None
        self._strangers: set[int] = set()
        self._buffer = bytearray()

    def ask(self, unit: int, request: Request) -> bytes:
        self._unit, self._request = unit, request
        body = bytes((unit,)) + request.pdu
        frame = body + crc(body)
        self._own = frame if self._echo else b""
        return frame

    def forget(self) -> None:
        self._request = None
        self._own = b""

    def feed(self, data: bytes) -> None:
        self._buffer += data
        if self._request is None and len(self._buffer) > MOST_LEFT_OVER:
            self._drop(len(self._buffer) - MOST_LEFT_OVER)

    def answer(self) -> bytes | None:
        if self._request is None or not self._own_passed():
            return None
        buffer = self._buffer
        while (size := _size(buffer, 0)) and len(buffer) >= size and _intact(buffer, 0, size):
            if buffer[0] == self._unit:
                return self._taken(0, size)
            self._strangers.add(buffer[0])  # the late answer of another unit
            self._drop(size)
        if size and len(buffer) >= size and self._starts_answer(0) == size:
            self._drop(len(buffer))
            raise BadAnswer("the CRC of the answer is wrong")
        return self._behind_noise()

    def discard(self) -> set[int]:
        units, at, buffer = self._strangers, 0, self._buffer
        self._strangers = set()
        while at < len(buffer):
            size = _size(buffer, at)
            if size and at + size <= len(buffer) and _intact(buffer, at, size):
                units.add(buffer[at])
                at += size
            else:
                at += 1
        self._drop(len(buffer))
        return units

    def _own_passed(self) -> bool:
        """True once the adapter's echo of the request is out of the way."""
        own, buffer = self._own, self._buffer
        if not own:
            return True
        if buffer[: len(own)] != own[: len(buffer)]:
            raise BadAnswer("the request was not heard back, or changed (echo = true)")
        if len(buffer) < len(own):
            return False
        del buffer[: len(own)]
        self._own = b""
        return True

    def _starts_answer(self, at: int) -> int:
        """The size of the frame that begins there, if it is shaped as the answer that is due; else 0."""
        buffer, request = self._buffer, self._request
        assert request is not None
        if len(buffer) < at + 3 or buffer[at] != self._unit:
            return 0
        if buffer[at + 1] == request.function | EXCEPTION:
            return 5
        due = request.answer + 3
        return due if buffer[at + 1] == request.function and _size(buffer, at) == due else 0

    def _behind_noise(self) -> bytes | None:
        buffer, request = self._buffer, self._request
        assert request is not None
        for at in range(1, min(MOST_NOISE + 1, len(buffer))):
            size = self._starts_answer(at)
            if size and len(buffer) >= at + size and _intact(buffer, at, size):
                return self._taken(at, size)
        if len(buffer) > request.answer + 3 + MOST_NOISE:
            came = len(buffer)
            self._drop(came)
            raise BadAnswer(f"{came} octets came that are no answer")
        return None

    def _taken(self, at: int, size: int) -> bytes:
        pdu = bytes(self._buffer[at + 1 : at + size - 2])
        del self._buffer[: at + size]
        self.noise += at
        self._request = None
        return pdu

    def _drop(self, octets: int) -> None:
        self.unasked += octets
        del self._buffer[:octets]


def _size(buffer: bytearray, at: int) -> int:
    """The size of the frame that begins there by its function, 0 where it cannot be told (yet)."""
    if len(buffer) < at + 3:
        return 0
    function = buffer[at + 1]
    if function & EXCEPTION:
        return 5
    if function <= 4:
        return 5 + buffer[at + 2] if function else 0
    return 8 if function in (5, 6, 15, 16) else 0


def _intact(buffer: bytearray, at: int, size: int) -> bool:
    return crc(buffer[at : at + size - 2]) == buffer[at + size - 2 : at + size]


def _table() -> tuple[int, ...]:
    entries = []
    for octet in range(256):
        value = octet
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_CRC = _table()


def crc(octets: bytes | bytearray) -> bytes:
    """CRC-16/MODBUS as it goes on the wire, the less significant octet first."""
    value = 0xFFFF
    for octet in octets:
        value = value >> 8 ^ _CRC[(value ^ octet) & 0xFF]
    return value.to_bytes(2, "little")
