import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gatewayd.store import highwater, inspect, startup
from gatewayd.store.gaps import Break
from gatewayd.store.journal import Journal, JournalError
from gatewayd.store.schema import FILE, VERSION
from tests.store.support import event, everything, gaps, numbers, opened


@contextmanager
def mounted(place: Path, size: str) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)  # also where a failed test left it open


def remount_read_only(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)


def aside_files(directory: Path) -> list[Path]:
    return list(directory.glob("journal-unreadable-*.db"))


async def crashed_copy(journal: Journal, to: Path) -> Path:
    """The directory as a kill -9 of an idle gateway would leave it: with its WAL, not closed."""
    shutil.copytree(journal.directory, to)
    return to


async def test_a_crash_loses_nothing_and_begins_no_epoch(tmp_path: Path) -> None:
    journal = opened(tmp_path / "a")
    await journal.append([event(n) for n in range(50)])
    copy = await crashed_copy(journal, tmp_path / "b")
    await journal.close()
    again = opened(copy)
    assert again.epoch == journal.epoch
    assert numbers(await everything(again)) == list(range(50))
    assert await again.append([event(50)]) == 51
    await again.close()


async def test_a_torn_tail_begins_an_epoch_and_tells_how_many_are_lost(tmp_path: Path) -> None:
    journal = opened(tmp_path / "a")
    for n in range(1, 10):
        await journal.append([event(n)])
    journal.mark_handed_over(5)
    await journal.append([event(10)])
    copy = await crashed_copy(journal, tmp_path / "b")
    await journal.close()
    wal = copy / (FILE + "-wal")
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size // 2)

    again = opened(copy)
    events = await everything(again)
    assert again.epoch != journal.epoch
    [gap] = gaps(events)
    found = gap["same_until"]
    assert 0 <= found < 10
    assert gap["lost"] == 10 - found
    assert gap["cause"] == "journal-torn"
    assert gap["previous_epoch"] == journal.epoch
    # what was not handed over comes again, under the numbers it had
    assert [e.seq for e in events] == list(range(again.handed_over + 1, found + 2))
    assert gap["seq"] == again.newest == found + 1
    await again.close()
    third = opened(copy)
    assert third.epoch == again.epoch
    assert len(gaps(await everything(third))) == 1
    await third.close()


async def test_a_flipped_byte_in_the_wal_is_never_silent(tmp_path: Path) -> None:
    journal = opened(tmp_path / "a")
    for n in range(1, 13):
        await journal.append([event(n)])
    copy = await crashed_copy(journal, tmp_path / "b")
    await journal.close()
    wal = copy / (FILE + "-wal")
    octets = bytearray(wal.read_bytes())
    octets[len(octets) * 3 // 4] ^= 0x40
    wal.write_bytes(octets)
    again = opened(copy)
    events = await everything(again)
    [gap] = gaps(events)
    kept = [n for n in numbers(events) if n is not None]
    assert kept == list(range(1, gap["same_until"] + 1))
    assert len(kept) + gap["lost"] == 12
    assert again.epoch != journal.epoch
    await again.close()


async def test_a_journal_restored_from_a_backup_begins_an_epoch(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    await journal.append([event(1)])
    await journal.close()
    backup = (tmp_path / FILE).read_bytes()
    journal = opened(tmp_path)
    await journal.append([event(2), event(3)])
    await journal.close()
    (tmp_path / FILE).write_bytes(backup)
    again = opened(tmp_path)
    assert again.epoch != journal.epoch
    [gap] = gaps(await everything(again))
    assert (gap["cause"], gap["same_until"], gap["lost"], gap["seq"]) == ("journal-torn", 1, 2, 2)
    await again.close()


@pytest.mark.parametrize("content", [None, b"", b"rubbish"])
async def test_without_a_high_water_mark_numbers_are_never_used_twice(tmp_path: Path, content: bytes | None) -> None:
    journal = opened(tmp_path)
    await journal.append([event(1)])
    await journal.close()
    mark = tmp_path / highwater.NAME
    mark.unlink() if content is None else mark.write_bytes(content)
    again = opened(tmp_path)
    assert again.epoch != journal.epoch
    assert [gap["cause"] for gap in gaps(await everything(again))] == ["journal-restored"]
    await again.close()


def test_a_torn_exact_line_falls_back_to_the_synced_floor(tmp_path: Path) -> None:
    mark = highwater.HighWater(tmp_path, "e", 70)
    mark.commit(90)
    assert highwater.read(tmp_path) == ("e", 90)
    file = tmp_path / highwater.NAME
    file.write_text(file.read_text()[:-3] + "xx\n")
    assert highwater.read(tmp_path) == ("e", 70)
    mark.reserve(70 + highwater.STEP)
    assert highwater.read(tmp_path) == ("e", 70)
    mark.reserve(70 + highwater.STEP + 1)
    file.write_text(file.read_text()[:-3] + "xx\n")
    assert highwater.read(tmp_path) == ("e", 90)
    mark.close()


def test_when_a_new_epoch_must_begin() -> None:
    def judge(mark: highwater.Mark | None, newest: int, *, had_mark: bool = True) -> Break | None:
        return startup.judge(mark, had_mark=had_mark, epoch="e", previous="d", newest=newest)

    assert judge(highwater.Mark("e", 5), 5) is None
    assert judge(highwater.Mark("e", 5), 6) is None
    assert judge(highwater.Mark("e", 6), 5) == Break("journal-torn", "e", 5, 1)
    assert judge(highwater.Mark("d", 900), 5) is None  # a crash while this epoch began
    assert judge(highwater.Mark("x", 1), 5) == Break("journal-restored", "e", 5, None)
    assert judge(None, 0, had_mark=False) is None
    assert judge(None, 5, had_mark=False) == Break("journal-restored", "e", 5, None)


async def test_a_lost_file_begins_an_epoch(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    await journal.append([event(1)])
    await journal.close()
    (tmp_path / FILE).unlink()
    again = opened(tmp_path)
    [gap] = gaps(await everything(again))
    assert (gap["cause"], gap["previous_epoch"], gap["seq"]) == ("journal-missing", journal.epoch, 1)
    await again.close()


@pytest.mark.parametrize("damage", ["rubbish", "truncated", "root-page", "hole"])
async def test_a_damaged_file_is_kept_aside_and_told_of(tmp_path: Path, damage: str) -> None:
    journal = opened(tmp_path)
    await journal.append([event(n, 200) for n in range(2000)])
    await journal.close()
    path = tmp_path / FILE
    octets = bytearray(path.read_bytes())
    if damage == "rubbish":
        path.write_bytes(b"\xff" * 5000)
    elif damage == "truncated":
        path.write_bytes(octets[: len(octets) // 2])
    elif damage == "root-page":
        octets[4096:8192] = b"\xee" * 4096
        path.write_bytes(octets)
    else:
        db = sqlite3.connect(path)
        db.execute("DELETE FROM events WHERE seq=1999")
        db.commit()
        db.close()
    before = path.read_bytes()
    again = opened(tmp_path)
    [aside] = aside_files(tmp_path)
    assert aside.read_bytes() == before
    assert again.epoch != journal.epoch
    [gap] = gaps(await everything(again))
    assert (gap["cause"], gap["previous_epoch"], gap["seq"]) == ("journal-unreadable", journal.epoch, 1)
    assert await again.append([event(1)]) == 2
    await again.close()
    third = opened(tmp_path)
    assert third.epoch == again.epoch
    await third.close()


@pytest.mark.parametrize("seq", [1, 700, 2000])
async def test_an_event_the_disk_has_changed_is_a_gap_record_under_its_number(tmp_path: Path, seq: int) -> None:
    journal = opened(tmp_path)
    await journal.append([event(n, 200) for n in range(1, 2001)])
    await journal.close()
    path = tmp_path / FILE
    octets = path.read_bytes()
    mine = event(seq, 200).payload
    at = octets.index(mine) + mine.index(b'"n": ') + 5  # one bit of its number: still sound JSON, still a sound page
    path.write_bytes(octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :])
    again = opened(tmp_path)
    assert again.epoch == journal.epoch
    events = await everything(again)
    assert [e.seq for e in events] == list(range(1, 2001))
    [gap] = gaps(events)
    assert (gap["seq"], gap["cause"], gap["lost"]) == (seq, "journal-record-damaged", 1)
    assert numbers(events) == [None if n == seq else n for n in range(1, 2001)]
    assert inspect.verify(tmp_path) == [f"{path}: event {seq} is not what was written: its checksum is another"]
    await again.close()


async def test_damage_noticed_while_running_is_looked_for_at_the_next_start(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for start in range(0, 20_000, 2000):
        await journal.append([event(n, 200) for n in range(start, start + 2000)])
    await journal.close()
    path = tmp_path / FILE
    octets = bytearray(path.read_bytes())
    middle = len(octets) // 8192 * 4096
    octets[middle : middle + 4096] = b"\xee" * 4096
    path.write_bytes(octets)
    assert inspect.verify(tmp_path) != []
    again = opened(tmp_path)  # the bounded check does not see the middle
    assert again.epoch == journal.epoch
    with pytest.raises(JournalError, match="cannot be read from event"):
        await everything(again)
    await again.close()
    third = opened(tmp_path)
    assert third.epoch != journal.epoch
    assert len(aside_files(tmp_path)) == 1
    await third.close()


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("PRAGMA user_version = 7", f"schema version 7.*version {VERSION}"),
        ("PRAGMA application_id = 5", "another program"),
    ],
)
async def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path: Path, statement: str, text: str) -> None:
    await opened(tmp_path).close()
    db = sqlite3.connect(tmp_path / FILE)
    db.execute(statement)
    db.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(JournalError, match=text):
        opened(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    if "version" in statement:
        with pytest.raises(JournalError, match="schema version 7"):
            inspect.info(tmp_path)


async def test_a_read_only_place_is_a_clear_error(tmp_path: Path) -> None:
    with mounted(tmp_path / "ro", "4m") as place:
        journal = opened(place)
        await journal.append([event(1)])
        await journal.close()
        remount_read_only(place)
        with pytest.raises(JournalError, match=r"Read-only file system.*must be able to write"):
            opened(place)
        assert inspect.verify(place) == []
        assert list(map(inspect.line, inspect.events(place, inspect.Range()))) == [b'{"seq":1,' + event(1).payload[1:]]


async def test_a_start_cut_off_before_the_tables_were_made_is_made_good(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    journal = opened(tmp_path)
    assert await journal.append([event(1)]) == 1
    assert gaps(await everything(journal)) == []
    await journal.close()


async def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("x")
    with pytest.raises(JournalError, match="state"):
        opened(tmp_path / "state")


def test_unsound_limits_are_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="max_size is 1000 octets; at least 1048576"):
        opened(tmp_path, max_bytes=1000)
    with pytest.raises(JournalError, match="more than 0"):
        opened(tmp_path, keep_s=0)


async def test_an_unreadable_stored_value_is_left_out(tmp_path: Path) -> None:
    await opened(tmp_path).close()
    db = sqlite3.connect(tmp_path / FILE)
    db.execute("INSERT INTO image VALUES('A', x'c1', 0, 0, 0)")
    db.commit()
    db.close()
    journal = opened(tmp_path)
    assert journal.image() == {}
    await journal.close()


def test_of_many_unreadable_journals_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / "journal.db").write_text(f"spoilt {number}")
        aside = startup.move_aside(tmp_path, number * 1_000_000_000)
        os.utime(aside, (number, number))
    kept = sorted(path.read_text() for path in aside_files(tmp_path))
    assert kept == [f"spoilt {number}" for number in range(3, 8)]
