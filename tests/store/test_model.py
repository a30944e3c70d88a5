"""Random sequences against a plain list: what the list says was acknowledged is in the journal, in its order."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gatewayd.points.types import Cursor
from gatewayd.store.journal import ImageRow
from tests.store.support import event, numbers, opened

SECOND = 10**9


class JournalAgainstList(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp())
        self.generation = 0
        self.now = 1_000 * SECOND
        self.model: list[int] = []  # event numbered i + 1 carries model[i]
        self.image: dict[str, int] = {}
        self.cursor: bytes | None = None
        self.handed = 0

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 20))

    @property
    def directory(self) -> Path:
        return self.root / str(self.generation)

    @initialize()
    def begin(self) -> None:
        self.journal = opened(self.directory, keep_s=50, now_ns=lambda: self.now)
        self.epoch = self.journal.epoch

    @rule(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6))
    def append(self, sizes: list[int]) -> None:
        async def go() -> None:
            calls = []
            for size in sizes:
                values = [len(self.model) + n for n in range(size)]
                self.model += values
                point = f"P{size % 5}"
                self.image[point] = len(self.model)
                self.cursor = b"%d" % len(self.model)
                row = ImageRow(point, len(self.model), 0, 0, 0)
                calls.append(
                    (
                        len(self.model),
                        self.journal.append([event(v) for v in values], [row], ("D", Cursor("s", self.cursor))),
                    )
                )
            for last, future in calls:
                assert await future == last

        self.run(go())

    @rule(share=st.floats(0, 1.2))
    def mark(self, share: float) -> None:
        seq = int(len(self.model) * share)
        self.handed = max(self.handed, min(seq, len(self.model)))

        async def go() -> None:
            self.journal.mark_handed_over(seq)
            await self.journal.submit(lambda _: None)  # a commit carries the mark to disk

        self.run(go())
        assert self.journal.handed_over == self.handed

    @rule(seconds=st.integers(1, 100))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND
        self.run(self._nothing())

    async def _nothing(self) -> None:
        await self.journal.submit(lambda _: None)

    @rule(first=st.integers(-5, 400), limit=st.integers(1, 100))
    def read(self, first: int, limit: int) -> None:
        events = self.run(self.journal.read(first, limit, 1 << 20))
        start = max(first, self.journal.oldest)
        assert [e.seq for e in events] == list(range(start, min(start + limit, len(self.model) + 1)))
        assert numbers(events) == [self.model[e.seq - 1] for e in events]

    @rule()
    def crash(self) -> None:
        self.generation += 1
        shutil.copytree(self.root / str(self.generation - 1), self.directory)
        self.run(self.journal.close())
        shutil.rmtree(self.root / str(self.generation - 1))
        self.reopen()

    @rule()
    def restart(self) -> None:
        self.run(self.journal.close())
        self.reopen()

    def reopen(self) -> None:
        self.journal = opened(self.directory, keep_s=50, now_ns=lambda: self.now)
        assert self.journal.handed_over == self.handed
        assert {point: row.value for point, row in self.journal.image().items()} == self.image
        if self.cursor is not None:
            assert self.journal.cursors("D") == {"s": Cursor("s", self.cursor)}

    @precondition(lambda self: hasattr(self, "journal"))
    @invariant()
    def numbers_and_epoch_hold(self) -> None:
        assert self.journal.epoch == self.epoch
        assert self.journal.newest == len(self.model)
        assert self.journal.oldest <= max(self.handed, 0) + 1

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.run(self.journal.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.root)


TestJournalAgainstList = JournalAgainstList.TestCase
TestJournalAgainstList.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
