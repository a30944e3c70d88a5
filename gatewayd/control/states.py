"""What the session of one controllable point is made of: its states, what happens to it, what it wants done. Pure.

The machine itself is in session.py; the table of the states stands in docs/control.md.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from gatewayd.control.feedback import Goal, Sighting, Watch
from gatewayd.control.gates import Refusal
from gatewayd.control.reasons import Reason
from gatewayd.control.types import Answer, Reply, ReplyTo, Stage, Step
from gatewayd.points.types import Value


class State(StrEnum):
    """Where the point is."""

    IDLE = "idle"
    SELECTING = "selecting"
    SELECTED = "selected"
    OPERATING = "operating"
    SUPERVISING = "supervising"
    CANCELLING = "cancelling"
    HOLD = "hold"


SELECTS = (State.SELECTING, State.SELECTED)
UNDER_WAY = (State.OPERATING, State.SUPERVISING)


class Times(NamedTuple):
    """The point's timers in ns."""

    select: int
    device: int
    feedback: int
    termination: int
    hold: int


class Asked(msgspec.Struct, frozen=True):
    """A request as far as its answers, and the last look before the write, need it. received_ns, expires_ns: UTC."""

    operator: str
    tx: str
    stage: Stage
    received_ns: int
    reply_to: ReplyTo | None = None
    expires_ns: int | None = None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done.

    value: in the point's own unit and states, raw: as the driver gets it; sbo: select and operate at the device too;
    at_device: the device itself holds the select; goal: what proves it, None where nothing is configured to
    """

    point: str
    value: Value
    raw: Value
    sbo: bool
    test: bool = False
    at_device: bool = False
    goal: Goal | None = None


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the command on a point.

    opened:    the request that began it (select or direct); operate: the operate of a select
    written:   the step was journaled; sent: the write was asked for and may have reached the field
    attempt:   numbers what the field and the journal are asked, so that a late answer finds its own
    deadline:  when a Tick has something to do
    watch:     the feedback; proved_by: when it is due; ends_by: when CommandTermination is due
    stopping:  the gateway ends or is no longer the active one: what is not known by the deadline is unknown
    past:      ended selects and why an operate of them is refused
    last:      the command before this one, for what is told late
    """

    point: str
    state: State = State.IDLE
    order: Order | None = None
    times: Times = Times(0, 0, 0, 0, 0)
    opened: Asked | None = None
    operate: Asked | None = None
    cancel: Asked | None = None
    select_id: str = ""
    attempt: int = 0
    deadline: int | None = None
    written: bool = False
    sent: bool = False
    accepted: bool = False
    watch: Watch | None = None
    proved_by: int | None = None
    ends_by: int | None = None
    terminating: bool = False
    terminated: bool = False
    stopping: bool = False
    waits_for_link: bool = False
    past: tuple[tuple[str, Reason], ...] = ()
    last: Last | None = None


class Last(msgspec.Struct, frozen=True):
    """A command whose outcome was given, in case the device has a late word on it."""

    attempt: int
    asked: Asked
    order: Order


# --- events ---------------------------------------------------------------------------------------------------------


class Select(NamedTuple):
    """A select; refusal: what the gates say. select_id: fresh random bits, used only if it comes to it."""

    asked: Asked
    order: Order
    times: Times
    select_id: str
    refusal: Refusal | None


class Direct(NamedTuple):
    """A command without select; before: the feedback's last usable value."""

    asked: Asked
    order: Order
    times: Times
    refusal: Refusal | None


class Operate(NamedTuple):
    """An operate that names this session's select, or a point without it. limited: the operator asks too often."""

    asked: Asked
    select_id: str
    point: str
    value: Value
    raw: Value
    test: bool
    refusal: Refusal | None
    limited: bool = False


class Cancel(NamedTuple):
    """A cancel that names this session's select."""

    asked: Asked
    select_id: str


class Clear(NamedTuple):
    """An operator ends a HOLD."""

    asked: Asked


class Durable(NamedTuple):
    """The journal has the select."""

    attempt: int


class Ready(NamedTuple):
    """The journal has the INTENT; refusal: what the gates say now; before: the feedback's last usable value."""

    attempt: int
    refusal: Refusal | None
    before: Value
    utc_ns: int


class Undurable(NamedTuple):
    """The journal did not take the select or the INTENT."""

    attempt: int
    refusal: Refusal


class Replied(NamedTuple):
    """The field's answer to what was asked."""

    attempt: int
    verb: Stage
    reply: Reply


class Stepped(NamedTuple):
    """A later word of the device; of the command `attempt`."""

    attempt: int
    step: Step


class Seen(NamedTuple):
    """A value of the feedback point."""

    sighting: Sighting


class Barred(NamedTuple):
    """Something changed that a select does not survive (row 16)."""

    refusal: Refusal


class LinkDown(NamedTuple):
    """The device's link is lost."""


class LinkUp(NamedTuple):
    """The device is connected and read."""


class Ending(NamedTuple):
    """The gateway ends, or is no longer the active one; what is under way has so long."""

    refusal: Refusal
    budget: int


class Tick(NamedTuple):
    """Time has passed. link_up: how the device's link is."""

    link_up: bool


Event = (
    Select | Direct | Operate | Cancel | Clear | Durable | Ready | Undurable | Replied | Stepped | Seen | Barred
    | LinkDown | LinkUp | Ending | Tick
)  # fmt: skip


# --- actions --------------------------------------------------------------------------------------------------------


class Kind(StrEnum):
    """What is put on record."""

    SELECT = "select"
    """A select that goes on; answered by Durable or Undurable."""
    INTENT = "intent"
    """The write is about to be asked for; answered by Ready or Undurable."""
    STEP = "step"
    """A step for the audit trail alone."""
    END = "end"
    """Outcomes: journaled, then said."""
    LATE = "late"
    """What became known after the outcome: journaled, then said."""


class Record(NamedTuple):
    """Put this on record. END and LATE: the answers that are said after it, the command's own one first.

    public: the first answer is the outcome of a command that had been accepted: a numbered event
    ends:   requests that end with the first answer without one of their own
    """

    kind: Kind
    session: Session
    answers: tuple[Answer, ...] = ()
    public: bool = False
    ends: tuple[Asked, ...] = ()
    word: str = ""


class Say(NamedTuple):
    """Tell the asker (progress)."""

    answer: Answer


class Refuse(NamedTuple):
    """A request that changes nothing here: answered, counted, put on record as far as the rate of refusals allows."""

    asked: Asked
    refusal: Refusal


class Ask(NamedTuple):
    """Ask the field: SELECT, OPERATE or CANCEL. Answered by Replied; an OPERATE is asked at once, nothing between."""

    verb: Stage
    attempt: int
    order: Order
    asked: Asked


Action = Record | Say | Refuse | Ask
