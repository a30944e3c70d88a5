"""The gates every command must pass, in order; the first that fails is the reason. Pure.

    syntax, retained, expiry | replay | identity, right | active, inhibit, tag, Local/Remote, interlock, link, position
                                                        | lock, rate

Those of the last group but one are asked at the select, again at the operate, again immediately before the write, and
those a select depends on whenever something they look at changes. Replay, lock and rate are the desk's, which knows
what else is going on. A value that is not known for sure never passes a gate (rule R11).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from gatewayd.control import feedback
from gatewayd.control.feedback import Goal, Mode
from gatewayd.control.reasons import Reason
from gatewayd.control.tags import Tag, TagKind
from gatewayd.control.types import Native, Request, Stage
from gatewayd.points import quality as q
from gatewayd.points.expressions import Expression, Lookup
from gatewayd.points.mapping import to_raw
from gatewayd.points.types import ControlMode, Kind, Link, PointSpec, Value
from gatewayd.problems import shown

SECOND = 1_000_000_000
NO_EXPIRY = frozenset({Stage.CANCEL})
"""Stages whose requests need no `expires_at`."""
MAX_INPUTS_SHOWN = 6


class Refusal(NamedTuple):
    """Why a request is refused. detail: for people, what was found and what is allowed."""

    reason: Reason
    detail: str = ""
    native: Native | None = None


# --- the request itself ---------------------------------------------------------------------------------------------


def fresh(request: Request, now_ns: int, window_ns: int, *, synchronised: bool) -> Refusal | None:
    """Syntax and size, retained, expiry. now_ns: UTC; synchronised: whether that can be believed."""
    if request.bad:
        return Refusal(Reason.BAD_REQUEST, request.bad)
    if not request.tx:
        return Refusal(Reason.BAD_REQUEST, "tx is missing")
    if request.retained:
        return Refusal(Reason.RETAINED, "the message was stored by the broker; publish without retain")
    if request.stage in NO_EXPIRY:
        return None
    if request.expires_ns is None:
        return Refusal(Reason.BAD_REQUEST, "expires_at is missing")
    if not synchronised:
        if request.stage is Stage.DIRECT:
            return Refusal(Reason.CLOCK_UNSURE, "the gateway's clock is not synchronised; select and operate instead")
        return None
    return expiry(request.expires_ns, now_ns, window_ns)


def expiry(expires_ns: int, now_ns: int, window_ns: int) -> Refusal | None:
    """Whether a request is still, and already, to be obeyed."""
    if expires_ns <= now_ns:
        late_s = (now_ns - expires_ns) / SECOND
        return Refusal(Reason.EXPIRED, f"expires_at was {late_s:.3f} s ago by the gateway's clock")
    if expires_ns > now_ns + window_ns:
        ahead_s, window_s = (expires_ns - now_ns) / SECOND, window_ns / SECOND
        detail = f"expires_at is {ahead_s:.3f} s ahead by the gateway's clock; {window_s:g} s at most is allowed"
        return Refusal(Reason.EXPIRED, detail)
    return None


class Wanted(NamedTuple):
    """A command's value, in the point's own states and as the driver gets it."""

    value: Value
    raw: Value


def command(spec: PointSpec | None, request: Request, protocol: str) -> Wanted | Refusal:
    """What a request wants of a point, judged against the point list alone."""
    if spec is None or spec.contact:
        return Refusal(Reason.UNKNOWN_POINT, f"there is no point {shown(request.point)}")
    if spec.control is ControlMode.NONE:
        return Refusal(Reason.UNSUPPORTED, f"{spec.name} cannot be commanded (control = none)")
    if request.stage is Stage.DIRECT and spec.control is not ControlMode.DIRECT:
        return Refusal(Reason.UNSUPPORTED, f"{spec.name} has control = {spec.control}: select it first")
    if request.test and request.stage is not Stage.SELECT and protocol != "iec61850":
        detail = f"{protocol} has no test of a command, it would be carried out; select and cancel instead"
        return Refusal(Reason.UNSUPPORTED, detail)
    try:
        raw = to_raw(spec, request.value)
    except ValueError as error:
        return Refusal(Reason.BAD_REQUEST, f"value: {error}")
    return _within(spec, request.value, raw)


def _within(spec: PointSpec, value: Value, raw: Value) -> Wanted | Refusal:
    if isinstance(raw, bool):
        return Wanted(_named(spec, raw), raw)
    if spec.kind in (Kind.ANALOG, Kind.COUNTER) and isinstance(value, int | float):
        low = -math.inf if spec.min is None else spec.min
        high = math.inf if spec.max is None else spec.max
        if not low <= value <= high:
            allowed = " to ".join(f"{limit:g}" for limit in (low, high))
            return Refusal(Reason.OUT_OF_RANGE, f"found {value:g}; {allowed}{f' {spec.unit}' if spec.unit else ''}")
    if spec.kind is Kind.ENUM and isinstance(raw, int):
        return Wanted(spec.states.get(raw, raw), raw)
    return Wanted(value, raw)


def _named(spec: PointSpec, raw: bool) -> Value:
    if spec.kind is Kind.DOUBLE:
        return "closed" if raw else "open"
    if spec.kind is Kind.BINARY:
        return raw
    return "raise" if raw else "lower"


# --- the station around the point -----------------------------------------------------------------------------------


class Surroundings(NamedTuple):
    """Everything the gates of a point look at, now.

    active:        this gateway is the active one, for sure
    unwritable:    why commands and audit cannot be put on disk, "" when they can
    tags:          of the point, its bay, its device and the gateway, inhibits among them
    local, interlock: the point's own expressions, None where it has none; look: what they look at
    link:          of the point's device
    goal, position, quality: what proves the command, and what the feedback shows now
    allow_same:    a command to where the switch already is is allowed
    """

    active: bool
    unwritable: str
    tags: Sequence[Tag]
    local: Expression | None
    interlock: Expression | None
    look: Lookup
    link: Link
    goal: Goal | None = None
    position: Value = None
    quality: int = q.START
    allow_same: bool = False


def standing(around: Surroundings) -> Refusal | None:
    """The gates a select stands and falls with: active, inhibit, tag, Local/Remote, interlock, link."""
    if not around.active:
        return Refusal(Reason.NOT_ACTIVE)
    if around.unwritable:
        return Refusal(Reason.INHIBITED, f"commands cannot be put on record: {around.unwritable}")
    for reason, kinds in (
        (Reason.INHIBITED, (TagKind.INHIBIT,)),
        (Reason.TAGGED, (TagKind.CONTROL_INHIBIT, TagKind.PERSONAL_LOCK)),
    ):
        for tag in around.tags:
            if tag.kind in kinds:
                return Refusal(reason, tag.describe())
    return _local(around) or _interlock(around) or _link(around)


def _local(around: Surroundings) -> Refusal | None:
    if around.local is None:
        return None
    verdict = around.local.passes(around.look)
    if verdict is False:
        return None
    if verdict is None and around.link is not Link.UP:
        return _link(around)  # unknown because the device is not there: that is what people have to know
    unsure = "" if verdict else "Local or Remote is not known for sure: "
    return Refusal(Reason.LOCAL, f"{unsure}{_inputs(around.local, around.look)}")


def _interlock(around: Surroundings) -> Refusal | None:
    if around.interlock is None:
        return None
    verdict = around.interlock.passes(around.look)
    if verdict is True:
        return None
    if verdict is None and around.link is not Link.UP:
        return _link(around)
    return Refusal(Reason.INTERLOCKED, f"{around.interlock.text}: {_inputs(around.interlock, around.look)}")


def _inputs(expression: Expression, look: Lookup) -> str:
    """The points an expression looks at, as they are: so that people see which one it is."""
    parts = []
    for name in expression.names[:MAX_INPUTS_SHOWN]:
        seen = look(name)
        if seen is None:
            parts.append(f"{name} does not exist")
        elif q.usable(seen.quality):
            parts.append(f"{name} is {_text(seen.value)}")
        else:
            parts.append(f"{name} is {_text(seen.value)}, {q.describe(seen.quality)}")
    return ", ".join(parts)


def _text(value: Value) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _link(around: Surroundings) -> Refusal | None:
    if around.link is Link.UP:
        return None
    return Refusal(Reason.DEVICE_OFFLINE, f"the device's link is {around.link}")


def position(around: Surroundings) -> Refusal | None:
    """Position known, and not there already. Setpoints and steps have no position."""
    goal = around.goal
    if goal is None or goal.mode is not Mode.POSITION:
        return None
    if not feedback.known(around.position, around.quality):
        detail = f"{goal.feedback} is {_text(around.position)}, {q.describe(around.quality)}"
        return Refusal(Reason.POSITION_UNKNOWN, detail)
    if feedback.at(goal, around.position) and not around.allow_same:
        return Refusal(Reason.ALREADY_IN_POSITION, f"{goal.feedback} is {_text(around.position)}")
    return None


def judge(around: Surroundings) -> Refusal | None:
    """All gates of the station, in order."""
    return standing(around) or position(around)


def before(around: Surroundings) -> Value:
    """What the feedback shows now, where it may prove anything; None otherwise."""
    return around.position if around.goal is not None and q.usable(around.quality) else None
