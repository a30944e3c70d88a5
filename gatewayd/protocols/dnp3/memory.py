"""What a driver knows of its outstation beyond one connection: counters, what was told, what the device cannot do."""

from __future__ import annotations

import math
import time

import structlog

from gatewayd.protocols.dnp3.frames import Function
from gatewayd.protocols.dnp3.repeats import Fact, Mark

log = structlog.get_logger("dnp3")

COUNTERS = (
    "connections", "fragments", "unsolicited", "values", "events", "unknown_indexes", "other_objects",
    "not_understood", "overflows", "restarts", "gaps", "repeats_dropped", "repeats_marked", "repeats_not_kept",
    "requests", "response_timeouts", "failed_requests", "integrity_polls", "event_polls", "time_syncs", "commands",
    "frames_stopped", "garbage_octets", "callback_errors", "waits_for_disk",
)  # fmt: skip


MOST_SAID = 100
"""Different things said of one device at most: what it sends must not fill the log. All of them are counted."""
AGAIN_S = 60.0
"""What comes and goes is said again after this time at the earliest."""


class Memory:
    """Of one outstation.

    contacted:       it has answered before, now or in an earlier run
    last, unsure:    the mark of the events that are on disk; of those that may be there or not
    stored, perhaps: the facts of the last of them that are on disk; that may be there or not
    recalled:        those of `stored` that are of an earlier connection or run and may still come again, each once
    calm_ns:         UTC of its last answer that left nothing waiting in its buffers
    restart_told, overflow_told: the gap record for the indication that still stands has been made
    wanted_times:    event variations to ask for, because it sends those events without time
    times_refused, time_refused: it does not answer such requests; does not take the time
    ignored:         functions it does not answer at all, so they are not asked for again
    asking, hung_up: such a function while its answer is awaited; how often the connection ended instead, in a row
    class_0_refused: its class 0 cannot be read; each type is read by itself
    extra_types:     types that are not in its class 0
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys(COUNTERS, 0)
        self.contacted = False
        self.last: Mark | None = None
        self.unsure: Mark | None = None
        self.stored: list[Fact] = []
        self.perhaps: list[Fact] = []
        self.recalled: list[Fact] = []
        self.calm_ns: int | None = None
        self.restart_told = False
        self.overflow_told = False
        self.wanted_times: set[tuple[int, int]] = set()
        self.times_refused = False
        self.time_refused = False
        self.ignored: set[int] = set()
        self.asking: Function | None = None
        self.hung_up = 0
        self.class_0_refused = False
        self.extra_types: set[str] = set()
        self._said: dict[str, float] = {}

    def say_once(self, key: str, event: str, **what: object) -> None:
        """A warning, the first time only."""
        self._say(key, math.inf, event, **what)

    def say_again(self, key: str, event: str, **what: object) -> None:
        """A warning, not more often than every AGAIN_S."""
        self._say(key, AGAIN_S, event, **what)

    def _say(self, key: str, again_s: float, event: str, **what: object) -> None:
        now = time.monotonic()
        said = self._said.get(key)
        if (said is None and len(self._said) < MOST_SAID) or (said is not None and now - said >= again_s):
            self._said[key] = now
            log.warning(event, **what)
