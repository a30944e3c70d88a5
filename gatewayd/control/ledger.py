"""The desk's way to the disk: every step of a command with its audit records and its numbered event, in one commit.

What could not be written is owed and tried again; until the disk takes it, `trouble` says why and the gates refuse
every command. Audit records nobody waits for go with the next commit, or within a second.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec
import structlog

from gatewayd.control.audit import Moment
from gatewayd.control.states import Asked, Order
from gatewayd.control.types import Answer
from gatewayd.points.types import Value
from gatewayd.store import audit, commands
from gatewayd.store.audit import Head
from gatewayd.store.commands import RequestRow
from gatewayd.store.journal import Journal, NewEvent
from gatewayd.store.types import JournalError

log = structlog.get_logger("control")

MOST_NOTES = 10_000
"""Audit records that may wait for the disk; past it they are counted, and one record says how many are missing."""
Work = Callable[[sqlite3.Connection], None]


class Stored(msgspec.Struct, frozen=True):
    """What is kept of a request besides its row. before: the feedback's value before the write."""

    asked: Asked
    order: Order | None = None
    before: Value = None


class Step(NamedTuple):
    """One thing to be written."""

    work: Work
    bodies: Sequence[bytes]
    events: Sequence[NewEvent] = ()


def row(asked: Asked, point: str, open_: int, order: Order | None = None, before: Value = None) -> RequestRow:
    """A request's row."""
    body = msgspec.msgpack.encode(Stored(asked, order, before))
    return RequestRow(asked.operator, asked.tx, str(asked.stage), point, asked.received_ns, open_, body)


def ended(asked: Asked, answer: Answer) -> RequestRow:
    """A request's row with its outcome."""
    own = msgspec.structs.replace(
        answer, operator=asked.operator, tx=asked.tx, stage=asked.stage, reply_to=asked.reply_to
    )
    return row(asked, answer.point, commands.ENDED)._replace(outcome=msgspec.msgpack.encode(own))


class Ledger:
    """See above. keep: audit records kept; moment: now, with the clock's trust."""

    def __init__(self, journal: Journal, keep: int, moment: Callable[[], Moment]) -> None:
        self._journal = journal
        self._keep = keep
        self._moment = moment
        self._notes: deque[bytes] = deque()
        self._told: list[tuple[str, str]] = []
        self._owed: list[Step] = []
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.trouble = ""
        self.head = audit.START
        self.count = dict.fromkeys(("audit_records", "audit_dropped", "journal_refusals", "owed"), 0)
        self._missing = 0
        self._flushing = False

    def configure(self, keep: int) -> None:
        """How many audit records are kept."""
        self._keep = keep

    @property
    def limit(self) -> int:
        """Audit records kept: as configured, but never more than about a quarter of the journal."""
        return min(self._keep, max(audit.LEAST_KEPT, int(self._journal.counters()["limit_bytes"]) // 1600))

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, step: Step, *, owe: bool = False) -> asyncio.Future[None]:
        """Write a step; the future has an exception where the disk refused it. owe: try again until it is taken.

        What was noted before goes with it, in order. Raises nothing itself.
        """
        notes, told = list(self._notes), self._told
        self._notes, self._told = deque(), []
        bodies, keep = [*notes, *step.bodies], self.limit

        def job(db: sqlite3.Connection) -> Head:
            step.work(db)
            if told:
                commands.told(db, told)
            return audit.append(db, bodies, keep) if bodies else audit.head(db)

        done = asyncio.get_running_loop().create_future()
        self._open += 1
        self._idle.clear()
        writing = self._journal.submit(job, events=step.events)

        def finished(future: asyncio.Future[Head]) -> None:
            self._open -= 1
            error = None if future.cancelled() else future.exception()
            if future.cancelled() or error is not None:
                self._notes.extendleft(reversed(notes))
                self._told[:0] = told
                if not isinstance(error, sqlite3.IntegrityError):
                    self._failed(error or JournalError("cancelled"))
                    if owe:
                        self._owed.append(step)
                        self.count["owed"] += 1
                if not done.done():
                    done.set_exception(error or JournalError("cancelled"))
                    done.exception()  # whoever does not wait for it need not look
            else:
                self.head = future.result()
                self.count["audit_records"] += len(bodies)
                self._healed()
                if not done.done():
                    done.set_result(None)
            if not self._open:
                self._idle.set()

        writing.add_done_callback(finished)
        return done

    def note(self, body: bytes) -> None:
        """An audit record nobody waits for."""
        if len(self._notes) >= MOST_NOTES:
            self._missing += 1
            self.count["audit_dropped"] += 1
            return
        self._notes.append(body)

    def told(self, answers: Iterable[Answer]) -> None:
        """The broker has taken these outcomes."""
        self._told += [(answer.operator, answer.tx) for answer in answers]

    def flush_soon(self) -> None:
        """Write what waits with all else of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what waits."""
        self._flushing = False
        if self._missing and len(self._notes) < MOST_NOTES:
            missing, self._missing = self._missing, 0
            self.note(self._moment().body("audit-gap", count=missing, detail="the disk took nothing for too long"))
        if self.trouble and self._open:
            return  # the last try has not come back yet
        owed, self._owed = self._owed, []
        for step in owed:
            self.write(step, owe=True)
        if self._notes or self._told:
            self.write(Step(_nothing, ()))

    async def emptied(self) -> None:
        """Write what waits, and what comes of it, until nothing is left or the disk refuses."""
        while self._open or self._notes or self._told or self._owed:
            tries = self.count["journal_refusals"]
            self.flush()
            await self._idle.wait()
            await asyncio.sleep(0)  # whoever waited for it has its say
            if self.count["journal_refusals"] > tries:
                return

    def _failed(self, error: BaseException) -> None:
        self.count["journal_refusals"] += 1
        if not self.trouble:
            log.error("commands and audit cannot be put on disk: commands are refused", cause=str(error))
            self.note(self._moment().body("audit-trouble", detail=str(error)))
        self.trouble = str(error) or type(error).__name__

    def _healed(self) -> None:
        if self.trouble:
            self.trouble = ""
            log.info("commands and audit are put on disk again")

    # --- reading ----------------------------------------------------------------------------------------------------

    async def outcome(self, operator: str, tx: str) -> Answer | None:
        """The stored outcome of a request. Raises JournalError."""
        found = await self._journal.submit(lambda db: commands.find(db, operator, tx))
        return decoded(found)


def _nothing(_: sqlite3.Connection) -> None:
    """Only what was noted."""


def decoded(found: RequestRow | None) -> Answer | None:
    """The outcome in a row, None where there is none (or none that can be read)."""
    if found is None or found.outcome is None:
        return None
    try:
        return msgspec.msgpack.decode(found.outcome, type=Answer)
    except msgspec.MsgspecError:
        log.error("a stored outcome cannot be read", operator=found.operator, tx=found.tx)
        return None


def stored(found: RequestRow) -> Stored | None:
    """What was asked, None where it cannot be read."""
    try:
        return msgspec.msgpack.decode(found.body, type=Stored)
    except msgspec.MsgspecError:
        log.error("a stored request cannot be read", operator=found.operator, tx=found.tx)
        return None
