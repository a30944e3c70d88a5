"""Frames of the data link layer and the first octets of what they carry. Pure: octets in, facts out.

opendnp3 does the protocol; this reads along on both directions of the line, for what its Python binding does not tell
(the indications of a fragment before it is decoded, the answer to DELAY_MEASURE) and for `gate.py`. A frame:

    05 64  length  control  destination(2)  source(2)  CRC(2)  { up to 16 octets of user data  CRC(2) } ...
    user data: transport octet (FIN 80, FIR 40, sequence), then of the first segment: application control, function,
    in a response two octets of internal indications, objects

Source: IEEE 1815, data link layer, transport function, application layer headers.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

START = b"\x05\x64"
HEADER = 10
BLOCK = 16
OVERHEAD = 5
"""Octets that the length counts besides user data: control, destination, source."""
FROM_MASTER, PRIMARY, LINK_FUNCTION = 0x80, 0x40, 0x0F
USER_DATA = (3, 4)
"""Link functions confirmed and unconfirmed user data."""
FIRST = 0x40
"""FIR of the transport octet: the application header follows."""
UNSOLICITED = 0x10
"""UNS of the application control octet."""


class Function(IntEnum):
    """Application function codes that the gateway has to do with."""

    CONFIRM = 0
    READ = 1
    WRITE = 2
    SELECT = 3
    OPERATE = 4
    DIRECT_OPERATE = 5
    ENABLE_UNSOLICITED = 20
    DISABLE_UNSOLICITED = 21
    DELAY_MEASURE = 23
    RECORD_CURRENT_TIME = 24
    RESPONSE = 129
    UNSOLICITED_RESPONSE = 130


class Iin(IntFlag):
    """Internal indications, first octet low."""

    BROADCAST = 0x0001
    CLASS_1 = 0x0002
    CLASS_2 = 0x0004
    CLASS_3 = 0x0008
    NEED_TIME = 0x0010
    LOCAL_CONTROL = 0x0020
    DEVICE_TROUBLE = 0x0040
    DEVICE_RESTART = 0x0080
    NO_FUNC_CODE_SUPPORT = 0x0100
    OBJECT_UNKNOWN = 0x0200
    PARAMETER_ERROR = 0x0400
    EVENT_BUFFER_OVERFLOW = 0x0800
    ALREADY_EXECUTING = 0x1000
    CONFIG_CORRUPT = 0x2000


EVENTS_WAITING = Iin.CLASS_1 | Iin.CLASS_2 | Iin.CLASS_3
REQUEST_ERROR = Iin.NO_FUNC_CODE_SUPPORT | Iin.OBJECT_UNKNOWN | Iin.PARAMETER_ERROR


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ 0xA6BC if value & 1 else value >> 1  # noqa: PLW2901  # the polynomial 0x3D65 reflected
        table.append(value)
    return tuple(table)


_CRC = _crc_table()


def crc(octets: bytes) -> bytes:
    """The CRC of a block, as it follows it."""
    remainder = 0
    for octet in octets:
        remainder = remainder >> 8 ^ _CRC[(remainder ^ octet) & 0xFF]
    return (remainder ^ 0xFFFF).to_bytes(2, "little")


class Frame(NamedTuple):
    """One frame. head: the first block of user data, empty where there is none or its CRC is wrong; octets: all."""

    control: int
    destination: int
    source: int
    head: bytes
    octets: bytes

    @property
    def from_master(self) -> bool:
        """DIR: sent by a master."""
        return bool(self.control & FROM_MASTER)

    @property
    def user_data(self) -> bool:
        """It carries a segment of a fragment."""
        return bool(self.control & PRIMARY) and self.control & LINK_FUNCTION in USER_DATA


class Splitter:
    """Frames out of a stream of octets. garbage: octets that belonged to no frame."""

    def __init__(self) -> None:
        self._rest = b""
        self.garbage = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete with these octets; at most one incomplete frame is kept."""
        if self._rest:
            data = self._rest + data
        frames: list[Frame] = []
        at, size = 0, len(data)
        while True:
            start = data.find(START, at)
            if start < 0:
                rest = size - 1 if data[at:].endswith(START[:1]) else size
                self.garbage += rest - at
                break
            self.garbage += start - at
            rest = at = start
            if size - start < HEADER:
                break
            header = data[start : start + HEADER]
            length = header[2]
            if length < OVERHEAD or crc(header[:8]) != header[8:]:
                at += len(START)
                self.garbage += len(START)
                continue
            end = start + frame_size(length)
            if end > size:
                break
            frames.append(_frame(data[start:end]))
            at = end
        self._rest = data[rest:]
        return frames


def frame_size(length: int) -> int:
    """Octets of a frame on the wire by its length octet."""
    user = length - OVERHEAD
    return HEADER + user + 2 * ((user + BLOCK - 1) // BLOCK)


def _frame(octets: bytes) -> Frame:
    user = min(octets[2] - OVERHEAD, BLOCK)
    head = octets[HEADER : HEADER + user]
    if head and head[0] & FIRST and crc(head) != octets[HEADER + user : HEADER + user + 2]:
        head = b""
    destination, source = int.from_bytes(octets[4:6], "little"), int.from_bytes(octets[6:8], "little")
    return Frame(octets[3], destination, source, head, octets)


class Apdu(NamedTuple):
    """The beginning of a fragment. iin: 0 for a request; objects: those in the first block, cut where it ends."""

    control: int
    function: int
    iin: int
    objects: bytes


def apdu(frame: Frame) -> Apdu | None:
    """The beginning of a fragment, None where the frame is not its first segment."""
    head = frame.head
    if len(head) < 3 or not head[0] & FIRST or not frame.user_data:
        return None
    if frame.from_master:
        return Apdu(head[1], head[2], 0, head[3:])
    if len(head) < 5:
        return None
    return Apdu(head[1], head[2], head[3] | head[4] << 8, head[5:])
