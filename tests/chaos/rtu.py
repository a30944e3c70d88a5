"""A DNP3 outstation on py1815 that keeps books: event n is AI:(n - 1) mod 8 with the value n, in class 1, with time."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Sequence

from py1815.application import ObjectHeader
from py1815.events import Event, EventBuffers, EventClass
from py1815.objects import AnalogPoint
from py1815.server import OutstationServer
from py1815.session import Session, UnknownObject

from tests.chaos.ledger import Ledger
from tests.chaos.simulated import POINTS, Maker, arguments


class Buffers(EventBuffers):
    """Event buffers that write down what was confirmed, before it is gone, and what they dropped."""

    ledger: Ledger

    def put(self, n: int, ms: int) -> None:
        if self.count(EventClass.CLASS_1) >= self.capacity:
            self.ledger.dropped(int(self.peek(EventClass.CLASS_1, 1)[0].point.value))
        self.record_analog((n - 1) % POINTS, AnalogPoint(float(n)), event_class=EventClass.CLASS_1, timestamp_ms=ms)

    def drop(self, events: Iterable[Event]) -> None:
        gone = list(events)
        super().drop(gone)
        self.ledger.confirmed([int(event.point.value) for event in gone])


class Rtu:
    """The static side: eight analog inputs."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker

    def read(self, headers: Sequence[ObjectHeader]) -> bytes:
        return b"".join(self.read_blocks(headers))

    def read_blocks(self, headers: Sequence[ObjectHeader]) -> list[bytes]:
        if any(header.event_class != 0 and header.group != 30 for header in headers):
            raise UnknownObject("analog inputs only")
        values = b"".join(struct.pack("<Bi", 1, value) for value in self._maker.newest_by_point())
        return [bytes((30, 1, 0, 0, POINTS - 1)) + values] if headers else []


async def main() -> None:
    given = arguments()
    buffers = Buffers(capacity=given.capacity)
    server: OutstationServer | None = None

    def offer(n: int, ms: int) -> None:
        buffers.put(n, ms)
        if server is not None:
            server.notify()

    maker = Maker(given.ledger, offer)
    buffers.ledger = maker.ledger
    for at, value in enumerate(maker.newest_by_point()):
        buffers.prime_analog(at, AnalogPoint(float(value)))
    if given.keep:
        for n in maker.books.unconfirmed():
            buffers.prime_analog((n - 1) % POINTS, AnalogPoint(0.0))
            buffers.put(n, maker.books.offered[n])
    session = Session(
        Rtu(maker),
        events=buffers,
        outstation_address=10,
        master_address=1,
        time_sink=lambda _ms: None,
        unsolicited=True,
        unsolicited_confirm_timeout=3.0,
    )
    server = OutstationServer(session, bind=f"127.0.0.1:{given.port}")
    await server.start()
    await maker.listen()
    await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
