"""The short form of `make soak`, and its verdict."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.soak.run import soaking
from tests.soak.verdict import COUNTED, Sample, judge

CORE_THREADS = 5 + min(32, (os.cpu_count() or 1) + 4)
"""The core's own, and those that asyncio's executor makes as it needs them and keeps: a pool that fills is no leak."""


def series(*values: float, figure: str = "threads", every_s: float = 60.0) -> list[Sample]:
    return [Sample(at * every_s, "core", {figure: value}) for at, value in enumerate(values)]


@pytest.mark.parametrize(
    ("samples", "grew"),
    [
        (series(*[9] * 40), False),
        (series(*range(40)), True),
        (series(*[1, 5, 9, *[20] * 40]), False),  # the warm-up
        (series(*[9, 11] * 20), False),
        (series(*[60 + at / 10 for at in range(40)], figure="rss_mib"), False),
        (series(*[60 + at / 2 for at in range(40)], figure="rss_mib"), True),
    ],
    ids=["flat", "leak", "warm-up", "to and fro", "a little memory", "memory"],
)
def test_what_is_called_growth(samples: list[Sample], grew: bool) -> None:
    (verdict,) = judge(samples)
    assert verdict.grew is grew, verdict


async def test_no_round_leaves_a_task_a_thread_or_a_descriptor_behind(tmp_path: Path) -> None:
    """One round to warm up; what two more leave behind would be a leak."""
    async with soaking(tmp_path) as soak:
        await soak.fill_caches(2)
        for round_ in range(3):
            for name in soak.disturbances:
                await soak.round(name, quiet_s=0.3)
            if round_ == 0:
                before = await soak.measure()
        after = await soak.measure()
        for old, new in zip(before, after, strict=True):
            assert old.process == new.process
            for figure in COUNTED:
                filled = CORE_THREADS if (figure, old.process) == ("threads", "core") else 0
                assert new.counts[figure] <= max(old.counts[figure] + 1, filled), (old, new)
        assert {sample.process for sample in after} == {"core", "dnp3", "iec61850", "modbus"}
        assert set(soak.done) == {*soak.disturbances, "command ok"}
        assert "Traceback" not in soak.gateway.log
        assert "socket.send() raised" not in soak.gateway.log
