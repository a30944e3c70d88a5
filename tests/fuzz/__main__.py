"""`make fuzz`: every target for so long; exit status 1 where something was found."""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time

from tests.fuzz import dnp3_master, engine
from tests.fuzz.parsers import TARGETS
from tests.fuzz.stacks import STACKS

DNP3 = "dnp3_stack"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (60)")
    parser.add_argument(
        "--target", action="append", choices=[*TARGETS, *STACKS, DNP3], help="only this one; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=0, help="to have the same again (a random one)")
    given = parser.parse_args()
    seed = given.seed or random.SystemRandom().randrange(1, 1 << 30)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # simulators that are hung up on
    print(f"seed {seed}; parsers under {'atheris' if engine.has_atheris() else 'Hypothesis'}", flush=True)
    found = 0
    for name in given.target or [*TARGETS, *STACKS, DNP3]:
        began = time.monotonic()
        what, finding = _one(name, given.seconds, seed)
        found += bool(finding)
        print(f"{name:16} {what} in {time.monotonic() - began:.0f} s: {finding or 'nothing found'}", flush=True)
    return int(bool(found))


def _one(name: str, seconds: float, seed: int) -> tuple[str, str]:
    if name in STACKS:
        report = asyncio.run(STACKS[name](seconds, seed))
        return str(report), report.finding
    if name == DNP3:
        try:
            said = asyncio.run(dnp3_master.besiege(seconds, seed))
        except AssertionError as error:
            return "not to the end", str(error) or repr(error)
        return ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in said.items()), ""
    replayed = engine.replay(name)
    guided = engine.has_atheris()
    result = engine.run_guided(name, seconds=seconds) if guided else engine.run(name, seconds=seconds, first_seed=seed)
    return f"{replayed} of the corpus, {result.tries} tries", result.finding


if __name__ == "__main__":
    sys.exit(main())
