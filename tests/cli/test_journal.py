"""`gatewayd journal` as an engineer uses it: on a live journal, a closed one, and every kind of damaged one."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gatewayd.store import highwater
from gatewayd.store.consumers import Consumers
from gatewayd.store.journal import Journal
from gatewayd.store.schema import FILE, VERSION
from tests.cli.test_commands import gatewayd
from tests.store.support import event, opened
from tests.store.test_recovery import mounted, remount_read_only

Run = Callable[..., tuple[int, str, str]]
COUNT = 3000


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    def one(*words: object) -> tuple[int, str, str]:
        status = gatewayd(monkeypatch, "journal", *words)
        said = capfdbinary.readouterr()
        return status, said.out.decode(), said.err.decode()

    return one


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "p.csv").write_text("point,kind,address\nM/A,analog,HR:0:u16\n")
    path = tmp_path / "gatewayd.toml"
    path.write_text(
        '[gateway]\nname = "x"\nstate_dir = "state"\n[[device]]\nname = "M"\nprotocol = "modbus"\nhost = "127.0.0.1"\n'
        'points = "p.csv"\n[device.modbus]\nunit = 1\n'
    )
    return path


def written(directory: Path, count: int = COUNT) -> Path:
    """A closed journal with events 1 to `count`, all but ten handed over."""

    async def write() -> None:
        journal = opened(directory)
        await journal.append([event(n, 200) for n in range(1, count + 1)])
        journal.mark_handed_over(count - 10)
        await journal.close()

    asyncio.run(write())
    return directory / FILE


def numbers(text: str) -> list[int]:
    return [json.loads(line)["seq"] for line in text.splitlines()]


# --- as it should be ------------------------------------------------------------------------------------------------


def test_info_says_where_a_closed_journal_stands(run: Run, config: Path) -> None:
    written(config.parent / "state")
    status, out, _ = run("info", "-c", config)
    assert status == 0
    assert "events       1 to 3000, recorded 20" in out
    assert "up to 2990; 10 wait for the broker" in out
    assert "3000, as it should be" in out
    assert "no gatewayd has it open" in out
    status, out, _ = run("info", "-c", config, "--json")
    body = json.loads(out)
    assert (status, body["oldest"], body["newest"], body["handed_over"], body["in_use"]) == (0, 1, 3000, 2990, False)
    assert body["high_water"] == [body["epoch"], 3000]


async def test_a_live_journal_is_looked_at_and_goes_on(run: Run, config: Path) -> None:
    journal = opened(config.parent / "state")
    consumers = Consumers(journal, ["historian"])
    await consumers.start()
    saving = asyncio.create_task(consumers.run())
    await journal.append([event(n) for n in range(1, 101)])
    consumers.acknowledge("historian", journal.epoch, 40)
    try:
        for _ in range(200):
            status, out, _ = await asyncio.to_thread(run, "info", "-c", config)
            if "historian" in out:
                break
            await asyncio.sleep(0.01)
        assert status == 0
        assert "in use by a gatewayd" in out
        assert "consumer historian  has stored up to 40, 60 behind" in out
        status, out, _ = await asyncio.to_thread(run, "verify", "-c", config)
        assert (status, "nothing is wrong" in out) == (0, True)
        status, out, _ = await asyncio.to_thread(run, "export", "-c", config, "--from", 90)
        assert (status, numbers(out)) == (0, list(range(90, 101)))
        assert await journal.append([event(101)]) == 101
    finally:
        saving.cancel()
        await journal.close()


def test_export_by_number_says_what_is_missing(run: Run, config: Path) -> None:
    written(config.parent / "state")
    status, out, err = run("export", "-c", config)
    assert (status, err) == (0, "")
    assert numbers(out) == list(range(1, COUNT + 1))
    assert json.loads(out.splitlines()[0])["point"] == "FDR12/CB/POS"
    status, out, err = run("export", "-c", config, "--from", 2999, "--to", 3002)
    assert (status, numbers(out)) == (1, [2999, 3000])
    assert "events 3001 to 3002 are not there" in err


async def test_export_by_time_takes_the_time_of_recording(run: Run, tmp_path: Path) -> None:
    now = [1_700_000_000_000_000_000]
    journal = Journal.open(tmp_path, keep_s=1e9, max_bytes=1 << 26, when_full="block", now_ns=lambda: now[0])  # type: ignore[arg-type]
    for n in range(5):
        await journal.append([event(n)])
        now[0] += 1_000_000_000
    await journal.close()
    words = ("export", "--file", tmp_path, "--since", "2023-11-14T22:13:21Z", "--until", "2023-11-14T23:13:23+01:00")
    status, out, err = await asyncio.to_thread(run, *words)
    assert (status, numbers(out), err) == (0, [2, 3, 4], "")


@pytest.mark.parametrize(
    "words", [("--from", "5", "--to", "4"), ("--since", "yesterday"), ("--from", "0"), ("--from", "many")]
)
def test_a_range_that_is_none_is_not_understood(run: Run, config: Path, words: tuple[str, ...]) -> None:
    status, out, err = run("export", "-c", config, *words)
    assert (status, out) == (64, "")
    assert "Error: " in err


# --- not there, not ours, out of reach ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["info", "verify", "export"])
def test_no_journal_and_no_configuration(run: Run, config: Path, command: str) -> None:
    status, out, err = run(command, "-c", config)
    assert (status, out) == (2, "")
    assert f"{config.parent / 'state'} does not exist: there is no journal" in err
    status, _, err = run(command, "-c", config.parent / "elsewhere.toml")
    assert status == 2
    assert "elsewhere.toml:1:1: cannot be read" in err


@pytest.mark.parametrize("command", ["info", "verify", "export"])
@pytest.mark.parametrize(
    ("pragma", "text"),
    [
        ("user_version = 7", f"schema version 7; this gatewayd reads version {VERSION}"),
        ("application_id = 5", "another program"),
    ],
)
def test_another_version_and_another_programs_file(
    run: Run, tmp_path: Path, command: str, pragma: str, text: str
) -> None:
    path = written(tmp_path, 5)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA {pragma}")
    db.close()
    before = path.read_bytes()
    status, out, err = run(command, "--file", path)
    assert (status, out) == (2, "")
    assert text in err
    assert path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="root only can become somebody who may not read it")
def test_somebody_who_may_not_read_it_is_told_who_may(run: Run, tmp_path: Path) -> None:
    path = written(tmp_path, 5)
    path.chmod(0o600)
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        status, _, err = run("info", "--file", path)
    finally:
        os.seteuid(0)
    assert status == 2
    assert "Permission denied; be the user gatewayd runs as" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
async def test_a_read_only_disk_shows_everything_or_says_what_it_cannot_show(run: Run, tmp_path: Path) -> None:
    with mounted(tmp_path / "ro", "8m") as place:
        journal = opened(place / "closed")
        await journal.append([event(n) for n in range(1, 6)])
        await journal.close()
        crashed = opened(place / "live")
        await crashed.append([event(n) for n in range(1, 6)])
        (place / "crashed").mkdir()
        for name in (FILE, FILE + "-wal", highwater.NAME):  # as a kill -9 leaves it
            (place / "crashed" / name).write_bytes((place / "live" / name).read_bytes())
        await crashed.close()
        remount_read_only(place)
        status, out, _ = await asyncio.to_thread(run, "export", "--file", place / "closed")
        assert (status, numbers(out)) == (0, [1, 2, 3, 4, 5])
        status, out, err = await asyncio.to_thread(run, "verify", "--file", place / "crashed")
        assert (status, out) == (2, "")
        assert "the newest events are in journal.db-wal" in err
        assert "copy journal.db and journal.db-wal together" in err


def test_a_full_disk_is_said_once_and_is_no_success(config: Path) -> None:
    written(config.parent / "state")
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        words = [sys.executable, "-m", "gatewayd", "journal", "export", "-c", str(config)]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("the events cannot be written: No space left on device")
    assert len(done.stderr.splitlines()) == 1


# --- damaged --------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path, at: int, times: int = 1) -> None:
    octets = bytearray(path.read_bytes())
    octets[at : at + times] = bytes(octet ^ 0x40 for octet in octets[at : at + times])
    path.write_bytes(octets)


def change(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (cut, "malformed"),
    "empty": (lambda path: path.write_bytes(b"") and None, "is empty"),
    "rubbish": (lambda path: path.write_bytes(b"\xff" * 9000) and None, "not as an SQLite file does"),
    "the first page": (lambda path: flip(path, 0, 100), "not as an SQLite file does"),
    "a page of the tree": (lambda path: flip(path, path.stat().st_size // 8192 * 4096, 4096), "damaged"),
    "a bit of an event": (lambda path: flip(path, path.read_bytes().index(b'"n": 1234')), "event 1234 is not what"),
    "a hole": (lambda path: change(path, "DELETE FROM events WHERE seq = 1500"), "events 1500 to 1500 are missing"),
    "the newest gone": (lambda path: change(path, "DELETE FROM events WHERE seq > 2900"), "events 2901 to 3000"),
    "the high-water file": (lambda path: (path.parent / highwater.NAME).write_text("x") and None, "begins a new epoch"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_names_every_damage(run: Run, tmp_path: Path, damage: str) -> None:
    path = written(tmp_path)
    assert run("verify", "--file", tmp_path)[0] == 0
    do, text = DAMAGES[damage]
    do(path)
    before = path.read_bytes()
    status, out, _ = run("verify", "--file", tmp_path)
    assert status == 1
    assert text in out
    status, out, _ = run("verify", "--file", tmp_path, "--json")
    body = json.loads(out)
    assert (status, body["ok"]) == (1, False)
    assert any(text in line for line in body["wrong"])
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "a page of the tree", "rubbish", "a hole"])
def test_export_of_a_damaged_file_gives_what_is_sound_and_says_where_it_ends(
    run: Run, tmp_path: Path, damage: str
) -> None:
    path = written(tmp_path)
    DAMAGES[damage][0](path)
    status, out, err = run("export", "--file", path)
    found = numbers(out)
    assert found == sorted(set(found))
    if damage in ("rubbish", "truncated"):  # SQLite reads nothing of a file that is shorter than it says
        assert (status, found) == (2, [])
        assert "damaged" in err or "not as an SQLite file does" in err
    else:
        assert status == 1
        assert 1000 < len(found) < COUNT
        assert "from event" in err or "event 1500 is not there" in err
