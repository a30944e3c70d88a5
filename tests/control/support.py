"""A desk with everything real but the field and the clocks: a journal on disk, a station, drivers by script."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gatewayd.clock import ClockState
from gatewayd.control.desk import Desk, Station
from gatewayd.control.reasons import Reason
from gatewayd.control.settings import ControlSettings
from gatewayd.control.types import Answer, Control, Reply, Request, Result, Stage, Step, Verdict
from gatewayd.mqtt import contract
from gatewayd.points.database import Database
from gatewayd.points.expressions import compile_expression
from gatewayd.points.types import ControlMode, Kind, Link, LockScope, PointSpec, Value
from gatewayd.store import audit as audit_store
from gatewayd.store.journal import Journal, StoredEvent, WhenFull

S = 1_000_000_000
NOON = 1_780_000_000 * S
DONE = Reply(Verdict.DONE)
CB, DS, LOCAL, AR, SETP, TAP, HORN, LAMP = (
    "FDR12/CB/POS", "FDR12/DS/POS", "FDR12/LOCAL", "FDR12/AR", "FDR12/SET/P", "FDR12/TAP", "FDR12/HORN", "FDR12/LAMP",
)  # fmt: skip
BAY, BAY_DS, MODE, METER = "BAY1/CB/POS", "BAY1/DS/POS", "MTR3/MODE", "MTR3/SW"


def specs() -> list[PointSpec]:
    """FDR12 on DNP3, BAY1 on IEC 61850 (the device holds selects), MTR3 on Modbus."""
    sbo: dict[str, Any] = {"control": ControlMode.SBO, "command": "CROB:2", "select_timeout_s": 30.0}
    f12: dict[str, Any] = {"device": "FDR12", "bay": "F12", "area": "riverside"}
    made: list[dict[str, Any]] = [
        {"name": CB, "kind": Kind.DOUBLE, "feedback": CB, "local": f"on('{LOCAL}')", "lock_scope": LockScope.BAY,
         "interlock": f"closed('{DS}')", **f12, **sbo},
        {"name": DS, "kind": Kind.DOUBLE, **f12},
        {"name": LOCAL, "kind": Kind.BINARY, **f12},
        {"name": AR, "kind": Kind.BINARY, "feedback": AR, **f12, **sbo},
        {"name": SETP, "kind": Kind.ANALOG, "feedback": SETP, "min": 0.0, "max": 100.0, "tolerance": 0.5, "unit": "kW",
         **f12, **sbo, "control": ControlMode.DIRECT, "bay": ""},
        {"name": TAP, "kind": Kind.COUNTER, "feedback": TAP, "feedback_timeout_s": 120.0, **f12, **sbo, "bay": ""},
        {"name": HORN, "kind": Kind.BINARY, "feedback": "none", **f12, **sbo, "bay": ""},
        {"name": LAMP, "kind": Kind.BINARY, "feedback": LAMP, **f12, **sbo, "bay": "", "area": "elsewhere"},
        {"name": BAY, "kind": Kind.DOUBLE, "feedback": BAY, "device": "BAY1", "bay": "B1", **sbo},
        {"name": BAY_DS, "kind": Kind.DOUBLE, "feedback": BAY_DS, "device": "BAY1", "bay": "B1", **sbo,
         "lock_scope": LockScope.DEVICE},
        {"name": MODE, "kind": Kind.ENUM, "feedback": MODE, "device": "MTR3", "states": {1: "day", 2: "night"}, **sbo},
        {"name": METER, "kind": Kind.BINARY, "feedback": METER, "device": "MTR3", **sbo, "control": ControlMode.DIRECT},
    ]  # fmt: skip
    return [PointSpec(row=row, address=f"X:{row}", **fields) for row, fields in enumerate(made)]


PROTOCOLS = {"FDR12": "dnp3", "BAY1": "iec61850", "MTR3": "modbus"}
AT_DEVICE = (BAY, BAY_DS)
VALUES: dict[str, Value] = {
    CB: "closed", DS: "closed", LOCAL: False, AR: True, SETP: 50.0, TAP: 7, HORN: False, LAMP: False,
    BAY: "closed", BAY_DS: "closed", MODE: "day", METER: True,
}  # fmt: skip


class Called(NamedTuple):
    verb: str
    point: str
    control: Control


class Field:
    """The drivers by script. `calls` is what reached the field, and how often."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.calls: list[Called] = []
        self.replies: dict[str, Reply] = {}
        self.waits: dict[str, asyncio.Event] = {}
        self.on_operate: Callable[[Control], None] = lambda _: None

    def hold(self, verb: str) -> asyncio.Event:
        """Let these calls wait for the event."""
        self.waits[verb] = asyncio.Event()
        return self.waits[verb]

    async def _call(self, verb: str, cmd: Control) -> Reply:
        self.calls.append(Called(verb, self.room.spec(cmd.point).name, cmd))
        if verb == "operate":
            self.on_operate(cmd)
        if verb in self.waits:
            await self.waits[verb].wait()
        return self.replies.get(verb, DONE)

    async def select(self, cmd: Control) -> Reply:
        return await self._call("select", cmd)

    async def operate(self, cmd: Control) -> Reply:
        return await self._call("operate", cmd)

    async def cancel(self, cmd: Control) -> Reply:
        return await self._call("cancel", cmd)

    def count(self, verb: str, point: str = "") -> int:
        return sum(call.verb == verb and point in ("", call.point) for call in self.calls)

    @property
    def verbs(self) -> list[str]:
        return [call.verb for call in self.calls]


class Room:
    """A control room with one desk. Time stands still unless it is moved."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.settings = ControlSettings(**settings)
        self.now = NOON
        self.mono = 1000 * S
        self.synchronised: bool | None = True
        self.active = True
        self.links = dict.fromkeys(PROTOCOLS, Link.UP)
        self.list = specs()
        self.values = dict(VALUES)
        self.answers: list[Answer] = []
        self.broker = True
        """Whether the broker takes answers."""
        self.tags: dict[str, bytes] = {}
        self.heads: list[dict[str, Any]] = []
        self.field = Field(self)
        self._running: asyncio.Task[None] | None = None

    def publish(self, answer: Answer, taken: Callable[[], None]) -> None:
        self.answers.append(answer)
        if self.broker:
            taken()

    # --- the life of it

    async def open(self) -> None:
        self.journal = Journal.open(
            self.folder, keep_s=86400, max_bytes=16 << 20, when_full=WhenFull.BLOCK, now_ns=lambda: self.now
        )
        self.database = self._database()
        self.desk = Desk(
            self.settings,
            self.station(),
            journal=self.journal,
            field=self.field,
            publish=self.publish,
            encode_event=contract.control_event,
            publish_tags=self.tags.__setitem__,
            publish_audit_head=lambda body: self.heads.append(json.loads(body)),
            clock=lambda: ClockState(self.synchronised),
            now_ns=lambda: self.now,
            mono_ns=lambda: self.mono,
            active=lambda: self.active,
        )
        await self.desk.start()
        self._running = asyncio.create_task(self.desk.run())

    async def close(self, *, crash: bool = False) -> None:
        """End it; crash: as after kill -9, but for what the journal had already been given."""
        if not crash:
            await self.stop()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        await self.desk._sessions.close()
        await self.journal.close()

    async def stop(self) -> None:
        """Stop the desk; its time goes on while it does."""
        stopping = asyncio.create_task(self.desk.stop())
        while not stopping.done():
            await asyncio.sleep(0.001)
            self.mono += S // 10
            self.desk.poke()
        await stopping

    async def again(self, *, crash: bool = True) -> None:
        """End and begin again on the same journal. Answers said before are forgotten."""
        await self.close(crash=crash)
        self.answers = []
        self.field.calls.clear()
        self.mono += 5 * S
        self.now += 5 * S
        await self.open()

    def station(self, **more: Any) -> Station:
        names = {spec.name for spec in self.list}
        fields: dict[str, Any] = {
            "specs": self.list,
            "database": self.database,
            "interlocks": {s.row: compile_expression(s.interlock, names) for s in self.list if s.interlock},
            "locals": {s.row: compile_expression(s.local, names) for s in self.list if s.local},
            "device_selects": frozenset(s.row for s in self.list if s.name in AT_DEVICE),
            "protocols": PROTOCOLS,
            "links": self.links.__getitem__,
            "config_sha256": "c0ffee",
        }
        return Station(**fields | more)

    def _database(self) -> Database:
        database = Database(self.list)
        for spec in self.list:
            state = database.states[spec.row]
            state.value, state.quality, state.time_ns = self.values.get(spec.name), 0, self.now
        return database

    async def configure(self, change: Callable[[PointSpec], PointSpec | None], **settings: Any) -> None:
        """A reload: every point through `change` (None takes it out); rows are numbered anew."""
        kept = [new for spec in self.list if (new := change(spec)) is not None]
        self.list = [msgspec.structs.replace(spec, row=row) for row, spec in enumerate(kept)]
        self.values |= {spec.name: self.database.states[spec.row].value for spec in self.database.specs}
        self.database = self._database()
        self.settings = msgspec.structs.replace(self.settings, **settings)
        await self.desk.configure(self.settings, self.station(config_sha256="decaf"))

    def spec(self, row: int) -> PointSpec:
        return self.list[row]

    # --- time and the field

    async def after(self, seconds: float) -> None:
        """Move both clocks and let the desk see it."""
        self.mono += int(seconds * S)
        self.now += int(seconds * S)
        self.desk.poke()
        await self.quiet()

    def show(
        self, point: str, value: Value, quality: int = 0, *, mono: int | None = None, time_ns: int | None = None
    ) -> None:
        """The field shows a value, received now unless said otherwise."""
        row = self.database.row(point)
        assert row is not None
        state = self.database.states[row]
        state.value, state.quality = value, quality
        state.time_ns = self.now if time_ns is None else time_ns
        if mono is None:
            self.mono += 1
        self.desk.changed([row], self.mono if mono is None else mono)

    def link(self, device: str, link: Link) -> None:
        self.links[device] = link
        self.desk.link(device, link)

    async def quiet(self) -> None:
        """Until the desk has nothing more to do at this moment."""
        for _ in range(3):
            await asyncio.sleep(0)
        ledger = self.desk._ledger
        await until(
            lambda: not ledger._open and not any(p.waits for p in self.desk._sessions._points.values()), "quiet"
        )
        for _ in range(3):
            await asyncio.sleep(0)
        if ledger._open:
            await self.quiet()

    # --- requests and answers

    def request(self, stage: str, operator: str = "alice", **fields: Any) -> Request:
        given: dict[str, Any] = {
            "stage": Stage(stage),
            "operator": operator,
            "tx": str(uuid.uuid4()),
            "expires_ns": None if stage == "cancel" else self.now + 30 * S,
            "received_ns": self.now,
            "received_mono": self.mono,
        }
        return Request(**given | fields)

    async def ask(self, stage: str, operator: str = "alice", **fields: Any) -> str:
        request = self.request(stage, operator, **fields)
        await self.desk.request(request)
        return request.tx

    async def done(self, stage: str, operator: str = "alice", **fields: Any) -> Answer:
        """Ask, and wait for the end of it."""
        return await self.end(await self.ask(stage, operator, **fields))

    async def select(self, point: str = CB, value: Value = "open", operator: str = "alice", **fields: Any) -> Answer:
        """Select; the first answer."""
        tx = await self.ask("select", operator, point=point, value=value, **fields)
        await until(lambda: self.of(tx), f"an answer to the select {tx}")
        return self.of(tx)[0]

    async def operate(self, selected: Answer, **fields: Any) -> str:
        given: dict[str, Any] = {"point": selected.point, "value": selected.value, "select_id": selected.select_id}
        return await self.ask("operate", **{"operator": selected.operator} | given | fields)

    async def operated(self, selected: Answer, **fields: Any) -> str:
        """Operate, and wait until the field was asked and its answer was heard."""
        calls = self.field.count("operate")
        tx = await self.operate(selected, **fields)
        await until(lambda: self.field.count("operate") > calls, "the field is asked")
        await self.quiet()
        return tx

    def of(self, tx: str) -> list[Answer]:
        return [answer for answer in self.answers if answer.tx == tx]

    async def end(self, tx: str) -> Answer:
        """The outcome of a request; that there is only one."""
        await until(lambda: self.ends(tx), f"the end of {tx}: {self.of(tx)}")
        [one] = self.ends(tx)
        return one

    def ends(self, tx: str) -> list[Answer]:
        return [one for one in self.of(tx) if one.result is Result.DONE and not one.late and not one.duplicate]

    def late(self, tx: str) -> list[Answer]:
        return [one for one in self.of(tx) if one.late]

    # --- records

    async def audit(self) -> list[dict[str, Any]]:
        """The whole audit trail, verified."""
        await self.desk._ledger.emptied()
        assert audit_store.verify(self.folder).wrong == []
        return [json.loads(entry.record) for entry in audit_store.entries(self.folder)]

    async def words(self, tx: str) -> list[str]:
        """What the audit trail says of a request."""
        return [entry["what"] for entry in await self.audit() if entry.get("tx") == tx]

    async def events(self) -> list[dict[str, Any]]:
        """The numbered events of type control."""
        found: list[StoredEvent] = await self.journal.read(1, 10_000, 1 << 24)
        return [event for one in found if (event := json.loads(one.payload))["type"] == "control"]


async def until(condition: Callable[[], object], what: str, deadline_s: float = 10.0) -> None:
    """Wait for a condition; the journal's thread needs real time, nothing else does."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while not condition():
        assert loop.time() < end, f"not within {deadline_s:g} s: {what}"
        await asyncio.sleep(0.0005)


@contextlib.asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[Room]:
    room = Room(folder, **settings)
    await room.open()
    try:
        yield room
    finally:
        await room.close(crash=True)


def moves(room: Room, *values: Value, point: str = "") -> Callable[[Control], None]:
    """The field moves through these values as soon as it is asked (before its answer is heard)."""

    def move(cmd: Control) -> None:
        for value in values:
            room.show(point or room.spec(cmd.point).name, value)

    return move


def refused(reason: Reason) -> Reply:
    return Reply(Verdict.REFUSED, reason)


def results(answers: Sequence[Answer]) -> list[str]:
    return [f"{one.result} {one.reason}" for one in answers]


__all__ = ["Step"]
