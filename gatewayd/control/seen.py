"""Which requests came before: every transaction id, for 24 hours. So none is obeyed twice (rules R2 and R3).

Those on record are known over a restart. A refusal that was only counted is remembered in memory until its request
can no longer be fresh. Past the limits the oldest go first: by then `expires_at` refuses them.
"""

from __future__ import annotations

from collections import OrderedDict

from gatewayd.control.types import Answer

KEPT_NS = 24 * 3600 * 1_000_000_000
MOST_OF_ONE = 20_000
"""Requests of one operator that are remembered."""
MOST_COUNTED = 5_000
"""Refusals of one operator that were only counted and are remembered all the same."""
MOST_OF_ALL, MOST_COUNTED_OF_ALL = 200_000, 50_000
"""The same of all operators together, whatever names a client makes up. At rates.RECORDED_PER_S the first lasts longer
than any request window, so that nothing obeyed is forgotten while it could come again."""
MOST_ANSWERS = 1000
"""Outcomes kept at hand; older ones are read from the journal."""

Key = tuple[str, str]
"""Operator and transaction id."""


class Seen:
    """Transaction ids by operator, oldest first; the operators with the one who asked last at the end."""

    def __init__(self) -> None:
        self._recorded: dict[str, OrderedDict[str, int]] = {}
        self._counted: dict[str, OrderedDict[str, int]] = {}
        self._recorded_of_all = self._counted_of_all = 0
        self._answers: OrderedDict[Key, Answer] = OrderedDict()
        self.evicted = 0

    def load(self, operator: str, tx: str, received_ns: int) -> None:
        """A request that is on record."""
        mine = _last(self._recorded, operator)
        self._recorded_of_all += tx not in mine
        mine[tx] = received_ns

    def __contains__(self, key: Key) -> bool:
        operator, tx = key
        return tx in self._recorded.get(operator, ()) or tx in self._counted.get(operator, ())

    def record(self, key: Key, received_ns: int) -> list[Key]:
        """A request that goes on record; the ones to be forgotten for it."""
        operator, tx = key
        if self._counted.get(operator, OrderedDict()).pop(tx, None) is not None:
            self._counted_of_all -= 1
        mine = _last(self._recorded, operator)
        self._recorded_of_all += tx not in mine
        mine[tx] = received_ns
        gone: list[Key] = []
        while len(mine) > MOST_OF_ONE:
            gone.append((operator, mine.popitem(last=False)[0]))
        gone += _oldest(self._recorded, self._recorded_of_all - len(gone) - MOST_OF_ALL)
        self._recorded_of_all -= len(gone)
        self.evicted += len(gone)
        return gone

    def count(self, key: Key, mono_ns: int, answer: Answer) -> None:
        """A refusal that is only counted. mono_ns: now by CLOCK_MONOTONIC: no step of the clock makes it older."""
        operator, tx = key
        mine = _last(self._counted, operator)
        self._counted_of_all += tx not in mine
        mine[tx] = mono_ns
        self.answer(key, answer)
        gone = int(len(mine) > MOST_COUNTED)
        if gone:
            mine.popitem(last=False)
        gone += len(_oldest(self._counted, self._counted_of_all - gone - MOST_COUNTED_OF_ALL))
        self._counted_of_all -= gone
        self.evicted += gone

    def answer(self, key: Key, answer: Answer) -> None:
        """The outcome of a request."""
        self._answers[key] = answer
        self._answers.move_to_end(key)
        while len(self._answers) > MOST_ANSWERS:
            self._answers.popitem(last=False)

    def answered(self, key: Key) -> Answer | None:
        """The outcome, where it is at hand."""
        return self._answers.get(key)

    def age(self, now_ns: int, mono_ns: int, window_ns: int, most: int) -> list[Key]:
        """What is old enough to be forgotten, at most so many; those only counted go after the request window."""
        for counted in self._counted.values():
            while counted and next(iter(counted.values())) <= mono_ns - 2 * window_ns:
                counted.popitem(last=False)
                self._counted_of_all -= 1
        self._counted = {operator: counted for operator, counted in self._counted.items() if counted}
        gone: list[Key] = []
        for operator, mine in self._recorded.items():
            while mine and len(gone) < most:
                tx, received_ns = next(iter(mine.items()))
                if received_ns > now_ns - KEPT_NS:
                    break
                del mine[tx]
                gone.append((operator, tx))
        if gone:
            self._recorded = {operator: mine for operator, mine in self._recorded.items() if mine}
            self._recorded_of_all -= len(gone)
        return gone


def _last(operators: dict[str, OrderedDict[str, int]], operator: str) -> OrderedDict[str, int]:
    """The ids of an operator, who is the last one now."""
    mine = operators.pop(operator, None)
    operators[operator] = mine = OrderedDict() if mine is None else mine
    return mine


def _oldest(operators: dict[str, OrderedDict[str, int]], too_many: int) -> list[Key]:
    """Take so many ids out, of those who have been quiet longest first."""
    gone: list[Key] = []
    while len(gone) < too_many:
        operator, mine = next(iter(operators.items()))
        if mine:
            gone.append((operator, mine.popitem(last=False)[0]))
        if not mine:
            del operators[operator]
    return gone
