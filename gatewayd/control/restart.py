"""What a start makes of requests that have no outcome (rows 31 and 32 of the table). Pure.

An INTENT without an outcome is unknown: the write may have gone out. A select is gone. Nothing is sent at all: a select
that the device itself held has ended with its association, or ends by the device's own timeout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gatewayd.control.ledger import decoded, ended, stored
from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.states import Asked, Order
from gatewayd.control.types import Answer, Result, Stage
from gatewayd.points.types import Value
from gatewayd.store.commands import INTENDED, RequestRow


class Found(NamedTuple):
    """What the journal holds at the start.

    last_word: of the audit trail: anything but `stop` means that the run before was cut off; "" is the first start
    keys:      operator, tx and UTC ns of every request that is kept
    """

    last_word: str
    open: Sequence[RequestRow]
    untold: Sequence[RequestRow]
    keys: Sequence[tuple[str, str, int]]
    tags: Sequence[bytes]
    tag_keys: Sequence[str]


class Held(NamedTuple):
    """A command that is left unknown. before: the feedback's value before the write."""

    asked: Asked
    order: Order
    before: Value


class Verdicts(NamedTuple):
    """What becomes of open requests.

    said:   outcomes, each said once; rows: as they are stored; silent: of selects that end with their operate
    held:   points that are held
    again:  outcomes that were perhaps never said
    """

    said: list[Answer]
    rows: list[RequestRow]
    silent: list[RequestRow]
    held: list[Held]
    again: list[Answer]


def judge(found: Found, now_ns: int) -> Verdicts:
    """Give every open request its outcome."""
    verdicts = Verdicts([], [], [], [], [])
    for row in found.open:
        known = stored(row)
        asked = known.asked if known is not None else Asked(row.operator, row.tx, Stage(row.stage), row.received_ns)
        sent = row.open == INTENDED
        answer = Answer(
            operator=row.operator,
            tx=row.tx,
            point=row.point,
            stage=Stage(row.stage),
            result=Result.DONE,
            reason=Reason.UNKNOWN if sent else Reason.ABORTED_RESTART,
            effect=Effect.POSSIBLE if sent else Effect.NONE,
            restart=True,
            detail="the gateway ended while it was under way" if sent else "",
            value=known.order.value if known is not None and known.order is not None else None,
            time_ns=now_ns,
            reply_to=asked.reply_to,
        )
        if sent and answer.stage is Stage.SELECT:
            verdicts.silent.append(ended(asked, answer))
            continue
        verdicts.said.append(answer)
        verdicts.rows.append(ended(asked, answer))
        if sent and known is not None and known.order is not None:
            verdicts.held.append(Held(known.asked, known.order, known.before))
    for row in found.untold:
        if (outcome := decoded(row)) is not None:
            verdicts.again.append(outcome)
    return verdicts
