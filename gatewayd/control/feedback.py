"""What proves an operation (rule R6). Pure.

A sighting of the feedback point counts when it is good, from the process, not under test and not blocked; received
after the write began; and, where the device's clock is in step, stamped no earlier than one second before it. It
proves the operation only when the point is known not to have been at the target before.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from gatewayd.points import quality as q
from gatewayd.points.types import DOUBLE_STATES, Kind, PointSpec, Value

STAMP_MARGIN_NS = 1_000_000_000
NOT_STAMPED = q.RECEIPT | q.SYNC_NO | q.SYNC_UNKNOWN | q.SUSPECT
"""The time is not a device's clock that is known to be in step."""
FLOAT_MARGIN = 1e-6
"""Of the target: what a 32-bit float on the way may take away."""
MOVING = frozenset({DOUBLE_STATES[0], DOUBLE_STATES[3]})
"""Positions that are no end of the way."""


class Sighting(NamedTuple):
    """One value of the feedback point. mono_ns: CLOCK_MONOTONIC at its receipt; time_ns: its own stamp, UTC."""

    value: Value
    quality: int
    time_ns: int
    mono_ns: int


class Mode(StrEnum):
    """How the target is recognised."""

    POSITION = "position"
    """One of two ends: only these have "already in position" and "wrong position"."""
    VALUE = "value"
    """A setpoint, within the tolerance; an enum's or a string's text."""
    STEP = "step"
    """Raise or lower: a change in the right direction."""


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """What the feedback point must show. feedback: its name; target of a STEP: True is raise."""

    feedback: str
    mode: Mode
    target: Value
    tolerance: float = 0.0


class Finding(StrEnum):
    """What a sighting means."""

    NOTHING = "nothing"
    REACHED = "reached"
    WRONG = "wrong"


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """A goal being watched.

    before:   the last usable value before the write, None where it was not known
    began_ns: when the write began, CLOCK_MONOTONIC (0: in an earlier run); began_utc_ns: the same by UTC
    moved:    it has left where it was; reached: it has shown the target, provably since the write
    """

    goal: Goal
    before: Value = None
    began_ns: int = 0
    began_utc_ns: int = 0
    moved: bool = False
    reached: bool = False

    @property
    def provable(self) -> bool:
        """Whether a sighting of the target would say anything: it is known not to have been there before."""
        return self.before is not None and not at(self.goal, self.before)


def goal(spec: PointSpec, feedback: PointSpec | None, raw: Value, value: Value) -> Goal | None:
    """What proves the command `raw` (`value` in the point's own unit), None where nothing is configured to."""
    if feedback is None:
        return None
    if isinstance(raw, bool):
        if spec.kind in (Kind.BINARY, Kind.DOUBLE):
            return Goal(feedback=feedback.name, mode=Mode.POSITION, target=_end(feedback, closed=raw))
        return Goal(feedback=feedback.name, mode=Mode.STEP, target=raw, tolerance=spec.tolerance)
    target = _text_of(feedback, raw) if spec.kind is Kind.ENUM else value
    return Goal(feedback=feedback.name, mode=Mode.VALUE, target=target, tolerance=spec.tolerance)


def _end(feedback: PointSpec, *, closed: bool) -> Value:
    match feedback.kind:
        case Kind.DOUBLE:
            return "closed" if closed else "open"
        case Kind.BINARY:
            return closed
        case _:
            return _text_of(feedback, int(closed))


def _text_of(feedback: PointSpec, code: Value) -> Value:
    if feedback.kind is Kind.ENUM and isinstance(code, int):
        return feedback.states.get(code, code)
    return code


def at(goal: Goal, value: Value) -> bool:
    """Whether the value is the target. A step has no place of its own."""
    if goal.mode is Mode.STEP or value is None:
        return False
    if _number(value) and _number(goal.target):
        assert isinstance(value, int | float)
        assert isinstance(goal.target, int | float)
        return abs(value - goal.target) <= max(goal.tolerance, FLOAT_MARGIN * abs(goal.target))
    return type(value) is type(goal.target) and value == goal.target


def _number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def known(value: Value, quality: int) -> bool:
    """Whether a position is known for sure: usable, and one of the ends."""
    return value is not None and q.usable(quality) and value not in MOVING


def look(watch: Watch, seen: Sighting) -> tuple[Watch, Finding]:
    """Take a sighting into account."""
    if seen.value is None or not q.usable(seen.quality):
        return watch, Finding.NOTHING
    if seen.mono_ns <= watch.began_ns:
        # Under way while the write began: it says what was before, and nothing of what came of it.
        return msgspec.structs.replace(watch, before=seen.value), Finding.NOTHING
    if not seen.quality & NOT_STAMPED and seen.time_ns < watch.began_utc_ns - STAMP_MARGIN_NS:
        return watch, Finding.NOTHING
    match watch.goal.mode:
        case Mode.STEP:
            return _step(watch, seen.value)
        case Mode.VALUE:
            return _reached(watch) if at(watch.goal, seen.value) else (watch, Finding.NOTHING)
        case Mode.POSITION:
            return _position(watch, seen.value)


def _reached(watch: Watch) -> tuple[Watch, Finding]:
    if not watch.provable:
        return watch, Finding.NOTHING
    return msgspec.structs.replace(watch, moved=True, reached=True), Finding.REACHED


def _position(watch: Watch, value: Value) -> tuple[Watch, Finding]:
    if at(watch.goal, value):
        return _reached(watch)
    if value in MOVING or value != watch.before:
        return msgspec.structs.replace(watch, moved=True), Finding.NOTHING
    return watch, Finding.WRONG if watch.moved else Finding.NOTHING


def _step(watch: Watch, value: Value) -> tuple[Watch, Finding]:
    before = watch.before
    if not (_number(value) and _number(before)):
        return watch, Finding.NOTHING
    assert isinstance(value, int | float)
    assert isinstance(before, int | float)
    way = value - before if watch.goal.target else before - value
    if abs(way) <= watch.goal.tolerance:
        return watch, Finding.NOTHING
    return _reached(watch) if way > 0 else (msgspec.structs.replace(watch, moved=True), Finding.WRONG)
