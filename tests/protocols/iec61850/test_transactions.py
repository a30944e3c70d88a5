"""What depends on the order of messages, which a real server cannot be made to change."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Reply, Step, StepKind, Verdict
from gatewayd.points.types import Kind
from gatewayd.protocols.iec61850 import transactions, values
from gatewayd.protocols.iec61850.connection import ConnectionLost, MmsError, RequestFailed
from gatewayd.protocols.iec61850.lib import native
from gatewayd.protocols.iec61850.transactions import Transactions
from gatewayd.protocols.iec61850.values import Node
from tests.protocols.iec61850.support import LD, commanded
from tests.protocols.watching import command

PARTS = (Node("ctlVal", values.BOOLEAN, 1), Node("ctlNum", values.UNSIGNED, 8))
FORM = Node(
    "", values.STRUCTURE, 3, tuple(Node(name, values.STRUCTURE, 2, PARTS) for name in ("SBOw", "Oper", "Cancel"))
)
ITEM = "CSWI1$CO$Pos"


class Wire:
    """A connection that answers from a script: attribute reads as given, each write by `on_write`."""

    def __init__(self, model: int) -> None:
        self.attributes = {"ctlModel": model, "sboTimeout": 0, "operTimeout": 1000}
        self.written: list[tuple[str, Any]] = []
        self.on_write: Callable[[str, Any], None] = lambda _service, _value: None

    def read(self, _domain: str, item: str) -> Any:
        return self.attributes[item.rpartition("$")[2]]

    def layout(self, _domain: str, _item: str) -> Node:
        return FORM

    def write(self, _domain: str, item: str, value: int) -> None:
        service, given = item.rpartition("$")[2], values.whole(value)
        native.MmsValue_delete(value)
        self.written.append((service, given))
        self.on_write(service, given)


def made(model: int) -> tuple[Wire, Transactions, list[tuple[str, Step]]]:
    wire, steps = Wire(model), []
    unit = Transactions(
        wire,  # type: ignore[arg-type]
        originator="gw",
        constant_t=False,
        progress=lambda id_, step: steps.append((id_, step)),
        shows=set(),
    )
    assert unit.learn([commanded(0, Kind.DOUBLE, "CSWI1.Pos")]) == 0
    return wire, unit, steps


def appl_error(cause: int, ctl_num: int) -> list[Any]:
    return [f"{LD}/{ITEM}$Oper", 1, [3, b"x"], ctl_num, cause]


def test_a_termination_faster_than_the_answer_is_told_after_the_reply():
    wire, unit, steps = made(3)
    wire.on_write = lambda _service, given: unit.heard(LD, f"{ITEM}$Oper", given)
    asked = command(0, True)
    assert unit.operate(asked) == Reply(Verdict.DONE, termination=True)
    assert steps == []
    unit.tell()
    assert steps == [(asked.id, Step(StepKind.TERMINATED))]
    assert unit.operate(command(0, False)).verdict is Verdict.DONE


def test_a_termination_of_an_older_command_is_not_this_ones():
    wire, unit, steps = made(3)
    unit.operate(command(0, True))
    number = wire.written[0][1][1]
    unit.heard(LD, f"{ITEM}$Oper", [True, (number - 1) % 256])
    assert steps == []
    unit.heard("OTHERLD0", f"{ITEM}$Oper", [True, number])
    assert steps == []
    unit.heard(LD, f"{ITEM}$Oper", [True, number])
    assert len(steps) == 1


def test_an_application_error_of_another_command_does_not_make_a_termination_negative():
    wire, unit, steps = made(3)
    unit.operate(command(0, True))
    number = wire.written[0][1][1]
    unit.heard("", "LastApplError", appl_error(9, (number + 7) % 256))
    unit.heard(LD, f"{ITEM}$Oper", [True, number])
    assert steps[0][1].kind is StepKind.TERMINATED


def test_a_late_termination_after_an_unanswered_oper_is_told():
    wire, unit, steps = made(3)

    def silent(_service: str, _given: Any) -> None:
        raise RequestFailed("x", MmsError.SERVICE_TIMEOUT)

    wire.on_write = silent
    asked = command(0, True)
    assert unit.operate(asked).verdict is Verdict.UNKNOWN
    unit.heard(LD, f"{ITEM}$Oper", wire.written[0][1])
    assert steps == [(asked.id, Step(StepKind.TERMINATED))]


def test_an_object_takes_commands_again_when_the_termination_never_came(monkeypatch: pytest.MonkeyPatch):
    _, unit, _ = made(3)
    now = [100.0]
    monkeypatch.setattr(transactions.time, "monotonic", lambda: now[0])
    unit.operate(command(0, True))
    now[0] += 1.0 + transactions.TERMINATION_MARGIN_S - 0.1
    assert unit.operate(command(0, True)).reason is Reason.DEVICE_BUSY
    now[0] += 0.2
    assert unit.operate(command(0, True)).verdict is Verdict.DONE


def test_a_select_that_was_not_answered_can_be_cancelled():
    wire, unit, _ = made(4)

    def silent(_service: str, _given: Any) -> None:
        raise RequestFailed("x", MmsError.SERVICE_TIMEOUT)

    wire.on_write = silent
    asked = command(0, True)
    assert unit.select(asked).reason is Reason.DEVICE_NO_ANSWER
    assert unit.operate(asked).reason is Reason.NOT_SELECTED
    wire.on_write = lambda _service, _value: None
    assert unit.cancel(asked).verdict is Verdict.DONE
    assert [service for service, _ in wire.written] == ["SBOw", "Cancel"]
    assert wire.written[0][1] == wire.written[1][1]


def test_a_link_lost_under_an_oper_is_known_as_sent():
    wire, unit, _ = made(1)

    def gone(_service: str, _given: Any) -> None:
        raise ConnectionLost("gone")

    wire.on_write = gone
    with pytest.raises(ConnectionLost):
        unit.operate(command(0, True))
    assert unit.oper_sent


def test_an_sbo_timeout_of_zero_is_not_told_as_a_time():
    _, unit, _ = made(4)
    assert unit.select(command(0, True)) == Reply(Verdict.DONE, valid_for_s=None)


def test_every_command_has_a_number_of_its_own_and_wraps_at_256():
    wire, unit, _ = made(1)
    for _ in range(300):
        unit.operate(command(0, True))
    numbers = [given[1] for _, given in wire.written]
    assert numbers[:3] == [1, 2, 3]
    assert all(0 <= number <= 255 for number in numbers)
    assert all(a != b for a, b in itertools.pairwise(numbers))
