"""A load of DNP3 events: many outstations that report analog inputs without being asked, each value numbered.

    python -m benchmarks.load_dnp3 --outstations 20 --points 500 --rate 10000 --seconds 10

Prints one line of JSON with the ports when all of them listen, begins when a line comes on its input, and prints one
line with what was offered and what was confirmed at the end. Outstation 10, master 1, on each port; points AI:0 up.

Of an outstation the n-th event (n from 1) is AI:(n - 1) mod points with the value n and the time of its making in ms:
a value that is missing was lost, the time of receipt less the event's time is its latency. The outstations are built on
py1815's data link layer; what they keep is bounded (`--buffer`), and an overflow is told by IIN2.3 and counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import sys
import time
from collections import deque
from itertools import islice

from py1815 import link
from py1815.transport import Reassembler, segment

CONFIRM, READ, WRITE = 0, 1, 2
RESPONSE, UNSOLICITED = 0x81, 0x82
FIR, FIN, CON, UNS = 0x80, 0x40, 0x20, 0x10
CLASS_1, RESTART, OVERFLOW = 0x0002, 0x0080, 0x0800
EVENTS_A_FRAGMENT = 150
VALUES_A_FRAGMENT = 400
CONFIRM_WITHIN_S = 10.0
DRAIN_TICK_S = 0.01
EVENT = struct.Struct("<HBiIH")
"""Index, flags, value, time in ms (low 32 bits, high 16)."""


class LoadOutstation:
    """One outstation. Events are (number, time in ms), oldest first."""

    def __init__(self, points: int, buffer: int) -> None:
        self._points = points
        self._buffer = buffer
        self._waiting: deque[tuple[int, int]] = deque()
        self._offered_now = 0
        self._sequence = 0
        self._awaited: int | None = None
        self._awaited_s = 0.0
        self._transport_sequence = 0
        self._writer: asyncio.StreamWriter | None = None
        self._enabled = False
        self._iin = RESTART
        self.made = self.confirmed = self.fragments = self.overflowed = self.retries = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self._writer, self._awaited, self._enabled = writer, None, False
        frames, fragments = link.FrameReader(), Reassembler()
        try:
            while data := await reader.read(65536):
                for frame in frames.feed(data):
                    if frame.is_primary and frame.function == link.PrimaryFunction.REQUEST_LINK_STATUS:
                        self._send_frame(b"", link.SecondaryFunction.LINK_STATUS, primary=False)
                    elif (fragment := fragments.add(frame.payload)) is not None:
                        self._request(fragment)
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            if self._writer is writer:
                self._writer = None
            writer.close()

    # making and sending events
    def make(self, count: int) -> None:
        """So many events happen now."""
        ms = time.time_ns() // 1_000_000
        for number in range(self.made + 1, self.made + count + 1):
            if len(self._waiting) >= self._buffer:
                self._waiting.popleft()
                self.overflowed += 1
                self._iin |= OVERFLOW
            self._waiting.append((number, ms))
        self.made += count
        self.report()

    def report(self) -> None:
        """Send what waits, one fragment at a time."""
        now = time.monotonic()
        if self._writer is None or not self._enabled:
            return
        if self._awaited is not None:
            if now - self._awaited_s < CONFIRM_WITHIN_S:
                return
            self.retries += 1
        elif not self._waiting:
            return
        else:
            self._sequence = (self._sequence + 1) & 0x0F
        self._awaited, self._awaited_s = self._sequence, now
        self._send(UNSOLICITED, FIR | FIN | CON | UNS | self._sequence, self._events())

    def _events(self) -> bytes:
        chosen = list(islice(self._waiting, EVENTS_A_FRAGMENT))
        self._offered_now = len(chosen)
        body = b"".join(
            EVENT.pack((number - 1) % self._points, 1, number, ms & 0xFFFF_FFFF, ms >> 32) for number, ms in chosen
        )
        return bytes((32, 3, 0x28)) + struct.pack("<H", len(chosen)) + body if chosen else b""

    def _confirm(self, control: int) -> None:
        if self._awaited != control & 0x0F or not control & UNS:
            return
        self._awaited = None
        for _ in range(min(self._offered_now, len(self._waiting))):
            self._waiting.popleft()
        self.confirmed += self._offered_now
        self.fragments += 1
        self._offered_now = 0
        self._iin &= ~OVERFLOW
        self.report()

    # requests
    def _request(self, fragment: bytes) -> None:
        control, function, objects = fragment[0], fragment[1], fragment[2:]
        if function == CONFIRM:
            self._confirm(control)
            return
        if function == WRITE and objects[:2] == bytes((80, 1)):
            self._iin &= ~RESTART
        if function in (20, 21):
            self._enabled = function == 20
        sequence = control & 0x0F
        parts = self._static() if function == READ and bytes((60, 1, 6)) in objects else [b""]
        for at, part in enumerate(parts):
            ends = (FIR if at == 0 else 0) | (FIN if at == len(parts) - 1 else 0)
            self._send(RESPONSE, ends | (sequence + at & 0x0F), part)
        self.report()

    def _static(self) -> list[bytes]:
        """Every point as it is now: the number of its newest event, 0 before the first."""
        values = [0] * self._points
        for number in range(max(1, self.made - self._points + 1), self.made + 1):
            values[(number - 1) % self._points] = number
        return [
            bytes((30, 1, 1))
            + struct.pack("<HH", at, min(at + VALUES_A_FRAGMENT, self._points) - 1)
            + b"".join(struct.pack("<Bi", 1, value) for value in values[at : at + VALUES_A_FRAGMENT])
            for at in range(0, self._points, VALUES_A_FRAGMENT)
        ]

    def _send(self, function: int, control: int, objects: bytes) -> None:
        waiting = CLASS_1 if len(self._waiting) > self._offered_now else 0
        fragment = bytes((control, function)) + struct.pack("<H", self._iin | waiting) + objects
        for payload in segment(fragment, first_sequence=self._transport_sequence):
            self._transport_sequence = (self._transport_sequence + 1) & 0x3F
            self._send_frame(payload, 4)

    def _send_frame(self, payload: bytes, function: int, *, primary: bool = True) -> None:
        if self._writer is not None:
            control = link.control_byte(from_master=False, primary=primary, function=function)
            self._writer.write(link.build(control, 1, 10, payload))


async def produce(outstations: list[LoadOutstation], rate: float, seconds: float, tick_s: float) -> None:
    """Events at a rate, in equal shares, for some time; those of a tick happen at once."""
    began = time.monotonic()
    made = 0
    while (passed := time.monotonic() - began) < seconds:
        due = int(min(passed, seconds) * rate)
        share, rest = divmod(due - made, len(outstations))
        for at, outstation in enumerate(outstations):
            # the rest goes on where it ended the last time
            count = share + ((at - made) % len(outstations) < rest)
            if count:
                outstation.make(count)
            else:
                outstation.report()
        made = due
        await asyncio.sleep(tick_s)


async def drain(outstations: list[LoadOutstation], within_s: float) -> None:
    """Wait until everything is confirmed."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and any(one.confirmed + one.overflowed < one.made for one in outstations):
        for outstation in outstations:
            outstation.report()
        await asyncio.sleep(DRAIN_TICK_S)


async def main(given: argparse.Namespace) -> None:
    outstations = [LoadOutstation(given.points, given.buffer) for _ in range(given.outstations)]
    servers = [
        await asyncio.start_server(one.serve, given.host, given.port + at if given.port else 0)
        for at, one in enumerate(outstations)
    ]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    print(json.dumps({"ports": ports, "points": given.points, "local_address": 1, "remote_address": 10}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began = time.monotonic()
    await produce(outstations, given.rate, given.seconds, given.tick)
    produced_s = time.monotonic() - began
    await drain(outstations, given.drain)
    offered = {
        "seconds": round(produced_s, 3),
        "made": [one.made for one in outstations],
        "confirmed": [one.confirmed for one in outstations],
        "fragments": sum(one.fragments for one in outstations),
        "overflowed": sum(one.overflowed for one in outstations),
        "retries": sum(one.retries for one in outstations),
        "confirmed_after_s": round(time.monotonic() - began, 3),
    }
    print(json.dumps(offered), flush=True)
    await asyncio.sleep(given.linger)
    for server in servers:
        server.close()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_dnp3", description="Numbered DNP3 events.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="of the first outstation; 0: free ones")
    parser.add_argument("--outstations", type=int, default=20)
    parser.add_argument("--points", type=int, default=500, help="analog inputs of each outstation")
    parser.add_argument("--rate", type=float, default=10_000, help="events a second, all outstations together")
    parser.add_argument("--tick", type=float, default=0.01, help="events happen so many seconds apart, all due at once")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--buffer", type=int, default=100_000, help="events an outstation keeps")
    parser.add_argument("--drain", type=float, default=30, help="seconds to wait for the last confirm")
    parser.add_argument("--linger", type=float, default=0, help="seconds to stay connected after that")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(arguments()))
