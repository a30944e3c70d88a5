"""Whether something grew. Pure: samples in, words out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

COUNTED = ("threads", "descriptors", "tasks")
MORE = 2
"""So many more are no leak yet: a connection may be on its way in or out. A leak grows with every round."""
RSS_MIB, RSS_PART = 2.0, 0.03
"""Memory that grew by less than both together is flat: the allocator's own ups and downs."""


class Sample(NamedTuple):
    """One process at one quiet moment."""

    at_s: float
    process: str
    counts: Mapping[str, float]


class Verdict(NamedTuple):
    """What became of one figure of one process: its first and last third after the warm-up."""

    process: str
    figure: str
    before: float
    after: float
    per_hour: float
    grew: bool

    def __str__(self) -> str:
        word = "GREW" if self.grew else "flat"
        return f"{self.process:12} {self.figure:12} {self.before:8.1f} -> {self.after:8.1f}  {word}"


def judge(samples: Sequence[Sample], *, memory: bool = True) -> list[Verdict]:
    """Every figure of every process. The first quarter of the time is warm-up; memory is judged in longer runs."""
    found: list[Verdict] = []
    for process in dict.fromkeys(sample.process for sample in samples):
        mine = [sample for sample in samples if sample.process == process]
        begin, end = mine[0].at_s, mine[-1].at_s
        warm = [sample for sample in mine if sample.at_s >= begin + (end - begin) / 4]
        third = max(1, len(warm) // 3)
        for figure in (*COUNTED, *(("rss_mib",) if memory else ())):
            values = [(sample.at_s, sample.counts[figure]) for sample in warm if figure in sample.counts]
            if values:
                found.append(_one(process, figure, values, third))
    return found


def _one(process: str, figure: str, values: Sequence[tuple[float, float]], third: int) -> Verdict:
    first, last = values[:third], values[-third:]
    before, after = (median(value for _, value in part) for part in (first, last))
    hours = (median(at for at, _ in last) - median(at for at, _ in first)) / 3600
    allowed = RSS_MIB + RSS_PART * before if figure == "rss_mib" else MORE
    per_hour = (after - before) / hours if hours else 0.0
    return Verdict(process, figure, before, after, per_hour, after - before > allowed)
