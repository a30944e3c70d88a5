"""The short form of `make chaos`: several faults in one station; and that the oracle finds what it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.faults import BY_NAME
from tests.chaos.ledger import Books, Ledger
from tests.chaos.oracle import Expected, Offer, Row, judge
from tests.chaos.rounds import run, table

SHORT = ("E1", "E3", "E6", "E13", "E16")
DAY = "2026-01-01T00:00:0"
OFFERS = {"A": Offer({n: 1_767_225_600_000 + n for n in range(1, 6)})}


def row(n: int, seq: int, *, epoch: int = 0, **more: object) -> Row:
    return Row(epoch, seq, {"point": "A/P", "value": n, "t": f"{DAY}0.{n:03}Z", "t_src": "device", **more})


def gap(seq: int, *, epoch: int = 0, **more: object) -> Row:
    return Row(epoch, seq, {"type": "gap", "device": "A", "cause": "overflow", **more})


ALL = [row(n, n) for n in range(1, 6)]


def test_all_is_there() -> None:
    assert judge(OFFERS, ALL).green


@pytest.mark.parametrize("n", range(5))
def test_the_oracle_finds_a_loss(n: int) -> None:
    verdict = judge(OFFERS, ALL[:n] + ALL[n + 1 :])
    assert verdict.lost == {"A": [n + 1]}
    assert not verdict.green


def test_a_loss_the_device_owns_up_to_needs_its_gap_record() -> None:
    offers = {"A": Offer(OFFERS["A"].events, frozenset({2}))}
    rows = [one for one in ALL if one.seq != 2]
    assert not judge(offers, rows, [Expected("A", "overflow")]).green
    assert not judge(offers, [*rows, gap(6), gap(7)], [Expected("A", "overflow")]).green
    verdict = judge(offers, [*rows, gap(6)], [Expected("A", "overflow")])
    assert verdict.green
    assert verdict.excused == 1


def test_a_gap_record_nobody_provoked_is_a_fault() -> None:
    assert not judge(OFFERS, [*ALL, gap(6)]).green


def test_a_second_time_must_be_marked() -> None:
    assert not judge(OFFERS, [*ALL, row(3, 6)]).green
    verdict = judge(OFFERS, [*ALL, row(3, 6, repeat=True)])
    assert verdict.green
    assert verdict.repeated == 1


def test_a_new_epoch_carries_numbers_over_and_owns_up_to_what_is_gone() -> None:
    torn = {"cause": "journal-torn", "same_until": 2, "lost": 1, "device": "journal"}
    rows = [*ALL[:2], row(1, 1, epoch=1), row(2, 2, epoch=1), gap(3, epoch=1, **torn)]
    rows += [row(4, 4, epoch=1), row(5, 5, epoch=1)]
    verdict = judge(OFFERS, rows, [Expected("journal", "torn")])
    assert verdict.green
    assert (verdict.carried, verdict.excused) == (2, 1)
    assert judge(OFFERS, [*ALL[:3], *rows[2:], row(3, 6, epoch=1)], [Expected("journal", "torn")]).carried == 3
    assert judge(OFFERS, [*rows, row(2, 6, epoch=1)], [Expected("journal", "torn")]).unmarked
    rows[4] = gap(3, epoch=1, **torn | {"lost": 0})
    assert not judge(OFFERS, rows, [Expected("journal", "torn")]).green


def test_order_time_and_what_was_never_offered() -> None:
    assert judge(OFFERS, [row(2, 1), row(1, 2), *ALL[2:]]).disordered
    assert judge(OFFERS, [*ALL[:4], row(5, 5, t=f"{DAY}1.000Z")]).wrong
    assert judge(OFFERS, [*ALL, row(9, 6, t=f"{DAY}0.009Z")]).wrong


def test_a_ledger_is_read_as_it_grows(tmp_path: Path) -> None:
    ledger, books = Ledger(tmp_path / "l"), Books(tmp_path / "l")
    assert books.read().newest == 0
    for n in range(1, 4):
        ledger.offered(n, 1000 + n)
    ledger.confirmed([1])
    assert books.read().newest == 3
    ledger.dropped(2)
    assert books.read().unconfirmed() == [3]


@pytest.mark.timeout(300)
async def test_nothing_is_lost(tmp_path: Path) -> None:
    rounds = await run(tmp_path, 20, faults=tuple(BY_NAME[name] for name in SHORT))
    assert all(one.green for one in rounds), (
        f"{table(rounds)}\n{[one.trouble or one.verdict.troubles() for one in rounds]}"
    )
    assert rounds[-1].verdict.offered > 1000
    assert rounds[-1].kills >= 5
