from __future__ import annotations

import asyncio
import time

import pytest

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Reply, StepKind, Verdict
from gatewayd.points.types import ControlMode, Kind
from simulators.iec61850_bay import Iec61850Bay
from tests.protocols.iec61850.support import LD, commanded, device, driving, point
from tests.protocols.watching import Watch, command, until

CB, DS, DN, SN, DE, SE, STATUS, INTEGER, ANALOG, TAP = range(10)
POINTS = [
    commanded(CB, Kind.DOUBLE, "CSWI1.Pos", check=("interlock", "synchro")),
    commanded(DS, Kind.DOUBLE, "CSWI2.Pos", check=("interlock",)),
    commanded(DN, Kind.BINARY, "GGIO1.SPCSO1"),
    commanded(SN, Kind.BINARY, "GGIO1.SPCSO2"),
    commanded(DE, Kind.BINARY, "GGIO1.SPCSO3"),
    commanded(SE, Kind.BINARY, "GGIO1.SPCSO4"),
    commanded(STATUS, Kind.DOUBLE, "XCBR1.Pos"),
    commanded(INTEGER, Kind.ENUM, "GGIO1.ISCSO1", ControlMode.DIRECT),
    commanded(ANALOG, Kind.ANALOG, "GGIO1.AnOut1", ControlMode.DIRECT),
    point(TAP, Kind.ENUM, f"{LD}/ATCC1.TapChg", control=ControlMode.DIRECT, command=f"{LD}/ATCC1.TapChg"),
]
DONE = Reply(Verdict.DONE)


def services(sim: Iec61850Bay) -> list[tuple[str, str]]:
    return [(write.service, write.object) for write in sim.writes]


async def test_sbo_enhanced_carries_the_same_words_in_sbow_and_oper_and_terminates():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        asked = command(CB, False, operator="bob")
        assert await driver.select(asked) == Reply(Verdict.DONE, valid_for_s=30.0)
        assert await driver.operate(asked) == Reply(Verdict.DONE, termination=True)
        await until(lambda: watch.steps)
        assert [(id_, step.kind) for id_, step in watch.steps] == [(asked.id, StepKind.TERMINATED)]
        assert services(sim) == [("SBOw", "CSWI1.Pos"), ("Oper", "CSWI1.Pos")]
        sbow, oper = sim.writes
        for write in (sbow, oper):
            assert (write.ctl_val, write.or_cat, write.or_ident) == (False, 3, b"bob")
            assert (write.test, write.check) == (False, 0b11)
        assert sbow.ctl_num == oper.ctl_num
        await until(lambda: [s.value for s in watch.samples(CB, reported=True)] == [0, 1])


async def test_sbo_normal_selects_by_reading_and_has_no_termination():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        asked = command(SN, True)
        assert (await driver.select(asked)).verdict is Verdict.DONE
        assert await driver.operate(asked) == DONE
        assert services(sim) == [("SBO", "GGIO1.SPCSO2"), ("Oper", "GGIO1.SPCSO2")]
        assert sim.value("GGIO1.SPCSO2.stVal[ST]") is True
        assert watch.steps == []


@pytest.mark.parametrize(("row", "name", "termination"), [(DN, "GGIO1.SPCSO1", False), (DE, "GGIO1.SPCSO3", True)])
async def test_direct_models_select_without_traffic(row: int, name: str, termination: bool):
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        asked = command(row, True)
        assert await driver.select(asked) == DONE
        assert sim.writes == []
        assert await driver.operate(asked) == Reply(Verdict.DONE, termination=termination)
        assert services(sim) == [("Oper", name)]
        await until(lambda: sim.value(f"{name}.stVal[ST]") is True)
        await until(lambda: len(watch.steps) == int(termination))


async def test_a_direct_command_on_an_object_that_wants_a_select_selects_first():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        assert (await driver.operate(command(SE, True, sbo=False))).verdict is Verdict.DONE
        assert services(sim) == [("SBOw", "GGIO1.SPCSO4"), ("Oper", "GGIO1.SPCSO4")]
        await until(lambda: watch.steps)


async def test_cancel_frees_the_object_with_the_words_of_its_select():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        asked = command(CB, False)
        await driver.select(asked)
        assert await driver.cancel(asked) == DONE
        assert services(sim) == [("SBOw", "CSWI1.Pos"), ("Cancel", "CSWI1.Pos")]
        assert sim.writes[0].ctl_num == sim.writes[1].ctl_num
        assert sim.writes[1].or_ident == b"alice"
        reply = await driver.operate(asked)
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.NOT_SELECTED)
        assert len(sim.writes) == 2
        assert await driver.cancel(asked) == DONE
        assert len(sim.writes) == 2


async def test_operate_without_select_or_with_another_value_or_operator_sends_nothing():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        assert (await driver.operate(command(CB, True))).reason is Reason.NOT_SELECTED
        await driver.select(command(CB, False))
        for other in (command(CB, True), command(CB, False, operator="eve"), command(CB, False, test=True)):
            reply = await driver.operate(other)
            assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.MISMATCH)
        assert services(sim) == [("SBOw", "CSWI1.Pos")]


async def test_past_its_time_nothing_goes_out():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        for row in (CB, DN, DE, SN):
            reply = await driver.operate(command(row, True, sbo=False, within_s=-0.001))
            assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.EXPIRED)
        assert sim.writes == []
        await driver.select(command(CB, False))
        reply = await driver.operate(command(CB, False, within_s=-0.001))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.EXPIRED)
        assert services(sim) == [("SBOw", "CSWI1.Pos")]


@pytest.mark.parametrize(
    ("cause", "reason"), [(10, Reason.INTERLOCKED), (20, Reason.NOT_AUTHORISED), (8, Reason.BLOCKED_MODE)]
)
async def test_a_refused_select_says_why(cause: int, reason: Reason):
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        sim.refuse_select["CSWI1.Pos"] = cause
        reply = await driver.select(command(CB, True))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, reason)
        assert reply.native is not None
        assert reply.native.code == cause
        assert (await driver.operate(command(CB, True))).reason is Reason.NOT_SELECTED
        assert services(sim) == [("SBOw", "CSWI1.Pos")]


async def test_a_refused_sbo_read_is_a_refusal():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        sim.refuse_select["GGIO1.SPCSO2"] = 3
        reply = await driver.select(command(SN, True))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.DEVICE_REJECTED)
        assert reply.native == ("iec61850", 3, "select-failed")


@pytest.mark.parametrize(
    ("row", "name"), [(CB, "CSWI1.Pos"), (DN, "GGIO1.SPCSO1"), (SN, "GGIO1.SPCSO2"), (DE, "GGIO1.SPCSO3")]
)
@pytest.mark.parametrize(("cause", "reason"), [(11, Reason.SYNCHROCHECK), (2, Reason.LOCAL)])
async def test_a_refused_oper_says_why(row: int, name: str, cause: int, reason: Reason):
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        sim.refuse_operate[name] = cause
        asked = command(row, True)
        assert (await driver.select(asked)).verdict is Verdict.DONE
        reply = await driver.operate(asked)
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, reason)
        assert reply.native is not None
        assert reply.native.code == cause
        assert watch.steps == []
        assert [write.service for write in sim.writes].count("Oper") == 1


@pytest.mark.parametrize(("row", "name"), [(CB, "CSWI1.Pos"), (DE, "GGIO1.SPCSO3")])
@pytest.mark.parametrize(
    ("cause", "reason"), [(9, Reason.BLOCKED_PROCESS), (17, Reason.ABORTED_BY_TRIP), (16, Reason.FEEDBACK_TIMEOUT)]
)
async def test_a_negative_termination_says_why(row: int, name: str, cause: int, reason: Reason):
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        sim.fail_operate[name] = cause
        asked = command(row, False)
        await driver.select(asked)
        assert (await driver.operate(asked)).termination
        await until(lambda: watch.steps)
        ((id_, step),) = watch.steps
        assert (id_, step.kind, step.reason) == (asked.id, StepKind.TERMINATED_NEGATIVE, reason)
        assert step.native is not None
        assert step.native.code == cause


async def test_a_second_command_before_the_termination_is_refused_here():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        sim.travel_s = 0.4
        asked = command(CB, False)
        await driver.select(asked)
        await driver.operate(asked)
        for call in (driver.select, driver.operate, driver.cancel):
            assert (await call(command(CB, True))).reason is Reason.DEVICE_BUSY
        assert len(sim.writes) == 2
        await until(lambda: watch.steps)
        again = command(CB, True)
        assert (await driver.select(again)).verdict is Verdict.DONE
        assert (await driver.operate(again)).verdict is Verdict.DONE
        assert sim.writes[2].ctl_num != sim.writes[0].ctl_num
        await until(lambda: len(watch.steps) == 2)


async def test_the_test_bit_goes_out():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        asked = command(DN, True, test=True)
        assert (await driver.operate(asked)).verdict is Verdict.DONE
        assert [write.test for write in sim.writes] == [True]
        assert sim.value("GGIO1.SPCSO1.stVal[ST]") is False


@pytest.mark.parametrize("constant", [True, False])
async def test_constant_t_keeps_the_time_of_the_select(constant: bool):
    watch = Watch()
    async with (
        Iec61850Bay(still=True) as sim,
        driving(device(sim.port, POINTS, constant_t=constant), watch) as (driver, _),
    ):
        asked = command(CB, False)
        await driver.select(asked)
        selected = time.time()
        await until(lambda: time.time() > selected + 0.02)
        await driver.operate(asked)
        sbow, oper = sim.writes
        assert (sbow.t == oper.t) is constant
        await until(lambda: watch.steps)


async def test_integers_setpoints_and_steps_go_out_in_the_devices_form():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        for row, value in ((INTEGER, -5), (ANALOG, 12.5), (TAP, True), (TAP, False), (TAP, False)):
            assert (await driver.operate(command(row, value, sbo=False))).verdict is Verdict.DONE
        assert [write.ctl_val for write in sim.writes] == [-5, [12.5], 0b10, 0b01, 0b01]
        assert sim.value("GGIO1.ISCSO1.stVal[ST]") == -5
        assert sim.value("GGIO1.AnOut1.mxVal.f[MX]") == 12.5
        assert sim.value("ATCC1.TapChg.valWTr.posVal[ST]") == -1


async def test_a_value_that_does_not_fit_and_an_object_that_is_status_only_send_nothing():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        assert (await driver.operate(command(INTEGER, 1.5, sbo=False))).reason is Reason.BAD_REQUEST
        assert (await driver.select(command(CB, 7))).reason is Reason.BAD_REQUEST
        assert (await driver.operate(command(STATUS, True, sbo=False))).reason is Reason.UNSUPPORTED
        assert (await driver.select(command(STATUS, True))).reason is Reason.UNSUPPORTED
        assert (await driver.select(command(99, True))).reason is Reason.UNSUPPORTED
        assert sim.writes == []


async def test_an_unanswered_select_is_no_answer_and_an_unanswered_operate_is_unknown():
    watch = Watch()
    quick = {"timeout_s": 0.3, "poll_s": 100, "keepalive_s": 100}
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS, **quick), watch) as (driver, _):
        sim.silence()
        reply = await driver.select(command(CB, True))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.DEVICE_NO_ANSWER)
        sim.kill()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS, **quick), Watch()) as (driver, _):
        sim.silence()
        reply = await driver.operate(command(DN, True))
        assert (reply.verdict, reply.reason) == (Verdict.UNKNOWN, Reason.UNKNOWN)
        assert services(sim) == [("Oper", "GGIO1.SPCSO1")]


async def test_a_link_lost_after_the_oper_went_out_is_unknown_and_nothing_is_sent_again():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, task):
        sim.silence()
        asking = asyncio.create_task(driver.operate(command(DN, True)))
        await until(lambda: sim.writes)
        sim.kill()
        reply = await asking
        assert (reply.verdict, reply.reason) == (Verdict.UNKNOWN, Reason.UNKNOWN)
        await until(task.done)
        async with driving(driver, watch):
            assert services(sim) == [("Oper", "GGIO1.SPCSO1")]


async def test_a_select_does_not_outlive_its_association():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, task):
        asked = command(CB, False)
        await driver.select(asked)
        sim.kill()
        await until(task.done)
        assert (await driver.operate(asked)).reason is Reason.DEVICE_OFFLINE
        async with driving(driver, watch):
            assert (await driver.operate(asked)).reason is Reason.NOT_SELECTED
            assert services(sim) == [("SBOw", "CSWI1.Pos")]


async def test_a_command_given_up_before_the_thread_took_it_is_not_sent():
    watch = Watch()
    quick = {"timeout_s": 0.5, "poll_s": 100, "keepalive_s": 100}
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS, **quick), watch) as (driver, _):
        sim.silence()
        first = asyncio.create_task(driver.select(command(CB, True)))
        await until(lambda: sim.writes)
        second = asyncio.create_task(driver.operate(command(DN, True)))
        await asyncio.sleep(0)
        second.cancel()
        assert (await first).reason is Reason.DEVICE_NO_ANSWER
        await driver.cancel(command(SE, True))  # behind the second one in the queue
        assert ("Oper", "GGIO1.SPCSO1") not in services(sim)


async def test_the_disconnector_is_interlocked_by_the_ied_itself():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        reply = await driver.select(command(DS, False))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.INTERLOCKED)
        sim.feeder.local = True
        assert (await driver.select(command(CB, False))).reason is Reason.LOCAL


async def test_an_object_another_client_selected_is_locked():
    one, two = Watch(), Watch()
    async with (
        Iec61850Bay(still=True) as sim,
        driving(device(sim.port, POINTS), one) as (first, _),
        driving(device(sim.port, POINTS), two) as (second, _),
    ):
        assert (await first.select(command(CB, False))).verdict is Verdict.DONE
        reply = await second.select(command(CB, False))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.LOCKED_BY_OTHER_CLIENT)
