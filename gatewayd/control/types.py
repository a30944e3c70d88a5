"""What crosses the seam for a command: the control, the reply, the later steps."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from gatewayd.control.reasons import Effect, Reason
from gatewayd.points.types import Value


class Native(NamedTuple):
    """The device's own word for what happened: protocol, code, name (`dnp3`, 7, `LOCAL`)."""

    proto: str
    code: int
    name: str


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """One command for one output, as the driver gets it.

    id:           operator and transaction id of the request (`alice/6f2c6a0e`), in every log line: two operators may
                  choose the same transaction id, and later steps are told by this one
    point:        row of the commanded point
    value:        raw: True/False for two-state outputs (closed, on, raise = True), a number for setpoints
    operator:     goes out as orIdent where the protocol has one
    sbo:          DNP3: SELECT and OPERATE back to back; otherwise DIRECT_OPERATE
    not_after_ns: CLOCK_MONOTONIC; checked immediately before the native call: past it nothing is sent
    test:         carry the protocol's test bit
    """

    id: str
    point: int
    value: Value
    operator: str
    sbo: bool
    not_after_ns: int
    test: bool = False


class Verdict(StrEnum):
    """What a driver knows after one request to a device."""

    DONE = "done"
    """The device accepted it."""
    REFUSED = "refused"
    """The device (or the driver, before sending) said no: nothing moved."""
    UNKNOWN = "unknown"
    """Sent, no clear answer: may have moved; never retried."""


class Reply(NamedTuple):
    """A driver's one answer to select, operate or cancel.

    valid_for_s: select only: how long the device holds it (sboTimeout), None where it does not say
    termination: operate only: a Step TERMINATED or TERMINATED_NEGATIVE will follow (IEC 61850 enhanced security)
    """

    verdict: Verdict
    reason: Reason = Reason.OK
    native: Native | None = None
    valid_for_s: float | None = None
    termination: bool = False


class StepKind(StrEnum):
    """What may come after the reply."""

    ACCEPTED = "accepted"
    TERMINATED = "terminated"
    TERMINATED_NEGATIVE = "terminated-negative"
    LATE = "late"
    UNSELECTED = "unselected"


class Step(NamedTuple):
    """A later word about a command that one Reply cannot say."""

    kind: StepKind
    reason: Reason = Reason.OK
    native: Native | None = None


class Stage(StrEnum):
    """What a request asks for; the last part of its topic."""

    SELECT = "select"
    OPERATE = "operate"
    CANCEL = "cancel"
    DIRECT = "direct"
    TAG = "tag"
    INHIBIT = "inhibit"
    CLEAR = "clear"


class ReplyTo(NamedTuple):
    """Where the asker also wants the answer: an allowed Response Topic and its Correlation Data."""

    topic: str
    correlation: bytes | None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request of an operator as it came in, decoded but not judged: the desk's gates judge it.

    operator:   from the topic, never from the payload
    value:      in the point's own unit and states (`open`, 12.5, True); None where the stage has none
    expires_ns: UTC ns of `expires_at`, None when absent
    retained:   the broker said it was stored
    received_ns: UTC ns; received_mono: CLOCK_MONOTONIC ns, both at arrival
    bad:        why the payload could not be understood; the other fields hold what could be read
    body:       the decoded JSON object, for tag, inhibit and clear
    raw:        topic and payload octets as received, and the user properties `key` and `sig`: what a signature covers
    """

    stage: Stage
    operator: str
    tx: str = ""
    point: str = ""
    value: Value = None
    select_id: str = ""
    expires_ns: int | None = None
    retained: bool = False
    received_ns: int = 0
    received_mono: int = 0
    test: bool = False
    bad: str = ""
    body: dict[str, object] = {}
    reply_to: ReplyTo | None = None
    raw_topic: str = ""
    raw_payload: bytes = b""
    key: str = ""
    sig: str = ""


class Result(StrEnum):
    """How far a request is: `selected` and `accepted` are progress, every request ends with exactly one `done`."""

    SELECTED = "selected"
    ACCEPTED = "accepted"
    DONE = "done"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to one request. The MQTT side turns it into topics and JSON; `select_id` goes to the asker only.

    duplicate: the stored answer to a request that came before, said again
    late:      what became known after the outcome, which stays as it is; restart: said after a restart of the gateway
    detail:    for people: what was found and what is allowed; tag: the id of a tag or inhibit that was set
    """

    operator: str
    tx: str
    point: str
    stage: Stage
    result: Result
    reason: Reason
    effect: Effect
    native: Native | None = None
    select_id: str = ""
    valid_for_s: float | None = None
    duplicate: bool = False
    late: bool = False
    restart: bool = False
    detail: str = ""
    tag: str = ""
    time_ns: int = 0
    value: Value = None
    reply_to: ReplyTo | None = None
