"""Rounds: one fault each, judged each; and everything together at the end."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.faults import FAULTS, Fault, Records, Skip
from tests.chaos.oracle import Verdict, judge
from tests.chaos.station import Station, running


@dataclass
class Round:
    """How one fault ended. trouble: why it could not be judged, or was not had (skipped)."""

    fault: str
    what: str
    kills: int
    seconds: float
    verdict: Verdict
    expected: Records = field(default_factory=list)
    trouble: str = ""
    skipped: str = ""

    @property
    def green(self) -> bool:
        return self.verdict.green and not self.trouble


async def play(station: Station, fault: Fault, hard: int) -> Round:
    """Load, the fault, everything healed, load off, drained, judged."""
    began, kills = time.monotonic(), station.kills
    trouble, skipped = "", ""
    expected: Records = []
    station.load()
    try:
        await station.flows()
        expected = await fault.strike(station, hard)
    except Skip as why:
        skipped = str(why)
    except (TimeoutError, AssertionError, RuntimeError) as error:
        trouble = f"{type(error).__name__}: {error}"
    station.heal()
    if station.gateway.ended:
        trouble = trouble or "the gateway had ended"
        await station.gateway.kill()
        await station.gateway.start()
    try:
        await station.flows()
    except TimeoutError as error:
        trouble = trouble or str(error)
    station.load(0)
    before = station.rows_judged
    await station.drain(fault.drain_s)
    rows = station.consumer.rows[before:]
    station.rows_judged = len(station.consumer.rows)
    verdict = judge(station.offers(), rows, expected)
    taken = time.monotonic() - began
    return Round(fault.name, fault.what, station.kills - kills, taken, verdict, expected, trouble, skipped)


def table(rounds: list[Round]) -> str:
    """One line a round."""
    head = "| fault | kills | events offered | lost | told lost | repeated | gap records | s | verdict |"
    lines = [head, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for one in rounds:
        v = one.verdict
        said = f"skipped: {one.skipped}" if one.skipped else "green" if one.green else "RED"
        least, most = (sum(record[at] for record in one.expected) for at in (2, 3))
        wanted = f"{least}" if least == most else f"{least} to {most}"
        gaps = f"{len(v.gaps)} of {wanted}" if most or v.gaps else "0"
        lines.append(
            f"| {one.fault} {one.what} | {one.kills} | {v.offered:,} | {v.missing} | {v.excused} | {v.repeated}"
            f" | {gaps} | {one.seconds:.0f} | {said} |"
        )
    return "\n".join(lines)


def tell(one: Round) -> None:
    """One round as it ends, with what is wrong."""
    v = one.verdict
    print(
        f"{one.fault:4} {one.seconds:5.0f} s  {one.kills:3} kills {v.offered:7,} events  lost {v.missing}"
        f"  told lost {v.excused}  repeated {v.repeated}  carried {v.carried}  read {v.found}  gaps {len(v.gaps)}"
        f"  {'skipped: ' + one.skipped if one.skipped else 'green' if one.green else 'RED'}",
        flush=True,
    )
    for trouble in ([one.trouble] if one.trouble else []) + v.troubles():
        print(f"     {trouble}", file=sys.stderr, flush=True)


async def run(
    folder: Path, seed: int, *, faults: tuple[Fault, ...] = FAULTS, events: int = 0, kills: int = 0, hard: int = 1
) -> list[Round]:
    """Every fault once, then more of them by chance until there are so many events and kills. The last round is all."""
    rounds: list[Round] = []
    async with running(folder, seed) as station:
        await station.drain(60)
        station.rows_judged = 0
        waiting = list(faults)
        while waiting or sum(one.verdict.offered for one in rounds) < events or station.kills < kills:
            fault = waiting.pop(0) if waiting else station.chance.choice(faults)
            one = await play(station, fault, hard)
            tell(one)
            rounds.append(one)
        expected = [record for one in rounds for record in one.expected]
        merged: Records = []
        for record in expected:
            same = next((m for m in merged if m[:2] == record[:2]), None)
            if same is None:
                merged.append(record)
            else:
                merged[merged.index(same)] = same._replace(
                    least=same.least + record.least, most=same.most + record.most
                )
        merged.sort(key=lambda record: -len(record.words))
        verdict = judge(station.all_offers(), station.consumer.rows, merged)
        rounds.append(Round("all", "together", station.kills, sum(r.seconds for r in rounds), verdict, merged))
        tell(rounds[-1])
    return rounds
