"""Peers that lie: octets of a real device, damaged on their way. Seeded: the same seed tells the same lies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from gatewayd.protocols.modbus.framing import crc

LONGEST = 0xFFFF
FLOOD = 4 * 1024 * 1024
Damage = Callable[[random.Random, bytes], bytes]


def truncated(rng: random.Random, frame: bytes) -> bytes:
    """Cut short; its length says otherwise."""
    return frame[: rng.randrange(len(frame) + 1)]


def flipped(rng: random.Random, frame: bytes) -> bytes:
    """Some octets are others."""
    out = bytearray(frame)
    for _ in range(rng.choice((1, 1, 2, 8))):
        out[rng.randrange(len(out))] = rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(out)


def lying(rng: random.Random, frame: bytes) -> bytes:
    """An octet or two that may be a length say too much or too little."""
    at = rng.randrange(len(frame))
    return (
        frame[:at]
        + rng.choice((b"\xff\xff", b"\x84\xff\xff\xff\xff", b"\x82\xff\xff", b"\x00", b"\x80"))
        + frame[at + 1 :]
    )


def swollen(rng: random.Random, frame: bytes) -> bytes:
    """Octets put in, up to as many as a frame can have."""
    at = rng.randrange(len(frame) + 1)
    return frame[:at] + rng.randbytes(rng.choice((1, 7, 300, LONGEST))) + frame[at:]


def random_octets(rng: random.Random, frame: bytes) -> bytes:
    """Nothing that means anything."""
    del frame
    return rng.randbytes(rng.choice((1, 7, 64, 2000)))


def twice(rng: random.Random, frame: bytes) -> bytes:
    """Said again."""
    return frame * rng.choice((2, 3, 50))


def oversized_tpkt(rng: random.Random, frame: bytes) -> bytes:
    """TPKT with the greatest length, in pieces that never end, or as one."""
    body = (frame[4:] * (LONGEST // max(1, len(frame) - 4) + 1))[: LONGEST - 4]
    return b"\x03\x00\xff\xff" + body[: rng.choice((10, len(body)))]


def tpkt_fits(rng: random.Random, frame: bytes) -> bytes:
    """Damaged inside, with a TPKT length that fits: it gets to the layers above."""
    inside = rng.choice((flipped, lying, truncated, flipped))(rng, frame[7:]) if len(frame) > 8 else frame[7:]
    body = (frame[4:7] + inside)[: LONGEST - 4]
    return b"\x03\x00" + (len(body) + 4).to_bytes(2, "big") + body


def flood(rng: random.Random, frame: bytes) -> bytes:
    """As much as the other side takes, at once."""
    return (frame + rng.randbytes(64)) * (FLOOD // (len(frame) + 64))


MMS: tuple[Damage, ...] = (
    *(tpkt_fits,) * 8,
    *(truncated, flipped, lying, swollen, random_octets, twice, oversized_tpkt, flood),
)


def mbap_fits(rng: random.Random, frame: bytes) -> bytes:
    """Damaged inside, with a length that fits and the right transaction."""
    inside = flipped(rng, frame[6:]) if rng.random() < 0.5 else frame[6 : rng.randrange(7, len(frame) + 1)]
    inside += rng.randbytes(rng.choice((0, 0, 1, 20)))
    return frame[:4] + len(inside).to_bytes(2, "big") + inside


MODBUS: tuple[Damage, ...] = (
    *(mbap_fits,) * 6,
    *(truncated, flipped, lying, swollen, random_octets, twice, flood),
)


def rtu_fits(rng: random.Random, frame: bytes) -> bytes:
    """Damaged inside, with a CRC that fits."""
    inside = flipped(rng, frame[:-2]) + rng.randbytes(rng.choice((0, 0, 1, 20)))
    return inside + crc(inside)


class Liar:
    """A proxy in front of a device. What the device says is passed on for a while, then damaged, or nothing comes.

    damages: how; frames_of: cuts a stream of the device into frames, and gives the octets of each
    honest:  nothing is damaged any more
    told:    damages so far, by name
    """

    def __init__(self, port: int, damages: tuple[Damage, ...], seed: int) -> None:
        self._behind = port
        self._damages = damages
        self._seeds = itertools.count(seed * 1_000_003)
        self._tasks: set[asyncio.Task[None]] = set()
        self.honest = False
        self.connections = 0
        self.told: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, a: type[BaseException] | None, b: BaseException | None, c: TracebackType | None) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._between(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        rng = random.Random(next(self._seeds))  # the same lies again
        there: asyncio.StreamWriter | None = None
        try:
            answers, there = await asyncio.open_connection("127.0.0.1", self._behind)
            pumps = {
                asyncio.ensure_future(_pump(reader, there)),
                asyncio.ensure_future(self._lie(rng, answers, writer)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()

    async def _lie(self, rng: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        good = rng.choice((0, 0, 1, 2, 3, 5, 8, 12, 20, 40, 80))
        with contextlib.suppress(OSError):
            for number in itertools.count():
                frame = await reader.read(LONGEST)
                if not frame:
                    return
                if self.honest or number < good or rng.random() < 0.3:
                    writer.write(frame)
                    continue
                if rng.random() < 0.03:
                    self.told["silence"] += 1
                    await asyncio.sleep(1)
                    return
                damage = rng.choice(self._damages)
                self.told[damage.__name__] += 1
                octets = damage(rng, frame)
                if len(octets) < 200 and rng.random() < 0.05:
                    for at in range(len(octets)):  # in single octets
                        writer.write(octets[at : at + 1])
                        await asyncio.sleep(0)
                else:
                    writer.write(octets)
                async with asyncio.timeout(2):
                    await writer.drain()
                if rng.random() < 0.2:
                    return


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(LONGEST):
            writer.write(data)
            await writer.drain()
