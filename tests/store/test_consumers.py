"""Registered consumers hold back trimming by age, and nonsense has an answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gatewayd.store.consumers import Acknowledged, Consumers
from gatewayd.store.journal import Journal
from tests.store.support import event, opened, until


async def filled(directory: Path, events: int = 20, **more: object) -> Journal:
    journal = opened(directory, **more)
    await journal.append([event(n) for n in range(events)])
    return journal


async def test_an_acknowledgement_is_cumulative_never_taken_back_and_survives(tmp_path: Path) -> None:
    journal = await filled(tmp_path)
    consumers = Consumers(journal, ["historian", "scada"])
    await consumers.start()
    running = asyncio.create_task(consumers.run())
    assert consumers.acknowledge("historian", journal.epoch, 7) is Acknowledged.OK
    assert consumers.acknowledge("historian", journal.epoch, 5) is Acknowledged.BEHIND
    assert consumers.acknowledged("historian") == 7
    assert consumers.counters() == {"behind_historian": 13, "behind_scada": 20, "refused": 0}
    await until(lambda: journal.counters()["jobs"] >= 2, "stored")
    running.cancel()
    await asyncio.wait({running})
    await journal.close()

    journal = opened(tmp_path)
    consumers = Consumers(journal, ["historian", "newcomer"])
    await consumers.start()
    assert (consumers.acknowledged("historian"), consumers.acknowledged("newcomer")) == (7, 0)
    await journal.close()


@pytest.mark.parametrize(
    ("name", "epoch", "seq", "verdict"),
    [
        ("stranger", "", 1, Acknowledged.UNKNOWN_CONSUMER),
        ("historian", "another", 1, Acknowledged.UNKNOWN_EPOCH),
        ("historian", "", 21, Acknowledged.BEYOND_NEWEST),
        ("historian", "", 1 << 62, Acknowledged.BEYOND_NEWEST),
        ("historian", "", 0, Acknowledged.BEHIND),
    ],
)
async def test_nonsense_is_answered_and_changes_nothing(
    tmp_path: Path, name: str, epoch: str, seq: int, verdict: Acknowledged
) -> None:
    journal = await filled(tmp_path)
    consumers = Consumers(journal, ["historian"])
    await consumers.start()
    assert consumers.acknowledge(name, epoch or journal.epoch, seq) is verdict
    assert consumers.acknowledged("historian") == 0
    assert consumers.refused == (verdict is not Acknowledged.BEHIND)
    await journal.close()


async def test_age_trims_only_what_every_consumer_has(tmp_path: Path) -> None:
    now = [1_000_000_000_000]
    journal = await filled(tmp_path, keep_s=60.0, now_ns=lambda: now[0])
    consumers = Consumers(journal, ["historian", "scada"])
    await consumers.start()
    journal.mark_handed_over(20)
    now[0] += 3_600_000_000_000
    consumers.acknowledge("historian", journal.epoch, 15)
    await journal.append([event(99)])
    assert journal.oldest == 1, "scada has acknowledged nothing"
    consumers.acknowledge("scada", journal.epoch, 10)
    await until(lambda: journal.oldest == 11, "trimmed up to what both have")
    consumers.configure(["historian"])
    await until(lambda: journal.oldest == 16, "scada holds nothing back any more")
    consumers.configure([])
    await until(lambda: journal.oldest > 16, "nobody holds anything back")
    await journal.close()


async def test_without_consumers_nothing_is_held_back(tmp_path: Path) -> None:
    now = [1_000_000_000_000]
    journal = await filled(tmp_path, keep_s=60.0, now_ns=lambda: now[0])
    consumers = Consumers(journal, [])
    await consumers.start()
    journal.mark_handed_over(20)
    now[0] += 3_600_000_000_000
    await until(lambda: journal.oldest > 10, "trimmed")
    await journal.close()
