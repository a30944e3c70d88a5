"""What operators are told: answers to the publisher; refusals, on record or counted; the stored once more."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from functools import partial

import msgspec
import structlog

from gatewayd.control.audit import Moment
from gatewayd.control.gates import Refusal
from gatewayd.control.ledger import Ledger, Step, ended
from gatewayd.control.rates import Put, Rates
from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.seen import Key, Seen
from gatewayd.control.states import Asked
from gatewayd.control.types import Answer, Request, Result
from gatewayd.store import commands
from gatewayd.store.types import JournalError

log = structlog.get_logger("control")


Publish = Callable[[Answer, Callable[[], None]], None]
"""Hands an answer to the broker's side; what comes with it is called when the broker has taken it."""


def asked_of(request: Request) -> Asked:
    """What of a request goes on with its command."""
    return Asked(request.operator, request.tx, request.stage, request.received_ns, request.reply_to, request.expires_ns)


def done(asked: Asked, refusal: Refusal, point: str, *, effect: Effect = Effect.NONE) -> Answer:
    """The end of a request."""
    return Answer(
        operator=asked.operator,
        tx=asked.tx,
        point=point,
        stage=asked.stage,
        result=Result.DONE,
        reason=refusal.reason,
        effect=effect,
        native=refusal.native,
        detail=refusal.detail,
        reply_to=asked.reply_to,
    )


class Answers:
    """See above. cautions: what is read out to whoever selects a point; now_ns: UTC; mono_ns: CLOCK_MONOTONIC."""

    def __init__(
        self,
        publish: Publish,
        *,
        ledger: Ledger,
        rates: Rates,
        cautions: Callable[[str], str],
        moment: Callable[[], Moment],
        now_ns: Callable[[], int],
        mono_ns: Callable[[], int],
    ) -> None:
        self._publish = publish
        self._ledger = ledger
        self._cautions = cautions
        self._moment = moment
        self._now_ns = now_ns
        self._mono_ns = mono_ns
        self.rates = rates
        self.seen = Seen()
        self.count: Counter[str] = Counter()
        self.reasons: Counter[Reason] = Counter()

    def say(self, answer: Answer, taken: Callable[[], None] = lambda: None) -> None:
        """Hand an answer to the publisher."""
        if not answer.time_ns:
            answer = msgspec.structs.replace(answer, time_ns=self._now_ns())
        if answer.result is Result.SELECTED and (caution := self._cautions(answer.point)):
            answer = msgspec.structs.replace(answer, detail=caution)
        try:
            self._publish(answer, taken)
        except Exception:  # the publisher's fault must not become the command's
            log.exception("an answer could not be published", operator=answer.operator, tx=answer.tx)
            self.count["internal_errors"] += 1

    def said(self, answer: Answer, *, stored: bool = True) -> None:
        """Hand an outcome to the publisher and the log. stored: when the broker has taken it, that is noted.

        A start says again what perhaps never got to the broker.
        """
        self.say(answer, partial(self._told, answer) if stored else lambda: None)
        say = log.info if answer.effect is not Effect.POSSIBLE else log.warning
        say(
            "a command ended",
            point=answer.point,
            tx=answer.tx,
            operator=answer.operator,
            stage=str(answer.stage),
            reason=str(answer.reason),
            effect=str(answer.effect),
        )

    def _told(self, answer: Answer) -> None:
        self._ledger.told([answer])
        self._ledger.flush_soon()

    def remember(self, asked: Asked) -> list[Key]:
        """A request that goes on record with the next step; the requests to be forgotten for it."""
        return self.seen.record((asked.operator, asked.tx), asked.received_ns)

    def knows(self, asked: Asked, answer: Answer) -> None:
        """The outcome of a request on record, for repeats."""
        own = msgspec.structs.replace(
            answer, operator=asked.operator, tx=asked.tx, stage=asked.stage, reply_to=asked.reply_to
        )
        self.seen.answer((asked.operator, asked.tx), own)

    # --- refusals ---------------------------------------------------------------------------------------------------

    def refuse(self, request: Request, refusal: Refusal, *, duplicate: bool = False) -> None:
        """Refuse a request. duplicate: it came before, and has its outcome already."""
        asked = asked_of(request)
        answer = done(asked, refusal, request.point)
        self.refused(asked, msgspec.structs.replace(answer, value=request.value, duplicate=duplicate))

    def refused(self, asked: Asked, answer: Answer) -> None:
        """Answer a refusal; put it on record as far as the operator's rate of refusals allows, else count it."""
        now_ns = self._now_ns()
        answer = msgspec.structs.replace(answer, time_ns=now_ns)
        self.count["refusals"] += 1
        self.reasons[answer.reason] += 1
        put = self.rates.refuse(asked.operator, answer.reason, self._mono_ns(), now_ns)
        if put is Put.COUNT_FIRST:
            log.warning("an operator is refused too often", operator=asked.operator, reason=str(answer.reason))
        fresh = bool(asked.tx) and not answer.duplicate
        if put is Put.RECORD and not self._ledger.trouble:
            self._record(asked, answer, fresh=fresh)
            return
        if put is Put.RECORD:
            self._ledger.note(self._moment().answer("refused", answer))
        else:
            self.count["refusals_unrecorded"] += 1
        if fresh:
            self.seen.count((asked.operator, asked.tx), self._mono_ns(), answer)
        self.say(answer)

    def _record(self, asked: Asked, answer: Answer, *, fresh: bool) -> None:
        gone: list[Key] = []
        if fresh:
            gone = self.remember(asked)
            self.knows(asked, answer)

        def work(db: sqlite3.Connection) -> None:
            commands.forget(db, gone)
            if fresh:
                commands.end(db, [ended(asked, answer)])

        body = self._moment().answer("refused", answer)
        self._ledger.write(Step(work, [body])).add_done_callback(lambda _: self.said(answer, stored=fresh))

    # --- repeats ----------------------------------------------------------------------------------------------------

    def repeat(self, request: Request, answer: Answer | None) -> None:
        """A request that came before gets the stored answer, or where it stands; another one with its tx, `replay`."""
        if answer is None or answer.stage is not request.stage or (request.point and answer.point != request.point):
            was = f"used before, for {answer.stage} of {answer.point or 'nothing'}" if answer else "used before"
            self.refuse(request, Refusal(Reason.REPLAY, f"tx {request.tx} was {was}"), duplicate=True)
            return
        self.say(msgspec.structs.replace(answer, duplicate=True, reply_to=request.reply_to, time_ns=self._now_ns()))

    async def look_up(self, request: Request) -> None:
        """Repeat what only the journal remembers."""
        try:
            answer = await self._ledger.outcome(request.operator, request.tx)
        except (JournalError, sqlite3.Error):
            answer = None
        self.repeat(request, answer)

    # --- housekeeping -----------------------------------------------------------------------------------------------

    def age(self, window_ns: int, most: int, *, all_: bool = False) -> None:
        """Put on record what was only counted; forget what is old enough."""
        for refusals in self.rates.summaries(self._mono_ns(), all_=all_):
            self._ledger.note(self._moment().unrecorded(refusals))
        gone = self.seen.age(self._now_ns(), self._mono_ns(), window_ns, most)
        if gone:
            self._ledger.write(Step(lambda db: commands.forget(db, gone), ()))
