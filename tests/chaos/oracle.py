"""What was offered against what the consumer has: the verdict. Pure.

Every event of a device must be there, with its value and its device's time; a second one only if it is marked
`repeat` or is the same number carried over into a new epoch; in order per device. Excused is only what a device lost
by itself (its ledger says so) and what the journal declared lost.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

TIME_MS = 1.0
"""How far the time of an event may be from the ledger's: a float's worth of rounding."""


class Row(NamedTuple):
    """One stored event. epoch: 0 for the first epoch the consumer saw, 1 for the next."""

    epoch: int
    seq: int
    event: dict[str, Any]


class Seen(NamedTuple):
    """One occurrence of a device's event."""

    epoch: int
    seq: int
    repeat: bool


class Expected(NamedTuple):
    """So many gap records, of a device (or `journal`), whose cause has these words."""

    device: str
    words: str
    least: int = 1
    most: int = 1


@dataclass
class Verdict:
    """lost, unmarked, disordered: what must be empty. found: values read after a loss, with the gateway's time."""

    offered: int = 0
    lost: dict[str, list[int]] = field(default_factory=dict)
    excused: int = 0
    repeated: int = 0
    carried: int = 0
    found: int = 0
    unmarked: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    gap_trouble: list[str] = field(default_factory=list)

    @property
    def missing(self) -> int:
        return sum(map(len, self.lost.values()))

    @property
    def green(self) -> bool:
        return not (self.missing or self.unmarked or self.disordered or self.wrong or self.gap_trouble)

    def troubles(self) -> list[str]:
        said = [f"{device} lost {_some(numbers)}" for device, numbers in self.lost.items() if numbers]
        for words, items in (
            ("unmarked duplicate", self.unmarked),
            ("out of order", self.disordered),
            ("never offered", self.wrong),
            ("", self.gap_trouble),
        ):
            said += [f"{words} {item}".strip() for item in items[:5]]
            if len(items) > 5:
                said.append(f"{words}: {len(items) - 5} more")
        return said


class Offer(NamedTuple):
    """What a device offered in a round: ms by number, and the numbers it may have lost by itself."""

    events: Mapping[int, int]
    excused: frozenset[int] = frozenset()


def judge(offers: Mapping[str, Offer], rows: Iterable[Row], expected: Iterable[Expected] = ()) -> Verdict:
    """The verdict on one round. offers: by device; rows: stored by the consumer, in order of (epoch, seq)."""
    verdict = Verdict(offered=sum(len(offer.events) for offer in offers.values()))
    seen: dict[str, dict[int, list[Seen]]] = {device: {} for device in offers}
    newest = dict.fromkeys(offers, 0)
    same_until: dict[int, int] = {}
    declared = 0
    gaps: list[tuple[str, str]] = []
    for row in sorted(rows, key=lambda row: row[:2]):
        event = row.event
        if event.get("type") == "gap":
            gaps.append((event["device"], event["cause"]))
            if "same_until" in event:
                same_until[row.epoch] = event["same_until"]
                declared += event.get("lost", 0) or 0
            continue
        device = str(event.get("point", "")).partition("/")[0]
        if device not in offers:
            continue
        _take(verdict, device, offers[device], row, seen[device], newest)
    for device, offer in offers.items():
        absent = sorted(offer.events.keys() - seen[device].keys())
        lost = [n for n in absent if n not in offer.excused]
        verdict.excused += len(absent) - len(lost)
        if lost and len(lost) <= declared:  # of a torn journal, which said how many numbers are gone
            declared -= len(lost)
            verdict.excused += len(lost)
            lost = []
        verdict.lost[device] = lost
        for n, times in seen[device].items():
            _extras(verdict, device, n, times, same_until)
    verdict.gaps = [f"{device}: {cause}" for device, cause in gaps]
    verdict.gap_trouble = _gaps(gaps, list(expected))
    return verdict


def _take(
    verdict: Verdict, device: str, offer: Offer, row: Row, seen: dict[int, list[Seen]], newest: dict[str, int]
) -> None:
    event = row.event
    if not event.get("value"):
        return  # the point before its first event
    n = int(event["value"])
    if event.get("t_src") == "gateway":
        verdict.found += 1
        return
    ms = datetime.fromisoformat(event["t"]).timestamp() * 1000
    if n not in offer.events:
        if n > max(offer.events, default=0):
            verdict.wrong.append(f"{device} {n} (seq {row.seq})")
        return  # of an earlier round: judged there
    if abs(ms - offer.events[n]) > TIME_MS:
        verdict.wrong.append(f"{device} {n} with time {event['t']} (seq {row.seq})")
    repeat = bool(event.get("repeat"))
    before = seen.setdefault(n, [])
    if not before and not repeat:
        if n < newest[device]:
            verdict.disordered.append(f"{device} {n} after {newest[device]} (seq {row.seq})")
        newest[device] = max(newest[device], n)
    before.append(Seen(row.epoch, row.seq, repeat))


def _extras(verdict: Verdict, device: str, n: int, times: list[Seen], same_until: Mapping[int, int]) -> None:
    for at, one in enumerate(times):
        if one.repeat:
            verdict.repeated += 1
        elif at == 0:
            continue
        elif any(_carried(other, one, same_until.get(one.epoch, 0)) for other in times[:at]):
            verdict.carried += 1
        else:
            verdict.unmarked.append(f"{device} {n} (seq {', '.join(str(other.seq) for other in times)})")


def _carried(before: Seen, now: Seen, same_until: int) -> bool:
    """The same number in a new epoch; or what the torn journal had lost, from a device that still had it."""
    return before.epoch < now.epoch and (before.seq == now.seq <= same_until or before.seq > same_until)


def _gaps(gaps: list[tuple[str, str]], expected: list[Expected]) -> list[str]:
    """Each record must have been expected, and each expectation be met."""
    troubles = []
    left = Counter(gaps)
    for one in expected:
        fitting = [gap for gap in left if gap[0] == one.device and one.words in gap[1]]
        count = sum(left.pop(gap) for gap in fitting)
        if not one.least <= count <= one.most:
            wanted = str(one.least) if one.least == one.most else f"{one.least} to {one.most}"
            troubles.append(f"{count} gap records of {one.device} with {one.words!r}, {wanted} expected")
    troubles += [f"unexpected gap record ({count}x) of {device}: {cause}" for (device, cause), count in left.items()]
    return troubles


def _some(numbers: list[int]) -> str:
    """Numbers as ranges."""
    ranges: list[list[int]] = []
    for n in numbers:
        if ranges and n == ranges[-1][1] + 1:
            ranges[-1][1] = n
        else:
            ranges.append([n, n])
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges[:6])
    return f"{len(numbers)}: {shown}{', ...' if len(ranges) > 6 else ''}"


def row(epoch: int, seq: int, text: str) -> Row:
    return Row(epoch, seq, json.loads(text))
