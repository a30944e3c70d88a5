import asyncio
import time
from pathlib import Path

import pytest

from gatewayd.store import writer
from gatewayd.store.journal import Journal, JournalError, WhenFull
from tests.store.support import event, everything, gaps, numbers, opened, until
from tests.store.test_recovery import mounted

MIB = 1024 * 1024


async def fill(journal: Journal, count: int = 100) -> list[asyncio.Future[int]]:
    """Append until the journal holds events back; returns the futures that wait."""
    n = 0
    while True:
        futures = [journal.append([event(n * count + m, 400) for m in range(count)])]
        n += 1
        done, _ = await asyncio.wait(futures, timeout=3.0)
        if not done:
            return futures
        assert n < 1000, "never full"


async def test_block_holds_events_serves_commands_and_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "HELD_S", 0.0)
    journal = opened(tmp_path, max_bytes=2 * MIB)
    held = await fill(journal)
    held += [journal.append([event(n)]) for n in (10_001, 10_002)]
    assert journal.full
    assert not journal.writable
    assert await journal.submit(
        lambda db: db.execute("CREATE TABLE audit(x)").rowcount, events=[event(-1, kind="control")]
    )
    before = journal.newest
    journal.mark_handed_over(before)
    await asyncio.wait_for(journal.wait_writable(), 10)
    assert await asyncio.gather(*held) == [before + 1 + 100, before + 102, before + 103]
    events = await everything(journal)
    [gap] = gaps(events)
    assert (gap["cause"], gap["seq"]) == ("journal-full", before + 1)
    assert numbers(events)[-2:] == [10_001, 10_002]
    assert [e.seq for e in events] == list(range(journal.oldest, journal.newest + 1))
    assert journal.oldest > 1
    await journal.close()


async def test_a_hold_goes_on_over_a_restart_and_makes_one_record(tmp_path: Path) -> None:
    journal = opened(tmp_path, max_bytes=2 * MIB)
    [held] = await fill(journal)
    await until(lambda: journal.counters()["waiting_appends"] == 1, "held")
    await journal.close()
    with pytest.raises(JournalError):
        await held
    again = opened(tmp_path, max_bytes=2 * MIB)
    waiting = again.append([event(1)])
    await until(lambda: again.full, "full again")
    again.mark_handed_over(again.newest)
    await asyncio.wait_for(waiting, 10)
    assert [gap["cause"] for gap in gaps(await everything(again))] == ["journal-full"]
    await again.close()


async def test_a_withdrawn_append_is_never_written(tmp_path: Path) -> None:
    journal = opened(tmp_path, max_bytes=2 * MIB)
    [held] = await fill(journal)
    held.cancel()
    last = journal.append([event(77_777)])
    journal.mark_handed_over(journal.newest)
    await asyncio.wait_for(last, 10)
    kept = [n for n in numbers(await everything(journal)) if n is not None]
    assert kept[-1] == 77_777
    assert kept[-2] % 100 == 99
    assert kept[-2] + 1 == kept[-2] // 100 * 100 + 100
    assert len(kept) == len(set(kept))
    await journal.close()


async def test_drop_oldest_names_exactly_what_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "HELD_S", 0.0)
    journal = opened(tmp_path, max_bytes=2 * MIB, when_full=WhenFull.DROP_OLDEST)
    await journal.append([event(n, 400) for n in range(100)])
    journal.mark_handed_over(40)
    for n in range(100, 12_000, 100):
        await asyncio.wait_for(journal.append([event(n + m, 400) for m in range(100)]), 10)
    assert journal.oldest > 100
    assert gaps(await everything(journal)) == []  # the episode goes on
    oldest, newest = journal.oldest, journal.newest
    [first] = await journal.read(journal.handed_over + 1, 1, 1 << 20)
    assert first.seq == oldest
    journal.mark_handed_over(newest)
    await until(lambda: journal.newest > newest, "the record is written")
    [gap] = gaps(await everything(journal))
    assert (gap["cause"], gap["first_seq"], gap["last_seq"]) == ("journal-dropped-oldest", 41, oldest - 1)
    assert gap["lost"] == oldest - 41 == journal.counters()["dropped"]
    await journal.close()


async def test_age_trims_what_was_handed_over_and_nothing_else(tmp_path: Path) -> None:
    now = [1_000_000_000]
    journal = opened(tmp_path, keep_s=10, now_ns=lambda: now[0])
    await journal.append([event(n) for n in range(1000)])
    now[0] += 20 * 10**9
    await journal.append([event(n) for n in range(1000, 2000)])
    journal.mark_handed_over(700)
    await until(lambda: journal.oldest == 701, "handed-over events are trimmed")
    journal.hold_back(901)
    journal.mark_handed_over(2000)
    await until(lambda: journal.oldest == 901, "up to what a consumer holds")
    journal.hold_back(None)
    await until(lambda: journal.oldest == 1001, "the rest of what is too old")
    now[0] += 20 * 10**9
    await until(lambda: journal.oldest == 2000, "all but the newest, which carries the number")
    await journal.close()
    again = opened(tmp_path)
    assert await again.append([event(1)]) == 2001
    await again.close()


async def test_size_trims_what_was_handed_over_and_never_blocks(tmp_path: Path) -> None:
    journal = opened(tmp_path, max_bytes=2 * MIB)
    for n in range(0, 20_000, 100):
        journal.mark_handed_over(await asyncio.wait_for(journal.append([event(n + m, 400) for m in range(100)]), 10))
    assert journal.oldest > 10_000
    assert gaps(await everything(journal)) == []
    assert (tmp_path / "journal.db").stat().st_size <= 2 * MIB
    await journal.close()


async def test_a_full_disk_holds_events_serves_commands_and_heals(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "8m") as place:
        journal = opened(place / "state", max_bytes=512 * MIB)
        await journal.submit(lambda db: db.execute("CREATE TABLE audit(x)"))
        other = place / "other"
        with other.open("wb", buffering=0) as file:
            room = 3 * MIB
            while room > 0:
                room -= file.write(b"x" * min(room, 65536))
        [held] = await fill(journal)
        assert "full" in journal.broken
        before = journal.newest
        for n in range(5):  # from the reserve
            await asyncio.wait_for(journal.submit(lambda db, n=n: db.execute("INSERT INTO audit VALUES(?)", (n,))), 5)
        assert not held.done()
        other.unlink()
        await asyncio.wait_for(held, 10)
        await until(lambda: journal.writable, "healed")
        events = await everything(journal)
        assert [gap["cause"] for gap in gaps(events)] == ["journal-disk-full"]
        assert [e.seq for e in events] == list(range(1, before + 102))
        await journal.close()
        again = opened(place / "state", max_bytes=512 * MIB)
        assert again.epoch == journal.epoch
        assert len(await everything(again)) == len(events)
        assert await again.submit(lambda db: db.execute("SELECT count(*) FROM audit").fetchone()[0]) == 5
        await again.close()


async def test_a_disk_the_journal_filled_itself_heals_when_events_are_handed_over(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "8m") as place:
        journal = opened(place / "state", max_bytes=512 * MIB)
        [held] = await fill(journal)
        assert not journal.writable
        journal.mark_handed_over(journal.newest)
        await asyncio.wait_for(held, 10)
        await journal.close()


async def test_commands_fail_at_once_when_the_disk_takes_nothing(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    await journal.append([event(1)])
    pages = await journal.submit(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    await journal.submit(lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    [held] = await fill(journal, 20)
    assert journal.broken
    started = time.monotonic()
    with pytest.raises(JournalError, match="cannot write"):
        await journal.submit(lambda db: db.execute("CREATE TABLE audit(x)"))
    assert time.monotonic() - started < 1.0
    assert not held.done()
    assert journal.counters()["write_errors"] > 0
    # reading goes on meanwhile; a job that needs no new page is taken; then the limit goes away
    assert len(await everything(journal)) == journal.newest
    await journal.submit(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
    await asyncio.wait_for(held, 10)
    await until(lambda: journal.writable, "healed")
    await journal.close()
