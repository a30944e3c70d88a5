"""No event is lost silently: persist before confirm on the wire, repeats, restarts, overflows."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, NamedTuple

import pytest

from gatewayd.points.types import Batch, Cursor, Kind
from gatewayd.protocols.dnp3 import session
from gatewayd.protocols.dnp3.agenda import OVERFLOW_GAP, RESTART_GAP
from gatewayd.protocols.dnp3.config import options
from gatewayd.protocols.dnp3.driver import Dnp3Driver
from gatewayd.protocols.dnp3.memory import Memory
from gatewayd.protocols.dnp3.objects import Lost
from gatewayd.protocols.dnp3.points import PointTable
from gatewayd.protocols.dnp3.route import Route
from gatewayd.protocols.dnp3.soe import MOST_AHEAD, Fragment, Part, Soe
from gatewayd.protocols.driver import LinkLost
from tests.protocols.dnp3.outstation import (
    NEED_TIME,
    OVERFLOW,
    RESTART,
    Answer,
    Function,
    Outstation,
    Request,
    indexed,
    ranged,
    time48,
)
from tests.protocols.dnp3.support import clock_adrift, clock_in_step, device, driving, point
from tests.protocols.watching import Watch, ended, until

POINTS = [point(0, Kind.BINARY, "BI:0"), point(1, Kind.ANALOG, "AI:0")]
STATIC = ranged(1, 2, 0, [b"\x81"]) + ranged(30, 5, 0, [bytes((1, 0, 0, 0, 0))])
LATER_S = 0.3


def timed(*events: tuple[bool, int]) -> bytes:
    """Events of BI:0 with device time in ms."""
    return indexed(2, 2, [(0, bytes((0x81 if on else 0x01,)) + time48(ms)) for on, ms in events])


def untimed(*states: bool) -> bytes:
    return indexed(2, 1, [(0, bytes((0x81 if on else 0x01,))) for on in states])


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def driver_for(rtu: Outstation, **options: Any) -> Dnp3Driver:
    return Dnp3Driver(device(rtu.port, POINTS, **options), clock_state=clock_in_step)


class Blocked(Watch):
    """A disk that takes what was read at the start and nothing after it."""

    def block(self) -> None:
        self.disk = asyncio.Event()

    def release(self) -> None:
        assert self.disk is not None
        self.disk.set()


# ---- persist before confirm


@pytest.mark.parametrize("how", ["unsolicited", "polled"])
async def test_the_confirm_leaves_after_the_disk_has_it(how: str) -> None:
    watch, ms = Blocked(), now_ms()
    async with Outstation(static=STATIC) as rtu, driving(driver_for(rtu), watch):
        watch.block()
        if how == "unsolicited":
            rtu.unsolicited(timed((True, ms)))
        else:
            rtu.events = [timed((True, ms))]
        await until(lambda: watch.waiting, what="the event at the disk")
        confirms, began = rtu.count(Function.CONFIRM), time.monotonic()
        await until(lambda: time.monotonic() > began + LATER_S, what="a while")
        assert rtu.count(Function.CONFIRM) == confirms == 0
        watch.release()
        await until(lambda: rtu.count(Function.CONFIRM) == 1, what="confirm")
        assert watch.cursors["fragment"].data
        if how == "polled":
            await until(lambda: not rtu.events, what="confirmed")


@pytest.mark.parametrize("how", ["unsolicited", "polled"])
async def test_no_confirm_leaves_when_the_run_is_cancelled_meanwhile(how: str) -> None:
    watch, ms = Blocked(), now_ms()
    async with Outstation(static=STATIC) as rtu:
        driver = driver_for(rtu)
        async with driving(driver, watch) as (_, task):
            watch.block()
            if how == "unsolicited":
                rtu.unsolicited(timed((True, ms)))
            else:
                rtu.events = [timed((True, ms))]
            await until(lambda: watch.waiting, what="the event at the disk")
            began = time.monotonic()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert time.monotonic() - began < 2
        await until(lambda: not rtu.connected, what="the connection closed")
        began = time.monotonic()
        await until(lambda: time.monotonic() > began + LATER_S, what="a while")
        assert rtu.count(Function.CONFIRM) == 0
        assert driver.counters()["frames_stopped"] >= 1  # opendnp3 would have sent it


async def test_no_confirm_leaves_when_the_disk_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "COMMIT_LIMIT_S", 0.3)
    watch, ms = Blocked(), now_ms()
    async with Outstation(static=STATIC) as rtu:
        async with driving(driver_for(rtu), watch) as (_, task):
            watch.block()
            rtu.unsolicited(timed((True, ms)))
            error = await ended(task)
        assert isinstance(error, LinkLost)
        assert str(error) == "the journal did not take events within 0.3 s; nothing was confirmed"
        await until(lambda: not rtu.connected, what="the connection closed")
        assert rtu.count(Function.CONFIRM) == 0


async def test_no_confirm_leaves_when_the_sink_fails() -> None:
    class Failing(Watch):
        broken = False

        async def events(self, batch: Batch, cursor: Cursor | None = None) -> None:
            if self.broken:
                raise OSError("no space left on device")
            await super().events(batch, cursor)

    watch = Failing()
    async with Outstation(static=STATIC) as rtu:
        async with driving(driver_for(rtu), watch) as (_, task):
            watch.broken = True
            rtu.unsolicited(timed((True, now_ms())))
            assert isinstance(await ended(task), OSError)
        await until(lambda: not rtu.connected, what="the connection closed")
        assert rtu.count(Function.CONFIRM) == 0


async def test_no_confirm_leaves_for_what_could_not_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from gatewayd.protocols.dnp3 import soe

    watch = Watch()
    async with Outstation(static=STATIC) as rtu:
        async with driving(driver_for(rtu), watch) as (_, task):
            monkeypatch.setattr(soe.Soe, "_append", None)
            rtu.unsolicited(timed((True, now_ms())))
            error = await ended(task)
        assert isinstance(error, RuntimeError)
        assert "could not be decoded" in str(error)
        await until(lambda: not rtu.connected, what="the connection closed")
        assert rtu.count(Function.CONFIRM) == 0


async def test_a_blocked_device_does_not_hold_another() -> None:
    first, second = Blocked(), Watch()
    async with (
        Outstation(static=STATIC) as one,
        Outstation(static=STATIC) as other,
        driving(driver_for(one), first),
        driving(driver_for(other), second),
    ):
        first.block()
        one.unsolicited(timed((True, now_ms())))
        await until(lambda: first.waiting, what="the event at the disk")
        other.unsolicited(timed((False, now_ms())))
        await until(lambda: other.count(Function.CONFIRM) == 1, what="the other's confirm")
        assert one.count(Function.CONFIRM) == 0
        assert second.values(0, reported=True) == [False]


async def test_order_is_kept_and_state_waits_for_events() -> None:
    watch = Blocked()
    async with Outstation(static=STATIC) as rtu, driving(driver_for(rtu, event_poll_s=60), watch):
        watch.block()
        rtu.unsolicited(timed((True, now_ms())))
        rtu.unsolicited(indexed(32, 1, [(0, bytes((1, 5, 0, 0, 0)))]))
        rtu.unsolicited(timed((False, now_ms())))
        await until(lambda: watch.waiting, what="the event at the disk")
        watch.release()
        await until(lambda: rtu.count(Function.CONFIRM) == 3, what="confirms")
        kinds = [(call[0], call[1].samples[0].point) for call in watch.calls[-3:]]  # type: ignore[attr-defined]
        assert kinds == [("events", 0), ("state", 1), ("events", 0)]
        assert [batch.reported for batch in watch.batches[-3:]] == [True] * 3


class Info(NamedTuple):
    """What opendnp3 says of a fragment."""

    unsolicited: bool = True


@pytest.mark.parametrize(
    ("what", "untaken", "waits"),
    [
        ("measurements", 1, False),
        ("measurements", MOST_AHEAD, False),
        ("measurements", MOST_AHEAD + 1, True),
        ("events", 1, True),
        ("not understood", 1, True),
        ("a failed callback", 1, True),
    ],
)
def test_only_what_must_be_on_disk_holds_its_callback(what: str, untaken: int, waits: bool) -> None:
    """Measurements alone go ahead, a bounded number of fragments of them."""
    delivered: list[Fragment] = []

    def deliver(fragment: Fragment) -> int:
        delivered.append(fragment)
        return untaken

    made = device(1, POINTS)
    soe = Soe(made.name, PointTable(made), Route(made.name, options(made)), Memory(), deliver)
    soe.OnRawAPDU(Info(), b"")
    soe.BeginFragment(Info())
    assert soe._fragment is not None
    soe._fragment.parts.append(Part(True, [], eventful=what == "events"))
    soe._fragment.lost = Lost("object", events=True) if what == "not understood" else None
    soe._fragment.error = ValueError() if what == "a failed callback" else None
    callback = threading.Thread(target=soe.EndFragment, args=(Info(),), daemon=True)
    callback.start()
    callback.join(0.2 if waits else 10)
    assert callback.is_alive() is waits
    delivered[0].let_go()
    callback.join(10)
    assert not callback.is_alive()


async def test_measurements_are_confirmed_while_another_devices_events_wait() -> None:
    blocked, watch = Blocked(), Watch()
    async with Outstation(static=STATIC) as slow, Outstation(static=STATIC) as rtu:
        first, second = driver_for(slow, event_poll_s=60), driver_for(rtu, event_poll_s=60)
        async with driving(first, blocked), driving(second, watch):
            blocked.block()
            slow.unsolicited(timed((True, now_ms())))
            await until(lambda: blocked.waiting, what="the event at the disk")
            for value in range(5):
                rtu.unsolicited(indexed(32, 1, [(0, bytes((1, value, 0, 0, 0)))]))
                await until(lambda: rtu.count(Function.CONFIRM) == value + 1, what="confirm")  # noqa: B023
            await until(lambda: watch.values(1, reported=True) == [0, 1, 2, 3, 4], what="measurements")
            assert slow.count(Function.CONFIRM) == 0
            blocked.release()


async def test_batches_say_when_they_came() -> None:
    watch = Watch()
    async with Outstation(static=STATIC) as rtu, driving(driver_for(rtu, event_poll_s=60), watch):
        before = time.monotonic_ns()
        rtu.unsolicited(timed((True, now_ms())))
        await until(lambda: watch.values(0, reported=True), what="event")
        assert before <= watch.batches[-1].mono_ns <= time.monotonic_ns()
        assert abs(watch.batches[-1].t_recv_ns - time.time_ns()) < 5e9


# ---- repeats


@pytest.mark.parametrize("events", [timed((True, 1_790_000_000_000)), untimed(True)])
async def test_an_exact_retry_is_confirmed_again_and_taken_once(events: bytes) -> None:
    """The same sequence number, the same octets: opendnp3 itself knows it."""
    watch = Watch()
    async with Outstation(static=STATIC) as rtu, driving(driver_for(rtu, event_poll_s=60), watch):
        rtu.unsolicited(events)
        rtu.unsolicited(events, again=True)
        await until(lambda: rtu.count(Function.CONFIRM) == 2, what="confirms")
        assert watch.values(0, reported=True) == [True]


async def test_timed_events_in_another_response_are_taken_once() -> None:
    watch, ms = Watch(), now_ms()
    async with Outstation(static=STATIC) as rtu, driving(driver_for(rtu, event_poll_s=60), watch) as (driver, _):
        rtu.unsolicited(timed((True, ms), (False, ms + 1)))
        rtu.unsolicited(timed((True, ms), (False, ms + 1)))
        await until(lambda: rtu.count(Function.CONFIRM) == 2, what="confirms")  # the second one is confirmed, too
        assert watch.values(0, reported=True) == [True, False]
        assert driver.counters()["repeats_dropped"] == 2


async def test_untimed_events_in_another_response_are_delivered_and_marked() -> None:
    watch = Watch()
    async with Outstation(static=STATIC) as rtu, driving(driver_for(rtu, event_poll_s=60), watch) as (driver, _):
        rtu.unsolicited(untimed(True))
        rtu.unsolicited(untimed(True))
        await until(lambda: rtu.count(Function.CONFIRM) == 2, what="confirms")
        assert [batch.repeat for batch in watch.batches if batch.reported] == [False, True]
        assert watch.values(0, reported=True) == [True, True]
        assert driver.counters()["repeats_marked"] == 1


async def crash(rtu: Outstation, driver: Dnp3Driver, watch: Watch, fragment: bytes) -> None:
    """Events reach the disk, the CONFIRM does not reach the device: the end of a gateway at the wrong moment."""
    rtu.events = [fragment]
    confirmed = rtu._confirmed
    rtu._confirmed = lambda _: rtu.hang_up()  # type: ignore[method-assign]
    async with driving(driver, watch, wait=False) as (_, task):
        await ended(task)
    rtu._confirmed = confirmed  # type: ignore[method-assign]
    assert rtu.events == [fragment]


async def test_after_a_crash_between_commit_and_confirm_timed_events_are_not_doubled() -> None:
    watch, ms = Watch(), now_ms()
    async with Outstation(static=STATIC) as rtu:
        await crash(rtu, driver_for(rtu), watch, timed((True, ms), (False, ms + 1)))
        rtu.events = [timed((True, ms), (False, ms + 1), (True, ms + 2))]  # one more has happened meanwhile
        async with driving(driver_for(rtu), watch) as (driver, _):  # a new process knows the cursor only
            await until(lambda: not rtu.events, what="confirmed")
            assert driver.counters()["repeats_dropped"] == 2
    samples = watch.samples(0, reported=True)
    assert [sample.time_ns // 1_000_000 - ms for sample in samples] == [0, 1, 2]
    assert not any(batch.repeat for batch in watch.batches)


async def test_after_a_crash_untimed_events_come_again_and_are_marked() -> None:
    watch = Watch()
    async with Outstation(static=STATIC) as rtu:
        await crash(rtu, driver_for(rtu), watch, untimed(True, False))
        rtu.events = [untimed(True, False, True)]
        async with driving(driver_for(rtu), watch):
            await until(lambda: not rtu.events, what="confirmed")
    batches = [(batch.repeat, [s.value for s in batch.samples]) for batch in watch.batches if batch.reported]
    assert batches == [(False, [True, False]), (True, [True, False]), (False, [True])]


async def test_after_a_restart_a_point_without_time_that_toggles_is_marked_once() -> None:
    watch = Watch()
    async with Outstation(static=STATIC) as rtu:
        async with driving(driver_for(rtu), watch):
            rtu.events = [untimed(True, False)]
            await until(lambda: not rtu.events, what="confirmed")
        before = len([batch for batch in watch.batches if batch.reported])
        async with driving(driver_for(rtu), watch):
            for value in (True, False, True, False, True):
                rtu.events = [untimed(value)]
                await until(lambda: not rtu.events, what="confirmed")
    batches = [(batch.repeat, [s.value for s in batch.samples]) for batch in watch.batches if batch.reported]
    assert batches[before:] == [
        (True, [True]), (True, [False]), (False, [True]), (False, [False]), (False, [True])
    ]  # fmt: skip


async def test_events_that_may_or_may_not_be_on_disk_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk took too long; whether the batch is there is not known: neither dropped nor given as new."""
    monkeypatch.setattr(session, "COMMIT_LIMIT_S", 0.3)
    watch, ms = Blocked(), now_ms()
    async with Outstation(static=STATIC) as rtu:
        driver = driver_for(rtu)
        async with driving(driver, watch) as (_, task):
            watch.block()
            rtu.events = [timed((True, ms))]
            await ended(task)
        watch.release()
        async with driving(driver, watch):
            await until(lambda: not rtu.events, what="confirmed")
    assert [(batch.repeat, batch.samples[0].value) for batch in watch.batches if batch.reported] == [(True, True)]


async def test_other_events_after_a_reconnect_are_new() -> None:
    watch, ms = Watch(), now_ms()
    async with Outstation(static=STATIC) as rtu:
        driver = driver_for(rtu)
        for at in (ms, ms + 5):
            rtu.events = [timed((True, at))]
            async with driving(driver, watch) as (_, task):
                await until(lambda: not rtu.events, what="confirmed")
                rtu.hang_up()
                await ended(task)
    assert len(watch.samples(0, reported=True)) == 2
    assert not any(batch.repeat for batch in watch.batches)


# ---- restart and overflow


async def test_the_first_contact_with_a_restarted_device_is_no_gap() -> None:
    watch = Watch()
    async with Outstation(static=STATIC, iin=RESTART) as rtu, driving(driver_for(rtu), watch) as (driver, _):
        await until(lambda: rtu.count(Function.ENABLE_UNSOLICITED) == 1, what="start")
        assert rtu.functions()[:4] == [
            Function.DISABLE_UNSOLICITED, Function.WRITE, Function.READ, Function.ENABLE_UNSOLICITED,
        ]  # fmt: skip
        assert sum(request.class0 for request in rtu.requests) == 1
        assert watch.gaps == []
        assert driver.counters()["restarts"] == 1


async def test_a_restart_of_a_known_device_is_one_gap_and_an_integrity_poll() -> None:
    watch = Watch()
    async with Outstation(static=STATIC) as rtu, driving(driver_for(rtu, event_poll_s=0.05), watch):
        await until(lambda: rtu.count(Function.ENABLE_UNSOLICITED) == 1, what="start")
        rtu.iin |= RESTART
        await until(lambda: rtu.count(Function.ENABLE_UNSOLICITED) == 2, what="enabled again")
        assert sum(request.class0 for request in rtu.requests) == 2
        assert rtu.iin & RESTART == 0
        assert watch.gaps == [RESTART_GAP]


@pytest.mark.parametrize("known_by", ["cursor", "memory"])
async def test_a_restart_while_we_were_away_is_a_gap(known_by: str) -> None:
    watch = Watch()
    async with Outstation(static=STATIC) as rtu:
        rtu.events = [timed((True, now_ms()))]
        driver = driver_for(rtu)
        async with driving(driver, watch) as (_, task):
            await until(lambda: not rtu.events, what="confirmed")
            rtu.hang_up()
            await ended(task)
        rtu.iin |= RESTART
        async with driving(driver if known_by == "memory" else driver_for(rtu), watch):
            assert watch.gaps == [RESTART_GAP]


async def test_a_device_that_never_clears_its_restart_is_told_once() -> None:
    watch = Watch()
    async with Outstation(static=STATIC, iin=RESTART) as rtu:
        rtu.answers[Function.WRITE] = lambda _: Answer()
        driver = driver_for(rtu, event_poll_s=0.05)
        for _ in range(2):
            async with driving(driver, watch) as (_, task):
                reads = rtu.count(Function.READ)
                await until(lambda: rtu.count(Function.READ) > reads + 3, what="polls")  # noqa: B023
                rtu.hang_up()
                await ended(task)
        assert sum(request.class0 for request in rtu.requests) == 2
        assert watch.gaps == []
        assert driver.counters()["restarts"] == 1


async def test_each_overflow_is_exactly_one_gap_and_an_integrity_poll() -> None:
    watch = Watch()
    async with Outstation(static=STATIC) as rtu, driving(driver_for(rtu, event_poll_s=0.05), watch) as (driver, _):
        for number in (1, 2):
            polls = sum(request.class0 for request in rtu.requests)
            rtu.iin |= OVERFLOW
            await until(lambda: len(watch.gaps) == number, what="gap")  # noqa: B023
            await until(lambda: sum(r.class0 for r in rtu.requests) == polls + 1, what="integrity")  # noqa: B023
            reads = rtu.count(Function.READ)
            await until(lambda: rtu.count(Function.READ) > reads + 2, what="polls")  # noqa: B023
            assert len(watch.gaps) == number
            rtu.iin &= ~OVERFLOW
            reads = rtu.count(Function.READ)
            await until(lambda: rtu.count(Function.READ) > reads + 2, what="polls")  # noqa: B023
        assert watch.gaps == [OVERFLOW_GAP] * 2
        assert driver.counters()["overflows"] == 2
        assert sum(request.class0 for request in rtu.requests) == 3


async def test_an_overflow_seen_over_a_reconnect_is_one_gap() -> None:
    watch = Watch()
    async with Outstation(static=STATIC, iin=OVERFLOW) as rtu:
        driver = driver_for(rtu)
        for _ in range(2):
            async with driving(driver, watch) as (_, task):
                rtu.hang_up()
                await ended(task)
        assert watch.gaps == [OVERFLOW_GAP]


# ---- what opendnp3 does not understand


async def test_a_poll_with_an_unknown_object_is_a_gap_and_does_not_stop_the_rest() -> None:
    watch, ms = Watch(), now_ms()
    async with (
        Outstation(static=STATIC) as rtu,
        driving(driver_for(rtu, event_poll_s=0.05, unsolicited=False), watch) as (driver, _),
    ):
        rtu.events = [timed((True, ms)) + indexed(222, 1, [(0, b"x")]), timed((False, ms + 1))]
        await until(lambda: not rtu.events, what="confirmed")
        await until(lambda: False in watch.values(0, reported=True), what="the next event")
        assert watch.gaps == ["not understood, events may be lost: object g222v1 (qualifier 0x28)"]
        assert driver.counters()["not_understood"] == 1


async def test_an_unsolicited_unknown_object_is_not_confirmed_and_no_gap() -> None:
    watch = Watch()
    async with Outstation(static=STATIC) as rtu, driving(driver_for(rtu, event_poll_s=60), watch) as (driver, _):
        rtu.unsolicited(indexed(222, 1, [(0, b"x")]))
        rtu.unsolicited(timed((False, now_ms())))
        await until(lambda: watch.values(0, reported=True), what="the next event")
        await until(lambda: rtu.count(Function.CONFIRM) == 1, what="its confirm")
        assert watch.gaps == []
        assert driver.counters()["not_understood"] == 1


@pytest.mark.parametrize("beside", [b"", timed((True, 1_700_000_000_000))])
@pytest.mark.parametrize("how", ["unsolicited", "polled"])
async def test_relative_times_without_a_common_time_are_a_gap(how: str, beside: bytes) -> None:
    watch = Watch()
    lost = beside + indexed(2, 3, [(0, b"\x81\x05\x00")])
    async with Outstation(static=STATIC) as rtu, driving(driver_for(rtu), watch):
        if how == "unsolicited":
            rtu.unsolicited(lost)
        else:
            rtu.events = [lost]
        await until(lambda: watch.gaps, what="gap")
        await until(lambda: rtu.count(Function.CONFIRM) == 1, what="confirm")
        what = "object g2v3 (qualifier 0x28) without a common time of occurrence (g51)"
        assert watch.gaps == [f"not understood, events may be lost: {what}"]
        assert len(watch.samples(0, reported=True)) == bool(beside)


# ---- polls


async def test_events_are_polled_by_the_clock() -> None:
    watch, ms = Watch(), now_ms()
    async with Outstation(static=STATIC) as rtu, driving(driver_for(rtu, unsolicited=False, event_poll_s=0.1), watch):
        rtu.events = [timed((False, ms + n)) for n in range(5)]
        began = time.monotonic()
        await until(lambda: not rtu.events, what="all events")
        assert time.monotonic() - began < 0.4  # what waits is fetched at once, not one a period
    assert len(watch.samples(0, reported=True)) == 5


async def test_integrity_by_the_clock_and_on_demand() -> None:
    watch = Watch()
    async with (
        Outstation(static=STATIC) as rtu,
        driving(driver_for(rtu, event_poll_s=60, integrity_poll_s=1), watch) as (driver, _),
    ):
        await until(lambda: sum(r.class0 for r in rtu.requests) == 2, what="by the clock")
        await driver.interrogate()
        await until(lambda: sum(r.class0 for r in rtu.requests) == 3, within_s=0.8, what="on demand")


# ---- the time


@pytest.mark.parametrize("asks", ["at the start", "later"])
async def test_lan_time(asks: str) -> None:
    async with (
        Outstation(static=STATIC, iin=NEED_TIME if asks == "at the start" else 0) as rtu,
        driving(driver_for(rtu, event_poll_s=0.05), Watch()) as (driver, _),
    ):
        if asks == "later":
            await until(lambda: rtu.count(Function.READ) > 2, what="start")
            assert rtu.count(Function.RECORD_CURRENT_TIME) == 0
            rtu.iin |= NEED_TIME
        await until(lambda: rtu.iin & NEED_TIME == 0, what="time")
        requests = [r for r in rtu.requests if r.function in (Function.RECORD_CURRENT_TIME, Function.WRITE)]
        assert [r.function for r in requests] == [Function.RECORD_CURRENT_TIME, Function.WRITE]
        assert requests[1].objects[:4] == bytes((50, 3, 7, 1))
        written = int.from_bytes(requests[1].objects[4:], "little")
        recorded_ms = (time.time() - (time.monotonic() - requests[0].at)) * 1000
        assert abs(written - recorded_ms) < 20
        await until(lambda: driver.counters()["time_syncs"] == 1, what="counted")


async def test_non_lan_time() -> None:
    """The outstation says it took 300 of the 400 ms that it takes to answer; half of the rest is the way."""

    async with Outstation(static=STATIC, iin=NEED_TIME) as rtu:

        def answer(request: Request) -> None:
            delayed = Answer(bytes((52, 2, 7, 1)) + (300).to_bytes(2, "little"))
            asyncio.get_running_loop().call_later(0.4, rtu.respond, request, delayed)

        rtu.answers[Function.DELAY_MEASURE] = answer
        made = driver_for(rtu, event_poll_s=60, time_sync="non-lan", response_timeout_s=2)
        async with driving(made, Watch()) as (driver, _):
            await until(lambda: rtu.iin & NEED_TIME == 0, what="time")
            (write,) = [r for r in rtu.requests if r.function == Function.WRITE]
            assert write.objects[:4] == bytes((50, 1, 7, 1))
            written = int.from_bytes(write.objects[4:], "little")
            arrived_ms = (time.time() - (time.monotonic() - write.at)) * 1000
            assert 30 < written - arrived_ms < 70
            await until(lambda: driver.counters()["time_syncs"] == 1, what="counted")


async def test_no_time_is_given_while_our_own_clock_is_adrift() -> None:
    states = [clock_adrift()]
    async with Outstation(static=STATIC, iin=NEED_TIME) as rtu:
        made = Dnp3Driver(device(rtu.port, POINTS, event_poll_s=0.05), clock_state=lambda: states[-1])
        async with driving(made, Watch()):
            await until(lambda: rtu.count(Function.READ) > 5, what="polls")
            assert Function.RECORD_CURRENT_TIME not in rtu.functions()
            assert rtu.iin & NEED_TIME
            states.append(clock_in_step())
            await until(lambda: rtu.iin & NEED_TIME == 0, what="time, now that it is in step")


@pytest.mark.parametrize("procedure", ["lan", "non-lan"])
async def test_a_device_that_refuses_the_time_is_left_alone(procedure: str) -> None:
    watch = Watch()
    async with Outstation(static=STATIC, iin=NEED_TIME) as rtu:
        rtu.refuses = {Function.RECORD_CURRENT_TIME, Function.DELAY_MEASURE}
        async with driving(driver_for(rtu, event_poll_s=0.05, time_sync=procedure), watch):
            await until(lambda: rtu.count(Function.READ) > 6, what="polls go on")
            asked = rtu.count(Function.RECORD_CURRENT_TIME) + rtu.count(Function.DELAY_MEASURE)
            assert asked == 1
            assert rtu.count(Function.WRITE) == 0


async def test_time_sync_none() -> None:
    async with (
        Outstation(static=STATIC, iin=NEED_TIME) as rtu,
        driving(driver_for(rtu, event_poll_s=0.05, time_sync="none"), Watch()),
    ):
        await until(lambda: rtu.count(Function.READ) > 6, what="polls")
        assert set(rtu.functions()) == {1, 20, 21}
