"""A desk in a process of its own, to be killed: `python -m tests.control.gateway FOLDER POINT command|restart`.

`command` selects and operates once; `restart` starts, waits until every request has its outcome, and ends in order.
Every call of the field is a line in `writes`, every answer one in `answers`, every request one in `asked`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gatewayd.clock import ClockState
from gatewayd.control.desk import Desk
from gatewayd.control.settings import ControlSettings
from gatewayd.control.types import Answer, Control, Reply, Request, Result, Stage, Verdict
from gatewayd.mqtt import contract
from gatewayd.store.journal import Journal, WhenFull
from tests.control.support import Room, until


def put(path: Path, line: str) -> None:
    """One line, on disk."""
    with path.open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


class Gateway:
    def __init__(self, folder: Path, point: str) -> None:
        self.folder, self.point = folder, point
        self.answers: list[Answer] = []
        self.room = Room(folder)

    def heard(self, answer: Answer, taken: Callable[[], None]) -> None:
        self.answers.append(answer)
        body = json.loads(contract.reply(answer))
        put(self.folder / "answers", json.dumps({"late": False, "restart": False} | body))
        taken()

    async def _call(self, verb: str, cmd: Control) -> Reply:
        put(self.folder / "writes", f"{verb}:{cmd.id.partition('/')[2]}")
        if verb == "operate":
            asyncio.get_running_loop().call_later(0.02, self.moved)
        return Reply(Verdict.DONE)

    async def select(self, cmd: Control) -> Reply:
        return await self._call("select", cmd)

    async def operate(self, cmd: Control) -> Reply:
        return await self._call("operate", cmd)

    async def cancel(self, cmd: Control) -> Reply:
        return await self._call("cancel", cmd)

    def moved(self) -> None:
        from gatewayd import clock

        row = self.database.row(self.point)
        assert row is not None
        state = self.database.states[row]
        state.value, state.time_ns = "open", clock.now_ns()
        self.desk.changed([row], clock.mono_ns())

    async def request(self, stage: Stage, tx: str, **fields: Any) -> list[Answer]:
        from gatewayd import clock

        put(self.folder / "asked", tx)
        now = clock.now_ns()
        given: dict[str, Any] = {"point": self.point, "value": "open", "expires_ns": now + 30_000_000_000}
        await self.desk.request(
            Request(
                stage=stage, operator="alice", tx=tx, received_ns=now, received_mono=clock.mono_ns(), **given | fields
            )
        )
        await until(lambda: [one for one in self.answers if one.tx == tx], tx)
        return [one for one in self.answers if one.tx == tx]

    async def run(self, what: str) -> None:
        journal = Journal.open(self.folder, keep_s=86400, max_bytes=64 << 20, when_full=WhenFull.BLOCK)
        room = self.room
        self.database = room.database = room._database()
        self.desk = Desk(
            ControlSettings(),
            room.station(),
            journal=journal,
            field=self,
            publish=self.heard,
            encode_event=contract.control_event,
            clock=lambda: ClockState(True),
        )
        began = time.monotonic()
        await self.desk.start()
        put(self.folder / "took", str(time.monotonic() - began))
        running = asyncio.create_task(self.desk.run())
        if what == "command":
            [selected] = await self.request(Stage.SELECT, "sel")
            await self.request(Stage.OPERATE, "op", select_id=selected.select_id)
            await until(lambda: any(one.tx == "op" and one.result is Result.DONE for one in self.answers), "the end")
        await self.desk.stop()
        running.cancel()
        await asyncio.wait({running})
        await journal.close()


if __name__ == "__main__":
    asyncio.run(Gateway(Path(sys.argv[1]), sys.argv[2]).run(sys.argv[3]))
