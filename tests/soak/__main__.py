"""`make soak`: prints every sample and, at the end, whether anything grew. Exit status 1 where something did."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.run import Soak, soaking
from tests.soak.verdict import Sample, judge

BURSTS = 120
"""Of 500 events: all caches of the core are full then."""
ALARMING = ("socket.send() raised", "Traceback", "never retrieved", "Task was destroyed")
"""Words of the log that nobody wants to read in it."""


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800.0, help="how long (1800)")
    parser.add_argument("--every", type=float, default=5.0, help="a disturbance every so many seconds at most (5)")
    parser.add_argument("--only", action="append", help="a disturbance, by name; may be repeated (all of them)")
    given = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # py1815 complains of its own when it is stopped
    return asyncio.run(_soak(given.seconds, given.every, given.only))


async def _soak(seconds: float, every_s: float, only: list[str] | None) -> int:
    with tempfile.TemporaryDirectory(prefix="gatewayd-soak-") as folder:
        async with soaking(Path(folder)) as soak:
            await soak.fill_caches(BURSTS)
            await soak.measure()
            _show("full caches", soak.samples)
            soak.samples.clear()
            end = time.monotonic() + seconds
            for name in itertools.cycle(only or soak.disturbances):
                began = time.monotonic()
                await soak.round(name)
                _show(name, soak.samples)
                if time.monotonic() > end:
                    break
                await asyncio.sleep(max(0.0, every_s - (time.monotonic() - began)))
            return _report(soak)


def _show(name: str, samples: list[Sample]) -> None:
    at_s = samples[-1].at_s
    now = [sample for sample in samples if sample.at_s == at_s]
    figures = "  ".join(
        f"{sample.process} {sample.counts['rss_mib']:.1f}M t{sample.counts['threads']:.0f}"
        f" d{sample.counts['descriptors']:.0f} a{sample.counts.get('tasks', 0):.0f}"
        for sample in now
    )
    print(f"{at_s:7.0f} s {name:11} {figures}", flush=True)


def _report(soak: Soak) -> int:
    found = judge(soak.samples)
    print("\nt threads, d descriptors, a asyncio tasks. Done:", dict(soak.done))
    for verdict in found:
        print(verdict, f"({verdict.per_hour:+.2f} MiB/h)" if verdict.figure == "rss_mib" else "")
    words = {word: soak.gateway.log.count(word) for word in ALARMING if word in soak.gateway.log}
    print("alarming words in the log:", words or "none")
    for word in words:
        at = soak.gateway.log.index(word)
        print(soak.gateway.log[max(0, at - 500) : at + 1500])
    return int(bool(words) or any(verdict.grew for verdict in found))


if __name__ == "__main__":
    sys.exit(main())
