"""A client that makes up operators' names fills neither the memory nor the audit trail. Pure."""

from __future__ import annotations

import pytest

from gatewayd.control import rates, seen
from gatewayd.control.rates import SECOND, Limits, Put, Rates
from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.seen import KEPT_NS, Seen
from gatewayd.control.types import Answer, Result, Stage

LIMITS = Limits(rate_per_s=5, burst=20, refusals_per_s=2, refusals_burst=20)


def answer(operator: str, tx: str) -> Answer:
    return Answer(
        tx=tx, operator=operator, point="P", stage=Stage.SELECT, result=Result.DONE,
        reason=Reason.NOT_AUTHORISED, effect=Effect.NONE,
    )  # fmt: skip


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "MOST_OF_ALL", 10)
    monkeypatch.setattr(seen, "MOST_COUNTED_OF_ALL", 10)


@pytest.mark.usefixtures("few")
def test_of_all_names_together_the_quietest_are_forgotten_first() -> None:
    kept = Seen()
    kept.record(("alice", "1"), 0)
    for number in range(9):
        assert kept.record((f"made-up-{number}", "1"), number) == []
    kept.record(("alice", "2"), 100)  # one too many, and alice is the last who asked
    assert ("alice", "1") in kept
    assert ("alice", "2") in kept
    assert ("made-up-0", "1") not in kept
    assert kept.evicted == 1
    gone = kept.record(("made-up-0", "1"), 101)
    assert gone == [("made-up-1", "1")]


@pytest.mark.usefixtures("few")
def test_the_same_of_what_was_only_counted_and_one_moves_to_the_record() -> None:
    kept = Seen()
    for number in range(25):
        kept.count((f"made-up-{number}", "1"), number, answer(f"made-up-{number}", "1"))
    assert sum((f"made-up-{number}", "1") in kept for number in range(25)) == 10
    kept.record(("made-up-24", "1"), 30)
    for number in range(25, 35):
        kept.count((f"made-up-{number}", "1"), number, answer(f"made-up-{number}", "1"))
    assert sum((f"made-up-{number}", "1") in kept for number in range(25, 35)) == 10
    assert ("made-up-24", "1") in kept


def test_names_that_are_forgotten_leave_nothing() -> None:
    kept = Seen()
    for number in range(50):
        kept.record((f"made-up-{number}", "1"), 0)
        kept.count((f"other-{number}", "1"), 0, answer(f"other-{number}", "1"))
    assert len(kept.age(KEPT_NS + 1, 200 * SECOND, SECOND, 1000)) == 50
    assert (len(kept._recorded), len(kept._counted)) == (0, 0)
    assert (kept._recorded_of_all, kept._counted_of_all) == (0, 0)


def test_refusals_of_made_up_names_are_recorded_at_a_rate_of_all_together() -> None:
    limits = Rates(LIMITS)
    recorded = sum(
        limits.refuse(f"made-up-{number}", Reason.NOT_AUTHORISED, SECOND, 0) is Put.RECORD for number in range(2000)
    )
    assert recorded == rates.RECORDED_BURST
    assert limits.refuse("alice", Reason.LOCAL, 2 * SECOND, 0) is Put.RECORD, "a second later there is room again"
    first = limits.summaries(60 * SECOND)
    assert len(first) == rates.SUMMARIES_AT_ONCE
    assert len(limits._operators) <= rates.MOST_OPERATORS


def test_what_is_forgotten_is_older_than_any_request_can_be() -> None:
    longest_window_s = 3600
    assert 2 * longest_window_s < (seen.MOST_OF_ALL - rates.RECORDED_BURST) / rates.RECORDED_PER_S
