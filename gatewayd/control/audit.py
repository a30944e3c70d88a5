"""What stands in the audit trail: one JSON object for each thing that happened. Pure.

{"n":…,"time":…,"sync":true,"what":"outcome","who":"alice","point":…,"tx":…,"reason":…,"effect":…}

`n` is given when it is written (store/audit.py, where the chain of hashes is). Left out is what says nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from gatewayd.control.rates import Unrecorded
from gatewayd.control.states import Record
from gatewayd.control.types import Answer
from gatewayd.points.types import Value

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST_TEXT = 500


def stamp(time_ns: int) -> str:
    """UTC ns as RFC 3339 with microseconds."""
    return (_EPOCH + timedelta(microseconds=max(time_ns, 0) // 1000)).isoformat(timespec="microseconds")[:-6] + "Z"


class Moment:
    """When something is put down, and whether the clock could be believed then."""

    def __init__(self, time_ns: int, *, synchronised: bool) -> None:
        self.time_ns = time_ns
        self.synchronised = synchronised

    def body(self, what: str, **fields: object) -> bytes:
        """One record; fields that say nothing are left out."""
        record: dict[str, object] = {"time": stamp(self.time_ns), "sync": self.synchronised, "what": what}
        for key, value in fields.items():
            if value is None or value in ("", (), []) or value is False:
                continue
            record[key] = _sound(value) if isinstance(value, str) else value
        return msgspec.json.encode(record)

    def answer(self, what: str, answer: Answer, **more: object) -> bytes:
        """An answer that was, or is about to be, given."""
        native = answer.native
        return self.body(
            what,
            who=answer.operator,
            tx=answer.tx,
            stage=str(answer.stage),
            point=answer.point,
            value=_value(answer.value),
            reason=str(answer.reason),
            effect=str(answer.effect),
            native=f"{native.proto} {native.code} {native.name}" if native is not None else "",
            detail=answer.detail,
            tag=answer.tag,
            late=answer.late,
            restart=answer.restart,
            **more,
        )

    def step(self, record: Record) -> bytes:
        """A step of a command: select, intent, selected, sent, accepted."""
        session = record.session
        asked, order = session.operate or session.opened, session.order
        return self.body(
            record.word or str(record.kind),
            who=asked.operator if asked is not None else "",
            tx=asked.tx if asked is not None else "",
            stage=str(asked.stage) if asked is not None else "",
            point=session.point,
            value=_value(order.value) if order is not None else "",
            test=order.test if order is not None else False,
        )

    def unrecorded(self, refusals: Unrecorded) -> bytes:
        """Refusals that were answered and counted only."""
        return self.body(
            "refusals",
            who=refusals.operator,
            count=sum(refusals.reasons.values()),
            reasons={str(reason): number for reason, number in refusals.reasons.items()},
            since=stamp(refusals.since_ns),
        )


def _value(value: Value) -> str:
    """A commanded value as text, so that `false` and 0 are not taken for nothing."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _sound(text: str) -> str:
    """Text of a device or a person that certainly becomes JSON and never a huge one."""
    return text[:LONGEST_TEXT].encode("utf-8", "replace").decode()
