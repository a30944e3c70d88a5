"""From what a driver tells to the journal, the publisher and the desk; with a real journal on disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from gatewayd import clock, datapath
from gatewayd.control.types import Step, StepKind
from gatewayd.datapath import DataPath
from gatewayd.points import quality as q
from gatewayd.points.contacts import ContactPair
from gatewayd.points.database import Database
from gatewayd.points.intake import Intake
from gatewayd.points.types import Batch, Cursor, Kind, Link, PointSpec, Sample
from gatewayd.store.journal import Journal, WhenFull
from tests.brokers import until

NOW = 1_800_000_000_000_000_000


class Outside:
    """Publisher and desk: keep what they are told."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.links: list[tuple[str, Link, str]] = []
        self.watched: list[tuple[tuple[int, ...], int]] = []
        self.desk_links: list[tuple[str, Link]] = []
        self.steps: list[tuple[str, Step]] = []


class FakePublisher:
    def __init__(self, outside: Outside) -> None:
        self.outside = outside

    def changed(self, rows: Iterable[int]) -> None:
        self.outside.rows += rows

    def link(self, device: str, protocol: str, link: Link, since_ns: int, cause: str = "") -> None:
        self.outside.links.append((device, link, cause))


class FakeDesk:
    def __init__(self, outside: Outside) -> None:
        self.outside = outside

    def changed(self, rows: Iterable[int], mono_ns: int) -> None:
        self.outside.watched.append((tuple(rows), mono_ns))

    def link(self, device: str, link: Link) -> None:
        self.outside.desk_links.append((device, link))

    def progress(self, command_id: str, step: Step) -> None:
        self.outside.steps.append((command_id, step))


def specs() -> list[PointSpec]:
    return [
        PointSpec(row=0, name="D/B", kind=Kind.BINARY, device="D", address="x", event=True),
        PointSpec(row=1, name="D/A", kind=Kind.ANALOG, device="D", address="x"),
        PointSpec(row=2, name="D/CB", kind=Kind.DOUBLE, device="D", address="x", event=True),
        PointSpec(row=3, name="D/CB#open", kind=Kind.BINARY, device="D", address="x", event=True, contact=True),
        PointSpec(row=4, name="D/CB#closed", kind=Kind.BINARY, device="D", address="x", event=True, contact=True),
    ]


class Made:
    """A data path with its surroundings."""

    def __init__(self, folder: Path, image: dict[str, Any] | None = None, **journal: Any) -> None:
        given = {"keep_s": 3600.0, "max_bytes": 64 * 2**20, "when_full": WhenFull.BLOCK, **journal}
        self.journal = Journal.open(folder, **given)
        self.outside = Outside()
        self.intake = Intake(Database(specs()), [ContactPair(2, 3, 4, 50)], [], image)
        self.path = DataPath(
            self.journal,
            self.intake,
            {"D": "dnp3"},
            publisher=FakePublisher(self.outside),
            desk=FakeDesk(self.outside),
        )

    async def events(self) -> list[dict[str, Any]]:
        found = await self.journal.read(1, 10_000, 1 << 30)
        return [json.loads(event.payload) for event in found]


@contextlib.asynccontextmanager
async def opened(folder: Path, **more: Any) -> AsyncIterator[Made]:
    made = Made(folder, **more)
    try:
        yield made
    finally:
        made.path.close()
        await made.journal.close()


def batch(*values: tuple[int, Any], reported: bool = False, repeat: bool = False, quality: int = 0) -> Batch:
    samples = [Sample(row, value, quality, 0, NOW) for row, value in values]
    return Batch("D", samples, NOW, reported=reported, repeat=repeat, mono_ns=77)


async def test_events_return_when_they_are_on_disk_with_their_cursor(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        made.path.device("D", Link.UP)
        await made.path.events(batch((0, True), (1, 4.5), reported=True), Cursor("fragment", b"one"))
        assert list(await made.path.cursors("D")) == [Cursor("fragment", b"one")]
        device, point = await made.events()
        assert (device["type"], device["device"], device["link"]) == ("device", "D", "up")
        assert (point["point"], point["value"]) == ("D/B", True)
        assert made.outside.rows.count(0) == 1
        assert made.outside.rows.count(1) == 1
        assert (0, 1) in [rows for rows, mono in made.outside.watched if mono == 77]
    async with opened(tmp_path) as made:
        assert list(await made.path.cursors("D")) == [Cursor("fragment", b"one")]
        assert made.journal.image()["D/B"].value is True


async def test_nothing_to_store_is_nothing_to_wait_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        made.path.device("D", Link.UP)
        assert made.path.take(batch((1, 4.5)), None) is None
        assert made.path.take(batch((1, 4.5)), Cursor("fragment", b"x")) is not None


async def test_points_with_events_are_old_while_the_disk_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A breaker must not be shown as it was minutes ago, nor let an interlock pass on it."""
    async with opened(tmp_path) as made:
        made.path.device("D", Link.UP)
        await made.path.events(batch((0, True), (1, 4.5), reported=True))
        states, held = made.intake.database.states, asyncio.get_running_loop().create_future()
        monkeypatch.setattr(made.journal, "append", lambda *_: held)
        made.path.take(batch((0, False), reported=True), None)
        made.path.look()
        assert states[0].quality == q.GOOD
        late = clock.moment()._replace(mono_ns=time.monotonic_ns() + int(datapath.HELD_S * 1.1e9))
        made.path._moment = lambda: late
        made.outside.rows.clear()
        for _ in range(2):
            made.path.look()
            assert states[0].value is False
            assert states[0].quality == q.QUESTIONABLE | q.OLD_DATA
            assert states[1].quality == q.GOOD
        assert made.outside.rows == [0, 2]
        assert made.path.counts["held"] == 1
        held.set_result(7)
        await asyncio.sleep(0)
        assert states[0].quality == q.GOOD
        assert made.outside.rows[2:] == [0, 2]
        assert made.outside.watched[-1][0] == (0, 2, 3, 4)


async def test_cursors_wait_for_what_is_on_its_way_to_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        committed = made.path.take(batch((0, True), reported=True), Cursor("b", b"1"))
        assert committed is not None
        assert not committed.done()
        assert list(await made.path.cursors("D")) == [Cursor("b", b"1")]
        assert committed.done()


async def test_a_repeat_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        await made.path.events(batch((0, True), reported=True, repeat=True))
        assert (await made.events())[0]["repeat"] is True


async def test_a_full_journal_holds_events_and_state_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=1024 * 1024) as made:
        made.path.device("D", Link.UP)
        waiting: list[asyncio.Future[int]] = []
        for number in range(4000):
            taken = made.path.take(batch(*[(0, bool(n % 2)) for n in range(100)], reported=True), None)
            assert taken is not None
            waiting.append(taken)
            await asyncio.sleep(0)
            if made.journal.full:
                break
            if number % 8 == 7 and not made.journal.full:
                await asyncio.wait({waiting[-1]}, timeout=0.05)
        await until(lambda: made.journal.full)
        assert not waiting[-1].done()
        made.path.state(batch((1, 99.0)))
        assert made.intake.database.states[1].value == 99.0
        assert made.outside.rows[-1] == 1
        made.journal.mark_handed_over(made.journal.newest)
        await asyncio.wait_for(asyncio.wait(waiting), 20)
        assert all(future.exception() is None for future in waiting)


async def test_what_cannot_be_stored_is_never_confirmed_and_needs_attention(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.path.device("D", Link.UP)
    await made.journal.close()
    committed = made.path.take(batch((0, True), reported=True), None)
    assert committed is not None
    with pytest.raises(Exception, match="closed"):
        await committed
    await until(lambda: made.path.links["D"].link is Link.FAULT)
    assert made.path.counts["not_stored"] >= 1
    made.path.close()


async def test_a_link_is_told_when_it_changes_and_attempts_are_no_news(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        for link, why in [
            (Link.CONNECTING, ""),
            (Link.DOWN, "refused"),
            (Link.CONNECTING, ""),
            (Link.DOWN, "refused"),
            (Link.CONNECTING, "integrity poll"),
            (Link.UP, ""),
            (Link.CONNECTING, ""),
            (Link.UP, ""),
        ]:
            made.path.device("D", link, why)
        made.path.device("nobody", Link.UP)
        assert made.outside.links == [
            ("D", Link.DOWN, "refused"),
            ("D", Link.CONNECTING, "integrity poll"),
            ("D", Link.UP, ""),
            ("D", Link.CONNECTING, ""),
            ("D", Link.UP, ""),
        ]
        assert made.outside.desk_links == [("D", link) for _, link, _ in made.outside.links]
        await until(lambda: made.journal.newest == 2)
        assert [(event["link"], event["cause"]) for event in await made.events()] == [("down", "refused"), ("up", "")]


async def test_a_driver_that_connects_again_without_a_word_loses_its_points(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        made.path.device("D", Link.UP)
        made.path.state(batch((1, 4.5)))
        made.path.device("D", Link.CONNECTING)
        assert q.flags(made.intake.database.states[1].quality) == ["comm-lost"]


async def test_gaps_and_progress_are_passed_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        made.path.state(batch((1, 1.0)))
        made.path.gap("D", "event buffer overflow")
        made.path.progress("tx1", Step(StepKind.TERMINATED))
        await until(lambda: made.journal.newest == 1)
        (gap,) = await made.events()
        assert (gap["type"], gap["device"], gap["cause"]) == ("gap", "D", "event buffer overflow")
        assert gap["from"] == "2027-01-15T08:00:00.000Z"
        assert made.outside.steps == [("tx1", Step(StepKind.TERMINATED))]


async def test_a_step_of_the_clock_is_an_event(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        made.path.clock_stepped(-3_600_000_000_000)
        await until(lambda: made.journal.newest == 1)
        assert (await made.events())[0]["step_s"] == -3600.0


async def test_a_device_whose_clock_is_off_is_told_once_and_when_it_is_right_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        made.path.device("D", Link.UP)
        made.path.clock_limits = {"D": 2.0}

        def report(behind_s: float, count: int) -> None:
            for number in range(count):
                at = NOW - int(behind_s * 1e9)
                made.path.take(Batch("D", [Sample(0, bool(number % 2), 0, 0, at)], NOW, reported=True, mono_ns=9), None)

        report(5.0, 5)
        assert made.path.offsets["D"].offset_ns == 5_000_000_000
        report(0.5, 1)
        await until(lambda: made.journal.newest == 9)
        clocks = [event for event in await made.events() if event.get("type") == "clock"]
        assert [(event["device"], event["offset_s"], event["within"]) for event in clocks] == [
            ("D", 5.0, False),
            ("D", 0.5, True),
        ]


async def test_contacts_that_stay_between_are_told_after_their_time_without_a_new_word(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        made.path.device("D", Link.UP)
        now = clock.moment()
        made.path.take(Batch("D", [Sample(3, False, 0, 0, NOW), Sample(4, True, 0, 0, NOW)], NOW), None)
        made.path.take(Batch("D", [Sample(4, False, 0, 0, NOW + 1)], NOW + 1, reported=True), None)
        assert made.intake.database.states[2].value == "closed"
        await until(lambda: made.intake.database.states[2].value == "intermediate")
        assert clock.mono_ns() - now.mono_ns >= 50_000_000
        await until(lambda: made.journal.newest == 3)
        assert (await made.events())[-1]["value"] == "intermediate"


async def test_records_of_our_own_are_bounded_and_their_loss_is_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datapath, "MOST_NOTES", 10)
    async with opened(tmp_path) as made:
        for _ in range(25):
            made.path.gap("D", "overflow")
        assert made.path.counts["notes_dropped"] == 15
        await until(lambda: made.journal.newest == 11)
        last = (await made.events())[-1]
        assert (last["device"], last["cause"], last["lost"]) == ("gateway", "gateway-records-dropped", 15)
