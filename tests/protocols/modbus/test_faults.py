"""Answers that are none, octet by octet, to reads: no wrong value, no wedge, good reads afterwards."""

from __future__ import annotations

import asyncio
import random

import pytest

from gatewayd.points import quality as q
from gatewayd.points.types import Kind
from gatewayd.protocols.driver import LinkLost
from gatewayd.protocols.modbus import line as line_module
from gatewayd.protocols.modbus.driver import create
from tests.protocols.modbus.peers import CLOSE, Action, Asked, Peer, crc16
from tests.protocols.modbus.support import commanded, device, driving, point
from tests.protocols.watching import Watch, command, until

GOOD = q.SAMPLED | q.RECEIPT
A, B = Kind.ANALOG, Kind.BINARY
POINTS = [point(0, A, "HR:10"), point(1, A, "HR:11"), point(2, A, "IR:10")]
FALSE = b"\xde\xad"
"""Never the contents of a register here."""


def honest(watch: Watch) -> bool:
    """Every value that was handed on as good is the register's own."""
    expected = {0: 10, 1: 11, 2: 10}
    return all(
        sample.value == expected[sample.point]
        for batch in watch.batches
        for sample in batch.samples
        if not sample.quality & q.VALIDITY_MASK
    )


LIES = {
    "another function": lambda a: [a.frame(b"\4\4" + FALSE * 2)],
    "exception of another function": lambda a: [a.frame(b"\x84\2")],
    "exception without a code": lambda a: [a.frame(b"\x83")],
    "exception with more": lambda a: [a.frame(b"\x83\2\0")],
    "fewer registers": lambda a: [a.frame(b"\3\2" + FALSE)],
    "more registers": lambda a: [a.frame(b"\3\6" + FALSE * 3)],
    "a wrong octet count": lambda a: [a.frame(b"\3\6" + FALSE * 2)],
    "something behind": lambda a: [a.frame(b"\3\4" + FALSE * 2 + b"\0")],
    "function 0": lambda a: [a.frame(b"\0\4" + FALSE * 2)],
    "another unit": lambda a: [a.frame(b"\3\4" + FALSE * 2, unit=9)],
    "nothing": lambda _: [],
}
TCP_LIES = {
    **LIES,
    "another transaction": lambda a: [a.frame(b"\3\4" + FALSE * 2, tid=b"\xff\xff")],
    "transaction 0": lambda a: [a.frame(b"\3\4" + FALSE * 2, tid=b"\0\0")],
    "a false answer of another transaction before the right one": lambda a: [
        a.frame(b"\3\4" + FALSE * 2, tid=b"\0\0") + a.good
    ],
}
ENDS = {
    "another protocol": lambda a: [a.good[:2] + b"\0\1" + a.good[4:]],
    "length 0": lambda a: [a.good[:4] + b"\0\0" + a.good[6:]],
    "length 65535": lambda a: [a.good[:4] + b"\xff\xff" + a.good[6:]],
    "nothing behind the unit": lambda a: [a.frame(b"")],
    "a web server": lambda _: [b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"],
    "half an answer": lambda a: [a.good[:9], CLOSE],
    "a header only": lambda a: [a.good[:7], CLOSE],
    "a close": lambda _: [CLOSE],
}


@pytest.mark.parametrize("lie", list(TCP_LIES))
async def test_a_false_answer_on_tcp_costs_one_block_and_no_value(lie: str):
    watch = Watch()
    options = {"timeout_s": 0.15, "missed_polls": 2, "poll_s": 0.02}
    async with Peer() as peer, driving(device(peer.port, POINTS, **options), watch) as (_, task):
        peer.script = lambda asked: TCP_LIES[lie](asked) if asked.function == 3 else [asked.good]
        seen = len(peer.asked)
        await until(lambda: len(peer.asked) > seen + 6)
        assert honest(watch)
        assert watch.quality(2) == GOOD
        if "before the right one" in lie:
            assert watch.quality(0) == GOOD
        else:
            await until(lambda: watch.quality(0) == GOOD | q.QUESTIONABLE | q.COMM_LOST)
        peer.script = lambda asked: [asked.good]
        await until(lambda: watch.quality(0) == GOOD and watch.quality(1) == GOOD)
        assert not task.done()
        assert honest(watch)
        assert peer.connections == 1


@pytest.mark.parametrize("end", list(ENDS))
async def test_a_broken_stream_ends_the_connection_at_once(end: str):
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, POINTS, timeout_s=30), watch) as (driver, task):
        peer.script = ENDS[end]
        await until(task.done, within_s=2)
        with pytest.raises(LinkLost):
            task.result()
        peer.script = lambda asked: [asked.good]
        async with driving(driver, watch):
            assert watch.ups == 2
        assert honest(watch)


@pytest.mark.parametrize("lie", list(LIES))
async def test_a_false_answer_on_rtu_gives_no_value(lie: str):
    watch = Watch()
    async with Peer(rtu=True) as peer:
        made = device(peer.port, POINTS, framer="rtu-over-tcp", timeout_s=0.15, missed_polls=2, poll_s=0.02)
        async with driving(made, watch) as (_, task):
            peer.script = lambda asked: LIES[lie](asked) if asked.function == 3 else [asked.good]
            await until(lambda: watch.quality(0) == GOOD | q.QUESTIONABLE | q.COMM_LOST)
            assert watch.quality(2) == GOOD
            peer.script = lambda asked: [asked.good]
            await until(lambda: watch.quality(0) == GOOD)
            assert not task.done()
            assert honest(watch)


async def test_a_late_answer_on_tcp_is_dropped_by_its_transaction():
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, POINTS, timeout_s=0.1, poll_s=0.05), watch) as (driver, _):

        def late(asked: Asked) -> list[Action]:
            return [0.15, asked.frame(b"\3\4" + FALSE * 2)] if asked.number % 4 == 3 else [asked.good]

        peer.script = late
        seen = len(peer.asked)
        await until(lambda: len(peer.asked) > seen + 16)
        assert honest(watch)
    assert driver.counters()["unasked"] >= 2


@pytest.mark.parametrize("rtu", [False, True])
async def test_answers_in_single_octets(rtu: bool):
    watch = Watch()
    async with Peer(rtu=rtu) as peer:
        peer.script = lambda asked: [part for octet in asked.good for part in (bytes((octet,)), 0.001)]
        framer = "rtu-over-tcp" if rtu else "tcp"
        async with driving(device(peer.port, POINTS, framer=framer), watch):
            assert [watch.value(row) for row in range(3)] == [10, 11, 10]


async def test_a_flood_of_frames_nobody_asked_for_does_not_hold_up_the_time_out():
    watch = Watch()
    async with Peer() as peer:
        peer.script = lambda asked: [
            part for _ in range(200) for part in (asked.frame(b"\3\4" + FALSE * 2, tid=b"\0\0") * 50, 0.002)
        ]
        made = device(peer.port, POINTS, timeout_s=0.2)
        with pytest.raises(LinkLost, match="no answer"):
            await asyncio.wait_for(create(made).run(watch, {}), 2)
        assert watch.batches == []


@pytest.mark.parametrize("rtu", [False, True])
async def test_mutated_answers_never_become_values_and_good_ones_do_afterwards(rtu: bool):
    """100 answers with random damage: flipped, cut, doubled, of random octets (on RTU half with a right CRC)."""
    watch = Watch()
    chance = random.Random(5)

    def damaged(asked: Asked) -> list[Action]:
        octets = bytearray(asked.good)
        kind = chance.randrange(5)
        if kind == 0:
            octets[chance.randrange(len(octets))] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del octets[chance.randrange(1, len(octets)) :]
        elif kind == 2:
            octets[2:2] = chance.randbytes(3)
        elif kind == 3:
            octets = bytearray(chance.randbytes(chance.randrange(1, 30)))
        else:
            octets[1 if rtu else 7] = chance.randrange(256)
        if rtu and chance.random() < 0.5:
            octets[-2:] = crc16(bytes(octets[:-2]))
        return [bytes(octets)]

    async with Peer(rtu=rtu) as peer:
        framer = "rtu-over-tcp" if rtu else "tcp"
        driver = create(device(peer.port, POINTS, framer=framer, timeout_s=0.02, poll_s=0.02, missed_polls=50))
        sent = [0]

        def script(asked: Asked) -> list[Action]:
            if chance.random() < 0.3:
                return [asked.good]
            sent[0] += 1
            return damaged(asked)

        peer.script = script
        while sent[0] < 100:
            async with driving(driver, watch, wait=False) as (_, task):
                await until(lambda task=task: task.done() or sent[0] >= 100)
                if task.done():
                    assert isinstance(task.exception(), LinkLost)
        peer.script = lambda asked: [asked.good]
        async with driving(driver, watch):
            assert [watch.quality(row) for row in range(3)] == [GOOD] * 3
            assert [watch.value(row) for row in range(3)] == [10, 11, 10]


# ---- RTU through a serial server: nothing says which request an answer belongs to


async def test_a_late_rtu_answer_is_let_pass_before_anything_else_is_asked():
    watch = Watch()
    async with Peer(rtu=True) as peer:
        made = device(peer.port, POINTS, framer="rtu-over-tcp", timeout_s=0.1, poll_s=0.03)

        async with driving(made, watch) as (driver, task):

            def late(asked: Asked) -> list[Action]:
                if asked.function == 3 and asked.number % 3 == 0:
                    return [0.15, asked.frame(b"\3\4" + FALSE * 2)]
                return [asked.good]

            peer.script = late
            seen = len(peer.asked)
            await until(lambda: len(peer.asked) > seen + 12)
            assert honest(watch)
            assert not task.done()
    assert driver.counters()["unasked"] >= 9
    late_ones = [asked for asked in peer.asked if asked.function == 3 and asked.number % 3 == 0 and asked.number > 3]
    assert late_ones
    for asked in late_ones:  # what came behind it waited until it was through
        if asked.number + 1 < len(peer.asked):
            assert peer.asked[asked.number + 1].at - asked.at >= 0.15


async def test_a_unit_that_answers_twice_is_out_of_step_and_its_link_is_lost():
    """The second answer may be the one to an earlier request: what was accepted last cannot be trusted."""
    watch = Watch()
    async with Peer(rtu=True) as peer:
        made = device(peer.port, POINTS[:2], framer="rtu-over-tcp", poll_s=0.05)
        async with driving(made, watch) as (_, task):
            peer.script = lambda asked: [asked.good, 0.01, asked.good]
            await until(task.done)
            with pytest.raises(LinkLost, match="unit 1 answered twice, or later than timeout_s"):
                task.result()


async def test_octets_between_answers_are_noise_and_no_reason_to_end():
    watch = Watch()
    async with Peer(rtu=True) as peer:
        peer.script = lambda asked: [b"\xff", asked.good, b"\0\xff"]
        made = device(peer.port, POINTS, framer="rtu-over-tcp", poll_s=0.03)
        async with driving(made, watch) as (driver, task):
            polls = driver.counters()["polls"]
            await until(lambda: driver.counters()["polls"] > polls + 5)
            assert not task.done()
            assert {watch.quality(row) for row in range(3)} == {GOOD}
    assert driver.counters()["noise"] > 0


async def test_a_line_that_is_never_silent_is_closed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(line_module, "LONGEST_BABBLE_S", 0.3)
    watch = Watch()
    async with Peer(rtu=True) as peer:
        made = device(peer.port, POINTS, framer="rtu-over-tcp", timeout_s=0.1, poll_s=0.05)
        async with driving(made, watch) as (_, task):
            peer.script = lambda _: [part for _ in range(1000) for part in (b"\xaa" * 9, 0.005)]
            await until(task.done)
            with pytest.raises(LinkLost, match="never silent"):
                task.result()


@pytest.mark.parametrize("answer", [lambda _: [], lambda a: [a.good[:-1] + b"\0"], lambda a: [a.frame(b"\x86\2")]])
async def test_an_unclear_write_through_a_serial_server_closes_the_connection(answer):
    watch = Watch()
    points = [*POINTS, commanded(5, B, "CO:7")]
    async with Peer(rtu=True) as peer:
        made = device(peer.port, points, framer="rtu-over-tcp", timeout_s=0.1)
        async with driving(made, watch) as (driver, task):
            peer.script = lambda asked: answer(asked) if asked.function == 5 else [asked.good]
            reply = await driver.operate(command(5, True))
            assert (reply.verdict, reply.reason) == ("unknown", "unknown")
            await until(task.done)
            assert peer.asked[-1].function == 5
            assert peer.writes == ["050007ff00"]
