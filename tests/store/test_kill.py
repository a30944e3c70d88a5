"""kill -9 of a writing process: everything it was told is on disk is there, and no number is used twice."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gatewayd import failpoint
from gatewayd.store import inspect
from tests.store.support import everything, gaps, numbers, opened

WRITER = """
import asyncio, sys
from pathlib import Path
from gatewayd.store.journal import ImageRow
from tests.store.support import event, opened

async def main():
    journal = opened(Path(sys.argv[1]), max_bytes=4 << 20)
    n = max(journal.newest, 0)
    async def one(first, count):
        seq = await journal.append([event(first + m, 100) for m in range(count)], [ImageRow("P", first, 0, 0, 0)])
        print(first, count, seq, flush=True)
        journal.mark_handed_over(seq - 2000)
    while True:
        calls = []
        for count in (1, 3, 10):
            calls.append(one(n, count))
            n += count
        await asyncio.gather(*calls)

asyncio.run(main())
"""


def started(directory: Path, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )


def acknowledged(out: str) -> list[tuple[int, int, int]]:
    lines = [line.split() for line in out.splitlines(keepends=True) if line.endswith("\n")]
    return [(int(first), int(count), int(seq)) for first, count, seq in lines]


async def check(directory: Path, told: dict[int, int]) -> None:
    """Every acknowledged event that is not yet trimmed is there under its number."""
    assert inspect.verify(directory) == []
    journal = opened(directory, max_bytes=4 << 20)
    events = await everything(journal)
    assert gaps(events) == []
    assert [e.seq for e in events] == list(range(journal.oldest, journal.newest + 1))
    assert journal.oldest <= journal.handed_over + 1
    stored = {e.seq: n for e, n in zip(events, numbers(events), strict=True)}
    assert max(told, default=0) <= journal.newest
    assert {seq: n for seq, n in told.items() if seq >= journal.oldest}.items() <= stored.items()
    assert journal.image().get("P") is not None or not events
    await journal.close()


async def test_kill_9_at_random_loses_nothing_acknowledged(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    told: dict[int, int] = {}
    epochs = set()
    for _ in range(20):
        process = started(tmp_path)
        assert process.stdout is not None
        head = process.stdout.readline()
        await asyncio.sleep(chance.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        out = head + process.communicate()[0]
        for first, count, seq in acknowledged(out):
            for m in range(count):
                number = seq - count + 1 + m
                assert told.setdefault(number, first + m) == first + m, "a number was used twice"
        await check(tmp_path, told)
        epochs.add(inspect.info(tmp_path).epoch)
    assert len(epochs) == 1
    assert len(told) > 1000


@pytest.mark.parametrize("point", ["journal-before-commit", "journal-after-commit"])
@pytest.mark.parametrize("passes", [1, 7])
async def test_kill_9_at_a_fail_point(tmp_path: Path, point: str, passes: int) -> None:
    process = started(tmp_path, **{failpoint.VARIABLE: f"{point}:{passes}"})
    out, _ = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    told = {seq - count + 1 + m: first + m for first, count, seq in acknowledged(out) for m in range(count)}
    await check(tmp_path, told)
    newest = inspect.info(tmp_path).newest
    assert isinstance(newest, int)
    if point == "journal-after-commit":
        assert newest > max(told, default=0)  # committed, not told: it comes again from the device
    else:
        assert newest == max(told, default=0)
