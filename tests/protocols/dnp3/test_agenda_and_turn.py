"""What is asked when, without a clock and without a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gatewayd.protocols.dnp3.agenda import OVERFLOW_GAP, RESTART_GAP, TIME_AGAIN_S, Agenda, Job
from gatewayd.protocols.dnp3.config import Options
from gatewayd.protocols.dnp3.frames import Function, Iin
from gatewayd.protocols.dnp3.memory import Memory
from gatewayd.protocols.dnp3.turn import Turn


class Play:
    """An agenda and its outstation, which answers everything at once with the indications set here."""

    def __init__(self, memory: Memory | None = None, **options: Any) -> None:
        self.memory = memory or Memory()
        self.now = 0.0
        self.heard = 0.0
        self.iin = 0
        self.clock = True
        self.gaps: list[str] = []
        self.agenda = Agenda(Options(**options), self.memory, self.now)

    def next(self) -> Job | None:
        return self.agenda.next(self.now, self.heard, clock_in_step=self.clock)

    def do(self, *, brought_events: bool = False) -> Job | None:
        """The next job, answered."""
        job = self.next()
        if job is not None:
            self.agenda.begun(job, self.now)
            self.heard = self.now
            if job is Job.CLEAR_RESTART:
                self.iin &= ~Iin.DEVICE_RESTART
            if job is Job.TIME:
                self.iin &= ~Iin.NEED_TIME
            self.told()
            self.agenda.done(job, self.now, brought_events=brought_events)
        return job

    def told(self) -> None:
        self.gaps += self.agenda.indications(self.iin)

    def all(self) -> list[Job]:
        found = []
        while (job := self.do()) is not None:
            found.append(job)
            assert len(found) < 20, found
        return found

    def after(self, seconds: float) -> Play:
        self.now += seconds
        return self


def test_the_beginning() -> None:
    play = Play()
    assert play.all() == [Job.DISABLE, Job.INTEGRITY, Job.ENABLE]
    assert play.agenda.complete
    assert play.gaps == []


def test_the_beginning_of_a_restarted_device_that_needs_the_time() -> None:
    play = Play()
    play.iin = Iin.DEVICE_RESTART | Iin.NEED_TIME
    assert play.all() == [Job.DISABLE, Job.CLEAR_RESTART, Job.INTEGRITY, Job.ENABLE, Job.TIME]
    assert play.gaps == []  # the first contact ever: nothing of ours was lost
    assert play.memory.counts["restarts"] == 1


def test_unsolicited_off_is_told_and_never_switched_on() -> None:
    play = Play(unsolicited=False)
    assert play.all() == [Job.DISABLE, Job.INTEGRITY]


def test_a_function_the_device_does_not_have_is_not_asked_for_again() -> None:
    memory = Memory()
    memory.ignored |= {Function.DISABLE_UNSOLICITED, Function.ENABLE_UNSOLICITED}
    assert Play(memory).all() == [Job.INTEGRITY]


def test_polls_by_the_clock() -> None:
    play = Play(event_poll_s=1, integrity_poll_s=5, keepalive_s=30)
    play.all()
    assert play.agenda.wait_s(play.now, play.heard) == pytest.approx(1.0)
    jobs = [play.after(0.5).do() for _ in range(12)]
    assert jobs == [None, Job.EVENTS, None, Job.EVENTS, None, Job.EVENTS, None, Job.EVENTS, None, Job.INTEGRITY, None, Job.EVENTS]  # fmt: skip  # noqa: E501


def test_an_integrity_poll_reads_the_events_too() -> None:
    play = Play(event_poll_s=1, integrity_poll_s=1)
    play.all()
    assert play.after(1).all() == [Job.INTEGRITY]


def test_no_polls_where_none_are_wanted() -> None:
    play = Play(event_poll_s=0, integrity_poll_s=0, keepalive_s=10)
    play.all()
    assert play.after(9.9).next() is None
    assert play.after(0.2).all() == [Job.LINK_STATUS]
    assert play.agenda.wait_s(play.now, play.heard) == pytest.approx(10.0)
    play.heard = play.after(9).now  # it reported by itself
    assert play.after(9).next() is None


def test_more_events_waiting_are_read_at_once_as_long_as_some_come() -> None:
    play = Play(event_poll_s=10)
    play.all()
    play.iin = Iin.CLASS_1
    play.after(10)
    assert play.do(brought_events=True) is Job.EVENTS
    assert play.do(brought_events=True) is Job.EVENTS
    assert play.do() is Job.EVENTS  # nothing came, though the indication stands: no hurry any more
    assert play.next() is None


def test_a_restart_in_between() -> None:
    play = Play()
    play.all()
    play.iin = Iin.DEVICE_RESTART
    play.told()
    assert play.all() == [Job.CLEAR_RESTART, Job.INTEGRITY, Job.ENABLE]
    assert play.gaps == [RESTART_GAP]


def test_after_a_restart_unsolicited_is_switched_off_again() -> None:
    play = Play(unsolicited=False)
    play.all()
    play.iin = Iin.DEVICE_RESTART
    play.told()
    assert play.all() == [Job.DISABLE, Job.CLEAR_RESTART, Job.INTEGRITY]


def test_a_restart_that_stands_over_a_reconnect_is_told_once() -> None:
    play = Play()
    play.all()
    play.iin = Iin.DEVICE_RESTART
    play.told()
    again = Play(play.memory)
    again.iin = Iin.DEVICE_RESTART
    again.all()
    again.iin = Iin.DEVICE_RESTART
    again.told()
    assert len(play.gaps + again.gaps) == 2  # the one before the reconnect, and the next restart
    assert again.memory.counts["restarts"] == 2


def test_a_device_that_does_not_clear_its_restart_is_not_pestered() -> None:
    play = Play()
    play.all()
    play.iin = Iin.DEVICE_RESTART
    play.told()
    assert play.next() is Job.CLEAR_RESTART
    play.agenda.begun(Job.CLEAR_RESTART, play.now)
    play.told()
    play.agenda.done(Job.CLEAR_RESTART, play.now)
    assert play.all() == [Job.INTEGRITY, Job.ENABLE]
    assert play.gaps == [RESTART_GAP]


def test_each_overflow_is_one_gap_and_one_integrity_poll() -> None:
    play = Play()
    play.all()
    for _ in range(2):
        play.iin = Iin.EVENT_BUFFER_OVERFLOW
        play.told()
        play.told()
        assert play.all() == [Job.INTEGRITY]
        play.iin = 0
        play.told()
    assert play.gaps == [OVERFLOW_GAP] * 2
    assert play.memory.counts["overflows"] == 2


def test_an_overflow_that_stands_over_a_reconnect_is_told_once() -> None:
    play = Play()
    play.iin = Iin.EVENT_BUFFER_OVERFLOW
    play.all()
    again = Play(play.memory)
    again.iin = Iin.EVENT_BUFFER_OVERFLOW
    again.all()
    assert play.gaps + again.gaps == [OVERFLOW_GAP]


def test_the_time_is_given_only_while_our_own_is_in_step() -> None:
    play = Play(event_poll_s=10)
    play.clock = False
    play.iin = Iin.NEED_TIME
    assert Job.TIME not in play.all()
    assert play.agenda.wait_s(play.now, play.heard) == pytest.approx(1.0)  # ours may get in step meanwhile
    play.clock = True
    assert play.do() is Job.TIME


def test_a_device_that_goes_on_asking_gets_the_time_now_and_then() -> None:
    play = Play(event_poll_s=0, integrity_poll_s=0, keepalive_s=3600)
    play.all()
    for _ in range(3):
        play.iin = Iin.NEED_TIME
        play.told()
        assert play.do() is Job.TIME
        play.iin = Iin.NEED_TIME
        play.told()
        assert play.next() is None
        play.after(TIME_AGAIN_S)


@pytest.mark.parametrize("reason", ["none", "refused"])
def test_the_time_is_not_given(reason: str) -> None:
    play = Play(time_sync="none" if reason == "none" else "lan")
    play.memory.time_refused = reason == "refused"
    play.iin = Iin.NEED_TIME
    assert Job.TIME not in play.all()


def test_what_was_not_answered_is_asked_again_at_once() -> None:
    play = Play()
    play.all()
    assert play.after(1).next() is Job.EVENTS
    play.agenda.begun(Job.EVENTS, play.now)
    play.agenda.failed(Job.EVENTS, play.after(5).now)
    assert play.next() is Job.EVENTS


def test_a_demand() -> None:
    play = Play()
    play.all()
    play.agenda.demand_integrity()
    assert play.all() == [Job.INTEGRITY]


# ---- turns


async def test_turns_are_taken_in_order_and_the_urgent_ones_first() -> None:
    turn, order = Turn(), []

    async def work(name: str, *, urgent: bool = False) -> None:
        await turn.take(urgent=urgent)
        order.append(name)
        turn.give()

    await turn.take()
    tasks = [asyncio.create_task(work("poll 1")), asyncio.create_task(work("poll 2"))]
    tasks.append(asyncio.create_task(work("command", urgent=True)))
    await asyncio.sleep(0)
    turn.give()
    await asyncio.gather(*tasks)
    assert order == ["command", "poll 1", "poll 2"]
    await asyncio.wait_for(turn.take(), 1)


async def test_whoever_gives_up_waiting_holds_nobody_up() -> None:
    turn = Turn()
    await turn.take()
    waiting = [asyncio.create_task(turn.take(urgent=at == 1)) for at in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    waiting[0].cancel()
    await asyncio.sleep(0)
    turn.give()
    await asyncio.wait_for(waiting[2], 1)
    turn.give()
    await asyncio.wait_for(turn.take(), 1)


async def test_a_turn_that_comes_with_the_cancellation_is_passed_on() -> None:
    turn = Turn()
    await turn.take()
    first, second = asyncio.create_task(turn.take()), asyncio.create_task(turn.take())
    await asyncio.sleep(0)
    turn.give()  # to the first, which is cancelled before it runs
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await asyncio.wait_for(second, 1)
