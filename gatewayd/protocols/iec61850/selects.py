"""What is held selected at an IED, by its own word: stSeld. On the association's thread.

An IED may drop a select by itself: its timeout, a local operation, a restart of its application. Its stSeld is looked
at while a select is held, about once a second, and at once when a report brings the object: the report itself may be
of an earlier select, from a buffer, so the look decides. A look never makes a command wait; one that fails proves
nothing. Source: IEC 61850-7-2 (control class model), 7-3 (stSeld).
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from gatewayd.protocols.iec61850.connection import Connection, RequestFailed

LOOK_S = 1.0
"""Between two looks at a select; an IED has so long to set stSeld after it accepted one."""
REPORTED_S = 0.1
"""Between two looks where reports of the object come one after the other."""
FALSE_LOOKS = 2
"""Looks in a row that find false before a select whose stSeld was not seen true counts as dropped."""


class Select:
    """One accepted select. domain, item: where its stSeld is; since, due: monotonic s of its start, of the next look.

    seen: its stSeld was true once
    """

    def __init__(self, domain: str, item: str, now: float) -> None:
        self.domain, self.item = domain, item
        self.since = self.due = self.looked = now
        self.seen = False
        self._false = 0

    def judge(self, value: object, began: float, shows: set[tuple[str, str]]) -> bool:
        """Whether the IED has dropped it. began: of the look; shows: objects whose stSeld was ever seen true.

        An IED that never sets stSeld is not judged by it; one that sets it late has LOOK_S and FALSE_LOOKS.
        """
        if value is True:
            self.seen, self._false = True, 0
            shows.add((self.domain, self.item))
        elif value is False:
            if self.seen:
                return True
            if (self.domain, self.item) in shows and began - self.since >= LOOK_S:
                self._false += 1
                return self._false >= FALSE_LOOKS
        return False

    def in_member(self, domain: str, item: str) -> bool:
        """Whether a member of a data set holds its stSeld."""
        return domain == self.domain and f"{self.item}$".startswith(f"{item}$")


class SelectWatch:
    """Looks, one at a time. shows: objects whose stSeld was ever seen true, kept over associations."""

    def __init__(self, connection: Connection, shows: set[tuple[str, str]]) -> None:
        self._connection = connection
        self._shows = shows
        self._asked: tuple[int, Select, float] | None = None

    def look(self, held: Iterable[Select]) -> Select | None:
        """Take the answer that has come, ask for the next that is due; returns one of `held` that was dropped.

        Raises ConnectionLost, Stopped.
        """
        held, now = list(held), time.monotonic()
        if self._asked is None and (due := min((one for one in held if one.due <= now), key=_due, default=None)):
            self._ask(due, now)
        # where the IED takes one request at a time the answer is waited for: a command would be refused meanwhile
        if self._asked is not None and (self._connection.at_once < 2 or self._connection.finished(self._asked[0])):
            dropped = self._answered()
            return dropped if dropped in held else None
        return None

    def reported(self, held: Iterable[Select], members: Iterable[tuple[str, str]]) -> None:
        """A report brought these members, domain and item each: look at once."""
        now = time.monotonic()
        members = list(members)
        for select in held:
            if any(select.in_member(*member) for member in members):
                select.due = min(select.due, max(now, select.looked + REPORTED_S))

    def _ask(self, select: Select, now: float) -> None:
        select.looked, select.due = now, now + LOOK_S
        try:
            number = self._connection.start_read(select.domain, select.item)
        except RequestFailed:
            return  # not asked: the next look is in a second
        self._asked = number, select, now

    def _answered(self) -> Select | None:
        assert self._asked is not None
        (number, select, began), self._asked = self._asked, None
        try:
            value = self._connection.result(number, f"{select.domain}/{select.item}")
        except RequestFailed:
            return None
        return select if select.judge(value, began, self._shows) else None


def _due(select: Select) -> float:
    return select.due
