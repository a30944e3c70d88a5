"""The gates, asked with all that is known now: points and their values, rights, tags, locks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gatewayd.control import gates
from gatewayd.control.gates import Refusal, Surroundings, Wanted
from gatewayd.control.identity import Right, Rights
from gatewayd.control.reasons import Reason
from gatewayd.control.settings import ControlSettings
from gatewayd.control.states import SELECTS, Order, Session, State
from gatewayd.control.station import Grounds
from gatewayd.control.tags import Board, Tag, TagKind
from gatewayd.control.types import Request, Stage
from gatewayd.points.types import PointSpec, Value
from gatewayd.problems import shown


class Judge:
    """Holds what the gates look at; the desk exchanges it when the configuration or the rights change.

    active: whether this gateway may command, for sure; trouble: why commands cannot be put on record, "" when they can
    """

    def __init__(
        self,
        settings: ControlSettings,
        grounds: Grounds,
        *,
        active: Callable[[], bool],
        trouble: Callable[[], str],
    ) -> None:
        self.settings = settings
        self.grounds = grounds
        self.board = Board()
        self.rights = Rights({}, broken="the gateway is starting")
        self.active = active
        self.trouble = trouble

    def spec(self, request: Request, name: str) -> PointSpec | Refusal:
        """The point, if there is one and the operator has the right to command it."""
        spec = self.grounds.specs.get(name)
        if spec is None:
            return Refusal(Reason.UNKNOWN_POINT, f"there is no point {shown(name)}")
        return self.may(request.operator, spec, test=request.test) or spec

    def may(self, operator: str, spec: PointSpec, *, test: bool) -> Refusal | None:
        """Whether an operator may command a point."""
        return self.rights.may(operator, Right.TEST if test else Right.CONTROL, [spec])

    def wanted(self, spec: PointSpec, request: Request) -> Wanted | Refusal:
        """What the request wants, judged against the point list."""
        return gates.command(spec, request, self.grounds.station.protocols.get(spec.device, ""))

    def around(self, spec: PointSpec, order: Order | None) -> Surroundings:
        """What the gates of the station look at."""
        goal = order.goal if order is not None else None
        return self.grounds.around(spec, goal, self.board, active=self.active(), unwritable=self.trouble())

    def station(self, spec: PointSpec, order: Order | None) -> Refusal | None:
        """All gates of the station."""
        return gates.judge(self.around(spec, order))

    def standing(self, spec: PointSpec, session: Session) -> Refusal | None:
        """Whether a select still stands (row 16). The disk is asked at the operate: it may be back by then."""
        around = self.around(spec, session.order)._replace(unwritable="")
        refusal = gates.standing(around)
        if refusal is not None and refusal.reason is Reason.NOT_ACTIVE and session.state is State.SELECTED:
            return Refusal(Reason.ABORTED_FAILOVER)
        return refusal

    def last_look(self, spec: PointSpec, session: Session, now_ns: int, *, synchronised: bool) -> Refusal | None:
        """Everything once more, immediately before the write. now_ns: UTC, and whether it can be believed."""
        asked = session.operate or session.opened
        if asked is None or session.order is None:
            return Refusal(Reason.NOT_SELECTED)
        if synchronised and asked.expires_ns is not None and asked.expires_ns <= now_ns:
            return Refusal(Reason.EXPIRED, "it expired before it could be sent")
        if spec.name not in self.grounds.specs:
            return Refusal(Reason.ABORTED_RELOAD, "the point has left the configuration")
        return self.may(asked.operator, spec, test=session.order.test) or self.station(spec, session.order)

    def before(self, spec: PointSpec, order: Order | None) -> Value:
        """What the feedback shows now, where it may prove anything."""
        return gates.before(self.around(spec, order))

    def lock(self, spec: PointSpec, request: Request, sessions: Iterable[Session]) -> Refusal | None:
        """The lock of the point, its bay or its device; and how many selects one operator may hold."""
        sessions = list(sessions)
        locked = self.grounds.lock(spec, request.operator, sessions)
        if locked is not None or request.stage is not Stage.SELECT:
            return locked
        mine = sum(
            one.state in SELECTS and one.opened is not None and one.opened.operator == request.operator
            for one in sessions
        )
        if mine >= self.settings.selects_per_operator:
            return Refusal(Reason.SELECTED_BY_YOU, f"you hold {mine} selects; no more are allowed at the same time")
        return None

    def tags_of(self, point: str) -> list[Tag]:
        """The tags and inhibits that concern a point, wherever they hang."""
        spec = self.grounds.specs.get(point)
        return self.board.of(spec) if spec is not None else []

    def cautions(self, point: str) -> str:
        """What is read out to whoever selects the point."""
        return "; ".join(tag.describe() for tag in self.tags_of(point) if tag.kind is TagKind.CAUTION)

    def unwritable(self) -> Refusal | None:
        """Commands and tags cannot be put on record."""
        trouble = self.trouble()
        return Refusal(Reason.INHIBITED, f"it cannot be put on record: {trouble}") if trouble else None
