"""The table of the states, row by row (docs/control.md), on the pure machine."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from gatewayd.control.feedback import Goal, Mode, Sighting
from gatewayd.control.gates import Refusal
from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.session import LINK_GRACE_NS, held, locked, progress, step
from gatewayd.control.states import (
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
)  # fmt: skip
from gatewayd.control.types import Answer, Reply, Result, Stage, Step, StepKind, Verdict
from gatewayd.points import quality as q
from gatewayd.points.types import Value

S = 1_000_000_000
T0 = 100 * S
TIMES = Times(select=30 * S, device=5 * S, feedback=10 * S, termination=30 * S, hold=10 * S)
POINT = "FDR12/CB/POS"
GOAL = Goal(feedback=POINT, mode=Mode.POSITION, target="open")
DONE, ENHANCED = Reply(Verdict.DONE), Reply(Verdict.DONE, termination=True)
UNKNOWN = Reply(Verdict.UNKNOWN, Reason.UNKNOWN)


def asked(stage: Stage, operator: str = "alice", tx: str = "") -> Asked:
    return Asked(operator, tx or f"{operator}-{stage}", stage, 0)


def order(*, at_device: bool = False, goal: Goal | None = GOAL) -> Order:
    return Order(point=POINT, value="open", raw=False, sbo=True, at_device=at_device, goal=goal)


class Run:
    """A session with what it did."""

    def __init__(self) -> None:
        self.session = Session(point=POINT)
        self.now = T0
        self.done: list[Action] = []

    def __call__(self, *events: Event) -> list[Action]:
        """Feed events; the actions of the last one."""
        actions: list[Action] = []
        for event in events:
            self.session, actions = step(self.session, event, self.now)
            self.done += actions
        return actions

    @property
    def state(self) -> State:
        return self.session.state

    def select(self, *, at_device: bool = False, goal: Goal | None = GOAL, operator: str = "alice") -> list[Action]:
        event = Select(asked(Stage.SELECT, operator), order(at_device=at_device, goal=goal), TIMES, "id-1", None)
        return self(event)

    def selected(self, *, at_device: bool = False, goal: Goal | None = GOAL) -> None:
        self.select(at_device=at_device, goal=goal)
        self(Durable(self.session.attempt))
        if at_device:
            self(Replied(self.session.attempt, Stage.SELECT, DONE))
        assert self.state is State.SELECTED

    def operate(self, operator: str = "alice", raw: Value = False, refusal: Refusal | None = None) -> list[Action]:
        return self(Operate(asked(Stage.OPERATE, operator), "id-1", POINT, "open", raw, False, refusal))

    def ready(self, refusal: Refusal | None = None, before: Value = "closed") -> list[Action]:
        return self(Ready(self.session.attempt, refusal, before, 0))

    def operating(self, *, at_device: bool = False, goal: Goal | None = GOAL) -> None:
        self.selected(at_device=at_device, goal=goal)
        self.operate()
        self.ready()
        assert self.state is State.OPERATING
        assert self.session.sent

    def replied(self, reply: Reply = DONE) -> list[Action]:
        return self(Replied(self.session.attempt, Stage.OPERATE, reply))

    def supervising(self, reply: Reply = DONE) -> None:
        self.operating()
        self.replied(reply)
        assert self.state is State.SUPERVISING

    def held(self) -> None:
        self.operating()
        self.replied(UNKNOWN)
        assert self.state is State.HOLD

    def see(self, value: Value, quality: int = 0) -> list[Action]:
        self.now += 1
        return self(Seen(Sighting(value, quality, 0, self.now)))

    def tick(self, seconds: float, *, link_up: bool = True) -> list[Action]:
        self.now += int(seconds * S)
        return self(Tick(link_up))

    def stepped(self, kind: StepKind, reason: Reason = Reason.OK) -> list[Action]:
        return self(Stepped(self.session.attempt, Step(kind, reason)))


class End(NamedTuple):
    reason: Reason
    effect: Effect
    state: State


def end(run: Run, actions: list[Action]) -> End:
    """The one outcome in these actions."""
    [record] = [one for one in actions if isinstance(one, Record) and one.kind is Kind.END]
    assert record.public
    return End(record.answers[0].reason, record.answers[0].effect, run.state)


def refusals(actions: list[Action]) -> list[Reason]:
    return [one.refusal.reason for one in actions if isinstance(one, Refuse)]


def asks(actions: list[Action]) -> list[Stage]:
    return [one.verb for one in actions if isinstance(one, Ask)]


def lates(actions: list[Action]) -> list[Answer]:
    return [one.answers[0] for one in actions if isinstance(one, Record) and one.kind is Kind.LATE]


NONE, POSSIBLE, CONFIRMED = Effect.NONE, Effect.POSSIBLE, Effect.CONFIRMED


@pytest.fixture
def run() -> Run:
    return Run()


def test_row_3_a_held_select(run: Run) -> None:
    [record] = run.select()
    assert isinstance(record, Record)
    assert (record.kind, run.state) == (Kind.SELECT, State.SELECTED)
    actions = run(Durable(run.session.attempt))
    [told] = [one.answer for one in actions if isinstance(one, Say)]
    assert (told.result, told.select_id, told.valid_for_s) == (Result.SELECTED, "id-1", 30.0)
    assert run.session.deadline == T0 + 30 * S


def test_row_4_and_6_a_select_at_the_device(run: Run) -> None:
    run.select(at_device=True)
    assert run.state is State.SELECTING
    assert asks(run(Durable(run.session.attempt))) == [Stage.SELECT]
    reply = Reply(Verdict.DONE, valid_for_s=20.0)
    actions = run(Replied(run.session.attempt, Stage.SELECT, reply))
    assert run.state is State.SELECTED
    assert [one.answer.valid_for_s for one in actions if isinstance(one, Say)] == [18.0]


def test_row_5_a_gate_fails(run: Run) -> None:
    actions = run(Select(asked(Stage.SELECT), order(), TIMES, "id", Refusal(Reason.LOCAL)))
    assert (refusals(actions), run.state) == ([Reason.LOCAL], State.IDLE)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Reply(Verdict.REFUSED, Reason.LOCKED_BY_OTHER_CLIENT), Reason.LOCKED_BY_OTHER_CLIENT),
        (Reply(Verdict.UNKNOWN, Reason.UNKNOWN), Reason.DEVICE_NO_ANSWER),
        (LinkDown(), Reason.DEVICE_OFFLINE),
        (Ending(Refusal(Reason.NOT_ACTIVE), 10 * S), Reason.NOT_ACTIVE),
        (Ending(Refusal(Reason.ABORTED_SHUTDOWN), 10 * S), Reason.ABORTED_SHUTDOWN),
        (None, Reason.DEVICE_NO_ANSWER),
    ],
)
def test_row_7_selecting_ends_and_the_select_is_taken_back(run: Run, event: object, reason: Reason) -> None:
    run.select(at_device=True)
    run(Durable(run.session.attempt))
    if event is None:
        actions = run.tick(5)
    elif isinstance(event, Reply):
        actions = run(Replied(run.session.attempt, Stage.SELECT, event))
    else:
        actions = run(event)  # type: ignore[arg-type]
    assert end(run, actions) == (reason, NONE, State.CANCELLING)
    assert asks(actions) == [Stage.CANCEL]
    run(Replied(run.session.attempt, Stage.CANCEL, DONE))
    assert run.state is State.IDLE


@pytest.mark.parametrize("at_device", [False, True])
def test_row_8_a_second_select(run: Run, *, at_device: bool) -> None:
    run.select(at_device=at_device)
    before = run.session
    for operator, reason in (("alice", Reason.SELECTED_BY_YOU), ("bob", Reason.SELECTED_BY_OTHER)):
        actions = run(Select(asked(Stage.SELECT, operator, "2"), order(), TIMES, "id-2", None))
        assert refusals(actions) == [reason]
        assert run.session == before


def test_row_9_intent_before_the_write(run: Run) -> None:
    run.selected()
    [record] = run.operate()
    assert isinstance(record, Record)
    assert (record.kind, run.state, run.session.sent) == (Kind.INTENT, State.OPERATING, False)
    assert asks(run.ready()) == [Stage.OPERATE]
    assert run.session.sent
    assert run.ready() == []  # never again


def test_row_10_another_operators_operate(run: Run) -> None:
    run.selected()
    before = run.session
    assert refusals(run.operate("bob")) == [Reason.SELECTED_BY_OTHER]
    assert run.session == before


def test_row_11_and_12_the_select_goes_with_a_wrong_operate(run: Run) -> None:
    for at_device, cancels in ((False, []), (True, [Stage.CANCEL])):
        for raw, refusal, reason in ((True, None, Reason.MISMATCH), (False, Refusal(Reason.LOCAL), Reason.LOCAL)):
            other = Run()
            other.selected(at_device=at_device)
            actions = other.operate(raw=raw, refusal=refusal)
            assert end(other, actions)[:2] == (reason, NONE)
            assert asks(actions) == cancels
            [record] = [one for one in actions if isinstance(one, Record)]
            assert [one.stage for one in record.ends] == [Stage.SELECT]


def test_row_12_a_gate_that_fails_at_the_last_moment(run: Run) -> None:
    run.selected()
    run.operate()
    actions = run.ready(Refusal(Reason.INTERLOCKED))
    assert end(run, actions) == (Reason.INTERLOCKED, NONE, State.IDLE)
    assert asks(run.done) == []


def test_row_13_selects_that_are_not_live(run: Run) -> None:
    assert refusals(run.operate()) == [Reason.NOT_SELECTED]
    run.selected()
    run.tick(30)
    assert refusals(run.operate()) == [Reason.SELECT_EXPIRED]
    run.selected()
    run.operate()
    run.ready()
    run.replied(Reply(Verdict.REFUSED, Reason.LOCAL))
    assert refusals(run.operate()) == [Reason.REPLAY]


def test_row_14_cancel(run: Run) -> None:
    run.selected()
    assert refusals(run(Cancel(asked(Stage.CANCEL, "bob"), "id-1"))) == [Reason.SELECTED_BY_OTHER]
    actions = run(Cancel(asked(Stage.CANCEL), "id-1"))
    assert end(run, actions) == (Reason.CANCELLED, NONE, State.IDLE)
    [record] = [one for one in actions if isinstance(one, Record)]
    assert [(one.stage, one.reason) for one in record.answers] == [
        (Stage.SELECT, Reason.CANCELLED), (Stage.CANCEL, Reason.CANCELLED),
    ]  # fmt: skip


@pytest.mark.parametrize("reply", [DONE, UNKNOWN, None])
def test_row_14_cancel_at_the_device(run: Run, reply: Reply | None) -> None:
    run.selected(at_device=True)
    actions = run(Cancel(asked(Stage.CANCEL), "id-1"))
    assert end(run, actions) == (Reason.CANCELLED, NONE, State.CANCELLING)
    assert asks(actions) == [Stage.CANCEL]
    assert refusals(run.select()) == [Reason.BUSY]
    actions = run(Replied(run.session.attempt, Stage.CANCEL, reply)) if reply else run.tick(5)
    [record] = actions
    assert isinstance(record, Record)
    assert (record.answers[0].stage, record.answers[0].reason, record.public) == (
        Stage.CANCEL, Reason.CANCELLED, False,
    )  # fmt: skip
    assert bool(record.answers[0].detail) is (reply is not DONE)
    assert run.state is State.IDLE


@pytest.mark.parametrize("at_device", [False, True])
def test_row_15_the_select_runs_out(run: Run, *, at_device: bool) -> None:
    run.selected(at_device=at_device)
    assert run.tick(29.999) == []
    actions = run.tick(0.001)
    assert end(run, actions)[:2] == (Reason.SELECT_EXPIRED, NONE)
    assert asks(actions) == ([Stage.CANCEL] if at_device else [])


@pytest.mark.parametrize(
    "reason",
    [Reason.LOCAL, Reason.TAGGED, Reason.INHIBITED, Reason.INTERLOCKED, Reason.ABORTED_RELOAD, Reason.ABORTED_FAILOVER],
)
def test_row_16_what_a_select_does_not_survive(run: Run, reason: Reason) -> None:
    run.selected()
    assert end(run, run(Barred(Refusal(reason)))) == (reason, NONE, State.IDLE)
    other = Run()
    other.selected(at_device=True)
    actions = other(Ending(Refusal(reason), S))
    assert end(other, actions) == (reason, NONE, State.CANCELLING)
    assert asks(actions) == [Stage.CANCEL]


def test_row_16_the_device_drops_it(run: Run) -> None:
    run.selected(at_device=True)
    actions = run.stepped(StepKind.UNSELECTED)
    assert end(run, actions) == (Reason.DEVICE_UNSELECTED, NONE, State.IDLE)
    assert asks(actions) == []


@pytest.mark.parametrize("reason", [Reason.LOCAL, Reason.DEVICE_BUSY, Reason.FEEDBACK_TIMEOUT])
def test_row_17_and_20_refused_moves_nothing(run: Run, reason: Reason) -> None:
    run.operating()
    assert end(run, run.replied(Reply(Verdict.REFUSED, reason))) == (reason, NONE, State.IDLE)


def test_row_18_accepted_is_told_once(run: Run) -> None:
    run.operating()
    first = run.stepped(StepKind.ACCEPTED)
    actions = run.replied()
    told = [one.answer for one in (*first, *actions) if isinstance(one, Say)]
    assert [(one.result, one.effect) for one in told] == [(Result.ACCEPTED, POSSIBLE)]
    assert (run.state, run.session.deadline) == (State.SUPERVISING, T0 + 10 * S)


def test_row_19_without_feedback(run: Run) -> None:
    run.operating(goal=None)
    assert end(run, run.replied()) == (Reason.ACCEPTED_UNSUPERVISED, POSSIBLE, State.IDLE)


def test_row_21_no_answer_lost_link_or_an_unclear_one(run: Run) -> None:
    run.operating()
    assert run.tick(4.999) == []
    assert end(run, run.tick(0.001)) == (Reason.UNKNOWN, POSSIBLE, State.HOLD)
    other = Run()
    other.operating()
    assert other(LinkDown()) == []
    assert other.session.deadline == T0 + LINK_GRACE_NS
    assert end(other, other.tick(0.5)) == (Reason.UNKNOWN, POSSIBLE, State.HOLD)
    third = Run()
    third.operating()
    reply = Reply(Verdict.UNKNOWN, Reason.DOWNSTREAM_FAILED)
    assert end(third, third.replied(reply)) == (Reason.DOWNSTREAM_FAILED, POSSIBLE, State.HOLD)


def test_row_21_a_refusal_right_after_the_lost_link_is_believed(run: Run) -> None:
    run.operating()
    run(LinkDown())
    actions = run.replied(Reply(Verdict.REFUSED, Reason.DEVICE_OFFLINE))
    assert end(run, actions) == (Reason.DEVICE_OFFLINE, NONE, State.IDLE)


def test_row_22_the_target_is_shown(run: Run) -> None:
    run.supervising()
    run.see("intermediate")
    assert end(run, run.see("open")) == (Reason.OK, CONFIRMED, State.IDLE)


def test_row_22_enhanced_needs_both_in_any_order(run: Run) -> None:
    run.supervising(ENHANCED)
    run.see("open")
    assert run.state is State.SUPERVISING
    assert end(run, run.stepped(StepKind.TERMINATED)) == (Reason.OK, CONFIRMED, State.IDLE)
    other = Run()
    other.operating()
    other.stepped(StepKind.TERMINATED)  # faster than the answer
    other.replied(ENHANCED)
    assert end(other, other.see("open")) == (Reason.OK, CONFIRMED, State.IDLE)


def test_row_22_termination_alone_where_no_feedback_is_configured(run: Run) -> None:
    run.operating(goal=None)
    run.replied(ENHANCED)
    assert end(run, run.stepped(StepKind.TERMINATED)) == (Reason.OK, CONFIRMED, State.IDLE)


def test_what_was_there_before_proves_nothing(run: Run) -> None:
    for before in ("open", None):
        other = Run()
        other.selected()
        other.operate()
        other.ready(before=before)
        other.see("open")
        assert end(other, other.replied()) == (Reason.ACCEPTED_UNSUPERVISED, POSSIBLE, State.IDLE)
        third = Run()
        third.selected()
        third.operate()
        third.ready(before=before)
        third.replied(ENHANCED)
        assert end(third, third.stepped(StepKind.TERMINATED)) == (Reason.ACCEPTED_UNSUPERVISED, POSSIBLE, State.IDLE)


def test_row_23_negative_termination(run: Run) -> None:
    run.supervising(ENHANCED)
    actions = run.stepped(StepKind.TERMINATED_NEGATIVE, Reason.ABORTED_BY_TRIP)
    assert end(run, actions) == (Reason.ABORTED_BY_TRIP, POSSIBLE, State.HOLD)


def test_row_24_back_where_it_was(run: Run) -> None:
    run.supervising()
    assert run.see("closed") == []
    run.see("intermediate", q.QUESTIONABLE)
    assert run.see("closed") == []  # what is not good is no movement
    run.see("intermediate")
    assert end(run, run.see("closed")) == (Reason.WRONG_POSITION, POSSIBLE, State.HOLD)


def test_row_25_and_26_no_feedback_in_time(run: Run) -> None:
    run.supervising()
    assert run(LinkDown()) == []
    assert run.tick(9.999) == []
    assert end(run, run.tick(0.001)) == (Reason.FEEDBACK_TIMEOUT, POSSIBLE, State.HOLD)


def test_row_25_termination_is_missing(run: Run) -> None:
    run.supervising(ENHANCED)
    run.see("open")
    assert run.tick(29.9) == []
    actions = run.tick(0.1)
    assert end(run, actions) == (Reason.FEEDBACK_TIMEOUT, POSSIBLE, State.HOLD)


@pytest.mark.parametrize("state", ["operating", "supervising"])
def test_row_27_what_comes_meanwhile_is_busy(run: Run, state: str) -> None:
    getattr(run, state)()
    before = run.session
    assert refusals(run.select()) == [Reason.BUSY]
    assert refusals(run(Direct(asked(Stage.DIRECT, "bob"), order(), TIMES, None))) == [Reason.BUSY]
    again = Operate(asked(Stage.OPERATE, tx="again"), "id-1", POINT, "open", False, False, None)
    assert refusals(run(again)) == [Reason.BUSY]
    assert refusals(run(Cancel(asked(Stage.CANCEL), "id-1"))) == [Reason.BUSY]
    assert refusals(run(Clear(asked(Stage.CLEAR)))) == [Reason.BUSY]
    assert run.session == before


@pytest.mark.parametrize("state", ["operating", "supervising"])
def test_row_28_the_end_of_the_gateway(run: Run, state: str) -> None:
    getattr(run, state)()
    run(Ending(Refusal(Reason.ABORTED_SHUTDOWN), 2 * S))
    run(Ending(Refusal(Reason.ABORTED_SHUTDOWN), 2 * S))
    assert run.tick(1.9) == []
    assert end(run, run.tick(0.1)) == (Reason.UNKNOWN, POSSIBLE, State.HOLD)
    other = Run()
    getattr(other, state)()
    other(Ending(Refusal(Reason.ABORTED_SHUTDOWN), 2 * S))
    actions = [*other.see("open"), *(other.replied() if state == "operating" else [])]
    assert end(other, actions) == (Reason.OK, CONFIRMED, State.IDLE)


def test_row_28_what_was_not_sent_yet_is_not_sent_any_more(run: Run) -> None:
    run.selected()
    run.operate()
    actions = run(Ending(Refusal(Reason.ABORTED_SHUTDOWN), S))
    assert end(run, actions) == (Reason.ABORTED_SHUTDOWN, NONE, State.IDLE)
    assert run.ready() == []


def test_row_29_and_30_hold(run: Run) -> None:
    run.held()
    assert refusals(run.select()) == [Reason.BUSY]
    assert run.tick(9.9) == []
    run.tick(0.1)
    assert run.state is State.IDLE


def test_row_30_the_field_ends_the_hold_and_is_told_late(run: Run) -> None:
    run.held()
    assert run.see("closed") == []  # where it was: it may still move
    assert run.state is State.HOLD
    run.see("intermediate")
    [late] = lates(run.see("open"))
    assert (late.late, late.reason, late.effect, late.stage) == (True, Reason.OK, CONFIRMED, Stage.OPERATE)
    assert run.state is State.IDLE
    other = Run()
    other.held()
    other.see("intermediate")
    [late] = lates(other.see("closed"))
    assert (late.reason, late.effect) == (Reason.WRONG_POSITION, POSSIBLE)


def test_row_30_a_device_that_is_away_keeps_the_hold(run: Run) -> None:
    run.held()
    run.tick(10, link_up=False)
    run.tick(3600, link_up=False)
    assert run.state is State.HOLD
    run(LinkUp())
    assert run.state is State.IDLE


def test_row_30_clear(run: Run) -> None:
    run.held()
    [record] = run(Clear(asked(Stage.CLEAR, "bob")))
    assert isinstance(record, Record)
    assert (record.answers[0].reason, record.public, run.state) == (Reason.OK, False, State.IDLE)


def test_row_31_a_hold_after_a_restart(run: Run) -> None:
    from gatewayd.control.feedback import Watch

    watch = Watch(goal=GOAL, before="closed")
    run.session = held(POINT, order(), asked(Stage.OPERATE), watch, TIMES, T0)
    assert refusals(run.select()) == [Reason.BUSY]
    assert run(Replied(0, Stage.OPERATE, DONE)) == []
    [late] = lates(run.see("open"))
    assert (late.tx, late.reason) == ("alice-operate", Reason.OK)


def test_late_words_of_an_older_command_do_not_touch_the_new_one(run: Run) -> None:
    run.held()
    old = run.session.attempt
    run.tick(10)
    run.selected()
    run.operate()
    run.ready()
    before = run.session
    [late] = lates(run(Replied(old, Stage.OPERATE, DONE)))
    assert (late.result, late.late) == (Result.ACCEPTED, True)
    assert lates(run(Stepped(old, Step(StepKind.TERMINATED))))[0].effect is POSSIBLE
    assert run.session == before


def test_a_journal_that_refuses_or_hangs(run: Run) -> None:
    run.select()
    refusal = Refusal(Reason.INHIBITED)
    assert end(run, run(Undurable(run.session.attempt, refusal))) == (Reason.INHIBITED, NONE, State.IDLE)
    assert run(Durable(run.session.attempt)) == []
    other = Run()
    other.selected()
    other.operate()
    assert end(other, other.tick(5)) == (Reason.INHIBITED, NONE, State.IDLE)
    assert other.ready() == []
    assert asks(other.done) == []


def test_a_direct_command_that_is_refused_at_the_last_moment_cancels_nothing(run: Run) -> None:
    run(Direct(asked(Stage.DIRECT), order(at_device=True), TIMES, None))
    actions = run.ready(Refusal(Reason.LOCAL))
    assert end(run, actions) == (Reason.LOCAL, NONE, State.IDLE)
    assert asks(actions) == []


def test_locks_and_progress_say_what_goes_on(run: Run) -> None:
    assert locked(run.session, "alice") is None
    run.selected()
    assert locked(run.session, "bob") == (Reason.SELECTED_BY_OTHER, f"{POINT} is selected by alice", None)
    found = progress(run.session, "alice", "alice-select")
    assert found is not None
    assert (found.result, found.select_id) == (Result.SELECTED, "id-1")
    assert progress(run.session, "bob", "alice-select") is None
    run.operate()
    found = progress(run.session, "alice", "alice-operate")
    assert found is not None
    assert (found.result, found.effect, found.select_id) == (Result.ACCEPTED, NONE, "")
