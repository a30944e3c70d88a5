"""The short form of the siege of a DNP3 worker, and what its corpus is made of."""

from __future__ import annotations

from tests.fuzz.dnp3_master import besiege, corpus


async def test_a_worker_bears_a_hostile_outstation() -> None:
    found = await besiege(seconds=1, seed=1)
    assert found["rounds"] >= 2
    assert found["said"] > len(corpus()), "the whole corpus was said"
    assert found["good_events"] > 20
    assert found["worker_restarts"] == 0


def test_the_corpus_has_every_way_of_saying_something() -> None:
    ways = {how for how, _ in corpus()}
    assert ways == {"raw", "segment", "many", "fragment", "response", "unsolicited", "both"}
