from __future__ import annotations

import pytest

from gatewayd.control.types import StepKind, Verdict
from gatewayd.points.types import Kind
from gatewayd.protocols.iec61850 import control
from simulators.iec61850_bay import Iec61850Bay
from tests.protocols.iec61850.support import commanded, device, driving
from tests.protocols.watching import Watch, command, until

NAME = "GGIO1.SPCSO4"


@pytest.mark.case("N15")
async def test_all_28_add_causes_at_select_at_oper_and_at_termination():
    watch = Watch()
    async with (
        Iec61850Bay(still=True) as sim,
        driving(device(sim.port, [commanded(0, Kind.BINARY, NAME)]), watch) as (driver, _),
    ):
        for cause, (name, reason) in enumerate(control.ADD_CAUSES):
            word = ("iec61850", cause, name)
            sim.refuse_select[NAME] = cause
            reply = await driver.select(command(0, True))
            assert (reply.verdict, reply.reason, reply.native) == (Verdict.REFUSED, reason, word)
            del sim.refuse_select[NAME]

            sim.refuse_operate[NAME] = cause
            asked = command(0, True)
            assert (await driver.select(asked)).verdict is Verdict.DONE
            reply = await driver.operate(asked)
            assert (reply.verdict, reply.reason, reply.native) == (Verdict.REFUSED, reason, word)
            await driver.cancel(asked)
            del sim.refuse_operate[NAME]

            sim.fail_operate[NAME] = cause
            failing = command(0, True)
            assert (await driver.select(failing)).verdict is Verdict.DONE
            assert (await driver.operate(failing)).verdict is Verdict.DONE
            await until(lambda so_far=cause: len(watch.steps) > so_far)
            assert watch.steps[cause] == (failing.id, (StepKind.TERMINATED_NEGATIVE, reason, word))
            del sim.fail_operate[NAME]
