"""What the desk knows of the station: the points, what surrounds them, what locks what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from gatewayd.control import feedback, session
from gatewayd.control.feedback import Goal, Sighting
from gatewayd.control.gates import SECOND, Refusal, Surroundings, Wanted
from gatewayd.control.settings import ControlSettings
from gatewayd.control.states import Order, Session, Times
from gatewayd.control.tags import Board
from gatewayd.control.types import Control, Reply
from gatewayd.points.database import Database
from gatewayd.points.expressions import Expression
from gatewayd.points.types import ControlMode, Link, LockScope, PointSpec


class Field(Protocol):
    """The drivers, wherever they run; `cmd.point` says which. Never raises but CancelledError."""

    async def select(self, cmd: Control) -> Reply: ...

    async def operate(self, cmd: Control) -> Reply: ...

    async def cancel(self, cmd: Control) -> Reply: ...


class Station(NamedTuple):
    """What the desk knows of the configuration; replaced as a whole at reload.

    specs:          specs[row].row == row
    database:       the states by row, and the operands of expressions
    interlocks, locals: conditions by the row of the commanded point
    device_selects: rows whose select is held at the device (IEC 61850)
    protocols:      by device
    links:          a device's link now
    device_timeouts: seconds a device may take to answer at least, where the protocol knows better than `[control]`
                    (DNP3: 1 s + 2 x response_timeout_s)
    """

    specs: Sequence[PointSpec]
    database: Database
    interlocks: Mapping[int, Expression]
    locals: Mapping[int, Expression]
    device_selects: frozenset[int]
    protocols: Mapping[str, str]
    links: Callable[[str], Link]
    config_sha256: str
    device_timeouts: Mapping[str, float] = {}


class Grounds:
    """A station with its points by name."""

    def __init__(self, station: Station, settings: ControlSettings) -> None:
        self.station = station
        self._settings = settings
        self.specs = {spec.name: spec for spec in station.specs if not spec.contact}

    def order(self, spec: PointSpec, wanted: Wanted, *, test: bool) -> Order:
        """What is to be done, and what will prove it. A test is not expected to move anything: nothing proves it."""
        goal = None if test else feedback.goal(spec, self.specs.get(spec.feedback), wanted.raw, wanted.value)
        return Order(
            point=spec.name,
            value=wanted.value,
            raw=wanted.raw,
            sbo=spec.control is ControlMode.SBO,
            test=test,
            at_device=spec.row in self.station.device_selects,
            goal=goal,
        )

    def times(self, spec: PointSpec) -> Times:
        """The point's timers."""
        settings = self._settings
        device_s = max(settings.device_timeout_s, self.station.device_timeouts.get(spec.device, 0.0))
        proof_s = spec.feedback_timeout_s or settings.feedback_timeout_s
        return Times(
            select=int(spec.select_timeout_s * SECOND),
            device=int(device_s * SECOND),
            feedback=int(proof_s * SECOND),
            termination=int(settings.termination_timeout_s * SECOND),
            hold=int(settings.hold_s * SECOND),
        )

    def around(
        self, spec: PointSpec, goal: Goal | None, board: Board, *, active: bool, unwritable: str
    ) -> Surroundings:
        """What the gates of a point look at, now."""
        station = self.station
        state = station.database.state(goal.feedback) if goal is not None else None
        around = Surroundings(
            active=active,
            unwritable=unwritable,
            tags=board.of(spec),
            local=station.locals.get(spec.row),
            interlock=station.interlocks.get(spec.row),
            look=station.database.operand,
            link=station.links(spec.device),
            goal=goal,
            allow_same=self._settings.in_position == "allow",
        )
        return around if state is None else around._replace(position=state.value, quality=state.quality)

    def sighting(self, name: str, mono_ns: int) -> Sighting | None:
        """What a feedback point shows now; None where there is no such point any more."""
        state = self.station.database.state(name)
        return None if state is None else Sighting(state.value, state.quality, state.time_ns, mono_ns)

    def inputs(self, spec: PointSpec) -> set[int]:
        """The rows whose change may end a select of this point."""
        names: set[str] = set()
        for expressions in (self.station.interlocks, self.station.locals):
            if (expression := expressions.get(spec.row)) is not None:
                names.update(expression.names)
        return {row for name in names if (row := self.station.database.row(name)) is not None}

    def row(self, name: str) -> int | None:
        """The row of a point now."""
        return self.station.database.row(name)

    def lock(self, spec: PointSpec, operator: str, sessions: Iterable[Session]) -> Refusal | None:
        """Why a command cannot begin while others go on: the point itself, its bay, its device."""
        for other in sessions:
            taken = session.locked(other, operator)
            if taken is None:
                continue
            beside = self.specs.get(other.point)
            if other.point == spec.name or (beside is not None and excludes(spec, beside)):
                return taken
        return None

    def unchanged(self, name: str, other: Grounds) -> bool:
        """Whether a point means the same in another station (its row and its line in the file do not count)."""
        mine, its = self.specs.get(name), other.specs.get(name)
        if mine is None or its is None:
            return False
        selects = (mine.row in self.station.device_selects, its.row in other.station.device_selects)
        protocols = (self.station.protocols.get(mine.device), other.station.protocols.get(its.device))
        bare = [msgspec.structs.replace(one, row=0, file="", line=0) for one in (mine, its)]
        return bare[0] == bare[1] and selects[0] == selects[1] and protocols[0] == protocols[1]


def excludes(a: PointSpec, b: PointSpec) -> bool:
    """Whether commands on two points lock each other out: one of them reaches as far as the other (1 of n)."""
    scopes = (a.lock_scope, b.lock_scope)
    if LockScope.DEVICE in scopes and a.device == b.device:
        return True
    return LockScope.BAY in scopes and bool(a.bay) and a.bay == b.bay
