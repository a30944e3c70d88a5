"""Commands of one association: select, operate, cancel, and the terminations that come later. On its thread.

One transaction per commanded point: what was selected is what is operated, with the same ctlVal, origin, ctlNum, Check
and Test. Nothing is ever sent twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from gatewayd import clock
from gatewayd.control.reasons import Reason
from gatewayd.control.types import Control, Native, Reply, Step, StepKind, Verdict
from gatewayd.points.types import ControlMode, PointSpec
from gatewayd.protocols.iec61850 import control, values
from gatewayd.protocols.iec61850.address import Address, parse_command
from gatewayd.protocols.iec61850.connection import Connection, ConnectionLost, RequestFailed, Stopped
from gatewayd.protocols.iec61850.control import ApplicationError, ControlModel, Parameters, UnsupportedError
from gatewayd.protocols.iec61850.lib import native
from gatewayd.protocols.iec61850.selects import Select, SelectWatch

log = structlog.get_logger("iec61850")

TERMINATION_S = 30.0
"""How long a CommandTermination is awaited where the IED has no operTimeout."""
TERMINATION_MARGIN_S = 5.0
SELECT_FAILED = 3
"""The AddCause of an SBO that reads as an empty string."""
_NO_TRAFFIC = Reply(Verdict.DONE)


class Object:
    """A controllable object as the IED describes it. model None: it cannot be commanded, `trouble` says why."""

    def __init__(self, point: PointSpec, address: Address) -> None:
        self.point = point
        self.address = address
        self.model: ControlModel | None = None
        self.trouble = ""
        self.form: values.Node | None = None
        self.select_s: float | None = None
        self.operate_s: float | None = None
        self.shows = False
        """It has an stSeld."""

    @property
    def item(self) -> str:
        """`CSWI1$CO$Pos`"""
        return self.address.item("CO")

    @property
    def selected(self) -> str:
        """`CSWI1$ST$Pos$stSeld`"""
        return self.address.item("ST") + "$stSeld"


class Transaction:
    """One command on one object, from its select to its termination."""

    def __init__(self, command: Control, given: Parameters) -> None:
        self.command = command
        self.given = given
        self.selected = False
        self.answered = False
        self.operated_until: float | None = None
        self.early: Step | None = None
        self.held: Select | None = None
        """The IED holds its select, and neither an Oper nor a Cancel has been sent."""


def _refused(reason: Reason, native: Native | None = None) -> Reply:
    return Reply(Verdict.REFUSED, reason, native)


class Transactions:
    """The controllable objects of an IED.

    progress: takes the id of a command and its later step
    shows:    objects whose stSeld was ever seen true, kept over associations
    """

    def __init__(
        self,
        connection: Connection,
        *,
        originator: str,
        constant_t: bool,
        progress: Callable[[str, Step], None],
        shows: set[tuple[str, str]],
    ) -> None:
        self._connection = connection
        self._originator = originator
        self._constant_t = constant_t
        self._progress = progress
        self._objects: dict[int, Object] = {}
        self._running: dict[int, Transaction] = {}
        self._ctl_num = 0
        self._error: ApplicationError | None = None
        self._steps: list[tuple[str, Step]] = []
        self._watch = SelectWatch(connection, shows)
        self.oper_sent = False
        """An Oper of the request now running may have reached the IED."""

    def learn(self, points: Iterable[PointSpec]) -> int:
        """Read control model, form and times of every commanded object; returns how many cannot be commanded."""
        for point in points:
            if point.control is ControlMode.NONE:
                continue
            object_ = self._objects[point.row] = Object(point, parse_command(point.command))
            self._learn(object_)
        return sum(object_.model is None for object_ in self._objects.values())

    def _learn(self, object_: Object) -> None:
        model = self._attribute(object_, "ctlModel")
        form = self._connection.layout(object_.address.ld, object_.item)
        if model is None or form is None or form.child("Oper") is None:
            object_.trouble = "the IED has no such controllable object"
        elif not 0 <= model < len(ControlModel):
            object_.trouble = f"its ctlModel is {model}"
        elif model == ControlModel.STATUS_ONLY:
            object_.trouble = "its ctlModel is status-only"
        else:
            object_.model, object_.form = ControlModel(model), form
            object_.select_s = _seconds(self._attribute(object_, "sboTimeout"))
            object_.operate_s = _seconds(self._attribute(object_, "operTimeout"))
            if object_.model.selects:
                object_.shows = self._connection.layout(object_.address.ld, object_.selected) is not None

    def _attribute(self, object_: Object, name: str) -> int | None:
        try:
            value = self._connection.read(object_.address.ld, object_.address.item("CF") + "$" + name)
        except RequestFailed:
            return None
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def troubles(self) -> list[tuple[str, str]]:
        """Points that cannot be commanded, and why."""
        return [(object_.point.name, object_.trouble) for object_ in self._objects.values() if object_.trouble]

    def tell(self) -> None:
        """Pass on the steps that waited until their reply was given."""
        steps, self._steps = self._steps, []
        for command_id, step in steps:
            self._progress(command_id, step)

    # the three requests
    def select(self, command: Control) -> Reply:
        """SBO or SBOw; nothing goes out where the control model has no select."""
        object_ = self._objects.get(command.point)
        if object_ is None or object_.model is None:
            return _refused(Reason.UNSUPPORTED)
        if self._awaiting_termination(command.point):
            return _refused(Reason.DEVICE_BUSY)
        if not object_.model.selects:
            return _NO_TRAFFIC
        return self._select(object_, command)

    def _select(self, object_: Object, command: Control) -> Reply:
        if _too_late(command):
            return _refused(Reason.EXPIRED)
        transaction = Transaction(command, self._parameters(object_, command))
        assert object_.model is not None
        self._running[command.point] = transaction
        try:
            if object_.model is ControlModel.SBO_NORMAL:
                self._error = None
                answer = self._connection.read(object_.address.ld, object_.item + "$SBO")
                if not isinstance(answer, str) or not answer:
                    del self._running[command.point]
                    said = self._error.add_cause if self._error is not None else SELECT_FAILED
                    return _refused(*control.add_cause(said))
            else:
                self._send(object_, transaction, "SBOw")
        except UnsupportedError as error:
            del self._running[command.point]
            log.warning("command cannot be sent", point=object_.point.name, cause=str(error))
            return _refused(error.reason)
        except RequestFailed as error:
            if error.unsure:
                return _refused(Reason.DEVICE_NO_ANSWER)  # kept: the IED may hold it, a cancel must be able to reach it
            del self._running[command.point]
            return _refused(*self._why(error, transaction))
        transaction.selected = True
        if object_.shows:
            transaction.held = Select(object_.address.ld, object_.selected, time.monotonic())
        return Reply(Verdict.DONE, valid_for_s=object_.select_s)

    def operate(self, command: Control) -> Reply:
        """Oper, with what was selected; a direct command on an object that wants a select selects first."""
        object_ = self._objects.get(command.point)
        if object_ is None or object_.model is None:
            return _refused(Reason.UNSUPPORTED)
        if self._awaiting_termination(command.point):
            return _refused(Reason.DEVICE_BUSY)
        self.oper_sent = False
        if object_.model.selects and not command.sbo:
            reply = self._select(object_, command)
            if reply.verdict is not Verdict.DONE:
                return reply
        transaction = self._running.get(command.point)
        if object_.model.selects:
            if transaction is None or not transaction.selected:
                return _refused(Reason.NOT_SELECTED)
            if not _same(transaction.command, command):
                return _refused(Reason.MISMATCH)
            if not self._constant_t:
                transaction.given = transaction.given._replace(time_ms=clock.now_ns() // 1_000_000)
            transaction.command = command
        else:
            transaction = self._running[command.point] = Transaction(command, self._parameters(object_, command))
        return self._operate(object_, transaction)

    def _operate(self, object_: Object, transaction: Transaction) -> Reply:
        assert object_.model is not None
        point, enhanced = object_.point.row, object_.model.enhanced
        transaction.operated_until = time.monotonic() + (object_.operate_s or TERMINATION_S) + TERMINATION_MARGIN_S
        try:
            self._send(object_, transaction, "Oper", not_after_ns=transaction.command.not_after_ns)
        except _TooLateError:
            transaction.operated_until = None
            if not transaction.selected:
                del self._running[point]
            return _refused(Reason.EXPIRED)
        except UnsupportedError as error:
            del self._running[point]
            log.warning("command cannot be sent", point=object_.point.name, cause=str(error))
            return _refused(error.reason)
        except (ConnectionLost, Stopped):
            self._running.pop(point, None)
            raise
        except RequestFailed as error:
            if error.unsure:
                transaction.answered = True  # as far as it ever will be: a termination is told when it comes
                if not enhanced:
                    del self._running[point]
                native = Native(f"{control.PROTOCOL}-mms", error.error, "no-answer")
                return Reply(Verdict.UNKNOWN, Reason.UNKNOWN, native)
            del self._running[point]
            return _refused(*self._why(error, transaction))
        transaction.selected, transaction.answered = False, True
        if not enhanced:
            del self._running[point]
            return Reply(Verdict.DONE)
        if transaction.early is not None:  # the termination was faster than the answer: told after the reply
            del self._running[point]
            self._steps.append((transaction.command.id, transaction.early))
        return Reply(Verdict.DONE, termination=True)

    def cancel(self, command: Control) -> Reply:
        """Cancel what is selected; nothing goes out where nothing is."""
        object_ = self._objects.get(command.point)
        if object_ is None or object_.model is None:
            return _refused(Reason.UNSUPPORTED)
        transaction = self._running.get(command.point)
        if transaction is None or not object_.model.selects:
            return _NO_TRAFFIC
        if self._awaiting_termination(command.point):
            return _refused(Reason.DEVICE_BUSY)
        try:
            self._send(object_, transaction, "Cancel")
        except UnsupportedError as error:
            return _refused(error.reason)
        except RequestFailed as error:
            if error.unsure:
                return Reply(Verdict.UNKNOWN, Reason.UNKNOWN)
            del self._running[command.point]
            return _refused(*self._why(error, transaction))
        del self._running[command.point]
        return Reply(Verdict.DONE)

    # the wire
    def _parameters(self, object_: Object, command: Control) -> Parameters:
        self._ctl_num = (self._ctl_num + 1) % 256
        in_step = clock.state().synchronised is True
        check = 0
        for name, bit in (("synchro", control.SYNCHRO), ("interlock", control.INTERLOCK)):
            check |= bit if name in object_.point.check else 0
        return Parameters(
            value=command.value,
            origin=control.orident(command.operator, self._originator),
            ctl_num=self._ctl_num,
            time_ms=clock.now_ns() // 1_000_000,
            time_quality=control.TIME_QUALITY_IN_STEP if in_step else control.TIME_QUALITY_UNKNOWN,
            test=command.test,
            check=check,
        )

    def _send(
        self, object_: Object, transaction: Transaction, service: str, *, not_after_ns: int | None = None
    ) -> None:
        assert object_.form is not None
        form = object_.form.child(service)
        if form is None:
            raise UnsupportedError(Reason.UNSUPPORTED, f"the IED's object has no {service}")
        made = control.structure(form, transaction.given)
        self._error = None
        if not_after_ns is not None and clock.mono_ns() > not_after_ns:
            native.MmsValue_delete(made)
            raise _TooLateError
        self.oper_sent = service == "Oper"
        transaction.held = None
        self._connection.write(object_.address.ld, f"{object_.item}${service}", made)

    def _why(self, error: RequestFailed, transaction: Transaction) -> tuple[Reason, Native]:
        said, self._error = self._error, None
        if said is not None and said.ctl_num == transaction.given.ctl_num:
            return control.add_cause(said.add_cause)
        return control.access_error(error)

    # what is held
    @property
    def _held(self) -> list[Select]:
        return [one.held for one in self._running.values() if one.held is not None]

    def look(self) -> bool:
        """Look at what is held selected, without waiting; whether one was found that the IED has dropped.

        That one is forgotten: nothing is sent for it any more. Raises ConnectionLost, Stopped.
        """
        dropped = self._watch.look(self._held)
        if dropped is None:
            return False
        point = next(point for point, one in self._running.items() if one.held is dropped)
        log.warning("the IED dropped a select by itself", point=self._objects[point].point.name)
        self._ended(point, self._running[point], Step(StepKind.UNSELECTED))
        return True

    def reported(self, members: Iterable[tuple[str, str]]) -> None:
        """A report brought these members of its data set, domain and item each."""
        if held := self._held:
            self._watch.reported(held, members)

    # what comes unasked
    def heard(self, domain: str, item: str, value: Any) -> None:
        """LastApplError, or the Oper that a CommandTermination carries."""
        if not domain and item == "LastApplError":
            self._error = control.application_error(value)
            return
        for point, transaction in list(self._running.items()):
            object_ = self._objects[point]
            if domain != object_.address.ld or item != f"{object_.item}$Oper" or transaction.operated_until is None:
                continue
            if _ctl_num(object_, value) not in (None, transaction.given.ctl_num):
                continue  # of an older command
            said, self._error = self._error, None
            step = Step(StepKind.TERMINATED)
            if said is not None and said.negative and said.ctl_num == transaction.given.ctl_num:
                step = Step(StepKind.TERMINATED_NEGATIVE, *control.add_cause(said.add_cause))
            if transaction.answered:
                self._ended(point, transaction, step)
            else:
                transaction.early = step

    def _ended(self, point: int, transaction: Transaction, step: Step) -> None:
        self._running.pop(point, None)
        self._progress(transaction.command.id, step)

    def _awaiting_termination(self, point: int) -> bool:
        transaction = self._running.get(point)
        if transaction is None or transaction.operated_until is None:
            return False
        if time.monotonic() < transaction.operated_until:
            return True
        del self._running[point]
        return False


class _TooLateError(Exception):
    """not_after_ns has passed: nothing was sent."""


def _too_late(command: Control) -> bool:
    return clock.mono_ns() > command.not_after_ns


def _same(selected: Control, command: Control) -> bool:
    return (selected.value, selected.operator, selected.test) == (command.value, command.operator, command.test)


def _seconds(milliseconds: int | None) -> float | None:
    """A timeout of the IED; 0 means it never runs out, which is not told as a time."""
    return milliseconds / 1000 if milliseconds else None


def _ctl_num(object_: Object, oper: Any) -> int | None:
    form = object_.form.child("Oper") if object_.form is not None else None
    if form is None or not isinstance(oper, list) or len(oper) != len(form.children):
        return None
    names = [child.name for child in form.children]
    number = oper[names.index("ctlNum")] if "ctlNum" in names else None
    return number if isinstance(number, int) else None
