"""A peer of exact octets, written by hand: on TCP, as a serial server (RTU over TCP), and behind a pseudo terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import struct
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

CLOSE = "close"
Action = bytes | float | str
"""Octets to send, seconds to wait, or CLOSE."""


def crc16(octets: bytes) -> bytes:
    """By the definition, bit by bit: nothing of the gateway's."""
    value = 0xFFFF
    for octet in octets:
        value ^= octet
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return struct.pack("<H", value)


@dataclass
class Asked:
    """One request as it came in. good: the whole frame of the right answer; at: CLOCK_MONOTONIC seconds."""

    unit: int
    pdu: bytes
    tid: bytes
    connection: int
    number: int
    at: float
    rtu: bool
    good: bytes = b""

    @property
    def function(self) -> int:
        return self.pdu[0]

    def frame(self, pdu: bytes, *, unit: int | None = None, tid: bytes | None = None) -> bytes:
        """Another answer in a right frame."""
        head = bytes((self.unit if unit is None else unit,))
        if self.rtu:
            return head + pdu + crc16(head + pdu)
        return (self.tid if tid is None else tid) + struct.pack(">HH", 0, len(pdu) + 1) + head + pdu

    def exception(self, code: int) -> bytes:
        return self.frame(bytes((self.function | 0x80, code)))


Script = Callable[[Asked], list[Action]]


@dataclass
class Peer:
    """Registers hold their own address at first, coils and inputs are off.

    script: what to do with a request; by default the right answer is sent
    """

    rtu: bool = False
    script: Script = field(default=lambda asked: [asked.good])
    tls: ssl.SSLContext | None = None
    asked: list[Asked] = field(default_factory=list)
    registers: dict[int, int] = field(default_factory=dict)
    bits: dict[int, bool] = field(default_factory=dict)
    connections: int = 0
    port: int = 0
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def writes(self) -> list[str]:
        """The PDUs of the writes that came in, in hexadecimal."""
        return [asked.pdu.hex() for asked in self.asked if asked.function >= 5]

    @property
    def reads(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.function < 5]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                asked = await self._request(reader, connection)
                for action in self.script(asked):
                    if isinstance(action, float):
                        await asyncio.sleep(action)
                    elif isinstance(action, bytes):
                        writer.write(action)
                        await writer.drain()
                    else:
                        return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if self.tls:
                writer.transport.abort()
            else:
                writer.close()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _request(self, reader: asyncio.StreamReader, connection: int) -> Asked:
        if self.rtu:
            octets = await reader.readexactly(7)
            while (size := rtu_size(octets)) > len(octets):
                octets += await reader.readexactly(size - len(octets))
            return self.heard(octets[0], octets[1:-2], b"", connection)
        head = await reader.readexactly(7)
        tid, protocol, length, unit = struct.unpack(">2sHHB", head)
        assert protocol == 0
        return self.heard(unit, await reader.readexactly(length - 1), tid, connection)

    def heard(self, unit: int, pdu: bytes, tid: bytes, connection: int = 0) -> Asked:
        """Note a request and carry it out."""
        asked = Asked(unit, pdu, tid, connection, len(self.asked), time.monotonic(), self.rtu)
        asked.good = asked.frame(self._carry_out(pdu))
        self.asked.append(asked)
        return asked

    def _carry_out(self, pdu: bytes) -> bytes:
        function, first, second = struct.unpack_from(">BHH", pdu)
        if function in (1, 2):
            on = sum(1 << at for at in range(second) if self.bits.get(first + at))
            octets = on.to_bytes((second + 7) // 8, "little")
            return bytes((function, len(octets))) + octets
        if function in (3, 4):
            octets = b"".join(
                struct.pack(">H", self.registers.get(first + at, (first + at) & 0xFFFF)) for at in range(second)
            )
            return bytes((function, len(octets))) + octets
        if function == 5:
            self.bits[first] = second == 0xFF00
        elif function == 6:
            self.registers[first] = second
        elif function == 15:
            for at in range(second):
                self.bits[first + at] = bool(pdu[6 + at // 8] >> at % 8 & 1)
        else:
            for at in range(second):
                (self.registers[first + at],) = struct.unpack_from(">H", pdu, 6 + 2 * at)
        return pdu[:5]


def rtu_size(octets: bytes) -> int:
    """The size of a request's frame, as far as it can be told; reads and single writes have 8 octets."""
    return 9 + octets[6] if octets[1] in (15, 16) else 8


class Bus:
    """Units behind a pseudo terminal, as on an RS-485 line. `path` is what the gateway opens.

    echo: the adapter hears what it sends; answer: called with each request, gives what goes out
    """

    def __init__(self, peer: Peer, units: tuple[int, ...] = (1,), *, echo: bool = False) -> None:
        self.peer = peer
        self.units = units
        self.echo = echo
        self.busy_until = 0.0
        self.overlaps = 0
        """Requests that came while an answer was still due."""
        self._master, self._slave = os.openpty()
        tty.setraw(self._master)
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        self._buffer = b""
        self._answering: set[asyncio.Task[None]] = set()
        asyncio.get_running_loop().add_reader(self._master, self._read)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            octets = os.read(self._master, 4096)
            if self.echo:
                self.send(octets)
            self._buffer += octets
        while len(self._buffer) >= 7 and len(self._buffer) >= (size := rtu_size(self._buffer)):
            frame, self._buffer = self._buffer[:size], self._buffer[size:]
            assert crc16(frame[:-2]) == frame[-2:], frame.hex()
            if self._answering:
                self.overlaps += 1
            if frame[0] in self.units:
                asked = self.peer.heard(frame[0], frame[1:-2], b"")
                task = asyncio.create_task(self._answer(asked))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    async def _answer(self, asked: Asked) -> None:
        for action in self.peer.script(asked):
            if isinstance(action, float):
                await asyncio.sleep(action)
            elif isinstance(action, bytes):
                self.send(action)

    def send(self, octets: bytes) -> None:
        """Onto the line, asked for or not."""
        os.write(self._master, octets)

    def unplug(self) -> None:
        """The adapter is pulled out: the gateway's end reads as an error."""
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)
        self._master = -1

    def close(self) -> None:
        if self._master >= 0:
            self.unplug()
        os.close(self._slave)
        for task in self._answering:
            task.cancel()


@contextlib.contextmanager
def bus(peer: Peer, units: tuple[int, ...] = (1,), *, echo: bool = False) -> Iterator[Bus]:
    peer.rtu = True
    made = Bus(peer, units, echo=echo)
    try:
        yield made
    finally:
        made.close()
