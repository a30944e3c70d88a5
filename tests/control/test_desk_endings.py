"""Restart, stop, a disk that refuses: every request ends exactly once, nothing is ever sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatewayd import failpoint
from gatewayd.control.desk import Desk
from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.types import Reply, Result, Verdict
from gatewayd.points import quality as q
from gatewayd.points.types import Link
from gatewayd.store.types import JournalError
from tests.control.support import BAY, CB, HORN, SETP, TAP, Room, until

# --- restart --------------------------------------------------------------------------------------------------------


async def test_f3_f12_a_select_does_not_survive_a_restart(room: Room) -> None:
    selected = await room.select()
    await room.again()
    done = await room.end(selected.tx)
    assert (done.reason, done.effect, done.restart) == (Reason.ABORTED_RESTART, Effect.NONE, True)
    refused = await room.end(await room.operate(selected))
    assert refused.reason is Reason.NOT_SELECTED
    assert room.field.calls == []
    assert (await room.select()).result is Result.SELECTED
    words = [one["what"] for one in await room.audit() if one["what"] != "rights"]
    assert words == ["start", "select", "selected", "crash", "start", "outcome", "refused", "select", "selected"]
    assert [event["reason"] for event in await room.events()] == ["aborted-restart"]


async def test_row_32_nothing_is_sent_for_a_select_that_a_device_may_still_hold(room: Room) -> None:
    selected = await room.select(BAY)
    room.links["BAY1"] = Link.CONNECTING
    await room.again()
    assert (await room.end(selected.tx)).reason is Reason.ABORTED_RESTART
    room.link("BAY1", Link.UP)
    await room.quiet()
    assert room.field.calls == []


async def test_f1_f2_row_31_an_intent_without_outcome_is_unknown_and_held(room: Room) -> None:
    held = room.field.hold("operate")
    selected = await room.select()
    tx = await room.operate(selected)
    await until(lambda: room.field.count("operate"), "the write")
    await room.again()
    held.set()
    room.field.waits.clear()
    done = await room.end(tx)
    assert (done.reason, done.effect, done.restart, done.stage) == (
        Reason.UNKNOWN, Effect.POSSIBLE, True, "operate",
    )  # fmt: skip
    assert room.of(selected.tx) == []  # it ends with its operate
    assert room.field.calls == []
    assert (await room.select()).reason is Reason.BUSY
    room.show(CB, "open", q.INVALID)
    room.show(CB, "open")
    await room.quiet()
    assert [(one.reason, one.effect) for one in room.late(tx)] == [(Reason.OK, Effect.CONFIRMED)]
    assert (await room.select(CB, "closed")).result is Result.SELECTED
    assert [event["reason"] for event in await room.events()] == ["unknown", "ok"]
    assert room.field.calls == []


async def test_row_31_the_hold_ends_by_itself_when_the_device_is_there(room: Room) -> None:
    room.field.hold("operate")
    await room.ask("direct", point=SETP, value=70)
    await until(lambda: room.field.count("operate"), "the write")
    room.links["FDR12"] = Link.CONNECTING
    await room.again()
    await room.after(60)
    room.links["FDR12"] = Link.UP
    assert (await room.done("direct", point=SETP, value=60)).reason is Reason.BUSY
    room.link("FDR12", Link.UP)
    room.field.waits.clear()
    await room.ask("direct", point=SETP, value=60)
    await until(lambda: room.field.count("operate"), "free again")


async def test_an_outcome_on_disk_that_was_never_said_is_said_after_the_restart(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.desk._answers, "_publish", lambda *_: None)  # as if killed before it was said
    monkeypatch.setattr(room.desk._answers, "said", lambda *_, **__: None)
    selected = room.request("select", point=HORN, value="on")
    await room.desk.request(selected)
    await room.quiet()
    session = room.desk._sessions.busy[HORN].session
    operate = room.request("operate", point=HORN, value="on", select_id=session.select_id)
    await room.desk.request(operate)
    await until(lambda: room.field.count("operate"), "the write")
    await room.quiet()
    await room.again()
    [said] = room.of(operate.tx)
    assert (said.reason, said.duplicate, said.restart) == (Reason.ACCEPTED_UNSUPERVISED, True, True)
    await room.quiet()
    await room.again()
    assert room.of(operate.tx) == []  # once is enough


async def test_an_outcome_that_the_broker_never_took_is_said_after_the_restart(room: Room) -> None:
    """Handed to the publisher is not told: a kill -9 takes along what had not left yet."""
    tx = await room.operated(await room.select())
    room.broker = False
    room.show(CB, "open")
    await room.end(tx)
    for _ in range(2):
        await room.quiet()
        await room.again()
        [said] = room.of(tx)
        assert (said.reason, said.effect, said.duplicate) == (Reason.OK, Effect.CONFIRMED, True)
    room.broker = True
    await room.again()
    await room.quiet()
    await room.again()
    assert room.of(tx) == []


async def test_nothing_is_sent_on_start_and_repeats_get_their_outcome(room: Room) -> None:
    tx = await room.operated(await room.select())
    room.show(CB, "open")
    done = await room.end(tx)
    await room.quiet()
    for _ in range(3):
        await room.again()
        assert room.field.calls == []
        assert room.answers == []
    request = room.request("operate", tx=tx, point=CB, value="open", select_id="0" * 32)
    await room.desk.request(request)
    await until(lambda: room.of(tx), "the stored outcome")
    [said] = room.of(tx)
    assert (said.duplicate, said.reason, said.effect) == (True, done.reason, done.effect)


async def test_start_stop_and_crash_are_on_record(room: Room) -> None:
    await room.again(crash=False)
    await room.again(crash=True)
    await room.again(crash=False)
    words = [one["what"] for one in await room.audit() if one["what"] in ("start", "stop", "crash")]
    assert words == ["start", "stop", "start", "crash", "start", "stop", "start"]


# --- stop -----------------------------------------------------------------------------------------------------------


@pytest.mark.case("F4")
async def test_f4_a_stop_in_each_state(room: Room) -> None:
    selected = await room.select(HORN, "on")
    room.field.replies["operate"] = Reply(Verdict.UNKNOWN)
    held = await room.operated(await room.select())
    room.field.replies.clear()
    supervised = await room.operated(await room.select(TAP, "raise"))  # its feedback has 120 s
    room.field.hold("operate")
    operating = await room.ask("direct", point=SETP, value=70)
    await until(lambda: room.field.count("operate") == 3, "the write")
    room.field.hold("select")
    selecting = await room.ask("select", point=BAY, value="open")
    await until(lambda: room.field.count("select"), "selecting")
    stopping = asyncio.create_task(room.stop())
    await until(lambda: room.desk._stopping, "stopping")
    refused = await room.done("select", "bob", point=HORN, value="on")
    assert (refused.reason, refused.effect) == (Reason.ABORTED_SHUTDOWN, Effect.NONE)
    began = room.mono
    await stopping
    assert room.mono - began <= 13e9
    for tx, reason, effect in (
        (selected.tx, Reason.ABORTED_SHUTDOWN, Effect.NONE),
        (selecting, Reason.ABORTED_SHUTDOWN, Effect.NONE),
        (held, Reason.UNKNOWN, Effect.POSSIBLE),
        (supervised, Reason.UNKNOWN, Effect.POSSIBLE),
        (operating, Reason.UNKNOWN, Effect.POSSIBLE),
    ):
        done = await room.end(tx)
        assert (done.reason, done.effect) == (reason, effect), tx
    assert room.field.count("cancel") == 1
    assert (await room.audit())[-1]["what"] == "stop"


async def test_a_stop_waits_for_what_is_under_way(room: Room) -> None:
    tx = await room.operated(await room.select())
    stopping = asyncio.create_task(room.desk.stop())
    await room.after(5)
    assert not stopping.done()
    room.show(CB, "open")
    await asyncio.wait_for(stopping, 10)
    assert (await room.end(tx)).reason is Reason.OK


async def test_a_stop_with_nothing_under_way_is_quick(room: Room) -> None:
    before = room.mono
    await asyncio.wait_for(room.desk.stop(), 10)
    assert room.mono == before


# --- the disk -------------------------------------------------------------------------------------------------------


class Disk:
    """A journal that refuses when it is told to."""

    def __init__(self, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        real: Callable[..., Any] = room.journal.submit

        def submit(job: Any, **more: Any) -> asyncio.Future[Any]:
            if not self.full:
                return real(job, **more)
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            future.set_exception(JournalError("the journal cannot write: disk full"))
            return future

        monkeypatch.setattr(room.journal, "submit", submit)


@pytest.fixture
def disk(room: Room, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(room, monkeypatch)


@pytest.mark.case("F9")
async def test_f9_a_select_that_cannot_be_journaled_is_refused(room: Room, disk: Disk) -> None:
    disk.full = True
    done = await room.select()
    assert (done.result, done.reason, done.effect) == (Result.DONE, Reason.INHIBITED, Effect.NONE)
    assert "disk full" in done.detail
    done = await room.select(TAP, "raise", "bob")  # the gate now, without trying
    assert (done.reason, "cannot be put on record" in done.detail) == (Reason.INHIBITED, True)
    assert room.desk.counters()["not_on_record"] == 1
    disk.full = False
    await room.after(1)
    assert (await room.select()).result is Result.SELECTED
    assert "audit-trouble" in [one["what"] for one in await room.audit()]
    assert room.desk.counters()["not_on_record"] == 0


@pytest.mark.case("F9")
@pytest.mark.parametrize("point", [CB, BAY])
async def test_f9_an_operate_is_never_sent_without_its_intent(room: Room, disk: Disk, point: str) -> None:
    selected = await room.select(point)
    disk.full = True
    tx = await room.operate(selected)
    done = await room.end(tx)
    assert (done.reason, done.effect) == (Reason.INHIBITED, Effect.NONE)
    await room.quiet()
    assert room.field.count("operate") == 0
    assert room.field.count("cancel") == (point == BAY)
    disk.full = False
    await room.after(1)
    await room.quiet()
    await room.again()
    assert room.answers == []  # its outcome was owed, and is on disk now


async def test_f9_an_outcome_that_cannot_be_journaled_is_said_and_owed(room: Room, disk: Disk) -> None:
    tx = await room.operated(await room.select())
    disk.full = True
    room.show(CB, "open")
    done = await room.end(tx)
    assert (done.reason, done.effect) == (Reason.OK, Effect.CONFIRMED)
    assert "not on record yet" in done.detail
    assert (await room.select(CB, "closed")).reason is Reason.INHIBITED
    await room.after(1)
    await room.after(1)
    disk.full = False
    await room.after(1)
    assert [event["reason"] for event in await room.events()] == ["ok"]
    assert "outcome" in await room.words(tx)
    await room.again()
    assert room.of(tx) == []


async def test_a_cancel_goes_on_though_the_disk_refuses(room: Room, disk: Disk) -> None:
    selected = await room.select(BAY)
    disk.full = True
    cancel = await room.done("cancel", select_id=selected.select_id)
    assert cancel.reason is Reason.CANCELLED
    assert room.field.verbs == ["select", "cancel"]


async def test_a_tag_that_cannot_be_kept_is_refused_and_does_not_hang(room: Room, disk: Disk) -> None:
    selected = await room.select()
    disk.full = True
    done = await room.done("tag", "bob", body={"set": "personal-lock", "on": "bay/F12"})
    assert (done.reason, done.tag) == (Reason.INHIBITED, "")
    assert room.desk.tags_of(CB) == []
    assert "personal-lock" not in str(room.tags)
    assert (await room.end(selected.tx)).reason is Reason.TAGGED  # for a moment it hung: that can only do good


async def test_a_journal_that_does_not_answer_ends_the_command_unsent(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    selected = await room.select()
    real, stuck = room.journal.submit, []

    def submit(job: Any, **more: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        stuck.append((future, job, more))
        return future

    monkeypatch.setattr(room.journal, "submit", submit)
    tx = await room.operate(selected)
    await asyncio.sleep(0)
    room.mono += 5 * 10**9
    room.desk.tick()
    monkeypatch.setattr(room.journal, "submit", real)
    for future, job, more in stuck:
        future.set_result(await real(job, **more))
    done = await room.end(tx)
    assert (done.reason, done.effect) == (Reason.INHIBITED, Effect.NONE)
    await room.quiet()
    assert room.field.calls == []
    await room.again()
    assert room.ends(tx) == []


async def test_a_desk_that_cannot_read_its_journal_refuses_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path)
    broken = [True]
    real_start = Desk.start

    async def start(desk: Desk) -> None:
        disk = Disk(room, monkeypatch)
        disk.full = broken[0]
        room.disk = disk  # type: ignore[attr-defined]
        await real_start(desk)

    monkeypatch.setattr(Desk, "start", start)
    await room.open()
    try:
        done = await room.select()
        assert (done.reason, "journal cannot be used" in done.detail) == (Reason.INHIBITED, True)
        room.disk.full = False  # type: ignore[attr-defined]
        await room.after(1)
        await until(lambda: room.desk._loaded, "read at last")
        assert (await room.select()).result is Result.SELECTED
    finally:
        await room.close(crash=True)


@pytest.mark.case("F10")
async def test_f10_a_row_that_cannot_be_read_is_unknown_too(room: Room) -> None:
    room.field.hold("operate")
    tx = await room.operate(await room.select())
    await until(lambda: room.field.count("operate"), "the write")
    await room.journal.submit(lambda db: db.execute("UPDATE requests SET body = x'ff'").rowcount)
    await room.again()
    done = await room.end(tx)
    assert (done.reason, done.effect, done.restart) == (Reason.UNKNOWN, Effect.POSSIBLE, True)


async def test_a_tx_that_only_the_disk_remembers_is_not_obeyed(room: Room) -> None:
    done = await room.done("cancel", tx="old", select_id="00")
    assert done.reason is Reason.NOT_SELECTED
    await room.quiet()
    room.desk._answers.seen._recorded.clear()
    await room.ask("select", tx="old", point=CB, value="open")
    await until(lambda: len(room.of("old")) == 2, "refused")
    assert (room.of("old")[1].reason, room.of("old")[1].effect) == (Reason.REPLAY, Effect.NONE)


def test_fail_points_are_where_the_documentation_says() -> None:
    names = {"control-after-select", "control-after-intent", "control-after-write", "control-before-outcome",
             "control-after-outcome", "control-after-restart"}  # fmt: skip
    source = "".join(path.read_text() for path in Path(failpoint.__file__).parent.glob("control/*.py"))
    assert {name for name in names if f'failpoint.here("{name}")' in source} == names
