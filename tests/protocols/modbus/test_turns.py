from __future__ import annotations

import asyncio

import pytest

from gatewayd.protocols.device import Device, Serial
from gatewayd.protocols.modbus.settings import line_settings, octet_s, quiet_s
from gatewayd.protocols.modbus.turns import Turns, Urgency


async def test_commands_come_before_polls_and_each_in_its_order():
    turns, order = Turns(), []

    async def take(name: str, urgency: Urgency) -> None:
        async with turns.turn(urgency):
            order.append(name)

    async with turns.turn(Urgency.POLL):
        waiting = [
            asyncio.create_task(take(name, urgency))
            for name, urgency in (
                ("p1", Urgency.POLL), ("p2", Urgency.POLL), ("c1", Urgency.COMMAND), ("p3", Urgency.POLL),
                ("c2", Urgency.COMMAND),
            )
        ]  # fmt: skip
        await asyncio.sleep(0)
        assert order == []
    await asyncio.gather(*waiting)
    assert order == ["c1", "c2", "p1", "p2", "p3"]


@pytest.mark.parametrize("before_release", [True, False])
async def test_one_who_gives_up_waiting_does_not_keep_the_turn(before_release: bool):
    turns = Turns()
    await turns.acquire(Urgency.POLL)
    first, second = (asyncio.create_task(turns.acquire(Urgency.POLL)) for _ in range(2))
    await asyncio.sleep(0)
    if before_release:
        first.cancel()
        turns.release()
    else:  # the turn is his already, he only does not know it yet
        turns.release()
        first.cancel()
    await asyncio.wait_for(second, 1)
    await asyncio.gather(first, return_exceptions=True)
    turns.release()
    await asyncio.wait_for(turns.acquire(Urgency.COMMAND), 1)


async def test_the_turn_is_handed_over_when_its_holder_fails():
    turns = Turns()
    with pytest.raises(ZeroDivisionError):
        async with turns.turn(Urgency.COMMAND):
            raise ZeroDivisionError
    await asyncio.wait_for(turns.acquire(Urgency.POLL), 1)


@pytest.mark.parametrize(
    ("serial", "octet", "quiet"),
    [
        (Serial(port="/dev/x", baud=9600), 10 / 9600, 35 / 9600),
        (Serial(port="/dev/x", baud=9600, parity="even"), 11 / 9600, 38.5 / 9600),
        (Serial(port="/dev/x", baud=1200, parity="odd", stop_bits=2), 12 / 1200, 42 / 1200),
        (Serial(port="/dev/x", baud=115200), 10 / 115200, 0.00175),
    ],
)
def test_how_long_octets_and_the_silence_between_frames_take(serial: Serial, octet: float, quiet: float):
    assert octet_s(serial) == pytest.approx(octet)
    assert quiet_s(serial) == pytest.approx(quiet)
    settings = line_settings(Device(name="D", protocol="modbus", serial=serial, framer="rtu"), one_connection=False,
                             echo=False)  # fmt: skip
    assert (settings.octet_s, settings.quiet_s, settings.shared) == (octet_s(serial), quiet_s(serial), True)
