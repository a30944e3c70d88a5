"""Which device brings its worker down: decided by dividing, since a native crash does not say whose bytes it was. Pure.

Two crashes within a window and the devices of that worker are divided over up to eight workers of their own; whoever
crashes again is divided further, until one device crashes alone. That one is the culprit: it is started again after
growing pauses, and the others are left in peace. After a calm hour all are put together again.

"Device" here means all devices of one line (`fleet.line_of`): only one process can open a serial port.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

WINDOW_S = 600.0
CRASHES = 2
"""So many within the window, and the devices are divided."""
PARTS = 8
CALM_S = 3600.0
FIRST_PAUSE_S = 0.2
QUARANTINE_S = (60.0, 3600.0)
"""The first and the longest pause of a device that crashes its worker alone."""


class Verdict(NamedTuple):
    """What to do after a crash.

    groups:  the devices that go on together, each group in a worker of its own
    pause_s: before they are started again
    culprit: the device that crashed alone, "" while it is not known
    """

    groups: list[list[str]]
    pause_s: float
    culprit: str


class History:
    """The crashes of one worker's devices. `divided` is whether it serves only a part of its shard."""

    def __init__(self, *, divided: bool = False) -> None:
        self.divided = divided
        self._crashes: list[float] = []
        self._alone = 0

    def crashed(self, devices: Sequence[str], now_s: float, room: int = PARTS) -> Verdict:
        """Judge a crash of the worker that had these devices.

        now_s: monotonic
        room:  workers that may take its place
        """
        if self._crashes and now_s - self._crashes[-1] > CALM_S:
            self._alone = 0
        self._crashes = [at for at in self._crashes if now_s - at <= WINDOW_S] + [now_s]
        together = [list(devices)]
        if len(self._crashes) < CRASHES:
            return Verdict(together, FIRST_PAUSE_S, "")
        parts = min(PARTS, len(devices), room)
        if parts > 1:
            return Verdict([list(devices[at::parts]) for at in range(parts)], FIRST_PAUSE_S, "")
        first, longest = QUARANTINE_S
        pause = min(first * 2**self._alone, longest)
        self._alone += 1
        return Verdict(together, pause, devices[0] if len(devices) == 1 else "")

    def calm(self, started_s: float, now_s: float) -> bool:
        """Whether a worker that has run since then may be put together with others again."""
        return self.divided and now_s - started_s > CALM_S
