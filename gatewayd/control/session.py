"""The life of a command on one controllable point: (session, event, now) -> (session, actions). Pure.

The table of the states stands in docs/control.md; the numbers in the comments are its rows. `now` and all deadlines
are CLOCK_MONOTONIC ns. The desk (desk.py) carries out the actions in their order and feeds back what came of them.

What holds whatever comes: a `Record` of INTENT is answered by `Ready` before anything is asked of the field; `Ask` of
an operate is issued once per operate request and never again; every request ends in exactly one `Record` of END.
"""

from __future__ import annotations

import msgspec

from gatewayd.control import feedback
from gatewayd.control.feedback import Finding, Sighting, Watch
from gatewayd.control.gates import SECOND, Refusal
from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.states import (
    SELECTS,
    UNDER_WAY,
    Action,
    Ask,
    Asked,
    Barred,
    Cancel,
    Clear,
    Direct,
    Durable,
    Ending,
    Event,
    Kind,
    Last,
    LinkDown,
    LinkUp,
    Operate,
    Order,
    Ready,
    Record,
    Refuse,
    Replied,
    Say,
    Seen,
    Select,
    Session,
    State,
    Stepped,
    Tick,
    Times,
    Undurable,
)
from gatewayd.control.types import Answer, Native, Reply, Result, Stage, Step, StepKind, Verdict
from gatewayd.points.types import Value

LINK_GRACE_NS = SECOND // 2
"""A lost link ends an operate that was asked for after so long: the driver's own word on it may be under way."""
SELECT_SHARE = 0.9
"""Of the device's own select timeout."""
PAST_SELECTS = 8
"""Ended selects whose fate is still told to an operate that comes too late."""

Stepping = tuple[Session, list[Action]]


def step(session: Session, event: Event, now: int) -> Stepping:
    """What comes of an event."""
    match event:
        case Select():
            return _select(session, event, now)
        case Direct():
            return _direct(session, event, now)
        case Operate():
            return _operate(session, event, now)
        case Cancel():
            return _cancel(session, event, now)
        case Clear():
            return _clear(session, event)
        case Durable():
            return _durable(session, event, now)
        case Ready():
            return _ready(session, event, now)
        case Undurable():
            return _undurable(session, event, now)
        case Replied():
            return _replied(session, event, now)
        case Stepped():
            return _stepped(session, event, now)
        case Seen():
            return _seen(session, event.sighting, now)
        case Barred():
            return _drop(session, event.refusal, now) if session.state in SELECTS else (session, [])
        case LinkDown():
            return _link_down(session, now)
        case LinkUp():
            return (_idle(session), []) if session.waits_for_link else (session, [])
        case Ending():
            return _ending(session, event, now)
        case Tick():
            return _tick(session, now, link_up=event.link_up)


def locked(session: Session, operator: str) -> Refusal | None:
    """Why another command cannot begin here, or anywhere in the scope of this point's lock."""
    if session.state is State.IDLE:
        return None
    if session.state in SELECTS and session.opened is not None:  # 8
        yours = session.opened.operator == operator
        reason = Reason.SELECTED_BY_YOU if yours else Reason.SELECTED_BY_OTHER
        return Refusal(reason, f"{session.point} is selected by {session.opened.operator}")
    if session.state is State.HOLD:  # 29
        return Refusal(Reason.BUSY, f"{session.point} is held after an uncertain outcome: look at it, then clear it")
    return Refusal(Reason.BUSY, f"{session.point} is {session.state}")  # 27


def progress(session: Session, operator: str, tx: str) -> Answer | None:
    """What a request that is not ended yet would be told now; None where it is not one of this session's."""
    for asked in (session.operate, session.opened, session.cancel):
        if asked is not None and (asked.operator, asked.tx) == (operator, tx):
            if session.state is State.SELECTED and session.written:
                return _answer(session, asked, Result.SELECTED, Reason.OK, Effect.NONE)
            effect = Effect.POSSIBLE if session.sent else Effect.NONE
            return _answer(session, asked, Result.ACCEPTED, Reason.BUSY, effect, detail="it is under way")
    return None


def held(point: str, order: Order, asked: Asked, watch: Watch | None, times: Times, now: int) -> Session:
    """A session that begins in HOLD: of a command that a restart has left unknown (31)."""
    last = Last(0, asked, order)
    return Session(
        point=point, state=State.HOLD, order=order, times=times, watch=watch, deadline=now + times.hold, last=last
    )


# --- requests -------------------------------------------------------------------------------------------------------


def _select(s: Session, event: Select, now: int) -> Stepping:
    refusal = event.refusal or locked(s, event.asked.operator)
    if refusal is not None:
        return s, [Refuse(event.asked, refusal)]  # 5, 8, 27, 29
    s = msgspec.structs.replace(
        _idle(s),
        state=State.SELECTING if event.order.at_device else State.SELECTED,  # 4, 3
        order=event.order,
        times=event.times,
        opened=event.asked,
        select_id=event.select_id,
        attempt=s.attempt + 1,
        deadline=now + event.times.device,
    )
    return s, [Record(Kind.SELECT, s)]


def _direct(s: Session, event: Direct, now: int) -> Stepping:
    refusal = event.refusal or locked(s, event.asked.operator)
    if refusal is not None:
        return s, [Refuse(event.asked, refusal)]
    begun = msgspec.structs.replace(_idle(s), order=event.order, times=event.times, opened=event.asked)
    return _intend(begun, now)


def _operate(s: Session, event: Operate, now: int) -> Stepping:
    asked = event.asked
    live = s.state is State.SELECTED and s.written and event.select_id == s.select_id
    if not live or s.order is None or s.opened is None:
        return s, [Refuse(asked, _fate(s, event.select_id))]  # 13, 27
    if s.opened.operator != asked.operator:
        return s, [Refuse(asked, Refusal(Reason.SELECTED_BY_OTHER, f"it was selected by {s.opened.operator}"))]  # 10
    if (event.point, event.test) != (s.point, s.order.test) or not _same(event.raw, s.order.raw):
        found, meant = _said(event.point, event.value, event.test), _said(s.point, s.order.value, s.order.test)
        refusal = Refusal(Reason.MISMATCH, f"found {found}; selected was {meant}")
        return _drop(msgspec.structs.replace(s, operate=asked), refusal, now)  # 11
    if event.refusal is not None:
        return _drop(msgspec.structs.replace(s, operate=asked), event.refusal, now)  # 12
    if event.limited:
        return s, [Refuse(asked, Refusal(Reason.RATE_LIMITED, "too many requests; the select stays"))]
    return _intend(msgspec.structs.replace(s, operate=asked), now)  # 9


def _said(point: str, value: Value, test: bool) -> str:
    return f"{point} -> {value}{' (test)' if test else ''}"


def _same(a: Value, b: Value) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _fate(s: Session, select_id: str) -> Refusal:
    """Why there is nothing to operate."""
    if s.state in UNDER_WAY and select_id == s.select_id:
        return Refusal(Reason.BUSY, f"{s.point} is {s.state}")
    for known, reason in s.past:
        if known == select_id:
            return Refusal(reason, "this select has been used" if reason is Reason.REPLAY else "this select has ended")
    if s.state in UNDER_WAY:
        return Refusal(Reason.BUSY, f"{s.point} is {s.state}")
    return Refusal(Reason.NOT_SELECTED, "no such select is live; select first")


def _cancel(s: Session, event: Cancel, now: int) -> Stepping:
    live = s.state in SELECTS and event.select_id == s.select_id
    if not live or s.opened is None:
        return s, [Refuse(event.asked, _fate(s, event.select_id))]
    if s.opened.operator != event.asked.operator:
        return s, [Refuse(event.asked, Refusal(Reason.SELECTED_BY_OTHER, f"it was selected by {s.opened.operator}"))]
    return _drop(msgspec.structs.replace(s, cancel=event.asked), Refusal(Reason.CANCELLED), now)  # 14


def _clear(s: Session, event: Clear) -> Stepping:
    if s.state is State.HOLD:  # 30
        done = _answer(s, event.asked, Result.DONE, Reason.OK, Effect.NONE)
        return _idle(s), [Record(Kind.END, s, (done,), word="clear")]
    if s.state is State.IDLE:
        done = _answer(s, event.asked, Result.DONE, Reason.OK, Effect.NONE, detail=f"{s.point} was not held")
        return s, [Record(Kind.END, s, (done,), word="clear")]
    return s, [Refuse(event.asked, Refusal(Reason.BUSY, f"{s.point} is {s.state}; only a hold can be cleared"))]


# --- the journal ----------------------------------------------------------------------------------------------------


def _intend(s: Session, now: int) -> Stepping:
    """INTENT first; nothing is asked of the field before it is on disk and the gates were asked again."""
    s = msgspec.structs.replace(
        s,
        state=State.OPERATING,
        attempt=s.attempt + 1,
        written=False,
        deadline=now + s.times.device,
    )
    return s, [Record(Kind.INTENT, s)]


def _durable(s: Session, event: Durable, now: int) -> Stepping:
    if event.attempt != s.attempt or s.state not in SELECTS or s.written or s.order is None or s.opened is None:
        return s, []
    if s.state is State.SELECTING:
        ask = Ask(Stage.SELECT, s.attempt, s.order, s.opened)
        return msgspec.structs.replace(s, written=True, deadline=now + s.times.device), [ask]
    return _selected(s, s.times.select, None, now)


def _selected(s: Session, valid_ns: int, native: Native | None, now: int) -> Stepping:
    s = msgspec.structs.replace(s, state=State.SELECTED, written=True, deadline=now + valid_ns)
    told = _answer(s, _asked(s), Result.SELECTED, Reason.OK, Effect.NONE, native=native, valid_ns=valid_ns)
    return s, [Record(Kind.STEP, s, word="selected"), Say(told)]


def _ready(s: Session, event: Ready, now: int) -> Stepping:
    if event.attempt != s.attempt or s.state is not State.OPERATING or s.written or s.order is None:
        return s, []
    order = s.order
    if event.refusal is not None:
        return _drop(msgspec.structs.replace(s, written=True), event.refusal, now)  # 12
    watch = None
    if order.goal is not None:
        watch = Watch(goal=order.goal, before=event.before, began_ns=now, began_utc_ns=event.utc_ns)
    s = msgspec.structs.replace(s, written=True, sent=True, watch=watch, deadline=now + s.times.device)
    return s, [Ask(Stage.OPERATE, s.attempt, order, _asked(s)), Record(Kind.STEP, s, word="sent")]


def _undurable(s: Session, event: Undurable, now: int) -> Stepping:
    if event.attempt != s.attempt or s.written or s.state not in (*SELECTS, State.OPERATING):
        return s, []
    return _drop(s, event.refusal, now)


# --- the field ------------------------------------------------------------------------------------------------------


def _replied(s: Session, event: Replied, now: int) -> Stepping:
    if event.attempt == s.attempt:
        match event.verb, s.state:
            case Stage.SELECT, State.SELECTING:
                return _select_replied(s, event.reply, now)
            case Stage.OPERATE, State.OPERATING:
                return _operate_replied(s, event.reply, now)
            case Stage.CANCEL, State.CANCELLING:
                return _cancel_replied(s, event.reply)
    if event.verb is Stage.OPERATE:
        return _replied_late(s, event)
    return s, []


def _select_replied(s: Session, reply: Reply, now: int) -> Stepping:
    match reply.verdict:
        case Verdict.DONE:  # 6
            valid = s.times.select
            if reply.valid_for_s is not None:
                valid = min(valid, int(reply.valid_for_s * SELECT_SHARE * SECOND))
            return _selected(s, valid, reply.native, now)
        case Verdict.REFUSED:
            return _drop(s, Refusal(reply.reason, "the device refused the select", reply.native), now)  # 7
        case Verdict.UNKNOWN:
            return _drop(s, Refusal(Reason.DEVICE_NO_ANSWER, "", reply.native), now)  # 7


def _operate_replied(s: Session, reply: Reply, now: int) -> Stepping:
    match reply.verdict:
        case Verdict.DONE:
            return _device_accepted(s, reply, now)
        case Verdict.REFUSED:
            return _end(s, reply.reason, Effect.NONE, State.IDLE, now, native=reply.native)  # 17, 20
        case Verdict.UNKNOWN:
            reason = Reason.UNKNOWN if reply.reason is Reason.OK else reply.reason
            return _end(s, reason, Effect.POSSIBLE, State.HOLD, now, native=reply.native)  # 21


def _device_accepted(s: Session, reply: Reply, now: int) -> Stepping:
    watched = s.watch is not None and s.watch.provable
    if not watched and not reply.termination:
        return _unsupervised(s, now, reply.native)  # 19
    begun = _accepted_once(s, reply.native)
    s = msgspec.structs.replace(
        s,
        state=State.SUPERVISING,
        accepted=True,
        terminating=reply.termination,
        proved_by=now + s.times.feedback if watched else None,
        ends_by=now + s.times.termination if reply.termination else None,
    )
    s, rest = _supervise(s, now)  # 18; what was seen before the reply counts
    return s, [*begun, *rest]


def _unsupervised(s: Session, now: int, native: Native | None) -> Stepping:
    """The device took it, and nothing in the field can show it."""
    detail = "it was at the target before, so the feedback proves nothing" if s.watch is not None else ""
    if s.order is not None and s.order.test:
        detail = "a test: nothing is expected to move"
    return _end(s, Reason.ACCEPTED_UNSUPERVISED, Effect.POSSIBLE, State.IDLE, now, native=native, detail=detail)


def _accepted_once(s: Session, native: Native | None) -> list[Action]:
    if s.accepted:
        return []
    told = _answer(s, _asked(s), Result.ACCEPTED, Reason.OK, Effect.POSSIBLE, native=native)
    return [Record(Kind.STEP, s, word="accepted"), Say(told)]


def _supervise(s: Session, now: int, native: Native | None = None) -> Stepping:
    """SUPERVISING: is it over, and if not, until when do we wait."""
    unproved = s.proved_by is not None and not (s.watch is not None and s.watch.reached)
    unended = s.terminating and not s.terminated
    if not unproved and not unended:
        tested = s.order is not None and s.order.test
        if tested or (s.watch is not None and not s.watch.reached):  # the device alone says that it is done
            return _unsupervised(s, now, native)
        return _end(s, Reason.OK, Effect.CONFIRMED, State.IDLE, now, native=native)  # 22
    due = [at for at, wanted in ((s.proved_by, unproved), (s.ends_by, unended)) if wanted and at is not None]
    if s.stopping and s.deadline is not None:
        due.append(s.deadline)
    return msgspec.structs.replace(s, deadline=min(due)), []


def _cancel_replied(s: Session, reply: Reply) -> Stepping:
    if s.cancel is None:
        return _idle(s), []
    detail = "" if reply.verdict is Verdict.DONE else "the device did not confirm it; its own select runs out"
    done = _answer(s, s.cancel, Result.DONE, Reason.CANCELLED, Effect.NONE, native=reply.native, detail=detail)
    return _idle(s), [Record(Kind.END, s, (done,), word="cancel")]


def _replied_late(s: Session, event: Replied) -> Stepping:
    """The answer to an operate whose outcome was given: it is told, and rewrites nothing."""
    last, reply = s.last, event.reply
    if last is None or last.attempt != event.attempt or not event.attempt:
        return s, []
    match reply.verdict:
        case Verdict.DONE:
            s = msgspec.structs.replace(s, terminating=reply.termination) if s.state is State.HOLD else s
            return s, [_late(s, last, Reason.OK, Effect.POSSIBLE, reply.native, Result.ACCEPTED)]
        case Verdict.REFUSED:
            late = _late(s, last, reply.reason, Effect.NONE, reply.native)
            return (_idle(s) if s.state is State.HOLD else s), [late]
        case Verdict.UNKNOWN:
            return s, []


def _stepped(s: Session, event: Stepped, now: int) -> Stepping:
    step = event.step
    if step.kind is StepKind.UNSELECTED:
        if s.state is State.SELECTED and event.attempt == s.attempt:
            return _end(s, Reason.DEVICE_UNSELECTED, Effect.NONE, State.IDLE, now, native=step.native)  # 16
        return s, []
    if event.attempt == s.attempt and s.state in UNDER_WAY and s.sent and s.order is not None:
        return _stepped_under_way(s, Last(s.attempt, _asked(s), s.order), step, now)
    if s.last is not None and s.last.attempt == event.attempt and event.attempt:
        return _stepped_late(s, s.last, step)
    return s, []


def _stepped_under_way(s: Session, of: Last, step: Step, now: int) -> Stepping:
    match step.kind:
        case StepKind.ACCEPTED:
            return msgspec.structs.replace(s, accepted=True), _accepted_once(s, step.native)
        case StepKind.TERMINATED_NEGATIVE:  # 23
            reason = Reason.UNKNOWN if step.reason is Reason.OK else step.reason
            return _end(s, reason, Effect.POSSIBLE, State.HOLD, now, native=step.native)
        case StepKind.TERMINATED:
            s = msgspec.structs.replace(s, terminated=True)
            return _supervise(s, now, step.native) if s.state is State.SUPERVISING else (s, [])
        case _:
            return s, [_late(s, of, step.reason, Effect.POSSIBLE, step.native, Result.ACCEPTED)]


def _stepped_late(s: Session, last: Last, step: Step) -> Stepping:
    if step.kind is StepKind.TERMINATED and s.state is State.HOLD:
        s = msgspec.structs.replace(s, terminated=True)
        if s.watch is None or s.watch.reached:
            return _idle(s), [_late(s, last, Reason.OK, Effect.CONFIRMED, step.native)]
    over = step.kind is StepKind.TERMINATED_NEGATIVE or step.reason is not Reason.OK
    result = Result.DONE if over else Result.ACCEPTED
    return s, [_late(s, last, step.reason, Effect.POSSIBLE, step.native, result)]


def _seen(s: Session, sighting: Sighting, now: int) -> Stepping:
    if s.watch is None or s.state not in (*UNDER_WAY, State.HOLD):
        return s, []
    watch, finding = feedback.look(s.watch, sighting)
    s = msgspec.structs.replace(s, watch=watch)
    match s.state, finding:
        case State.SUPERVISING, Finding.REACHED:
            return _supervise(s, now)
        case State.SUPERVISING, Finding.WRONG:  # 24
            return _end(s, Reason.WRONG_POSITION, Effect.POSSIBLE, State.HOLD, now)
        case State.HOLD, (Finding.REACHED | Finding.WRONG):
            return _hold_over(s, finding)
        case _:
            return s, []


def _hold_over(s: Session, finding: Finding) -> Stepping:
    """30: the field itself says, late, what came of it."""
    if s.last is None or (finding is Finding.REACHED and s.terminating and not s.terminated):
        return s, []  # the device has not said that it is done: not proved, and not over
    if finding is Finding.REACHED:
        return _idle(s), [_late(s, s.last, Reason.OK, Effect.CONFIRMED)]
    return _idle(s), [_late(s, s.last, Reason.WRONG_POSITION, Effect.POSSIBLE)]


# --- link, end, time ------------------------------------------------------------------------------------------------


def _link_down(s: Session, now: int) -> Stepping:
    if s.state in SELECTS:
        return _drop(s, Refusal(Reason.DEVICE_OFFLINE, "the link was lost"), now)  # 7, 16
    if s.state is State.OPERATING and s.sent:  # 21
        return msgspec.structs.replace(s, deadline=min(s.deadline or now, now + LINK_GRACE_NS)), []
    if s.state is State.CANCELLING:
        return _cancel_replied(s, Reply(Verdict.UNKNOWN, Reason.DEVICE_OFFLINE))
    return s, []  # 26: SUPERVISING keeps waiting


def _ending(s: Session, event: Ending, now: int) -> Stepping:
    if s.state in SELECTS or (s.state is State.OPERATING and not s.sent):
        return _drop(s, event.refusal, now)  # 7, 16
    if s.state in UNDER_WAY and not s.stopping:  # 28
        by = now + min(s.times.feedback, event.budget)
        return msgspec.structs.replace(s, stopping=True, deadline=min(s.deadline or by, by)), []
    return s, []


def _tick(s: Session, now: int, *, link_up: bool) -> Stepping:
    if s.deadline is None or now < s.deadline:
        return s, []
    match s.state:
        case State.SELECTED if s.written:  # 15
            return _drop(s, Refusal(Reason.SELECT_EXPIRED), now)
        case State.SELECTING if s.written:  # 7
            return _drop(s, Refusal(Reason.DEVICE_NO_ANSWER), now)
        case State.SELECTING | State.SELECTED:
            return _drop(s, Refusal(Reason.INHIBITED, "the journal did not take it in time"), now)
        case State.OPERATING if not s.sent:
            return _drop(s, Refusal(Reason.INHIBITED, "the journal did not take it in time"), now)
        case State.OPERATING:  # 21
            return _end(s, Reason.UNKNOWN, Effect.POSSIBLE, State.HOLD, now, detail="the device did not answer in time")
        case State.SUPERVISING:
            if s.stopping and not _due(s, now):  # 28
                return _end(s, Reason.UNKNOWN, Effect.POSSIBLE, State.HOLD, now, detail="the gateway ended meanwhile")
            detail = "" if s.watch is None or not s.watch.reached else "the position came, CommandTermination did not"
            return _end(s, Reason.FEEDBACK_TIMEOUT, Effect.POSSIBLE, State.HOLD, now, detail=detail)  # 25
        case State.CANCELLING:
            return _cancel_replied(s, Reply(Verdict.UNKNOWN, Reason.DEVICE_NO_ANSWER))
        case State.HOLD:  # 30; a device that does not answer may still execute what it was sent
            return (_idle(s), []) if link_up else (msgspec.structs.replace(s, deadline=None, waits_for_link=True), [])
        case _:
            return msgspec.structs.replace(s, deadline=None), []


def _due(s: Session, now: int) -> bool:
    return any(at is not None and at <= now for at in (s.proved_by, s.ends_by))


# --- ends -----------------------------------------------------------------------------------------------------------


def _asked(s: Session) -> Asked:
    """The request the command itself came with."""
    asked = s.operate or s.opened
    assert asked is not None
    return asked


def _drop(s: Session, refusal: Refusal, now: int) -> Stepping:
    """End what was not sent: effect none. A select the device may hold is taken back, as far as it can be."""
    reason, detail, native = refusal
    at_device = s.order is not None and s.order.at_device and s.opened is not None and s.opened.stage is Stage.SELECT
    asked_device = at_device and (s.state is not State.SELECTING or s.written)
    order, opened = s.order, s.opened
    if not asked_device or order is None or opened is None:
        return _end(s, reason, Effect.NONE, State.IDLE, now, native=native, detail=detail)
    s, actions = _end(s, reason, Effect.NONE, State.CANCELLING, now, native=native, detail=detail)
    return s, [Ask(Stage.CANCEL, s.attempt, order, opened), *actions]  # the device does not wait for the disk


def _end(
    s: Session,
    reason: Reason,
    effect: Effect,
    state: State,
    now: int,
    *,
    native: Native | None = None,
    detail: str = "",
) -> Stepping:
    """The one outcome of the command; of its select too, and of the cancel that ended it."""
    asked = _asked(s)
    answers = [_answer(s, asked, Result.DONE, reason, effect, native=native, detail=detail)]
    ends = (s.opened,) if s.operate is not None and s.opened is not None else ()
    cancelled = s.cancel is not None and state is not State.CANCELLING
    if cancelled and s.cancel is not None:
        answers.append(_answer(s, s.cancel, Result.DONE, Reason.CANCELLED, Effect.NONE))
    record = Record(Kind.END, s, tuple(answers), public=True, ends=ends, word="outcome")
    assert s.order is not None
    last = Last(s.attempt, asked, s.order) if s.sent else s.last
    past = s.past
    if s.select_id:
        past = ((s.select_id, _after(s, reason)), *past)[:PAST_SELECTS]
    idle = msgspec.structs.replace(_idle(s), past=past, last=last)
    if state is State.IDLE:
        return idle, [record]
    if state is State.CANCELLING:
        next_ = msgspec.structs.replace(
            idle, state=state, order=s.order, times=s.times, cancel=s.cancel, attempt=s.attempt + 1,
            deadline=now + s.times.device,
        )  # fmt: skip
        return next_, [record]
    next_ = msgspec.structs.replace(
        idle, state=state, order=s.order, times=s.times, watch=s.watch, deadline=now + s.times.hold,
        terminating=s.terminating, terminated=s.terminated,
    )  # fmt: skip
    if s.state is State.OPERATING and s.watch is not None and s.watch.reached:  # the reply was lost, the field was not
        over, rest = _hold_over(next_, Finding.REACHED)
        return over, [record, *rest]
    return next_, [record]


def _after(s: Session, reason: Reason) -> Reason:
    """What an operate of this select is told from now on."""
    if s.operate is not None and s.sent:
        return Reason.REPLAY
    return Reason.SELECT_EXPIRED if reason is Reason.SELECT_EXPIRED else Reason.NOT_SELECTED


def _idle(s: Session) -> Session:
    """Nothing is going on; what was is remembered for those who come late."""
    return Session(point=s.point, attempt=s.attempt, past=s.past, last=s.last)


def _answer(
    s: Session,
    asked: Asked,
    result: Result,
    reason: Reason,
    effect: Effect,
    *,
    native: Native | None = None,
    detail: str = "",
    valid_ns: int | None = None,
) -> Answer:
    return Answer(
        operator=asked.operator,
        tx=asked.tx,
        point=s.point,
        stage=asked.stage,
        result=result,
        reason=reason,
        effect=effect,
        native=native,
        select_id=s.select_id if result is Result.SELECTED else "",
        valid_for_s=None if valid_ns is None else valid_ns / SECOND,
        detail=detail,
        value=s.order.value if s.order is not None else None,
        reply_to=asked.reply_to,
    )


def _late(
    s: Session, of: Last, reason: Reason, effect: Effect, native: Native | None = None, result: Result = Result.DONE
) -> Record:
    """What became known of a command after its outcome, or beside it."""
    told = _answer(s, of.asked, result, reason, effect, native=native)
    told = msgspec.structs.replace(told, late=True, value=of.order.value)
    return Record(Kind.LATE, s, (told,), public=True, word="late")
