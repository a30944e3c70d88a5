from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from open61850.data import OctetStringData, TimestampData
from open61850.mms.pdu import ObjectName

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Verdict
from gatewayd.points import quality as q
from gatewayd.points.types import Kind, Link
from gatewayd.protocols.driver import LinkLost
from gatewayd.protocols.iec61850 import association
from gatewayd.protocols.iec61850 import driver as driver_module
from gatewayd.protocols.iec61850.driver import create
from gatewayd.protocols.iec61850.exchange import MOST_WAITING
from simulators.iec61850_bay import Iec61850Bay
from tests.protocols.iec61850.support import BRCB, LD, REPORTS, commanded, device, driving, point
from tests.protocols.watching import Watch, command, until

POS, IND1, IND2, P, AMPS, TRIP, LOCAL, ENERGY, MISSING = range(9)
POINTS = [
    point(POS, Kind.DOUBLE, f"{LD}/XCBR1.Pos"),
    point(IND1, Kind.BINARY, f"{LD}/GGIO1.Ind1"),
    point(IND2, Kind.BINARY, f"{LD}/GGIO1.Ind2.stVal[ST]"),
    point(P, Kind.ANALOG, f"{LD}/MMXU1.TotW.mag.f[MX]"),
    point(AMPS, Kind.ANALOG, f"{LD}/MMXU1.A.phsA"),
    point(TRIP, Kind.BINARY, f"{LD}/PTRC1.Tr.general[ST]"),
    point(LOCAL, Kind.BINARY, f"{LD}/LLN0.Loc"),
    point(ENERGY, Kind.COUNTER, f"{LD}/MMTR1.SupWh"),
    point(MISSING, Kind.ANALOG, f"{LD}/MMXU1.NoSuch.mag.f[MX]"),
]

POINTS_OF_THEIR_OWN = [
    point(100 + number, Kind.ENUM, f"{LD}/{ln}.{do}[ST]")
    for number, (ln, do) in enumerate(
        (ln, f"{do}.stVal")
        for ln in ("XCBR1", "XSWI1", "CSWI1", "CSWI2", "MMXU1", "GGIO1")
        for do in ("Beh", "Health", "Mod")
    )
]


def rcb(sim: Iec61850Bay, item: str, attribute: str) -> object:
    data = sim.model.get(ObjectName(f"{item}${attribute}", LD))
    return getattr(data, "value", data)


async def test_up_comes_after_every_point_was_read_once():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch):
        at_up = watch.calls.index(("device", "BAY1", Link.UP, ""))
        before = {s.point for call in watch.calls[:at_up] if call[0] in ("state", "events") for s in call[1].samples}
        assert before == {point.row for point in POINTS}
        position, power = watch.last(POS), watch.last(P)
        assert position is not None
        assert position.value == 2
        assert position.quality == q.GOOD
        assert abs(position.time_ns - time.time_ns()) < 60e9
        assert power is not None
        assert power.value == pytest.approx(2400.0)
        assert not any(batch.reported for batch in watch.batches)
        assert watch.gaps == []


async def test_spontaneous_events_carry_the_devices_time_and_quality():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch):
        stamp = datetime(2026, 3, 4, 5, 6, 7, 250_000, tzinfo=UTC)
        sim.set("GGIO1.Ind1.stVal[ST]", True, t=TimestampData(stamp, 0x2A), q=0b11 | 1 << 7)
        await until(lambda: watch.samples(IND1, reported=True))
        (event,) = watch.samples(IND1, reported=True)
        assert event.value is True
        assert event.time_ns == 1_772_600_767_250_000_000
        assert event.quality == q.QUESTIONABLE | q.OLD_DATA | q.SYNC_NO | q.UNSYNCHRONISED
        assert event.native == 0b11 | 1 << 7
        events = [call for call in watch.of("events") if call[1].reported]
        assert [call[2].source for call in events] == [BRCB]


async def test_measurements_of_the_unbuffered_block_are_state_without_a_cursor():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch):
        sim.set("MMXU1.A.phsA.cVal.mag.f[MX]", 12.5)
        await until(lambda: watch.samples(AMPS, reported=True))
        assert watch.samples(AMPS, reported=True)[-1].value == 12.5
        assert all(call[0] == "state" for call in watch.calls if call[0] in ("state", "events") and call[1].reported)


async def test_an_unbuffered_block_with_an_event_point_goes_to_events():
    watch = Watch()
    points = [point(0, Kind.ANALOG, f"{LD}/MMXU1.TotW", event=True)]
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, points), watch):
        sim.set("MMXU1.TotW.mag.f[MX]", 3.5)
        await until(lambda: watch.samples(0, reported=True))
        assert watch.of("events")[-1][1].samples[0].value == 3.5
        assert watch.of("events")[-1][2] is None


async def test_integrity_reports_come_at_the_period_that_was_asked_for():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS, integrity_s=0.2), watch):
        before = len(watch.samples(P))
        await until(lambda: len(watch.samples(P)) >= before + 3)
        assert watch.samples(P, reported=True) == []
        assert rcb(sim, "LLN0$RP$urcbMX01", "IntgPd") == 200
        assert rcb(sim, "LLN0$BR$brcbST01", "IntgPd") == 0


async def test_points_in_no_report_are_polled():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        sim.set("MMTR1.SupWh.actVal[ST]", 123456789012)
        await until(lambda: (last := watch.last(ENERGY)) is not None and last.value == 123456789012)
        assert driver.counters()["polled_points"] == 1
        polled = [batch for batch in watch.batches if [s.point for s in batch.samples] == [ENERGY]]
        assert polled
        assert not any(batch.reported for batch in polled)


async def test_without_reports_everything_is_polled():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS, reports=[]), watch):
        sim.set("GGIO1.Ind1.stVal[ST]", True)
        await until(lambda: (last := watch.last(IND1)) is not None and last.value is True)


async def test_a_point_the_ied_does_not_have_is_a_config_error_and_the_others_go_on():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        (sample,) = watch.samples(MISSING)
        assert sample.value is None
        assert sample.quality == q.INVALID | q.CONFIG_ERROR | q.RECEIPT
        assert driver.counters()["unknown_points"] == 1


async def test_a_value_the_device_gives_no_quality_for_is_questionable():
    watch = Watch()
    points = [point(0, Kind.STRING, f"{LD}/LPHD1.PhyNam.vendor[DC]")]
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, points), watch):
        (sample, *_) = watch.samples(0)
        assert (sample.value, sample.quality) == ("gatewayd", q.QUESTIONABLE | q.Q_ABSENT | q.RECEIPT)


async def test_resuming_gives_what_was_missed_once_and_in_order():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim:
        made = create(device(sim.port, POINTS))
        async with driving(made, watch):
            sim.set("GGIO1.Ind1.stVal[ST]", True)
            await until(lambda: watch.samples(IND1, reported=True))
        seen = len(watch.calls)
        for number in range(20):
            sim.set("GGIO1.Ind1.stVal[ST]", number % 2 == 1)
            sim.set("GGIO1.Ind2.stVal[ST]", number % 2 == 0)
        async with driving(made, watch):
            later = [call for call in watch.calls[seen:] if call[0] == "events" and call[1].reported]
            rows = [(s.point, s.value) for call in later for s in call[1].samples]
            assert rows == [pair for n in range(20) for pair in ((IND1, n % 2 == 1), (IND2, n % 2 == 0))]
            cursors = [call[2].data for call in later]
            assert cursors == sorted(set(cursors))
            assert watch.gaps == []
            assert made.counters()["resumed"] == 1
            up = max(i for i, call in enumerate(watch.calls) if call[0] == "device")
            assert all(watch.calls.index(call) < up for call in later)
            static = [call for call in watch.calls[seen:up] if call[0] == "events" and not call[1].reported]
            assert {s.point for call in static for s in call[1].samples} >= {POS, IND1, IND2, TRIP}
            last_static = watch.calls.index(static[-1])
            assert all(watch.calls.index(call) < last_static for call in later)


async def test_nothing_is_confirmed_before_it_is_on_disk():
    """What the sink did not take is not in the cursor, so the next association gets it again."""
    watch = Watch()
    async with Iec61850Bay(still=True) as sim:
        made = create(device(sim.port, POINTS))
        async with driving(made, watch):
            watch.disk = asyncio.Event()
            cursor = watch.cursors[BRCB]
            sim.set("GGIO1.Ind1.stVal[ST]", True)
            await until(lambda: made.counters()["reports"] >= 3)
            assert watch.samples(IND1, reported=True) == []
        assert watch.cursors[BRCB] == cursor
        watch.disk = None
        async with driving(made, watch):
            assert [s.value for s in watch.samples(IND1, reported=True)] == [True]
            assert watch.gaps == []


async def test_a_slow_disk_holds_the_ied_back_and_nothing_is_lost():
    watch = Watch()
    # Polls all the while, each with more reports before its answer than may be taken, and longer than it may take.
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS, poll_s=0.1), watch) as (driver, task):
        reports = driver.counters()["reports"]
        watch.disk = asyncio.Event()
        many = 4 * MOST_WAITING
        for number in range(many):
            sim.set("GGIO1.Ind1.stVal[ST]", number % 2 == 0)
        await until(lambda: driver.counters()["waited_for_disk"] > 10)
        taken = driver.counters()["reports"]
        await until(lambda: driver.counters()["waited_for_disk"] > 200)
        assert driver.counters()["reports"] == taken <= reports + MOST_WAITING + 1
        watch.disk.set()
        await until(lambda: len(watch.samples(IND1, reported=True)) == many)
        assert [s.value for s in watch.samples(IND1, reported=True)] == [n % 2 == 0 for n in range(many)]
        sim.set("LLN0.Loc.stVal[ST]", True)
        await until(lambda: (loc := watch.last(LOCAL)) is not None and loc.value is True, what="polled again")
        assert driver.counters()["associations"] == 1
        assert not task.done()


async def test_an_association_ends_when_the_disk_takes_too_long_and_nothing_that_came_is_lost(monkeypatch):
    """Points that are not read any more must not look like the present."""
    monkeypatch.setattr(driver_module, "COMMIT_LIMIT_S", 0.2)
    monkeypatch.setattr(driver_module, "LOOK_S", 0.05)
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, task):
        watch.disk = asyncio.Event()
        for number in range(20):
            sim.set("GGIO1.Ind1.stVal[ST]", number % 2 == 0)
        await until(lambda: watch.of("device")[-1][2] is Link.DOWN, what="down")
        assert "the journal did not take events within 0.2 s" in watch.of("device")[-1][3]
        await until(lambda: not sim.server.connections)
        assert (await driver.operate(command(POS, True))).reason is Reason.DEVICE_OFFLINE
        sim.set("GGIO1.Ind1.stVal[ST]", True)
        assert not task.done()  # nothing is asked of the IED again before the disk has what it sent
        watch.disk.set()
        with pytest.raises(LinkLost, match="the journal did not take"):
            await task
    values = [sample.value for sample in watch.samples(IND1, reported=True)]
    assert values == [number % 2 == 0 for number in range(20)]


async def test_a_link_that_is_lost_while_the_disk_is_held_is_told_at_once(monkeypatch):
    monkeypatch.setattr(driver_module, "LOOK_S", 0.05)
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, task):
        watch.disk = asyncio.Event()
        reports = driver.counters()["reports"]
        sim.set("GGIO1.Ind1.stVal[ST]", True)
        await until(lambda: driver.counters()["reports"] > reports, what="an event on the way to the disk")
        await asyncio.to_thread(sim.stop)
        await until(lambda: watch.of("device")[-1][2] is Link.DOWN, what="down")
        assert not task.done()


async def test_a_command_is_carried_out_while_the_disk_is_behind():
    watch = Watch()
    points = [*POINTS, commanded(100, Kind.BINARY, "GGIO1.SPCSO1")]
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, points, poll_s=0.1), watch) as (driver, _task):
        watch.disk = asyncio.Event()
        for number in range(4 * MOST_WAITING):
            sim.set("GGIO1.Ind1.stVal[ST]", number % 2 == 0)
        await until(lambda: driver.counters()["waited_for_disk"] > 10)
        assert (await driver.operate(command(100, True, sbo=False))).verdict is Verdict.DONE
        watch.disk.set()


async def test_another_instance_is_a_gap():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim:
        async with driving(device(sim.port, POINTS), watch):
            pass
        cursor = watch.cursors[BRCB]
        watch.cursors[BRCB] = cursor._replace(data=cursor.data.replace(b"brcbST01", b"brcbST07"))
        async with driving(device(sim.port, POINTS), watch):
            assert len(watch.gaps) == 1
            assert "brcbST07" in watch.gaps[0]
            assert watch.last(POS) is not None


BLOCK01 = "LLN0$BR$brcbST01"


def buffering(sim: Iec61850Bay) -> None:
    """The IED buffers, as real ones do, before anybody has enabled the block."""
    assert sim.server.reports is not None
    sim.server.reports.controls[LD, BLOCK01].ever_enabled = True


async def test_what_the_buffer_holds_at_the_first_start_is_taken():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim:
        buffering(sim)
        sim.set("GGIO1.Ind1.stVal[ST]", True)
        sim.set("GGIO1.Ind1.stVal[ST]", False)
        async with driving(device(sim.port, POINTS), watch):
            assert [one.value for one in watch.samples(IND1, reported=True)] == [True, False]
            assert watch.gaps == []
            assert not any(batch.repeat for batch in watch.batches)


async def test_a_refused_entry_id_is_a_gap_and_all_of_the_buffer_is_taken_as_possible_repeats():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim:
        async with driving(device(sim.port, POINTS), watch):
            sim.set("GGIO1.Ind1.stVal[ST]", True)
            await until(lambda: watch.samples(IND1, reported=True))
        buffering(sim)
        sim.set("GGIO1.Ind1.stVal[ST]", False)

        def refuse(_connection: object, name: ObjectName, value: object) -> int | None:
            marked = name.item == f"{BLOCK01}$EntryID" and isinstance(value, OctetStringData) and any(value.value)
            return 7 if marked else None

        sim.server.write_hooks.insert(0, refuse)
        watch.calls.clear()
        async with driving(device(sim.port, POINTS), watch):
            assert len(watch.gaps) == 1
            assert "refused" in watch.gaps[0]
            assert [one.value for one in watch.samples(IND1, reported=True)] == [True, False]
            assert all(batch.repeat for batch in watch.batches if batch.reported)


async def test_a_long_buffer_that_delays_the_answer_to_rpt_ena_is_taken():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim:
        buffering(sim)
        sim.set("GGIO1.Ind1.stVal[ST]", True)
        reports = sim.server.reports
        assert reports is not None

        def late(connection: object, name: ObjectName, value: object) -> int | bool | None:
            if name.item != f"{BLOCK01}$RptEna":
                return None
            done = reports._on_write(connection, name, value)  # type: ignore[arg-type]
            time.sleep(0.8)
            return done

        sim.server.write_hooks.insert(0, late)
        async with driving(device(sim.port, POINTS), watch):
            assert [one.value for one in watch.samples(IND1, reported=True)] == [True]
            assert watch.gaps == []
            sim.set("GGIO1.Ind1.stVal[ST]", False)
            await until(lambda: len(watch.samples(IND1, reported=True)) == 2)


async def test_a_restarted_ied_is_a_gap_and_everything_is_interrogated():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim:
        made = create(device(sim.port, POINTS))
        async with driving(made, watch):
            sim.set("GGIO1.Ind1.stVal[ST]", True)
            await until(lambda: watch.samples(IND1, reported=True))
        await asyncio.to_thread(sim.stop)
        sim.start()
        async with driving(made, watch):
            assert len(watch.gaps) == 1
            assert "began anew" in watch.gaps[0]


async def test_a_buffer_that_overflowed_is_one_gap():
    watch = Watch()
    async with Iec61850Bay(still=True, report_buffer_bytes=300) as sim:
        made = create(device(sim.port, POINTS))
        async with driving(made, watch):
            pass
        for number in range(40):
            sim.set("GGIO1.Ind1.stVal[ST]", number % 2 == 0)
        async with driving(made, watch):
            assert len(watch.gaps) == 1
            assert "overflowed" in watch.gaps[0]
            assert 0 < len(watch.samples(IND1, reported=True)) < 40


async def test_an_exact_name_takes_that_instance_and_a_held_one_is_left_alone():
    watch, other = Watch(), Watch()
    exact = [f"{LD}/LLN0.BR.brcbST01", f"{LD}/LLN0.RP.urcbMX01"]
    async with (
        Iec61850Bay(still=True) as sim,
        driving(device(sim.port, POINTS, reports=exact), watch),
        driving(device(sim.port, POINTS), other),
    ):
        assert watch.cursors[exact[0]].data.startswith(b"brcbST01\0")
        assert other.cursors[BRCB].data.startswith(b"brcbST02\0")
        assert rcb(sim, "LLN0$RP$urcbMX02", "RptEna") is True


async def test_with_no_free_instance_the_points_are_polled():
    watch = Watch()
    exact = f"{LD}/LLN0.BR.brcbST01"
    async with (
        Iec61850Bay(still=True) as sim,
        driving(device(sim.port, POINTS, reports=[exact]), Watch()),
        driving(device(sim.port, POINTS, reports=[exact]), watch) as (driver, _),
    ):
        sim.set("GGIO1.Ind1.stVal[ST]", True)
        await until(lambda: (last := watch.last(IND1)) is not None and last.value is True)
        assert driver.counters()["polled_points"] == len(POINTS) - 1


async def test_two_blocks_with_one_rpt_id_are_told_apart():
    watch = Watch()
    both = [f"{LD}/LLN0.BR.brcbST01", f"{LD}/LLN0.BR.brcbST02"]
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS, reports=both), watch) as (driver, _):
        sim.set("GGIO1.Ind1.stVal[ST]", True)
        await until(lambda: len(watch.samples(IND1, reported=True)) == 2)
        assert {call[2].source for call in watch.of("events") if call[1].reported} == set(both)
        assert rcb(sim, "LLN0$BR$brcbST02", "RptID") == f"{LD}/LLN0$BR$brcbST02"
        assert driver.counters()["unknown_reports"] == 0


async def test_interrogate_reads_everything_again():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS, poll_s=100), watch) as (driver, _):
        before = len(watch.calls)
        await driver.interrogate()
        wanted = {p.row for p in POINTS} - {MISSING}
        await until(
            lambda: (
                wanted
                <= {s.point for call in watch.calls[before:] if call[0] in ("state", "events") for s in call[1].samples}
            )
        )


async def test_a_report_that_is_nonsense_is_counted_and_the_rest_goes_on():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, task):
        block = sim.server.reports.controls[LD, "LLN0$BR$brcbST01"]
        good = block.attr("RptID")
        from open61850.data import BoolData, IntData, StructureData, VisibleStringData
        from open61850.server import protocol

        nonsense = [
            [], [VisibleStringData("BAY1_ST")], [IntData(3)], [VisibleStringData("BAY1_ST"), BoolData(True)],
            [good, OctetStringData(b"x" * 300)], [good, block.opt_flds().to_bitstring()],
            [good, block.opt_flds().to_bitstring(), StructureData([])], [VisibleStringData("somebody else's")],
        ]  # fmt: skip
        for values in nonsense:
            sim.server.broadcast(protocol.information_report(values, list_name="RPT", encoded=b""))
        await until(lambda: driver.counters()["malformed_reports"] >= 5)
        sim.set("GGIO1.Ind1.stVal[ST]", True)
        await until(lambda: watch.samples(IND1, reported=True))
        assert driver.counters()["unknown_reports"] >= 1
        assert watch.gaps
        assert all("not understood" in gap for gap in watch.gaps)
        assert not task.done()


async def test_a_changed_configuration_revision_reads_all_anew():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (_, task):
        from open61850.data import UIntData

        sim.model.set(ObjectName("LLN0$BR$brcbST01$ConfRev", LD), UIntData(2))
        sim.set("GGIO1.Ind1.stVal[ST]", True)
        with pytest.raises(LinkLost, match="ConfRev is 2"):
            await asyncio.wait_for(task, 5)


async def test_a_time_in_the_future_is_passed_on_as_it_is():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch):
        stamp = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
        sim.set("GGIO1.Ind2.stVal[ST]", True, t=TimestampData(stamp, 0x0A))
        await until(lambda: watch.samples(IND2, reported=True))
        assert watch.samples(IND2, reported=True)[0].time_ns == int(stamp.timestamp()) * 10**9


async def test_without_integrity_the_period_of_the_block_is_zero():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS, reports=REPORTS[1:]), watch):
        assert rcb(sim, "LLN0$RP$urcbMX01", "IntgPd") == 0


async def test_a_block_that_becomes_free_is_taken_later(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(association, "TAKE_AGAIN_S", 0.2)
    watch = Watch()
    exact = f"{LD}/LLN0.RP.urcbMX01"
    async with Iec61850Bay(still=True) as sim:
        async with driving(device(sim.port, POINTS, reports=[exact]), Watch()):
            second = create(device(sim.port, POINTS, reports=[exact]))
            task = asyncio.create_task(second.run(watch, {}))
            await until(lambda: watch.ups)
            assert second.counters()["polled_points"] == len(POINTS) - 1
        await until(lambda: second.counters()["polled_points"] == len(POINTS) - 3)
        sim.set("MMXU1.A.phsA.cVal.mag.f[MX]", 77.0)
        await until(lambda: watch.samples(AMPS, reported=True))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_our_own_reservation_is_taken_up_where_no_cursor_was_stored():
    exact = f"{LD}/LLN0.BR.brcbST01"
    async with Iec61850Bay(still=True) as sim:
        async with driving(device(sim.port, POINTS, reports=[exact]), Watch()):
            pass
        await until(lambda: not sim.server.connections)
        assert rcb(sim, "LLN0$BR$brcbST01", "ResvTms") == 60
        watch = Watch()
        async with driving(device(sim.port, POINTS, reports=[exact]), watch):
            assert watch.cursors[exact].data.startswith(b"brcbST01\0")


async def test_a_command_does_not_wait_for_a_round_of_reads():
    watch = Watch()
    many = [point(row, Kind.BINARY, f"{LD}/GGIO1.Ind{row % 4 + 1}.q[ST]") for row in range(1, 40)]
    points = [commanded(0, Kind.BINARY, "GGIO1.SPCSO1"), *many, *POINTS_OF_THEIR_OWN]
    async with (
        Iec61850Bay(still=True) as sim,
        driving(device(sim.port, points, reports=[], poll_s=100, timeout_s=5), watch) as (driver, _),
    ):

        def slow(_connection: object, name: ObjectName) -> None:
            if "$CO$" not in name.item:
                time.sleep(0.05)

        sim.server.read_hooks.append(slow)
        rounds = asyncio.create_task(driver.interrogate())
        await asyncio.sleep(0)
        began = time.monotonic()
        assert (await driver.operate(command(0, True))).verdict is Verdict.DONE
        assert time.monotonic() - began < 0.5
        assert not rounds.done()
        await rounds
