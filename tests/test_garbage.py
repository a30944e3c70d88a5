"""What ended connections leave behind is collected, and what was there at the start is not looked at again."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from gatewayd import garbage
from tests.brokers import until


class Knot:
    """Refers to itself: only the collector frees it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


async def test_cycles_are_collected_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "TIDY_S", 0.05)
    garbage.settle()
    task = asyncio.create_task(garbage.keep_tidy())
    try:
        gone = weakref.ref(Knot())
        await until(lambda: gone() is None, "the cycle was collected")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_what_is_there_at_the_start_is_not_looked_at_again() -> None:
    kept = [Knot() for _ in range(1000)]
    garbage.settle()
    assert gc.get_freeze_count() > len(kept)
    assert len(gc.get_objects()) < 1000
