"""What the journal costs: `python -m benchmarks.journal [DIRECTORY]` prints throughput, latency and start-up time.

Figures, no verdict. 200-octet events, each with its image row; `busy` has a loop thread that is never idle.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from gatewayd.store import inspect
from gatewayd.store.highwater import NAME, HighWater
from gatewayd.store.journal import ImageRow, Journal, NewEvent, WhenFull
from gatewayd.store.schema import FILE, checksum, connect

PAD = b'{"point":"FDR12/CB/POS","value":"open","quality":"good","t":"2026-11-24T01:02:03.004Z","t_src":"device","pad":"'
EVENT = NewEvent("point", "FDR12", PAD + b"x" * (198 - len(PAD)) + b'"}', 1_700_000_000_000_000_000)
ROWS = [ImageRow(f"FDR12/P{n}", n, 0, 0, 0) for n in range(1000)]


def opened(directory: Path) -> Journal:
    return Journal.open(directory, keep_s=7 * 86400, max_bytes=8 << 30, when_full=WhenFull.BLOCK)


def quantiles(latencies: list[float]) -> str:
    latencies.sort()
    at = [latencies[min(int(len(latencies) * share), len(latencies) - 1)] * 1e3 for share in (0.5, 0.99, 1)]
    return "p50 {:.2f} p99 {:.2f} max {:.2f} ms".format(*at)


def written() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes"):
            return int(line.split()[1])
    return 0


async def flood(directory: Path, batch: int, callers: int, total: int, *, busy: bool = False) -> None:
    journal = opened(directory)
    latencies: list[float] = []
    left = total // batch

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            start = time.perf_counter()
            await journal.append([EVENT] * batch, ROWS[: min(batch, 1000)])
            latencies.append(time.perf_counter() - start)

    async def spin() -> None:
        while left > 0:
            end = time.perf_counter() + 0.002
            while time.perf_counter() < end:
                pass
            await asyncio.sleep(0)

    before, start, cpu = written(), time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)), *([spin()] if busy else []))
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    commits = journal.counters()["commits"]
    name = f"flood {callers:3} callers x {batch:4}{' busy' if busy else ''}"
    print(
        f"{name}: {total / took:9,.0f} events/s  {quantiles(latencies)}  "
        f"{total / commits:7.1f} events/commit  {(written() - before) / total:6.0f} octets/event  "
        f"{cpu / total * 1e6:.1f} us CPU/event"
    )
    await journal.close()


async def paced(directory: Path, rate: int, seconds: float = 5) -> None:
    journal = opened(directory)
    latencies: list[float] = []
    tasks: set[asyncio.Task[None]] = set()
    each = max(1, rate // 1000)

    async def one() -> None:
        start = time.perf_counter()
        await journal.append([EVENT] * each, ROWS[:each])
        latencies.append(time.perf_counter() - start)

    before, start, cpu, n = written(), time.perf_counter(), time.process_time(), 0
    while (now := time.perf_counter()) < start + seconds:
        while n * each < (now - start) * rate:
            task = asyncio.create_task(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            n += 1
        await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    share = (time.process_time() - cpu) / seconds * 100
    per_event = (written() - before) / (n * each)
    print(f"paced {rate:6,} events/s: {quantiles(latencies)}  {share:.0f} % of a core  {per_event:.0f} octets/event")
    await journal.close()


async def drain(directory: Path) -> None:
    journal = opened(directory)
    start, first = time.perf_counter(), journal.oldest
    while events := await journal.read(first, 500, 56 * 1024):
        first = events[-1].seq + 1
        journal.mark_handed_over(first - 1)
    took = time.perf_counter() - start
    print(f"drain from disk: {(first - journal.oldest) / took:,.0f} events/s")
    await journal.close()


async def filled(directory: Path, count: int, payload: bytes, *, handed_over: bool = False) -> None:
    """A closed journal with events 1 to `count`, written straight into its file."""
    await opened(directory).close()
    (directory / NAME).unlink()
    db = connect(directory / FILE)
    db.execute("PRAGMA synchronous=OFF")
    db.execute(
        "INSERT INTO events WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "SELECT i, ?, ?, 'point', 'FDR12', ?, ? FROM n",
        (count, time.time_ns(), time.time_ns(), payload, checksum(payload)),
    )
    db.execute("UPDATE meta SET value = ? WHERE key = 'handed_over'", (count if handed_over else 0,))
    epoch = db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0]
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()
    HighWater(directory, epoch, count).close()


async def startup(directory: Path, count: int = 10_000_000) -> None:
    await filled(directory, count, b'{"n":12345678}', handed_over=True)
    db = connect(directory / FILE)
    db.executemany("INSERT INTO image VALUES(?,x'01',0,0,0)", ((f"FDR{n}/MMXU/P",) for n in range(10_000)))
    db.close()
    await opened(directory).close()
    start = time.perf_counter()
    journal = opened(directory)
    took = time.perf_counter() - start
    size = (directory / FILE).stat().st_size / 1e6
    print(f"start with {inspect.info(directory).newest:,} events, 10,000 points ({size:.0f} MB): {took * 1e3:.0f} ms")
    await journal.close()


def main() -> None:
    root = Path(tempfile.mkdtemp(prefix="journal-bench-", dir=sys.argv[1] if len(sys.argv) > 1 else None))
    # With CPython's 5 ms a loop that is never idle keeps the writer from the GIL for seconds.
    sys.setswitchinterval(0.0005)
    try:
        for number, (batch, callers, total, busy) in enumerate(
            [(1, 1, 5_000, False), (10, 1, 50_000, False), (10, 20, 300_000, False), (100, 1, 200_000, False),
             (100, 20, 600_000, False), (10, 20, 100_000, True)]
        ):  # fmt: skip
            asyncio.run(flood(root / str(number), batch, callers, total, busy=busy))
        for rate in (1_000, 10_000, 20_000):
            asyncio.run(paced(root / f"paced{rate}", rate))
        asyncio.run(drain(root / "4"))
        asyncio.run(startup(root / "start"))
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
