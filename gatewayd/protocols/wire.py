"""What core and worker say to each other over the socketpair: length-prefixed msgpack frames.

A frame is a 4-byte big-endian length and one tagged array. Pure: bytes in, messages out. Limits: MAX_FRAME.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from gatewayd.control.types import Control, Reply, Step
from gatewayd.points.types import Batch, Cursor, Link
from gatewayd.protocols.device import Device

MAX_FRAME = 64 * 1024 * 1024
"""Octets of one frame at most; a longer one means the stream is broken, and the worker is ended."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Base of all messages."""


# core -> worker
class Start(Message, frozen=True):
    """Run this device; cursors as last committed."""

    device: Device
    cursors: list[Cursor]


class Stop(Message, frozen=True):
    """Stop this device and answer with Stopped."""

    name: str


class Ask(Message, frozen=True):
    """select, operate, cancel or interrogate; answered with Answered of the same number."""

    number: int
    verb: str
    device: str
    control: Control | None = None


class Committed(Message, frozen=True):
    """The events batch of this number is on disk."""

    number: int


class Ping(Message, frozen=True):
    """Are you there?"""

    number: int


# worker -> core
class State(Message, frozen=True):
    """Sink.state"""

    batch: Batch


class Events(Message, frozen=True):
    """Sink.events; answered with Committed."""

    number: int
    batch: Batch
    cursor: Cursor | None = None


class LinkIs(Message, frozen=True):
    """Sink.device"""

    name: str
    link: Link
    why: str = ""


class GapAt(Message, frozen=True):
    """Sink.gap"""

    device: str
    cause: str


class Progressed(Message, frozen=True):
    """Sink.progress"""

    command_id: str
    step: Step


class Answered(Message, frozen=True):
    """The reply to an Ask."""

    number: int
    reply: Reply


class Stopped(Message, frozen=True):
    """The device's driver has ended; nothing of it comes after this."""

    name: str


class Pong(Message, frozen=True):
    """Here I am; counters by device."""

    number: int
    counters: dict[str, dict[str, int]]


ToWorker = Start | Stop | Ask | Committed | Ping
ToCore = State | Events | LinkIs | GapAt | Progressed | Answered | Stopped | Pong

_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_to_core = msgspec.msgpack.Decoder(ToCore)


class BrokenStreamError(Exception):
    """The other side sent something that is no message."""


def pack(message: Message) -> bytes:
    """One frame."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


class _Frames:
    """Cuts a byte stream into frame bodies."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The complete frames in what has come so far. Raises BrokenStreamError for a frame over MAX_FRAME."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 4:
            size = int.from_bytes(buffer[at : at + 4], "big")
            if size > MAX_FRAME:
                raise BrokenStreamError(f"frame of {size} octets; at most {MAX_FRAME} are allowed")
            if len(buffer) - at - 4 < size:
                break
            yield bytes(buffer[at + 4 : at + 4 + size])
            at += 4 + size
        if at:
            del buffer[:at]


class WorkerInbox(_Frames):
    """Reads what the core sends."""

    def messages(self, data: bytes) -> Iterator[ToWorker]:
        """Decoded messages. Raises BrokenStreamError."""
        for body in self.feed(data):
            try:
                yield _to_worker.decode(body)
            except msgspec.DecodeError as error:
                raise BrokenStreamError(str(error)) from error


class CoreInbox(_Frames):
    """Reads what a worker sends."""

    def messages(self, data: bytes) -> Iterator[ToCore]:
        """Decoded messages. Raises BrokenStreamError."""
        for body in self.feed(data):
            try:
                yield _to_core.decode(body)
            except msgspec.DecodeError as error:
                raise BrokenStreamError(str(error)) from error
