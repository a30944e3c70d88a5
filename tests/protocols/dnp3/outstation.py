"""An outstation that says exactly the octets a test wants said, on py1815's link and transport layers.

async with Outstation() as rtu:
    rtu.static = binary(1, 2, {0: 0x81, 1: 0x01})        # class 0
    rtu.events = [Event(1, objects(2, 2, ...))]           # one fragment's objects each, kept until confirmed
    rtu.answers[Function.SELECT] = lambda request: None   # never answers
    ...
    assert [request.function for request in rtu.requests] == [...]
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from py1815 import link
from py1815.application import FunctionCode as Function
from py1815.transport import Reassembler, segment

RESPONSE, UNSOLICITED = 0x81, 0x82
FIR, FIN, CON, UNS = 0x80, 0x40, 0x20, 0x10

# internal indications: first octet in the low byte
CLASS1, CLASS2, CLASS3, NEED_TIME = 0x0002, 0x0004, 0x0008, 0x0010
TROUBLE, RESTART = 0x0040, 0x0080
NO_FUNCTION, NO_OBJECT, BAD_PARAMETER, OVERFLOW = 0x0100, 0x0200, 0x0400, 0x0800

READ_STATIC, READ_CLASS1, READ_CLASS2, READ_CLASS3 = (bytes((60, n, 6)) for n in (1, 2, 3, 4))


class Request(NamedTuple):
    """One request as it came in. at: time.monotonic()."""

    function: int
    control: int
    objects: bytes
    at: float

    @property
    def sequence(self) -> int:
        return self.control & 0x0F

    @property
    def event_poll(self) -> bool:
        return self.function == Function.READ and any(
            one in self.objects for one in (READ_CLASS1, READ_CLASS2, READ_CLASS3)
        )

    @property
    def class0(self) -> bool:
        return self.function == Function.READ and READ_STATIC in self.objects


class Answer(NamedTuple):
    """One fragment to send. confirm: asks for a CONFIRM; iin: instead of the outstation's own."""

    objects: bytes = b""
    confirm: bool = False
    iin: int | None = None
    first: bool = True
    final: bool = True


Answers = Answer | Sequence[Answer] | None


@dataclass
class Outstation:
    """See the module. Attributes may be changed at any time.

    static:   objects of class 0, one fragment each where it is a list
    extra:    answers to other reads by their objects as asked (`bytes((110, 0, 0, ...))`)
    events:   fragments of events waiting to be read; the first is taken away when it is confirmed
    answers:  by function code, instead of what is done otherwise
    refuses:  function codes answered with IIN2.0
    deaf:     nothing is answered at all
    """

    address: int = 10
    master: int = 1
    host: str = "127.0.0.1"
    port: int = 0
    static: bytes | list[bytes] = b""
    iin: int = 0
    events: list[bytes] = field(default_factory=list)
    extra: dict[bytes, bytes] = field(default_factory=dict)
    answers: dict[int, Callable[[Request], Answers]] = field(default_factory=dict)
    refuses: set[int] = field(default_factory=set)
    deaf: bool = False

    def __post_init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.rejected_frames = 0
        self.unsolicited_sequence = 0
        self.link_statuses = 0
        self._awaiting: tuple[int, bool] | None = None
        self._server: asyncio.Server | None = None
        self._write: Callable[[bytes], None] | None = None
        self._close: Callable[[], None] | None = None
        self._transport_sequence = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # life
    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    async def listen(self, **ssl: object) -> None:
        """Listen, after a stop on the same port again."""
        self._server = await asyncio.start_server(self._serve, self.host, self.port, **ssl)  # type: ignore[arg-type]
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.hang_up()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hang_up(self) -> None:
        """Close the present connection, as a lost network does."""
        if self._close is not None:
            self._close()

    @property
    def connected(self) -> bool:
        return self._write is not None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        frames, fragments = self.readers()
        mine = writer.write
        self._write, self._close = mine, writer.close
        self._awaiting = None
        try:
            while data := await reader.read(65536):
                self.feed(data, frames, fragments)
        except (ConnectionError, OSError):
            pass
        finally:
            if self._write == mine:
                self._write = None
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()
            self._tasks.discard(task)

    def attach(self, fd: int) -> Callable[[], None]:
        """Speak on a serial line (one end of a pty) in place of a socket; call the result to let go of it."""
        loop = asyncio.get_running_loop()
        frames, fragments = self.readers()
        self.connections += 1
        self._write = lambda data: _write_all(fd, data)

        def ready() -> None:
            with contextlib.suppress(BlockingIOError, OSError):
                self.feed(os.read(fd, 4096), frames, fragments)

        loop.add_reader(fd, ready)
        return lambda: bool(loop.remove_reader(fd))  # type: ignore[return-value]

    # in
    def readers(self) -> tuple[link.FrameReader, Reassembler]:
        """What `feed` needs, for each stream of octets."""
        return link.FrameReader(), Reassembler()

    def feed(self, data: bytes, frames: link.FrameReader, fragments: Reassembler) -> None:
        for frame in frames.feed(data):
            if frame.destination != self.address or not frame.from_master:
                self.rejected_frames += 1
                continue
            if frame.function == link.PrimaryFunction.REQUEST_LINK_STATUS and frame.is_primary:
                self.link_statuses += 1
                if not self.deaf:
                    self.send_raw(self.frame(b"", function=link.SecondaryFunction.LINK_STATUS, primary=False))
                continue
            if not frame.payload:
                continue  # an acknowledgement of the data link layer
            fragment = fragments.add(frame.payload)
            if fragment is not None:
                self._request(Request(fragment[1], fragment[0], fragment[2:], time.monotonic()))

    def _request(self, request: Request) -> None:
        self.requests.append(request)
        if request.function == Function.CONFIRM:
            self._confirmed(request)
            return
        if self.deaf:
            return
        given = self.answers.get(request.function)
        answer = given(request) if given is not None else self._usual(request)
        if answer is None:
            return
        for one in [answer] if isinstance(answer, Answer) else answer:
            self.respond(request, one)

    def _usual(self, request: Request) -> Answers:
        if request.function in self.refuses:
            return Answer(iin=self.iin | NO_FUNCTION)
        if request.function == Function.READ:
            return self.read(request)
        if request.function == Function.WRITE and request.objects[:2] == bytes((80, 1)):
            self.iin &= ~RESTART
        if request.function == Function.WRITE and request.objects[:1] == bytes((50,)):
            self.iin &= ~NEED_TIME
        if request.function in (Function.SELECT, Function.OPERATE, Function.DIRECT_OPERATE):
            return Answer(request.objects)
        if request.function == Function.DELAY_MEASURE:
            return Answer(bytes((52, 2, 7, 1, 0, 0)))
        return Answer()

    def read(self, request: Request) -> Answers:
        """Events first, class 0 after them, as many fragments as it takes."""
        if request.objects in self.extra:
            return Answer(self.extra[request.objects])
        parts: list[Answer] = []
        if request.event_poll and self.events:
            parts.append(Answer(self.events[0], confirm=True))
        if request.class0:
            static = self.static if isinstance(self.static, list) else [self.static]
            parts += [Answer(one) for one in static]
        if not parts:
            unknown = not request.event_poll and not request.class0
            return Answer(iin=self.iin | NO_OBJECT if unknown else None)
        last = len(parts) - 1
        return [part._replace(first=at == 0, final=at == last) for at, part in enumerate(parts)]

    def _confirmed(self, request: Request) -> None:
        awaited, self._awaiting = self._awaiting, None
        if awaited == (request.sequence, bool(request.control & UNS)) and self.events:
            self.events.pop(0)

    # out
    def respond(self, request: Request, answer: Answer) -> None:
        control = request.sequence | (FIR if answer.first else 0) | (FIN if answer.final else 0)
        if not answer.first:
            control = control & 0xF0 | self._next_sequence
        if answer.confirm:
            control |= CON
            self._awaiting = control & 0x0F, False
        self._next_sequence = (control + 1) & 0x0F
        self.send(RESPONSE, control, answer.objects, answer.iin)

    def unsolicited(self, objects: bytes, *, confirm: bool = True, again: bool = False, iin: int | None = None) -> None:
        """An unsolicited response; again: the same sequence number as the last one, as a retry has it."""
        if not again:
            self.unsolicited_sequence = (self.unsolicited_sequence + 1) & 0x0F
        control = FIR | FIN | UNS | self.unsolicited_sequence | (CON if confirm else 0)
        self._awaiting = (self.unsolicited_sequence, True) if confirm else None
        self.send(UNSOLICITED, control, objects, iin)

    def send(self, function: int, control: int, objects: bytes, iin: int | None = None) -> None:
        indications = self.iin if iin is None else iin
        if self.events and iin is None:
            indications |= CLASS1
        self.send_fragment(bytes((control, function)) + struct.pack("<H", indications) + objects)

    def send_fragment(self, fragment: bytes) -> None:
        for payload in segment(fragment, first_sequence=self._transport_sequence):
            self._transport_sequence = (self._transport_sequence + 1) & 0x3F
            self.send_raw(self.frame(payload))

    def frame(self, payload: bytes, *, function: int = 4, primary: bool = True) -> bytes:
        control = link.control_byte(from_master=False, primary=primary, function=function)
        return link.build(control, self.master, self.address, payload)

    def send_raw(self, data: bytes) -> None:
        if self._write is not None:
            self._write(data)

    # looking back
    def functions(self, *, without: Sequence[int] = ()) -> list[int]:
        return [request.function for request in self.requests if request.function not in without]

    def count(self, function: int) -> int:
        return self.functions().count(function)


def _write_all(fd: int, data: bytes) -> None:
    with contextlib.suppress(BlockingIOError):
        while data:
            data = data[os.write(fd, data) :]


# objects
def time48(ms: int) -> bytes:
    return struct.pack("<Q", ms)[:6]


def ranged(group: int, variation: int, start: int, items: Sequence[bytes]) -> bytes:
    """Static objects with one-octet start and stop."""
    return bytes((group, variation, 0, start, start + len(items) - 1)) + b"".join(items)


def indexed(group: int, variation: int, items: Sequence[tuple[int, bytes]]) -> bytes:
    """Event objects with two-octet count and index."""
    return (
        bytes((group, variation, 0x28))
        + struct.pack("<H", len(items))
        + b"".join(struct.pack("<H", index) + data for index, data in items)
    )


def packed(group: int, start: int, states: Sequence[bool]) -> bytes:
    """g1v1 or g10v1."""
    octets = bytearray((len(states) + 7) // 8)
    for at, state in enumerate(states):
        octets[at // 8] |= state << at % 8
    return bytes((group, 1, 0, start, start + len(states) - 1)) + bytes(octets)
