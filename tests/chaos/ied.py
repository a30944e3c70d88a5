"""An IED on open61850 that keeps books: event n is GGIO1.IntIn(1 + (n - 1) mod 8) with the value n, in one BRCB."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

from open61850.data import IECData, OctetStringData, TimestampData
from open61850.mms.pdu import ObjectName
from open61850.server.model import ACCESS_TYPE_INCONSISTENT, IedModel
from open61850.server.server import MmsServer

from tests.chaos.simulated import POINTS, Maker, arguments

LD = "CHAOSLD0"
BLOCK = "LLN0$BR$brcbEV01"
SCL = Path(__file__).with_name("ied.cid")
IN_STEP = 0x0A


class Ied:
    """The server, and what its buffer has dropped."""

    def __init__(self, port: int, capacity: int) -> None:
        self.model = IedModel.from_scl(SCL)
        self.server = MmsServer(self.model, "127.0.0.1", port, model_name="chaos", report_buffer_bytes=1 << 24)
        self.server.start()
        self.server.write_hooks.insert(0, self._on_write)
        assert self.server.reports is not None
        self.block = self.server.reports.controls[LD, BLOCK]
        self.block.max_entries = capacity
        self.block.ever_enabled = True  # it buffers from the beginning
        # As real IEDs have it: an EntryID of an earlier life is never one of this life.
        self.block.next_entry = int(datetime.now(UTC).timestamp() * 1000) << 20
        self.model.set(ObjectName(f"{BLOCK}$EntryID", LD), OctetStringData(bytes(8)))
        self._entries: deque[tuple[int, int]] = deque()
        self._begin: OctetStringData | None = None

    def _on_write(self, connection: object, name: ObjectName, value: IECData) -> int | bool | None:
        """An EntryID that is not in the buffer is refused, as IEC 61850-7-2 says; zero is the whole buffer.

        open61850 lets an event between the EntryID and RptEna overwrite where to begin; here it stands.
        """
        reports = self.server.reports
        assert reports is not None
        if name.item == f"{BLOCK}$RptEna" and self._begin is not None:
            with reports._lock, self.model.lock:
                self.block.set_attr("EntryID", self._begin)
                self._begin = None
                return reports._on_write(connection, name, value)
        if name.item == f"{BLOCK}$EntryID" and isinstance(value, OctetStringData) and any(value.value):
            wanted = int.from_bytes(value.value, "big")
            if all(entry.entry_id != wanted for entry in self.block.buffer):
                return ACCESS_TYPE_INCONSISTENT
        if name.item == f"{BLOCK}$EntryID" and isinstance(value, OctetStringData):
            self._begin = value
        return None

    def set(self, n: int, ms: int) -> None:
        reference = f"{LD}/GGIO1.IntIn{1 + (n - 1) % POINTS}"
        reports = self.server.reports
        assert reports is not None
        with reports._lock, self.model.lock, self.model.batch():  # nobody reads a value without its time
            self.model.set(f"{reference}.t[ST]", TimestampData(datetime.fromtimestamp(ms / 1000, UTC), IN_STEP))
            self.model.set(f"{reference}.stVal[ST]", n)

    def offer(self, n: int, ms: int, maker: Maker) -> None:
        self.set(n, ms)
        self._entries.append((self.block.next_entry - 1, n))
        oldest = self.block.buffer[0].entry_id
        while self._entries and self._entries[0][0] < oldest:
            maker.ledger.dropped(self._entries.popleft()[1])


async def main() -> None:
    given = arguments()
    ied: Ied | None = None

    def offer(n: int, ms: int) -> None:
        assert ied is not None
        ied.offer(n, ms, maker)

    maker = Maker(given.ledger, offer)
    ied = Ied(given.port, given.capacity)
    ied.block.ever_enabled = False  # where the points stand at the start is no event
    for n in maker.newest_by_point():
        if n:
            ied.set(n, maker.books.offered[n])
    ied.block.ever_enabled = True
    await maker.listen()
    ied.server.stop()


if __name__ == "__main__":
    asyncio.run(main())
