import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gatewayd.points.types import Cursor
from gatewayd.store import inspect
from gatewayd.store.journal import ImageRow, JournalError, NewEvent
from tests.store.support import event, everything, numbers, opened, until


async def test_numbers_have_no_gaps_and_follow_the_order_of_the_calls(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    futures = [journal.append([event(n), event(n + 1)]) for n in range(0, 200, 2)]
    assert [await future for future in futures] == list(range(2, 201, 2))
    events = await everything(journal)
    assert [e.seq for e in events] == list(range(1, 201))
    assert numbers(events) == list(range(200))
    assert (journal.oldest, journal.newest) == (1, 200)
    await journal.close()


async def test_epoch_numbers_image_and_cursors_outlive_a_restart(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    rows = [
        ImageRow("A", True, 3, 0x81, 5),
        ImageRow("B", 1.5, 0, 0, 6),
        ImageRow("C", None, 2, 0, 7),
        ImageRow("D", "x", 0, 0, 8),
    ]
    await journal.append([event(1)], rows, ("BAY1", Cursor("LLN0.BR.brcb01", b"\0\1")))
    await journal.append([event(2)], [ImageRow("A", False, 0, 1, 9)], ("BAY1", Cursor("LLN0.BR.brcb01", b"\0\2")))
    journal.mark_handed_over(1)
    epoch = journal.epoch
    await journal.close()

    journal = opened(tmp_path)
    assert (journal.epoch, journal.newest, journal.handed_over) == (epoch, 2, 1)
    assert journal.image() == {row.point: row for row in [ImageRow("A", False, 0, 1, 9), *rows[1:]]}
    assert journal.cursors("BAY1") == {"LLN0.BR.brcb01": Cursor("LLN0.BR.brcb01", b"\0\2")}
    assert journal.cursors("BAY2") == {}
    assert await journal.append([event(3)]) == 3
    assert numbers(await everything(journal)) == [1, 2, 3]
    await journal.close()


async def test_what_is_acknowledged_can_be_read_by_another_connection(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    seq = await journal.append([event(7)])
    with sqlite3.connect(tmp_path / "journal.db") as other:
        assert other.execute("SELECT seq FROM events").fetchall() == [(seq,)]
    other.close()
    await journal.close()


async def test_replay_ranges(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for start in range(0, 12_000, 1000):  # more than memory keeps
        await journal.append([event(n) for n in range(start, start + 1000)])
    assert [e.seq for e in await journal.read(1, 5, 1 << 20)] == [1, 2, 3, 4, 5]
    assert [e.seq for e in await journal.read(-10, 2, 1 << 20)] == [1, 2]
    assert [e.seq for e in await journal.read(11_999, 5, 1 << 20)] == [11_999, 12_000]
    assert await journal.read(12_001, 5, 1 << 20) == []
    assert await journal.read(1 << 70, 5, 1 << 20) == []
    assert len(await journal.read(1, 5, 1)) == 1
    assert len(await journal.read(12_000 - 50, 50, 200)) < 10
    assert numbers(await everything(journal)) == list(range(12_000))
    await journal.close()


async def test_one_failing_job_takes_no_other_along(tmp_path: Path) -> None:
    journal = opened(tmp_path)

    def make(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE intents(tx TEXT PRIMARY KEY)")

    def put(tx: str, *, fail: bool = False) -> str:
        def job(db: sqlite3.Connection) -> str:
            db.execute("INSERT INTO intents VALUES(?)", (tx,))
            if fail:
                raise ValueError(tx)
            return tx

        return journal.submit(job, events=[event(ord(tx), kind="control")])

    await journal.submit(make)
    answers = await asyncio.gather(
        journal.append([event(1)]), put("a"), put("b", fail=True), put("c"), journal.append([event(2)]),
        return_exceptions=True,
    )  # fmt: skip
    assert answers[1] == "a"
    assert isinstance(answers[2], ValueError)
    assert answers[3] == "c"
    assert await journal.submit(lambda db: db.execute("SELECT tx FROM intents ORDER BY tx").fetchall()) == [
        ("a",),
        ("c",),
    ]
    events = await everything(journal)
    assert [e.seq for e in events] == [1, 2, 3, 4]
    assert sorted(numbers(events)) == [1, 2, ord("a"), ord("c")]
    await journal.close()


async def test_a_call_that_cannot_be_stored_fails_alone_and_in_order(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    first = journal.append([event(1)])
    bad = journal.append([NewEvent("point", "FDR12", b"{}", 1 << 70)])
    later = [journal.append([event(n)]) for n in (2, 3, 4)]
    job = journal.submit(lambda _: "done")
    with pytest.raises(JournalError, match="cannot be stored"):
        await bad
    assert await asyncio.gather(first, *later) == [1, 2, 3, 4]
    assert await job == "done"
    assert numbers(await everything(journal)) == [1, 2, 3, 4]
    await journal.close()


async def test_subscribers_hear_of_each_commit_with_events(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    heard: list[int] = []
    journal.subscribe(heard.append)
    await journal.append([event(1), event(2)])
    await journal.submit(lambda _: None)
    await journal.append([event(3)])
    assert heard == [2, 3]
    await journal.close()


async def test_the_hand_over_mark_never_goes_back_nor_beyond(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    await journal.append([event(n) for n in range(10)])
    journal.mark_handed_over(5)
    journal.mark_handed_over(3)
    assert journal.handed_over == 5
    journal.mark_handed_over(1 << 80)
    assert journal.handed_over == 10
    await until(lambda: inspect.info(tmp_path).handed_over == 10, "stored within a second or so", 5)
    await journal.close()


async def test_after_close_everything_is_refused(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    waiting = journal.append([event(1)])
    await journal.close()
    assert await waiting == 1
    with pytest.raises(JournalError, match="closed"):
        await journal.append([event(2)])
    with pytest.raises(JournalError, match="closed"):
        await journal.submit(lambda _: None)


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    with pytest.raises(JournalError, match="in use by another gatewayd"):
        opened(tmp_path)
    await journal.close()


async def test_a_journal_that_is_being_written_is_not_short_of_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that are committed while verify reads are behind its view, and not missing."""
    journal = opened(tmp_path)
    await journal.append([event(n) for n in range(10)])
    loop, walk = asyncio.get_running_loop(), inspect._walk

    async def more() -> None:
        await journal.append([event(10)])

    def walked(*given: Any) -> int:
        newest = walk(*given)
        asyncio.run_coroutine_threadsafe(more(), loop).result()
        return newest

    monkeypatch.setattr(inspect, "_walk", walked)
    assert await asyncio.to_thread(inspect.verify, tmp_path) == []
    assert journal.newest == 11
    await journal.close()


async def test_looking_at_a_live_and_at_a_closed_journal(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    await journal.append([event(n) for n in range(5000)], [ImageRow("A", 1, 0, 0, 0)])
    for _ in range(2):
        assert inspect.verify(tmp_path) == []
        info = inspect.info(tmp_path)
        assert (info.oldest, info.newest, info.points, info.epoch) == (1, 5000, 1, journal.epoch)
        lines = [json.loads(line) for line in map(inspect.line, inspect.events(tmp_path, inspect.Range(10, 4500)))]
        assert [line["seq"] for line in lines] == list(range(10, 4501))
        assert lines[0] == {"seq": 10, "point": "FDR12/CB/POS", "n": 9}
        await journal.close()
    with pytest.raises(JournalError, match="there is no journal"):
        inspect.info(tmp_path / "elsewhere")
