"""Random histories of the whole desk, and the rules that hold in each of them (R1 to R12 of the specification).

Two operators, three points, a device that loses and delays, a journal whose commits come when they come, kill -9 at
any moment, reloads, steps of the clock. Everything but the field, the clocks and the disk's thread is the product.
`GATEWAYD_LONG=1` runs 20,000 histories. The mutants show that these tests can fail.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gatewayd.clock import ClockState
from gatewayd.control import answers, feedback, gates, restart, seen, sessions
from gatewayd.control import session as machine
from gatewayd.control.desk import Desk, Station
from gatewayd.control.gates import Refusal
from gatewayd.control.ledger import Ledger, Step
from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.settings import ControlSettings
from gatewayd.control.states import Ask, Operate, State
from gatewayd.control.types import Answer, Control, Reply, Request, Result, Stage, StepKind, Verdict
from gatewayd.control.types import Step as DeviceStep
from gatewayd.points import quality as q
from gatewayd.points.database import Database
from gatewayd.points.expressions import compile_expression
from gatewayd.points.types import ControlMode, Link, LockScope, PointSpec
from gatewayd.points.types import Kind as PointKind
from gatewayd.store import schema
from gatewayd.store.types import JournalError

S = 1_000_000_000
LONG = bool(os.environ.get("GATEWAYD_LONG"))
CB, SIDE, LOCAL, DIRECT = "A/CB", "A/SIDE", "A/LOCAL", "A/DIRECT"
OPERATORS = ("alice", "bob")
ENDS = ("open", "closed")
SETTINGS = ControlSettings(rate_per_s=1000, rate_burst=1000, refusals_per_s=1000, refusals_burst=1000)


def station_points(*, generation: int = 0) -> list[PointSpec]:
    sbo: dict[str, Any] = {
        "kind": PointKind.DOUBLE, "device": "A", "address": "x", "control": ControlMode.SBO, "command": "y",
        "local": f"on('{LOCAL}')",
    }  # fmt: skip
    return [
        PointSpec(row=0, name=CB, feedback=CB, bay="1", lock_scope=LockScope.BAY, description=str(generation), **sbo),
        PointSpec(row=1, name=LOCAL, kind=PointKind.BINARY, device="A", address="x"),
        PointSpec(row=2, name=SIDE, feedback=SIDE, bay="1", **sbo),
        PointSpec(row=3, name=DIRECT, feedback=DIRECT, **sbo | {"control": ControlMode.DIRECT}),
    ]


HAPPENED: Counter[str] = Counter()
"""What came about in all histories: so that nobody takes an empty test for a good one."""


class MemoryJournal:
    """The journal with a disk of our own: what was submitted is done when `commit` says so, or never."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.executescript("CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;" + schema.CONTROL_TABLES)
        self.queue: deque[tuple[Any, Any, asyncio.Future[Any]]] = deque()
        self.events: list[dict[str, Any]] = []

    def submit(self, job: Any, *, reserve: bool = True, events: Any = ()) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        self.queue.append((job, events, future))
        return future

    def counters(self) -> dict[str, int]:
        return {"limit_bytes": 1 << 40}

    def commit(self) -> None:
        job, events, future = self.queue.popleft()
        self.db.execute("SAVEPOINT job")
        try:
            result = job(self.db)
        except Exception as error:
            self.db.execute("ROLLBACK TO job")
            if not future.done():
                future.set_exception(error)
        else:
            self.events += [msgspec.json.decode(event.payload) for event in events]
            if not future.done():
                future.set_result(result)
        self.db.execute("RELEASE job")

    def refuse(self) -> None:
        _, _, future = self.queue.popleft()
        if not future.done():
            future.set_exception(JournalError("disk full"))


class Asked:
    """One call of the field under way."""

    def __init__(self, verb: str, cmd: Control, name: str, utc_ns: int) -> None:
        self.verb, self.cmd, self.name, self.utc_ns = verb, cmd, name, utc_ns
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.executed = self.refused = False


TIMELESS = (Reason.EXPIRED, Reason.RETAINED)
"""Refusals that need no memory: they are given as often as the request comes."""


class Histories(RuleBasedStateMachine):
    """The rules of what may happen, and what must hold."""

    at_device = False

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now, self.mono = 1_780_000_000 * S, 1000 * S
        self.journal = MemoryJournal()
        self.link = Link.UP
        self.values: dict[str, Any] = {CB: "closed", SIDE: "closed", LOCAL: False, DIRECT: "closed"}
        self.qualities = dict.fromkeys(self.values, 0)
        self.generation = 0
        self.answers: list[Answer] = []
        self.said_before: list[Answer] = []
        self.broker = True
        self.unsent: list[tuple[Answer, Callable[[], None]]] = []
        self.history: list[Request] = []
        self.by_tx: dict[tuple[str, str], Request] = {}
        self.calls: list[Asked] = []
        self.selects: dict[str, Answer] = {}
        self.selected_by: dict[str, Request] = {}
        self.shown: Counter[str] = Counter()
        self.proofs: dict[str, bool] = {}
        self.number = 0
        self.tag_id = ""
        self.broken: list[str] = []
        self.forgotten: set[tuple[str, str]] = set()
        self.may_send = True
        self.steps = 0
        self.open()

    # --- the shell

    def run(self, work: Any = None) -> None:
        """Let the loop do this (a coroutine or a call), and all that comes of it now."""

        async def turn() -> None:
            if asyncio.iscoroutine(work):
                await work
            elif work is not None:
                work()
            for _ in range(6):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    def build(self) -> Station:
        specs = station_points(generation=self.generation)
        self.database = Database(specs)
        names = {spec.name for spec in specs}
        for spec in specs:
            state = self.database.states[spec.row]
            state.value, state.quality, state.time_ns = self.values[spec.name], self.qualities[spec.name], self.now
        return Station(
            specs=specs,
            database=self.database,
            interlocks={},
            locals={spec.row: compile_expression(spec.local, names) for spec in specs if spec.local},
            device_selects=frozenset({0, 2} if self.at_device else ()),
            protocols={"A": "iec61850" if self.at_device else "dnp3"},
            links=lambda _: self.link,
            config_sha256=str(self.generation),
        )

    def open(self) -> None:
        async def start() -> None:
            self.desk = Desk(
                SETTINGS,
                self.build(),
                journal=self.journal,  # type: ignore[arg-type]
                field=self,
                publish=self.publish,
                encode_event=lambda answer: msgspec.json.encode(
                    {"tx": answer.tx, "who": answer.operator, "reason": answer.reason, "late": answer.late}
                ),
                clock=lambda: ClockState(True),
                now_ns=lambda: self.now,
                mono_ns=lambda: self.mono,
            )
            self.may_send = False
            starting = asyncio.ensure_future(self.desk.start())
            for _ in range(3):
                await asyncio.sleep(0)
                while self.journal.queue:
                    self.journal.commit()
                    await asyncio.sleep(0)
            await starting
            self.may_send = True

        self.loop.run_until_complete(start())
        self.run()

    def publish(self, answer: Answer, taken: Callable[[], None]) -> None:
        if not self.broker:
            self.unsent.append((answer, taken))
            return
        taken()
        try:
            self.heard(answer)
        except AssertionError as error:  # the desk must not stumble over us
            self.broken.append(str(error))

    def heard(self, answer: Answer) -> None:
        self.answers.append(answer)
        if answer.result is Result.SELECTED and not answer.duplicate:
            self.selects[answer.select_id] = answer
            self.selected_by[answer.select_id] = self.by_tx[answer.operator, answer.tx]
        if answer.reason is Reason.OK and answer.effect is Effect.CONFIRMED and not answer.duplicate:
            # R6: seen in the field: good, since the write, and not there before.
            key = f"{answer.operator}/{answer.tx}"
            assert self.proofs.get(key), f"ok without proof: {answer}"

    # --- the field (the seam, as the desk sees it)

    async def _call(self, verb: str, cmd: Control) -> Reply:
        asked = Asked(verb, cmd, self.database.specs[cmd.point].name, self.now)
        self.calls.append(asked)
        if verb == "operate":
            try:
                self.check_write(asked)
            except AssertionError as error:
                self.broken.append(str(error))
        return await asked.reply

    async def select(self, cmd: Control) -> Reply:
        if not self.may_send:
            self.broken.append("R10: a select on start")
        return await self._call("select", cmd)

    async def operate(self, cmd: Control) -> Reply:
        if not self.may_send:
            self.broken.append("R10: an operate on start, reload or reconnect")
        return await self._call("operate", cmd)

    async def cancel(self, cmd: Control) -> Reply:
        return await self._call("cancel", cmd)

    def check_write(self, asked: Asked) -> None:
        """Everything that must be so at the moment of a write."""
        cmd = asked.cmd
        operator, _, tx = cmd.id.partition("/")
        assert sum(one.verb == "operate" and one.cmd.id == cmd.id for one in self.calls) == 1, "R2: written twice"
        request = self.by_tx[operator, tx]
        assert not request.retained, "R3: retained"
        assert request.expires_ns is not None
        assert self.now < request.expires_ns <= request.received_ns + 60 * S, "R3: not fresh"
        row = self.journal.db.execute(
            "SELECT open, outcome FROM requests WHERE operator = ? AND tx = ?", (operator, tx)
        ).fetchone()
        assert row is not None, "INTENT is not on disk"
        assert row == (2, None), "INTENT is not on disk, or it has its outcome already"
        if request.stage is Stage.OPERATE:
            select = self.selected_by.get(request.select_id)
            assert select is not None, "R1: no select"
            assert (select.operator, select.point) == (operator, asked.name), "R1, R5: another one's select"
            assert (cmd.value is False) == (select.value == "open") == (request.value == "open"), "R1: another value"
            assert not self.ended(select.operator, select.tx), "R1, R9: the select had ended"
            assert asked.name in (CB, SIDE, DIRECT)
        else:
            assert (request.stage, asked.name) == (Stage.DIRECT, DIRECT)
        # R11, R12: every gate, now
        assert (self.values[LOCAL], self.qualities[LOCAL]) == (False, 0), "R12: Local"
        assert self.link is Link.UP, "R12: link"
        assert not self.tag_id, "R12: tag"
        position = self.values[asked.name]
        assert q.usable(self.qualities[asked.name]), "R11: position not known"
        assert position in ENDS, "R11: position not known"
        assert (position == "open") != (cmd.value is False), "R12: already there"
        # one of n in the bay
        busy = {point.spec.name for point in self.desk._sessions.busy.values()} - {asked.name}
        assert asked.name not in (CB, SIDE) or not busy & {CB, SIDE}, "two of one bay"

    # --- requests

    def send(self, request: Request) -> None:
        self.history.append(request)
        self.by_tx.setdefault((request.operator, request.tx), request)
        self.run(self.desk.request(request))

    def request(self, stage: Stage, operator: str, fresh_s: float = 30, **fields: Any) -> Request:
        self.number += 1
        return Request(
            stage=stage,
            operator=operator,
            tx=f"{stage}{self.number}",
            expires_ns=self.now + int(fresh_s * S),
            received_ns=self.now,
            received_mono=self.mono,
            **fields,
        )

    freshness = st.sampled_from([30, 30, 30, 5, 0, -1, 61])

    @rule(operator=st.sampled_from(OPERATORS), point=st.sampled_from([CB, CB, SIDE, DIRECT]),
          value=st.sampled_from(["open", "open", "closed"]), fresh_s=freshness,
          retained=st.sampled_from([False, False, False, True]))  # fmt: skip
    def ask_select(self, operator: str, point: str, value: str, fresh_s: float, *, retained: bool) -> None:
        self.send(self.request(Stage.SELECT, operator, fresh_s, point=point, value=value, retained=retained))

    @rule(operator=st.sampled_from(OPERATORS), value=st.sampled_from(["open", "closed"]), fresh_s=freshness)
    def ask_direct(self, operator: str, value: str, fresh_s: float) -> None:
        self.send(self.request(Stage.DIRECT, operator, fresh_s, point=DIRECT, value=value))

    @precondition(lambda self: self.selects)
    @rule(data=st.data(), fresh_s=freshness, mine=st.sampled_from([True, True, True, True, False]),
          same=st.sampled_from([True, True, True, True, False]),
          retained=st.sampled_from([False, False, False, False, True]))  # fmt: skip
    def ask_operate(self, data: st.DataObject, fresh_s: float, *, mine: bool, same: bool, retained: bool) -> None:
        select = data.draw(st.sampled_from(list(self.selects.values())[-3:]), "select")
        operator = select.operator if mine else OPERATORS[select.operator == "alice"]
        value = select.value if same else "open" if select.value == "closed" else "closed"
        self.send(
            self.request(
                Stage.OPERATE, operator, fresh_s, point=select.point, value=value, select_id=select.select_id,
                retained=retained,
            )
        )  # fmt: skip
        if not mine and select.tx in {one.session.opened.tx for one in self.desk._sessions.busy.values()
                                      if one.session.opened is not None}:  # fmt: skip
            assert not self.ended(select.operator, select.tx), "R5: a stranger ended the select"

    @precondition(lambda self: self.selects)
    @rule(data=st.data(), mine=st.sampled_from([True, True, False]))
    def ask_cancel(self, data: st.DataObject, *, mine: bool) -> None:
        select = data.draw(st.sampled_from(list(self.selects.values())[-2:]), "select")
        operator = select.operator if mine else OPERATORS[select.operator == "alice"]
        self.send(self.request(Stage.CANCEL, operator, select_id=select.select_id))

    @precondition(lambda self: self.history)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        """QoS 1, a replay, an attacker: the same octets once more."""
        again = data.draw(st.sampled_from(self.history[-6:]), "again")
        again = msgspec.structs.replace(again, received_ns=self.now, received_mono=self.mono)
        if (again.operator, again.tx) in self.forgotten:
            self.forgotten.discard((again.operator, again.tx))
            self.by_tx[again.operator, again.tx] = again
        self.send(again)

    # --- longer ways, so that histories get somewhere

    def commit_all(self) -> None:
        while self.journal.queue:
            self.run(self.journal.commit)

    @rule()
    def all_is_well(self) -> None:
        self.link_changes(up=True)
        self.broker_changes(here=True)
        self.commit_all()
        if self.tag_id:
            self.tag_changes()
        for point in (CB, SIDE, DIRECT):
            if self.values[point] not in ENDS or self.qualities[point]:
                self.show(point, "closed", 0)
        self.remote()

    @rule(operator=st.sampled_from(OPERATORS), point=st.sampled_from([CB, SIDE]), well=st.booleans())
    def select_well(self, operator: str, point: str, *, well: bool) -> None:
        if well:
            self.all_is_well()
        value = "open" if self.values[point] == "closed" else "closed"
        self.send(self.request(Stage.SELECT, operator, point=point, value=value))
        self.commit_all()
        for asked in self.waiting("select"):
            self.run(lambda asked=asked: asked.reply.set_result(Reply(Verdict.DONE, valid_for_s=20.0)))

    @precondition(lambda self: self.selects)
    @rule(
        twist=st.sampled_from(["", "", "", "value", "operator"]),
        meanwhile=st.sampled_from(["", "", "", "local", "link", "moved", "wait"]),
    )
    def operate_well(self, twist: str, meanwhile: str) -> None:
        """The last select is operated, nearly right; something may happen while INTENT is on its way to the disk."""
        select = list(self.selects.values())[-1]
        operator, value = select.operator, select.value
        if twist == "operator":
            operator = OPERATORS[operator == "alice"]
        if twist == "value":
            value = "open" if value == "closed" else "closed"
        self.send(self.request(Stage.OPERATE, operator, point=select.point, value=value, select_id=select.select_id))
        match meanwhile:
            case "local":
                self.show(LOCAL, True, 0)
            case "link":
                self.link_changes(up=False)
            case "moved":
                self.show(select.point, select.value, 0)
        if meanwhile != "wait":
            self.commit_all()

    @rule(operator=st.sampled_from(OPERATORS))
    def direct_well(self, operator: str) -> None:
        self.all_is_well()
        value = "open" if self.values[DIRECT] == "closed" else "closed"
        self.send(self.request(Stage.DIRECT, operator, point=DIRECT, value=value))
        self.commit_all()

    @precondition(lambda self: self.waiting("operate"))
    @rule(termination=st.sampled_from([False, False, True]))
    def device_does_it_well(self, *, termination: bool) -> None:
        asked = self.waiting("operate")[-1]
        asked.executed = True
        self.run(lambda: asked.reply.set_result(Reply(Verdict.DONE, termination=termination)))
        self.show(asked.name, "closed" if asked.cmd.value else "open", 0)
        self.commit_all()

    # --- the disk, the field, time

    @precondition(lambda self: self.journal.queue)
    @rule(most=st.integers(1, 4))
    def disk_commits(self, most: int) -> None:
        for _ in range(min(most, len(self.journal.queue))):
            self.journal.commit()
            self.run()

    @precondition(lambda self: self.journal.queue)
    @rule()
    def disk_refuses(self) -> None:
        self.journal.refuse()
        self.run()

    def waiting(self, *verbs: str) -> list[Asked]:
        return [one for one in self.calls if one.verb in verbs and not one.reply.done()]

    @precondition(lambda self: self.waiting("select", "operate", "cancel"))
    @rule(data=st.data(), verdict=st.sampled_from([Verdict.DONE, Verdict.DONE, Verdict.REFUSED, Verdict.UNKNOWN]),
          executes=st.booleans(), termination=st.booleans())  # fmt: skip
    def device_replies(self, data: st.DataObject, verdict: Verdict, *, executes: bool, termination: bool) -> None:
        asked = data.draw(st.sampled_from(self.waiting("select", "operate", "cancel")), "asked")
        if asked.verb == "operate" and verdict is not Verdict.REFUSED:
            asked.executed = asked.executed or executes or verdict is Verdict.DONE
        elif asked.executed:
            verdict = Verdict.UNKNOWN  # a device that has moved does not say that it has not
        reason = {Verdict.DONE: Reason.OK, Verdict.REFUSED: Reason.DEVICE_BUSY, Verdict.UNKNOWN: Reason.UNKNOWN}[
            verdict
        ]
        asked.refused = verdict is Verdict.REFUSED
        asked.reply.set_result(
            Reply(verdict, reason, valid_for_s=20.0, termination=termination and asked.verb == "operate")
        )
        self.run()

    @precondition(lambda self: self.waiting("operate"))
    @rule(data=st.data())
    def device_executes_and_says_nothing(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.waiting("operate")), "asked").executed = True

    @precondition(lambda self: any(one.executed for one in self.calls))
    @rule(data=st.data(), value=st.sampled_from(["target", "target", "intermediate", "bad", "other"]),
          quality=st.sampled_from([0, 0, 0, q.QUESTIONABLE, q.TEST, q.SUBSTITUTED]),
          stale=st.sampled_from([False, False, True]))  # fmt: skip
    def field_shows(self, data: st.DataObject, value: str, quality: int, *, stale: bool) -> None:
        executed = [one for one in self.calls if one.executed]
        one = data.draw(st.sampled_from(executed[-2:]), "which")
        target, other = ("closed", "open") if one.cmd.value else ("open", "closed")
        self.show(one.name, {"target": target, "other": other}.get(value, value), quality, stale=stale)

    @rule(point=st.sampled_from([CB, SIDE, DIRECT]), value=st.sampled_from([*ENDS, "intermediate"]),
          quality=st.sampled_from([0, 0, q.INVALID]))  # fmt: skip
    def field_moves_by_itself(self, point: str, value: str, quality: int) -> None:
        self.show(point, value, quality)

    @rule(local=st.booleans(), quality=st.sampled_from([0, 0, q.QUESTIONABLE]))
    def local(self, *, local: bool, quality: int) -> None:
        self.show(LOCAL, local, quality)

    @rule()
    def remote(self) -> None:
        self.show(LOCAL, False, 0)

    def show(self, point: str, value: Any, quality: int, *, stale: bool = False) -> None:
        row = self.database.row(point)
        assert row is not None
        self.mono += 1
        stamp = self.now - 3600 * S if stale else self.now
        self.values[point], self.qualities[point] = value, quality
        state = self.database.states[row]
        state.value, state.quality, state.time_ns = value, quality, stamp
        for asked in self.calls:
            target = "closed" if asked.cmd.value else "open"
            written = (asked.verb, asked.name, value) == ("operate", point, target)
            if written and quality == 0 and stamp >= asked.utc_ns - S:
                # It shows the target, good, after the write: that is a proof (the write itself has seen it elsewhere).
                self.proofs[asked.cmd.id] = True
        self.run(lambda: self.desk.changed([row], self.mono))

    @precondition(lambda self: any(one.verb == "operate" and not one.refused for one in self.calls))
    @rule(data=st.data(), kind=st.sampled_from([StepKind.TERMINATED, StepKind.TERMINATED_NEGATIVE]))
    def device_terminates(self, data: st.DataObject, kind: StepKind) -> None:
        operates = [one for one in self.calls if one.verb == "operate" and not one.refused]
        asked = data.draw(st.sampled_from(operates[-2:]), "which")
        if kind is StepKind.TERMINATED and not asked.executed:
            return
        if kind is StepKind.TERMINATED_NEGATIVE:
            asked.executed = True
        reason = Reason.OK if kind is StepKind.TERMINATED else Reason.ABORTED_BY_TRIP
        self.run(lambda: self.desk.progress(asked.cmd.id, DeviceStep(kind, reason)))

    @rule(seconds=st.sampled_from([0.1, 1, 5, 10, 30, 60]))
    def time_passes(self, seconds: float) -> None:
        self.now += int(seconds * S)
        self.mono += int(seconds * S)
        self.run(self.desk.tick)

    @rule(seconds=st.sampled_from([-3600, 3600, -1, 1]))
    def clock_steps(self, seconds: int) -> None:
        self.now += seconds * S
        self.run(self.desk.tick)

    @rule(here=st.sampled_from([True, True, False]))
    def broker_changes(self, *, here: bool) -> None:
        self.broker = here
        unsent, self.unsent = self.unsent, []
        for answer, taken in unsent:
            self.run(lambda answer=answer, taken=taken: self.publish(answer, taken))

    @rule(up=st.booleans())
    def link_changes(self, *, up: bool) -> None:
        self.link = Link.UP if up else Link.DOWN
        self.run(lambda: self.desk.link("A", self.link))

    @rule()
    def tag_changes(self) -> None:
        body: dict[str, object] = {"remove": self.tag_id} if self.tag_id else {"set": "personal-lock", "on": "device/A"}
        self.send(self.request(Stage.TAG, "alice", body=body))
        while self.journal.queue:
            self.journal.commit()
            self.run()
        tags = list(self.desk._judge.board)
        self.tag_id = tags[0].id if tags else ""

    @rule(point_changed=st.booleans())
    def reload(self, *, point_changed: bool) -> None:
        self.generation += point_changed

        async def configure() -> None:
            configuring = asyncio.ensure_future(self.desk.configure(SETTINGS, self.build()))
            while not configuring.done():
                await asyncio.sleep(0)
                while self.journal.queue:
                    self.journal.commit()
            await configuring

        self.run(configure())  # whatever reaches the field meanwhile is judged by check_write

    @rule()
    def killed_and_started_again(self) -> None:
        self.said_before += self.answers
        for asked in self.calls:
            asked.reply.cancel()
        self.run(self.desk._sessions.close())
        self.journal.queue.clear()  # what was not committed is gone
        self.unsent.clear()
        # Not on disk, then a kill: nobody can know any more what was said, or that it was asked at all.
        self.forgotten |= {key for key in self.by_tx if not self.on_disk(*key)}
        self.answers = [
            one for one in self.answers
            if self.on_disk(one.operator, one.tx, ended=one.result is Result.DONE and not one.late)
        ]  # fmt: skip
        self.selects.clear()
        self.open()
        assert not [one for one in self.desk._sessions.busy.values() if one.session.state is not State.HOLD], "R9"

    # --- what must hold

    def ended(self, operator: str, tx: str) -> list[Answer]:
        mine = [one for one in self.answers if (one.operator, one.tx) == (operator, tx)]
        return [one for one in mine if one.result is Result.DONE and not (one.late or one.duplicate)]

    @invariant()
    def no_request_ends_twice(self) -> None:
        """But that a request nobody has to remember may come again: it is refused once more for what it is."""
        ends = Counter(
            (one.operator, one.tx)
            for one in self.answers
            if one.result is Result.DONE and not (one.late or one.duplicate or one.reason in TIMELESS)
        )
        assert all(number == 1 for number in ends.values()), f"R8: {ends.most_common(1)}"

    @invariant()
    def what_was_executed_is_never_reported_as_not_moved(self) -> None:
        for asked in self.calls:
            if asked.verb == "operate" and asked.executed:
                operator, _, tx = asked.cmd.id.partition("/")
                for answer in self.ended(operator, tx):
                    assert answer.effect is not Effect.NONE, f"R7: {answer}"

    @invariant()
    def one_select_one_write(self) -> None:
        used = Counter(
            self.by_tx[operator, tx].select_id
            for operator, _, tx in (one.cmd.id.partition("/") for one in self.calls if one.verb == "operate")
        )
        assert all(number == 1 for select_id, number in used.items() if select_id), "R2: a select used twice"

    @invariant()
    def no_rule_was_broken(self) -> None:
        assert not self.broken, self.broken

    @invariant()
    def no_fault_of_ours(self) -> None:
        assert not self.desk.counters().get("internal_errors"), "a fault in the desk"

    def teardown(self) -> None:
        """R8: let everything run out; then every request has exactly one outcome."""
        HAPPENED.update(f"called {one.verb}" for one in self.calls)
        HAPPENED.update(f"{one.result} {one.reason}{' late' if one.late else ''}" for one in self.answers)
        try:
            self.link_changes(up=True)
            self.broker_changes(here=True)
            for _ in range(8):
                while self.journal.queue:
                    self.journal.commit()
                    self.run()
                self.time_passes(60)
            self.no_request_ends_twice()
            self.what_was_executed_is_never_reported_as_not_moved()
            left = self.journal.db.execute("SELECT operator, tx FROM requests WHERE open > 0").fetchall()
            assert left == [], f"R8: no outcome on disk: {left}"
            for operator, tx in self.by_tx:
                ends = self.ended(operator, tx)
                used = [one for one in self.history if one.operator == operator and one.tx == tx]
                if used[0].stage is Stage.SELECT and self.operated(operator, tx):
                    continue  # it ends with its operate
                lost = not [one for one in self.answers if (one.operator, one.tx) == (operator, tx)]
                if not lost or self.on_disk(operator, tx):
                    again = [one for one in self.answers if (one.operator, one.tx) == (operator, tx) and one.restart]
                    assert ends or again, f"R8: {operator}/{tx} has no outcome: {ends}"
        finally:
            for asked in self.calls:
                asked.reply.cancel()
            self.run(self.desk._sessions.close())
            self.journal.db.close()
            self.loop.close()

    def operated(self, operator: str, tx: str) -> bool:
        ids = {answer.select_id for answer in self.said_before + self.answers
               if (answer.operator, answer.tx) == (operator, tx) and answer.select_id}  # fmt: skip
        return any(one.select_id in ids and one.stage is Stage.OPERATE for one in self.history)

    def on_disk(self, operator: str, tx: str, *, ended: bool = False) -> bool:
        found = self.journal.db.execute("SELECT open FROM requests WHERE operator = ? AND tx = ?", (operator, tx))
        row = found.fetchone()
        return row is not None and (row[0] == 0 or not ended)


class HistoriesAtDevice(Histories):
    """The same where the device holds the selects (IEC 61850)."""

    at_device = True


def run_histories(machine_class: type[Histories], examples: int, **more: Any) -> None:
    run_state_machine_as_test(
        machine_class,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), **more,
        ),
    )  # fmt: skip


@pytest.mark.case("F16")
@pytest.mark.timeout(7200 if LONG else 120)
@pytest.mark.parametrize("machine_class", [Histories, HistoriesAtDevice])
def test_the_rules_hold_in_random_histories(machine_class: type[Histories]) -> None:
    HAPPENED.clear()
    run_histories(machine_class, 10_000 if LONG else 100, derandomize=not LONG)
    print(dict(HAPPENED.most_common()))
    for word in ("called operate", "selected ok", "done ok", "done unknown", "done aborted-restart", "done local"):
        assert HAPPENED[word], f"{word} hardly happened: {HAPPENED}"


# --- mutants: each breaks one rule, and must be caught --------------------------------------------------------------


@contextmanager
def patched(where: Any, name: str, new: Callable[[Any], Any]) -> Iterator[None]:
    old = getattr(where, name)
    setattr(where, name, new(old))
    try:
        yield
    finally:
        setattr(where, name, old)


def retry_after_a_timeout(old: Any) -> Any:
    def tick(s: Any, now: int, *, link_up: bool) -> Any:
        if s.state is State.OPERATING and s.sent and s.deadline is not None and now >= s.deadline:
            again = msgspec.structs.replace(s, deadline=now + s.times.device)
            return again, [Ask(Stage.OPERATE, s.attempt, s.order, s.operate or s.opened)]
        return old(s, now, link_up=link_up)

    return tick


def no_dedupe(old: Any) -> Any:
    del old
    return lambda self, key: False  # noqa: ARG005


def no_dedupe_on_disk(old: Any) -> Any:
    def begin(db: sqlite3.Connection, row: Any) -> None:
        db.execute("DELETE FROM requests WHERE operator = ? AND tx = ?", (row.operator, row.tx))
        old(db, row)

    return begin


def intent_not_journaled(old: Any) -> Any:
    def write(self: Any, step: Step, *, owe: bool = False) -> Any:
        if "intend" in step.work.__code__.co_names:
            future = asyncio.get_running_loop().create_future()
            future.set_result(None)
            return future
        return old(self, step, owe=owe)

    return write


def not_bound_to_the_select(old: Any) -> Any:
    def operate(s: Any, event: Operate, now: int) -> Any:
        if s.state is State.SELECTED and s.written and event.refusal is None:
            return machine._intend(msgspec.structs.replace(s, operate=event.asked), now)
        return old(s, event, now)

    return operate


def a_timeout_reported_as_refusal(old: Any) -> Any:
    def end(s: Any, reason: Reason, effect: Effect, *more: Any, **words: Any) -> Any:
        if reason is Reason.UNKNOWN:
            reason, effect = Reason.DEVICE_NO_ANSWER, Effect.NONE
        return old(s, reason, effect, *more, **words)

    return end


def recovery_without_unknown(old: Any) -> Any:
    def judge(found: Any, now_ns: int) -> Any:
        rows = [row._replace(open=1) for row in found.open]
        return old(found._replace(open=rows), now_ns)

    return judge


def no_value_compare(old: Any) -> Any:
    def operate(s: Any, event: Operate, now: int) -> Any:
        return old(s, event._replace(raw=s.order.raw) if s.order is not None else event, now)

    return operate


def gates_only_at_the_select(old: Any) -> Any:
    del old
    return lambda self, spec, session, now_ns, synchronised: None  # noqa: ARG005


def feedback_without_quality(old: Any) -> Any:
    def look(watch: Any, sighting: Any) -> Any:
        return old(watch, sighting._replace(quality=sighting.quality & ~0x0FFFFFFF))

    return look


def ok_on_the_devices_word(old: Any) -> Any:
    def accepted(s: Any, reply: Reply, now: int) -> Any:
        s = msgspec.structs.replace(s, watch=None)
        return machine._end(s, Reason.OK, Effect.CONFIRMED, State.IDLE, now, native=reply.native)

    del old
    return accepted


def expiry_is_not_asked(old: Any) -> Any:
    del old
    return lambda expires_ns, now_ns, window_ns: None  # noqa: ARG005


def outcomes_are_rewritten(old: Any) -> Any:
    def hold_over(s: Any, finding: Any) -> Any:
        after, actions = old(s, finding)
        return after, [
            one._replace(answers=tuple(msgspec.structs.replace(answer, late=False) for answer in one.answers))
            for one in actions
        ]

    return hold_over


def local_unknown_is_remote(old: Any) -> Any:
    def local(around: Any) -> Refusal | None:
        refusal: Refusal | None = old(around)
        return None if refusal is not None and "not known for sure" in refusal.detail else refusal

    return local


def told_when_handed_over(old: Any) -> Any:
    def say(self: Any, answer: Any, taken: Callable[[], None] = lambda: None) -> None:
        old(self, answer)
        taken()

    return say


# The first six, and the one without memory below, are the seven of the specification.
MUTANTS: list[tuple[str, Any, str, Callable[[Any], Any], type[Histories]]] = [
    ("retry after a timeout", machine, "_tick", retry_after_a_timeout, Histories),
    ("INTENT not journaled", Ledger, "write", intent_not_journaled, Histories),
    ("operate not bound to the select", machine, "_operate", not_bound_to_the_select, Histories),
    ("a timeout reported as a refusal", machine, "_end", a_timeout_reported_as_refusal, Histories),
    ("recovery without unknown", restart, "judge", recovery_without_unknown, Histories),
    ("no value compare", machine, "_operate", no_value_compare, Histories),
    ("gates only at the select", sessions.Judge, "last_look", gates_only_at_the_select, Histories),
    ("feedback without quality", feedback, "look", feedback_without_quality, Histories),
    ("ok on the device's word", machine, "_device_accepted", ok_on_the_devices_word, Histories),
    ("expiry is not asked", gates, "expiry", expiry_is_not_asked, Histories),
    ("outcomes are rewritten", machine, "_hold_over", outcomes_are_rewritten, Histories),
    ("Local unknown is Remote", gates, "_local", local_unknown_is_remote, Histories),
    ("told when handed over", answers.Answers, "say", told_when_handed_over, Histories),
]


def caught(machine_class: type[Histories]) -> bool:
    try:
        run_histories(machine_class, 3000, phases=[Phase.generate], derandomize=True)
    except (AssertionError, BaseExceptionGroup):
        return True
    return False


IN_SHORT = MUTANTS if LONG else MUTANTS[:6]


@pytest.mark.parametrize(
    ("where", "name", "mutate", "machine_class"), [one[1:] for one in IN_SHORT], ids=[one[0] for one in IN_SHORT]
)
def test_each_mutant_is_caught(
    where: Any, name: str, mutate: Callable[[Any], Any], machine_class: type[Histories]
) -> None:
    with patched(where, name, mutate):
        assert caught(machine_class)


def test_the_mutant_without_memory_of_requests_is_caught() -> None:
    from gatewayd.store import commands

    with (
        patched(seen.Seen, "__contains__", no_dedupe),
        patched(sessions.Sessions, "open_request", lambda _: lambda self, key: None),  # noqa: ARG005
        patched(commands, "begin", no_dedupe_on_disk),
    ):
        assert caught(Histories)


def test_a_request_whose_records_wait_for_the_disk_is_known_all_the_while() -> None:
    """Found by `make prove`: it had ended, was not on disk yet, came again, and began anew (R8)."""
    history = HistoriesAtDevice()
    for _ in range(2):  # the second one waits behind the first
        history.ask_direct("alice", "open", 30)
        history.time_passes(5)
    again = history.history[-1]
    history.send(msgspec.structs.replace(again, received_ns=history.now, received_mono=history.mono))
    history.no_request_ends_twice()
    history.teardown()
