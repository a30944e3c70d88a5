"""Polling over real sockets: what is handed on, with which quality and time, and when."""

from __future__ import annotations

import asyncio
import time

import pytest

from gatewayd.points import quality as q
from gatewayd.points.types import Kind, Link
from gatewayd.protocols.driver import LinkLost
from gatewayd.protocols.modbus import driver as driver_module
from gatewayd.protocols.modbus import lane as lane_module
from gatewayd.protocols.modbus import polling
from gatewayd.protocols.modbus.driver import create
from simulators.modbus_meter import ModbusMeter
from tests.protocols.modbus.peers import CLOSE, Peer
from tests.protocols.modbus.support import device, driving, point
from tests.protocols.watching import Watch, until

GOOD = q.SAMPLED | q.RECEIPT
MISSED = GOOD | q.QUESTIONABLE | q.OLD_DATA
LOST = GOOD | q.QUESTIONABLE | q.COMM_LOST
REFUSED = GOOD | q.INVALID | q.CONFIG_ERROR
FAILED = GOOD | q.INVALID | q.FAILURE
A, B = Kind.ANALOG, Kind.BINARY


async def test_everything_is_read_once_before_up():
    watch = Watch()
    async with ModbusMeter() as meter:
        points = [point(0, A, "IR:0:f32"), point(1, Kind.COUNTER, "IR:30:u64"), point(2, B, "DI:0"),
                  point(3, Kind.STRING, "HR:40:str8"), point(4, Kind.ENUM, "HR:10"), point(5, B, "HR:5.3"),
                  point(6, A, "HR:120")]  # fmt: skip
        async with driving(device(meter.port, points), watch):
            up = watch.calls.index(("device", "M1", Link.UP, ""))
            rows = [s.point for call in watch.calls[:up] for s in call[1].samples]
            assert sorted(rows) == list(range(7))
            assert watch.value(3) == "SN007431"
            assert (watch.value(4), watch.value(5), watch.value(6), watch.value(2)) == (1, False, 15, True)
            assert {watch.quality(row) for row in range(7)} == {GOOD}


async def test_state_and_events_go_their_ways_and_a_poll_is_one_batch_of_each():
    watch = Watch()
    points = [point(0, A, "HR:0"), point(1, A, "HR:200"), point(2, B, "DI:0"), point(3, A, "HR:3", event=True)]
    async with Peer() as peer, driving(device(peer.port, points), watch):
        await until(lambda: watch.calls[-1][0] == "device")
        kinds = [(call[0], sorted(s.point for s in call[1].samples)) for call in watch.calls[:-1]]
        assert kinds == [("state", [0, 1]), ("events", [2, 3])]


async def test_the_time_is_the_middle_of_request_and_answer_and_mono_before_the_request():
    watch = Watch()
    async with Peer() as peer:
        peer.script = lambda asked: [0.1, asked.good]
        before, before_mono = time.time_ns(), time.monotonic_ns()
        async with driving(device(peer.port, [point(0, A, "HR:0")]), watch):
            after = time.time_ns()
            (batch,) = watch.batches
            (sample,) = batch.samples
            asked_ns = int(peer.asked[0].at * 1e9)
            assert before_mono <= batch.mono_ns <= asked_ns
            middle = before + (asked_ns - before_mono) + 50_000_000
            assert abs(sample.time_ns - middle) < 30_000_000
            assert batch.t_recv_ns > sample.time_ns
            assert batch.t_recv_ns <= after
            assert not batch.reported


async def test_the_schedule_is_fixed_and_late_polls_are_left_out_and_counted():
    watch = Watch()
    async with Peer() as peer:
        slow = [0.0]
        peer.script = lambda asked: [slow[0], asked.good]
        async with driving(device(peer.port, [point(0, A, "HR:0")], poll_s=0.1), watch) as (driver, _):
            first = len(peer.asked)
            await until(lambda: len(peer.asked) >= first + 6)
            times = [asked.at for asked in peer.asked[first:]]
            for at in times[1:]:  # on the grid, whatever one answer took
                off = (at - times[0] + 0.05) % 0.1 - 0.05
                assert abs(off) < 0.03
            assert driver.counters()["late_polls"] == 0
            slow[0] = 0.25
            await until(lambda: driver.counters()["late_polls"] >= 2)
            polls = driver.counters()["polls"]
            assert polls + driver.counters()["late_polls"] <= (time.monotonic() - times[0]) / 0.1 + first + 3


async def test_what_does_not_change_is_left_out_and_comes_again_now_and_then(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver_module, "REFRESH_S", 0.6)
    watch = Watch()
    points = [point(0, A, "HR:0"), point(1, A, "HR:1"), point(2, B, "DI:0")]
    async with Peer() as peer, driving(device(peer.port, points, poll_s=0.05), watch):
        polls = len(peer.asked)
        await until(lambda: len(peer.asked) > polls + 6)
        assert [len(watch.samples(row)) for row in range(3)] == [1, 1, 1]
        peer.registers[1] = 77
        await until(lambda: watch.value(1) == 77)
        assert len(watch.samples(0)) == 1
        await until(lambda: len(watch.samples(0)) == 2 and len(watch.samples(2)) == 2)
        assert watch.samples(0)[1].time_ns > watch.samples(0)[0].time_ns


async def test_an_interrogation_hands_everything_on_and_returns_when_it_has():
    watch = Watch()
    points = [point(0, A, "HR:0"), point(1, B, "DI:0")]
    async with Peer() as peer, driving(device(peer.port, points, poll_s=30), watch) as (driver, _):
        await driver.interrogate()
        assert len(watch.samples(0)) == 2
        await until(lambda: len(watch.samples(1)) == 2)
    await driver.interrogate()  # not connected: nothing to wait for
    assert len(watch.samples(0)) == 2


@pytest.mark.parametrize(
    ("code", "quality", "kept"),
    [(1, REFUSED, False), (2, REFUSED, False), (3, REFUSED, False), (4, FAILED, False), (8, FAILED, False),
     (0x0A, LOST, True), (0x0B, LOST, True), (6, MISSED, True), (5, MISSED, True), (9, FAILED, False)],
)  # fmt: skip
async def test_an_exception_marks_its_block_and_the_others_go_on(
    code: int, quality: int, kept: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(polling, "REFUSED_AGAIN_S", 0.05)
    watch = Watch()
    points = [point(0, A, "HR:0"), point(1, A, "IR:0")]
    async with (
        ModbusMeter() as meter,
        driving(device(meter.port, points, missed_polls=100, poll_s=0.03), watch) as (driver, _),
    ):
        before = watch.last(1)
        assert before is not None
        meter.refuse[4] = code
        await until(lambda: watch.quality(1) == quality)
        last = watch.last(1)
        assert last is not None
        if kept:
            assert (last.value, last.time_ns) == (before.value, before.time_ns)
        else:
            assert (last.value, last.native) == (None, code)
            assert last.time_ns > before.time_ns
        told = len(watch.samples(1))
        polls = driver.counters()["polls"]
        meter.bank.set_holding_registers(0, [99])
        await until(lambda: watch.value(0) == 99 and driver.counters()["polls"] > polls + 4)
        assert watch.quality(0) == GOOD
        assert len(watch.samples(1)) == told  # said once
        del meter.refuse[4]
        await until(lambda: watch.quality(1) == GOOD)
        assert watch.value(1) == before.value


async def test_a_hole_in_a_gap_takes_no_neighbour_along_and_is_found_once():
    watch = Watch()
    points = [point(row, A, f"HR:{address}") for row, address in enumerate((0, 1, 4, 5, 6))]
    async with ModbusMeter() as meter:
        meter.holes.add(("HR", 2))
        async with driving(device(meter.port, points), watch) as (driver, task):
            assert {watch.quality(row) for row in range(5)} == {GOOD}
            assert meter.requests[:3] == [(3, 0, 7), (3, 0, 2), (3, 4, 3)]
            assert driver.counters()["split_blocks"] == 1
            meter.kill()
            await until(task.done)
        seen = len(meter.requests)
        async with driving(driver, watch):  # remembered over the connection
            assert meter.requests[seen : seen + 2] == [(3, 0, 2), (3, 4, 3)]
            assert driver.counters()["split_blocks"] == 1


async def test_a_register_that_is_not_there_is_found_in_halves_and_only_its_point_is_wrong():
    watch = Watch()
    points = [point(row, A, f"HR:{row}") for row in range(64)]
    async with ModbusMeter() as meter:
        meter.holes.add(("HR", 41))
        async with driving(device(meter.port, points), watch) as (driver, _):
            assert [row for row in range(64) if watch.quality(row) != GOOD] == [41]
            assert (watch.quality(41), watch.value(41)) == (REFUSED, None)
            assert driver.counters()["split_blocks"] == 6
            assert driver.counters()["refused_points"] == 1
            first = len(meter.requests)
            await until(lambda: len(meter.requests) > first + 20)
            assert (3, 41, 1) not in meter.requests[first:]  # not at every poll again


async def test_a_device_that_gives_less_at_once_is_read_in_parts():
    """Exception 03 for more than 40 registers."""
    watch = Watch()
    points = [point(row, A, f"HR:{row}") for row in range(100)]
    async with Peer() as peer:
        peer.script = lambda asked: [asked.exception(3) if asked.pdu[4] > 40 else asked.good]
        async with driving(device(peer.port, points), watch):
            assert {watch.quality(row) for row in range(100)} == {GOOD}
            assert {watch.value(row) for row in range(100)} == set(range(100))


async def test_a_block_that_does_not_answer_is_old_then_lost_then_back_and_the_others_go_on():
    watch = Watch()
    points = [point(0, A, "IR:2:f32"), point(1, B, "DI:0"), point(2, A, "HR:120")]
    async with (
        ModbusMeter() as meter,
        driving(device(meter.port, points, timeout_s=0.1, poll_s=0.1), watch) as (driver, _),
    ):
        before = watch.last(0)
        assert before is not None
        meter.silent.add(4)
        await until(lambda: watch.quality(0) == LOST)
        stale = [s for s in watch.samples(0) if s.quality != GOOD]
        assert [s.quality for s in stale] == [MISSED, LOST]
        last_good = [s for s in watch.samples(0) if s.quality == GOOD][-1]
        assert {(s.value, s.time_ns) for s in stale} == {(last_good.value, last_good.time_ns)}
        meter.bank.set_holding_registers(120, [42])
        await until(lambda: watch.value(2) == 42)
        assert (watch.quality(1), watch.quality(2)) == (GOOD, GOOD)
        meter.silent.clear()
        await until(lambda: watch.quality(0) == GOOD)
        assert driver.counters()["timeouts"] >= 3


async def test_a_device_that_does_not_answer_any_more_is_lost_after_some_polls():
    watch = Watch()
    points = [point(0, A, "IR:2:f32"), point(1, B, "DI:0")]
    async with ModbusMeter() as meter, driving(device(meter.port, points, timeout_s=0.15), watch) as (driver, task):
        meter.silent |= {2, 4}
        await until(task.done)
        with pytest.raises(LinkLost, match=r"unit 1: 3 polls without an answer \(no answer within 0\.15 s\)"):
            task.result()
        assert driver.counters()["timeouts"] == 3  # one request a poll: the rest would only take as long
        assert watch.quality(0) == LOST
        meter.silent.clear()
        async with driving(driver, watch):
            assert (watch.quality(0), watch.quality(1)) == (GOOD, GOOD)


async def test_a_first_block_that_never_answers_does_not_hide_the_others():
    watch = Watch()
    points = [point(0, B, "DI:0"), point(1, A, "HR:120"), point(2, A, "IR:0:f32")]
    async with ModbusMeter() as meter, driving(device(meter.port, points, timeout_s=0.15), watch):
        meter.silent.add(2)
        meter.bank.set_holding_registers(120, [42])
        await until(lambda: watch.value(1) == 42)
        await until(lambda: watch.quality(0) == LOST)
        assert watch.quality(2) == GOOD


async def test_a_gateway_that_does_not_reach_the_device_is_no_link():
    watch = Watch()
    async with ModbusMeter() as meter, driving(device(meter.port, [point(0, A, "IR:2:f32")]), watch) as (_, task):
        meter.refuse[4] = 0x0B
        await until(task.done)
        with pytest.raises(LinkLost, match="exception 0B gateway-target-failed-to-respond"):
            task.result()
        assert watch.quality(0) == LOST


async def test_a_closed_connection_is_noticed_at_once():
    watch = Watch()
    async with ModbusMeter() as meter, driving(device(meter.port, [point(0, A, "IR:2:f32")], poll_s=60), watch) as (
        _, task,
    ):  # fmt: skip
        meter.kill()
        await until(task.done, within_s=1)
        with pytest.raises(LinkLost, match="the device closed the connection"):
            task.result()


async def test_half_an_answer_and_a_close_costs_no_time_out():
    watch = Watch()
    async with Peer() as peer:
        peer.script = lambda asked: [asked.good[:10], CLOSE]
        task = asyncio.create_task(create(device(peer.port, [point(0, A, "HR:0:f32")], timeout_s=30)).run(watch, {}))
        await until(task.done, within_s=2)
        with pytest.raises(LinkLost, match="closed the connection"):
            task.result()
        assert watch.calls == []


async def test_nobody_there_is_a_lost_link():
    async with Peer() as peer:
        made = device(peer.port, [point(0, A, "HR:0")])
    with pytest.raises(LinkLost, match=rf"127.0.0.1:{made.port}: .*[Cc]onnect"):
        await create(made).run(Watch(), {})


async def test_nobody_answering_at_first_is_a_lost_link_without_up():
    watch = Watch()
    async with Peer() as peer:
        peer.script = lambda _: []
        with pytest.raises(LinkLost, match=r"unit 1: no answer within 0\.3 s"):
            await create(device(peer.port, [point(0, A, "HR:0"), point(1, B, "DI:0")])).run(watch, {})
        assert watch.calls == []
        assert len(peer.asked) == 1


async def test_a_read_is_tried_again_where_the_options_say_so():
    watch = Watch()
    async with Peer() as peer:
        peer.script = lambda asked: [asked.good] if asked.number % 3 == 2 else []
        made = device(peer.port, [point(0, A, "HR:0")], timeout_s=0.05, read_retries=2, poll_s=0.3)
        async with driving(made, watch) as (driver, _):
            await until(lambda: driver.counters()["polls"] >= 3)
            assert {s.quality for s in watch.samples(0)} == {GOOD}
            assert driver.counters()["missed_blocks"] == 0
            assert driver.counters()["timeouts"] >= 4


async def test_everything_is_handed_on_again_after_a_reconnect():
    watch = Watch()
    points = [point(0, A, "HR:0"), point(1, B, "DI:0")]
    async with Peer() as peer:
        async with driving(device(peer.port, points), watch) as (driver, _):
            pass
        async with driving(driver, watch):
            assert [len(watch.samples(row)) for row in range(2)] == [2, 2]


async def test_nan_and_sentinels_are_invalid_and_only_they():
    watch = Watch()
    points = [point(0, A, "HR:0:f32"), point(1, A, "HR:2 na=0xFFFF"), point(2, A, "HR:3 min=0 max=100")]
    async with Peer() as peer:
        peer.registers |= {0: 0x7FC0, 1: 0, 2: 0xFFFF, 3: 101}
        async with driving(device(peer.port, points), watch):
            absent = GOOD | q.INVALID | q.OUT_OF_RANGE
            assert (watch.value(0), watch.quality(0)) == (None, absent)
            assert (watch.value(1), watch.quality(1)) == (None, absent)
            assert (watch.value(2), watch.quality(2)) == (101, GOOD | q.QUESTIONABLE | q.OUT_OF_RANGE)
            told = [len(watch.samples(row)) for row in range(3)]
            peer.registers[2] = 5
            await until(lambda: (watch.value(1), watch.quality(1)) == (5, GOOD))
            assert [len(watch.samples(row)) for row in range(3)] == [told[0], told[1] + 1, told[2]]
            peer.registers[0] = 0x3FC0
            await until(lambda: (watch.value(0), watch.quality(0)) == (1.5, GOOD))


async def test_a_device_without_points_to_read_is_up_while_it_is_connected():
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, []), watch) as (_, task):
        assert peer.asked == []
        await peer.stop()
        await until(task.done)
        await peer.start()


async def test_slow_lines_hand_on_each_block_at_once_with_the_time_of_its_own_request():
    watch = Watch()
    points = [point(row, A, f"HR:{100 * row}") for row in range(4)]
    async with Peer() as peer:
        peer.script = lambda asked: [0.03, asked.good]
        async with driving(device(peer.port, points), watch):
            assert [[s.point for s in batch.samples] for batch in watch.batches] == [[0], [1], [2], [3]]
            for batch, asked in zip(watch.batches, peer.asked, strict=False):
                assert 0 <= asked.at * 1e9 - batch.mono_ns < 20e6


# ---- the disk


async def test_a_disk_that_is_behind_holds_back_events_only_and_loses_no_change():
    watch = Watch()
    points = [point(0, A, "HR:0"), point(1, B, "DI:0")]
    async with Peer() as peer, driving(device(peer.port, points, poll_s=0.05), watch) as (driver, _):
        watch.disk = asyncio.Event()
        for number in range(1, 6):
            peer.registers[0] = 1000 + number
            peer.bits[0] = number % 2 == 1
            await until(lambda number=number: watch.value(0) == 1000 + number)
        assert watch.values(1) == [False]
        await until(lambda: driver.counters()["waiting_events"] == 5)
        watch.disk.set()
        await until(lambda: watch.values(1) == [False, True, False, True, False, True])
        assert driver.counters()["waiting_events"] == 0
        assert watch.gaps == []


async def test_a_device_is_up_only_when_its_first_events_are_on_disk():
    watch = Watch()
    watch.disk = asyncio.Event()
    points = [point(0, A, "HR:0"), point(1, B, "DI:0")]
    async with Peer() as peer, driving(device(peer.port, points), watch, wait=False) as (driver, _):
        await until(lambda: driver.counters()["waiting_events"] == 1)
        assert watch.value(0) == 0
        watch.disk.set()
        await until(lambda: watch.ups == 1)
        assert [call[0] for call in watch.calls[:3]] == ["state", "events", "device"]


async def test_too_much_waiting_for_the_disk_is_a_gap_and_then_the_present(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lane_module, "MOST_WAITING", 3)
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, [point(0, B, "DI:0")], poll_s=0.05), watch) as (driver, _):
        watch.disk = asyncio.Event()
        for number in range(1, 7):
            polls = len(peer.asked)
            peer.bits[0] = number % 2 == 1
            await until(lambda polls=polls: len(peer.asked) >= polls + 2)
        assert driver.counters()["lost_events"] == 3
        watch.disk.set()
        await until(lambda: watch.gaps)
        assert watch.gaps == ["3 changes were not recorded: the journal took too long"]
        await until(lambda: watch.values(0) == [False, True, False, True, False])


async def test_events_wait_over_a_lost_connection():
    watch = Watch()
    async with Peer() as peer:
        async with driving(device(peer.port, [point(0, B, "DI:0")], poll_s=0.05), watch) as (driver, _):
            watch.disk = asyncio.Event()
            peer.bits[0] = True
            await until(lambda: driver.counters()["waiting_events"] == 1)
        peer.bits[0] = False
        async with driving(driver, watch, wait=False):
            watch.disk.set()
            await until(lambda: watch.values(0) == [False, True, False])


async def test_what_was_read_before_the_link_was_lost_is_handed_on():
    watch = Watch()
    points = [point(0, B, "DI:0"), point(1, A, "HR:0")]
    async with Peer() as peer:
        async with driving(device(peer.port, points, poll_s=0.05), watch) as (driver, task):
            peer.bits[0] = True
            peer.script = lambda asked: [CLOSE] if asked.function == 3 else [asked.good]
            await until(task.done)
        peer.bits[0] = False  # the change was there for one read only
        peer.script = lambda asked: [asked.good]
        async with driving(driver, watch):
            assert watch.values(0) == [False, True, False]


async def test_a_sink_that_fails_ends_the_connection_with_its_error():
    class Broken(Watch):
        async def events(self, batch, cursor=None):
            raise BrokenPipeError("the core is gone")

    async with Peer() as peer:
        with pytest.raises(BrokenPipeError):
            await create(device(peer.port, [point(0, B, "DI:0")])).run(Broken(), {})


async def test_counters_are_plain_integers():
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, [point(0, A, "HR:0")]), watch) as (driver, _):
        counters = driver.counters()
        assert {type(value) for value in counters.values()} == {int}
        assert counters["connections"] == counters["polls"] == counters["requests"] == counters["samples"] == 1
