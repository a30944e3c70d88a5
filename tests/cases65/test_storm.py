"""F16 over real sockets: three operators, three devices that refuse, lose and vanish, and what must hold after all.

Every request has exactly one outcome; what the simulators carried out is never more than what was sent, nor less than
what was called `ok`; nothing that moved is told as not moved. The seed is printed. GATEWAYD_LONG=1 (`make prove`) asks
for 10,000 commands, with kill -9 in between. In virtual time: tests/control/test_machine.py.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from typing import Any, NamedTuple

import pytest
from py1815.control import CommandStatus

from gatewayd.store import audit
from tests.brokers import until
from tests.cases65.room import Operator, Room

LONG = bool(os.environ.get("GATEWAYD_LONG"))
COMMANDS = 10_000 if LONG else 90
KILLS = 20 if LONG else 0
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(7200 if LONG else 120)]
FREE = {"rate_per_s": 10_000, "rate_burst": 10_000, "refusals_per_s": 10_000, "refusals_burst": 10_000}
ROOM = {"control": FREE | {"hold_s": 0, "device_timeout_s": 1, "audit_records": 1_000_000}}
OPERATES = {"FDR12": "OPERATE", "BAY1": "Oper", "MTR3": "5 7 "}


class Target(NamedTuple):
    device: str
    point: str
    value: Any


TARGETS = (
    Target("FDR12", "FDR12/CB/POS", None), Target("BAY1", "BAY1/SE", None), Target("MTR3", "MTR3/HORN", True),
    Target("FDR12", "FDR12/RESET", True), Target("BAY1", "BAY1/DE", None),
)  # fmt: skip


class Storm:
    def __init__(self, room: Room, seed: int) -> None:
        self.room = room
        self.random = random.Random(seed)
        self.asked: list[tuple[Operator, str, str]] = []
        """Operator, tx and stage."""
        self.calm = asyncio.Event()
        self.calm.set()

    async def ask(self, who: Operator, stage: str, **body: Any) -> str:
        await self.calm.wait()
        tx = await who.ask(stage, **body)
        self.asked.append((who, tx, stage))
        return tx

    async def command(self, target: Target) -> None:
        """One operator wants something, and does it more or less as he should."""
        room, choose = self.room, self.random.random
        who = room.operator(self.random.choice(("alice", "bob", "carol")))
        value = target.value if target.value is not None else self.other(target.point)
        tx = await self.ask(who, "select", point=target.point, value=value)
        if not await self.waited(lambda: who.answers(tx)) or who.answers(tx)[0]["result"] != "selected":
            return
        selected = who.answers(tx)[0]
        given = {key: selected[key] for key in ("point", "value", "select_id")}
        wish = choose()
        if wish < 0.1:
            await self.ask(who, "cancel", select_id=selected["select_id"])
        elif wish < 0.2:
            await self.ask(room.operator("mallory"), "operate", **given)
            await self.ask(who, "cancel", select_id=selected["select_id"])
        elif wish < 0.25:
            await self.ask(who, "operate", **given | {"value": not value if isinstance(value, bool) else "closed"})
        else:
            operate = await self.ask(who, "operate", **given)
            if wish < 0.4:
                await self.ask(who, "operate", **given)  # another request for the same select
            if wish < 0.5:
                await self.ask(who, "cancel", select_id=selected["select_id"])
            await self.waited(lambda: who.ends(operate))

    def other(self, point: str) -> Any:
        """Where the switch is not, as far as one knows."""
        self.room.look()
        now = self.room.points.get(point, {}).get("value")
        return {"open": "closed", "closed": "open"}.get(str(now), not now)

    async def waited(self, condition: Any) -> bool:
        """Whether it came about before the operator lost patience, or the gateway its life."""
        end = time.monotonic() + 4
        while not condition():
            if time.monotonic() > end or not self.calm.is_set():
                return False
            await asyncio.sleep(0.01)
        return True

    async def commands(self, target: Target, count: int) -> None:
        for _ in range(count):
            await self.command(target)

    async def faults(self) -> None:
        """What devices do, until cancelled."""
        room = self.room
        while True:
            await asyncio.sleep(0.2)
            room.whole_trail()  # the oldest records go when there are too many
            for hooks in (room.rtu.refuse_select, room.rtu.refuse_operate, room.rtu.lose, room.rtu.ignore,
                          room.bay.refuse_select, room.bay.refuse_operate, room.bay.fail_operate, room.meter.refuse,
                          room.meter.silent):  # fmt: skip
                hooks.clear()
            match self.random.randrange(12):
                case 0:
                    room.rtu.refuse_select["CROB:2"] = CommandStatus.LOCAL
                case 1:
                    room.rtu.refuse_operate["CROB:2"] = CommandStatus.HARDWARE_ERROR
                case 2:
                    room.rtu.lose.add("CROB:5")
                case 3:
                    room.rtu.ignore.add("CROB:2")
                case 4:
                    room.bay.refuse_select["GGIO1.SPCSO4"] = 10
                case 5:
                    room.bay.refuse_operate["GGIO1.SPCSO3"] = 2
                case 6:
                    room.bay.fail_operate["GGIO1.SPCSO4"] = 17
                case 7:
                    room.meter.refuse[5] = self.random.choice((1, 2, 3, 4, 6, 11))
                case 8:
                    room.meter.silent.add(5)
                case 9 if self.random.random() < 0.2:
                    room.wires[self.random.choice(("FDR12", "BAY1", "MTR3"))].cut()

    async def kill(self) -> None:
        """kill -9, and a new start; nobody asks meanwhile."""
        self.calm.clear()
        await self.room.gateway.kill()
        await self.room.start()
        await self.room.good()
        await self.room.reached()
        self.calm.set()


def sent(room: Room) -> Counter[str]:
    """How often the gateway says, in its audit trail, that it asked a device to operate."""
    words: Counter[str] = Counter()
    for record in room.whole_trail():
        if record["what"] == "sent":
            words[record["point"].partition("/")[0]] += 1
    return words


@pytest.mark.case("F16")
async def test_a_storm_of_commands_with_faults(room: Room) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    storm = Storm(room, seed)
    faults = asyncio.create_task(storm.faults())
    each = COMMANDS // len(TARGETS)
    running = [asyncio.create_task(storm.commands(target, each)) for target in TARGETS]
    try:
        for _ in range(KILLS):
            await asyncio.wait(running, timeout=30)
            await storm.kill()
        await asyncio.gather(*running)
    finally:
        faults.cancel()
        for task in running:
            task.cancel()
        await asyncio.gather(faults, *running, return_exceptions=True)
    for wire in room.wires.values():
        wire.heal()
    told: Counter[str] = Counter()
    confirmed: Counter[str] = Counter()
    unsaid: list[str] = []
    operated = {one["select_id"] for who, tx, stage in storm.asked if stage == "select"
                for one in who.answers(tx) if one["result"] == "selected"}  # fmt: skip
    assert operated

    def ended(who: Operator, tx: str, stage: str) -> bool:
        if any(one["result"] == "done" and not one.get("late") for one in who.answers(tx)):
            return True
        # a select ends with its operate, silently; of what a kill came between nothing may have been heard
        return stage == "select" and any(one["result"] == "selected" for one in who.answers(tx))

    def open_requests() -> list[str]:
        return [tx for who, tx, stage in storm.asked if not ended(who, tx, stage)]

    try:
        await until(lambda: not open_requests(), "", 10)
    except AssertionError:
        unsaid = [tx for tx in open_requests() if room.words(tx)]  # on record, and without an outcome
    assert unsaid == []
    assert KILLS or not open_requests()
    for who, tx, stage in storm.asked:
        ends = who.ends(tx)
        assert len(ends) <= 1, f"seed {seed}: {ends}"
        for one in ends:
            told[f"{stage} {one['reason']}"] += 1
            if stage == "operate" and one["effect"] == "confirmed":
                confirmed[one["point"].partition("/")[0]] += 1
        trail = room.trail(tx)
        assert sum(record["what"] == "sent" for record in trail) <= 1, f"seed {seed}: sent twice: {trail}"
        assert sum(record["what"] == "outcome" for record in trail) <= 1, f"seed {seed}: {trail}"
    print(dict(told.most_common()))
    written = {device: sum(one.startswith(word) for one in room.wrote(device)) for device, word in OPERATES.items()}
    for device, number in written.items():
        assert confirmed[device] <= number <= sent(room)[device], f"seed {seed}: {device} {written} {sent(room)}"
    assert all(number for number in written.values()), written
    assert told["operate ok"], told
    assert audit.verify(room.state).wrong == []
