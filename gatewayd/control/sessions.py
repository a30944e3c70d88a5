"""The sessions of all points, and what they want done: journaled, asked of the field, said. In order for each point.

What a point wants done is carried out one after the other up to what has to reach the disk first; different points
never wait for each other. INTENT is on disk before the gates are asked for the last time, and the field is asked in
the same turn of the loop.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog

from gatewayd import failpoint
from gatewayd.control import session as machine
from gatewayd.control.answers import Answers, done
from gatewayd.control.audit import Moment
from gatewayd.control.feedback import Watch
from gatewayd.control.gates import SECOND, Refusal
from gatewayd.control.judge import Judge
from gatewayd.control.ledger import Ledger, Step, ended, row
from gatewayd.control.reasons import Reason
from gatewayd.control.restart import Held
from gatewayd.control.seen import Key
from gatewayd.control.states import (
    SELECTS,
    UNDER_WAY,
    Action,
    Ask,
    Asked,
    Barred,
    Durable,
    Event,
    Kind,
    LinkDown,
    LinkUp,
    Order,
    Ready,
    Record,
    Refuse,
    Replied,
    Say,
    Seen,
    Session,
    State,
    Stepped,
    Tick,
    Undurable,
)
from gatewayd.control.station import Field, Grounds
from gatewayd.control.types import Answer, Control, Native, Reply, Stage, Verdict
from gatewayd.control.types import Step as DeviceStep
from gatewayd.points.types import Link, PointSpec
from gatewayd.store import commands
from gatewayd.store.journal import NewEvent

log = structlog.get_logger("control")

MOST_IDS = 4096
"""Commands and selects whose later steps, or late operates, still find their point."""

T = TypeVar("T")


class Point:
    """A commanded point: its session, and what is to be done for it, in order.

    waits: something has to reach the disk before the next; rows: whose changes concern it; keys: its open requests
    """

    __slots__ = ("keys", "rows", "session", "spec", "todo", "waits")

    def __init__(self, spec: PointSpec) -> None:
        self.spec = spec
        self.session = Session(point=spec.name)
        self.todo: deque[Action] = deque()
        self.waits = False
        self.rows: set[int] = set()
        self.keys: set[Key] = set()


class Sessions:
    """See above. encode_event: the payload of an outcome's event; wake: called when a deadline may be nearer."""

    def __init__(
        self,
        judge: Judge,
        ledger: Ledger,
        answers: Answers,
        field: Field,
        *,
        encode_event: Callable[[Answer], bytes],
        wake: Callable[[], None],
        moment: Callable[[], Moment],
        now_ns: Callable[[], int],
        mono_ns: Callable[[], int],
    ) -> None:
        self._judge = judge
        self._ledger = ledger
        self._answers = answers
        self._field = field
        self._encode_event = encode_event
        self._wake = wake
        self._moment = moment
        self._now_ns = now_ns
        self._mono_ns = mono_ns
        self._points: dict[str, Point] = {}
        self._by_row: dict[int, list[Point]] = {}
        self._by_key: dict[Key, Point] = {}
        self._select_ids: OrderedDict[str, str] = OrderedDict()
        self._commands: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._review: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone: list[Key] = []
        self.busy: dict[str, Point] = {}
        """The points that are not IDLE."""
        self.count: Counter[str] = Counter()

    # --- finding points ---------------------------------------------------------------------------------------------

    def point(self, spec: PointSpec) -> Point:
        """The point, made where it was never commanded before."""
        point = self._points.get(spec.name)
        if point is None:
            point = self._points[spec.name] = Point(spec)
        return point

    def selected(self, select_id: str) -> Point | None:
        """The point a select, live or ended not long ago, belongs to."""
        return self._points.get(self._select_ids.get(select_id, ""))

    def open_request(self, key: Key) -> Point | None:
        """The point with this request under way."""
        return self._by_key.get(key)

    def sessions(self) -> list[Session]:
        """Everything that goes on."""
        return [point.session for point in self.busy.values()]

    @property
    def under_way(self) -> bool:
        """Something still has to get its outcome, or its word said."""
        return any(
            point.todo or point.waits or point.session.state in (*SELECTS, *UNDER_WAY, State.CANCELLING)
            for point in self._points.values()
        )

    # --- events -----------------------------------------------------------------------------------------------------

    def feed(self, point: Point, event: Event) -> None:
        """Give a session an event, and have done what comes of it."""
        point.session, actions = machine.step(point.session, event, self._mono_ns())
        self._settle(point)
        for action in actions:
            if isinstance(action, Refuse):  # changes nothing here, and so waits for nothing
                self._answers.refused(action.asked, done(action.asked, action.refusal, point.spec.name))
            else:
                self._queue(point, action)
        self._carry_out(point)

    def _queue(self, point: Point, action: Action) -> None:
        """To be done in its turn. Its requests are known from now on: none may begin anew while the disk waits."""
        if isinstance(action, Record):
            for asked in _goes_on_record(action):
                self._gone += self._answers.remember(asked)
        point.todo.append(action)

    def _forget(self) -> list[Key]:
        """Requests that had to be forgotten for others; the next step takes them out of the journal."""
        gone, self._gone = self._gone, []
        return gone

    def feed_all(self, event: Event) -> None:
        """The same to all sessions."""
        for point in list(self.busy.values()):
            self.feed(point, event)

    def tick(self) -> None:
        """Give those their Tick whose deadline has come."""
        now = self._mono_ns()
        for point in list(self.busy.values()):
            deadline = point.session.deadline
            if deadline is not None and deadline <= now:
                self.feed(point, Tick(link_up=self._link_up(point)))

    def _link_up(self, point: Point) -> bool:
        grounds = self._judge.grounds
        gone = point.spec.name not in grounds.specs  # nobody will ever hear of it again
        return gone or grounds.station.links(point.spec.device) is Link.UP

    def next_deadline(self) -> int | None:
        """CLOCK_MONOTONIC ns of the next Tick."""
        deadlines = [point.session.deadline for point in self.busy.values() if point.session.deadline is not None]
        return min(deadlines, default=None)

    def changed(self, rows: Iterable[int], mono_ns: int) -> None:
        """The database took a batch that was received at `mono_ns`; called for every batch of every device."""
        watched = self._by_row
        if not watched:
            return
        rows = list(rows)
        if watched.keys().isdisjoint(rows):
            return
        for at in rows:
            for point in tuple(watched.get(at, ())):
                self._look(point, mono_ns)

    def _look(self, point: Point, mono_ns: int) -> None:
        session = point.session
        if session.state in SELECTS:
            self.review_soon([point.spec.name])
        elif session.watch is not None:
            sighting = self._judge.grounds.sighting(session.watch.goal.feedback, mono_ns)
            if sighting is not None:
                self.feed(point, Seen(sighting))

    def review_soon(self, names: Iterable[str]) -> None:
        """Look at the gates of these selects after this turn: a lost link marks the points first, and is the reason."""
        if not self._review:
            asyncio.get_running_loop().call_soon(self.review)
        self._review.update(names)

    def review(self) -> None:
        """End the selects that no longer stand (row 16)."""
        names, self._review = self._review, set()
        for name in names:
            point = self.busy.get(name)
            if point is None or point.session.state not in SELECTS:
                continue
            refusal = self._judge.standing(point.spec, point.session)
            if refusal is not None:
                self.feed(point, Barred(refusal))

    def review_rights(self) -> None:
        """End the selects whose operators may no longer."""
        for point in list(self.busy.values()):
            session = point.session
            if session.state in SELECTS and session.opened is not None and session.order is not None:
                refusal = self._judge.may(session.opened.operator, point.spec, test=session.order.test)
                if refusal is not None:
                    self.feed(point, Barred(refusal))

    def link(self, device: str, *, up: bool) -> None:
        """A device's link has changed."""
        for point in list(self.busy.values()):
            if point.spec.device == device:
                self.feed(point, LinkUp() if up else LinkDown())

    def progress(self, command_id: str, step: DeviceStep) -> None:
        """A later word of a device on a command."""
        name, attempt = self._commands.get(command_id, ("", 0))
        point = self._points.get(name)
        if point is None:
            self.count["foreign_steps"] += 1
            return
        self.feed(point, Stepped(attempt, step))

    def configure(self, before: Grounds) -> None:
        """`judge.grounds` has changed: selects of points that mean something else now end."""
        after = self._judge.grounds
        for name, point in list(self._points.items()):
            spec = after.specs.get(name)
            if spec is None or not after.unchanged(name, before):
                self.feed(point, Barred(Refusal(Reason.ABORTED_RELOAD, "the point was configured anew")))
            if spec is not None:
                point.spec = spec
            self._settle(point)
        self.review_soon(name for name, point in self.busy.items() if point.session.state in SELECTS)

    # --- after a restart --------------------------------------------------------------------------------------------

    def hold(self, held: Iterable[Held]) -> None:
        """Points of commands that are left unknown are held."""
        grounds, now = self._judge.grounds, self._mono_ns()
        for asked, order, before in held:
            spec = grounds.specs.get(order.point)
            if spec is None:
                continue
            point = self.point(spec)
            watch = None
            if order.goal is not None:
                watch = Watch(goal=order.goal, before=before, began_utc_ns=asked.received_ns)
            point.session = machine.held(spec.name, order, asked, watch, grounds.times(spec), now)
            self._settle(point)

    # --- carrying out -----------------------------------------------------------------------------------------------

    def _settle(self, point: Point) -> None:
        """Keep the indexes in step with a session that has changed."""
        session, name = point.session, point.spec.name
        keys = {(one.operator, one.tx) for one in (session.opened, session.operate, session.cancel) if one is not None}
        if keys != point.keys:
            for key in point.keys - keys:
                del self._by_key[key]
            self._by_key.update(dict.fromkeys(keys, point))
            point.keys = keys
        if session.state is State.IDLE:
            self.busy.pop(name, None)
        else:
            self.busy[name] = point
        if session.select_id:
            _remember(self._select_ids, session.select_id, name)
        self._watch(point)
        self._wake()

    def _watch(self, point: Point) -> None:
        session, grounds = point.session, self._judge.grounds
        wanted: set[int] = set()
        if session.state in SELECTS:
            wanted = grounds.inputs(point.spec)
        elif session.watch is not None and (at := grounds.row(session.watch.goal.feedback)) is not None:
            wanted = {at}
        for old in point.rows - wanted:
            self._by_row[old].remove(point)
            if not self._by_row[old]:
                del self._by_row[old]
        for new in wanted - point.rows:
            self._by_row.setdefault(new, []).append(point)
        point.rows = wanted

    def _carry_out(self, point: Point) -> None:
        """Do what is to be done, in order, up to what has to reach the disk first."""
        while point.todo and not point.waits:
            match point.todo.popleft():
                case Say(answer):
                    self._answers.say(answer)
                case Ask() as ask:
                    self.spawn(self._ask(point, ask), f"{ask.verb} {point.spec.name}")
                case Record(kind=Kind.STEP) as record:
                    self._ledger.note(self._moment().step(record))
                    self._ledger.flush_soon()
                case Record(kind=Kind.SELECT) as record:
                    self._put_select(point, record)
                case Record(kind=Kind.INTENT) as record:
                    self._put_intent(point, record)
                case Record() as record:
                    self._put_answers(point, record)
                case Refuse():
                    raise AssertionError("refusals are answered by feed")

    def _put_select(self, point: Point, record: Record) -> None:
        session = record.session
        assert session.opened is not None
        gone = self._forget()
        stored = row(session.opened, session.point, commands.SELECTED, session.order)

        def work(db: sqlite3.Connection) -> None:
            commands.forget(db, gone)
            commands.begin(db, stored)

        def put(error: BaseException | None) -> None:
            failpoint.here("control-after-select")
            attempt = session.attempt
            self.feed(point, Durable(attempt) if error is None else Undurable(attempt, _not_on_record(error)))

        self.count["selects"] += 1
        self._wait_for(point, Step(work, [self._moment().step(record)]), put)

    def _put_intent(self, point: Point, record: Record) -> None:
        session = record.session
        asked = session.operate or session.opened
        assert asked is not None
        before = self._judge.before(point.spec, session.order)
        gone = self._forget()
        stored = row(asked, session.point, commands.INTENDED, session.order, before)
        select_tx = session.opened.tx if session.operate is not None and session.opened is not None else ""

        def work(db: sqlite3.Connection) -> None:
            commands.forget(db, gone)
            commands.intend(db, stored, select_tx)

        def put(error: BaseException | None) -> None:
            failpoint.here("control-after-intent")
            if error is not None:
                self.feed(point, Undurable(session.attempt, _not_on_record(error)))
            else:
                self.spawn(self._write(point, session), f"write {point.spec.name}")

        self._wait_for(point, Step(work, [self._moment().step(record)]), put)

    def _put_answers(self, point: Point, record: Record) -> None:
        """Outcomes, or what became known later: journaled, then said."""
        now_ns, late = self._now_ns(), record.kind is Kind.LATE
        answers = [msgspec.structs.replace(answer, time_ns=now_ns) for answer in record.answers]
        first = answers[0]
        rows, silent, gone = [], [], self._forget()
        if not late:
            for answer in answers:
                asked = _asked(record, answer)
                self._answers.knows(asked, answer)
                rows.append(ended(asked, answer))
            for asked in record.ends:
                self._answers.knows(asked, first)
                silent.append(ended(asked, first))
        if record.public:
            self.count["late" if late else f"outcome_{first.effect}"] += 1
            self._answers.reasons[first.reason] += 1

        def work(db: sqlite3.Connection) -> None:
            commands.forget(db, gone)
            commands.end(db, rows)
            commands.end(db, silent, silently=True)

        failpoint.here("control-before-outcome")
        bodies = [self._moment().answer(record.word, answer) for answer in answers]
        events = [self.event(first)] if record.public else []
        self._wait_for(point, Step(work, bodies, events), partial(self._answers_put, answers, late), owe=True)

    def _answers_put(self, answers: list[Answer], late: bool, error: BaseException | None) -> None:
        failpoint.here("control-after-outcome")
        for answer in answers:
            if error is None:
                self._answers.said(answer, stored=not late)
            else:  # the outcome is owed to the disk, but not kept from the operator
                detail = f"{answer.detail}; " if answer.detail else ""
                owed = msgspec.structs.replace(answer, detail=f"{detail}not on record yet: {error}")
                self._answers.said(owed, stored=not late)

    def _wait_for(
        self, point: Point, step: Step, then: Callable[[BaseException | None], None], *, owe: bool = False
    ) -> None:
        """What comes next for this point waits until the step is on disk, or is known not to get there."""
        point.waits = True

        def written(future: asyncio.Future[None]) -> None:
            point.waits = False
            self._wake()
            then(future.exception())
            self._carry_out(point)

        self._ledger.write(step, owe=owe).add_done_callback(written)

    def event(self, answer: Answer) -> NewEvent:
        """An outcome as a numbered event."""
        spec = self._judge.grounds.specs.get(answer.point)
        return NewEvent("control", spec.device if spec is not None else "", self._encode_event(answer), answer.time_ns)

    # --- the field --------------------------------------------------------------------------------------------------

    async def _write(self, point: Point, intended: Session) -> None:
        """INTENT is on disk: ask the gates once more, and the field in the same breath."""
        moment = self._moment()
        refusal = self._judge.last_look(point.spec, intended, moment.time_ns, synchronised=moment.synchronised)
        before = self._judge.before(point.spec, intended.order)
        event = Ready(intended.attempt, refusal, before, moment.time_ns)
        point.session, actions = machine.step(point.session, event, self._mono_ns())
        self._settle(point)
        operates = [one for one in actions if isinstance(one, Ask) and one.verb is Stage.OPERATE]
        for action in actions:
            if action not in operates:
                self._queue(point, action)
        self._carry_out(point)
        for ask in operates:
            self.count["operations"] += 1
            await self._ask(point, ask)

    async def _ask(self, point: Point, ask: Ask) -> None:
        """Ask the field, and give the session its answer."""
        control = self._control(point.spec, ask.order, ask.asked)
        _remember(self._commands, control.id, (point.spec.name, ask.attempt))
        reply = await self._reply(ask.verb, control)
        if ask.verb is Stage.OPERATE:
            failpoint.here("control-after-write")
        self.feed(point, Replied(ask.attempt, ask.verb, reply))

    def _control(self, spec: PointSpec, order: Order, asked: Asked) -> Control:
        return Control(
            id=f"{asked.operator}/{asked.tx}",
            point=spec.row,
            value=order.raw,
            operator=asked.operator,
            sbo=order.sbo,
            not_after_ns=self._mono_ns() + int(self._judge.settings.send_within_s * SECOND),
            test=order.test,
        )

    async def _reply(self, verb: Stage, control: Control) -> Reply:
        try:
            match verb:
                case Stage.SELECT:
                    return await self._field.select(control)
                case Stage.OPERATE:
                    return await self._field.operate(control)
                case _:
                    return await self._field.cancel(control)
        except Exception as error:  # the drivers' side never raises; if it does, nobody knows what went out
            log.exception("the field raised", command=control.id)
            self.count["internal_errors"] += 1
            return Reply(Verdict.UNKNOWN, Reason.UNKNOWN, Native("gatewayd", 0, type(error).__name__))

    # --- tasks ------------------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Do something beside; a fault in it is logged and counted."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the desk failed", task=task.get_name(), cause=repr(error))
            self.count["internal_errors"] += 1

    async def close(self) -> None:
        """End what still waits for the field."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def _asked(record: Record, answer: Answer) -> Asked:
    """The request an answer of a record belongs to."""
    session = record.session
    for asked in (session.operate, session.opened, session.cancel):
        if asked is not None and (asked.operator, asked.tx) == (answer.operator, answer.tx):
            return asked
    return Asked(answer.operator, answer.tx, answer.stage, answer.time_ns, answer.reply_to)


def _goes_on_record(record: Record) -> list[Asked]:
    """The requests that a record puts into the journal."""
    session = record.session
    match record.kind:
        case Kind.SELECT | Kind.INTENT:
            asked = session.operate or session.opened
            return [asked] if asked is not None else []
        case Kind.END:
            return [_asked(record, answer) for answer in record.answers]
        case _:
            return []


def _not_on_record(error: BaseException) -> Refusal:
    if isinstance(error, sqlite3.IntegrityError):
        return Refusal(Reason.REPLAY, "this tx was used before")
    return Refusal(Reason.INHIBITED, f"it cannot be put on record: {error}")


def _remember(index: OrderedDict[str, T], key: str, value: T) -> None:
    index[key] = value
    index.move_to_end(key)
    while len(index) > MOST_IDS:
        index.popitem(last=False)
