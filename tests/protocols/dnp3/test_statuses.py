"""CommandStatus on the wire: every code, at SELECT, OPERATE and DIRECT_OPERATE, for a CROB and the four analog outputs.

Each is what an operator is told in the end: the driver's reply goes through the session of the control room. The
expectations are written down here once more, from IEEE 1815 and docs/dnp3.md, not taken from the driver's table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from gatewayd.control.states import Record, Say
from gatewayd.control.types import Answer as Told
from gatewayd.control.types import Native, Reply
from tests.control.test_session import Run
from tests.protocols.dnp3.outstation import Answer, Function, Request
from tests.protocols.dnp3.test_commands import controls, standing
from tests.protocols.watching import command


class Expected(NamedTuple):
    """Name of a code and what it means: at SELECT nothing has moved, whatever it says."""

    name: str
    select: str
    operate: str
    effect: str = "none"


EXPECTED = {
    1: Expected("TIMEOUT", "select-expired", "select-expired"),
    2: Expected("NO_SELECT", "not-selected", "not-selected"),
    3: Expected("FORMAT_ERROR", "bad-request", "bad-request"),
    4: Expected("NOT_SUPPORTED", "unsupported", "unsupported"),
    5: Expected("ALREADY_ACTIVE", "device-busy", "device-busy"),
    6: Expected("HARDWARE_ERROR", "blocked-health", "blocked-health", "possible"),
    7: Expected("LOCAL", "local", "local"),
    8: Expected("TOO_MANY_OPS", "rate-limited", "rate-limited"),
    9: Expected("NOT_AUTHORIZED", "not-authorised", "not-authorised"),
    10: Expected("AUTOMATION_INHIBIT", "interlocked", "interlocked"),
    11: Expected("PROCESSING_LIMITED", "device-busy", "device-busy"),
    12: Expected("OUT_OF_RANGE", "out-of-range", "out-of-range"),
    13: Expected("DOWNSTREAM_LOCAL", "downstream-local", "downstream-local"),
    14: Expected("ALREADY_COMPLETE", "already-in-position", "already-in-position"),
    15: Expected("BLOCKED", "inhibited", "inhibited"),
    16: Expected("CANCELLED", "cancelled", "cancelled"),
    17: Expected("BLOCKED_OTHER_MASTER", "locked-by-other-client", "locked-by-other-client"),
    18: Expected("DOWNSTREAM_FAIL", "downstream-failed", "downstream-failed", "possible"),
    126: Expected("NON_PARTICIPATING", "device-rejected", "device-rejected"),
    127: Expected("UNDEFINED", "device-rejected", "unknown", "possible"),
}
OUTPUTS = {"crob": (0, True), "i16": (3, -1234), "i32": (4, 123456.0), "f32": (5, 1.5), "f64": (6, 0.1)}
"""Rows of the points of test_commands, each with a value that can be sent."""


def status(code: int) -> Callable[[Request], Answer]:
    return lambda request: Answer(request.objects[:-1] + bytes((code,)))


def told(reply: Reply) -> Told:
    """What the operator is told at the end of an operate that came to this."""
    run = Run()
    run.operating()
    actions = run.replied(reply)
    answers = [one for action in actions if isinstance(action, Record) for one in action.answers]
    answers += [action.answer for action in actions if isinstance(action, Say)]
    assert len(answers) == 1
    return answers[0]


@pytest.mark.parametrize("stage", [Function.SELECT, Function.OPERATE, Function.DIRECT_OPERATE], ids=lambda f: f.name)
@pytest.mark.parametrize("output", OUTPUTS)
async def test_every_code_means_the_same_for_every_output(output: str, stage: Function) -> None:
    row, value = OUTPUTS[output]
    sbo = stage != Function.DIRECT_OPERATE
    async with standing() as (rtu, driver, _):
        for code, expected in EXPECTED.items():
            rtu.requests.clear()
            rtu.answers = {stage: status(code)}
            reply = await driver.operate(command(row, value, sbo=sbo))
            found = told(reply)
            at_select = stage == Function.SELECT
            reason = expected.select if at_select else expected.operate
            effect = "none" if at_select else expected.effect
            assert (found.reason, found.effect) == (reason, effect), code
            assert found.native == Native("dnp3", code, expected.name)
            # each function code went out once, and no OPERATE after a refused SELECT
            sent = [Function.SELECT] if at_select else [Function.SELECT, Function.OPERATE] if sbo else [stage]
            assert controls(rtu) == sent, code


@pytest.mark.parametrize("sbo", [True, False])
@pytest.mark.parametrize("output", OUTPUTS)
async def test_success_is_accepted_and_is_no_proof(output: str, sbo: bool) -> None:
    row, value = OUTPUTS[output]
    async with standing() as (rtu, driver, _):
        reply = await driver.operate(command(row, value, sbo=sbo))
        found = told(reply)
        assert (found.result, found.reason, found.effect) == ("accepted", "ok", "possible")
        assert found.native == Native("dnp3", 0, "SUCCESS")
        assert controls(rtu) == ([Function.SELECT, Function.OPERATE] if sbo else [Function.DIRECT_OPERATE])
