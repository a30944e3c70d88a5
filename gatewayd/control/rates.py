"""How often an operator may ask, and what of his refusals is put on record. One operator never uses up another's."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import NamedTuple

from gatewayd.control.reasons import Reason

SECOND = 1_000_000_000
MOST_OPERATORS = 1000
"""Operators remembered at the same time; past it those who have been quiet longest start anew."""

RECORDED_PER_S, RECORDED_BURST = 20.0, 500
"""Refusals of all operators together that are put on record one by one: made-up names must not fill the audit trail."""
SUMMARIES_AT_ONCE = 20
"""Records of what was only counted, at each look."""


class Bucket:
    """So many at once, so many a second."""

    def __init__(self, rate_per_s: float, burst: int, now: int) -> None:
        self._rate = rate_per_s
        self._burst = float(burst)
        self._level = float(burst)
        self._at = now

    def take(self, now: int) -> bool:
        """One more; False where it is too many. now: CLOCK_MONOTONIC ns."""
        self._level = min(self._burst, self._level + max(0, now - self._at) * self._rate / SECOND)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def left(self, now: int) -> bool:
        """Whether one more would be let through."""
        return min(self._burst, self._level + max(0, now - self._at) * self._rate / SECOND) >= 1


class Put(StrEnum):
    """What becomes of a refusal."""

    RECORD = "record"
    COUNT_FIRST = "count-first"
    """Only counted, and the first one after a time: worth a line in the log."""
    COUNT = "count"


class Unrecorded(NamedTuple):
    """Refusals of one operator that were answered and counted, but not put on record one by one."""

    operator: str
    since_ns: int
    reasons: dict[Reason, int]


class Limits(NamedTuple):
    """As configured."""

    rate_per_s: float
    burst: int
    refusals_per_s: float
    refusals_burst: int


class _One:
    def __init__(self, limits: Limits, now: int) -> None:
        self.requests = Bucket(limits.rate_per_s, limits.burst, now)
        self.refusals = Bucket(limits.refusals_per_s, limits.refusals_burst, now)
        self.since_ns = 0
        self.unrecorded: Counter[Reason] = Counter()


class Rates:
    """All operators."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._operators: dict[str, _One] = {}
        self._all = Bucket(RECORDED_PER_S, RECORDED_BURST, 0)

    def configure(self, limits: Limits) -> None:
        """New limits; whoever asked too often may ask again."""
        if limits != self._limits:
            for one in self._operators.values():
                one.requests = Bucket(limits.rate_per_s, limits.burst, 0)
                one.refusals = Bucket(limits.refusals_per_s, limits.refusals_burst, 0)
        self._limits = limits

    def _one(self, operator: str, now: int) -> _One:
        one = self._operators.pop(operator, None) or _One(self._limits, now)
        self._operators[operator] = one  # the last one is the one who asked last
        if len(self._operators) > MOST_OPERATORS:
            quiet = next((name for name, other in self._operators.items() if not other.unrecorded), operator)
            del self._operators[quiet]
        return one

    def ask(self, operator: str, now: int) -> bool:
        """A request; False where the operator asks too often."""
        return self._one(operator, now).requests.take(now)

    def refuse(self, operator: str, reason: Reason, now: int, utc_ns: int) -> Put:
        """A refusal: put on record by itself, or only counted."""
        one = self._one(operator, now)
        if not one.unrecorded and one.refusals.take(now) and self._all.take(now):
            return Put.RECORD
        first = not one.unrecorded
        if first:
            one.since_ns = utc_ns
        one.unrecorded[reason] += 1
        return Put.COUNT_FIRST if first else Put.COUNT

    def summaries(self, now: int, *, all_: bool = False) -> list[Unrecorded]:
        """What was only counted, of operators who are quiet again (or of all): it goes on record now, as a number."""
        found: list[Unrecorded] = []
        for name, one in self._operators.items():
            if len(found) >= SUMMARIES_AT_ONCE and not all_:
                break
            if one.unrecorded and (all_ or one.refusals.left(now)):
                found.append(Unrecorded(name, one.since_ns, dict(one.unrecorded)))
                one.unrecorded = Counter()
        return found
