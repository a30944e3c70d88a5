"""The retry loop and the blueprint, which every driver has to be like."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping

import pytest

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Verdict
from gatewayd.points.types import Batch, Cursor, Kind, Link, PointSpec
from gatewayd.protocols import blueprint
from gatewayd.protocols.device import Device
from gatewayd.protocols.driver import Counting, DeviceFault, Driver, Interrogable, LinkLost, Operable, Sink
from gatewayd.protocols.host import RememberingSink
from gatewayd.protocols.supervise import FIRST_PAUSE_S, LONGEST_PAUSE_S, RecordingSink, backoff, keep_running
from tests.brokers import until
from tests.protocols.support import command


def no_pause() -> Iterator[float]:
    return itertools.repeat(0.0)


async def none() -> dict[str, Cursor]:
    return {}


class Scripted:
    """Each run ends as the script says; then it waits to be cancelled."""

    def __init__(self, *endings: BaseException | None) -> None:
        self.endings = list(endings)
        self.runs: list[Mapping[str, Cursor]] = []

    async def run(self, sink: Sink, cursors: Mapping[str, Cursor]) -> None:
        self.runs.append(cursors)
        if not self.endings:
            sink.device("D", Link.UP)
            await asyncio.Event().wait()
        ending = self.endings.pop(0)
        if ending is not None:
            raise ending


async def run_until_up(driver: Driver) -> list[tuple[object, ...]]:
    sink = RecordingSink()
    task = asyncio.create_task(keep_running(driver, "D", sink, none, pauses=no_pause))
    await until(lambda: ("device", "D", Link.UP, "") in sink.calls)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return sink.calls


async def test_a_lost_link_is_tried_again_and_its_cause_is_told() -> None:
    calls = await run_until_up(Scripted(LinkLost("the cable was pulled")))
    assert calls == [
        ("device", "D", Link.CONNECTING, ""),
        ("device", "D", Link.DOWN, "the cable was pulled"),
        ("device", "D", Link.CONNECTING, ""),
        ("device", "D", Link.UP, ""),
    ]


@pytest.mark.parametrize(
    ("ending", "why"),
    [(None, "the driver ended without a cause"), (KeyError("x"), "internal error: KeyError: 'x'")],
)
async def test_a_driver_that_ends_in_an_unforeseen_way_is_tried_again(ending: BaseException | None, why: str) -> None:
    calls = await run_until_up(Scripted(ending))
    assert ("device", "D", Link.DOWN, why) in calls


async def test_a_device_fault_is_said_once_and_heals_when_it_is_mended() -> None:
    sink = RecordingSink()
    wrong, other = DeviceFault("no such file"), DeviceFault("wrong certificate")
    driver = Scripted(wrong, wrong, other, other, wrong)
    task = asyncio.create_task(keep_running(driver, "D", sink, none, pauses=no_pause, fault_pause_s=0.0))
    await until(lambda: ("device", "D", Link.UP, "") in sink.calls)
    task.cancel()
    await asyncio.wait({task})
    assert sink.calls == [
        ("device", "D", Link.CONNECTING, ""),
        ("device", "D", Link.FAULT, "no such file"),
        ("device", "D", Link.FAULT, "wrong certificate"),
        ("device", "D", Link.FAULT, "no such file"),
        ("device", "D", Link.UP, ""),
    ]
    assert len(driver.runs) == 6


async def test_a_device_fault_is_not_tried_again_soon() -> None:
    sink = RecordingSink()
    driver = Scripted(DeviceFault("wrong certificate"))
    task = asyncio.create_task(keep_running(driver, "D", sink, none, pauses=no_pause))
    await until(lambda: sink.calls[-1:] == [("device", "D", Link.FAULT, "wrong certificate")])
    await asyncio.sleep(0.05)
    assert len(driver.runs) == 1
    task.cancel()
    await asyncio.wait({task})


async def test_cursors_are_asked_for_anew_before_each_connection() -> None:
    numbers = itertools.count()
    driver = Scripted(LinkLost("x"))
    sink = RecordingSink()

    async def cursors() -> dict[str, Cursor]:
        return {"b": Cursor("b", bytes([next(numbers)]))}

    task = asyncio.create_task(keep_running(driver, "D", sink, cursors, pauses=no_pause))
    await until(lambda: len(driver.runs) == 2)
    task.cancel()
    await asyncio.wait({task})
    assert [run["b"].data for run in driver.runs] == [b"\x00", b"\x01"]


class SlowDisk(RecordingSink):
    """Keeps what it is given; nothing is on disk until `done` is resolved."""

    def __init__(self) -> None:
        super().__init__()
        self.on_their_way: list[asyncio.Future[None]] = []

    def take(self, batch: Batch, cursor: Cursor | None) -> asyncio.Future[None]:
        self.calls.append(("events", batch, cursor))
        self.on_their_way.append(asyncio.get_running_loop().create_future())
        return self.on_their_way[-1]


async def test_a_device_whose_connections_end_while_the_disk_is_held_does_not_send_its_events_again() -> None:
    disk = SlowDisk()
    runs: list[Mapping[str, Cursor]] = []

    class Impatient:
        async def run(self, sink: Sink, cursors: Mapping[str, Cursor]) -> None:
            runs.append(cursors)
            try:
                async with asyncio.timeout(0.01):
                    await sink.events(Batch("D", [], 1), Cursor("b", bytes([len(runs)])))
            except TimeoutError:
                raise LinkLost("the device hung up") from None

    sink = RememberingSink(disk, [])
    task = asyncio.create_task(keep_running(Impatient(), "D", sink, sink.cursors, pauses=no_pause))
    await until(lambda: disk.calls[-1:] == [("device", "D", Link.DOWN, "the device hung up")])
    await asyncio.sleep(0.05)
    assert len(runs) == len(disk.on_their_way) == 1
    assert disk.calls[-1] == ("device", "D", Link.DOWN, "the device hung up")
    disk.on_their_way[0].set_result(None)
    await until(lambda: len(runs) == 2)
    task.cancel()
    await asyncio.wait({task})
    assert runs == [{}, {"b": Cursor("b", b"\1")}]


def test_pauses_grow_to_the_longest_and_are_spread() -> None:
    longest = [pause for pause, _ in zip(backoff(jitter=lambda: 1.0), range(20), strict=False)]
    shortest = [pause for pause, _ in zip(backoff(jitter=lambda: 0.0), range(20), strict=False)]
    assert longest[0] == FIRST_PAUSE_S
    assert longest[-1] == LONGEST_PAUSE_S
    assert longest == sorted(longest)
    assert shortest == [pause / 2 for pause in longest]


def a_device(*, event: bool) -> Device:
    points = [
        PointSpec(row=row, name=kind.value, kind=kind, device="D", address="x", event=event)
        for row, kind in enumerate(Kind)
    ]
    return Device(name="D", protocol="blueprint", points=tuple(points))


@pytest.mark.parametrize("event", [True, False])
async def test_the_blueprint_does_what_every_driver_does(*, event: bool) -> None:
    driver = blueprint.create(a_device(event=event))
    for ability in (Operable, Interrogable, Counting):
        assert isinstance(driver, ability)
    sink = RecordingSink()
    assert (await driver.operate(command())).reason is Reason.DEVICE_OFFLINE
    task = asyncio.create_task(driver.run(sink, {}))
    await until(lambda: ("device", "D", Link.UP, "") in sink.calls)
    first = sink.calls[0]
    assert first[0] == ("events" if event else "state")
    assert [sample.point for sample in first[1].samples] == [0, 1, 2, 3, 4, 5]  # type: ignore[attr-defined]
    assert sink.calls[1] == ("device", "D", Link.UP, "")
    assert (await driver.select(command())).verdict is Verdict.DONE
    assert (await driver.operate(command())).verdict is Verdict.DONE
    assert (await driver.operate(command(within_s=-1))).reason is Reason.EXPIRED
    assert (await driver.cancel(command())).verdict is Verdict.DONE
    await driver.interrogate()
    await until(lambda: driver.counters()["polls"] == 2)
    assert driver.counters()["commands"] == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await driver.operate(command())).reason is Reason.DEVICE_OFFLINE


async def test_the_blueprint_ends_by_saying_why() -> None:
    driver = blueprint.BlueprintDriver(a_device(event=False), polls=1)
    with pytest.raises(LinkLost, match="closed the connection"):
        await driver.run(RecordingSink(), {})
