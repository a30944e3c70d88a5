"""Reading objects one by one, a few at once: the points that are in no report. On the association's thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from gatewayd import clock
from gatewayd.points import quality as q
from gatewayd.points.types import Sample
from gatewayd.protocols.iec61850 import mapping, values
from gatewayd.protocols.iec61850.connection import Connection, MmsError, RequestFailed
from gatewayd.protocols.iec61850.exchange import Memory
from gatewayd.protocols.iec61850.lib import native
from gatewayd.protocols.iec61850.mapping import Poll

AT_ONCE = 3
"""Reads asked for before the first is answered; 1 for an IED that allows no more."""


class Poller:
    """Reads objects. between: called after each answer, so that a command never waits for a whole round."""

    def __init__(self, connection: Connection, memory: Memory, between: Callable[[], None]) -> None:
        self._connection = connection
        self._memory = memory
        self._between = between
        self._at_once = AT_ONCE

    def read(self, polls: Iterable[Poll]) -> list[Sample]:
        """The samples of every point in these objects; an object that is not answered is left out.

        Raises ConnectionLost, Stopped.
        """
        samples: list[Sample] = []
        asked: deque[tuple[Poll, int]] = deque()
        for poll in polls:
            while asked and len(asked) >= self._at_once:
                samples += self._result(*asked.popleft())
            try:
                number = self._ask(poll)
            except RequestFailed as error:
                if error.error != MmsError.OUTSTANDING_CALL_LIMIT:
                    raise
                self._at_once = 1
                while asked:
                    samples += self._result(*asked.popleft())
                number = self._ask(poll)
            asked.append((poll, number))
        while asked:
            samples += self._result(*asked.popleft())
        return samples

    def _ask(self, poll: Poll) -> int:
        def convert(value: int) -> object:
            if native.MmsValue_getType(value) == values.ACCESS_ERROR:
                return values.leaf(value)
            now = clock.now_ns()
            return [mapping.take(extract, value, now) for extract in poll.extracts]

        return self._connection.start_read(poll.ld, poll.item, convert)

    def _result(self, poll: Poll, number: int) -> list[Sample]:
        counts, name = self._memory.counts, f"{poll.ld}/{poll.item}"
        counts["reads"] += 1
        try:
            read: list[Sample] = self._connection.result(number, name)
        except RequestFailed as error:
            counts["failed_reads"] += 1
            if error.timed_out:
                return []  # a second one ends the association
            cause = q.CONFIG_ERROR if error.access == mapping.NON_EXISTENT else q.FAILURE
            now = clock.now_ns()
            self._memory.say_once(f"read {name}", "object cannot be read", object=name, cause=str(error))
            read = [Sample(extract.row, None, q.INVALID | cause | q.RECEIPT, 0, now) for extract in poll.extracts]
        self._between()
        return read
