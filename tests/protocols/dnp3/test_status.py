"""The table of docs/control.md: every status code at both stages, every indication, every other end."""

from __future__ import annotations

import pytest

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Native, Reply, Verdict
from gatewayd.protocols.dnp3.frames import Iin
from gatewayd.protocols.dnp3.status import Ended, Point, PointState, Task, reply

REFUSALS = {
    1: "select-expired",
    2: "not-selected",
    3: "bad-request",
    4: "unsupported",
    5: "device-busy",
    6: "blocked-health",
    7: "local",
    8: "rate-limited",
    9: "not-authorised",
    10: "interlocked",
    11: "device-busy",
    12: "out-of-range",
    13: "downstream-local",
    14: "already-in-position",
    15: "inhibited",
    16: "cancelled",
    17: "locked-by-other-client",
    18: "downstream-failed",
    126: "device-rejected",
}


def answered(state: PointState, status: int, iin: int = 0, task: Task = Task.SUCCESS) -> Ended:
    return Ended(task, (Point(state, status),), iin)


def test_success_is_success_all_the_way() -> None:
    assert reply(answered(PointState.SUCCESS, 0), acted=True) == Reply(
        Verdict.DONE, Reason.OK, Native("dnp3", 0, "SUCCESS")
    )


@pytest.mark.parametrize("ended", [
    Ended(Task.SUCCESS, ()),
    Ended(Task.SUCCESS, (Point(PointState.SUCCESS, 0), Point(PointState.INIT, 127))),
    answered(PointState.INIT, 0),
    answered(PointState.SELECT_SUCCESS, 0),
    answered(PointState.OPERATE_FAIL, 0),
    answered(PointState.SUCCESS, 127),
    answered(PointState.SUCCESS, 0, task=Task.BAD_RESPONSE),
])  # fmt: skip
def test_whatever_is_less_is_unknown_once_it_was_sent(ended: Ended) -> None:
    found = reply(ended, acted=True)
    assert (found.verdict, found.reason) == (Verdict.UNKNOWN, Reason.UNKNOWN)


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_refused_at_select(code: int) -> None:
    found = reply(answered(PointState.SELECT_FAIL, code), acted=False)
    assert (found.verdict, found.reason) == (Verdict.REFUSED, REFUSALS[code])
    assert found.native is not None
    assert (found.native.proto, found.native.code) == ("dnp3", code)


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_refused_at_operate(code: int) -> None:
    found = reply(answered(PointState.SUCCESS, code), acted=True)
    verdict = Verdict.UNKNOWN if code in (6, 18) else Verdict.REFUSED
    assert (found.verdict, found.reason) == (verdict, REFUSALS[code])
    assert found.native is not None
    assert found.native.code == code


@pytest.mark.parametrize("code", [code for code in range(19, 128) if code != 126])
def test_reserved_and_undefined_codes(code: int) -> None:
    assert reply(answered(PointState.SUCCESS, code), acted=True).verdict is Verdict.UNKNOWN
    at_select = reply(answered(PointState.SELECT_FAIL, code), acted=False)
    assert (at_select.verdict, at_select.reason) == (Verdict.REFUSED, Reason.DEVICE_REJECTED)


@pytest.mark.parametrize(
    ("bit", "reason", "code"),
    [
        (Iin.NO_FUNC_CODE_SUPPORT, "unsupported", 0),
        (Iin.OBJECT_UNKNOWN, "unknown-point", 1),
        (Iin.PARAMETER_ERROR, "bad-request", 2),
    ],
)
@pytest.mark.parametrize("acted", [False, True])
def test_an_answer_with_an_error_indication_is_a_refusal(bit: Iin, reason: str, code: int, acted: bool) -> None:
    state = PointState.SELECT_SUCCESS if acted else PointState.INIT
    for task in (Task.SUCCESS, Task.BAD_RESPONSE):
        found = reply(answered(state, 127, bit | Iin.CLASS_1, task), acted=acted)
        assert found == Reply(Verdict.REFUSED, Reason(reason), Native("dnp3-iin", code, found.native.name))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (Task.SUCCESS, "device-rejected"),
        (Task.BAD_RESPONSE, "device-rejected"),
        (Task.RESPONSE_TIMEOUT, "device-no-answer"),
        (Task.START_TIMEOUT, "device-busy"),
        (Task.NO_COMMS, "device-offline"),
        (Task.LOST, "device-offline"),
        (Task.MESSAGE_FORMAT_ERROR, "device-offline"),
    ],
)
def test_without_a_usable_answer(task: Task, reason: str) -> None:
    """Nothing moved while no OPERATE has left; after that nobody knows."""
    ended = answered(PointState.INIT, 127, task=task)
    before = reply(ended, acted=False)
    assert (before.verdict, before.reason) == (Verdict.REFUSED, reason)
    after = reply(ended, acted=True)
    assert (after.verdict, after.reason) == (Verdict.UNKNOWN, Reason.UNKNOWN)
