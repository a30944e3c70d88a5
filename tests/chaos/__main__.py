"""The command line: `python -m tests.chaos`."""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path

from tests.chaos.faults import BY_NAME, FAULTS
from tests.chaos.rounds import Round, run, table


async def until_ended(work: Coroutine[None, None, list[Round]]) -> list[Round]:
    """The rounds, unless SIGTERM or SIGINT comes: then everything that was started is ended."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Proof that nothing is lost.")
    parser.add_argument("--seed", type=int, default=None, help="of when faults strike; printed, chance when left out")
    parser.add_argument("--events", type=int, default=100_000, help="offered at least")
    parser.add_argument("--kills", type=int, default=50, help="processes killed at least")
    parser.add_argument("--faults", default="", help=f"some of {','.join(BY_NAME)}; all when left out")
    parser.add_argument("--hard", type=int, default=2, help="how often and long each fault strikes")
    parser.add_argument("--folder", type=Path, help="where logs and files stay; a temporary one when left out")
    given = parser.parse_args()
    unknown = [name for name in filter(None, given.faults.split(",")) if name not in BY_NAME]
    if unknown:
        parser.error(f"found fault {unknown[0]!r}; {', '.join(BY_NAME)} are allowed")
    faults = tuple(BY_NAME[name] for name in filter(None, given.faults.split(","))) or FAULTS
    seed = given.seed if given.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="gatewayd-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"logs and files in {folder}", flush=True)
    work = run(folder, seed, faults=faults, events=given.events, kills=given.kills, hard=given.hard)
    try:
        rounds = asyncio.run(until_ended(work))
    except asyncio.CancelledError:
        print("ended before the end: nothing is proved")
        return 1
    print()
    print(table(rounds))
    print(f"\nseed {seed}")
    return 0 if all(one.green for one in rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
